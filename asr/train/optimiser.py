"""AdamW over the parameters of a network, and the norms of its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asr.config.training_sections import OptimConfig


def make_optimiser(network: nn.Module, rate_factors: Mapping[str, float], config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW, with a group of parameters for each factor on the learning rate (its key ``factor``).

    Args:
        network: parameters with the factor 0 are frozen.
        rate_factors: by the name of a parameter, 1 for those that are not named.
        config: learning rate, betas, weight decay.
    """
    groups: list[dict[str, Any]] = []
    named = [(rate_factors.get(name, 1.0), parameter) for name, parameter in network.named_parameters()]
    for factor in sorted({factor for factor, _ in named}):
        mine = [parameter for other, parameter in named if other == factor]
        if factor == 0:
            for parameter in mine:
                parameter.requires_grad_(False)
            continue
        # Norms and biases are not shrunk: decay would pull them to 0, which means nothing for them.
        groups.append({"params": [p for p in mine if p.ndim > 1], "factor": factor})
        groups.append({"params": [p for p in mine if p.ndim <= 1], "factor": factor, "weight_decay": 0.0})
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,  # one pass over the weights instead of a dozen: six times faster on a CPU
    )


def module_norms(network: nn.Module) -> dict[str, Tensor]:
    """Gradient norm of each part of a network, as ``grad_norm/<part>``: its layers, where a part is a list of them.

    The norms are scalars on the network's device.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            *path, _ = name.split(".")
            depth = next((i + 1 for i, word in enumerate(path) if word.isdigit()), 1)
            groups.setdefault(".".join(path[:depth]), []).append(parameter.grad)
    return {f"grad_norm/{name}": nn.utils.get_total_norm(gradients) for name, gradients in groups.items()}
