"""Samples of a stream at the model's rate, until the network takes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from asr.audio.samples import as_mono
from asr.config.sections import Config, whole_windows
from asr.errors import AudioError
from asr.models.framing import FramedSamples

PASS_FRAMES = 2048
"""Frames of features that one pass through the network takes at most: what a long block needs is bounded."""


class WaitingSamples:
    """Samples that were pushed and that no frame so far has used up.

    Args:
        config: the model's.
        rate_hz: of the samples to come.
        source: the stream's name, for messages.
    """

    def __init__(self, config: Config, rate_hz: int, source: str) -> None:
        self._config, self._rate_hz, self._source = config, rate_hz, source
        model_hz = config.features.sample_rate_hz
        self._resampler = None if rate_hz == model_hz else soxr.ResampleStream(rate_hz, model_hz, 1, "float32", "HQ")
        self._framing = FramedSamples(config.features)
        self._samples = np.zeros(0, np.float32)
        self._taken_frames = 0
        self.received = 0
        """Samples that were pushed, at their own rate."""
        self.closed = False
        """Whether no more samples will come."""

    def push(self, samples: npt.ArrayLike) -> None:
        """Add samples ``(n,)``, mono; floats in [-1, 1] or integers.

        Raises ``AudioError`` for another shape or type, for NaN and infinity, and behind ``close``.
        """
        if self.closed:
            raise AudioError(f"{self._source}: the stream is finished; begin another with start()")
        block = as_mono(samples, self._source, self._rate_hz, self.received)
        self.received += len(block)
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block)
        self._samples = np.concatenate([self._samples, self._framing.accept(block)])

    def close(self) -> None:
        """No more samples will come: get the resampler's last ones, and what is reflected behind them."""
        if not self.closed:
            rest = np.zeros(0, np.float32)
            if self._resampler is not None:
                rest = self._resampler.resample_chunk(rest, last=True)
            rest = self._framing.accept(rest)
            self._samples = np.concatenate([self._samples, rest, self._framing.finish()])
        self.closed = True

    def ready(self) -> int:
        """Frames of features for the next pass: all at the end; else so many that none waits for a later one."""
        frames = whole_windows(len(self._samples), self._config.features)
        if not self.closed:
            # An output frame sees the features up to the first of its own; what comes behind that can wait.
            factor = self._config.model.subsampling
            taken = self._taken_frames
            frames = max(0, (taken + frames - 1) // factor * factor + 1 - taken) if frames else 0
        return min(frames, PASS_FRAMES)

    def is_last(self, frames: int) -> bool:
        """Whether nothing comes behind the next ``frames`` frames."""
        return self.closed and whole_windows(len(self._samples), self._config.features) == frames

    def take(self, frames: int) -> npt.NDArray[np.float32]:
        """The samples that the next ``frames`` frames are made of; those that no later one needs are dropped."""
        if not frames:
            return np.zeros(0, np.float32)
        features = self._config.features
        taken = self._samples[: (frames - 1) * features.hop_samples + features.window_samples]
        self._samples = self._samples[frames * features.hop_samples :]
        self._taken_frames += frames
        return taken
