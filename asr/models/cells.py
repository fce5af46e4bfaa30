"""Recurrent layers: vanilla RNN, GRU, LSTM and parallel scans, uni- and bidirectional, exact in any batch.

``pack_padded_sequence`` is never used: on CPU it leaves the fused oneDNN kernel for a loop over steps that is more
than ten times slower. A unidirectional layer does not need it, since padding follows the valid frames. A
bidirectional layer is two unidirectional ones, the second over the input reversed within each utterance's own
length, so that padding follows the valid frames there as well and never enters them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models import scan

CellState = Tensor | tuple[Tensor, Tensor]

ONEDNN = bool(torch.backends.mkldnn.enabled)
FEW_STEPS = 4
"""Steps of one stream up to which the plain kernel is faster."""


@contextlib.contextmanager
def plain_kernel() -> Iterator[None]:
    """Without oneDNN, which rearranges the weights of an LSTM at each call.

    One step of 384 units takes 1.7 ms with it and 0.1 ms without, three hundred steps 18 and 30 ms (one core).
    """
    _use_onednn(False)
    try:
        yield
    finally:
        # What it was at the start, not a moment ago: another thread may be in here as well.
        _use_onednn(ONEDNN)


def _use_onednn(enabled: bool) -> None:
    torch.backends.mkldnn.set_flags(_enabled=enabled, _fp32_precision=None)  # type: ignore[no-untyped-call]


def make_cell(kind: str, inputs: int, hidden: int) -> nn.Module:
    """One unidirectional recurrent layer: ``(x (B, T, inputs), state) -> (output (B, T, hidden), state)``.

    Kinds: ``rnn`` and ``rnn_relu`` (Elman 1990), ``gru`` (Cho et al. 2014), ``lstm`` (Hochreiter & Schmidhuber 1997,
    forget gates as in Gers et al. 2000), ``min_gru`` and ``ssm`` (see ``asr.models.scan``). Recurrent weights start
    orthogonal, forget gates open (bias 1, Jozefowicz et al. 2015), so that gradients reach far back from the first
    step on.
    """
    if kind == "min_gru":
        return scan.MinGRU(inputs, hidden)
    if kind == "ssm":
        return scan.GatedStateSpace(inputs, hidden)
    if kind == "lstm":
        cell: nn.RNNBase = nn.LSTM(inputs, hidden, batch_first=True)
    elif kind == "gru":
        cell = nn.GRU(inputs, hidden, batch_first=True)
    else:
        cell = nn.RNN(inputs, hidden, batch_first=True, nonlinearity="relu" if kind == "rnn_relu" else "tanh")
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                if kind == "lstm" and name.startswith("bias_ih"):
                    parameter[hidden : 2 * hidden] = 1.0
            else:
                init = nn.init.orthogonal_ if name.startswith("weight_hh") else nn.init.xavier_uniform_
                for gate in torch.split(parameter, hidden):
                    init(gate)
    return cell


class _ReverseWithin(torch.autograd.Function):
    """``reverse_within`` with its own gradient, which is the same reversal.

    Autograd would scatter the gradient with additions, since it does not know that every frame is taken once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Tensor) -> Tensor:
        time = torch.arange(x.shape[1], device=x.device)
        mirrored = lengths.to(x.device)[:, None] - 1 - time
        index = torch.where(mirrored >= 0, mirrored, time)
        ctx.save_for_backward(index)
        return _take_frames(x, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _take_frames(gradient, index), None


def _take_frames(x: Tensor, index: Tensor) -> Tensor:
    """Frames ``index (B, T)`` of ``x (B, T, D)``."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]


def reverse_within(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row of ``x`` ``(B, T, D)`` within its own ``lengths`` ``(B,)``; padding stays where it is."""
    reversed_rows: Tensor = _ReverseWithin.apply(x, lengths)
    return reversed_rows


class LockedDropout(nn.Module):
    """Dropout with one mask per utterance for all its frames (Gal & Ghahramani 2016).

    A dropped unit stays dropped, so a recurrent layer cannot recover it from the next frame.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D)`` -> ``(B, T, D)``, scaled to keep the mean; the identity in evaluation."""
        if not self.training or not self.rate:
            return x
        return x * functional.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.rate)


class RecurrentLayer(nn.Module):
    """One layer of cells in one or both directions.

    In training each recurrent weight is dropped with probability ``weight_dropout``, one mask per call and so for all
    steps (Merity et al. 2018): the memory is regularised, and the fused kernel can still be used.
    """

    def __init__(self, kind: str, inputs: int, hidden: int, bidirectional: bool, weight_dropout: float = 0.0) -> None:
        super().__init__()
        self.weight_dropout = weight_dropout
        self.forward_cell = make_cell(kind, inputs, hidden)
        self.backward_cell = make_cell(kind, inputs, hidden) if bidirectional else None
        self.output_dim = hidden * (2 if bidirectional else 1)

    def forward(self, x: Tensor, lengths: Tensor, state: CellState | None = None) -> tuple[Tensor, CellState]:
        """``(B, T, inputs)`` -> ``(B, T, output_dim)`` and the forward direction's state after the last frame.

        ``lengths`` ``(B,)`` are the valid frames; a row's valid outputs do not depend on what lies beyond them. The
        returned state is meaningful when all rows are full, as in streaming (only unidirectional layers stream).
        """
        output, following = self._run(self.forward_cell, x, state)
        if self.backward_cell is not None:
            backward, _ = self._run(self.backward_cell, reverse_within(x, lengths), None)
            output = torch.cat([output, reverse_within(backward, lengths)], dim=2)
        return output, following

    def forward_chunk(self, x: Tensor, keep: int, state: CellState | None = None) -> tuple[Tensor, CellState]:
        """A chunk of a stream with some right context: ``(B, T, inputs)``, the first ``keep`` frames being the chunk.

        Returns ``(B, T, output_dim)`` and the forward direction's state behind the chunk. The backward direction begins
        at the end of the context (latency control, Zhang et al. 2016).
        """
        output, following = self._run(self.forward_cell, x[:, :keep], state)
        if keep < x.shape[1]:
            ahead, _ = self._run(self.forward_cell, x[:, keep:], following)
            output = torch.cat([output, ahead], dim=1)
        if self.backward_cell is not None:
            backward, _ = self._run(self.backward_cell, x.flip(1), None)
            output = torch.cat([output, backward.flip(1)], dim=2)
        return output, following

    def _run(self, cell: nn.Module, x: Tensor, state: CellState | None) -> tuple[Tensor, CellState]:
        if not self.training or not self.weight_dropout:
            with plain_kernel() if x.shape[0] * x.shape[1] <= FEW_STEPS else contextlib.nullcontext():
                output, following = cell(x, state)
            return output, following
        weights = {"weight_hh_l0": functional.dropout(cell.get_parameter("weight_hh_l0"), self.weight_dropout)}
        output, following = torch.func.functional_call(cell, weights, (x, state))
        return output, following


def join_states(states: Sequence[CellState]) -> CellState:
    """The state of several streams advanced together, from that of each."""
    first = states[0]
    if isinstance(first, tuple):
        parts = zip(*states, strict=True)
        hidden, memory = (torch.cat(list(part), dim=1) for part in parts)
        return hidden, memory
    # torch's cells have a leading axis of layers, scans have not.
    tensors = [state for state in states if isinstance(state, Tensor)]
    return torch.cat(tensors, dim=first.ndim - 2)


def split_state(state: CellState, count: int) -> list[CellState]:
    """The state of each of ``count`` streams, from that of all together."""
    if isinstance(state, tuple):
        return list(zip(*(torch.split(part, 1, dim=1) for part in state), strict=True))
    assert state.shape[state.ndim - 2] == count
    return list(torch.split(state, 1, dim=state.ndim - 2))
