"""Word n-grams from texts: what ``asr train-ngram`` does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from asr.config.sections import TextConfig
from asr.data import manifest
from asr.decode.ngram import UNKNOWN_NAMES, Ngram
from asr.errors import TrainingError
from asr.files import file_lines, split_fields
from asr.lm import kneser_ney, pruning
from asr.lm.kneser_ney import Estimate
from asr.text.normalisation import normalise

ORDERS = range(1, 6)
ENDS = ("<s>", "</s>")


def train_ngram(
    text: str | Path, output: str | Path, *, order: int = 3, prune: float = 0.0, more: Sequence[str | Path] = ()
) -> Ngram:
    """Estimate a modified Kneser-Ney n-gram (``estimate_ngram``) and write it as ARPA, compressed for ``.gz``.

    Returns:
        The n-gram as written.

    Raises:
        TrainingError: as ``estimate_ngram``.
        DecodeError: ``output`` cannot be written.
    """
    estimate = estimate_ngram(text, order=order, prune=prune, more=more)
    if estimate.remark:
        warnings.warn(estimate.remark, stacklevel=2)
    estimate.write(output)
    return estimate.ngram()


def estimate_ngram(
    text: str | Path, *, order: int = 3, prune: float = 0.0, more: Sequence[str | Path] = ()
) -> Estimate:
    """Estimate a modified Kneser-Ney n-gram, interpolated, with ``<unk>``: the values of ``lmplz --discount_fallback``.

    Args:
        text: UTF-8, one sentence a line; words as the model writes them (case included). Empty lines are skipped. Or a
            manifest (``.jsonl``), whose texts are the sentences.
        order: 1 to 5.
        prune: n-grams that change the perplexity by less than this share are dropped (Stolcke 1998); 0 drops none.
        more: further texts, whose sentences count as well.

    Raises:
        TrainingError: no text, reserved words in it (file and line named), an order or threshold out of range.
    """
    if order not in ORDERS:
        raise TrainingError(f"order: expected {ORDERS[0]} to {ORDERS[-1]}, got {order}")
    if not 0 <= prune < 1:
        raise TrainingError(f"prune: expected 0 to 1, got {prune}")
    sentences = [line for path in (text, *more) for line in read_sentences(path, reserved=(*ENDS, *UNKNOWN_NAMES))]
    estimate = kneser_ney.estimate(sentences, order)
    return pruning.prune(estimate, prune) if prune else estimate


def read_sentences(path: str | Path, reserved: Sequence[str] = ENDS) -> list[str]:
    """The sentences of a text file, one a line, single spaces between words, or the texts of a manifest (``.jsonl``).

    Raises ``TrainingError`` naming file and line, or utterance, for ``reserved`` words, and for a file without any
    sentence.
    """
    if str(path).endswith(".jsonl"):
        texts = {f"{path}: {u.id}": normalise(u.text, TextConfig()) for u in manifest.read_manifest(path)}
    else:
        try:
            texts = {f"{path}:{number}": line for number, line in enumerate(file_lines(path), start=1)}
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"{path}: cannot read the text: {error}") from error
    sentences = []
    for where, line in texts.items():
        words = split_fields(line)
        found = sorted({*reserved} & {*words})
        if found:
            place = "ends of sentences" if found[0] in ENDS else "unknown words"
            raise TrainingError(f"{where}: {found[0]} is reserved for {place}; leave it out")
        if words:
            sentences.append(" ".join(words))
    if not sentences:
        raise TrainingError(f"{path}: expected a sentence on each line, got none")
    return sentences
