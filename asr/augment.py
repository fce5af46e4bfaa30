"""Training-time augmentation. Every draw comes from a generator passed in, so that a seed fixes all of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr import audio
from asr.config import AugmentConfig


def draw_speeds(count: int, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """``(count,)`` float64 of the configured speed factors, each drawn uniformly."""
    return rng.choice(np.array(config.speeds), size=count)


def change_speed(samples: np.ndarray, sample_rate_hz: int, speed: float) -> np.ndarray:
    """Play ``samples`` ``(S,)`` ``speed`` times as fast, pitch and formants included (Ko et al. 2015)."""
    if speed == 1:
        return samples
    return audio.resample(samples, round(sample_rate_hz * speed), sample_rate_hz, quality="LQ")


def draw_masks(frames: int, bins: int, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment masks (Park et al. 2019) of one utterance.

    Returns ``(time_masks + freq_masks, 2)`` int64 rows of (first, one past last): first the masked frames, then the
    masked bins. Time masks are no wider than ``time_mask_ratio`` of the utterance.
    """
    widest = min(config.time_mask_frames, int(frames * config.time_mask_ratio))
    rows = []
    for count, size, limit in ((config.time_masks, frames, widest), (config.freq_masks, bins, config.freq_mask_bins)):
        for _ in range(count):
            width = int(rng.integers(min(limit, size) + 1))
            first = int(rng.integers(size - width + 1))
            rows.append((first, first + width))
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def apply_masks(features: Tensor, masks: Tensor, time_masks: int) -> Tensor:
    """Set masked cells of ``features`` ``(B, T, D)`` to 0, the training mean.

    ``masks`` is ``(B, M, 2)`` int64 as from ``draw_masks``; the first ``time_masks`` of the ``M`` are over time.
    """
    time = torch.arange(features.shape[1], device=features.device)
    bins = torch.arange(features.shape[2], device=features.device)

    def covered(positions: Tensor, rows: Tensor) -> Tensor:
        return ((positions >= rows[..., :1]) & (positions < rows[..., 1:])).any(dim=1)

    over_time = covered(time, masks[:, :time_masks])
    over_bins = covered(bins, masks[:, time_masks:])
    return features.masked_fill(over_time[:, :, None] | over_bins[:, None, :], 0.0)
