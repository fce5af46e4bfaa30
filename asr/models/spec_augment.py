"""Augmentation of features: spectral colour, frequency warp, and SpecAugment's masks."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.config.sections import FeatureConfig
from asr.models.mel import hz_to_mel, mel_to_hz

# Share of the highest frequency up to which the vocal tract's factor applies; above, the axis is bent back to its end.
WARP_KNEE = 0.6


def colour(log_energies: Tensor, colours: Tensor, config: FeatureConfig) -> Tensor:
    """Another vocal tract and microphone on natural log mel energies ``(B, T, D)``, before normalisation.

    ``colours`` ``(B, 3)`` as from ``draw_colour``, on the device of the energies. The factor stretches the frequency
    axis up to ``WARP_KNEE`` of its end, above which it is bent back to the end; the tilt is linear and the bow a cosine
    over the mel bins, each reaching its decibels of power at the ends.
    """
    bins, top, knee = config.mel_bins, config.high_hz, WARP_KNEE * config.high_hz
    axis = _mel_axis(config, log_energies.device)
    factor = colours[:, :1].double()
    bent = torch.where(
        axis.hz <= knee, axis.hz * factor, knee * factor + (top - knee * factor) * (axis.hz - knee) / (top - knee)
    )
    # As in ``hz_to_mel``, on the device: colours that are there do not come back.
    mel = torch.where(bent < 1000, bent * 3 / 200, 15 + torch.log(bent.clamp(min=1000) / 1000) * 27 / math.log(6.4))
    position = ((mel - axis.lowest_mel) / axis.step_mel - 1).clamp(0, bins - 1)
    below = position.long().clamp(max=max(bins - 2, 0))
    share = (position - below).float()[:, None, :]
    index = below[:, None, :].expand(-1, log_energies.shape[1], -1)
    above = (index + 1).clamp(max=bins - 1)
    warped: Tensor = torch.lerp(log_energies.gather(2, index), log_energies.gather(2, above), share)
    curve = colours[:, 1:2] * axis.across + colours[:, 2:] * torch.cos(torch.pi * axis.across)
    return warped + (curve * (math.log(10) / 10))[:, None, :]


class _MelAxis(NamedTuple):
    """The mel bins of a configuration on a device."""

    hz: Tensor
    """Their centres ``(D,)`` float64."""
    across: Tensor
    """Their places from -1 to 1 ``(D,)`` float32."""
    lowest_mel: float
    step_mel: float


@functools.lru_cache(maxsize=8)
def _mel_axis(config: FeatureConfig, device: torch.device) -> _MelAxis:
    edges = np.linspace(hz_to_mel(config.low_hz), hz_to_mel(config.high_hz), config.mel_bins + 2)
    with torch.inference_mode(False):  # what is kept serves training as well
        hz = torch.from_numpy(mel_to_hz(edges[1:-1])).to(device)
        across = torch.linspace(-1, 1, config.mel_bins).to(device)
    return _MelAxis(hz, across, float(edges[0]), float(edges[1] - edges[0]))


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
