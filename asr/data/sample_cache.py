"""One cache of decoded audio for all processes that load training data.

The memory is mapped by all of them and has no name. The kernel frees it with the last process, however that ends.
Every utterance has a fixed place, so that no process has to ask another for room.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.data.manifest import Utterance

try:
    import fcntl
except ImportError:  # Windows, where there are no loader processes
    fcntl = None  # type: ignore[assignment]

SPARE_S = 0.02
"""Manifests carry rounded durations: each place has room for so much more."""
MEMORY_SHARE = 0.5
"""Share of the free memory that the cache takes at most."""
_ALIGNED = 16  # samples: a cache line


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may still take (Linux: system and control group); None: not known.

    ``root``: the folder of ``proc`` and ``sys``.
    """
    found = []
    if available := _values(root / "proc/meminfo").get("MemAvailable:"):
        found.append(available * 1024)
    for folder, most, used, prefix in (
        ("sys/fs/cgroup", "memory.max", "memory.current", ""),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        top, now = (_read_text(root / folder / name).strip() for name in (most, used))
        if top.isdigit() and now.isdigit():
            # The system gives up cached files where memory is wanted: what was read of a corpus is not in use.
            counts = _values(root / folder / "memory.stat")
            cached = sum(counts.get(f"{prefix}{kind}", 0) for kind in ("active_file", "inactive_file"))
            found.append(max(0, int(top) - int(now) + cached))
    return min(found, default=None)


def _values(path: Path) -> dict[str, int]:
    """The numbers of a file with a name and a number in each line."""
    lines = (line.split() for line in _read_text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


class SharedMemory:
    """``size`` bytes that other processes map by ``descriptor``, a file without a name. Raises ``OSError``."""

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = size
        self.descriptor = _nameless() if descriptor is None else descriptor
        weakref.finalize(self, os.close, self.descriptor)  # not __del__, which may come after the modules have gone
        if descriptor is None:
            os.ftruncate(self.descriptor, size)
        self.map = mmap.mmap(self.descriptor, size)

    def take(self, start: int, count: int) -> None:
        """Have the system set so many bytes aside now. Raises ``OSError`` where there are none.

        Without this, a process that writes where there is no memory left is killed.
        """
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.descriptor, start, count)

    def array(self, start: int, count: int, kind: Any) -> np.ndarray:
        """``count`` values of dtype ``kind`` from byte ``start`` on; no copy."""
        return np.frombuffer(self.map, kind, count, start)


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # some sandboxes refuse it
            return os.memfd_create("asr", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@dataclass(frozen=True)
class CacheLayout:
    """What a process needs to map a cache: ``starts`` ``(n + 1,)`` int64, the first sample of each place."""

    descriptor: int
    starts: np.ndarray


class SampleCache:
    """Decoded audio of the utterances that were given a place, up to ``limit_s`` seconds.

    First ``reserve`` places, in the order of importance; the memory is made at the first use. Audio that is longer
    than its place (the manifest said less) is not kept.
    """

    def __init__(self, sample_rate_hz: int, limit_s: float, *, shared: bool = False) -> None:
        self.rate_hz = sample_rate_hz
        self.limit_s = limit_s
        self.shared = shared
        self.failed = False
        """Whether memory ran out before the places were full."""
        self._places: dict[tuple[Any, ...], int] = {}
        self._reserved_s = 0.0
        self._starts = np.zeros(1, dtype=np.int64)
        self._memory: SharedMemory | None = None
        self._lengths = np.zeros(0, dtype=np.int64)
        self._samples = np.zeros(0, dtype=np.float32)

    @classmethod
    def attach(cls, layout: CacheLayout, sample_rate_hz: int) -> SampleCache:
        """The cache that another process made."""
        cache = cls(sample_rate_hz, 0.0, shared=True)
        cache._starts = layout.starts
        cache._open(layout.descriptor)
        return cache

    def reserve(self, utterances: Sequence[Utterance], looked_at: float = np.inf) -> np.ndarray:
        """A place for each of ``utterances`` that fits: ``(n,)`` int64, -1 for none; one place for the same audio.

        ``looked_at``: how many of them are looked at, the first ones.
        """
        found = np.full(len(utterances), -1, dtype=np.int64)
        starts = self._starts.tolist()
        for row in range(len(utterances)):
            if row >= looked_at:
                break
            item = utterances[row]
            key = item.audio, item.start_s, item.end_s, item.channel
            place = self._places.get(key)
            if place is None and self._memory is None and self._reserved_s + item.duration_s <= self.limit_s:
                place = self._places[key] = len(starts) - 1
                self._reserved_s += item.duration_s
                room = int((item.duration_s + SPARE_S) * self.rate_hz)
                starts.append(starts[-1] + -(-room // _ALIGNED) * _ALIGNED)
            if place is not None:
                found[row] = place
        self._starts = np.array(starts, dtype=np.int64)
        return found

    def fitting_s(self) -> float:
        """Seconds of audio for which there is memory now, where that is less than was asked for; else infinity."""
        free = free_memory()
        if free is None or 4 * self._starts[-1] <= MEMORY_SHARE * free:
            return np.inf
        return float(MEMORY_SHARE * free / 4 / self.rate_hz)

    def layout(self) -> CacheLayout:
        """For ``attach`` in another process."""
        if self._memory is None:
            self._open()
        assert self._memory is not None
        return CacheLayout(self._memory.descriptor, self._starts)

    @property
    def cached_s(self) -> float:
        """Seconds of audio that are kept now."""
        return float(np.maximum(self._lengths, 0).sum()) / self.rate_hz

    def get(self, place: int) -> np.ndarray | None:
        """The samples ``(S,)`` float32 at a place, not to be written to; None where there are none yet."""
        if place < 0 or self._memory is None:
            return None
        with self._locked():
            length = int(self._lengths[place])
        start = int(self._starts[place])
        return self._samples[start : start + length] if length >= 0 else None

    def put(self, place: int, samples: np.ndarray) -> None:
        """Keep the samples at their place; nothing where they do not fit."""
        if place < 0 or self.failed:
            return
        if self._memory is None:
            self._open()
        start, end = int(self._starts[place]), int(self._starts[place + 1])
        if len(samples) > end - start:
            return
        assert self._memory is not None
        try:
            self._memory.take(8 * len(self._lengths) + 4 * start, 4 * len(samples))
        except OSError:
            self.failed = True
            return
        target = self._memory.array(8 * len(self._lengths) + 4 * start, len(samples), np.float32)
        target[:] = samples
        with self._locked():  # the length last: who sees it sees the samples
            self._lengths[place] = len(samples)

    def drop(self, places: np.ndarray) -> None:
        """Forget the audio at these places."""
        if self._memory is not None:
            self._lengths[places[places >= 0]] = -1

    def _open(self, descriptor: int | None = None) -> None:
        count = len(self._starts) - 1
        size = max(8 * count + 4 * int(self._starts[-1]), 1)
        self._memory = SharedMemory(size, descriptor)
        self._lengths = self._memory.array(0, count, np.int64)
        self._samples = self._memory.array(8 * count, int(self._starts[-1]), np.float32)
        self._samples.flags.writeable = False
        if descriptor is None:
            self._lengths[:] = -1

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Order what this process reads and writes with what others do; goes with a process that dies."""
        if not self.shared or fcntl is None:
            yield
            return
        assert self._memory is not None
        fcntl.lockf(self._memory.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._memory.descriptor, fcntl.LOCK_UN)
