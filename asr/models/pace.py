"""How long the blocks of a long computation may be, by what the last ones took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time

TARGET_S = 0.05
"""Seconds of processor time that a block should take of the thread that computes it."""
FIRST_S, SHORTEST_S, LONGEST_S = 2.0, 0.25, 8.0
"""Seconds of sound in a block: while nothing is known, at least and at most."""


class Pace:
    """Measures blocks. A slow block shortens the next one at once; quick ones lengthen it little by little."""

    def __init__(self) -> None:
        self._cost = TARGET_S / FIRST_S
        """Seconds of computing for a second of sound."""

    @property
    def block_s(self) -> float:
        """Seconds of sound for the next block, of all recordings in it together."""
        return min(max(SHORTEST_S, TARGET_S / self._cost), LONGEST_S)

    def note(self, sound_s: float, taken_s: float) -> None:
        """Take account of a block."""
        cost = max(taken_s, 1e-6) / sound_s
        self._cost = max(cost, 0.7 * self._cost + 0.3 * cost)

    @contextmanager
    def measuring(self, sound_s: float) -> Iterator[None]:
        """Measure the block that is computed within."""
        started = thread_time()
        yield
        self.note(sound_s, thread_time() - started)
