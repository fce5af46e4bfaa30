"""The process that trains: requests to stop, memory, and its run directory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import TrainingError


@dataclass
class StopRequest:
    """Set when the process was asked to stop."""

    requested: bool = False


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request that is honoured between steps; a second one interrupts."""
    stop = StopRequest()

    def handle(number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are not ours to handle
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for reuse instead of giving each back to the system and asking again.

    Activations of tens of megabytes come and go at every step, and each time their pages would be zeroed and mapped
    anew, in system time. A no-op where the C library is not glibc.

    What is kept must stay whole: oneDNN would remember a primitive for each new shape of a batch, made between the
    activations of that step, so that later ones find no room beside it and the heap grows with every shape. It makes
    them anew instead, which costs a few per cent at most. To be called before the first network runs; the variable,
    when it is set already, is the user's.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD
        libc.mallopt(ctypes.c_int(-3), ctypes.c_int(2**30))  # M_MMAP_THRESHOLD
    except (OSError, AttributeError):
        return
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run directory against other trainings. Raises ``TrainingError`` where another process holds it.

    The lock is the kernel's and goes with the process, however that ends. Where there is none (Windows, some network
    file systems) nothing is held.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"{folder}: another process is training in it; choose another train.output") from error
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
