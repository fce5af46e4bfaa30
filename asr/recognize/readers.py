"""Reads recordings while the network is busy with those before them: in threads, or in processes of their own."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from asr.audio.archive_members import is_streamed
from asr.audio.samples import Samples
from asr.cloud.addresses import is_url
from asr.config import cpus
from asr.config.child_processes import ChildProcess, end_processes
from asr.errors import AudioError, ConfigError
from asr.recognize.reader_child import READY, receive_samples
from asr.recognize.recording import Recording, RecordingReader

MOST_READERS = 16
GPU_THREADS = 8
"""Threads that read ahead for a GPU where there are no processes. For a CPU one is enough."""
URL_THREADS = 16
"""Threads that read recordings at URLs: they wait for a service most of the time."""
_SHARE = 8
"""Recordings for each reader process that is started: a start takes as long as some readings."""

_S = TypeVar("_S")
_T = TypeVar("_T")
ReadRecording = tuple[Recording, Samples | AudioError]


@dataclass(frozen=True)
class ReadingPlan:
    """How recordings are read ahead.

    ``longest_s``: longer ones give ``TooLongError``. ``most_s``: seconds that may wait. ``gpu``: the network runs on
    one. ``processes``: see ``choose_readers``.
    """

    longest_s: float
    most_s: float
    gpu: bool = False
    processes: int | None = 0


def choose_readers(setting: int | None, recordings: int, *, gpu: bool) -> int:
    """Reader processes for so many recordings; 0 for threads.

    ``setting``: None decides: on a GPU a process for every CPU but one, ``MOST_READERS`` at most, and for a few
    recordings none; on a CPU, which the network itself keeps busy, none.
    Raises ``ConfigError`` for processes where there are none (Windows).
    """
    if os.name != "posix":
        if setting:
            raise ConfigError(f"readers: expected 0 on this system, which has no reader processes, got {setting}")
        return 0
    if setting is not None:
        return setting
    count = min(MOST_READERS, cpus.available() - 1, recordings // _SHARE)
    return count if gpu and count > 1 else 0


def read_recordings(
    reader: RecordingReader, sources: Iterable[Any], rate_hz: int | None, plan: ReadingPlan
) -> Generator[ReadRecording, None, None]:
    """Each source as a recording, with its samples or its error, in order.

    ``sources``: each as ``Recording.of`` takes it, with ``rate_hz``. A sequence is read ahead; anything else is taken
    one at a time, when it is wanted. Close the generator to end threads and processes.
    """
    files = threading.Lock()
    with contextlib.ExitStack() as stack:
        processes: ReaderProcesses | None = None

        def read(source: Any) -> tuple[ReadRecording, float]:
            recording = Recording.of(source, rate_hz)
            path = isinstance(recording.source, str | os.PathLike)
            streamed, held_s = is_streamed(recording.source), 0.0
            # An open file may be there several times, and has one position.
            alone = contextlib.nullcontext() if path or isinstance(recording.source, np.ndarray) else files
            with alone:
                try:
                    recording = reader.rewindable(recording)
                    if streamed:  # it is a file of ours now, which waits as the samples do
                        held_s = recording.source.seek(0, os.SEEK_END) / 4 / reader.features.sample_rate_hz
                    if processes is not None and _has_path(recording):
                        samples = processes.read(recording)
                    else:
                        samples = reader.samples(recording, plan.longest_s)
                except AudioError as error:
                    return (recording, error), held_s
            return (recording, samples), held_s + len(samples) / reader.features.sample_rate_hz

        if not isinstance(sources, Sequence) or len(sources) < 2:
            yield from (read(source)[0] for source in sources)
            return
        threads = GPU_THREADS if plan.gpu else 1
        if count := choose_readers(plan.processes, len(sources), gpu=plan.gpu):
            processes = stack.enter_context(ReaderProcesses(count, reader, plan.longest_s))
            threads = count
        elif any(is_url(Recording.of(source, rate_hz).source) for source in sources):
            threads = max(threads, URL_THREADS)
        yield from stack.enter_context(contextlib.closing(read_ahead(read, sources, threads, plan.most_s)))


def _has_path(recording: Recording) -> bool:
    """Whether another process finds the same file under this name."""
    if not isinstance(recording.source, str | Path):
        return False
    return not os.fspath(recording.source).startswith(("/dev/", "/proc/"))  # such as /dev/stdin


def read_ahead(
    read: Callable[[_S], tuple[_T, float]], items: Sequence[_S], threads: int, most_s: float
) -> Generator[_T, None, None]:
    """What ``read`` gives for each item, in order.

    Args:
        read: gives a result and its length in seconds. What it raises is raised here, in the item's turn.
        items: taken in order; with one thread they are also read in order.
        threads: that read.
        most_s: seconds that may wait; reading pauses beyond.

    Yields the results. A reading that hangs does not keep the caller from ending: the threads are daemons.
    """
    lock = threading.Lock()
    room, arrived = threading.Condition(lock), threading.Condition(lock)
    ready: dict[int, tuple[_T, float] | BaseException] = {}
    begun, held_s, closed = 0, 0.0, False

    def may_read() -> bool:
        return closed or begun == len(items) or held_s < most_s

    def work() -> None:
        nonlocal begun, held_s
        while True:
            with lock:
                room.wait_for(may_read)
                if closed or begun == len(items):
                    return
                mine, begun = begun, begun + 1
            result: tuple[_T, float] | BaseException
            try:
                result = read(items[mine])
            except BaseException as error:  # handed over, whatever it is
                result = error
            with lock:
                ready[mine] = result
                if isinstance(result, tuple):
                    held_s += result[1]
                arrived.notify()

    for _ in range(min(threads, len(items))):
        threading.Thread(target=work, name="read-ahead", daemon=True).start()
    try:
        for index in range(len(items)):
            with lock:
                arrived.wait_for(lambda index=index: index in ready)  # type: ignore[misc]
                result = ready.pop(index)
                if isinstance(result, BaseException):
                    raise result
                held_s -= result[1]
                room.notify()  # each waiting thread reads on as long as there is room
            yield result[0]
    finally:
        with lock:
            closed = True
            room.notify_all()


class ReaderProcesses:
    """``count`` processes that read recordings, each one at a time; they start when they are needed.

    A process that dies is replaced, and its recording is read once more. One that kills two processes fails.
    Where no process can be started, the caller's threads read.
    """

    def __init__(self, count: int, reader: RecordingReader, longest_s: float) -> None:
        self._reader, self._longest_s = reader, longest_s
        self._idle: queue.LifoQueue[ChildProcess | None] = queue.LifoQueue()
        """None for a process that has not started yet."""
        for _ in range(count):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._closed = self._impossible = False
        self.children: set[ChildProcess] = set()
        self._finalizer = weakref.finalize(self, _kill, self.children)

    def __enter__(self) -> ReaderProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, recording: Recording) -> Samples:
        """The samples of a recording, ``(S,)`` float32. For any number of threads.

        Raises as ``RecordingReader.samples``, and ``AudioError`` where the processes that read it died.
        """
        for last in (False, True):
            child = self._idle.get()
            try:
                child = child or self._start()
                if child is None:
                    return self._reader.samples(recording, self._longest_s)
                try:
                    answer = _ask(child, recording)
                except (EOFError, ConnectionError) as error:
                    end, child = self._forget(child), None
                    if not last and not self._closed:
                        continue
                    message = f"the process that read it {end}; if memory ran out, use fewer --readers"
                    raise AudioError(f"{recording.name}: {message}") from error
            finally:
                self._idle.put(child)
            if isinstance(answer, Exception):
                raise answer
            return answer
        raise AssertionError("the second try returns or raises")

    def close(self) -> None:
        """Kill the processes, whatever they read."""
        with self._lock:
            self._closed = True
            self._finalizer()

    def _start(self) -> ChildProcess | None:
        """A new process; None where that does not work."""
        with self._lock:
            if self._closed or self._impossible:
                return None
            try:
                child = ChildProcess("asr.recognize.reader_child", "serve_readings")
            except OSError as error:
                self._cannot_start(str(error))
                return None
            self.children.add(child)
        try:
            if child.connection.recv() != READY:
                raise EOFError("no greeting")
            child.connection.send((self._reader, self._longest_s))
        except (EOFError, OSError):
            end = self._forget(child)
            with self._lock:
                if not self._closed:
                    self._cannot_start(f"it {end}")
            return None
        return child

    def _cannot_start(self, reason: str) -> None:
        if not self._impossible:
            print(f"warning: no reader process can be started: {reason}; threads read instead", file=sys.stderr)
        self._impossible = True

    def _forget(self, child: ChildProcess) -> str:
        """Drop a process that hung up; returns how it ended."""
        if self._closed:
            return "was stopped"
        end = child.describe_end()
        with self._lock:
            self.children.discard(child)
        end_processes([child])
        return end


def _ask(child: ChildProcess, recording: Recording) -> Samples | Exception:
    """What a reader process answers. Raises ``EOFError`` or ``ConnectionError`` where it died."""
    child.connection.send(recording)
    answer: int | Exception = child.connection.recv()
    return answer if isinstance(answer, Exception) else receive_samples(child.connection.fileno(), answer)


def _kill(children: set[ChildProcess]) -> None:
    """End processes. Their connections, which threads may be reading, close with the last reference to them."""
    for child in list(children):
        child.process.kill()
    for child in list(children):
        child.process.wait()
    children.clear()
