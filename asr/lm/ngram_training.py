"""Word n-grams from texts: what ``asr train-ngram`` does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from asr.config.sections import TextConfig
from asr.data import manifest
from asr.decode.ngram import Ngram
from asr.decode.ngram_file import SUFFIX, write_ngram_arrays
from asr.errors import DecodeError, TrainingError
from asr.files import file_lines, split_fields
from asr.lm import pruning
from asr.lm.kneser_ney import Estimate, estimate_text
from asr.lm.lm_texts import ENDS, TextReading, read_word_file, stream_sentences
from asr.lm.lmplz import LEAST_WORDS, estimate_by_lmplz, find_lmplz
from asr.lm.ngram_counts import SPECIAL, DiskArrays, Text, number_words
from asr.models.description import read_description
from asr.text.normalisation import normalise
from asr.text.prose import FOREIGN
from asr.text.tokenizer import Tokenizer
from asr.text.tokenizer_files import spelling_fingerprint

if TYPE_CHECKING:
    from asr.decode.lexicon_tree import Packed

ORDERS = range(1, 6)


@dataclass(frozen=True)
class Limits:
    """What an n-gram may hold.

    Attributes:
        words: at most so many words, the most frequent ones; 0: all.
        vocabulary: a file with a word on each line; only these words; None: all.
        ngrams: at most so many n-grams of order 2 and above, those that the perplexity needs most; 0: all.
        megabytes: size of the arrays in units of 10^6 bytes, quantized, without a lexicon's tree; 0: any.
    """

    words: int = 0
    vocabulary: str | Path | None = None
    ngrams: int = 0
    megabytes: float = 0.0


ALL_WORDS, AS_WRITTEN = Limits(), TextReading()


def train_ngram(
    text: str | Path, output: str | Path, *, order: int = 3, prune: float = 0.0, more: Sequence[str | Path] = ()
) -> Ngram:
    """Estimate a modified Kneser-Ney n-gram (``estimate_ngram``) and write it (``write_estimate``).

    Returns:
        The n-gram as written.

    Raises:
        TrainingError: as ``estimate_ngram``.
        DecodeError: ``output`` cannot be written.
    """
    estimate = estimate_ngram(text, order=order, prune=prune, more=more)
    if estimate.remark:
        warnings.warn(estimate.remark, stacklevel=2)
    write_estimate(estimate, output)
    return estimate.ngram()


def write_estimate(
    estimate: Estimate, output: str | Path, *, quantized: bool = False, model: str | Path | None = None
) -> None:
    """Write arrays for ``.safetensors`` (``quantized``: with codes of 8 bits), else ARPA, compressed for ``.gz``.

    ``model``: arrays get the tree of the words for the tokens of this model directory, which then need not be arranged
    at each start. Raises ``DecodeError``, ``ModelError``.
    """
    check_name(output, quantized=quantized)
    if not str(output).endswith(SUFFIX):
        estimate.write(output)
        return
    tokenizer = None if model is None else read_description(model).tokenizer
    made_of = {"command": "asr train-ngram", "bits": 8 if quantized else 64}

    def trees(ngram: Ngram) -> dict[str, Packed]:
        return {} if tokenizer is None or tokenizer.space_id is None else packed_words(ngram, tokenizer)

    write_ngram_arrays(output, estimate.words, estimate.tables, quantized=quantized, made_of=made_of, trees=trees)


def packed_words(ngram: Ngram, tokenizer: Tokenizer) -> dict[str, Packed]:
    """The lexicon tree of an n-gram's words for a tokenizer, by the tokenizer's fingerprint.

    Raises ``DecodeError`` where the tokenizer can spell none of the words or has no token between words.
    """
    from asr.decode.lexicon import pack_lexicon  # here: it costs what numba costs

    if tokenizer.space_id is None:
        raise DecodeError("expected a model with a token between words, got one without")
    tree = pack_lexicon(tokenizer.spellings, tokenizer.vocab_size, tokenizer.space_id, ngram=ngram)
    return {spelling_fingerprint(tokenizer): tree or {}}


def check_name(output: str | Path, *, quantized: bool) -> None:
    """Refuse the name of an ARPA file for 8-bit codes, before any work. Raises ``DecodeError``."""
    if quantized and not str(output).endswith(SUFFIX):
        raise DecodeError(f"{output}: expected a name that ends in {SUFFIX} for 8-bit codes; an ARPA file has none")


def estimate_ngram(
    text: str | Path,
    *,
    order: int = 3,
    prune: float = 0.0,
    more: Sequence[str | Path] = (),
    reading: TextReading = AS_WRITTEN,
    limits: Limits = ALL_WORDS,
    lmplz: str = "none",
    folder: Path | None = None,
) -> Estimate:
    """Estimate a modified Kneser-Ney n-gram, interpolated, with ``<unk>``: the values of ``lmplz --discount_fallback``.

    The text is read once, and counts lie on disk, so that memory does not grow with the text.

    Args:
        text: UTF-8, one sentence a line, also compressed (``.gz``); a manifest (``.jsonl``), whose texts are the
            sentences; or a folder of such files. Empty lines are skipped.
        order: 1 to 5.
        prune: n-grams that change the perplexity by less than this share are dropped (Stolcke 1998); 0 drops none.
        more: further texts, whose sentences count as well.
        reading: how texts become sentences.
        limits: how large the n-gram may be. Words that a vocabulary lacks count as ``<unk>``.
        lmplz: KenLM's program, ``auto`` for the one on PATH where the text has ``LEAST_WORDS`` or more, or ``none``.
        folder: for temporary files; None: the system's.

    Raises:
        TrainingError: no text, reserved words in it (file and line named), an order or threshold out of range, a
            vocabulary without words of the text, no space for the counts, a fault of lmplz.
    """
    if order not in ORDERS:
        raise TrainingError(f"order: expected {ORDERS[0]} to {ORDERS[-1]}, got {order}")
    if not 0 <= prune < 1:
        raise TrainingError(f"prune: expected 0 to 1, got {prune}")
    program, disk, speller = find_lmplz(lmplz), DiskArrays(folder), reading.speller()
    sentences = stream_sentences([text, *more], reading, speller)
    bar = tqdm(sentences, desc="text", unit=" sentences", disable=None, leave=False, unit_scale=True)
    try:
        numbered = limit_words(number_words(bar, disk), limits)
        if program and (lmplz != "auto" or len(numbered.tokens) >= LEAST_WORDS):
            made = estimate_by_lmplz(program, numbered, order, folder)
        else:
            made = estimate_text(numbered, order, disk)
        if prune:
            made = pruning.prune(made, prune, disk)
        if limits.ngrams or limits.megabytes:
            _check_room(made, limits)
            made, _ = pruning.prune_to(made, lambda counts: _fits(counts, limits, made.words), disk)
    except OSError as error:
        raise TrainingError(
            f"{folder or 'temporary files'}: cannot keep counts on disk: {error.strerror or error}; choose another "
            "folder for them (--temporary)"
        ) from error
    if speller is not None and speller.remark():
        warnings.warn(speller.remark(), stacklevel=2)
    return made


def _fits(counts: Sequence[int], limits: Limits, words: Sequence[str]) -> bool:
    """Whether an n-gram with these counts keeps the limits."""
    if limits.ngrams and sum(counts[1:]) > limits.ngrams:
        return False
    return not limits.megabytes or _megabytes(counts, words) <= limits.megabytes


def _megabytes(counts: Sequence[int], words: Sequence[str]) -> float:
    """At most so large is an n-gram with these counts and 8-bit codes; bytes as in ``asr.decode.ngram_arrays``."""
    nodes, contexts, long = sum(counts) + 1, sum(counts[:-1]) + 1, sum(counts[2:-1])
    text = sum(len(word.encode()) + 1 for word in words)
    node = 3 if len(words) <= 1 << 16 else 4
    return (node * nodes + 5 * contexts + 4 * long + 8192 + text) / 1e6


def _check_room(made: Estimate, limits: Limits) -> None:
    """Refuse a size that the words alone exceed. Raises ``TrainingError``."""
    least = _megabytes([made.counts[0], *[0] * (len(made.counts) - 1)], made.words)
    if 0 < limits.megabytes < least:
        raise TrainingError(
            f"size: expected at least {least:.2f} MB for the {made.counts[0]:,} words alone, got "
            f"{limits.megabytes:g} MB; keep fewer words (--words), or allow more (--size)"
        )


def limit_words(text: Text, limits: Limits) -> Text:
    """The text with a limited vocabulary: all other words, and ``FOREIGN`` ones, are one unknown word.

    Raises ``TrainingError`` for a vocabulary without words of the text, and for a text without words of the alphabet.
    """
    if not limits.words and limits.vocabulary is None and FOREIGN not in text.words:
        return text
    keep = np.array([n for n in range(len(SPECIAL), len(text.words)) if text.words[n] != FOREIGN], np.int64)
    if not len(keep):
        raise TrainingError(
            "expected texts with words in the model's alphabet, got none; choose a model of their language"
        )
    if limits.vocabulary is not None:
        allowed = read_word_file(limits.vocabulary)
        keep = keep[[text.words[number] in allowed for number in keep.tolist()]]
        if not len(keep):
            raise TrainingError(f"{limits.vocabulary}: expected words of the text, got none of them; check their case")
    if limits.words and limits.words < len(keep):
        keep = keep[np.argsort(-text.frequencies()[keep], kind="stable")][: limits.words]
    return text if len(keep) == len(text.words) - len(SPECIAL) else text.limited(keep.tolist())


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
