"""Pruning of n-grams by relative entropy (Stolcke 1998), as SRILM does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from asr.errors import TrainingError
from asr.lm.kneser_ney import _SMALLEST, Estimate, Table, _Array, _Floats
from asr.lm.ngram_counts import END, START, DiskArrays, blocks

LEAST_REST = 1e-9
"""Less probability than this that listed words leave to the others is rounding."""

Mask = npt.NDArray[np.bool_]


def prune(estimate: Estimate, threshold: float, disk: DiskArrays | None = None) -> Estimate:
    """Drop each n-gram of order 2 and above whose loss raises the perplexity by less than ``threshold``, a share.

    N-grams that begin or end longer ones stay: KenLM refuses a file without them. The back-offs of what is left make
    the probabilities sum to 1 again.
    """
    tables = estimate.tables
    return _pruned(estimate, _kept(tables, _all_changes(tables, disk or DiskArrays()), threshold))


def prune_to(
    estimate: Estimate, fits: Callable[[list[int]], bool], disk: DiskArrays | None = None
) -> tuple[Estimate, float]:
    """Drop the n-grams of order 2 and above that the perplexity needs least, until ``fits`` is true of the counts.

    ``fits`` gets the number of n-grams of each order; where it is true, it is true of fewer as well. Returns the
    estimate and the threshold at which ``prune`` gives it, 0 where nothing is dropped. Raises ``TrainingError`` where
    the words alone do not fit.
    """
    tables = estimate.tables
    if fits(estimate.counts):
        return estimate, 0.0
    if not fits([estimate.counts[0], *[0] * (len(tables) - 1)]):
        raise TrainingError(f"expected room for {estimate.counts[0]} words, got less; keep fewer words, or allow more")
    changes = _all_changes(tables, disk or DiskArrays())
    low, high = -60.0, 0.0  # natural logarithms of thresholds: too many are left at the first
    for _ in range(28):
        middle = (low + high) / 2
        kept = _kept(tables, changes, float(np.exp(middle)))
        low, high = (low, middle) if fits([int(np.count_nonzero(mask)) for mask in kept]) else (middle, high)
    threshold = float(np.exp(high))
    return _pruned(estimate, _kept(tables, changes, threshold)), threshold


def _pruned(estimate: Estimate, kept: Sequence[Mask]) -> Estimate:
    return replace(estimate, tables=tuple(_reduced(estimate.tables, kept)))


def _all_changes(tables: Sequence[Table], disk: DiskArrays) -> list[_Array]:
    """What the loss of each n-gram changes; nothing for unigrams, which stay."""
    changes: list[_Array] = [np.zeros(0)]
    joint = tables[0].log_prob.copy()  # log-probability as the beginning of a text; <s> is as likely as </s>
    joint[START] = joint[END]
    for n in range(1, len(tables)):
        changes.append(_changes(tables[n], tables[n - 1], joint, disk))
        if n + 1 < len(tables):
            longer = disk.make(len(tables[n].word), np.float64)
            for part in blocks(len(longer)):
                longer[part] = joint[tables[n].context[part]] + tables[n].log_prob[part]
            joint = longer
    return changes


def _kept(tables: Sequence[Table], changes: Sequence[_Array], threshold: float) -> list[Mask]:
    kept: list[Mask] = [np.ones(len(tables[0].word), np.bool_)]
    kept += [change >= threshold for change in changes[1:]]
    for n in range(len(tables) - 1, 1, -1):
        for part in blocks(len(tables[n].word)):
            mine = kept[n][part]
            kept[n - 1][tables[n].context[part][mine]] = True
            kept[n - 1][tables[n].suffix[part][mine]] = True
    return kept


def _rest(table: Table, log_prob: _Array, size: int, kept: Mask | None = None) -> _Floats:
    """What each of ``size`` contexts leaves of 1 beside the (kept) n-grams of ``table`` at these probabilities."""
    total = np.zeros(size)
    for part in blocks(len(table.word)):
        prob = np.exp(log_prob[part])
        if kept is not None:
            prob = np.where(kept[part], prob, 0.0)
        here = table.context[part]
        first = int(here[0])
        length = int(here[-1]) - first + 1
        total[first : first + length] += np.bincount(here - first, prob, minlength=length)
    return np.maximum(1 - total, 0.0)


def _changes(table: Table, lower: Table, joint: _Array, disk: DiskArrays) -> _Array:
    """By how much, as a share, the perplexity rises without each n-gram (Stolcke 1998, equations 2 to 4)."""
    size, length = len(lower.word), len(table.word)
    below = disk.make(length, np.float64)
    for part in blocks(length):
        below[part] = lower.log_prob[table.suffix[part]]
    rests, rests_below = _rest(table, table.log_prob, size), _rest(table, below, size)
    for part in blocks(length):
        context, log_prob, under = table.context[part], table.log_prob[part], below[part]
        rest, prob = rests[context], np.exp(log_prob)
        backoff = np.log(np.maximum(rest + prob, _SMALLEST)) - np.log(rests_below[context] + np.exp(under))
        own = prob * (under + backoff - log_prob)
        others = rest * (backoff - lower.backoff[context])
        below[part] = np.expm1(-np.exp(joint[context]) * (own + others))
    return below


def _reduced(tables: Sequence[Table], kept: Sequence[Mask]) -> list[Table]:
    """The tables without what is not kept, lower orders first: back-offs follow from the orders below."""
    finished = [tables[0]]
    known = tables[0].log_prob  # of all n-grams, also of those that are given up and backed off now
    numbers = np.arange(len(known))
    for n in range(1, len(tables)):
        table, lower = tables[n], tables[n - 1]
        below = known[table.suffix]
        rest = _rest(table, table.log_prob, len(lower.word), kept[n])
        rest_below = _rest(table, below, len(lower.word), kept[n])
        sure = np.minimum(rest, rest_below) > LEAST_REST
        exact = np.log(np.where(sure, rest, 1.0)) - np.log(np.where(sure, rest_below, 1.0))
        backoff = np.where(sure, exact, lower.backoff)
        known = np.where(kept[n], table.log_prob, backoff[table.context] + below)
        finished[-1] = replace(finished[-1], backoff=backoff[kept[n - 1]])
        mine = kept[n]
        finished.append(
            Table(numbers[table.context[mine]], table.word[mine], numbers[table.suffix[mine]], *_values(table, mine))
        )
        numbers = np.cumsum(mine) - 1
    return finished


def _values(table: Table, kept: Mask) -> tuple[_Floats, _Floats]:
    return table.log_prob[kept], table.backoff[kept]
