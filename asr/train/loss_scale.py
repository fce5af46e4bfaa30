"""The factor on the loss of a training in fp16, whose small gradients would vanish otherwise.

It halves when gradients overflow and doubles after many steps without an overflow. It lives on the device: the host
does not wait for a step to learn the factor of the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_SCALE = 2.0**16
SCALE_UP_STEPS = 1000
"""Steps without an overflow before a larger factor is tried."""


class LossScale:
    """``value`` multiplies the loss, and the gradients are divided by it: a float32 scalar on the device.

    ``steps`` (int64 scalar) counts the steps since ``value`` last changed. A factor of 1 does not fall: a step that
    still overflows is a bad one.
    """

    def __init__(self, value: float, steps: int, device: torch.device) -> None:
        self.value = torch.full((), value, dtype=torch.float32, device=device)
        self.steps = torch.full((), steps, dtype=torch.int64, device=device)

    def update(self, overflow: Tensor) -> None:
        """Count a step; ``overflow`` is a bool scalar on the device, whether its gradients are not finite."""
        counted = self.steps + 1
        falls = overflow & (self.value > 1)
        rises = ~overflow & (counted >= SCALE_UP_STEPS) & (self.value < LARGEST_SCALE)
        self.value = torch.where(falls, self.value / 2, torch.where(rises, self.value * 2, self.value))
        self.steps = torch.where(overflow, self.steps, counted).masked_fill(falls | rises, 0)
