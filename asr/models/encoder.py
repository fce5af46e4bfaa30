"""The acoustic model: subsampling, a stack of recurrent layers, and log-probabilities over the tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.config import ModelConfig
from asr.models import cells, subsample


class Encoder(nn.Module):
    """Recurrent layers, each followed by layer normalisation (Ba et al. 2016) and dropout."""

    def __init__(self, inputs: int, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(config.layers):
            layer = cells.RecurrentLayer(config.cell, inputs, config.hidden, config.bidirectional)
            inputs = layer.output_dim
            self.layers.append(layer)
            self.norms.append(nn.LayerNorm(inputs))
        self.dropout = nn.Dropout(config.dropout)
        self.output_dim = inputs

    def forward(
        self, x: Tensor, lengths: Tensor, state: list[cells.State] | None = None
    ) -> tuple[Tensor, list[cells.State]]:
        """``(B, T, inputs)`` -> ``(B, T, output_dim)`` and the layers' states."""
        following: list[cells.State] = []
        for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x, layer_state = layer(x, lengths, None if state is None else state[index])
            x = self.dropout(norm(x))
            following.append(layer_state)
        return x, following


@dataclass
class ModelState:
    """Everything a unidirectional model carries from one block of a stream to the next."""

    subsampling: subsample.State
    layers: list[cells.State] | None


class AcousticModel(nn.Module):
    """Normalised log-mel frames -> log-probabilities over blank (id 0) and the tokens, for CTC (Graves et al. 2006)."""

    def __init__(self, config: ModelConfig, feature_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.subsampling = subsample.Subsampling(feature_dim, config.channels, config.subsampling)
        self.input_norm = nn.LayerNorm(self.subsampling.output_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Encoder(self.subsampling.output_dim, config)
        self.output = nn.Linear(self.encoder.output_dim, vocab_size)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a padded batch.

        Args:
            features: ``(B, T, D)`` float32, normalised.
            frames: ``(B,)`` int64, valid frames of each row.

        Returns:
            ``(B, T', V)`` float32 natural log-probabilities and ``(B,)`` int64 valid frames,
            ``T' = ceil(T / subsampling)``. Valid rows do not depend on padding or batch mates.
        """
        log_probs, lengths, _ = self._run(features, frames, None)
        return log_probs, lengths

    def stream(self, features: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """Log-probabilities ``(B, T', V)`` of the next block ``(B, T, D)`` of streams advanced together.

        Fed in blocks of any size, a unidirectional model returns what ``forward`` returns for the whole. Raises
        ``ValueError`` for a bidirectional model, whose outputs need the end of the utterance.
        """
        if self.config.bidirectional:
            raise ValueError("a bidirectional model cannot stream: it needs the end of the utterance")
        frames = torch.full((features.shape[0],), features.shape[1], device=features.device)
        log_probs, _, state = self._run(features, frames, state)
        return log_probs, state

    def _run(self, features: Tensor, frames: Tensor, state: ModelState | None) -> tuple[Tensor, Tensor, ModelState]:
        hidden, subsampling = self.subsampling(features, None if state is None else state.subsampling)
        lengths = self.subsampling.count(frames)
        layers = None if state is None else state.layers
        if hidden.shape[1]:
            hidden, layers = self.encoder(self.dropout(self.input_norm(hidden)), lengths, layers)
        else:
            hidden = hidden.new_zeros(hidden.shape[0], 0, self.encoder.output_dim)
        # CTC in half precision loses the small probabilities it sums over: always float32 from here on.
        log_probs = self.output(hidden).float().log_softmax(dim=-1)
        return log_probs, lengths, ModelState(subsampling, layers)
