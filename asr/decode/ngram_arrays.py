"""The arrays of a word n-gram: a tree of contexts in breadth-first order, as files hold it and the search reads it.

Node 0 is the empty context. The other nodes are n-grams: unigrams by word id, then bigrams, and so on, each order
sorted by context and last word. So the children of a node lie side by side, ``branch[node]`` to
``branch[node + 1] - 1``, and a binary search finds one. A unigram is node ``id + 1``. The nodes of lower than the
highest order are contexts, ``branch.size - 1`` of them; nothing follows the others.

Every n-gram's beginning is a node too. Where a pruned file does not list it, a node is added with the probability that
backing off gives. Suffixes (the longest shorter context that ends alike) are stored from trigrams on: that of a bigram
is its last word. Logarithms are natural, doubles or codes of 8 bits into tables of 256 doubles (Federico & Bertoldi
2006).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

NgramArray = npt.NDArray[Any]

MOST_WORDS = 1 << 24
"""Word ids have 24 bits."""
MOST_ORDERS = 100
LEVELS = 256
"""Values that a code of 8 bits may stand for."""
LARGEST_BACKOFF = 1e6
"""A back-off is the logarithm of a share: a larger one is none, and sums of them stay finite."""
_BLOCK = 1 << 20
"""Nodes that are checked at a time, so that the temporary arrays stay small."""


class Level(Protocol):
    """The n-grams of one order, sorted by ``context`` and ``word``; all arrays are ``(N,)``.

    ``context`` is an index into the level of one order below, 0 for unigrams, which are in the order of their ids.
    Logarithms are natural. A ``log_prob`` of NaN: the n-gram is not listed, only the beginning of others.
    """

    @property
    def context(self) -> NgramArray:
        """Integers."""

    @property
    def word(self) -> NgramArray:
        """Integers."""

    @property
    def log_prob(self) -> NgramArray:
        """Doubles."""

    @property
    def backoff(self) -> NgramArray:
        """Doubles; those of the highest order are never used."""


@dataclass(frozen=True)
class SortedLevel:
    """A ``Level`` of plain arrays."""

    context: NgramArray
    word: NgramArray
    log_prob: NgramArray
    backoff: NgramArray


class NgramArrays(NamedTuple):
    """The arrays of an n-gram of ``N`` nodes, of which ``M`` are contexts.

    Values are either doubles or codes; the arrays of the other kind are empty. So is ``word_high`` for a vocabulary of
    at most 65,536 words.
    """

    counts: NgramArray
    """``(order,)`` int64: n-grams of each order."""
    branch: NgramArray
    """``(M + 1,)`` uint32: the first child of each context; last ``N``."""
    word_low: NgramArray
    """``(N,)`` uint16: the lower 16 bits of each node's last word; 0 for node 0."""
    word_high: NgramArray
    """``(N,)`` uint8: the upper 8 bits."""
    log_prob: NgramArray
    """``(N,)`` float64; 0 for node 0."""
    backoff: NgramArray
    """``(M,)`` float64."""
    log_prob_code: NgramArray
    """``(N,)`` uint8: indices into ``log_prob_level``."""
    backoff_code: NgramArray
    """``(M,)`` uint8: indices into ``backoff_level``."""
    log_prob_level: NgramArray
    """``(256,)`` float64."""
    backoff_level: NgramArray
    """``(256,)`` float64."""
    suffix: NgramArray
    """uint32: the longest shorter context that ends as a node does, for the contexts from trigrams on."""

    @property
    def order(self) -> int:
        """The order."""
        return len(self.counts)

    @property
    def vocabulary(self) -> int:
        """Number of words."""
        return int(self.counts[0])

    @property
    def contexts(self) -> int:
        """``M``: how many nodes are contexts."""
        return len(self.branch) - 1

    @property
    def quantized(self) -> bool:
        """Whether values are codes."""
        return len(self.log_prob) == 0

    @property
    def starts(self) -> list[int]:
        """The first node of each order, and ``N``."""
        return [1, *(1 + np.cumsum(self.counts)).tolist()]

    @property
    def sizes(self) -> NgramArray:
        """What the search must know besides: the vocabulary, the first node with a stored suffix."""
        return np.array([self.vocabulary, self.starts[min(2, self.order)]], np.int64)

    def words_of(self, first: int, stop: int) -> NgramArray:
        """Last words ``(stop - first,)`` int64 of nodes ``first`` to ``stop - 1``."""
        found = self.word_low[first:stop].astype(np.int64)
        if len(self.word_high):
            found |= self.word_high[first:stop].astype(np.int64) << 16
        return found

    def parents_of(self, first: int, stop: int) -> NgramArray:
        """Contexts ``(stop - first,)`` int64 of nodes ``first`` to ``stop - 1``, which are not node 0."""
        return np.searchsorted(self.branch, np.arange(first, stop), side="right") - 1

    def log_probs_of(self, first: int, stop: int) -> NgramArray:
        """Log-probabilities float64 of nodes ``first`` to ``stop - 1``."""
        if self.quantized:
            return np.asarray(self.log_prob_level[self.log_prob_code[first:stop]])
        return np.asarray(self.log_prob[first:stop])

    def backoffs_of(self, first: int, stop: int) -> NgramArray:
        """Back-offs float64 of nodes ``first`` to ``stop - 1``, 0 for those that are no contexts."""
        within = slice(first, min(stop, self.contexts))
        values = self.backoff_level[self.backoff_code[within]] if self.quantized else self.backoff[within]
        return np.concatenate([values, np.zeros(max(0, stop - max(first, self.contexts)))])

    def suffix_of(self, context: int) -> int:
        """The longest shorter context that ends as ``context`` does."""
        if context >= self.sizes[1]:
            return int(self.suffix[context - self.sizes[1]])
        return int(self.words_of(context, context + 1)[0]) + 1 if context > self.vocabulary else 0


class NodeSearch:
    """Finds nodes in bulk, by one sorted array of contexts and words."""

    def __init__(self, parent: NgramArray, word: NgramArray, vocabulary: int, suffix: NgramArray) -> None:
        self.parent, self.word = parent, word
        self.keys = parent * vocabulary + word
        self.vocabulary = vocabulary
        self.suffix = suffix

    @classmethod
    def of(cls, arrays: NgramArrays) -> NodeSearch:
        """In the nodes of an n-gram."""
        total, contexts = arrays.starts[-1], arrays.contexts
        suffix = np.zeros(contexts, np.int64)
        bigrams, trigrams = (min(at, contexts) for at in (1 + arrays.vocabulary, int(arrays.sizes[1])))
        suffix[bigrams:trigrams] = arrays.words_of(bigrams, trigrams) + 1
        suffix[trigrams:] = arrays.suffix
        return cls(arrays.parents_of(1, total), arrays.words_of(1, total), arrays.vocabulary, suffix)

    def child(self, context: NgramArray, word: NgramArray) -> NgramArray:
        """The node that each word leads to, 0 where there is none."""
        wanted = context * self.vocabulary + word
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, at + 1, 0)

    def back_off(self, context: NgramArray, word: NgramArray, backoff: NgramArray) -> tuple[NgramArray, NgramArray]:
        """The node of each word behind the longest context that has it, and the back-offs on the way."""
        context, total, found = context.copy(), np.zeros(len(context)), np.zeros(len(context), np.int64)
        left = np.arange(len(context))
        while left.size:
            found[left] = self.child(context[left], word[left])
            left = left[found[left] == 0]  # the empty context has all words
            total[left] += backoff[context[left]]
            context[left] = self.suffix[context[left]]
        return found, total


def build_arrays(levels: Sequence[Level]) -> NgramArrays:
    """The arrays of sorted levels, one for each order, of which the first holds all words.

    Raises ``ValueError`` for levels that are not sorted or do not fit together, or too many n-grams.
    """
    counts = np.array([len(level.word) for level in levels], np.int64)
    vocabulary, total = int(counts[0]), 1 + int(counts.sum())
    if not 0 < vocabulary <= MOST_WORDS or total >= 1 << 32:
        raise ValueError(f"expected 1 to {MOST_WORDS:,} words, less than 2^32 n-grams, got {vocabulary:,}, {total:,}")
    starts = [1, *(1 + np.cumsum(counts)).tolist()]
    below = [0, *starts[:-2]]
    parent = np.concatenate([np.asarray(level.context, np.int64) + at for level, at in zip(levels, below, strict=True)])
    word = np.concatenate([np.asarray(level.word, np.int64) for level in levels])
    contexts = starts[-2]
    suffix = np.zeros(contexts, np.int64)
    search = NodeSearch(parent, word, vocabulary, suffix)
    if not (np.diff(search.keys) > 0).all() or word.max() >= vocabulary or parent.max() >= contexts:
        raise ValueError("expected n-grams sorted by context and word, each once, got others")
    log_prob = np.concatenate([[0.0], *(np.asarray(level.log_prob, np.float64) for level in levels)])
    backoff = np.concatenate([[0.0], *(np.asarray(level.backoff, np.float64) for level in levels[:-1])])
    for n, (first, stop) in enumerate(itertools.pairwise(starts), start=1):
        if 1 < n < len(levels):
            shorter = suffix[parent[first - 1 : stop - 1]]
            suffix[first:stop] = search.back_off(shorter, word[first - 1 : stop - 1], backoff)[0]
        unlisted = first + np.flatnonzero(np.isnan(log_prob[first:stop]))
        if unlisted.size:
            context = parent[unlisted - 1]
            found, lost = search.back_off(suffix[context], word[unlisted - 1], backoff)
            log_prob[unlisted] = backoff[context] + lost + log_prob[found]
    trigrams = starts[min(2, len(levels))]
    none = np.empty(0)
    return NgramArrays(
        counts,
        (np.concatenate([[0], np.cumsum(np.bincount(parent, minlength=contexts))]) + 1).astype(np.uint32),
        np.concatenate([[0], word & 0xFFFF]).astype(np.uint16),
        np.concatenate([[0], word >> 16] if vocabulary > 1 << 16 else [none]).astype(np.uint8),
        log_prob,
        backoff,
        none.astype(np.uint8),
        none.astype(np.uint8),
        none,
        none,
        suffix[trigrams:].astype(np.uint32),
    )


class RepeatedNgram(ValueError):
    """An n-gram that stands in a list twice: of which order, and its second place."""

    def __init__(self, order: int, place: int) -> None:
        super().__init__(f"{order}-gram {place} stands there twice")
        self.order, self.place = order, place


def sort_levels(
    rows: Sequence[NgramArray], log_probs: Sequence[NgramArray], backoffs: Sequence[NgramArray]
) -> list[SortedLevel]:
    """Levels of n-grams in any order.

    ``rows``: word ids ``(N, n)`` for each order ``n``, of the unigrams 0, 1, 2, …; the beginnings of n-grams are added
    where they are not listed. Raises ``RepeatedNgram``.
    """
    vocabulary = len(rows[0])
    levels = [SortedLevel(np.zeros(vocabulary, np.int64), np.arange(vocabulary), log_probs[0], backoffs[0])]
    contexts = [row[:, 0].astype(np.int64) for row in rows]  # by order: where in the level below an n-gram begins
    for n in range(2, len(rows) + 1):
        keys = [contexts[m] * vocabulary + rows[m][:, n - 1] for m in range(n - 1, len(rows))]
        order = np.argsort(keys[0], kind="stable")
        listed = keys[0][order]
        twice = np.flatnonzero(listed[1:] == listed[:-1])
        if twice.size:
            raise RepeatedNgram(n, int(order[twice + 1].min()))
        log_prob, backoff = log_probs[n - 1][order], backoffs[n - 1][order]
        added = np.unique(np.concatenate([np.empty(0, np.int64), *(key[~_within(key, listed)] for key in keys[1:])]))
        if added.size:
            places = np.searchsorted(listed, added)
            listed = np.insert(listed, places, added)
            log_prob, backoff = np.insert(log_prob, places, np.nan), np.insert(backoff, places, 0.0)
        levels.append(SortedLevel(listed // vocabulary, listed % vocabulary, log_prob, backoff))
        for m, key in zip(range(n, len(rows)), keys[1:], strict=True):
            contexts[m] = np.searchsorted(listed, key)
    return levels


def _within(values: NgramArray, ordered: NgramArray) -> npt.NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(values), np.bool_)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values)


def coded_arrays(arrays: NgramArrays) -> NgramArrays:
    """The n-gram with log-probabilities and back-offs as codes of 8 bits."""
    if arrays.quantized:
        return arrays
    log_prob_code, log_prob_level = _coded(arrays.log_prob)
    backoff_code, backoff_level = _coded(arrays.backoff)
    return arrays._replace(
        log_prob=arrays.log_prob[:0], backoff=arrays.backoff[:0],
        log_prob_code=log_prob_code, log_prob_level=log_prob_level,
        backoff_code=backoff_code, backoff_level=backoff_level,
    )  # fmt: skip


def _coded(values: NgramArray) -> tuple[NgramArray, NgramArray]:
    """Codes of values and the 256 values that they stand for (Lloyd's algorithm); 0, the smallest and the largest value
    stay exact."""
    kept = np.unique([0.0, values.min(), values.max()])
    ordered = np.sort(values[~np.isin(values, kept)])
    count = LEVELS - len(kept)
    if len(ordered) <= count or len(np.unique(ordered)) <= count:
        levels = np.unique(ordered)
    else:
        # Half of the levels where values are dense, half evenly spread over all but the outermost values.
        low, high = ordered[[len(ordered) // 10_000, -1 - len(ordered) // 10_000]]
        spread = np.linspace(low, high, count // 2)
        levels = np.sort(np.concatenate([spread, np.quantile(ordered, np.linspace(0, 1, count - len(spread)))]))
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        for _ in range(20):
            bounds = np.concatenate([[0], np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2), [len(ordered)]])
            sizes = np.diff(bounds)
            levels = np.where(sizes > 0, np.diff(sums[bounds]) / np.maximum(sizes, 1), levels)
    levels = np.unique(np.concatenate([kept, levels]))
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.uint8)
    return codes, np.concatenate([levels, np.full(LEVELS - len(levels), levels[-1])])


def check_arrays(arrays: NgramArrays) -> None:
    """Refuse arrays that the search could not read safely and rightly: the search itself checks no index.

    Raises ``ValueError`` saying what does not hold.
    """
    counts = arrays.counts
    _check(0 < len(counts) <= MOST_ORDERS and counts.min() >= 0 and counts.max() < 1 << 32, "counts")
    _check(int(counts.sum()) < 1 << 32, "counts: their sum")
    starts = arrays.starts
    total, contexts = starts[-1], starts[-2]
    _check(0 < arrays.vocabulary <= MOST_WORDS, "counts: the vocabulary")
    _check(len(arrays.branch) == contexts + 1, "branch: its size")
    _check(len(arrays.word_low) == total, "word_low: its size")
    _check(len(arrays.word_high) == (total if arrays.vocabulary > 1 << 16 else 0), "word_high: its size")
    _check(len(arrays.suffix) == contexts - min(contexts, int(arrays.sizes[1])), "suffix: its size")
    if arrays.quantized:
        _check(len(arrays.log_prob_code) == total and len(arrays.backoff_code) == contexts, "codes: their size")
        _check(len(arrays.log_prob_level) == len(arrays.backoff_level) == LEVELS, "levels: their size")
    else:
        _check(len(arrays.log_prob) == total and len(arrays.backoff) == contexts, "values: their size")
        coded = (arrays.log_prob_code, arrays.backoff_code, arrays.log_prob_level, arrays.backoff_level)
        _check(not any(map(len, coded)), "values: doubles and codes at once")
    log_prob, backoff = (
        (arrays.log_prob_level, arrays.backoff_level) if arrays.quantized else (arrays.log_prob, arrays.backoff)
    )
    for block in _blocks(log_prob):  # NaN compares as false; what backing off adds may be above 0
        _check(bool(np.abs(block).max() < LARGEST_BACKOFF), "log-probabilities: their range")
    for block in _blocks(backoff):
        _check(bool(np.abs(block).max() < LARGEST_BACKOFF), "back-offs: their range")
    _check_tree(arrays, starts)


def _check_tree(arrays: NgramArrays, starts: list[int]) -> None:
    branch, contexts, total = arrays.branch, arrays.contexts, starts[-1]
    _check(int(branch[0]) == 1 and int(branch[-1]) == total, "branch: its ends")
    for first, following in itertools.pairwise(starts[:-1]):  # an order's children are the next order
        _check(int(branch[first]) == following, "branch: its orders")
    for first in range(0, contexts, _BLOCK):
        part = branch[first : min(first + _BLOCK, contexts) + 1]
        _check(bool((part[1:] >= part[:-1]).all()), "branch: its order")
    for first in range(1, total, _BLOCK):
        words = arrays.words_of(first, min(first + _BLOCK, total) + 1)
        _check(int(words.max()) < arrays.vocabulary, "words: their range")
        begins = np.zeros(len(words), np.bool_)  # where the children of a context begin
        low, high = np.searchsorted(branch, np.array([first, first + len(words)], branch.dtype))
        begins[branch[low:high] - branch.dtype.type(first)] = True
        _check(bool((begins[1:] | (words[1:] > words[:-1])).all()), "words: their order")
    _check(bool((arrays.words_of(1, starts[1]) == np.arange(arrays.vocabulary)).all()), "words: the unigrams")
    nodes = np.arange(contexts - len(arrays.suffix), contexts)
    _check(bool((arrays.suffix < nodes).all()), "suffix: its range")


def _check(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"{what} does not fit the rest")


def _blocks(values: NgramArray) -> Iterator[NgramArray]:
    for first in range(0, len(values), _BLOCK):
        yield values[first : first + _BLOCK]
