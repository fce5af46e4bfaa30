"""The bootstrap: how much an error rate varies over test sets whose utterances are drawn again with replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Bootstrap resamples behind ``Report.ci95``."""
SEED = 1
"""Seed of the bootstrap: the same results give the same interval."""
DRAWN = 2_000_000
"""Numbers drawn at a time, which bounds the memory of a bootstrap: 16 MB."""


def bootstrap_ci95(errors: Sequence[int], words: Sequence[int]) -> tuple[float, float]:
    """(2.5 %, 97.5 %) quantiles of the WER when as many utterances are drawn again with replacement.

    ``errors``, ``words``: counts of each utterance, in any order; at least one. Bisani & Ney, "Bootstrap estimates
    for confidence intervals in ASR performance evaluation", ICASSP 2004.
    """
    sums = resampled(np.stack([errors, words], axis=1))
    low, high = np.quantile(sums[:, 0] / np.maximum(1, sums[:, 1]), [0.025, 0.975])
    return float(low), float(high)


def resampled(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over as many rows as there are, drawn with replacement, ``RESAMPLES`` times: ``(RESAMPLES, columns)``.

    ``rows``: counts of each utterance, ``(utterances, columns)``. Needs about 8 x ``DRAWN`` bytes for any number of
    utterances.
    """
    # Utterances with equal counts are interchangeable: drawing how often each distinct row occurs is the same
    # bootstrap, at a cost that hardly grows with the number of utterances, and blind to their order.
    counts, weights = np.unique(rows, axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    part = max(1, min(RESAMPLES, DRAWN // len(counts)))
    sums = [
        rng.multinomial(len(rows), weights / len(rows), size=min(part, RESAMPLES - at)) @ counts
        for at in range(0, RESAMPLES, part)
    ]
    return np.concatenate(sums)
