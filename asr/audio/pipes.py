"""Pipes and standard input: what they hold, as a file in memory or as raw samples, within bounds."""

from __future__ import annotations

import io
import math
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from asr.audio.headers import HEAD_BYTES, STDIN_NAME, Reader, argument, check_rate, known
from asr.errors import AudioError, TooLongError

_STREAM_BYTES_PER_S = 768_000  # of a pipe under max_duration_s: 48 kHz, 4 channels, 32 bit


def standard_input() -> BinaryIO:
    """Standard input as bytes. Raises ``AudioError`` where it is closed."""
    if sys.stdin is None:
        raise AudioError(f"{STDIN_NAME}: expected audio, but it is closed; pipe or redirect a file into it")
    return sys.stdin.buffer


def in_memory(pipe: Any, name: str, max_duration_s: float | None = None, head: bytes = b"") -> io.BytesIO:
    """What a pipe holds, as a file in memory; ``head`` has been read of it already.

    Raises ``AudioError`` before the whole is read where it does not begin as sound does or has no end within
    ``max_duration_s`` (``TooLongError``).
    """
    reader = Reader(pipe)
    head += reader.read(HEAD_BYTES - len(head))
    if reader.error is not None:
        raise AudioError(f"{name}: cannot be read: {reader.error}") from reader.error
    if head and not known(head):
        raise AudioError(
            f"{name}: cannot be decoded: expected an audio file, got unknown first bytes {head[:8]!r}; "
            f"convert it to WAV: ffmpeg -i {argument(name)} out.wav"
        )
    limit_s = math.inf if max_duration_s is None else max_duration_s
    return _drained(pipe, name, head, 2**20 + limit_s * _STREAM_BYTES_PER_S, limit_s)


def raw_samples(
    pipe: Any, name: str, rate_hz: int, max_duration_s: float | None = None, head: bytes = b""
) -> npt.NDArray[np.int16]:
    """The samples ``(S,)`` of a pipe that holds nothing else: 16 bits, signed, little-endian, mono.

    ``head`` has been read of it already; a last half sample is dropped. Raises ``TooLongError`` as soon as there are
    more than ``max_duration_s``.
    """
    check_rate(rate_hz, f"{name}: the rate of raw samples")
    limit_s = math.inf if max_duration_s is None else max_duration_s
    content = _drained(pipe, name, head, 2 * limit_s * rate_hz + 1, limit_s).getvalue()
    return np.frombuffer(content[: len(content) // 2 * 2], "<i2")


def _drained(pipe: Any, name: str, head: bytes, limit_bytes: float, limit_s: float) -> io.BytesIO:
    buffer = io.BytesIO()
    buffer.name = name
    chunk = head
    while chunk:
        buffer.write(chunk)
        if buffer.tell() > limit_bytes:
            raise too_long(name, f"more than {limit_s:g} s (over {limit_bytes / 1e6:.3g} MB)", limit_s)
        chunk = pipe.read(2**20)
    return buffer


def too_long(name: str, got: str, max_duration_s: float) -> TooLongError:
    """The error for audio beyond ``max_duration_s``; ``got`` says how long it is."""
    return TooLongError(f"{name}: expected at most max_duration_s={max_duration_s:g} s of audio, got {got}; cut it")
