"""Arrays of samples: checked, mixed to mono, resampled."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import soxr

from asr.audio.headers import (
    check_rate,
)
from asr.errors import AudioError

LOUDEST = 10.0
"""Largest absolute sample value; full scale is 1, so what lies above is integer audio that nobody scaled."""

_MAX_CHANNELS = 1024  # libsndfile's own limit

Samples: TypeAlias = npt.NDArray[np.float32]


class Array(Protocol):
    """Any array that numpy can read: numpy arrays, torch tensors."""

    def __array__(self, *args: Any, **kwargs: Any) -> npt.NDArray[Any]: ...


def as_mono(samples: npt.ArrayLike, name: str, rate_hz: int, at: int = 0) -> Samples:
    """A block of a live source as mono float32 ``(n,)``: floats in [-1, 1] or integers, ``(n,)`` or ``(n, C)``.

    ``at`` is the block's first sample, for messages. Raises ``AudioError`` as ``load_audio`` does for arrays.
    """
    block = scaled(as_columns(samples, name))
    if not len(block):
        return np.zeros(0, np.float32)
    return mono_block(block, name, rate_hz, at)


def resample(samples: npt.ArrayLike, from_hz: float, to_hz: float, quality: str = "HQ") -> Samples:
    """Band-limited resampling of ``(S,)`` or ``(S, C)`` to ``round(S * to_hz / from_hz)`` float32 samples.

    ``quality`` is soxr's: ``QQ``, ``LQ``, ``MQ``, ``HQ`` or ``VHQ``; HQ keeps 91 % of the lower Nyquist band flat and
    suppresses aliases by 120 dB. Equal rates return the input as float32. Raises ``AudioError`` for other shapes,
    rates outside 1 to 768 kHz or an unknown quality.
    """
    check_rate(from_hz, "resample: from_hz", whole=False)
    check_rate(to_hz, "resample: to_hz", whole=False)
    if quality not in ("QQ", "LQ", "MQ", "HQ", "VHQ"):
        raise AudioError(f"resample: quality: expected QQ, LQ, MQ, HQ or VHQ, got {quality!r}")
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim not in (1, 2):
        raise AudioError(f"resample: expected shape (S,) or (S, C), got {array.shape}")
    if from_hz == to_hz or array.size == 0:
        return array
    return cast(Samples, soxr.resample(array, from_hz, to_hz, quality=quality))


def mono_block(block: npt.NDArray[Any], name: str, rate_hz: int, at: int, channel: int | None = None) -> Samples:
    """``(n, C)`` -> float32 ``(n,)``, refusing what is not sound; ``at`` is the block's first sample."""
    if channel is not None:
        block = block[:, channel, None]
    peak = max(block.max(), -block.min())  # NaN if there is one, so that the comparison fails
    if not peak <= LOUDEST:
        bad = np.abs(block).max(axis=1)
        index = int(np.argmin(bad <= LOUDEST))
        place = f"{name}: sample {at + index} ({(at + index) / rate_hz:.3f} s)"
        if not np.isfinite(bad[index]):
            raise AudioError(f"{place} is not a finite number; remove NaN and infinity from the samples")
        raise AudioError(
            f"{place} is {bad[index]:g}; expected floats in [-1, 1]: divide 16-bit values by 32768 "
            "(integer arrays are scaled here)"
        )
    mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    return mono.astype(np.float32, copy=False)  # the caller concatenates, which copies


# ---------------------------------------------------------------------------------------------------- arrays


def as_columns(source: Any, name: str) -> npt.NDArray[Any]:
    """A numpy or torch array as ``(S, C)``, of a type that ``scaled`` knows."""
    if hasattr(source, "detach"):  # a torch tensor, perhaps on a GPU, with a gradient or in bfloat16
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    array = np.asarray(source)
    if array.dtype.kind != "f" and array.dtype.str[1:] not in ("i1", "u1", "i2", "i4"):
        raise AudioError(f"{name}: expected float, int16 or int32 samples, got {array.dtype}")
    if array.ndim not in (1, 2):
        raise AudioError(f"{name}: expected shape (S,) or (S, C), got {array.shape}")
    if array.ndim == 2 and array.shape[1] == 0:
        raise AudioError(f"{name}: expected at least one channel, got shape {array.shape}")
    if array.ndim == 2 and (array.shape[0] <= 8 < array.shape[1] or array.shape[1] > _MAX_CHANNELS):
        raise AudioError(f"{name}: expected shape (S, C), got {array.shape}, which looks like (C, S): pass samples.T")
    return array[:, None] if array.ndim == 1 else array


def scaled(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block.dtype.kind == "f":
        return block if block.dtype == np.float32 else block.astype(np.float64)
    if block.dtype == np.uint8:
        return (block.astype(np.float32) - 128) / 128  # 8-bit WAV is unsigned
    return block / float(2 ** (8 * block.dtype.itemsize - 1))
