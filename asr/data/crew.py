"""Makes batches in a thread of this process or in processes of its own.

A crew takes orders and returns the batches; ``BatchStream`` places some orders ahead and returns the batches in order.
The batches do not depend on the crew.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing.connection
import os
import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from asr.config import cpus
from asr.config.child_processes import ChildProcess, end_processes
from asr.data.batch_maker import BatchMaker, BatchOrder, MadeBatch
from asr.data.crew_child import CANCELLED, ORDER_RECORD, CrewSetup, SlotMemory
from asr.data.sample_cache import free_memory
from asr.errors import ConfigError, TrainingError

AUTO = "auto"
MOST_WORKERS = 16
SMALL_H = 10.0
"""Hours of speech below which a CPU trains with one thread for loading."""
LENT_SLOTS = 2
"""Slots whose batches may be in use: that of a training step and the one taken for the next."""

_KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""glibc keeps waveforms that are done with: asking the system for each anew took 5 to 10 % of the time."""


def trainings_here() -> int:
    """Training processes on this machine, which share its CPUs and memory (``torchrun`` says how many)."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(local) if local.isdigit() else 1)


def choose_workers(setting: int | str, hours: float, *, gpu: bool) -> int:
    """Loader processes for ``data.workers`` and so many hours of speech; 0 for one thread of this process.

    ``auto``: on a GPU a process for every CPU of this training process but one, 16 at most. On a CPU, which the
    training itself keeps busy, one process for more than ``SMALL_H`` hours where there are 4 CPUs, else a thread.
    Raises ``ConfigError`` for processes where there are none (Windows).
    """
    if os.name != "posix":
        if setting not in (0, AUTO):
            raise ConfigError(f"data.workers: expected 0 or auto on this system, got {setting}")
        return 0
    if isinstance(setting, int):
        return setting
    processors = cpus.available() // trainings_here()
    if gpu:
        return max(1, min(MOST_WORKERS, processors - 1))
    return int(hours > SMALL_H and processors >= 4)


class Crew(Protocol):
    """Makes batches. Orders are numbered."""

    def submit(self, order: BatchOrder) -> int:
        """Take an order; returns its number."""

    def collect(self, number: int) -> MadeBatch:
        """Wait for an order. Raises ``TrainingError`` as ``BatchMaker.make`` does, and where its process died."""

    def cancel(self, number: int) -> None:
        """Forget an order that nobody will collect."""

    def close(self) -> None:
        """End, without waiting for orders that nobody has collected."""


class ThreadCrew:
    """One thread of this process."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._orders: dict[int, Future[MadeBatch]] = {}
        self._number = 0

    def submit(self, order: BatchOrder) -> int:
        self._number += 1
        self._orders[self._number] = self._pool.submit(self._maker.make, order)
        return self._number

    def collect(self, number: int) -> MadeBatch:
        return self._orders.pop(number).result()

    def cancel(self, number: int) -> None:
        self._orders.pop(number).cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Worker(ChildProcess):
    """One process and the connection to it."""

    def __init__(self, setup: CrewSetup) -> None:
        shared = [setup.slots, setup.cache.descriptor, setup.orders]
        super().__init__("asr.data.crew_child", "serve_crew", shared, deaf=True, defaults=_KEEP_FREED)
        self.connection.send(setup)


class ProcessCrew:
    """``count`` processes, which lay batches out in ``slots`` pieces of shared memory of ``slot_bytes`` each.

    The processes share one queue of orders, a pipe. An idle process takes the next order. So no order waits behind a
    batch that takes long while another process is idle. The order itself lies in the slot of its batch.

    ``setup`` is given the descriptors of that memory and of the pipe. A batch is used where it was laid out, and its
    slot is free when nothing refers to its memory any more. While ``LENT_SLOTS`` batches are in use so, further ones
    are copied. So there must be ``LENT_SLOTS`` more slots than orders at a time.

    Raises ``ConfigError`` where there is not enough memory.
    """

    def __init__(self, count: int, slots: int, slot_bytes: int, setup: Callable[[int, int], CrewSetup]) -> None:
        self._memory = _slot_memory(slots, slot_bytes)
        self._free = deque(range(slots))
        self._lent: set[int] = set()
        self._slots: dict[int, int] = {}
        self._orders: dict[int, BatchOrder] = {}
        self._done: dict[int, MadeBatch | TrainingError] = {}
        self._abandoned: set[int] = set()
        self._number = 0
        self._lock = threading.Lock()
        self.cache_failed = False
        taken_from, put_into = os.pipe()
        os.set_blocking(put_into, False)
        self._queue = io.FileIO(put_into, "w")  # once closed it writes nothing: its number may be another file's then
        self.workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _end, self.workers, self._queue)
        try:
            told = setup(self._memory.descriptor, taken_from)
            for _ in range(count):
                self.workers.append(_Worker(told))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(taken_from)

    def submit(self, order: BatchOrder) -> int:
        with self._lock:
            while not self._free:
                if not self._orders:
                    raise RuntimeError("every slot holds a batch that nobody has collected")
                self._receive()
            content = pickle.dumps(order, pickle.HIGHEST_PROTOCOL)
            if len(content) > self._memory.size:
                raise TrainingError(
                    f"data.workers: the texts and paths of the batch of {_names(order)} need {len(content)} bytes. A "
                    f"batch has {self._memory.size} bytes, by the durations in the manifest. Correct the durations, or "
                    "set data.workers=0"
                )
            slot = self._free.popleft()
            self._memory.write_order(slot, content)
            self._number += 1
            self._slots[self._number], self._orders[self._number] = slot, order
            record = ORDER_RECORD.pack(self._number, slot, len(content))
            with contextlib.suppress(BrokenPipeError):  # all processes have ended: collect() raises their error
                # The pipe takes a record whole or, where it is full, not at all. Processes may then be waiting for
                # their answers to be read.
                while self._queue.write(record) is None:
                    self._receive()
            return self._number

    def collect(self, number: int) -> MadeBatch:
        with self._lock:
            while number not in self._done:
                self._receive()
            made = self._done.pop(number)
            slot = self._slots.pop(number)
            if isinstance(made, MadeBatch) and made.layout is not None and not len(made.memory):
                made.memory = self._lend(slot, made.layout.size)
            else:
                self._free.append(slot)
            if isinstance(made, TrainingError):
                raise made
            return made

    def _lend(self, slot: int, size: int) -> np.ndarray:
        """The first ``size`` bytes of a slot, which is free again when the array is gone; or a copy of them."""
        memory = self._memory.room(slot, size)
        if len(self._lent) >= LENT_SLOTS:
            memory = memory.copy()
            self._free.append(slot)
            return memory
        self._lent.add(slot)
        # Every view, of numpy or torch, refers to this array. No lock: this may be called anywhere, in any thread.
        weakref.finalize(memory, _give_back, slot, self._free, self._lent).atexit = False
        return memory

    def cancel(self, number: int) -> None:
        with self._lock:
            if number in self._done:
                del self._done[number]
                self._free.append(self._slots.pop(number))
            else:
                self._abandoned.add(number)
                self._memory.makers[self._slots[number]] = CANCELLED  # a process that has begun it goes on

    def close(self) -> None:
        self._finalizer()

    def _receive(self) -> None:
        """Take what has been made, and wait for something if there is nothing. Raises ``TrainingError``."""
        connections: dict[Any, _Worker] = {worker.connection: worker for worker in self.workers}
        for ready in multiprocessing.connection.wait(list(connections)):
            worker = connections[ready]
            try:
                self._take(worker.connection)
            except (EOFError, OSError) as error:
                raise self._death(worker) from error

    def _take(self, connection: Connection) -> None:
        number, answer, *rest = connection.recv()
        made: MadeBatch | TrainingError
        if isinstance(answer, MadeBatch):
            large, self.cache_failed = rest[0], self.cache_failed or rest[1]
            made = answer
            if large:
                made.memory = np.frombuffer(connection.recv_bytes(), np.uint8).copy()
        else:
            made = TrainingError(answer)
            made.add_note(f"in the loader process:\n{rest[0]}")
        self._orders.pop(number)
        if number in self._abandoned:
            self._abandoned.remove(number)
            self._free.append(self._slots.pop(number))
        else:
            self._done[number] = made

    def _death(self, worker: _Worker) -> TrainingError:
        """The error for a process that has ended."""
        pid = worker.process.pid
        made = [order for number, order in self._orders.items() if self._memory.makers[self._slots[number]] == pid]
        whose = f" while it made the batch of {_names(made[0])}" if made else ""
        return TrainingError(
            f"data.workers: loader process {pid} {worker.describe_end()}{whose}. If memory ran out, lower "
            "data.workers, data.cache_s or data.prefetch; then continue with --resume"
        )


def _give_back(slot: int, free: deque[int], lent: set[int]) -> None:
    free.append(slot)  # first, so that whoever sees it no longer lent finds it free
    lent.discard(slot)


def _names(order: BatchOrder) -> str:
    """The first ids of a batch, for a message."""
    names = [row.id for row in order.rows]
    return f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}"


def _end(workers: list[_Worker], queue: io.FileIO) -> None:
    end_processes(workers)
    queue.close()


def _slot_memory(slots: int, slot_bytes: int) -> SlotMemory:
    size, free = slots * slot_bytes, free_memory()
    advice = "lower data.batch_s, data.prefetch or data.workers (0: one thread, which needs no shared memory)"
    if free is not None and size > free:
        raise ConfigError(
            f"data.workers: {slots} batches of {slot_bytes / 1e6:.3g} MB need {size / 1e6:.0f} MB of shared memory, "
            f"{free / 1e6:.0f} MB are free; {advice}"
        )
    try:
        memory = SlotMemory(slots, slot_bytes)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.workers: no shared memory for {slots} batches of {slot_bytes / 1e6:.3g} MB: {error}; {advice}"
        ) from error
    return memory


class BatchStream:
    """The batches of ``orders``, made ahead by a crew, in order."""

    def __init__(self, crew: Crew, orders: Iterator[BatchOrder]) -> None:
        self._crew = crew
        self._orders = orders
        self._pending: deque[int] = deque()
        self.exhausted = False
        """Whether every order has been placed."""

    def fill(self, depth: int) -> int:
        """Have ``depth`` orders placed that are not collected; returns how many there are."""
        while len(self._pending) < depth and not self.exhausted:
            order = next(self._orders, None)
            if order is None:
                self.exhausted = True
            else:
                self._pending.append(self._crew.submit(order))
        return len(self._pending)

    def take(self) -> MadeBatch | None:
        """The next batch; None after the last one."""
        return self._crew.collect(self._pending.popleft()) if self._pending else None

    def close(self) -> None:
        """Forget what was not collected."""
        while self._pending:
            self._crew.cancel(self._pending.popleft())
        self.exhausted = True
