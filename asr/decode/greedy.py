"""Best-path decoding (Graves et al. 2006): the likeliest token of each frame, repeats merged, blanks removed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.hypothesis import Hypothesis
from asr.decode.matrix import BLANK, Lengths, Matrix, as_batch, check_normalised


def greedy(log_probs: Matrix, lengths: Lengths = None) -> list[Hypothesis]:
    """Decode a batch by its best paths, all utterances at once.

    Args:
        log_probs: natural log-probabilities ``(T, V)`` or ``(B, T, V)``, blank in column 0, numpy or torch.
        lengths: valid frames of each utterance ``(B,)``; frames past them are never read. ``None``: all ``T``.

    Returns:
        One hypothesis per utterance (one for a ``(T, V)`` matrix); no frames give an empty one with score 0.

    Raises:
        DecodeError: wrong shape, lengths out of range, NaN, ``+inf``, or rows that do not sum to one.
    """
    batch, frames = as_batch(log_probs, lengths)
    check_normalised(batch, frames)
    utterances, steps, _ = batch.shape
    valid = np.arange(steps) < frames[:, None]
    best = batch.argmax(axis=-1)
    peaks = np.take_along_axis(batch, best[..., None], axis=-1)[..., 0]
    scores = np.where(valid, peaks, 0).sum(axis=1, dtype=np.float64)

    # A column of blanks on either side, so that a token in the first or last frame begins and ends like any other.
    path = np.full((utterances, steps + 2), BLANK)
    np.copyto(path[:, 1:-1], best, where=valid)
    emitted = path[:, 1:-1] != BLANK
    changes = path[:, 1:] != path[:, :-1]
    rows, starts = np.nonzero(changes[:, :-1] & emitted)
    ends = np.nonzero(changes[:, 1:] & emitted)[1] + 1
    confidences = _largest(np.where(emitted, peaks, -np.inf), rows * steps + starts)
    return _split(rows, path[rows, starts + 1], starts, ends, confidences, scores)


def _largest(peaks: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Largest posterior from each start to the next; whatever is not emitted in between is -inf in ``peaks``."""
    if not starts.size:
        return np.empty(0)
    return np.minimum(np.exp(np.maximum.reduceat(peaks.ravel(), starts)), 1)


def _split(
    rows: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    confidences: npt.NDArray[Any],
    scores: npt.NDArray[np.float64],
) -> list[Hypothesis]:
    """Cut the tokens of all utterances, in row order, into one hypothesis per row."""
    columns = tokens.tolist(), starts.tolist(), ends.tolist(), confidences.tolist()
    bounds = np.searchsorted(rows, np.arange(len(scores) + 1)).tolist()
    hypotheses = []
    for first, last, score in zip(bounds[:-1], bounds[1:], scores.tolist(), strict=True):
        token, start, end, confidence = (tuple(column[first:last]) for column in columns)
        hypotheses.append(Hypothesis(token, start, end, confidence, score))
    return hypotheses
