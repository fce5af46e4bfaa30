"""Whether a whole transcript is to be trusted: a logistic judge of a recording's posteriors.

Speech that a model knows has posteriors near 0 and 1 wherever a token is said. Another language or music has not. The
judge looks at posteriors alone: it is the same for every decoder, language model and hot word. Its evidence are sums
over frames: that of a long recording is that of its parts together, and a stream's is that of the whole recording.
Logistic regression: Platt 1999. It is fitted to held-out speech and to sound that is not the model's language.

A language model bends another language into words of its own, against the posteriors. So a judge may have a second one,
``Judge.decoded``, that also knows how far the text falls short of the best path. It holds only for the language model
and options that it was fitted with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.posteriors import BLANK, Lengths, Matrix, as_batch

EVIDENCE = ("frame", "rivals", "spoken", "gap")
"""In the order of ``FrameSums.features``."""
ENOUGH_FRAMES = 100
"""More frames with a token than these are no more evidence."""
FLOOR_NATS = 0.01
"""Added before logarithms: a path without any doubt has finite evidence."""
PRIOR_FRAMES, PRIOR_NATS = 0.5, 1.0
"""Added to every recording: so many frames with such a shortfall and rivalry. Words that a language model puts where
no frame says a token have no other evidence."""
GAP_FRAMES = 8.0
"""Added to the frames that a gap is divided by: a single word that the search has bent says little."""
MOST_GAP = 2.0
"""A larger gap, in nats for each frame with a token, is no more evidence."""
PENALTY = 1.0
"""Ridge on the weights of standardised features."""


@dataclass(frozen=True, slots=True)
class FrameSums:
    """Sums over frames of posteriors.

    ``spoken``: frames whose likeliest token is no blank. ``shortfall``: the nats by which their likeliest tokens fall
    short of certainty. ``mass``: the probability of all tokens but blank. ``rivalry``: nats, the entropy among these
    tokens, weighted by their probability. ``best``: the logarithm of the best path's probability, with the search's
    penalty for blank. ``gap``: by how many nats the probability of the text falls short of it; None: not known.
    """

    spoken: int = 0
    shortfall: float = 0.0
    mass: float = 0.0
    rivalry: float = 0.0
    best: float = 0.0
    gap: float | None = None

    def __add__(self, other: FrameSums) -> FrameSums:
        return FrameSums(
            self.spoken + other.spoken,
            self.shortfall + other.shortfall,
            self.mass + other.mass,
            self.rivalry + other.rivalry,
            self.best + other.best,
            None if self.gap is None or other.gap is None else self.gap + other.gap,
        )

    def features(self) -> npt.NDArray[np.float64]:
        """``EVIDENCE`` ``(4,)`` float64: logarithms of the mean shortfall of a frame with a token, of the mean rivalry
        for each unit of mass, and of the number of frames with a token, up to ``ENOUGH_FRAMES``; and the gap for each
        frame with a token (0 where it is not known), up to ``MOST_GAP``."""
        prior = PRIOR_FRAMES * PRIOR_NATS
        return np.array(
            [
                math.log(FLOOR_NATS + (self.shortfall + prior) / (self.spoken + PRIOR_FRAMES)),
                math.log(FLOOR_NATS + (self.rivalry + prior) / (self.mass + PRIOR_FRAMES)),
                math.log(min(max(1, self.spoken), ENOUGH_FRAMES)),
                min(MOST_GAP, (self.gap or 0.0) / (self.spoken + GAP_FRAMES)),
            ]
        )


def frame_sums(log_probs: Matrix, lengths: Lengths = None, blank_penalty: float = 0.0) -> list[FrameSums]:
    """Sums of each row of natural log-probabilities ``(B, T, V)``, or of one ``(T, V)``, over its valid frames.

    ``blank_penalty``: what the search takes from the logarithm of blank, for ``best`` alone.
    """
    rows, counts = as_batch(log_probs, lengths)
    if not rows.shape[1]:
        return [FrameSums()] * len(rows)
    valid = np.arange(rows.shape[1]) < counts[:, None]
    spoken = valid & (rows.argmax(axis=-1) != BLANK)
    others = rows[..., BLANK + 1 :].astype(np.float32, copy=False)
    powers = np.exp(others)
    mass = powers.sum(axis=-1).astype(np.float64)
    # H(token | no blank) * mass = mass log mass - sum p log p. A log-probability of -inf must not make NaN.
    entropies = (powers * np.maximum(others, np.float32(-100))).sum(axis=-1).astype(np.float64)
    rivalry = np.maximum(mass * np.log(mass, where=mass > 0, out=np.zeros_like(mass)) - entropies, 0.0)
    likeliest = rows.max(axis=-1).astype(np.float64)
    best = np.maximum(rows[..., BLANK] - blank_penalty, others.max(axis=-1)) if others.shape[-1] else likeliest
    columns = [
        np.where(where, values, 0.0).sum(axis=1).tolist()
        for where, values in ((spoken, -likeliest), (valid, mass), (valid, rivalry), (valid, best.astype(np.float64)))
    ]
    return [FrameSums(*row) for row in zip(spoken.sum(axis=1).tolist(), *columns, strict=True)]


@dataclass(frozen=True)
class Judge:
    """``P(reliable) = sigmoid(weights · features + bias)``.

    ``threshold``: below it a transcript is not reliable. ``silence``: below it its words are dropped; 0 drops none.
    ``decoded``: the judge of what was decoded with the options ``fitted_for`` (``asr.recognize.option_sources``).
    """

    weights: Mapping[str, float]
    bias: float
    threshold: float
    silence: float = 0.0
    fitted_for: Mapping[str, Any] | None = None
    decoded: Judge | None = None

    def of(self, sums: FrameSums) -> Judge:
        """The judge of such evidence: ``decoded`` where the gap of the text is known, else this one."""
        return self if self.decoded is None or sums.gap is None else self.decoded

    def apply(self, sums: FrameSums) -> float:
        """The probability, 0 to 1."""
        vector = np.array([self.weights.get(name, 0.0) for name in EVIDENCE])
        x = self.bias + float(vector @ sums.features())
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0

    @classmethod
    def read(cls, tree: Any) -> Judge:
        """From plain values, as ``dataclasses.asdict`` gives them. Raises ``ValueError`` saying what is wrong."""
        if not isinstance(tree, dict) or not isinstance(tree.get("weights"), dict):
            raise ValueError(f"expected weights, bias and threshold, got {tree!r}"[:200])
        strange = sorted(set(tree["weights"]) - set(EVIDENCE))
        if strange:
            raise ValueError(f"expected weights of {', '.join(EVIDENCE)}, got {strange[0]!r}")
        weights = {name: _number(value) for name, value in tree["weights"].items()}
        bias, threshold, silence = (_number(tree.get(name, 0.0)) for name in ("bias", "threshold", "silence"))
        if not 0 <= silence <= threshold <= 1:
            raise ValueError(f"expected 0 <= silence <= threshold <= 1, got {silence} and {threshold}")
        decoded = tree.get("decoded")
        options = tree.get("fitted_for")
        if not isinstance(options, dict | None) or (decoded is not None and not _has_options(decoded)):
            raise ValueError("expected the options of a fit to decoded text in fitted_for")
        return cls(weights, bias, threshold, silence, options, None if decoded is None else cls.read(decoded))


def _has_options(tree: Any) -> bool:
    return isinstance(tree, dict) and isinstance(tree.get("fitted_for"), dict) and not tree.get("decoded")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}"[:100])
    return float(value)


def fit_weights(
    features: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], shares: npt.NDArray[np.float64]
) -> tuple[dict[str, float], float]:
    """Weights and bias by Newton's method from features ``(N, F)``, labels ``(N,)`` and the examples' weights ``(N,)``.

    The features are the first ``F`` of ``EVIDENCE``.

    The penalty is on weights of standardised features; a feature that never varies gets 0.
    """
    mean, spread = np.average(features, axis=0, weights=shares), features.std(axis=0)
    varies = spread > 1e-9
    scale = np.where(varies, spread, 1.0)
    x = np.concatenate([(features - mean) / scale * varies, np.ones((len(features), 1))], axis=1)
    ridge = np.diag([*np.full(features.shape[1], PENALTY), 1e-3])
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -500, 500)))
        gradient = x.T @ (shares * (right - p)) - ridge @ weights
        hessian = (x * (shares * p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step * min(1.0, 4 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-9:
            break
    real = weights[:-1] / scale * varies
    bias = float(weights[-1] - real @ mean)
    return dict(zip(EVIDENCE, real.tolist(), strict=False)), bias
