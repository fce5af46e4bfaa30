"""Arrays that a beam search hands to its kernel: frames, memory for one frame, and room for hypotheses."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from asr.decode import kernel
from asr.decode.hypothesis import Hypothesis


def as_frames(log_probs: npt.NDArray[np.floating], starts: npt.NDArray[np.int64]) -> kernel.Frames:
    """``(T, V)`` of utterances that begin at ``starts``, the last of which is ``T``, for the kernel."""
    progress = np.zeros(kernel.STANDS, np.int64)
    return kernel.Frames(np.ascontiguousarray(log_probs, np.float64), starts, progress)


def frame_memory(width: int, columns: int, fused: bool) -> kernel.Work:
    """Memory for one frame: searches of a thread share it, as nothing in it outlives a frame."""
    key = width, columns, fused
    if getattr(_memory, "key", None) != key:
        _memory.key, _memory.work = key, kernel.new_work(*key)
    work: kernel.Work = _memory.work
    return work


_memory = threading.local()


def new_output(utterances: int, nbest: int, tokens: int) -> kernel.Output:
    """Memory for the hypotheses of several utterances with so many tokens in all."""
    return kernel.Output(
        np.empty((4, tokens)),
        np.empty((utterances, nbest), np.int64),
        np.empty((utterances, nbest, 2)),
        np.zeros(utterances, np.int64),
    )


NO_OUTPUT = new_output(0, 0, 0)


def as_hypotheses(output: kernel.Output, length: int) -> list[list[Hypothesis]]:
    """Hypotheses that the kernel has written, per utterance best first; ``length`` tokens of the room are in use."""
    tokens, frames, ends = output.tokens[:3, :length].astype(np.int64).tolist()
    confidences = np.minimum(np.exp(output.tokens[3, :length]), 1).tolist()
    result, first = [], 0
    counts, bounds, scores = output.counts.tolist(), output.bounds.tolist(), output.scores.tolist()
    for count, lasts, values in zip(counts, bounds, scores, strict=True):
        nbest = []
        for last, (score, lm_score) in zip(lasts[:count], values[:count], strict=True):
            part = slice(first, last)
            found = tuple(tokens[part]), tuple(frames[part]), tuple(ends[part]), tuple(confidences[part])
            nbest.append(Hypothesis(*found, score, lm_score))
            first = last
        result.append(nbest)
    return result
