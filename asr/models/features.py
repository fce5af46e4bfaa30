"""Log-mel filterbank features, one code path offline and streamed.

By default frame ``t`` covers samples ``t * hop .. t * hop + window - 1`` and nothing is padded. With
``features.centred`` it begins ``lead_samples`` earlier, and the recording is reflected at its ends.

The frames of a recording do not depend on its division into blocks. So the natural logarithm has an absolute floor,
not one relative to the clip's maximum. Normalisation uses one mean and standard deviation per mel bin, measured on the
training data. With ``features.adapt_s`` the mean follows the recording. This removes much of a microphone's colour and
level, and it does not depend on later samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from asr.config.sections import FeatureConfig, count_frames
from asr.errors import ModelError
from asr.models.description import FeatureStats
from asr.models.device import strict_fp32
from asr.models.mel import MEMORY_S, MIN_STD, mel_filterbank

# Frames transformed at once: bounds the memory of the FFT on hours of audio (about 130 MB) and changes no value.
BLOCK_FRAMES = 16384
ADAPT_FRAMES = 64
"""Frames of an adapting mean that one matrix product computes."""


class LogMel(nn.Module):
    """Waveforms to normalised log-mel frames, batched, on the device of the module.

    Without statistics (``stats=None``) the features are the plain log energies, and ``config.adapt_s`` has no effect.
    """

    window: Tensor
    bank: Tensor
    mean: Tensor
    inverse_std: Tensor
    sums: Tensor

    def __init__(self, config: FeatureConfig, stats: FeatureStats | None = None) -> None:
        super().__init__()
        self.config = config
        self.fft_size = 1 << (config.window_samples - 1).bit_length()
        bins = config.mel_bins
        if stats is not None and len(stats.mean) != bins:
            raise ModelError(f"feature statistics for {len(stats.mean)} mel bins do not fit a model of {bins}")
        # Statistics are measured on plain log energies, before any mean is subtracted.
        self.adapts = config.adapt_s > 0 and stats is not None
        mean = torch.tensor(stats.mean) if stats else torch.zeros(bins)
        std = torch.tensor(stats.std).clamp(min=MIN_STD) if stats else torch.ones(bins)
        window = torch.hann_window(config.window_samples, periodic=True)
        # Not persistent: they follow from the configuration and stats.json, so model.safetensors need not hold them.
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", torch.from_numpy(mel_filterbank(config, self.fft_size)), persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("inverse_std", 1 / std, persistent=False)
        lags = torch.arange(ADAPT_FRAMES)[:, None] - torch.arange(ADAPT_FRAMES)
        decay = math.exp(-config.hop_s / MEMORY_S)
        self.register_buffer("sums", torch.where(lags >= 0, decay ** lags.clamp(min=0), 0.0), persistent=False)

    def forward(
        self, samples: Tensor, lengths: Tensor, change: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features of a padded batch.

        Args:
            samples: ``(B, S)`` float32 in [-1, 1].
            lengths: ``(B,)`` int64, valid samples of each row.
            change: applied to the natural log energies ``(B, T, D)`` before they are normalised; augmentation.

        Returns:
            ``(B, T, D)`` float32 features, zero (the training mean) past each utterance's end, and ``(B,)`` int64
            frame counts; an utterance shorter than one window has 0 frames.
        """
        frames = self.count(lengths)
        if self.config.centred:
            samples = self._reflected(samples, lengths)
        features = self._normalised(samples, change)
        if self.adapts:
            features, _ = self._adapted(features, None)
        valid = torch.arange(features.shape[1], device=samples.device) < frames[:, None]
        return features.masked_fill(~valid[..., None], 0.0), frames

    def count(self, lengths: Tensor) -> Tensor:
        """Frames of recordings of ``lengths`` samples, any integer shape: ``count_frames``."""
        return count_frames(lengths, self.config)

    def following(self, samples: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features of the next whole frames of recordings.

        Args:
            samples: ``(B, S)`` float32, from the first sample of the next frame to the last sample of the last frame,
                as ``asr.models.framing`` gives them.
            level: the second result of the previous call, ``None`` at the start.

        Returns:
            Features ``(B, T, D)`` float32, and ``(B, D + 1)`` the sums of ``_adapted`` over the frames so far. The
            sums are empty if ``config.adapt_s`` is 0.
        """
        features = self._normalised(samples)
        return self._adapted(features, level) if self.adapts else (features, samples.new_zeros(len(samples), 0))

    def _reflected(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """The rows of ``samples (B, S)``, each reflected at its start and at the end of its own length, as in
        ``asr.models.framing``."""
        config = self.config
        frames = count_frames(samples.shape[1], config)
        if not frames:
            return samples[:, :0]
        begin = -config.lead_samples
        end = begin + (frames - 1) * config.hop_samples + config.window_samples
        index = torch.arange(begin, end, device=samples.device)
        index = torch.where(index < 0, -1 - index, index)
        behind = 2 * lengths[:, None] - 1 - index
        # Samples beyond the reflection belong to no frame of the row.
        return samples.gather(1, torch.where(index < lengths[:, None], index, behind).clamp(0, samples.shape[1] - 1))

    def _normalised(self, samples: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Features of all whole windows of ``samples (B, S)``, with the mean of the training data."""
        hop, window = self.config.hop_samples, self.config.window_samples
        if samples.shape[1] < window:
            return samples.new_zeros(samples.shape[0], 0, self.config.mel_bins)
        windows = samples.unfold(1, window, hop)
        blocks = [self._log_energies(block) for block in torch.split(windows, BLOCK_FRAMES, dim=1)]
        features = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        if change is not None:
            features = change(features)
        normalised: Tensor = (features - self.mean) * self.inverse_std
        return normalised

    def _adapted(self, features: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
        """Subtract the recording's mean up to each frame from normalised features ``(B, T, D)``.

        The mean is over the frames so far, with weights that fall with age, and ``adapt_s`` seconds of the training
        mean, which is zero here. ``level (B, D + 1)`` has the weighted sum of the frames and, last, the sum of the
        weights.
        """
        batch, _, bins = features.shape
        level = features.new_zeros(batch, bins + 1) if level is None else level
        prior = self.config.adapt_s / self.config.hop_s
        adapted = []
        for block in torch.split(features, ADAPT_FRAMES, dim=1):
            length = block.shape[1]
            if not length:
                break
            ones = block.new_ones(batch, length, 1)
            # The earlier frames are one frame older than the first row of the block.
            earlier = self.sums[1, 0] * self.sums[:length, 0, None] * level[:, None]
            with strict_fp32(block.device):
                totals = self.sums[:length, :length] @ torch.cat([block, ones], dim=2) + earlier
            adapted.append(block - totals[..., :bins] / (prior + totals[..., bins:]))
            level = totals[:, -1]
        return (torch.cat(adapted, dim=1) if adapted else features), level

    def stream(
        self, samples: Tensor, state: tuple[Tensor, Tensor | None] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """Features of the next block of several streams.

        Args:
            samples: ``(B, S)`` float32, any ``S`` from 0, as ``asr.models.framing`` gives them.
            state: the second result of the previous call, ``None`` at the start.

        Returns:
            The frames that are complete now ``(B, T, D)``, equal to those of the whole recording, and the state:
            the samples that later frames still need, ``(B, < window)``, and the sums of ``following``.
        """
        level = None
        if state is not None:
            rest, level = state
            samples = torch.cat([rest, samples], dim=1)
        features, level = self.following(samples, level)
        return features, (samples[:, features.shape[1] * self.config.hop_samples :], level)

    def _log_energies(self, windows: Tensor) -> Tensor:
        if self.config.preemphasis:
            # Within each window, as Kaldi does: a frame does not depend on the blocks of a stream.
            before = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
            windows = windows - self.config.preemphasis * before
        spectrum = torch.fft.rfft(windows * self.window, n=self.fft_size)
        power = spectrum.real.square() + spectrum.imag.square()
        # The logarithm magnifies errors of reduced precision in quiet bins.
        with strict_fp32(power.device):
            energies = power @ self.bank
        log_energies: Tensor = energies.clamp(min=self.config.floor).log()
        return log_energies


def measure_stats(log_mel: LogMel, waveforms: Iterable[np.ndarray]) -> FeatureStats:
    """``measure_padded_stats`` of ``waveforms``, each ``(S,)`` float32."""
    one_by_one = ((torch.from_numpy(samples)[None], torch.tensor([len(samples)])) for samples in waveforms)
    return measure_padded_stats(log_mel, one_by_one)


def measure_padded_stats(log_mel: LogMel, recordings: Iterable[tuple[Tensor, Tensor]]) -> FeatureStats:
    """Mean and standard deviation over all frames of ``recordings``, in float64, on the device of ``log_mel``.

    Args:
        log_mel: without statistics.
        recordings: samples ``(B, S)`` float32 and their lengths ``(B,)``, padded.

    Raises ``ValueError`` when there is not a single frame.
    """
    total = np.zeros(log_mel.config.mel_bins)
    squares = np.zeros_like(total)
    frames = 0
    device = log_mel.window.device
    for samples, lengths in recordings:
        with torch.inference_mode():
            features, counts = log_mel(samples.to(device), lengths.to(device))
            valid = torch.arange(features.shape[1], device=device) < counts[:, None]
            values = features[valid].double()
            if device.type == "cpu":
                rows = values.numpy()
                sums, powers = rows.sum(axis=0), np.square(rows).sum(axis=0)
            else:
                sums, powers = torch.stack([values.sum(0), values.square().sum(0)]).cpu().numpy()
        total += sums
        squares += powers
        frames += len(values)
    if frames == 0:
        raise ValueError("no frames to measure: every waveform is shorter than one window")
    mean = total / frames
    std = np.sqrt(np.maximum(squares / frames - mean**2, MIN_STD**2))
    return FeatureStats(tuple(mean.tolist()), tuple(std.tolist()), frames)
