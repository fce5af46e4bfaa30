"""Runs the stages of ``asr.export.staged_graphs``: layer by layer, in blocks that take a short time each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.models.inference import Counts, Posteriors
from asr.models.onnx_sessions import run_graph
from asr.models.pace import Pace

_Floats = npt.NDArray[np.float32]
_AFTER = "_after"
"""Follows the name of a state in the name of the output that has what it is behind the block."""


class StagedRuns:
    """The sessions of all stages of a model.

    Args:
        sessions: in their order.
        frame_s: seconds of a frame of the recurrent layers.
        before: called before each block.
    """

    def __init__(self, sessions: Sequence[Any], frame_s: float, before: Callable[[], None]) -> None:
        self._first, *layers, self._last = sessions
        self._layers = [_Stage(session, frame_s, before) for session in layers]
        self._before = before

    def __call__(self, padded: _Floats, lengths: Counts) -> tuple[Posteriors, Counts]:
        """Log-probabilities ``(B, T', V)`` of waveforms ``(B, S)`` of these lengths, and the valid rows of each."""
        x, counts = run_graph(self._first, ["out", "counts"], {"samples": padded, "lengths": lengths})
        for forward, backward in zip(self._layers[::2], self._layers[1::2], strict=True):
            ahead = forward.run({"in": x})
            x = backward.run_back({"in": x, "ahead": ahead}, counts)
        self._before()
        log_probs, frames = run_graph(self._last, ["log_probs", "frames"], {"in": x, "counts": counts})
        return log_probs, frames


class _Stage:
    """One direction of one layer."""

    def __init__(self, session: Any, frame_s: float, before: Callable[[], None]) -> None:
        self._session, self._frame_s, self._before = session, frame_s, before
        self._pace = Pace()
        shapes = {end.name: end.shape[1:] for end in session.get_inputs()}
        self._shapes = {end.name[: -len(_AFTER)]: () for end in session.get_outputs() if end.name.endswith(_AFTER)}
        self._shapes = {name: shapes[name] for name in self._shapes}

    def run(self, rows: dict[str, _Floats]) -> _Floats:
        """Over frames ``(T, B, D)``, from the first block to the last -> ``(T, B, H)``."""
        frames, batch = rows["in"].shape[:2]
        state, found, at = self._zeros(batch), [], 0
        while at < frames:
            size = self._size(batch)
            out, state = self._block({name: x[at : at + size] for name, x in rows.items()}, state)
            found.append(out)
            at += size
        return np.concatenate(found)

    def run_back(self, rows: dict[str, _Floats], counts: Counts) -> _Floats:
        """From the last block to the first; each row begins with the last of its ``counts (B)`` valid frames."""
        frames, batch = rows["in"].shape[:2]
        state, found, end = self._zeros(batch), [], frames
        while end > 0:
            start = max(0, end - self._size(batch))
            valid = np.clip(counts - start, 0, end - start)
            feeds: dict[str, Any] = {name: x[start:end] for name, x in rows.items()}
            out, state = self._block(feeds | {"counts": valid}, state)
            begun = (valid > 0)[:, None]  # the stage takes a frame of the others, too: it is padding
            state = {name: np.where(begun, value, np.float32(0)) for name, value in state.items()}
            found.append(out)
            end = start
        return np.concatenate(found[::-1])

    def _block(self, feeds: dict[str, Any], state: dict[str, _Floats]) -> tuple[_Floats, dict[str, _Floats]]:
        self._before()
        frames, batch = feeds["in"].shape[:2]
        with self._pace.measuring(frames * batch * self._frame_s):
            out, *after = run_graph(self._session, ["out", *(name + _AFTER for name in state)], feeds | state)
        return out, dict(zip(state, after, strict=True))

    def _size(self, batch: int) -> int:
        """Frames of the next block."""
        return max(1, int(self._pace.block_s / self._frame_s / batch))

    def _zeros(self, batch: int) -> dict[str, _Floats]:
        return {name: np.zeros((batch, *shape), np.float32) for name, shape in self._shapes.items()}
