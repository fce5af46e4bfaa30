"""A loader process: takes orders for batches from its parent and lays the batches out in shared memory.

It is an ``asr.config.child_processes.ChildProcess``, and imports neither torch nor numba.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from asr.config.child_processes import end_with
from asr.config.sections import Config
from asr.data.batch_maker import BatchMaker, BatchOrder, MadeBatch
from asr.data.manifest import Utterance
from asr.data.sample_cache import CacheLayout, SampleCache, SharedMemory
from asr.errors import TrainingError
from asr.text.tokenizer import Tokenizer

ORDER_RECORD = struct.Struct("qqq")
"""An order in the queue: its number, the slot of its batch, and how many bytes of the slot hold the order."""
CANCELLED = -1
"""Stands for the maker of a batch that nobody wants any more."""
_ALIGNED = 64


class SlotMemory:
    """``count`` pieces of shared memory, of ``size`` bytes each, that batches are laid out in.

    An order lies in its slot until the process that makes the batch has read it. ``makers`` ``(count,)`` int64 are the
    ids of the processes that took the last order of each slot. With ``descriptor``, the memory of another process.
    Raises ``OSError``.
    """

    def __init__(self, count: int, size: int, descriptor: int | None = None) -> None:
        self.size = size = -(-size // _ALIGNED) * _ALIGNED
        self._memory = SharedMemory(count * (size + 8), descriptor)
        if descriptor is None:
            self._memory.take(0, self._memory.size)
        self.descriptor = self._memory.descriptor
        self.makers = self._memory.array(count * size, count, np.int64)

    def room(self, slot: int, length: int | None = None) -> np.ndarray:
        """The bytes of a slot, or the first ``length`` of them: uint8, an array that is no view of another."""
        return self._memory.array(slot * self.size, self.size if length is None else length, np.uint8)

    def write_order(self, slot: int, content: bytes) -> None:
        """Put an order, of ``size`` bytes at most, into a slot."""
        self.makers[slot] = 0
        self.room(slot, len(content))[:] = np.frombuffer(content, np.uint8)

    def read_order(self, slot: int, length: int) -> BatchOrder | None:
        """The order of a slot, which this process makes from now on; None where it was cancelled."""
        if self.makers[slot] == CANCELLED:
            return None
        self.makers[slot] = os.getpid()
        order: BatchOrder = pickle.loads(self.room(slot, length).data)
        return order


@dataclass(frozen=True)
class CrewSetup:
    """What a loader process needs to know once."""

    config: Config
    tokenizer: Tokenizer | None
    cache: CacheLayout
    slots: int
    """Descriptor of the memory that batches are laid out in."""
    orders: int
    """Descriptor of the pipe that orders come from."""
    slot_count: int
    slot_bytes: int
    pieces: Sequence[Utterance] = ()
    piece_places: Sequence[int] = ()


def serve_crew(descriptor: int, parent: int) -> None:
    """Make batches for the process ``parent`` until it hangs up."""
    # A request to stop is meant for the parent, which ends its processes after a checkpoint. Schedulers (Slurm,
    # systemd) send it to all processes of a job.
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.SIG_IGN)
    connection = Connection(descriptor)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    setup: CrewSetup = connection.recv()
    threading.Thread(target=_watch, args=(connection,), daemon=True).start()
    memory = SlotMemory(setup.slot_count, setup.slot_bytes, setup.slots)
    cache = SampleCache.attach(setup.cache, setup.config.features.sample_rate_hz)
    maker = BatchMaker(setup.config, setup.tokenizer, cache, setup.pieces, setup.piece_places)
    while record := os.read(setup.orders, ORDER_RECORD.size):
        number, slot, length = ORDER_RECORD.unpack(record)
        order, room = memory.read_order(slot, length), memory.room(slot)
        if order is None:
            connection.send((number, MadeBatch(), False, cache.failed))
            continue

        def allocate(size: int, room: np.ndarray = room) -> np.ndarray:
            return room[:size] if size <= len(room) else np.empty(size, np.uint8)

        try:
            made = maker.make(order, allocate)
        except TrainingError as error:
            connection.send((number, str(error), traceback.format_exc()))
            continue
        # Only where things lie is sent; a batch larger than a slot, which a wrong manifest gives, follows as bytes.
        large = made.layout is not None and made.layout.size > len(room)
        answer = MadeBatch(made.layout, warnings=made.warnings, reasons=made.reasons)
        connection.send((number, answer, large, cache.failed))
        if large:
            connection.send_bytes(made.memory.tobytes())


def _watch(connection: Connection) -> None:
    """End with the parent, even in the middle of a batch: nothing is sent here any more."""
    with contextlib.suppress(EOFError, OSError):
        connection.poll(None)
        connection.recv()
    os._exit(1)
