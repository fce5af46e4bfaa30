"""Modified Kneser-Ney n-grams, interpolated, as KenLM's ``lmplz`` estimates them.

Chen & Goodman (1998) with three discounts an order; adjusted counts, the uniform distribution below the unigrams and
``<unk>`` as in Heafield et al. (2013). Everything is arrays over the distinct n-grams of an order: an n-gram is the
index of its context (all words but the last, among the n-grams one order below) and its last word.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.arpa import first_line, write_sections
from asr.decode.ngram import Ngram
from asr.files import split_fields

UNKNOWN, START, END = range(3)
"""Ids of ``<unk>``, ``<s>`` and ``</s>``; words follow in the order in which they first come."""
SPECIAL = ("<unk>", "<s>", "</s>")
FALLBACK = (0.0, 0.5, 1.0, 1.5)
"""Discounts by count, the last for 3 and more, where the counts of counts do not allow an estimate."""
ARPA_MARK = "# asr train-ngram"
"""First line of the ARPA files that are written here, by which they are known as our own."""
_SMALLEST = 1e-99
"""ARPA files write -99 for what is never predicted."""

_Ints = npt.NDArray[np.int64]
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
        texts = [""]
        for table in self.tables:
            pairs = zip(table.context.tolist(), table.word.tolist(), strict=True)
            texts = [f"{texts[context]} {self.words[word]}" for context, word in pairs]
            yield zip((text[1:] for text in texts), table.log_prob.tolist(), table.backoff.tolist(), strict=True)


@dataclass
class _Counted:
    """The distinct n-grams of one order; ``counts`` are first the text's counts, then adjusted."""

    context: _Ints
    word: _Ints
    suffix: _Ints
    counts: _Ints
    begins: npt.NDArray[np.bool_]
    """Whether the n-gram begins with ``<s>``."""
    last: int
    """The n-gram that lmplz comes to last, -1 where there is none of this order."""


def is_ours(path: Path) -> bool:
    """Whether an ``Estimate`` wrote the file ``path``."""
    try:
        return first_line(path) == ARPA_MARK
    except (OSError, EOFError, ValueError, zlib.error):
        return False


def estimate(sentences: Iterable[str], order: int) -> Estimate:
    """Estimate an n-gram of ``order`` from sentences, words between spaces, none of them ``<unk>``, ``<s>``, ``</s>``.

    Takes about 150 bytes for each word of the text at order 3.
    """
    words, tokens = _numbered(sentences)
    tables = _count(tokens, len(words), order)
    amounts, fallbacks = [], []
    for n, table in enumerate(tables, start=1):
        occurring = table.counts
        if n < order:
            table.counts = np.bincount(tables[n].suffix, minlength=len(table.word))
            table.counts[table.begins] = occurring[table.begins]
        seen = np.bincount(np.minimum(table.counts, 5), minlength=6)
        if n < order and table.last >= 0:
            # lmplz enters the last n-gram of each lower order by its count in the text: texts of a few words show it.
            seen[min(table.counts[table.last], 5)] -= 1
            seen[min(occurring[table.last], 5)] += 1
        found = discounts(seen)
        fallbacks += [] if found else [n]
        amounts.append(np.array(found or FALLBACK))
    return Estimate(words, _interpolate(tables, amounts), tuple(fallbacks))


def _numbered(sentences: Iterable[str]) -> tuple[tuple[str, ...], _Array]:
    """All words by id, and the text as ids, each sentence between ``<s>`` and ``</s>``."""
    ids = {word: number for number, word in enumerate(SPECIAL)}
    tokens = array("i")
    for sentence in sentences:
        tokens.append(START)
        tokens.extend([ids.setdefault(word, len(ids)) for word in split_fields(sentence)])
        tokens.append(END)
    return tuple(ids), np.frombuffer(tokens, np.int32)


def _count(tokens: _Array, vocabulary: int, order: int) -> list[_Counted]:
    """Count the n-grams of each order within sentences; ``<s>`` stands in them once and is not itself predicted."""
    at = np.arange(len(tokens))
    place = at - np.maximum.accumulate(np.where(tokens == START, at, 0))
    last = _last(tokens, place, order)
    counts = np.bincount(tokens[place > 0], minlength=vocabulary)
    zeros, words = np.zeros(vocabulary, np.int64), np.arange(vocabulary)
    tables = [_Counted(zeros, words, zeros, counts, words == START, int(tokens[last]))]
    ends = tokens  # by position: the n-gram that ends there
    for n in range(2, order + 1):
        here = np.flatnonzero(place >= n - 1)
        keys = ends[here - 1].astype(np.int64) * vocabulary + tokens[here]
        keys, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        context, word = np.divmod(keys, vocabulary)
        suffix = ends[here[first]].astype(np.int64)
        ends = np.full(len(tokens), -1, np.int32)
        ends[here] = inverse
        tables.append(_Counted(context, word, suffix, counts, tables[-1].begins[context], int(ends[last])))
    return tables


def _last(tokens: _Array, place: _Array, order: int) -> int:
    """Where the last n-gram ends, sorted by the last word's id, then the one before, with ``<s>`` before a sentence."""
    found = np.flatnonzero(place > 0)
    for back in range(order):
        ids = np.where(place[found] >= back, tokens[found - back], START)
        found = found[ids == ids.max()]
    return int(found[0])


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


def _interpolate(tables: Sequence[_Counted], amounts: Sequence[_Floats]) -> tuple[Table, ...]:
    """Probabilities of the discounted counts, what was taken off going to the order below."""
    finished: list[Table] = []
    below = np.full(1, 1 / (len(tables[0].word) - 1))  # one for each word but <s>
    for table, amount in zip(tables, amounts, strict=True):
        taken = amount[np.minimum(table.counts, 3)]
        total = np.bincount(table.context, table.counts, minlength=len(below))
        share = np.bincount(table.context, taken, minlength=len(below)) / np.maximum(total, 1)
        prob = (table.counts - taken) / total[table.context] + share[table.context] * below[table.suffix]
        if finished:
            backoff = np.where(total > 0, np.log(np.maximum(share, _SMALLEST)), 0.0)
            finished[-1] = replace(finished[-1], backoff=backoff)
        else:
            prob[START] = 1.0  # lmplz's way to say that it costs nothing and is not predicted
        log_prob = np.minimum(np.log(np.maximum(prob, _SMALLEST)), 0.0)
        finished.append(Table(table.context, table.word, table.suffix, log_prob, np.zeros(len(prob))))
        below = prob
    return tuple(finished)
