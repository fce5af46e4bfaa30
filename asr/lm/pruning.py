"""Pruning of n-grams by relative entropy (Stolcke 1998), as SRILM does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from asr.lm.kneser_ney import _SMALLEST, END, START, Estimate, Table, _Floats

LEAST_REST = 1e-9
"""Less probability than this that listed words leave to the others is rounding."""

Mask = npt.NDArray[np.bool_]


def prune(estimate: Estimate, threshold: float) -> Estimate:
    """Drop each n-gram of order 2 and above whose loss raises the perplexity by less than ``threshold``, a share.

    N-grams that begin or end longer ones stay: KenLM refuses a file without them. The back-offs of what is left make
    the probabilities sum to 1 again.
    """
    tables = list(estimate.tables)
    kept: list[Mask] = [np.ones(len(table.word), np.bool_) for table in tables]
    joint = _joint(tables)
    for n in range(len(tables) - 1, 0, -1):
        kept[n] = _changes(tables[n], tables[n - 1], joint[n - 1]) >= threshold
        if n + 1 < len(tables):
            for part in (tables[n + 1].context, tables[n + 1].suffix):
                kept[n][part[kept[n + 1]]] = True
    return replace(estimate, tables=tuple(_reduced(tables, kept)))


def _joint(tables: Sequence[Table]) -> list[_Floats]:
    """Log-probability of each n-gram as the beginning of a text; ``<s>`` is as likely as ``</s>``."""
    first = tables[0].log_prob.copy()
    first[START] = first[END]
    joint = [first]
    for table in tables[1:]:
        joint.append(joint[-1][table.context] + table.log_prob)
    return joint


def _rest(table: Table, log_prob: _Floats, size: int, kept: Mask | None = None) -> _Floats:
    """What each of ``size`` contexts leaves of 1 beside the (kept) n-grams of ``table`` at these probabilities."""
    prob = np.exp(log_prob) if kept is None else np.where(kept, np.exp(log_prob), 0.0)
    return np.maximum(1 - np.bincount(table.context, prob, minlength=size), 0.0)


def _changes(table: Table, lower: Table, joint: _Floats) -> _Floats:
    """By how much, as a share, the perplexity rises without each n-gram (Stolcke 1998, equations 2 to 4)."""
    log_prob, below = table.log_prob, lower.log_prob[table.suffix]
    size, context = len(lower.word), table.context
    rest, rest_below = _rest(table, log_prob, size)[context], _rest(table, below, size)[context]
    backoff = np.log(np.maximum(rest + np.exp(log_prob), _SMALLEST)) - np.log(rest_below + np.exp(below))
    own = np.exp(log_prob) * (below + backoff - log_prob)
    others = rest * (backoff - lower.backoff[context])
    rise: _Floats = np.expm1(-np.exp(joint[context]) * (own + others))
    return rise


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
            Table(numbers[table.context[mine]], table.word[mine], table.suffix[mine], *_values(table, mine))
        )
        numbers = np.cumsum(mine) - 1
    return finished


def _values(table: Table, kept: Mask) -> tuple[_Floats, _Floats]:
    return table.log_prob[kept], table.backoff[kept]
