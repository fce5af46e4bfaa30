"""Augmentation of features: spectral colour, frequency warp, and SpecAugment's masks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from asr.config.sections import FeatureConfig
from asr.models.mel import hz_to_mel, mel_to_hz

# Share of the highest frequency up to which the vocal tract's factor applies; above, the axis is bent back to its end.
WARP_KNEE = 0.6


def colour(log_energies: Tensor, colours: Tensor, config: FeatureConfig) -> Tensor:
    """Another vocal tract and microphone on natural log mel energies ``(B, T, D)``, before normalisation.

    ``colours`` ``(B, 3)`` as from ``draw_colour``, on the CPU. The factor stretches the frequency axis up to
    ``WARP_KNEE`` of its end, above which it is bent back to the end; the tilt is linear and the bow a cosine over the
    mel bins, each reaching its decibels of power at the ends.
    """
    edges = np.linspace(hz_to_mel(config.low_hz), hz_to_mel(config.high_hz), config.mel_bins + 2)
    hz = mel_to_hz(edges[1:-1])
    factor = colours[:, :1].double().numpy()
    top, knee = config.high_hz, WARP_KNEE * config.high_hz
    bent = np.where(hz <= knee, hz * factor, knee * factor + (top - knee * factor) * (hz - knee) / (top - knee))
    position = np.clip((hz_to_mel(bent) - edges[0]) / (edges[1] - edges[0]) - 1, 0, config.mel_bins - 1)
    below = np.minimum(position.astype(np.int64), max(config.mel_bins - 2, 0))
    device = log_energies.device
    index = torch.from_numpy(below).to(device)[:, None, :].expand(-1, log_energies.shape[1], -1)
    share = torch.from_numpy((position - below).astype(np.float32)).to(device)[:, None, :]
    above = (index + 1).clamp(max=config.mel_bins - 1)
    warped: Tensor = torch.lerp(log_energies.gather(2, index), log_energies.gather(2, above), share)
    bins = torch.linspace(-1, 1, config.mel_bins)
    curve = colours[:, 1:2] * bins + colours[:, 2:] * torch.cos(torch.pi * bins)
    return warped + (curve * (math.log(10) / 10)).to(device)[:, None, :]


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
