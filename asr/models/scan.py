"""Recurrences without a loop over time: ``h_t = a_t h_{t-1} + b_t``, solved by a parallel scan, and cells made of it.

Gates depend on the input only, never on the previous state, so all gates are known before the recurrence starts. The
recurrence is then associative, and takes ``log2(T)`` whole-sequence operations (Hillis & Steele 1986; Blelloch 1990)
instead of ``T`` small ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Scan(torch.autograd.Function):
    """The scan with its own gradient, which is also a scan: only ``a`` and ``h`` are kept for it."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        b = b.clone()
        b[:, 0] += a[:, 0] * start
        h = _scan(a, b)
        ctx.save_for_backward(a, h, start)
        return h

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, start = ctx.saved_tensors
        # g_t = dL/dh_t + a_{t+1} g_{t+1}: the same recurrence, backwards in time.
        later = functional.pad(a[:, 1:], (0, 0, 0, 1))
        g = _scan(later.flip(1), gradient.flip(1).contiguous()).flip(1)
        previous = torch.cat([start[:, None], h[:, :-1]], dim=1)
        return g * previous, g, g[:, 0] * a[:, 0]


def _scan(a: Tensor, b: Tensor) -> Tensor:
    """``h_t = a_t h_{t-1} + b_t`` from ``h_{-1} = 0``; ``a`` and ``b`` ``(B, T, D)``, neither is kept."""
    frames = a.shape[1]
    reach = 1
    while reach < frames:
        # (a, b) of a span times (a, b) of the span before it: the new b first, from the old a.
        b = torch.cat([b[:, :reach], torch.addcmul(b[:, reach:], a[:, reach:], b[:, :-reach])], dim=1)
        if 2 * reach < frames:
            a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], dim=1)
        reach *= 2
    return b


def linear_scan(a: Tensor, b: Tensor, start: Tensor | None = None) -> Tensor:
    """``h_t = a_t h_{t-1} + b_t`` for all ``t``.

    Args:
        a: ``(B, T, D)``, decays.
        b: ``(B, T, D)``, inputs.
        start: ``(B, D)``, the state before the first frame; None is zero.

    Returns:
        ``(B, T, D)`` the states. No division and no logarithm: exact to rounding for any decays, 0 included.
    """
    if start is None:
        start = a.new_zeros(a.shape[0], a.shape[2])
    states: Tensor = _Scan.apply(a, b, start)
    return states


class MinGRU(nn.Module):
    """minGRU (Feng et al. 2024): ``h_t = (1 - z_t) h_{t-1} + z_t W x_t`` with ``z_t = sigmoid(W_z x_t)``."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs, 2 * hidden)
        with torch.no_grad():
            for part in torch.split(self.gates.weight, hidden):
                nn.init.xavier_uniform_(part)
            # Time constants from about 2 to 50 frames, so that units start with memories of different reach.
            shares = torch.logspace(math.log10(1 / 50), math.log10(1 / 2), hidden)
            self.gates.bias[:hidden] = torch.log(shares / (1 - shares))
            self.gates.bias[hidden:] = 0

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, T, inputs)`` -> ``(B, T, hidden)`` and the state ``(B, hidden)`` after the last frame."""
        update, candidate = self.gates(x).chunk(2, dim=2)
        update = torch.sigmoid(update)
        states = linear_scan(1 - update, update * candidate, state)
        return states, states[:, -1]


class GatedStateSpace(nn.Module):
    """A diagonal state-space layer with input-dependent steps and a multiplicative gate (S5, Mamba).

    ``h_t = exp(-d_t r) h_{t-1} + (1 - exp(-d_t r)) u_t`` and ``y_t = (h_t + k u_t) silu(g_t)``, where the input ``u``,
    the step ``d = softplus(.)`` and the gate ``g`` are linear in ``x``; the rates ``r > 0`` and the feed-through ``k``
    are one learnt number a channel. It is the zero-order hold of ``dh/dt = -r (h - u)`` (Smith et al. 2023, diagonal
    and real; selective steps and gate as in Gu & Dao 2023).
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, 3 * hidden)
        self.log_rate = nn.Parameter(torch.linspace(math.log(1 / 50), 0, hidden))
        self.skip = nn.Parameter(torch.ones(hidden))
        with torch.no_grad():
            for part in torch.split(self.projection.weight, hidden):
                nn.init.xavier_uniform_(part)
            self.projection.bias.zero_()
            self.projection.bias[hidden : 2 * hidden] = math.log(math.e - 1)  # softplus gives 1: steps of one frame

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, T, inputs)`` -> ``(B, T, hidden)`` and the state ``(B, hidden)`` after the last frame."""
        drive, step, gate = self.projection(x).chunk(3, dim=2)
        decay = torch.exp(-functional.softplus(step) * self.log_rate.exp())
        states = linear_scan(decay, (1 - decay) * drive, state)
        return (states + self.skip * drive) * functional.silu(gate), states[:, -1]
