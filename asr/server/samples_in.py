"""Bytes of a client as samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr.errors import ConfigError
from asr.server.messages import ENCODINGS

WIDTHS = {"s16le": 2, "mulaw": 1, "alaw": 1, "f32le": 4}
"""Bytes of a sample."""


def as_samples(data: bytes, encoding: str) -> npt.NDArray[np.float32]:
    """Whole samples of an encoding as float32 in [-1, 1]. Raises ``ConfigError`` for an unknown encoding."""
    if encoding == "s16le":
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    if encoding == "f32le":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if encoding not in ENCODINGS:
        raise ConfigError(f"encoding: expected one of {', '.join(ENCODINGS)}, got {encoding!r}"[:200])
    table = mulaw_table() if encoding == "mulaw" else alaw_table()
    return table[np.frombuffer(data, np.uint8)]


def mulaw_table() -> npt.NDArray[np.float32]:
    """The 256 values of G.711 µ-law as float32 in [-1, 1]."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    size = ((2 * mantissa + 33) << exponent) - 33
    return (np.where(code & 128, -size, size) * 4 / 32768).astype(np.float32)


def alaw_table() -> npt.NDArray[np.float32]:
    """The 256 values of G.711 A-law as float32 in [-1, 1]."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    size = np.where(exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent, 1) - 1)
    return (np.where(code & 128, size, -size) * 8 / 32768).astype(np.float32)
