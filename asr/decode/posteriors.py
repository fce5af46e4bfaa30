"""Checks batches of log-probabilities before a decoder starts.

If a decoder guessed whether a matrix holds logits, probabilities or their logarithms, a wrong call would become a bad
transcript. So every decoded frame must sum to one; the error names the first that does not.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from asr.errors import DecodeError

if TYPE_CHECKING:
    from torch import Tensor

Matrix: TypeAlias = "npt.NDArray[Any] | Tensor"
"""Natural log-probabilities ``(T, V)`` or ``(B, T, V)``, blank in column 0; numpy or torch, any float type."""
Lengths: TypeAlias = "int | Sequence[int] | npt.NDArray[Any] | Tensor | None"
"""Valid frames of each utterance ``(B,)``; ``None`` takes all ``T``."""

BLANK = 0
TOLERANCE = 1e-2
"""Largest accepted distance of a row's logsumexp from 0; float32 and float16 rounding stay far below it."""
CHECK_VALUES = 1 << 20
"""Values checked at a time, so that checking a long recording needs no second copy of it."""


def as_batch(log_probs: Matrix, lengths: Lengths = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The matrix as a floating ``(B, T, V)`` array, without a copy where that can be, and its lengths ``(B,)``.

    Raises:
        DecodeError: not two or three axes, not floating, fewer than two columns, or lengths that do not fit.
    """
    array = _to_numpy(log_probs)
    if array.ndim not in (2, 3):
        raise DecodeError(f"expected log-probabilities of shape (T, V) or (B, T, V), got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise DecodeError(f"expected floating log-probabilities, got values of type {array.dtype}")
    if array.shape[-1] < 2:
        raise DecodeError(
            f"expected at least 2 columns (blank and one token), got shape {array.shape}; "
            "the vocabulary is the last axis"
        )
    batch = array if array.ndim == 3 else array[None]
    return batch, _check_lengths(lengths, batch.shape[0], batch.shape[1])


def check_normalised(batch: npt.NDArray[Any], lengths: npt.NDArray[np.int64], first_frame: int = 0) -> None:
    """Require each valid row to be log-probabilities that sum to one; frames past the lengths are not looked at.

    Single entries may be ``-inf``. ``first_frame`` is added to the frame number in messages.

    Raises:
        DecodeError: NaN, ``+inf`` or a row whose logsumexp is further than 0.01 from 0; names utterance and frame.
    """
    for start, stop in _blocks(batch):
        good = _sum_to_one(batch[:, start:stop])
        if not good.all():
            good |= np.arange(start, stop) >= lengths[:, None]
        if not good.all():
            utterance, frame = np.argwhere(~good)[0].tolist()
            raise _fault(batch[utterance, start + frame], first_frame + start + frame, utterance)


def next_frames(log_probs: Matrix, columns: int | None, first_frame: int) -> npt.NDArray[Any]:
    """The next frames ``(T, V)`` of a search, checked: ``columns`` is the ``V`` of those before, ``first_frame`` their
    number.

    Raises:
        DecodeError: as ``as_batch`` and ``check_normalised``, for a batch, and for another ``V`` than before.
    """
    batch, lengths = as_batch(log_probs)
    shape = tuple(np.shape(log_probs))
    if len(shape) != 2:
        raise DecodeError(f"expected the next frames of one utterance, shape (T, V), got shape {shape}")
    if columns is not None and batch.shape[2] != columns:
        raise DecodeError(f"expected {columns} columns as in earlier frames, got shape {shape}")
    check_normalised(batch, lengths, first_frame=first_frame)
    frames: npt.NDArray[Any] = batch[0]
    return frames


def check_joined(rows: npt.NDArray[Any], starts: npt.NDArray[np.int64], first_utterance: int = 0) -> None:
    """``check_normalised`` for the frames ``(N, V)`` of utterances that begin at ``starts (utterances + 1,)``."""
    for start, stop in _blocks(rows[None]):
        good = _sum_to_one(rows[start:stop])
        if not good.all():
            at = start + int(np.argmin(good))
            utterance = int(np.searchsorted(starts, at, side="right")) - 1
            raise _fault(rows[at], at - int(starts[utterance]), first_utterance + utterance)


def positive_int(name: str, value: int) -> int:
    """A count of at least 1. Raises ``DecodeError`` for less, for a truth value and for what is no whole number."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise DecodeError(f"expected {name} as a whole number, got {value!r}") from None
    if count < 1:
        raise DecodeError(f"expected {name} of at least 1, got {count}")
    return count


def finite_number(name: str, value: Any) -> float:
    """A number, infinite or NaN perhaps. Raises ``DecodeError`` for anything else, a truth value and a text too."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise DecodeError(f"expected {name} as a number, got {value!r}")
    return float(value)


def _sum_to_one(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether the probabilities of each row ``(..., V)`` do; a product with ones is the fastest sum of short rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.exp(rows, dtype=np.float32, casting="same_kind") @ np.ones(rows.shape[-1], np.float32)
    good: npt.NDArray[np.bool_] = (sums >= math.exp(-TOLERANCE)) & (sums <= math.exp(TOLERANCE))
    return good


def _blocks(batch: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    utterances, frames, columns = batch.shape
    step = max(1, CHECK_VALUES // max(1, utterances * columns))
    for start in range(0, frames if utterances else 0, step):
        yield start, min(frames, start + step)


def _to_numpy(values: Any) -> npt.NDArray[Any]:
    """numpy view of an array or a tensor, found by its methods: a numpy caller must not pay for importing torch."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    array: npt.NDArray[Any] = (
        tensor.float() if tensor.dtype.is_floating_point and tensor.itemsize < 4 else tensor
    ).numpy()
    return array


def _check_lengths(lengths: Lengths, utterances: int, frames: int) -> npt.NDArray[np.int64]:
    if lengths is None:
        return np.full(utterances, frames, dtype=np.int64)
    array = np.atleast_1d(_to_numpy(lengths))
    if array.shape != (utterances,):
        raise DecodeError(
            f"expected one length for each of {utterances} utterances, got lengths of shape {array.shape}"
        )
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise DecodeError(f"expected lengths in whole frames, got values of type {array.dtype}")
    wrong = np.flatnonzero((array < 0) | (array > frames))
    if wrong.size:
        raise DecodeError(f"expected lengths of 0 to {frames} frames, got {array[wrong[0]]} for utterance {wrong[0]}")
    return array.astype(np.int64)


def _fault(row: npt.NDArray[Any], frame: int, utterance: int) -> DecodeError:
    return DecodeError(_what_is_wrong(row.astype(np.float64), f"frame {frame} of utterance {utterance}"))


def _what_is_wrong(row: npt.NDArray[np.float64], where: str) -> str:
    expected = "expected natural log-probabilities, as log_softmax over the vocabulary gives them"
    if np.isnan(row).any():
        return f"{expected}, got NaN in {where}; look for it in the features or in the model's weights"
    if np.isposinf(row).any():
        return f"{expected}, got +inf in {where}"
    if row.min() >= 0 and abs(row.sum() - 1) <= TOLERANCE:
        return f"{expected}, got what looks like probabilities in {where}; take their logarithm"
    top = row.max()
    total = top if np.isneginf(top) else top + math.log(np.exp(row - top).sum())
    return f"{expected} (logsumexp of each row 0 ± {TOLERANCE:g}), got logsumexp {total:.4g} in {where}"
