"""Confidences of words: their features, their calibration, and measures of calibration error.

A recogniser's posteriors are overconfident. A logistic regression (Platt 1999), fitted on held-out speech, corrects
them: it predicts whether a word is right. Its features are the posterior of the word's least certain token, and the
share of the beam's probability that agrees on the word (Evermann & Woodland 2000, on N-best lists).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.judgement import Judge
from asr.errors import ManifestError, ModelError
from asr.files import atomic, read_object

CONFIDENCE_FILE = "confidence.json"
CALIBRATION_KINDS = {"greedy", "beam"}
THRESHOLD = "threshold"
RELIABILITY = "reliability"
"""Key of ``asr.decode.judgement.Judge``."""
NBEST = 8
"""Hypotheses that are asked whether they agree."""
BINS = 10
RIDGE = 1e-2
"""Keeps the weights finite where right and wrong can be told apart without error."""

_Floats = npt.NDArray[np.float64]


def logit(p: npt.ArrayLike) -> _Floats:
    """``log(p / (1 - p))``, with ``p`` kept within 1e-4 of the ends."""
    clipped = np.clip(np.asarray(p, np.float64), 1e-4, 1 - 1e-4)
    result: _Floats = np.log(clipped / (1 - clipped))
    return result


@dataclass(frozen=True)
class Calibration:
    """``P(right) = sigmoid(posterior * logit(p) + share * logit(s) + bias)``."""

    posterior: float
    share: float
    bias: float
    fitted_for: Mapping[str, Any] | None = None
    """Options of decoding that it holds for (``asr.recognize.option_sources.conditions``); None, as older files have
    it, for any."""

    def apply(self, p: float, s: float = 1.0) -> float:
        """The probability that a word is right, from its posterior ``p`` and its share ``s``."""
        x = self.posterior * float(logit(p)) + self.share * float(logit(s)) + self.bias
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def save_calibration(
    folder: Path,
    calibrations: Mapping[str, Calibration],
    threshold: float | None = None,
    judge: Judge | None = None,
) -> None:
    """Into a model directory; ``calibrations`` of ``greedy`` and ``beam`` decoding, ``threshold`` (see
    ``load_threshold``) and ``judge``, by default those that are there already. Raises ``ModelError``."""
    threshold = load_threshold(folder) if threshold is None else threshold
    judge = load_judge(folder) if judge is None else judge
    tree: dict[str, Any] = {} if threshold is None else {THRESHOLD: threshold}
    tree |= {} if judge is None else {RELIABILITY: _plain(judge)}
    tree |= {
        name: {key: value for key, value in asdict(calibration).items() if value is not None}
        for name, calibration in calibrations.items()
    }
    try:
        with atomic(folder / CONFIDENCE_FILE) as path:
            path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{folder / CONFIDENCE_FILE}: cannot write: {error}") from error


def _plain(judge: Judge) -> dict[str, Any]:
    """Without what it has not, as files of before have it."""
    tree = {key: value for key, value in asdict(judge).items() if value is not None}
    return tree if judge.decoded is None else tree | {"decoded": _plain(judge.decoded)}


def load_confidences(folder: Path) -> tuple[dict[str, Calibration], float | None, Judge | None]:
    """A model directory's calibrations by kind of decoding, its threshold of doubt, and what says whether transcripts
    are reliable; ``({}, None, None)`` without file.

    The threshold is a mean of words' own confidences, before any calibration: below it the model may not know the kind
    of speech. Raises ``ModelError`` naming a damaged file.
    """
    path = folder / CONFIDENCE_FILE
    try:
        tree = _read(path)
        found = {kind: _calibration(dict(tree[kind])) for kind in CALIBRATION_KINDS & tree.keys()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: cannot read the calibration of confidences: {error}") from error
    if not all(math.isfinite(x) for c in found.values() for x in (c.posterior, c.share, c.bias)):
        raise ModelError(f"{path}: expected finite numbers")
    judge = _judge(path, tree.get(RELIABILITY))
    threshold = tree.get(THRESHOLD)
    if threshold is None:
        return found, None, judge
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ModelError(f"{path}: {THRESHOLD}: expected a number from 0 to 1, got {threshold!r}")
    return found, float(threshold), judge


def load_calibration(folder: Path) -> dict[str, Calibration]:
    """The calibrations of ``load_confidences``."""
    return load_confidences(folder)[0]


def load_threshold(folder: Path) -> float | None:
    """The threshold of ``load_confidences``."""
    return load_confidences(folder)[1]


def load_judge(folder: Path) -> Judge | None:
    """The judge of ``load_confidences``."""
    return load_confidences(folder)[2]


def _judge(path: Path, tree: Any) -> Judge | None:
    try:
        return None if tree is None else Judge.read(tree)
    except ValueError as error:
        raise ModelError(f"{path}: {RELIABILITY}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "the calibration of confidences")


def _calibration(tree: dict[str, Any]) -> Calibration:
    fitted_for = tree.pop("fitted_for", None)
    if not isinstance(fitted_for, dict | None):
        raise TypeError(f"fitted_for: expected options of decoding, got {fitted_for!r}")
    return Calibration(**{name: float(value) for name, value in tree.items()}, fitted_for=fitted_for)


def fit_calibration(posteriors: npt.ArrayLike, shares: npt.ArrayLike, right: npt.ArrayLike) -> Calibration:
    """Maximum likelihood by Newton's method. Arguments ``(n,)``; ``right`` is 0 or 1.

    Where all shares are equal (greedy decoding) their weight is 0. Raises ``ManifestError`` for fewer than 20 words,
    or none that is wrong, or none that is right.
    """
    y = np.asarray(right, np.float64)
    if len(y) < 20 or not 0 < y.sum() < len(y):
        raise ManifestError(
            f"expected at least 20 words, some right and some wrong, got {int(y.sum())} right of {len(y)}; use "
            f"more speech"
        )
    x = np.stack([logit(posteriors), logit(shares), np.ones(len(y))], axis=1)
    used = np.array([True, bool(np.ptp(x[:, 1]) > 0), True])
    x = x[:, used]
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -500, 500)))
        gradient = x.T @ (y - p) - RIDGE * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        # A full Newton step can overshoot far from the optimum.
        weights = weights + step * min(1.0, 4 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-9:
            break
    full = np.zeros(3)
    full[used] = weights
    posterior, share, bias = full.tolist()
    return Calibration(posterior, share, bias)


@dataclass(frozen=True)
class Reliability:
    """Words in bins of equal width by their confidence; means are NaN where a bin is empty."""

    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]
    ece: float
    """Expected calibration error: mean distance of confidence and accuracy over the words (Naeini et al. 2015)."""
    brier: float
    """Mean squared distance of a word's confidence from 1 if it is right, 0 if it is wrong."""


def reliability(confidences: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS) -> Reliability:
    """How far confidences ``(n,)`` are from what they promise."""
    c, y = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    place = np.minimum((c * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(place, c, bins) / counts
        rates = np.bincount(place, y, bins) / counts
    gaps = np.where(counts > 0, np.abs(means - rates), 0.0)
    total = max(1, len(c))
    return Reliability(
        tuple(counts.tolist()),
        tuple(means.tolist()),
        tuple(rates.tolist()),
        float((counts * gaps).sum() / total),
        float(np.square(c - y).mean()) if len(c) else 0.0,
    )


def agreeing_share(word: tuple[str, int, int], rivals: Sequence[tuple[float, Sequence[tuple[str, int, int]]]]) -> float:
    """The share of the hypotheses' probability that says ``word`` ``(text, start, end)`` at that time.

    ``rivals``: each hypothesis's log score and words, the best one's own included.
    """
    text, start, end = word
    best = max(score for score, _ in rivals)
    weights = [math.exp(score - best) for score, _ in rivals]
    agreed = sum(
        weight
        for weight, (_, words) in zip(weights, rivals, strict=True)
        if any(other == text and first < end and start < last for other, first, last in words)
    )
    return agreed / sum(weights)
