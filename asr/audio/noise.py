"""How loud a recording is, and how far its speech stands above its background noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from asr.audio.samples import Samples

FRAME_S = 0.02
"""Length of the frames whose powers are compared."""
QUIET_SHARE = 0.1
"""Share of the frames that is taken for background."""
LEAST_FRAMES = 10
"""Fewest frames that show a background: 0.2 s."""
SILENCE = 1e-12
"""Power of a frame that is digital silence, or nearly so."""
RANGE_DB = (-10.0, 60.0)
"""Limits of the estimate: beyond them it says nothing."""


@dataclass(frozen=True)
class NoiseLevel:
    """``level_db``: power of the recording (dB, a full-scale square wave is 0); ``snr_db``: speech above noise.

    None stands for what cannot be measured: the level of digital silence, the ratio of recordings below
    ``LEAST_FRAMES`` frames.
    """

    level_db: float | None
    snr_db: float | None


def noise_level(blocks: Iterable[Samples], sample_rate_hz: int) -> NoiseLevel:
    """Estimate the noise of one utterance from the powers of its frames.

    The mean power of the quietest tenth of the frames is taken for the noise. What the mean of all frames has beyond it
    is taken for the speech. Frames of digital silence count in neither. The estimate assumes a steady noise and a pause
    of a tenth of the time; speech without any pause seems noisier than it is (``docs/scoring.md`` has figures).

    Args:
        blocks: the utterance in pieces, mono ``(S,)`` floats in [-1, 1]; a whole one is ``[samples]``.
        sample_rate_hz: their rate.
    """
    size = max(1, round(FRAME_S * sample_rate_hz))
    rest = np.zeros(0)
    energy, count = 0.0, 0
    found = []
    for block in blocks:
        exact = block.astype(np.float64)
        energy += float(exact @ exact)
        count += len(exact)
        rest = np.concatenate([rest, exact])
        whole = len(rest) // size * size
        found.append(rest[:whole].reshape(-1, size).var(axis=1))  # a constant offset is no sound
        rest = rest[whole:]
    level_db = 10 * math.log10(energy / count) if energy > 0 else None
    powers = np.sort(np.concatenate(found)) if found else np.zeros(0)
    powers = powers[powers > SILENCE]
    if len(powers) < LEAST_FRAMES:
        return NoiseLevel(level_db, None)
    noise = float(powers[: math.ceil(QUIET_SHARE * len(powers))].mean())
    speech = max(float(powers.mean()) - noise, noise * 1e-9)
    low, high = RANGE_DB
    return NoiseLevel(level_db, min(high, max(low, 10 * math.log10(speech / noise))))
