"""A recurrent language model over tokens (Mikolov et al. 2010; tied embeddings: Press & Wolf 2017).

Token 0 (the acoustic model's blank, which no text contains) begins and ends each sentence.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr.config.language import NetworkConfig
from asr.errors import ConfigError
from asr.models.cells import make_cell, plain_kernel

SENTENCE_BOUNDARY = 0


class LanguageNetwork(nn.Module):
    """Tokens in, log-probabilities of the next token out."""

    def __init__(self, config: NetworkConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, config.embedding)
        nn.init.normal_(self.embedding.weight, std=config.embedding**-0.5)
        sizes = [config.embedding] + [config.hidden] * config.layers
        self.cells = nn.ModuleList(make_cell(config.cell, sizes[i], sizes[i + 1]) for i in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(config.hidden, config.embedding)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    @property
    def parts(self) -> int:
        """Tensors in one layer's state: hidden and, for an LSTM, cell."""
        return 2 if self.config.cell == "lstm" else 1

    def empty_state(self, n: int) -> Tensor:
        """State of ``n`` sequences before their first token, ``(n, layers, parts, hidden)``."""
        return self.bias.new_zeros(n, self.config.layers, self.parts, self.config.hidden)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``tokens (B, T)`` and ``state (B, layers, parts, hidden)`` to natural log-probabilities ``(B, T, V)`` of the
        tokens that follow, float32, and the state after the last one."""
        x = self.dropout(self.embedding(tokens))
        following = []
        for layer, cell in enumerate(self.cells):
            before = [part.contiguous() for part in state[:, layer].transpose(0, 1)[:, None]]
            x, after = cell(x, (before[0], before[1]) if self.parts == 2 else before[0])
            x = self.dropout(x)
            following.append(torch.cat(after if self.parts == 2 else (after,)).transpose(0, 1))
        logits = nn.functional.linear(self.project(x), self.embedding.weight, self.bias)
        return logits.float().log_softmax(dim=-1), torch.stack(following, dim=1)


@dataclass(frozen=True)
class RecurrentState:
    """``memory (n, layers, parts, hidden)`` of the network and ``ends (n,)``: log-probability that the text ends."""

    memory: Tensor
    ends: Tensor


class RecurrentLM:
    """A trained network as ``asr.decode.fusion.LanguageModel``: all prefixes in one forward pass."""

    def __init__(self, network: LanguageNetwork) -> None:
        self.network = network.eval()

    @property
    def vocab_size(self) -> int:
        return self.network.vocab_size

    def start(self, n: int) -> RecurrentState:
        memory = self.network.empty_state(n)
        return RecurrentState(memory, memory.new_zeros(n))

    def advance(
        self, state: RecurrentState, tokens: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], RecurrentState]:
        with torch.inference_mode(), plain_kernel():
            column = torch.from_numpy(np.ascontiguousarray(tokens))[:, None].to(state.memory.device)
            log_probs, memory = self.network(column, state.memory)
        return log_probs[:, 0].cpu().numpy(), RecurrentState(memory, log_probs[:, 0, SENTENCE_BOUNDARY])

    def select(self, state: RecurrentState, indices: npt.NDArray[np.int64]) -> RecurrentState:
        rows = torch.from_numpy(np.ascontiguousarray(indices)).to(state.memory.device)
        return RecurrentState(state.memory[rows], state.ends[rows])

    def join(self, states: Sequence[RecurrentState]) -> RecurrentState:
        return RecurrentState(torch.cat([s.memory for s in states]), torch.cat([s.ends for s in states]))

    def finish(self, state: RecurrentState) -> npt.NDArray[np.float32]:
        ends: npt.NDArray[np.float32] = state.ends.cpu().numpy()
        return ends


class Adapter:
    """Dynamic evaluation (Krause et al. 2018): a copy of a network that learns from the text it has just read.

    After each sentence one step of gradient descent at ``rate`` on its mean negative log-likelihood, the gradient's
    norm clipped to 1, and a step of ``DECAY`` back towards the original weights. ``model`` is the copy.

    Raises ``ConfigError`` for a rate that is not above 0 and finite.
    """

    DECAY = 0.002

    def __init__(self, network: LanguageNetwork, rate: float) -> None:
        if not 0 < rate < math.inf:
            raise ConfigError(f"adapt: expected a rate above 0, got {rate}")
        self.rate = rate
        self.network = copy.deepcopy(network).eval().requires_grad_(True)
        self.model = RecurrentLM(self.network)
        self._origin = [parameter.detach().clone() for parameter in self.network.parameters()]

    def learn(self, tokens: Sequence[int]) -> None:
        """Take a sentence ``(n,)`` of token ids in; an empty one says nothing."""
        if not len(tokens):
            return
        ids = torch.tensor([SENTENCE_BOUNDARY, *tokens, SENTENCE_BOUNDARY], device=self.network.bias.device)
        with torch.inference_mode(False), torch.enable_grad():
            log_probs, _ = self.network(ids[None, :-1], self.network.empty_state(1))
            loss = nn.functional.nll_loss(log_probs[0], ids[1:])
            parameters = list(self.network.parameters())
            gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        if not torch.isfinite(norm):
            return
        step = self.rate / max(1.0, float(norm))
        with torch.no_grad():
            for parameter, gradient, origin in zip(parameters, gradients, self._origin, strict=True):
                parameter.add_(gradient, alpha=-step).lerp_(origin, self.DECAY)
