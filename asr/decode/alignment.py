"""Forced alignment: the likeliest CTC path of a known token sequence (Viterbi 1967; Graves et al. 2006)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.greedy_search import greedy
from asr.decode.hypothesis import Hypothesis
from asr.decode.posteriors import BLANK, Matrix, as_batch, check_normalised
from asr.errors import DecodeError
from asr.text.tokenizer import min_frames, token_ids

MAX_CELLS = 1 << 31
"""Frames times states of the largest trellis: one byte each."""
JITTER = 1e-7
"""Nats by which log-probabilities are changed to find out whether the best path is the only one: float32 rounds by as
much."""
FLOOR = -1e6
"""Nats that torchaudio gets for anything less likely: at -inf it reads outside its memory."""
MISMATCH = 2.5
"""Nats per token beyond which a text is taken to be another than what was said (docs/decisions.md)."""
STRETCH = 100
"""Tokens over which that is measured in long recordings: about ten seconds of speech."""


def align(log_probs: Matrix, tokens: Sequence[int]) -> Hypothesis:
    """When each token was said.

    Args:
        log_probs: natural log-probabilities ``(T, V)``, blank in column 0, numpy or torch.
        tokens: ids without blanks, at most ``T`` with one more for every pair of equal neighbours.

    Returns:
        A hypothesis of exactly these tokens; ``score`` is the log-probability of the best path.

    Raises:
        DecodeError: as ``greedy``, for ids that are not of this vocabulary, a sequence that needs more frames than
        there are or has probability 0, or a trellis of more than ``MAX_CELLS``.
    """
    batch, lengths = as_batch(log_probs)
    if len(batch) != 1:
        raise DecodeError(f"expected the log-probabilities of one utterance, got {len(batch)}")
    check_normalised(batch, lengths)
    matrix = batch[0].astype(np.float64)
    frames, vocabulary = matrix.shape
    tokens = token_ids(tokens, vocabulary, least=BLANK + 1, error=DecodeError)
    needed = min_frames(tokens)
    if needed > frames:
        raise DecodeError(f"{len(tokens)} tokens need {needed} frames (one more between equal ones), got {frames}")
    if not frames:
        return Hypothesis()
    # States: blank, token, blank, token, ..., blank.
    labels = np.full(2 * len(tokens) + 1, BLANK)
    labels[1::2] = tokens
    if frames * len(labels) > MAX_CELLS:
        raise DecodeError(f"{frames} frames and {len(tokens)} tokens are too long to align at once: cut them")
    path, score = _best_path(matrix, labels)
    if score == -np.inf:
        raise DecodeError("these tokens have probability 0 here: every path meets a log-probability of -inf")
    starts = np.searchsorted(path, np.arange(1, len(labels), 2))
    ends = np.searchsorted(path, np.arange(1, len(labels), 2), side="right")
    confidences = [
        float(np.exp(matrix[start:end, token].max())) for start, end, token in zip(starts, ends, tokens, strict=True)
    ]
    return Hypothesis(tuple(tokens), tuple(starts.tolist()), tuple(ends.tolist()), tuple(confidences), score)


def mismatch(log_probs: Matrix, aligned: Hypothesis) -> float:
    """How much less likely the best path of an alignment is than the best path of any tokens at all, in natural
    logarithms per token.

    Near 0 for what was said, and far from it for any other text (``MISMATCH`` lies between). Per token and not per
    frame: silence suits every text. The text's tokens count, or those of the free path where these are more. Of long
    recordings it is the median over stretches of about ``STRETCH`` tokens, so that a page that is missing in the text
    does not condemn the rest.

    Args:
        log_probs: natural log-probabilities ``(T, V)``, as ``aligned`` was made from.
        aligned: what ``align`` gave.

    Raises ``DecodeError`` as ``greedy``, and for tokens of another vocabulary.
    """
    lost, counts = _losses(log_probs, aligned)
    # Stretches with as many tokens each, of the text and of the free path together.
    passed = counts.sum(axis=0).cumsum()
    stretches = max(1, round(int(passed[-1:].sum()) / 2 / STRETCH))
    bounds = np.searchsorted(passed, passed[-1:].sum() / stretches * np.arange(1, stretches))
    return float(np.median([per_token(part) for part in _parts(lost, counts, bounds)]))


Loss = tuple[float, int, int]
"""Natural logarithms by which an alignment's path is less likely than the free one, tokens of the text, tokens of the
free path: of some frames."""


def losses(log_probs: Matrix, aligned: Hypothesis, bounds: Sequence[int]) -> list[Loss]:
    """What ``mismatch`` is made of, for the frames up to the first of ``bounds``, between them, and behind the last.

    Raises ``DecodeError`` as ``mismatch``.
    """
    return _parts(*_losses(log_probs, aligned), np.asarray(bounds, np.int64))


def per_token(*parts: Loss) -> float:
    """The mismatch of some frames, or of several such parts together."""
    lost, text, free = map(sum, zip(*parts, strict=True))
    return float(lost / max(1, text, free))


def _losses(log_probs: Matrix, aligned: Hypothesis) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """What is lost in each frame ``(T,)``, and the tokens of text and free path that begin there ``(2, T)``."""
    batch, _ = as_batch(log_probs)
    free = greedy(log_probs)[0]
    matrix = batch[0]
    token_ids(aligned.tokens, matrix.shape[1], least=BLANK + 1, error=DecodeError)
    frames = len(matrix)
    labels = np.full(frames, BLANK)
    for token, start, end in zip(aligned.tokens, aligned.frames, aligned.ends, strict=True):
        labels[start:end] = token
    lost = (matrix.max(axis=1) - matrix[np.arange(frames), labels]).astype(np.float64)
    return lost, np.stack([np.bincount(h.frames, minlength=frames) for h in (aligned, free)])


def _parts(lost: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], bounds: npt.NDArray[np.int64]) -> list[Loss]:
    parts = zip(np.split(lost, bounds), np.split(counts, bounds, axis=1), strict=True)
    return [(float(part.sum()), int(tokens[0].sum()), int(tokens[1].sum())) for part, tokens in parts]


def _best_path(matrix: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], float]:
    """What ``_viterbi`` gives, by torchaudio where that imports and where one path only is the best.

    Where two ways into a state are equally likely, torchaudio may miss both. Therefore it aligns twice, with opposite
    small changes. Two paths that are equally likely cannot both times come out alike.
    """
    # Who computes without torch need not wait for its import.
    forced_align = _torchaudio() if len(labels) > 1 and "torch" in sys.modules else None
    if forced_align is not None:
        used, columns = np.unique(labels, return_inverse=True)
        likely, targets = np.maximum(matrix[:, used], FLOOR), columns[None, 1::2]
        jitter = np.random.default_rng(0).uniform(-JITTER, JITTER, likely.shape)
        one, other = forced_align(likely + jitter, targets), forced_align(likely - jitter, targets)
        cells = likely[np.arange(len(one)), one]
        if np.array_equal(one, other) and cells.min() > FLOOR:
            said = one != BLANK
            begins = said & (one != np.concatenate([[BLANK], one[:-1]]))
            # Added one after the other, as the search does.
            return 2 * begins.cumsum() - said, float(cells.cumsum()[-1])
    return _viterbi(matrix, labels)


@functools.cache
def _torchaudio() -> Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64]], npt.NDArray[Any]] | None:
    """Log-probabilities ``(T, V)`` and tokens ``(1, L)`` -> the label ``(T,)`` of each frame, by torchaudio.

    None where torchaudio does not import, as beside a torch without CUDA.
    """
    try:
        import torch
        from torchaudio.functional import forced_align

        forced_align(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.int64))  # its extension may be missing
    except (ImportError, OSError, RuntimeError):
        return None

    def labels(log_probs: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        path, _ = forced_align(torch.from_numpy(log_probs)[None], torch.from_numpy(np.ascontiguousarray(tokens)))
        return path[0].numpy()  # type: ignore[no-any-return]

    return labels


def _viterbi(matrix: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], float]:
    """The state ``(T,)`` of each frame on the best path, and its score; states rise by at most two at a time."""
    frames, states = len(matrix), len(labels)
    moves = np.zeros((frames, states), dtype=np.uint8)
    # A blank may be left out between different tokens.
    jumps = np.zeros(states, dtype=bool)
    jumps[3::2] = labels[3::2] != labels[1:-2:2]
    scores = np.full(states, -np.inf)
    scores[:2] = matrix[0, labels[:2]]
    sources = np.full((3, states), -np.inf)
    columns = np.arange(states)
    for frame in range(1, frames):
        sources[0] = scores
        sources[1, 1:] = scores[:-1]
        sources[2, 2:] = np.where(jumps[2:], scores[:-2], -np.inf)
        moves[frame] = sources.argmax(axis=0)
        scores = sources[moves[frame], columns] + matrix[frame, labels]
    state = states - 1 if states == 1 or scores[-1] >= scores[-2] else states - 2
    score = float(scores[state])
    path = np.empty(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= int(moves[frame, state])
    return path, score
