"""Adds words to a word n-gram, so that a search may recognise them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asr.decode.arpa import read_arpa, write_arpa
from asr.decode.kenlm_binary import is_kenlm
from asr.decode.ngram import Ngram
from asr.decode.ngram_arrays import NgramArrays, SortedLevel, build_arrays, coded_arrays
from asr.decode.ngram_file import is_ngram_file, load_origin, open_ngram, write_ngram
from asr.errors import DecodeError
from asr.lm.ngram_training import packed_words
from asr.text.tokenizer import Tokenizer

LIKELY = 0.9
"""Share of the vocabulary that is less likely than an added word: somebody corrected it, so it is not rare."""


def with_words(ngram: Ngram, words: Sequence[str]) -> Ngram:
    """The n-gram with more unigrams; those that it has already are passed over.

    Each gets the probability of the word at ``LIKELY`` of the vocabulary, and no back-off weight. The sum of all
    probabilities then lies above 1 by less than a thousandth for ten words; a search compares, and needs no sum.
    The lexicon trees, which are those of the old words, are left behind.
    """
    new = [word for word in dict.fromkeys(words) if not ngram.knows(word)]
    if not new:
        return ngram
    arrays = ngram.arrays
    added = np.full(len(new), np.quantile(ngram.unigrams[np.isfinite(ngram.unigrams)], LIKELY))
    first, *rest = _levels(arrays)
    unigrams = SortedLevel(
        np.zeros(len(first.word) + len(new), np.int64),
        np.arange(len(first.word) + len(new)),
        np.concatenate([first.log_prob, added]),
        np.concatenate([first.backoff, np.zeros(len(new))]),
    )
    built = build_arrays([unigrams, *rest])
    return Ngram.of(coded_arrays(built) if arrays.quantized else built, [*ngram.words, *new])


def _levels(arrays: NgramArrays) -> list[SortedLevel]:
    found: list[SortedLevel] = []
    below = 0
    for first, stop in itertools.pairwise(arrays.starts):
        context = arrays.parents_of(first, stop) - below
        values = arrays.log_probs_of(first, stop), arrays.backoffs_of(first, stop)
        found.append(SortedLevel(context, arrays.words_of(first, stop), *values))
        below = first
    return found


def add_words_to_file(path: Path, words: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Add words to the n-gram at ``path``, in the file's own format; return those that it did not have.

    A file of ours gets the lexicon tree for ``tokenizer`` again. Raises ``DecodeError`` for a KenLM binary, which
    cannot be changed, and for a file that cannot be read or written.
    """
    if is_kenlm(path):
        raise DecodeError(f"{path}: words cannot be added to a KenLM binary; convert the ARPA file that it was made of")
    ours = is_ngram_file(path)
    ngram = open_ngram(path) if ours else read_arpa(path)
    new = [word for word in dict.fromkeys(words) if not ngram.knows(word)]
    if not new:
        return []
    grown = with_words(ngram, new)
    if not ours:
        write_arpa(grown, path)
        return new
    trees = packed_words(grown, tokenizer) if ngram.trees and tokenizer.space_id is not None else {}
    write_ngram(path, Ngram.of(grown.arrays, grown.words, trees), made_of={**load_origin(path), "added": len(new)})
    return new
