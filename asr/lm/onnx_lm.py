"""A recurrent language model as an ONNX graph (``lm.onnx``, docs/export.md), run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.models.onnx_sessions import run_graph

_END = 0
"""Token 0 begins and ends each sentence."""


@dataclass(frozen=True)
class OnnxState:
    """``memory (n, layers, parts, hidden)`` of the network and ``ends (n,)``: log-probability that the text ends."""

    memory: npt.NDArray[np.float32]
    ends: npt.NDArray[np.float32]


class OnnxLM:
    """A session of ``lm.onnx`` as ``asr.decode.fusion.LanguageModel``: all prefixes in one run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        shapes = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
        self._memory: tuple[int, ...] = tuple(shapes["state"][1:])
        self._vocabulary = int(shapes["log_probs"][1])

    @property
    def vocab_size(self) -> int:
        return self._vocabulary

    def start(self, n: int) -> OnnxState:
        return OnnxState(np.zeros((n, *self._memory), np.float32), np.zeros(n, np.float32))

    def advance(self, state: OnnxState, tokens: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], OnnxState]:
        feeds: dict[str, npt.NDArray[Any]] = {"tokens": np.ascontiguousarray(tokens, np.int64), "state": state.memory}
        log_probs, memory = run_graph(self._session, ["log_probs", "next.state"], feeds)
        return log_probs, OnnxState(memory, log_probs[:, _END])

    def select(self, state: OnnxState, indices: npt.NDArray[np.int64]) -> OnnxState:
        return OnnxState(state.memory[indices], state.ends[indices])

    def join(self, states: Sequence[OnnxState]) -> OnnxState:
        if len(states) == 1:
            return states[0]
        return OnnxState(np.concatenate([s.memory for s in states]), np.concatenate([s.ends for s in states]))

    def finish(self, state: OnnxState) -> npt.NDArray[np.float32]:
        return state.ends
