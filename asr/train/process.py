"""The process that trains: requests to stop, memory, and its run directory."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import platform
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from asr.errors import ConfigError, TrainingError

_Network = TypeVar("_Network", bound=nn.Module)

LOCK = ".asr-lock"
"""File of a run directory that names the process that trains there; one that was killed leaves it behind."""


def make_network(make: Callable[[], _Network]) -> _Network:
    """The network that ``make`` makes. Raises ``ConfigError`` for sizes for which there is no memory here."""
    try:
        return make()
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:  # torch has one for each reason
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"model: no network of these sizes can be made on this machine: {reason}") from error


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

    The lock is the kernel's and goes with the process, however that ends; the file ``LOCK`` names the process that
    holds it, and that the folder is a training's. Where there are no locks (Windows, some network file systems) nothing
    is held. A folder that was made for this and in which nothing was written is removed again.
    """
    made = not os.path.exists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot make the run directory: {error.strerror or error}") from error
    try:
        # A folder that cannot be written is named by who writes what is needed.
        with contextlib.suppress(OSError):
            started = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
            (folder / LOCK).write_text(f"process {os.getpid()} on {platform.node()}, started {started}\n")
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
            if made:
                folder.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the kernel's lock of ``folder``, None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        holder = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            holder = f" ({(folder / LOCK).read_text(encoding='utf-8').strip()[:200]})"
        message = f"{folder}: another process is training in it{holder}; choose another train.output"
        raise TrainingError(message) from error
    except OSError:  # a file system without locks
        pass
    return descriptor
