"""Who computes now: one thread at a time, live streams first, then the file that has had least."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

LIVE_SHARE = 0.9
"""Of the time that live streams get at most while files wait."""
SLICE_S = 0.05
"""Computing of a file before another file may go on; live streams may at any pause."""
SHORT_S = 2.0
"""Computing up to which a file overtakes those that have had more; beyond, files take turns."""


class Turns:
    """A lock with priorities.

    Files call ``FileTurn.pause`` between short steps of computing. Live streams need no pauses: a step of all of them
    is short. So that files go on under any load, they are owed a share of the time that live streams take.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: object | None = None
        self._live_waits = False
        self._waiting: list[FileTurn] = []
        self._owed_s = 0.0
        """Seconds that files may take before live streams."""
        self._count = 0

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """The turn of the live streams; used by one thread."""
        with self._changed:
            self._live_waits = True
            while self._holder is not None or self._next() is not None:
                self._changed.wait()
            self._live_waits, self._holder = False, self
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._changed:
                if self._waiting:
                    self._owed_s += (time.perf_counter() - started) * (1 - LIVE_SHARE) / LIVE_SHARE
                self._holder = None
                self._changed.notify_all()

    def file(self) -> FileTurn:
        """The turns of one more file."""
        return FileTurn(self)

    def _next(self) -> FileTurn | None:
        """Whose turn is next: a file's, or None: that of the live streams, or nobody's."""
        if not self._waiting or (self._live_waits and self._owed_s < SLICE_S):
            return None
        return min(self._waiting, key=lambda turn: (min(turn.used_s, SHORT_S), turn.last))

    def take(self, turn: FileTurn) -> None:
        """Wait for a file's turn."""
        with self._changed:
            self._waiting.append(turn)
            while self._holder is not None or self._next() is not turn:
                self._changed.wait()
            self._waiting.remove(turn)
            self._holder = turn

    def give(self, turn: FileTurn, spent_s: float) -> None:
        """End a file's turn."""
        with self._changed:
            turn.used_s += spent_s
            self._owed_s = max(0.0, self._owed_s - spent_s)
            self._count += 1
            turn.last = self._count
            self._holder = None
            self._changed.notify_all()

    def wanted(self, turn: FileTurn, spent_s: float) -> bool:
        """Whether somebody else should go before a file goes on."""
        with self._changed:
            if self._live_waits:
                return self._owed_s - spent_s < SLICE_S
            return bool(self._waiting) and spent_s >= SLICE_S


class FileTurn:
    """The turns of one file: a context in which it computes, with ``pause`` between its steps."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.used_s = 0.0
        """Seconds that it has computed."""
        self.last = 0
        """When it had its last turn; 0: not yet."""
        self._started = 0.0
        self.longest_s = 0.0
        """The longest stretch of computing between two pauses, in seconds of this thread's processor time."""
        self._step = 0.0

    def __enter__(self) -> FileTurn:
        self._turns.take(self)
        self._started, self._step = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.give(self, time.perf_counter() - self._started)

    def pause(self) -> None:
        """Let others compute who should go first."""
        self.longest_s = max(self.longest_s, time.thread_time() - self._step)
        if self._turns.wanted(self, time.perf_counter() - self._started):
            self.__exit__()
            self.__enter__()
        self._step = time.thread_time()
