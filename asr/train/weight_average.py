"""A running average of a network's weights, which is validated and saved in their place."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of ``network`` whose weights follow those of the original, without gradients."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._averages: list[Tensor] = list(self.network.parameters())
        self._weights: list[Tensor] = list(network.parameters())

    def follow(self, share: float, unless: Tensor | None = None) -> None:
        """Move the average by ``share`` of the way to the weights.

        ``unless`` is a bool scalar on the weights' device: where it is true the average stays. The host does not wait
        for its value.
        """
        device = self._weights[0].device
        # Filled on the device: a number that is copied there from the host would be waited for.
        part = torch.full((), share, dtype=torch.float32, device=device)
        if unless is not None:
            part.masked_fill_(unless, 0.0)
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._weights, [part] * len(self._weights))
