"""CTC prefix beam search (Graves 2012, chapter 7; Hannun et al. 2014): whole matrices, or frames as they come.

The search keeps the ``beam`` likeliest prefixes, each with the probability of all its paths so far. It works frame by
frame and keeps no frames. So a stream in any pieces gives exactly the result of the whole matrix. With a beam that
holds all prefixes, and the thresholds off, scores are exact.

Language models join the search itself: a lexicon with its n-gram and hot words (``asr.decode.lexicon``) inside the
kernel, any other model (``asr.decode.fusion``) for all prefixes of all utterances in one call per frame at most.

The kernels (``asr.decode.kernel``) are compiled by numba at the first call, which takes some seconds once; later
processes load them from the user's cache folder (``asr.decode.compiled``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode import kernel, pools
from asr.decode.fusion import Fusion, Rows
from asr.decode.hypothesis import Hypothesis
from asr.decode.posteriors import (
    BLANK,
    Lengths,
    Matrix,
    as_batch,
    check_joined,
    check_normalised,
    finite_number,
    next_frames,
    positive_int,
)
from asr.decode.search_memory import NO_OUTPUT, as_frames, as_hypotheses, frame_memory, new_output
from asr.errors import DecodeError

INITIAL_NODES = 4096
"""Prefixes (and path segments) there is room for at the start; more are allocated when that many are in use."""
BLOCK_VALUES = 1 << 18
"""Values converted to float64 at a time, so that a long recording needs no second copy of its matrix."""


class BeamSearch:
    """Prefix beam search over one utterance whose frames may come in pieces.

    Call ``accept`` any number of times and ``hypotheses`` at any time. ``finish`` gives the final ones and starts
    again. ``copy.deepcopy`` branches a search. Memory depends on the prefixes in the beam, not on the number of frames.

    Args:
        beam: prefixes kept after each frame, at least 1.
        token_threshold: natural log, at most 0. A token below it opens no new prefix in that frame, unless it is
            the frame's likeliest symbol; prefixes in the beam still receive it. ``-inf`` turns it off.
        blank_threshold: natural log, at most 0. A frame whose blank is above it is taken as blank for certain: every
            prefix ends in blank (so that a token on either side of it still counts twice) and none is opened.
            0 turns it off.
        beam_threshold: natural log, at least 0. Prefixes that score less than the best one by more are dropped.
        blank_penalty: natural log, at least 0. It is taken from the blank of every frame, against deletions: CTC
            networks are surer of blank than they should be, as it is by far their commonest symbol. Scores include it.
            The thresholds and the confidences of tokens refer to the posteriors without it.
        words: lexicon, n-gram and hot words, from ``asr.decode.lexicon.make_words``.
        lm: a language model over tokens with its weight.

    Raises:
        DecodeError: beam below 1, a threshold or a penalty of the wrong sign, or NaN.
    """

    def __init__(
        self,
        *,
        beam: int = 16,
        token_threshold: float = -math.inf,
        blank_threshold: float = 0.0,
        beam_threshold: float = math.inf,
        blank_penalty: float = 0.0,
        words: kernel.Words | None = None,
        lm: Fusion | None = None,
    ) -> None:
        self._width = positive_int("beam", beam)
        if not finite_number("beam_threshold", beam_threshold) >= 0:
            raise DecodeError(f"expected beam_threshold as a natural logarithm of at least 0, got {beam_threshold}")
        blank_limit = _log_threshold("blank_threshold", blank_threshold)
        # Off is +inf and not 0 for the kernel: rounding makes a certain blank slightly more likely than 1.
        blank_limit = blank_limit if blank_limit < 0 else math.inf
        if not 0 <= finite_number("blank_penalty", blank_penalty) < math.inf:
            raise DecodeError(f"expected blank_penalty as a natural logarithm of at least 0, got {blank_penalty}")
        self._blank_penalty = float(blank_penalty)
        blank_limit -= self._blank_penalty
        self._thresholds = np.array([_log_threshold("token_threshold", token_threshold), blank_limit, beam_threshold])
        if not isinstance(lm, Fusion | None):
            raise DecodeError(f"lm: expected asr.decode.fusion.Fusion, got {lm!r}"[:200])
        if not isinstance(words, kernel.Words | None):
            raise DecodeError(f"words: expected the result of make_words, got {words!r}"[:200])
        self._lm = lm if lm is not None and lm.weight else None
        self.begin(words)

    def begin(self, words: kernel.Words | None, state: Any = None) -> None:
        """``start`` with other ``words`` and, for the language model, from the ``state`` after what was said before
        (of one sequence); None: from its own start."""
        self._words = kernel.NO_WORDS if words is None and self._lm is not None else words
        self._fused = self._words is not None
        self._before = state
        self.start()

    def start(self) -> None:
        """Forget everything accepted so far."""
        # At least 8 times the width: after `_make_room` half of the pools is free, and a frame needs 2 * width of them.
        size = 1 << (max(INITIAL_NODES, 8 * self._width) - 1).bit_length()
        self._columns: int | None = None
        self._begun = False
        columns = 0 if self._words is None else int(self._words.ids[kernel.COLUMNS])
        self._rows = Rows(4 * self._width if self._fused else 0, self._width, columns)
        self._rows.before = self._before
        self._state = kernel.State(
            beam=np.zeros(2 * self._width, kernel.ENTRY),
            places=np.empty(2 * self._width, np.uint32),
            nodes=np.empty(size, kernel.NODE),
            table=np.empty(2 * size, np.int32),
            segments=np.empty(size, kernel.SEGMENT),
            counts=np.zeros(kernel.COUNTS, np.int64),
            offset=np.zeros(1),
            rows=self._rows.values,
            limits=self._rows.limits,
            owners=self._rows.owners,
            pending=self._rows.pending,
        )

    @property
    def lm(self) -> Fusion | None:
        """The language model over tokens; None without one, or with the weight 0."""
        return self._lm

    @property
    def frames(self) -> int:
        """Frames accepted so far."""
        return int(self._state.counts[kernel.FRAME])

    def accept(self, log_probs: Matrix) -> None:
        """Decode the next frames ``(T, V)``, ``T`` from 0.

        Raises:
            DecodeError: not a ``(T, V)`` matrix of normalised log-probabilities, or another ``V`` than before. The
                search then stands where it stood before the call.
        """
        accept_all([self], [log_probs])

    def hypotheses(self, nbest: int = 1) -> list[Hypothesis]:
        """The likeliest hypotheses of the frames so far, best first; fewer than ``nbest`` where the beam holds fewer.

        Frames are counted from the first one accepted; ``score`` is the natural log of the prefix's probability.

        Raises:
            DecodeError: ``nbest`` below 1 or above the beam.
        """
        self._check_nbest(nbest)
        if self._columns is None:
            return [Hypothesis()]
        self._end(nbest)
        decode_prefixes([self])
        return self._found()

    def _check_nbest(self, nbest: int) -> None:
        if positive_int("nbest", nbest) > self._width:
            raise DecodeError(f"expected nbest of at most the beam ({self._width}), got {nbest}; use a wider beam")

    def finish(self, nbest: int = 1) -> list[Hypothesis]:
        """``hypotheses``, then ``start``."""
        result = self.hypotheses(nbest)
        self.start()
        return result

    def partial(self) -> tuple[Hypothesis, int]:
        """The best hypothesis so far, as if more were to come, and how many of its tokens will not change any more:
        those that all prefixes in the beam begin with."""
        state = self._state
        if not state.counts[kernel.ENTRIES]:
            return Hypothesis(), 0
        best = state.beam[state.places[0]]
        node = state.nodes[best["node"]]
        output = new_output(1, 1, int(node["depth"]))
        output.counts[0], output.bounds[0] = 1, node["depth"]
        output.scores[0, 0] = math.log(best["total"]) + state.offset[0], node["bonus"]
        kernel.trace(state, 0, output.tokens, 0)
        return as_hypotheses(output, int(node["depth"]))[0][0], int(pools.agreed_prefixes(state))

    def settle(self, frames: int) -> None:
        """Decide on the words so far, but for the last ``frames`` frames: the tokens of the best hypothesis that ended
        before these will not change any more. Prefixes that begin otherwise are dropped."""
        best, agreed = self.partial()
        depth = sum(end <= self.frames - frames for end in best.ends)
        if depth > agreed:
            pools.drop_others(self._state, depth)

    def _prepare(self, columns: int) -> None:
        """Make rows for matrices of so many columns."""
        if self._words is not None:
            self._rows.resize(columns, self._words)
            if self._state.rows is not self._rows.values:
                self._state = self._state._replace(rows=self._rows.values)

    def _take(self, log_probs: npt.NDArray[np.floating]) -> None:
        """Queue checked frames ``(T, V)`` for ``_run``."""
        self._columns = log_probs.shape[1]
        self._prepare(self._columns)
        self._queue = log_probs
        self._finish, self._output = False, NO_OUTPUT
        self._next_block()

    def _end(self, nbest: int) -> None:
        """Queue the hypotheses of the frames so far for ``_run``."""
        depths = self._state.nodes["depth"][self._entries()["node"]]
        self._finish, self._output = True, new_output(1, nbest, nbest * int(depths.max(initial=0)))
        self._queue = np.empty((0, self._columns or 0))
        self._next_block()

    def _next_block(self) -> None:
        """Take frames out of the queue."""
        size = max(1, BLOCK_VALUES // self._queue.shape[1])
        block, self._queue = self._queue[:size], self._queue[size:]
        self._block = self._as_frames(block, np.array([0, len(block)]))

    def _as_frames(self, log_probs: npt.NDArray[np.floating], starts: npt.NDArray[np.int64]) -> kernel.Frames:
        """Frames for the kernel, with the penalty of blank."""
        if self._blank_penalty and len(log_probs):
            log_probs = np.array(log_probs, np.float64)  # a copy: the matrix is the caller's
            log_probs[:, BLANK] -= self._blank_penalty
        return as_frames(log_probs, starts)

    def _run(self) -> bool:
        """Do what is queued; False when the language model must fill rows first."""
        while True:
            if self._search(self._block, self._output, finish=self._finish):
                if not len(self._queue):
                    return True
                self._next_block()
            elif self._lm is not None and self._state.counts[kernel.PENDING]:
                return False
            else:
                self._make_room()

    def _search(self, frames: kernel.Frames, output: kernel.Output, *, begin: bool = False, finish: bool) -> bool:
        """The kernel, which the first frames after ``start`` begin from the empty prefix."""
        begin, self._begun = begin or not self._begun, True
        work = frame_memory(self._width, frames.log_probs.shape[1], self._fused)
        done: bool = kernel.search(
            self._state, self._words, work, self._thresholds, frames, output, begin, finish, self._lm is not None
        )
        return done

    def _found(self) -> list[Hypothesis]:
        """The hypotheses that ``_run`` has written."""
        return as_hypotheses(self._output, self._block.progress[kernel.WRITTEN])[0]

    def _decode_all(
        self, matrices: Sequence[npt.NDArray[np.floating]], nbest: int, first_utterance: int
    ) -> list[list[Hypothesis]]:
        """Check and decode utterances ``(T, V)``, each from its start to its hypotheses, without a language model."""
        starts = np.zeros(len(matrices) + 1, np.int64)
        np.cumsum([len(matrix) for matrix in matrices], out=starts[1:])
        joined = matrices[0] if len(matrices) == 1 else np.concatenate(matrices)
        check_joined(joined, starts, first_utterance)
        if joined.size > BLOCK_VALUES:  # a single one: in blocks
            self.start()
            self._take(joined)
            self._run()
            return [self.hypotheses(nbest)]
        self._prepare(joined.shape[1])
        frames = self._as_frames(joined, starts)
        output = new_output(len(matrices), nbest, nbest * len(joined))
        while not self._search(frames, output, begin=True, finish=True):
            self._make_room()
        return as_hypotheses(output, frames.progress[kernel.WRITTEN])

    def _pending(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of the prefixes whose rows a language model must fill: rows, rows of their parents (-1: none), tokens."""
        nodes = self._state.nodes
        new = nodes[self._state.pending[: self._state.counts[kernel.PENDING]]]
        known = new["parent"] != kernel.NOWHERE
        parents = np.where(known, nodes["row"][np.where(known, new["parent"], kernel.ROOT)], -1)
        return new["row"].astype(np.int64), parents.astype(np.int64), new["token"].astype(np.int64)

    def _make_room(self) -> None:
        """Drop what no prefix in the beam builds on; double the pools where more than half is still in use."""
        state = self._state
        pools.compact(state, np.empty(max(state.nodes.size, state.segments.size) + 1, np.int64))
        nodes, table, segments = state.nodes, state.table, state.segments
        if state.counts[kernel.NODES] > nodes.size // 2:
            nodes = np.concatenate([nodes, np.empty_like(nodes)])
            table = np.empty(2 * nodes.size, np.int32)
        if state.counts[kernel.SEGMENTS] > segments.size // 2:
            segments = np.concatenate([segments, np.empty_like(segments)])
        self._state = state._replace(nodes=nodes, table=table, segments=segments)
        kernel.index(self._state)

    def _entries(self) -> npt.NDArray[np.void]:
        """Copies of the prefixes in the beam, best first."""
        state = self._state
        entries: npt.NDArray[np.void] = state.beam[state.places[: state.counts[kernel.ENTRIES]]]
        return entries


def accept_all(searches: Sequence[BeamSearch], matrices: Sequence[Matrix]) -> None:
    """``accept`` of several searches, each with frames of its own; a language model is asked for all of them at once.

    Raises ``DecodeError`` as ``accept`` does, before any of the searches has moved.
    """
    frames = [
        next_frames(log_probs, search._columns, search.frames)
        for search, log_probs in zip(searches, matrices, strict=True)
    ]
    for search, matrix in zip(searches, frames, strict=True):
        search._take(matrix)
    decode_prefixes(searches)


def decode_prefixes(searches: Sequence[BeamSearch]) -> None:
    """Run what is queued in the searches, language models once for all that wait for them."""
    waiting = [search for search in searches if not search._run()]
    while waiting:
        lm = waiting[0]._lm
        assert lm is not None
        lm.fill([(search._rows, search._pending()) for search in waiting])
        for search in waiting:
            search._state.counts[kernel.PENDING] = 0
        waiting = [search for search in waiting if not search._run()]


def beam_search(
    log_probs: Matrix,
    lengths: Lengths = None,
    *,
    beam: int = 16,
    token_threshold: float = -math.inf,
    blank_threshold: float = 0.0,
    beam_threshold: float = math.inf,
    blank_penalty: float = 0.0,
    words: kernel.Words | None = None,
    lm: Fusion | None = None,
    nbest: int = 1,
    threads: int = 1,
) -> list[list[Hypothesis]]:
    """Decode a batch with :class:`BeamSearch`, which describes the options.

    Args:
        log_probs: natural log-probabilities ``(T, V)`` or ``(B, T, V)``, blank in column 0, numpy or torch.
        lengths: valid frames of each utterance ``(B,)``; frames past them are never read. ``None``: all ``T``.
        nbest: hypotheses wanted per utterance, 1 to ``beam``.
        threads: utterances decoded at a time (without an ``lm``, which sees all of them at once anyway).

    Returns:
        Per utterance (one for a ``(T, V)`` matrix) up to ``nbest`` hypotheses, best first. An utterance's result does
        not depend on the others; no frames give one empty hypothesis, without language models with score 0.

    Raises:
        DecodeError: wrong shape, lengths out of range, NaN, ``+inf``, rows that do not sum to one, ``beam`` or
            ``nbest`` out of range, thresholds or a penalty of the wrong sign, language models of another vocabulary.
    """
    search = BeamSearch(
        beam=beam, token_threshold=token_threshold, blank_threshold=blank_threshold, beam_threshold=beam_threshold,
        blank_penalty=blank_penalty, words=words, lm=lm,
    )  # fmt: skip
    search._check_nbest(nbest)
    batch, frames = as_batch(log_probs, lengths)
    matrices = [matrix[:length] for matrix, length in zip(batch, frames.tolist(), strict=True)]
    if not matrices:
        return []
    if search._lm is not None:
        check_normalised(batch, frames)
        searches = [copy.copy(search) for _ in matrices]
        for each, matrix in zip(searches, matrices, strict=True):
            each.start()
            each._take(matrix)
        decode_prefixes(searches)
        for each in searches:
            each._end(nbest)
        decode_prefixes(searches)
        return [each._found() for each in searches]
    groups = _groups(frames, BLOCK_VALUES // max(batch.shape[2], 4 * nbest), positive_int("threads", threads))
    if threads == 1 or len(groups) == 1:
        return [found for group in groups for found in search._decode_all(matrices[group], nbest, group.start)]

    def run(group: slice) -> list[list[Hypothesis]]:
        each = copy.copy(search)
        each.start()
        return each._decode_all(matrices[group], nbest, group.start)

    with ThreadPoolExecutor(threads) as pool:
        return [found for part in pool.map(run, groups) for found in part]


def _groups(lengths: npt.NDArray[np.int64], frames: int, threads: int) -> list[slice]:
    """Consecutive utterances of so many frames in all, or a single one, and at least a group for each thread."""
    limit = min(frames, -(-int(lengths.sum()) // threads))
    groups, first, held = [], 0, 0
    for at, length in enumerate(lengths.tolist()):
        if at > first and held + length > limit:
            groups.append(slice(first, at))
            first, held = at, 0
        held += length
    return [*groups, slice(first, len(lengths))]


def _log_threshold(name: str, value: float) -> float:
    if not finite_number(name, value) <= 0:  # NaN too
        raise DecodeError(f"expected {name} as a natural log-probability, at most 0 (0.999 is -0.001), got {value}")
    return float(value)
