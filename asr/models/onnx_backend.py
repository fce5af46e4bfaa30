"""Runs the graphs of ``asr export MODEL OUT --to onnx`` with onnxruntime (docs/export.md describes them)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.config.sections import Config, whole_windows
from asr.errors import ConfigError, ModelError
from asr.models.framing import framed
from asr.models.inference import Counts, Fetch, Latency, Posteriors
from asr.models.onnx_sessions import run_graph
from asr.models.pace import Pace
from asr.models.staged_runs import StagedRuns

_Floats = npt.NDArray[np.float32]
OpenSession = Callable[[], Any]
"""Opens the ``onnxruntime.InferenceSession`` of a graph; raises ``ModelError`` where there is none."""
OpenStages = Callable[[], Sequence[Any]]
"""Opens the sessions of ``asr.export.staged_graphs``."""


@dataclass(frozen=True)
class OnnxStreamState:
    """The state of streams that are advanced together, ``B`` of them.

    ``samples (B, S)``: from the first sample of the next frame that the graph has not had. ``fed``: frames of features
    that have come. ``taken``: frames after subsampling that the graph has had. ``given``: rows that it has given.
    ``tensors``: its own state, ``(B, ...)`` each; none before the first call.
    """

    samples: _Floats
    fed: int
    taken: int
    given: int
    due: int
    """Posteriors that all frames that have come will give."""
    tensors: tuple[_Floats, ...]

    @property
    def shape(self) -> Hashable:
        # What has come and gone may differ. What is waiting may not.
        waiting = self.samples.shape[1], self.fed > 0, self.taken > 0, self.due - self.given
        return waiting, tuple(tensor.shape[1:] for tensor in self.tensors)

    @property
    def pending(self) -> bool:
        return self.given < self.due


class OnnxBackend:
    """Two graphs as ``asr.models.inference.AcousticBackend``. Each is opened when it is first needed.

    Args:
        config: the model's.
        offline, streaming: open the sessions; None where there is no such graph.
        vocabulary: columns of the log-probabilities.
        path: where they are from, for messages.
        device, precision: only ``auto`` or ``cpu`` and ``fp32``; ``ConfigError`` for others.
        stages: open the sessions of the offline graph's stages; None where there are none.
    """

    device = "cpu"
    on_gpu = False

    def __init__(
        self,
        config: Config,
        offline: OpenSession | None,
        streaming: OpenSession | None,
        vocabulary: int,
        path: object = "the model",
        device: str = "auto",
        precision: str = "fp32",
        stages: OpenStages | None = None,
    ) -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device: expected auto or cpu for a model that onnxruntime runs, got {device!r}; a GPU "
                              "needs torch and the model directory")  # fmt: skip
        if precision != "fp32":
            raise ConfigError(
                f"precision: expected fp32 for a model that onnxruntime runs, got {precision!r}; leave precision out"
            )
        self.config = config
        self._vocabulary, self._path = vocabulary, path
        self._openers: dict[str, OpenSession | None] = {"offline": offline, "streaming": streaming}
        self._sessions: dict[str, Any] = {}
        self._open_stages = stages
        self._stages: StagedRuns | None = None
        self._pace = Pace()
        self._before: Callable[[], None] | None = None

    def _session(self, name: str) -> Any:
        if name not in self._sessions:
            opened = self._openers[name]
            if opened is None:
                what = "whole recordings" if name == "offline" else "streams"
                raise ModelError(f"{self._path}: expected {name}.onnx for {what}, got only the model's other graph; "
                                 "load the folder with both, or export the model again")  # fmt: skip
            self._sessions[name] = opened()
        return self._sessions[name]

    def begin(self, waveforms: Sequence[_Floats]) -> Fetch:
        """See ``AcousticBackend.begin``."""
        lengths = np.array([len(w) for w in waveforms], np.int64)
        padded = np.zeros((len(waveforms), max(1, int(lengths.max()))), np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        unidirectional = not self.config.model.bidirectional
        if unidirectional and (self._before or not self._openers["offline"]) and self._openers["streaming"]:
            return self._begin_streams(padded, lengths)
        if self._before is not None and self._open_stages is not None:
            log_probs, frames = self._staged()(padded, lengths)
        else:
            feeds: dict[str, npt.NDArray[Any]] = {"samples": padded, "lengths": lengths}
            log_probs, frames = run_graph(self._session("offline"), ["log_probs", "frames"], feeds)
        return lambda: (log_probs, frames)

    def _begin_streams(self, padded: _Floats, lengths: Counts) -> Fetch:
        """Whole recordings by the streaming graph of a unidirectional model, which gives the same."""
        rows = [self._whole_stream(samples[:length]) for samples, length in zip(padded, lengths, strict=True)]
        counts = np.array([len(matrix) for matrix in rows], np.int64)
        joined = np.zeros((len(rows), max(1, int(counts.max())), self._vocabulary), np.float32)
        for row, matrix in zip(joined, rows, strict=True):
            row[: len(matrix)] = matrix
        return lambda: (joined, counts)

    def _whole_stream(self, samples: _Floats) -> Posteriors:
        """The rows ``(T, V)`` of a recording by the streaming graph: at once, or in blocks where others may wait."""
        features = self.config.features
        hop, overlap = features.hop_samples, features.window_samples - features.hop_samples
        samples = framed(samples, features)
        frames = whole_windows(len(samples), features)
        found: list[Posteriors] = []
        state, at = None, 0
        while not found or at < frames:
            size = frames - at
            if self._before is not None:
                self._before()
                size = min(size, max(1, int(self._pace.block_s / features.hop_s)))
            block = samples[at * hop : (at + size) * hop + overlap] if size else samples[:0]
            at += size
            with self._pace.measuring(max(1, size) * features.hop_s):
                (rows,), (state,) = self.stream(block[None], [state], last=at == frames)
            found.append(rows)
        return np.concatenate(found)

    def _staged(self) -> StagedRuns:
        if self._stages is None:
            assert self._open_stages is not None
            assert self._before is not None
            frame_s = self.config.features.hop_s * self.config.model.subsampling
            self._stages = StagedRuns(self._open_stages(), frame_s, self._before)
        return self._stages

    def stream(
        self,
        samples: _Floats,
        states: Sequence[OnnxStreamState | None],
        *,
        latency: Latency | None = None,
        last: bool = False,
        exact: bool = True,
    ) -> tuple[list[Posteriors], list[OnnxStreamState]]:
        """See ``AcousticBackend.stream``; all is computed in float32."""
        steps = _Steps(self._session("streaming"), self.config, latency, len(samples))
        steps.join([state for state in states if state is not None])
        steps.accept(samples)
        steps.advance()
        if last:
            steps.finish()
        rows = [np.zeros((len(samples), 0, self._vocabulary), np.float32), *steps.rows]
        joined = np.concatenate(rows, axis=1) if len(rows) > 2 else rows[-1]
        return list(joined), steps.split(states)

    def before_layers(self, call: Callable[[], None]) -> None:
        """See ``AcousticBackend.before_layers``. A model runs in blocks then, with a call before each; a bidirectional
        one in its stages, too. An exported one has none, and runs as a whole."""
        self._before, self._stages = call, None

    def free(self) -> None:
        """See ``AcousticBackend.free``: there is nothing to give back."""


class _Steps:
    """The calls of the streaming graph for some streams that are advanced together, from one state to the next."""

    def __init__(self, session: Any, config: Config, latency: Latency | None, batch: int) -> None:
        self._session = session
        self._hop, self._window = config.features.hop_samples, config.features.window_samples
        self._factor, self._upsampling = config.model.subsampling, config.model.upsampling
        self._latency = latency if config.model.bidirectional else None
        self._least = (config.model.layers - 1) * config.model.lookahead
        """The first call has so many frames after subsampling, and one more."""
        self._states = {node.name: node.shape for node in session.get_inputs() if node.name not in NOT_STATES}
        self._samples: _Floats = np.zeros((batch, 0), np.float32)
        self._tensors: tuple[_Floats, ...] = ()
        self._fed = self._taken = self._given = 0
        self.rows: list[Posteriors] = []

    def join(self, states: Sequence[OnnxStreamState]) -> None:
        """Go on from the states of all streams; none at their start."""
        if not states:
            return
        first = states[0]
        self._fed, self._taken, self._given = first.fed, first.taken, first.given
        alone = len(states) == 1
        self._samples = first.samples if alone else np.concatenate([state.samples for state in states])
        parts = zip(*(state.tensors for state in states), strict=True)
        self._tensors = first.tensors if alone else tuple(np.concatenate(part) for part in parts)

    def accept(self, samples: _Floats) -> None:
        """Take the samples of further whole frames ``(B, S)``."""
        if not samples.shape[1]:
            return
        # Frames overlap: what the buffer holds of the next one comes a second time.
        self._samples = np.concatenate([self._samples, samples[:, self._window - self._hop if self._fed else 0 :]], 1)
        self._fed += (samples.shape[1] - self._window) // self._hop + 1

    @property
    def _waiting(self) -> int:
        """Frames of features that the graph has not had."""
        return self._fed - (1 + self._factor * (self._taken - 1) if self._taken else 0)

    @property
    def _left(self) -> int:
        """Frames after subsampling that the graph has not had."""
        return math.ceil(self._fed / self._factor) - self._taken

    @property
    def _due(self) -> int:
        return self._upsampling * math.ceil(self._fed / self._factor)

    def advance(self) -> None:
        """All calls that the frames so far allow."""
        while size := self._next():
            self._call(size)

    def _next(self) -> int:
        """Frames after subsampling of the next call: 0 where it must wait for more."""
        ready = (self._waiting - (not self._taken)) // self._factor + (not self._taken) if self._waiting else 0
        if self._latency is None:
            return ready if self._taken or ready > self._least else 0
        size = self._latency.chunk if self._taken else self._latency.chunk + self._latency.right
        return size if ready >= size else 0

    def finish(self) -> None:
        """The last calls, until all rows have come."""
        left = self._left
        while self._given < self._due:
            before = self._given
            self._call(max(1, left), left)
            if not left and self._given == before:
                raise ModelError(f"streaming.onnx: expected {self._due} rows for {self._fed} frames, got {self._given}")
            left = 0

    def _call(self, size: int, last: int = -1) -> None:
        """One call with ``size`` new frames after subsampling, of which ``last`` are valid (-1: more follows)."""
        frames = self._factor * size if self._taken else 1 + self._factor * (size - 1)
        length = (frames - 1) * self._hop + self._window
        samples = self._samples[:, :length]
        if samples.shape[1] < length:
            samples = np.pad(samples, ((0, 0), (0, length - samples.shape[1])))
        feeds: dict[str, npt.NDArray[Any]] = {"samples": samples, "last": np.array([last], np.int64)}
        if self._latency is not None:
            feeds["latency"] = np.array([self._latency.chunk, self._latency.right], np.int64)
        feeds |= zip(self._states, self._tensors or self._zeros(len(samples)), strict=True)
        outputs = ["log_probs", *(f"next.{name}" for name in self._states)]
        rows, *tensors = run_graph(self._session, outputs, feeds)
        self._samples = self._samples[:, frames * self._hop :]
        self._tensors = tuple(tensors)
        self._taken += size if last < 0 else last
        self._given += rows.shape[1]
        self.rows.append(rows)

    def _zeros(self, batch: int) -> tuple[_Floats, ...]:
        shapes = initial_shapes(self._session)
        return tuple(np.zeros((batch, *shapes[name][1:]), np.float32) for name in self._states)

    def split(self, before: Sequence[OnnxStreamState | None]) -> list[OnnxStreamState]:
        """The state of each stream; streams that joined may have begun at different times."""
        found = []
        for row, state in enumerate(before):
            start = (0, 0, 0) if state is None else (state.fed, state.taken, state.given)
            first = (0, 0, 0) if before[0] is None else (before[0].fed, before[0].taken, before[0].given)
            now = (self._fed, self._taken, self._given)
            fed, taken, given = (a + b - c for a, b, c in zip(start, now, first, strict=True))
            due = self._upsampling * math.ceil(fed / self._factor)
            one = slice(row, row + 1)
            tensors = tuple(tensor[one] for tensor in self._tensors)
            found.append(OnnxStreamState(self._samples[one], fed, taken, given, due, tensors))
        return found


NOT_STATES = ("samples", "last", "latency")
"""Inputs of the streaming graph beside its states."""


def initial_shapes(session: Any) -> Mapping[str, Sequence[int]]:
    """The shapes of a streaming graph's states before the first call; -1 is the batch."""
    states = json.loads(session.get_modelmeta().custom_metadata_map["asr.states"])
    return {state["name"]: state["shape"] for state in states}
