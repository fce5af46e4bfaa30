"""A reader process: reads recordings for its parent, one at a time.

It is an ``asr.config.child_processes.ChildProcess``, and imports neither torch nor numba.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection

import numpy as np

from asr.audio.samples import Samples
from asr.config.child_processes import end_with
from asr.errors import AudioError
from asr.recognize.recording import Recording, RecordingReader

READY = "ready"


def serve_readings(descriptor: int, parent: int) -> None:
    """Answer recordings with their samples, or with the error, until the process ``parent`` hangs up."""
    # A stop that reaches every process of a job is meant for the parent, which ends its processes.
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    try:
        connection.send(READY)
        reader, longest_s = connection.recv()
        while True:
            _answer(connection, reader, connection.recv(), longest_s)
    except (EOFError, OSError):
        return


def _answer(connection: Connection, reader: RecordingReader, recording: Recording, longest_s: float) -> None:
    try:
        samples = reader.samples(recording, longest_s)
    except Exception as error:
        if not isinstance(error, AudioError):
            error.add_note(f"in the reader process:\n{traceback.format_exc()}")
        connection.send(error)
        return
    connection.send(len(samples))
    send_samples(connection.fileno(), samples)


def send_samples(descriptor: int, samples: Samples) -> None:
    """Write ``(S,)`` float32 to a socket, without a copy. Raises ``OSError``."""
    view = np.ascontiguousarray(samples).data.cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]


def receive_samples(descriptor: int, count: int) -> Samples:
    """Read ``count`` float32 from a socket. Raises ``EOFError`` where there are fewer, and ``OSError``."""
    samples = np.empty(count, np.float32)
    view = samples.data.cast("B")
    while len(view):
        received = os.readv(descriptor, [view])
        if not received:
            raise EOFError("the connection ended within the samples")
        view = view[received:]
    return samples
