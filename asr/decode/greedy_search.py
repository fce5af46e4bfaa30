"""Best-path decoding (Graves et al. 2006): the likeliest token of each frame, repeats merged, blanks removed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.hypothesis import Hypothesis
from asr.decode.posteriors import BLANK, TOLERANCE, Lengths, Matrix, as_batch, check_normalised, next_frames
from asr.errors import DecodeError


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
    if getattr(log_probs, "is_cuda", False) and (found := best_path(log_probs, lengths)) is not None:
        return _hypotheses(*found)
    batch, frames = as_batch(log_probs, lengths)
    check_normalised(batch, frames)
    best = batch.argmax(axis=-1)
    return _hypotheses(best, np.take_along_axis(batch, best[..., None], axis=-1)[..., 0], frames)


def best_path(
    log_probs: Any, lengths: Lengths = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.int64]] | None:
    """Best tokens and their log-probabilities ``(B, T)``, searched where a tensor ``(T, V)`` or ``(B, T, V)`` lies.

    Only these come to the CPU, a ``V``-th of the matrix. Third come the valid frames ``(B,)``. ``None`` where a valid
    row does not sum to one: ``check_normalised`` names it. Raises ``DecodeError`` for lengths that do not fit.
    """
    if log_probs.ndim not in (2, 3) or not log_probs.is_floating_point() or log_probs.shape[-1] < 2:
        return None
    batch = log_probs.detach() if log_probs.ndim == 3 else log_probs.detach()[None]
    batch = batch.float() if batch.element_size() < 4 else batch
    if not batch.shape[0] or not batch.shape[1]:
        return None
    peaks, best = (part.cpu().numpy() for part in batch.max(dim=-1))
    totals = batch.logsumexp(dim=-1).cpu().numpy()
    _, frames = as_batch(np.stack([peaks, totals], axis=-1), lengths)  # two columns, for the checks of the lengths
    with np.errstate(invalid="ignore"):
        good = (np.abs(totals) <= TOLERANCE) | (np.arange(best.shape[1]) >= frames[:, None])
    return (best, peaks, frames) if good.all() else None


class GreedySearch:
    """Best-path decoding of frames as they come, with the interface of ``asr.decode.BeamSearch``.

    Tokens before a blank are final, so reading the text costs no more in a long stream.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget everything accepted so far."""
        self._settled = Hypothesis()
        self._settled_frames = 0
        self._best = np.empty(0, np.int64)
        self._peaks = np.empty(0)
        """Best path and its posteriors behind the last blank."""
        self._columns: int | None = None
        self.frames = 0
        """Frames accepted so far."""

    def accept(self, log_probs: Matrix) -> None:
        """Decode the next frames ``(T, V)``, ``T`` from 0. Raises ``DecodeError`` as ``BeamSearch.accept``."""
        frames = next_frames(log_probs, self._columns, self.frames)
        self._columns = frames.shape[1]
        best = frames.argmax(axis=-1)
        self._best = np.concatenate([self._best, best])
        self._peaks = np.concatenate([self._peaks, np.take_along_axis(frames, best[:, None], axis=-1)[:, 0]])
        self.frames += len(best)
        blanks = np.flatnonzero(best == BLANK)
        if blanks.size:
            end = len(self._best) - len(best) + int(blanks[-1]) + 1
            self._settled = self._joined(self._best[:end], self._peaks[:end])
            self._settled_frames += end
            self._best, self._peaks = self._best[end:], self._peaks[end:]

    def _joined(self, best: npt.NDArray[np.int64], peaks: npt.NDArray[Any]) -> Hypothesis:
        """What is settled, and what these frames behind it say."""
        if not len(best):
            return self._settled
        before = self._settled
        more = _hypotheses(best[None], peaks[None], np.array([len(best)]))[0].shifted(self._settled_frames)
        return Hypothesis(
            before.tokens + more.tokens,
            before.frames + more.frames,
            before.ends + more.ends,
            before.confidences + more.confidences,
            before.score + more.score,
        )

    def hypotheses(self, nbest: int = 1) -> list[Hypothesis]:
        """The best path so far, the only one there is. Raises ``DecodeError`` for another ``nbest`` than 1."""
        if nbest != 1:
            raise DecodeError(f"expected nbest 1 for greedy decoding, got {nbest}; use a beam")
        return [self._joined(self._best, self._peaks)]

    def partial(self) -> tuple[Hypothesis, int]:
        """The hypothesis so far, and how many of its tokens will not change any more: all of them."""
        found = self.hypotheses()[0]
        return found, len(found.tokens)

    def finish(self, nbest: int = 1) -> list[Hypothesis]:
        """``hypotheses``, then ``start``."""
        result = self.hypotheses(nbest)
        self.start()
        return result


def _hypotheses(
    best: npt.NDArray[np.int64], peaks: npt.NDArray[Any], frames: npt.NDArray[np.int64]
) -> list[Hypothesis]:
    """Merge repeats and remove blanks of best paths ``(B, T)``, of which ``frames (B,)`` are valid, with posteriors."""
    utterances, steps = best.shape
    valid = np.arange(steps) < frames[:, None]
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
