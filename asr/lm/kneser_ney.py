"""Modified Kneser-Ney n-grams, interpolated, as KenLM's ``lmplz`` estimates them.

Chen & Goodman (1998) with three discounts an order; adjusted counts, the uniform distribution below the unigrams and
``<unk>`` as in Heafield et al. (2013). Everything is arrays over the distinct n-grams of an order: an n-gram is the
index of its context (all words but the last, among the n-grams one order below) and its last word.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.arpa import first_line, write_sections
from asr.decode.ngram import Ngram
from asr.decode.ngram_file import is_ngram_file, is_own_ngram
from asr.lm.ngram_counts import (
    SPECIAL,
    START,
    UNKNOWN,
    Counted,
    DiskArrays,
    Text,
    blocks,
    count_ngrams,
    number_words,
    release,
    sums,
)

FALLBACK = (0.0, 0.5, 1.0, 1.5)
"""Discounts by count, the last for 3 and more, where the counts of counts do not allow an estimate."""
ARPA_MARK = "# asr train-ngram"
"""First line of the ARPA files that are written here, by which they are known as our own."""
_SMALLEST = 1e-99
"""ARPA files write -99 for what is never predicted."""

_Ints = npt.NDArray[np.integer[Any]]
_Floats = npt.NDArray[np.float64]
_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Table:
    """The ``N`` n-grams of one order, sorted by context and word; all arrays are ``(N,)``.

    ``context`` and ``suffix`` (all words but the first) are indices into the table one order below; zeros for
    unigrams. ``log_prob`` and ``backoff`` are natural logarithms, ``backoff`` 0 where nothing follows.
    """

    context: _Ints
    word: _Ints
    suffix: _Ints
    log_prob: _Floats
    backoff: _Floats


@dataclass(frozen=True)
class Estimate:
    """An estimated n-gram: ``words`` by id, a table for each order, and the orders with fallback discounts."""

    words: tuple[str, ...]
    tables: tuple[Table, ...]
    fallbacks: tuple[int, ...] = ()

    @property
    def counts(self) -> list[int]:
        """How many n-grams each order has."""
        return [len(table.word) for table in self.tables]

    @property
    def remark(self) -> str:
        """What is to be said about the estimate; empty where there is nothing."""
        if not self.fallbacks:
            return ""
        *first, last = (f"{order}" for order in self.fallbacks)
        orders = f"orders {', '.join(first)} and {last}" if first else f"order {last}"
        low, middle, high = FALLBACK[1:]
        return (
            f"{orders}: discounts cannot be estimated, since too few n-grams occur once, twice and three times (few "
            f"words, or lines that are copies of others); discounts {low:g}, {middle:g} and {high:g} are used"
        )

    def ngram(self) -> Ngram:
        """As the search takes it."""
        entries: dict[tuple[str, ...], tuple[float, float]] = {}
        keys: list[tuple[str, ...]] = [()]
        for table in self.tables:
            pairs = zip(table.context.tolist(), table.word.tolist(), strict=True)
            keys = [(*keys[context], self.words[word]) for context, word in pairs]
            entries.update(zip(keys, zip(table.log_prob.tolist(), table.backoff.tolist(), strict=True), strict=True))
        return Ngram(len(self.tables), entries)

    def write(self, path: str | Path) -> None:
        """Write an ARPA file, compressed for ``.gz``. Raises ``DecodeError``."""
        write_sections(path, self.counts, self._sections(), ARPA_MARK)

    def _sections(self) -> Iterator[Iterator[tuple[str, float, float]]]:
        words = np.array(self.words, object)
        for n in range(len(self.tables)):
            yield self._lines(words, n)

    def _lines(self, words: _Array, n: int) -> Iterator[tuple[str, float, float]]:
        table = self.tables[n]
        for part in blocks(len(table.word), 1 << 16):
            columns, context = [words[table.word[part]]], table.context[part]
            for lower in reversed(self.tables[:n]):
                columns.insert(0, words[lower.word[context]])
                context = lower.context[context]
            texts = map(" ".join, zip(*columns, strict=True))
            yield from zip(texts, table.log_prob[part].tolist(), table.backoff[part].tolist(), strict=True)


def is_ours(path: Path) -> bool:
    """Whether an ``Estimate`` wrote the file ``path``, or it is an n-gram of arrays; no weights of a network."""
    if is_ngram_file(path):
        return is_own_ngram(path)
    try:
        return first_line(path) == ARPA_MARK
    except (OSError, EOFError, ValueError, zlib.error):
        return False


def estimate(sentences: Iterable[str], order: int, disk: DiskArrays | None = None) -> Estimate:
    """Estimate an n-gram of ``order`` from sentences, words between spaces, none of them ``<unk>``, ``<s>``, ``</s>``.

    The large arrays lie in files of ``disk``.
    """
    disk = disk or DiskArrays()
    return estimate_text(number_words(sentences, disk), order, disk)


def estimate_text(text: Text, order: int, disk: DiskArrays) -> Estimate:
    """Estimate an n-gram from a text whose words have ids. A second ``<unk>`` (``Text.limited``) becomes the first."""
    tables = count_ngrams(text, order, disk)
    amounts, fallbacks = [], []
    for n, table in enumerate(tables, start=1):
        occurring = table.counts
        if n < order:
            table.counts = _continuations(tables[n].suffix, len(table.word))
            table.counts[table.begins] = occurring[table.begins]
        seen = np.zeros(6, np.int64)
        for part in blocks(len(table.counts)):
            seen += np.bincount(np.minimum(table.counts[part], 5), minlength=6)
        if n < order and table.last >= 0:
            # lmplz enters the last n-gram of each lower order by its count in the text: texts of a few words show it.
            seen[min(table.counts[table.last], 5)] -= 1
            seen[min(occurring[table.last], 5)] += 1
        found = discounts(seen)
        fallbacks += [] if found else [n]
        amounts.append(np.array(found or FALLBACK))
    finished = _interpolate(tables, amounts, disk)
    return with_one_unknown(Estimate(tuple(text.words), finished, tuple(fallbacks)))


def _continuations(suffix: _Array, size: int) -> _Array:
    counts = np.zeros(size, np.int64)
    for part in blocks(len(suffix)):
        counts += np.bincount(suffix[part], minlength=size)
    return counts


def with_one_unknown(made: Estimate) -> Estimate:
    """An estimate whose last word is a second ``<unk>``, of the words that a vocabulary lacks, as one with one.

    Both are unknown words, so that their probabilities are added; the n-grams are those of the second.
    """
    second = len(made.words) - 1
    if second < len(SPECIAL) or made.words[second] != SPECIAL[UNKNOWN]:
        return made
    first, *rest = made.tables
    log_prob, backoff = first.log_prob.copy(), first.backoff.copy()
    never = float(log_prob[UNKNOWN])  # of the word that the text has not: backed off to in every context
    log_prob[UNKNOWN] = np.logaddexp(never, log_prob[second])
    backoff[UNKNOWN] = backoff[second]
    tables = [Table(first.context[:-1], first.word[:-1], first.suffix[:-1], log_prob[:-1], backoff[:-1])]
    places = np.arange(second + 1)
    places[second] = UNKNOWN
    backed_off = first.backoff + never
    for table in rest:
        unknown = table.word == second
        log_prob = table.log_prob.copy()
        log_prob[unknown] = np.logaddexp(log_prob[unknown], backed_off[table.context[unknown]])
        context, word, suffix = places[table.context], np.where(unknown, UNKNOWN, table.word), places[table.suffix]
        sort = np.lexsort((word, context))
        backed_off = table.backoff + backed_off[table.suffix]
        places = np.empty(len(sort), np.int64)
        places[sort] = np.arange(len(sort))
        tables.append(Table(context[sort], word[sort], suffix[sort], log_prob[sort], table.backoff[sort]))
    return replace(made, words=made.words[:-1], tables=tuple(tables))


def discounts(seen: Sequence[int] | _Ints) -> tuple[float, ...] | None:
    """Discounts of counts 0, 1, 2 and 3 or more (Chen & Goodman 1998, equation 26), from how many n-grams have the
    counts 0 to 4; None where that allows no estimate: none with count 1, 2 or 3, or a discount below 0.

    In single precision, as lmplz, so that it falls back for the same texts.
    """
    n = [np.float32(number) for number in seen[:5]]
    if not all(n[1:4]):
        return None
    y = n[1] / np.float32(n[1] + 2.0 * n[2])
    found = [np.float32(j) - np.float32(j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)]
    return (0.0, *map(float, found)) if min(found) >= 0 else None


def _interpolate(tables: Sequence[Counted], amounts: Sequence[_Floats], disk: DiskArrays) -> tuple[Table, ...]:
    """Probabilities of the discounted counts, what was taken off going to the order below."""
    finished: list[Table] = []
    below: _Array = np.full(1, 1 / (len(tables[0].word) - 1))  # one for each word but <s>
    for table, amount in zip(tables, amounts, strict=True):
        size, length = len(below), len(table.word)
        prob, log_prob = disk.make(length, np.float64), disk.make(length, np.float64)
        for part in blocks(length):
            prob[part] = amount[np.minimum(table.counts[part], 3)]  # what is taken off
        total = sums(table.context, table.counts, size)
        share = sums(table.context, prob, size) / np.maximum(total, 1)
        for part in blocks(length):
            context = table.context[part]
            prob[part] = (table.counts[part] - prob[part]) / total[context] + share[context] * below[table.suffix[part]]
        if finished:
            finished[-1].backoff[:] = np.where(total > 0, np.log(np.maximum(share, _SMALLEST)), 0.0)
        else:
            prob[START] = 1.0  # lmplz's way to say that it costs nothing and is not predicted
        for part in blocks(length):
            log_prob[part] = np.minimum(np.log(np.maximum(prob[part], _SMALLEST)), 0.0)
        backoff = disk.make(length, np.float64)
        finished.append(Table(table.context, table.word, table.suffix, log_prob, backoff))
        below = prob
        release(table.context, table.word, table.suffix, log_prob, prob)
    return tuple(finished)
