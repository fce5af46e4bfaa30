"""CTC prefix beam search (Graves 2012, chapter 7; Hannun et al. 2014): whole matrices, or frames as they come.

The search keeps the ``beam`` likeliest prefixes, each with the probability of all its paths so far. It works on one
frame after the other and keeps no frames, so that a stream fed in any pieces gives what the whole matrix gives, to the
last bit. With a beam that holds all prefixes, and both thresholds off, scores are exact.

The kernels (``asr.decode.kernel``) are compiled by numba at the first call, which takes some seconds once; later
processes load them from numba's cache beside the package or, where that cannot be written, in the user's cache folder.
"""

from __future__ import annotations

import math
import operator

import numpy as np
import numpy.typing as npt

from asr.decode import kernel
from asr.decode.hypothesis import Hypothesis
from asr.decode.matrix import Lengths, Matrix, as_batch, check_normalised
from asr.errors import DecodeError

INITIAL_NODES = 4096
"""Prefixes (and path segments) there is room for at the start; more are allocated when that many are in use."""
BLOCK_VALUES = 1 << 18
"""Values converted to float64 at a time, so that a long recording needs no second copy of its matrix."""


class BeamSearch:
    """Prefix beam search over one utterance whose frames may come in pieces.

    ``accept`` any number of times, look at ``hypotheses`` whenever wanted, ``finish`` to get the final ones and begin
    anew. ``copy.deepcopy`` branches a search. Memory follows what the prefixes in the beam hold, not the frames seen.

    Args:
        beam: prefixes kept after each frame, at least 1.
        token_threshold: natural log, at most 0. A token below it opens no new prefix in that frame, unless it is
            the frame's likeliest symbol; prefixes in the beam still receive it. ``-inf`` turns it off.
        blank_threshold: natural log, at most 0. A frame whose blank is above it is taken as blank for certain: every
            prefix ends in blank (so that a token on either side of it still counts twice) and none is opened.
            0 turns it off.

    Raises:
        DecodeError: beam below 1, or a threshold that is positive or NaN.
    """

    def __init__(self, *, beam: int = 16, token_threshold: float = -math.inf, blank_threshold: float = 0.0) -> None:
        self._width = _positive("beam", beam)
        self._token_threshold = _log_threshold("token_threshold", token_threshold)
        self._blank_threshold = _log_threshold("blank_threshold", blank_threshold)
        self.start()

    def start(self) -> None:
        """Forget everything accepted so far."""
        # At least 8 times the width: after `_make_room` half of the pools is free, and a frame needs 2 * width of them.
        size = 1 << (max(INITIAL_NODES, 8 * self._width) - 1).bit_length()
        self._columns: int | None = None
        self._beam = np.zeros(self._width, kernel.ENTRY)
        self._nodes = np.empty(size, kernel.NODE)
        self._table = np.empty(2 * size, np.int32)
        self._segments = np.empty(size, kernel.SEGMENT)
        self._counts = np.zeros(kernel.COUNTS, np.int64)
        kernel.start(self._beam, self._nodes, self._table, self._counts)

    @property
    def frames(self) -> int:
        """Frames accepted so far."""
        return int(self._counts[kernel.FRAME])

    def accept(self, log_probs: Matrix) -> None:
        """Decode the next frames ``(T, V)``, ``T`` from 0.

        Raises:
            DecodeError: not a ``(T, V)`` matrix of normalised log-probabilities, or another ``V`` than before. The
                search then stands where it stood before the call.
        """
        batch, lengths = as_batch(log_probs)
        shape = tuple(np.shape(log_probs))
        if len(shape) != 2:
            raise DecodeError(f"expected the next frames of one utterance, shape (T, V), got shape {shape}")
        if self._columns is not None and batch.shape[2] != self._columns:
            raise DecodeError(f"expected {self._columns} columns as in earlier frames, got shape {shape}")
        check_normalised(batch, lengths, first_frame=self.frames)
        self._decode(batch[0])

    def hypotheses(self, nbest: int = 1) -> list[Hypothesis]:
        """The likeliest hypotheses of the frames so far, best first; fewer than ``nbest`` where the beam holds fewer.

        Frames are counted from the first one accepted; ``score`` is the natural log of the prefix's probability.

        Raises:
            DecodeError: ``nbest`` below 1 or above the beam.
        """
        if _positive("nbest", nbest) > self._width:
            raise DecodeError(f"expected nbest of at most the beam ({self._width}), got {nbest}; use a wider beam")
        return [self._hypothesis(place) for place in range(min(nbest, int(self._counts[kernel.ENTRIES])))]

    def finish(self, nbest: int = 1) -> list[Hypothesis]:
        """``hypotheses``, then ``start``."""
        result = self.hypotheses(nbest)
        self.start()
        return result

    def _decode(self, log_probs: npt.NDArray[np.floating]) -> None:
        """Decode checked frames ``(T, V)``."""
        self._columns = log_probs.shape[1]
        size = max(1, BLOCK_VALUES // self._columns)
        # Off is +inf and not 0 for the kernel: rounding makes a certain blank slightly more likely than 1.
        blank_threshold = self._blank_threshold if self._blank_threshold < 0 else math.inf
        for first in range(0, len(log_probs), size):
            block = np.ascontiguousarray(log_probs[first : first + size], dtype=np.float64)
            done = 0
            while done < len(block):
                done += kernel.advance(
                    block[done:], self._token_threshold, blank_threshold, self._beam, self._nodes, self._table,
                    self._segments, self._counts,
                )  # fmt: skip
                if done < len(block):
                    self._make_room()

    def _make_room(self) -> None:
        """Drop what no prefix in the beam builds on; double the pools where more than half is still in use."""
        kernel.compact(self._beam, self._nodes, self._segments, self._counts)
        if self._counts[kernel.NODES] > self._nodes.size // 2:
            self._nodes = np.concatenate([self._nodes, np.empty_like(self._nodes)])
            self._table = np.empty(2 * self._nodes.size, np.int32)
        if self._counts[kernel.SEGMENTS] > self._segments.size // 2:
            self._segments = np.concatenate([self._segments, np.empty_like(self._segments)])
        kernel.index(self._nodes, self._table, self._counts)

    def _hypothesis(self, place: int) -> Hypothesis:
        entry = self._beam[place]
        out = np.empty((4, self._nodes[entry["node"]]["depth"]))
        kernel.trace(place, self._beam, self._nodes, self._segments, self._counts, out)
        tokens, frames, ends = out[:3].astype(np.int64).tolist()
        confidences = np.minimum(np.exp(out[3]), 1).tolist()
        return Hypothesis(tuple(tokens), tuple(frames), tuple(ends), tuple(confidences), float(entry["total"]))


def beam_search(
    log_probs: Matrix,
    lengths: Lengths = None,
    *,
    beam: int = 16,
    token_threshold: float = -math.inf,
    blank_threshold: float = 0.0,
    nbest: int = 1,
) -> list[list[Hypothesis]]:
    """Decode a batch with :class:`BeamSearch`, which describes the options.

    Args:
        log_probs: natural log-probabilities ``(T, V)`` or ``(B, T, V)``, blank in column 0, numpy or torch.
        lengths: valid frames of each utterance ``(B,)``; frames past them are never read. ``None``: all ``T``.
        nbest: hypotheses wanted per utterance, 1 to ``beam``.

    Returns:
        Per utterance (one for a ``(T, V)`` matrix) up to ``nbest`` hypotheses, best first. An utterance's result does
        not depend on the others; no frames give one empty hypothesis with score 0.

    Raises:
        DecodeError: wrong shape, lengths out of range, NaN, ``+inf``, rows that do not sum to one, ``beam`` or
            ``nbest`` out of range, thresholds above 0.
    """
    search = BeamSearch(beam=beam, token_threshold=token_threshold, blank_threshold=blank_threshold)
    search.hypotheses(nbest)  # a wrong nbest is refused before any work is done
    batch, frames = as_batch(log_probs, lengths)
    check_normalised(batch, frames)
    results = []
    for matrix, length in zip(batch, frames.tolist(), strict=True):
        search._decode(matrix[:length])
        results.append(search.finish(nbest))
    return results


def _positive(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise DecodeError(f"expected {name} as a whole number, got {value!r}") from None
    if number < 1:
        raise DecodeError(f"expected {name} of at least 1, got {number}")
    return number


def _log_threshold(name: str, value: float) -> float:
    if not value <= 0:  # NaN too
        raise DecodeError(f"expected {name} as a natural log-probability, at most 0 (0.999 is -0.001), got {value}")
    return float(value)
