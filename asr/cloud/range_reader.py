"""A remote object as a binary file: reads come as ranges, and the next ones are requested before they are wanted."""

from __future__ import annotations

import bisect
import io
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from asr.cloud.addresses import without_secrets
from asr.cloud.remote_objects import ObjectPart, RemoteObject, Version
from asr.cloud.retries import repeat

FIRST_BYTES = 1 << 20
"""The first request. A short recording comes whole with it."""
BLOCK_BYTES = 2 << 20
AHEAD = 4
"""Blocks that are requested before they are wanted, once two were read in order."""
_KEPT = AHEAD + 2
_THREADS = 32
"""Threads of this process that wait for requests made ahead."""


class DaemonPool:
    """Threads that run functions, and that do not keep the process from ending, as those of ``concurrent`` do."""

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._lock = threading.Lock()
        self._started = self._busy = 0
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """The future result of ``function``."""
        future: Future[Any] = Future()
        self._work.put((future, function))
        with self._lock:
            self._busy += 1
            if self._started < min(self._most, self._busy):
                self._started += 1
                threading.Thread(target=self._run, name="cloud-read-ahead", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            future, function = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # handed over to who waits for it
                    future.set_exception(error)
            del future, function  # what they hold may be large, and the next may be long in coming
            with self._lock:
                self._busy -= 1


_pool = DaemonPool(_THREADS)


class RangeReader(io.RawIOBase):
    """A binary file over a ``RemoteObject``; not for several threads at once.

    All bytes are of one version of the object. Reads raise ``CloudError``, which names the URL, for what cannot be
    read and for an object that changed after it was opened.
    """

    def __init__(self, target: RemoteObject) -> None:
        super().__init__()
        self._target = target
        self._url = target.location.url
        self.name = without_secrets(self._url)
        self._position = 0
        self._last = -1
        self._blocks: OrderedDict[int, Future[ObjectPart]] = OrderedDict()
        first = repeat(lambda: target.part(0, FIRST_BYTES), self._url)
        self.version: Version = first.version
        whole = len(first.data) == self.version.size  # also from a server that knows no ranges
        self._starts = [0] if whole else [0, *range(FIRST_BYTES, self.version.size, BLOCK_BYTES)]
        done: Future[ObjectPart] = Future()
        done.set_result(first)
        self._blocks[0] = done

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.version.size

    @property
    def parts(self) -> bool:
        """Whether the service sends parts of the object; a short object shows nothing, and so it counts."""
        return self.size <= FIRST_BYTES or len(self._starts) > 1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"expected a place in the file, got {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Bytes up to the end of a block: fewer than asked for, as raw files may give."""
        view = memoryview(buffer).cast("B")
        if self.closed:
            raise ValueError("the file is closed")
        if not len(view) or self._position >= self.size:
            return 0
        index = bisect.bisect_right(self._starts, self._position) - 1
        part = self._block(index)
        offset = self._position - part.start
        data = part.data[offset : offset + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Forget what was requested and not read."""
        for future in self._blocks.values():
            future.cancel()
        self._blocks.clear()
        super().close()

    def _block(self, index: int) -> ObjectPart:
        wanted = [index]
        if index == self._last + 1 and index:  # the second in a row: more will follow
            wanted += range(index + 1, min(index + 1 + AHEAD, len(self._starts)))
        for each in wanted:
            if each not in self._blocks:
                self._blocks[each] = _pool.submit(lambda each=each: self._request(each))  # type: ignore[misc]
        self._last = index
        self._blocks.move_to_end(index)
        while len(self._blocks) > _KEPT:
            oldest = next(each for each in self._blocks if each != index)
            self._blocks.pop(oldest).cancel()
        return self._blocks[index].result()

    def _request(self, index: int) -> ObjectPart:
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self.size
        return repeat(lambda: self._target.part(start, end, self.version), self._url)
