"""Measures recordings and segments in one pass: level, peak, clipping and length, at the file's own rate."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from asr.audio import read, samples
from asr.cloud.addresses import without_secrets
from asr.errors import AudioError

SILENT_PEAK = 1e-3
"""Silent: half the distance from the lowest to the highest sample is below this (-60 dBFS)."""
CLIPPED_PEAK = 0.1
CLIPPED_SAMPLES = 5
CLIPPED_SHARE = 1e-4
"""Clipped: flat tops (three equal samples in a row within 1 % of the peak, which is at least ``CLIPPED_PEAK``)
make up this share of the samples, and are no fewer than ``CLIPPED_SAMPLES``. A clipping that was resampled or coded
with loss afterwards leaves no flat tops and is not seen; nor is one of a single channel among others."""


class Meter:
    """Level, peak, clipping and length of one utterance, from the blocks of its file."""

    def __init__(self, start_s: float, end_s: float | None) -> None:
        self.start_s, self.end_s = start_s, end_s
        self.rate_hz = 0
        self.samples = 0
        self.low, self.high = math.inf, -math.inf
        self.flat = 0
        self.error = ""
        self._sums = [0.0, 0.0]
        self._hash = hashlib.blake2b(digest_size=16)
        self._tail = np.zeros(0, np.float32)

    def feed(self, rate_hz: int, at: int, block: samples.Samples) -> bool:
        """Take what belongs to the utterance from a block that starts at sample ``at``; False: no more is wanted."""
        self.rate_hz = rate_hz
        first = round(self.start_s * rate_hz)
        last = at + len(block) if self.end_s is None else round(self.end_s * rate_hz)
        part = block[max(0, first - at) : max(0, last - at)]
        if len(part):
            self._measure(part)
        return self.end_s is None or at + len(block) < last

    def _measure(self, part: samples.Samples) -> None:
        self.samples += len(part)
        self._hash.update(part.tobytes())
        exact = part.astype(np.float64)
        self._sums[0] += float(exact.sum())
        self._sums[1] += float(exact @ exact)
        before, peak = self.peak, max(float(part.max()), -float(part.min()))
        self.low, self.high = min(self.low, float(part.min())), max(self.high, float(part.max()))
        if peak * 0.99 > before:
            self.flat = 0  # what was the top so far is none
        joined = np.concatenate([self._tail, part])
        level = np.abs(joined[2:]) >= 0.99 * self.peak
        equal = joined[1:] == joined[:-1]
        self.flat += int(np.count_nonzero(level & equal[1:] & equal[:-1]))
        self._tail = joined[-2:]

    @property
    def peak(self) -> float:
        return max(self.high, -self.low, 0.0)

    @property
    def duration_s(self) -> float:
        return self.samples / self.rate_hz

    @property
    def level(self) -> float:
        """Root mean square about the mean: a constant offset is no sound."""
        mean = self._sums[0] / self.samples
        return math.sqrt(max(0.0, self._sums[1] / self.samples - mean * mean))

    @property
    def silent(self) -> bool:
        return (self.high - self.low) / 2 < SILENT_PEAK

    @property
    def clipped(self) -> bool:
        needed = max(CLIPPED_SAMPLES, CLIPPED_SHARE * self.samples)
        return not self.silent and self.peak >= CLIPPED_PEAK and self.flat >= needed

    @property
    def content(self) -> tuple[int, int, bytes]:
        """Equal for equal samples at an equal rate, also if they come from different files."""
        return self.rate_hz, self.samples, self._hash.digest()


def measure_levels(
    files: Mapping[tuple[str, int | None], Sequence[Meter]],
    workers: int,
    opened: Callable[[str], str | BinaryIO] = lambda name: name,
) -> None:
    """Read each file once, in ``workers`` threads, and feed it to its meters; those it fails for learn why.

    ``files``: the meters by path and channel (None: the mean of the channels). ``opened`` gives the file of a path
    that is only a name.
    """
    with (
        tqdm(
            total=sum(map(len, files.values())), desc="reading audio", unit="utterance", disable=None, leave=False
        ) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        pending: deque[Future[int]] = deque()
        try:
            for (name, channel), meters in files.items():
                pending.append(pool.submit(_measure, name, channel, meters, opened))
                if len(pending) > 4 * workers:
                    bar.update(pending.popleft().result())
            while pending:
                bar.update(pending.popleft().result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _measure(name: str, channel: int | None, meters: Sequence[Meter], opened: Callable[[str], str | BinaryIO]) -> int:
    """Feed a file to the meters of its utterances; those it fails for learn why. Returns how many there are."""
    open_meters, at = list(meters), 0
    try:
        for rate_hz, block in read.load_blocks(opened(name), channel):
            open_meters = [meter for meter in open_meters if meter.feed(rate_hz, at, block)]
            at += len(block)
            if not open_meters:
                break
    except AudioError as error:
        for meter in open_meters:
            meter.error = str(error)
        return len(meters)
    for meter in meters:
        if not at:
            meter.error = f"{without_secrets(name)}: expected audio, got no samples"
        elif not meter.samples:
            ends = f"the audio ends at {at / rate_hz:.3f} s"
            meter.error = f"{without_secrets(name)}: the utterance starts at {meter.start_s:g} s, {ends}"
    return len(meters)
