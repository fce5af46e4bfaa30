"""Recordings for the page: their loudness, and their sound in a form that every browser plays."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from asr.audio.read import load_blocks, stream_audio
from asr.audio.samples import Samples
from asr.errors import AudioError, TooLongError

PEAKS_PER_S = 50
MOST_PEAKS = 20_000
"""Of a recording; longer ones have fewer in a second."""
PLAYED_HZ = 48_000
"""Highest rate of the sound that browsers get."""


@dataclass(frozen=True)
class Loudness:
    """A recording's largest samples, ``per_s`` a second, as bytes from 0 (silence) to 255 (full scale)."""

    duration_s: float
    per_s: float
    peaks: npt.NDArray[np.uint8]


def loudness(path: str | os.PathLike[str], most_s: float) -> Loudness:
    """The loudness of a recording, read in blocks. Raises ``AudioError``, and ``TooLongError`` beyond ``most_s``."""
    rate_hz, count, found = 0, 0, []
    rest = np.zeros(0, np.float32)
    for rate, block in load_blocks(path):
        rate_hz, count = rate, count + len(block)
        if count > most_s * rate_hz:
            raise TooLongError(f"{path}: expected at most {most_s:g} s, got more; cut the recording")
        hop = max(1, round(rate_hz / PEAKS_PER_S))
        rest = np.concatenate([rest, np.abs(block)])
        whole = len(rest) // hop * hop
        found.append(rest[:whole].reshape(-1, hop).max(axis=1))
        rest = rest[whole:]
    if not count:
        raise AudioError(f"{path}: expected audio, got no samples")
    if len(rest):
        found.append(rest.max(keepdims=True))
    peaks = np.concatenate(found)
    joined = -(-len(peaks) // MOST_PEAKS)
    peaks = np.maximum.reduceat(peaks, np.arange(0, len(peaks), joined))
    per_s = rate_hz / max(1, round(rate_hz / PEAKS_PER_S)) / joined
    return Loudness(count / rate_hz, per_s, np.round(255 * peaks.clip(0, 1)).astype(np.uint8))


def write_flac(path: str | os.PathLike[str], target: BinaryIO, most_s: float) -> None:
    """A recording, mixed to mono, as FLAC of 16 bits at its own rate, at most ``PLAYED_HZ``. Raises ``AudioError``."""
    import soundfile

    blocks = mono_blocks_of(path, PLAYED_HZ, most_s)
    rate_hz, first = next(blocks)
    with soundfile.SoundFile(target, "w", rate_hz, 1, "PCM_16", format="FLAC") as file:
        file.write(first.clip(-1, 1))
        for _, block in blocks:
            file.write(block.clip(-1, 1))


def mono_blocks_of(path: str | os.PathLike[str], highest_hz: int, most_s: float) -> Iterator[tuple[int, Samples]]:
    """A recording in blocks at its own rate, or resampled to ``highest_hz`` where its own is higher; at least one.

    Raises ``AudioError`` as ``load_audio``, also for a recording without samples.
    """
    first = next(iter(load_blocks(path)), None)
    if first is None:
        raise AudioError(f"{path}: expected audio, got no samples")
    rate_hz = min(first[0], highest_hz)
    return zip(itertools.repeat(rate_hz), stream_audio(path, rate_hz, max_duration_s=most_s), strict=False)
