"""Whether one result is better than another on the same utterances: paired tests of the difference in word errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asr.errors import ManifestError
from asr.scoring import RESAMPLES, SEED, Report


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same references. Differences are second minus first: below 0 the second is better.

    ``p_value``: probability of a difference at least as large, either way, if the two were exchangeable utterance by
    utterance (approximate randomisation, Noreen 1989). ``ci95``: paired bootstrap interval of the difference in WER
    (Bisani & Ney 2004). Both take utterances for independent.
    """

    first: Report
    second: Report
    difference: float
    ci95: tuple[float, float]
    p_value: float
    better: int
    """Utterances in which the second has fewer errors."""
    worse: int

    def summary(self) -> str:
        """Three lines for people."""
        low, high = (100 * x for x in self.ci95)
        verdict = "significant at 5 %" if self.p_value < 0.05 else "not significant at 5 %"
        count = len(self.first.utterances)
        return "\n".join(
            [
                f"first   {self.first.summary()}",
                f"second  {self.second.summary()}",
                f"second - first: {100 * self.difference:+.2f} points of WER (95 % {low:+.2f} to {high:+.2f}), "
                f"p = {self.p_value:.4f}, {verdict}; "
                f"better in {self.better}, worse in {self.worse} of {count} utterances",
            ]
        )


def compare(first: Report, second: Report) -> Comparison:
    """Compare two reports. Raises ``ManifestError`` when they are not of the same utterances and references."""
    ours, theirs = ({u.id: u.reference for u in report.utterances} for report in (first, second))
    if ours != theirs:
        different = sorted(id for id in ours.keys() | theirs.keys() if ours.get(id) != theirs.get(id))
        names = ", ".join(map(repr, different[:5])) + (", …" if len(different) > 5 else "")
        raise ManifestError(f"expected results on the same references; {len(different)} differ: {names}")
    others = {u.id: u for u in second.utterances}
    changes = np.array([others[u.id].errors - u.errors for u in first.utterances])
    words = np.array([u.words for u in first.utterances])
    rng = np.random.default_rng(SEED)
    moved = changes[changes != 0]
    signs = rng.integers(0, 2, (RESAMPLES, moved.size)) * 2 - 1
    extreme = np.abs(signs @ moved) >= abs(moved.sum())
    draws = rng.integers(0, len(changes), (RESAMPLES, len(changes)))
    rates = changes[draws].sum(axis=1) / np.maximum(1, words[draws].sum(axis=1))
    low, high = np.quantile(rates, [0.025, 0.975])
    return Comparison(
        first=first,
        second=second,
        difference=second.wer - first.wer,
        ci95=(float(low), float(high)),
        p_value=float((extreme.sum() + 1) / (RESAMPLES + 1)),
        better=int((changes < 0).sum()),
        worse=int((changes > 0).sum()),
    )
