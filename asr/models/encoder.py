"""The acoustic model: subsampling, a stack of recurrent layers, and log-probabilities over the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from asr.config import ModelConfig
from asr.models import cells, subsample


class Encoder(nn.Module):
    """Recurrent layers, each with an optional projection, layer normalisation (Ba et al. 2016), dropout, residual."""

    def __init__(self, inputs: int, config: ModelConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.layers = nn.ModuleList()
        self.projections = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(config.layers):
            layer = cells.RecurrentLayer(
                config.cell, inputs, config.hidden, config.bidirectional, config.recurrent_dropout
            )
            inputs = config.projection or layer.output_dim
            self.layers.append(layer)
            self.projections.append(nn.Linear(layer.output_dim, inputs) if config.projection else nn.Identity())
            self.norms.append(nn.LayerNorm(inputs))
        self.dropout = make_dropout(config)
        self.output_dim = inputs
        self.middle = (config.layers - 1) // 2

    def forward(
        self, x: Tensor, lengths: Tensor, state: list[cells.State] | None = None, keep: int | None = None
    ) -> tuple[Tensor, Tensor, list[cells.State]]:
        """``(B, T, inputs)`` -> ``(B, T, output_dim)`` of the last layer, of the middle one, and the layers' states.

        With ``keep``, ``x`` is a chunk of so many frames with its right context (see ``RecurrentLayer.forward_chunk``).
        """
        following: list[cells.State] = []
        middle = x
        for index, (layer, projection, norm) in enumerate(zip(self.layers, self.projections, self.norms, strict=True)):
            before = None if state is None else state[index]
            if keep is None:
                y, layer_state = layer(x, lengths, before)
            else:
                y, layer_state = cast(cells.RecurrentLayer, layer).forward_chunk(x, keep, before)
            y = self.dropout(norm(projection(y)))
            x = x + y if self.residual and x.shape == y.shape else y
            following.append(layer_state)
            if index == self.middle:
                middle = x
        return x, middle, following


def make_dropout(config: ModelConfig) -> nn.Module:
    """Dropout of ``(B, T, D)`` as ``config`` asks for."""
    return cells.LockedDropout(config.dropout) if config.locked_dropout else nn.Dropout(config.dropout)


@dataclass
class ModelState:
    """Everything a model carries from one block of a stream to the next.

    ``waiting (B, n, D)``: subsampled frames of a bidirectional model whose right context has not come yet.
    """

    subsampling: subsample.State
    layers: list[cells.State] | None
    waiting: Tensor | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """What must agree for streams to be advanced together."""
        waiting = None if self.waiting is None else self.waiting.shape[1]
        return tuple(part.shape[2] for part in self.subsampling), self.layers is None, waiting


def join_states(states: Sequence[ModelState]) -> ModelState:
    """The state of streams that are advanced together; their ``shape`` must agree."""
    convs = [torch.cat(parts) for parts in zip(*(state.subsampling for state in states), strict=True)]
    layers = None
    if states[0].layers is not None:
        layers = [cells.join_states(parts) for parts in zip(*(state.layers or () for state in states), strict=True)]
    waiting = None
    if states[0].waiting is not None:
        waiting = torch.cat([state.waiting for state in states if state.waiting is not None])
    return ModelState(convs, layers, waiting)


def split_state(state: ModelState, count: int) -> list[ModelState]:
    """The state of each of ``count`` streams."""
    convs = zip(*(torch.split(part, 1) for part in state.subsampling), strict=True)
    layers: list[list[cells.State] | None] = [None] * count
    if state.layers is not None:
        layers = [list(parts) for parts in zip(*(cells.split_state(x, count) for x in state.layers), strict=True)]
    waiting: Sequence[Tensor | None] = [None] * count if state.waiting is None else torch.split(state.waiting, 1)
    return [ModelState(list(c), x, w) for c, x, w in zip(convs, layers, waiting, strict=True)]


@dataclass(frozen=True)
class Latency:
    """Chunks in which a bidirectional model streams, in frames after subsampling.

    The forward direction remembers everything; the backward one sees the chunk and the ``right`` frames behind it.
    """

    chunk: int
    right: int


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
        hidden, _, lengths, _ = self._run(features, frames, None)
        return self._log_probs(hidden), lengths * self.config.upsampling

    def forward_deep(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, with the log-probabilities ``(B, T', V)`` that the middle layer gives in second place.

        They come from the same output layer (intermediate CTC, Lee & Watanabe 2021), and are for training only.
        """
        hidden, middle, lengths, _ = self._run(features, frames, None)
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
        bidirectional one works in the chunks of ``latency``, gives the same for blocks of any size, and what it still
        holds with the ``last`` block. Raises ``ValueError`` for a bidirectional model without ``latency``.
        """
        if not self.config.bidirectional:
            frames = torch.full((features.shape[0],), features.shape[1], device=features.device)
            hidden, _, _, state = self._run(features, frames, state)
            return self._log_probs(hidden), state
        if latency is None:
            raise ValueError("a bidirectional model cannot stream without latency: it needs what comes later")
        x, subsampling = self.subsampling(features, None if state is None else state.subsampling)
        if state is not None and state.waiting is not None:
            x = torch.cat([state.waiting, x], dim=1)
        layers = None if state is None else state.layers
        lengths = torch.empty(0)  # which chunks do not need: their rows are full
        outputs = [x.new_zeros(x.shape[0], 0, self.encoder.output_dim)]
        while x.shape[1] >= latency.chunk + latency.right or (last and x.shape[1]):
            keep = min(latency.chunk, x.shape[1])
            window = self.dropout(self.input_norm(x[:, : keep + latency.right]))
            hidden, _, layers = self.encoder(window, lengths, layers, keep)
            outputs.append(hidden[:, :keep])
            x = x[:, keep:]
        return self._log_probs(torch.cat(outputs, dim=1)), ModelState(subsampling, layers, x)

    def _run(
        self, features: Tensor, frames: Tensor, state: ModelState | None
    ) -> tuple[Tensor, Tensor, Tensor, ModelState]:
        hidden, subsampling = self.subsampling(features, None if state is None else state.subsampling)
        lengths = self.subsampling.count(frames)
        layers = None if state is None else state.layers
        if hidden.shape[1]:
            hidden, middle, layers = self.encoder(self.dropout(self.input_norm(hidden)), lengths, layers)
        else:
            hidden = middle = hidden.new_zeros(hidden.shape[0], 0, self.encoder.output_dim)
        return hidden, middle, lengths, ModelState(subsampling, layers)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        # CTC in half precision loses the small probabilities it sums over: always float32 from here on.
        outputs = self.output(hidden).float()
        batch, frames, size = outputs.shape
        log_probs: Tensor = outputs.view(
            batch, frames * self.config.upsampling, size // self.config.upsampling
        ).log_softmax(dim=-1)
        return log_probs
