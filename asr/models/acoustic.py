"""The acoustic model: subsampling, a stack of recurrent layers, and log-probabilities over the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.config.sections import ModelConfig
from asr.models import cells, subsample
from asr.models.inference import Latency


class Lookahead(nn.Module):
    """Lookahead for a unidirectional layer: ``y_t = x_t + relu(W [x_t; x_(t+n)] + b)``.

    ``x`` is the output of a recurrent layer, so ``x_(t+n)`` summarises all frames up to ``t + n`` (as the time-delay
    layers of Peddinti et al. 2017). Zeros follow the last frame.
    """

    def __init__(self, size: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.mix = nn.Linear(2 * size, size)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """``(B, T, D)`` of which ``lengths`` ``(B,)`` frames are valid -> ``(B, T, D)``, independent of padding."""
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None].to(x.device)
        return self._to_the_end(x * valid[:, :, None])

    def stream(self, x: Tensor, waiting: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """The next frames ``(B, T, D)`` behind those ``waiting`` -> what can be given now, and what waits."""
        x = torch.cat([waiting, x], dim=1)
        if last:
            return self._to_the_end(x), x[:, :0]
        ready = max(0, x.shape[1] - self.frames)
        return self._mixed(x[:, :ready], x[:, self.frames :]), x[:, ready:]

    def _to_the_end(self, x: Tensor) -> Tensor:
        return self._mixed(x, functional.pad(x, (0, 0, 0, self.frames))[:, self.frames :])

    def _mixed(self, now: Tensor, later: Tensor) -> Tensor:
        mixed: Tensor = now + torch.relu(self.mix(torch.cat([now, later], dim=2)))
        return mixed


class Encoder(nn.Module):
    """Recurrent layers, each with an optional projection, layer normalisation (Ba et al. 2016), dropout, residual.

    A unidirectional one may look ahead a little behind each layer but the last.
    """

    def __init__(self, inputs: int, config: ModelConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.layers = nn.ModuleList()
        self.projections = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.lookaheads = nn.ModuleList()
        for _ in range(config.layers):
            layer = cells.RecurrentLayer(
                config.cell, inputs, config.hidden, config.bidirectional, config.recurrent_dropout
            )
            inputs = config.projection or layer.output_dim
            self.layers.append(layer)
            self.projections.append(nn.Linear(layer.output_dim, inputs) if config.projection else nn.Identity())
            self.norms.append(nn.LayerNorm(inputs))
            if config.lookahead and len(self.layers) < config.layers:
                self.lookaheads.append(Lookahead(inputs, config.lookahead))
        self.dropout = make_dropout(config)
        self.output_dim = inputs
        self.middle = (config.layers - 1) // 2

    def forward(
        self, x: Tensor, lengths: Tensor, state: Sequence[cells.CellState | None] | None = None, keep: int | None = None
    ) -> tuple[Tensor, Tensor, list[cells.CellState | None]]:
        """``(B, T, inputs)`` -> ``(B, T, output_dim)`` of the last layer, of the middle one, and the layers' states.

        With ``keep``, ``x`` is a chunk of so many frames with its right context (see ``RecurrentLayer.forward_chunk``).
        """
        following: list[cells.CellState | None] = []
        middle = x
        lookaheads = list(self.lookaheads)
        for index, layer in enumerate(self.layers):
            before = None if state is None else state[index]
            if keep is None:
                y, layer_state = layer(x, lengths, before)
            else:
                y, layer_state = cast(cells.RecurrentLayer, layer).forward_chunk(x, keep, before)
            x = self._behind(index, x, y)
            if index < len(lookaheads):
                x = lookaheads[index](x, lengths)
            following.append(layer_state)
            if index == self.middle:
                middle = x
        return x, middle, following

    def _behind(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """What layer ``index`` with input ``x`` and output ``y`` passes on."""
        y = self.dropout(self.norms[index](self.projections[index](y)))
        return x + y if self.residual and x.shape == y.shape else y

    def stream(
        self, x: Tensor, state: Sequence[cells.CellState | None], waiting: Sequence[Tensor], last: bool
    ) -> tuple[Tensor, list[cells.CellState | None], list[Tensor]]:
        """The next frames ``(B, T, inputs)`` of a unidirectional stack, and with ``last`` all that still wait.

        Returns the frames ``(B, T', output_dim)`` that can be given now, the layers' states (``None`` before their
        first frame) and the frames that wait in each lookahead.
        """
        following: list[cells.CellState | None] = []
        held: list[Tensor] = []
        lookaheads = [cast(Lookahead, module) for module in self.lookaheads]
        for index, layer in enumerate(self.layers):
            layer_state = state[index]
            if x.shape[1]:
                y, layer_state = layer(x, torch.empty(0), layer_state)  # lengths: all rows are full
                x = self._behind(index, x, y)
            else:
                x = x.new_zeros(x.shape[0], 0, self.output_dim)
            following.append(layer_state)
            if index < len(lookaheads):
                before = waiting[index] if waiting else x[:, :0]
                x, rest = lookaheads[index].stream(x, before, last)
                held.append(rest)
        return x, following, held


def make_dropout(config: ModelConfig) -> nn.Module:
    """Dropout of ``(B, T, D)`` as ``config`` asks for."""
    return cells.LockedDropout(config.dropout) if config.locked_dropout else nn.Dropout(config.dropout)


@dataclass
class ModelState:
    """The state that a model carries from one block of a stream to the next.

    ``layers``: the recurrent states, ``None`` before a layer's first frame. ``waiting``: frames ``(B, n, D)`` that
    still wait for their right context, for each lookahead or for a bidirectional model as a whole.
    """

    subsampling: subsample.SubsamplingState
    layers: list[cells.CellState | None]
    waiting: list[Tensor]

    @property
    def shape(self) -> tuple[object, ...]:
        """What must agree for streams to be advanced together."""
        convs = tuple(part.shape[2] for part in self.subsampling)
        return convs, tuple(x is None for x in self.layers), tuple(x.shape[1] for x in self.waiting)

    @property
    def pending(self) -> bool:
        """Whether frames wait for what comes later."""
        return any(x.shape[1] for x in self.waiting)


def join_model_states(states: Sequence[ModelState]) -> ModelState:
    """The state of streams that are advanced together; their ``shape`` must agree."""
    convs = [torch.cat(parts) for parts in zip(*(state.subsampling for state in states), strict=True)]
    waiting = [torch.cat(parts) for parts in zip(*(state.waiting for state in states), strict=True)]
    layers: list[cells.CellState | None] = []
    for parts in zip(*(state.layers for state in states), strict=True):
        there = [part for part in parts if part is not None]
        layers.append(cells.join_states(there) if there else None)
    return ModelState(convs, layers, waiting)


def split_model_state(state: ModelState, count: int) -> list[ModelState]:
    """The state of each of ``count`` streams."""
    convs = [torch.split(part, 1) for part in state.subsampling]
    layers = [[None] * count if x is None else cells.split_state(x, count) for x in state.layers]
    waiting = [torch.split(part, 1) for part in state.waiting]
    return [ModelState([c[i] for c in convs], [x[i] for x in layers], [w[i] for w in waiting]) for i in range(count)]


class AcousticModel(nn.Module):
    """Normalised log-mel frames -> log-probabilities over blank (id 0) and the tokens, for CTC (Graves et al. 2006)."""

    def __init__(self, config: ModelConfig, feature_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.subsampling = subsample.Subsampling(feature_dim, config.channels, config.subsampling)
        self.input_norm = nn.LayerNorm(self.subsampling.output_dim)
        self.dropout = make_dropout(config)
        self.encoder = Encoder(self.subsampling.output_dim, config)
        self.output = nn.Linear(self.encoder.output_dim, config.upsampling * vocab_size)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a padded batch.

        Args:
            features: ``(B, T, D)`` float32, normalised.
            frames: ``(B,)`` int64, valid frames of each row.

        Returns:
            ``(B, T', V)`` float32 natural log-probabilities and ``(B,)`` int64 valid frames,
            ``T' = upsampling * ceil(T / subsampling)``. Valid rows do not depend on padding or batch mates.
        """
        hidden, _, lengths = self._run(features, frames)
        return self._log_probs(hidden), lengths * self.config.upsampling

    def count(self, frames: Tensor) -> Tensor:
        """Frames of log-probabilities for ``frames`` feature frames, any integer shape."""
        return self.subsampling.count(frames) * self.config.upsampling

    def forward_deep(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, with the log-probabilities ``(B, T', V)`` that the middle layer gives in second place.

        They come from the same output layer (intermediate CTC, Lee & Watanabe 2021), and are for training only.
        """
        hidden, middle, lengths = self._run(features, frames)
        return self._log_probs(hidden), self._log_probs(middle), lengths * self.config.upsampling

    def stream(
        self,
        features: Tensor,
        state: ModelState | None = None,
        *,
        latency: Latency | None = None,
        last: bool = False,
    ) -> tuple[Tensor, ModelState]:
        """Log-probabilities ``(B, T', V)`` of the next block ``(B, T, D)`` of streams advanced together.

        Fed in blocks of any size, a unidirectional model returns what ``forward`` returns for the whole. A
        bidirectional one works in the chunks of ``latency``, and gives the same for blocks of any size. What a model
        still holds, because it looks ahead, comes with the ``last`` block. Raises ``ValueError`` for a bidirectional
        model without ``latency``.
        """
        x, subsampling = self.subsampling(features, None if state is None else state.subsampling)
        layers: list[cells.CellState | None] = [None] * self.config.layers if state is None else state.layers
        waiting = [] if state is None else state.waiting
        if not self.config.bidirectional:
            hidden, layers, waiting = self.encoder.stream(self.dropout(self.input_norm(x)), layers, waiting, last)
            return self._log_probs(hidden), ModelState(subsampling, layers, waiting)
        if latency is None:
            raise ValueError("a bidirectional model cannot stream without latency: it needs what comes later")
        x = torch.cat([*waiting, x], dim=1)
        lengths = torch.empty(0)  # which chunks do not need: their rows are full
        outputs = [x.new_zeros(x.shape[0], 0, self.encoder.output_dim)]
        while x.shape[1] >= latency.chunk + latency.right or (last and x.shape[1]):
            keep = min(latency.chunk, x.shape[1])
            window = self.dropout(self.input_norm(x[:, : keep + latency.right]))
            hidden, _, layers = self.encoder(window, lengths, layers, keep)
            outputs.append(hidden[:, :keep])
            x = x[:, keep:]
        return self._log_probs(torch.cat(outputs, dim=1)), ModelState(subsampling, layers, [x])

    def _run(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, _ = self.subsampling(features)
        lengths = self.subsampling.count(frames)
        if hidden.shape[1]:
            hidden, middle, _ = self.encoder(self.dropout(self.input_norm(hidden)), lengths)
        else:
            hidden = middle = hidden.new_zeros(hidden.shape[0], 0, self.encoder.output_dim)
        return hidden, middle, lengths

    def _log_probs(self, hidden: Tensor) -> Tensor:
        # CTC in half precision loses the small probabilities it sums over: always float32 from here on.
        outputs = self.output(hidden).float()
        batch, frames, size = outputs.shape
        log_probs: Tensor = outputs.view(
            batch, frames * self.config.upsampling, size // self.config.upsampling
        ).log_softmax(dim=-1)
        return log_probs
