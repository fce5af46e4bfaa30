"""Which utterances go together: batches of similar lengths, as arrays that ten million utterances fit into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

_AT_ONCE = 2**20


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance of a batch: its position in the set, the speed it is played at, and how often it came before in
    this epoch."""

    index: int
    speed: float
    repeat: int = 0


class BatchPlan(Sequence[list[Example]]):
    """The batches of an epoch, made into lists of examples when they are asked for.

    Args:
        rows: ``(n,)`` positions of the utterances, the batches one behind the other.
        speeds: ``(n,)`` float64.
        repeats: ``(n,)`` how often each position stands earlier in the epoch; None: never.
        starts: ``(batches + 1,)`` where each batch begins among ``rows``, and where the last one ends.
        order: ``(batches,)`` the order in which they are trained on.
    """

    def __init__(
        self,
        rows: np.ndarray,
        speeds: np.ndarray,
        repeats: np.ndarray | None,
        starts: np.ndarray,
        order: np.ndarray | None = None,
    ) -> None:
        self.rows, self.speeds, self.repeats, self.starts = rows, speeds, repeats, starts
        self.order = np.arange(len(starts) - 1) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, number: int) -> list[Example]: ...
    @overload
    def __getitem__(self, number: slice) -> BatchPlan: ...
    def __getitem__(self, number: int | slice) -> list[Example] | BatchPlan:
        if isinstance(number, slice):
            return BatchPlan(self.rows, self.speeds, self.repeats, self.starts, self.order[number])
        batch = int(self.order[number])
        part = slice(int(self.starts[batch]), int(self.starts[batch + 1]))
        rows, speeds = self.rows[part].tolist(), self.speeds[part].tolist()
        if self.repeats is None:
            return list(map(Example, rows, speeds))
        return list(map(Example, rows, speeds, self.repeats[part].tolist()))

    def __iter__(self) -> Iterator[list[Example]]:
        return (self[number] for number in range(len(self)))

    def __add__(self, other: BatchPlan) -> BatchPlan:
        """The batches of both, one after the other."""
        repeats = None
        if self.repeats is not None or other.repeats is not None:
            parts = (plan.repeats if plan.repeats is not None else np.zeros(len(plan.rows), np.int64)
                     for plan in (self, other))  # fmt: skip
            repeats = np.concatenate(list(parts))
        return BatchPlan(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.speeds, other.speeds]),
            repeats,
            np.concatenate([self.starts, other.starts[1:] + self.starts[-1]]),
            np.concatenate([self.order, other.order + len(self.starts) - 1]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BatchPlan):
            return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)
        if len(self) != len(other) or (self.repeats is None) != (other.repeats is None):
            return False
        pairs = [(self.rows, other.rows), (self.speeds, other.speeds), (self.starts, other.starts),
                 (self.order, other.order)]  # fmt: skip
        if self.repeats is not None and other.repeats is not None:
            pairs.append((self.repeats, other.repeats))
        return all(a is b or np.array_equal(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


def group_by_length(durations_s: np.ndarray, keys: np.ndarray, most_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours by ``keys`` together in batches of at most ``most_s`` padded seconds.

    A batch is padded to its longest utterance; one that is longer than ``most_s`` is alone.

    Returns:
        The order of the utterances ``(n,)``, and where each batch begins in it, the end last ``(batches + 1,)``.
    """
    order = np.argsort(keys, kind="stable")
    starts: list[int] = []
    longest, count = 0.0, 0
    for first in range(0, len(order), _AT_ONCE):
        for at, size in enumerate(durations_s[order[first : first + _AT_ONCE]].tolist(), first):
            if size > longest:
                longest = size
            count += 1
            if count == 1 or longest * count > most_s:
                starts.append(at)
                longest, count = size, 1
    return order, np.array([*starts, len(order)], dtype=np.int64)


def count_earlier(chosen: np.ndarray) -> np.ndarray:
    """How often each value stands before its place: ``(n,)`` int64."""
    order = np.argsort(chosen, kind="stable")
    values = chosen[order]
    begins = np.flatnonzero(np.diff(values, prepend=-1))
    counts = np.arange(len(values)) - np.repeat(begins, np.diff(np.append(begins, len(values))))
    earlier = np.empty(len(values), dtype=np.int64)
    earlier[order] = counts
    return earlier
