"""Writes the model directory that ``asr learn`` makes: other weights, more words, the rest of the start."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.decode.confidence import CONFIDENCE_FILE, load_judge, save_calibration
from asr.decode.lexicon import read_word_list
from asr.errors import AsrError, ModelError
from asr.files import write_text
from asr.lm.added_words import add_words_to_file
from asr.models import model_directory
from asr.models.acoustic import AcousticModel
from asr.models.bundled import model_file, model_files
from asr.models.description import read_description
from asr.models.model_directory import Model, Storage
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding, load_options, save_options
from asr.train.model_card import card_head
from asr.train.rehearsal import REHEARSAL_FILE, StoredSentence, save_rehearsal

LEFT_BEHIND = (
    "model.safetensors", "card.json", CONFIDENCE_FILE, REHEARSAL_FILE, "log.jsonl", "tensorboard",
    "checkpoint.safetensors", "checkpoint.previous.safetensors",
)  # fmt: skip


def write_model(
    source: Model,
    network: AcousticModel,
    options: Decoding,
    folder: Path,
    texts: Sequence[str],
    learning: Mapping[str, Any],
    rehearsal: Sequence[StoredSentence],
) -> list[str]:
    """Write ``folder``, which is not there, and return the words that its vocabulary got.

    Args:
        source: the start. Its language models, lexicon, tagger and options are copied, and its judge of reliability;
            fitted confidences of words are those of other weights.
        network: the new weights, stored as float16, or as float32 where the start's are.
        options: of decoding, whose weights of language models replace the start's.
        folder: the new model directory.
        texts: of the corrections; their words are added where the start has a closed vocabulary.
        learning: what goes into the card.
        rehearsal: sentences that travel with it.

    Raises ``ModelError`` for what cannot be written.
    """
    try:
        folder.mkdir(parents=True)
        for name, path in model_files(source.path).items():
            if name in LEFT_BEHIND or name.startswith("."):
                continue
            (shutil.copytree if os.path.isdir(path) else shutil.copyfile)(path, folder / name)
    except OSError as error:
        raise ModelError(f"{folder}: cannot write the model directory: {error}") from error
    model_directory.copy_tagger(source.path, folder)
    judge = load_judge(model_file(source.path, CONFIDENCE_FILE).parent)
    if judge is not None:
        save_calibration(folder, {}, judge=judge)
    storage: Storage = "float32" if read_description(source.path).storage == "float32" else "float16"
    kept = {
        key: value
        for key, value in source.card.items()
        if key in ("licence", "not_for", "contaminated", "purpose", "languages")
    }
    card = {**card_head(str(source.card.get("origin", "")), network), **kept, "learnt_from": dict(learning)}
    model_directory.save_weights(folder, network, card, storage=storage)
    if rehearsal:
        save_rehearsal(folder, rehearsal)
    copied = load_options(folder)
    if copied.lm_weight != options.lm_weight:
        save_options(folder, dataclasses.replace(copied, lm_weight=options.lm_weight))
    return _add_words(folder, source, texts)


def _add_words(folder: Path, source: Model, texts: Sequence[str]) -> list[str]:
    """Add the words of the texts to the lexicon and the n-grams of a model directory that knows its words."""
    options = load_options(folder)
    words = list(dict.fromkeys(word for text in texts for word in text.split()))
    known = Decoder(options, source.tokenizer).listed_words() if options.beam > 1 else None
    new = [] if known is None else [word for word in words if word not in known]
    if not new or options.phrases:
        return []
    if options.lexicon:
        path = Path(options.lexicon)
        write_text(path, "\n".join([*read_word_list(path), *new]) + "\n")
    for place in options.lm if isinstance(options.lm, tuple) else (options.lm,):
        if isinstance(place, str) and place and os.path.isfile(place):
            try:
                add_words_to_file(Path(place), new, source.tokenizer)
            except AsrError as error:
                raise ModelError(f"{folder}: cannot add the words {', '.join(new[:5])}: {error}") from error
    return new


def without_names(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report for a card: without paths and texts of the user's."""
    return {key: value for key, value in report.items() if key not in ("model", "output", "left_out", "misfits")}
