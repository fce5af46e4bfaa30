"""Learning-rate schedules, as functions of the share of training done."""

from __future__ import annotations

import math

from asr.config.sections import OptimConfig


def learning_rate(progress: float, config: OptimConfig) -> float:
    """Linear warm-up to ``learning_rate``, then half a cosine down to ``final_ratio`` of it.

    Args:
        progress: share of all steps done, 0 to 1.
        config: peak, warm-up share and final ratio.
    """
    if progress < config.warmup_ratio:
        return config.learning_rate * progress / config.warmup_ratio
    if config.warmup_ratio >= 1:
        return config.learning_rate
    decayed = (progress - config.warmup_ratio) / (1 - config.warmup_ratio)
    cosine = 0.5 * (1 + math.cos(math.pi * min(decayed, 1)))
    return config.learning_rate * (config.final_ratio + (1 - config.final_ratio) * cosine)
