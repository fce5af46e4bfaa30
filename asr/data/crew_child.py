"""A loader process: takes orders for batches from its parent and lays the batches out in shared memory.

It is an ``asr.config.child_processes.ChildProcess``, and imports neither torch nor numba.
"""

from __future__ import annotations

import os
import queue
import signal
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


@dataclass(frozen=True)
class CrewSetup:
    """What a loader process needs to know once."""

    config: Config
    tokenizer: Tokenizer | None
    cache: CacheLayout
    slots: int
    """Descriptor of the memory that batches are laid out in."""
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
    orders: queue.SimpleQueue[tuple[int, int, BatchOrder]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, orders), daemon=True).start()
    memory = SharedMemory(setup.slot_count * setup.slot_bytes, setup.slots).array(
        0, setup.slot_count * setup.slot_bytes, np.uint8
    )
    cache = SampleCache.attach(setup.cache, setup.config.features.sample_rate_hz)
    maker = BatchMaker(setup.config, setup.tokenizer, cache, setup.pieces, setup.piece_places)
    while True:
        number, slot, order = orders.get()
        room = memory[slot * setup.slot_bytes : (slot + 1) * setup.slot_bytes]

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


def _receive(connection: Connection, orders: queue.SimpleQueue[tuple[int, int, BatchOrder]]) -> None:
    """Take orders at once, so that the parent never waits; end with the parent, even in the middle of a batch."""
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)
