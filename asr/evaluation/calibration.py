"""Fits confidences to held-out speech, and shows their error before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asr import plotting
from asr.decode import confidence
from asr.decode.confidence import Calibration, Reliability
from asr.errors import ManifestError
from asr.evaluation.tuning import held_out
from asr.recognize.option_sources import conditions, confidences
from asr.recognize.recognizer import Recognizer
from asr.scoring import wer
from asr.scoring.rules import LITERAL_RULES

FOLDS = 5


@dataclass(frozen=True)
class Fit:
    """A calibration, and how well confidences predict right words.

    ``before``: the model's own confidences; ``present``: the current ones, with an earlier calibration if there is one;
    ``after`` is cross-validated: each utterance's words with a calibration fitted on other utterances.
    """

    kind: str
    calibration: Calibration
    words: int
    right: int
    before: Reliability
    present: Reliability
    after: Reliability

    def summary(self) -> str:
        """A line for people."""
        return (
            f"{self.kind}: {self.words} words, {100 * self.right / self.words:.1f} % right; expected calibration error "
            f"{100 * self.before.ece:.1f} % before, {100 * self.after.ece:.1f} % after; Brier score "
            f"{self.before.brier:.4f} before, {self.after.brier:.4f} after"
            + (f" ({self.present.brier:.4f} with the earlier fit)" if self.present.brier != self.before.brier else "")
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the means of empty bins are null."""
        tree = asdict(self)
        for name in ("before", "present", "after"):
            for key in ("confidences", "accuracies"):
                tree[name][key] = [None if np.isnan(x) else x for x in tree[name][key]]
        return tree


def calibrate_model(
    path: str | Path, recognizer: Recognizer, root: str | Path | None = None, *, folder: Path | None = None
) -> Fit:
    """Fit the recogniser's confidences on a manifest of speakers that are not in the model's training data.

    ``folder``: the model directory whose earlier fit ``Fit.present`` measures; the recogniser's own where it is None.

    Raises ``ManifestError`` when nothing can be read, or what was said is all right, all wrong or too little.
    """
    posteriors, references = held_out(path, recognizer, root)
    evidence: dict[str, list[tuple[str, float, float]]] = {}
    for ids, log_probs, frames in posteriors:
        for id, found in zip(ids, recognizer.decoder.lists(log_probs, frames, confidence.NBEST), strict=True):
            evidence[id] = recognizer.evidence(found)
    hypotheses = {id: " ".join(word for word, _, _ in words) for id, words in evidence.items()}
    report = wer.score({id: references[id] for id in evidence}, hypotheses, LITERAL_RULES)
    rows = np.array(
        [
            (fold % FOLDS, p, s, float(reference == word))
            for fold, u in enumerate(report.utterances)
            for (reference, word), (_, p, s) in zip([x for x in u.alignment if x[1]], evidence[u.id], strict=True)
        ]
    ).reshape(-1, 4)
    folds, p, s, right = rows.T
    fitted = confidence.fit_calibration(p, s, right)
    crossed = np.zeros(len(p))
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any():
            other = _fit_or(fitted, p[~inside], s[~inside], right[~inside])
            crossed[inside] = [other.apply(a, b) for a, b in zip(p[inside], s[inside], strict=True)]
    options = recognizer.decoder.options
    kind = "greedy" if options.beam == 1 else "beam"
    fitted = replace(fitted, fitted_for=conditions(options))
    now = recognizer.calibration if folder is None else confidences(folder, options).calibration
    held = p if now is None else [now.apply(a, b) for a, b in zip(p, s, strict=True)]
    before, present, after = (confidence.reliability(x, right) for x in (p, held, crossed))
    return Fit(kind, fitted, len(p), int(right.sum()), before, present, after)


def improved(old: Mapping[str, Calibration], fits: Sequence[Fit]) -> dict[str, Calibration]:
    """For each kind of decoding the calibration with the best Brier score; among equal scores the present one. There is
    none if the model's raw confidences are better than any calibration."""
    new = dict(old)
    for fit in fits:
        if fit.after.brier < min(fit.before.brier, fit.present.brier):
            new[fit.kind] = fit.calibration
        elif fit.before.brier < fit.present.brier:
            new.pop(fit.kind, None)
    return new


def _fit_or(whole: Calibration, p: np.ndarray, s: np.ndarray, right: np.ndarray) -> Calibration:
    """A fit to some of the words, or the whole one where they are too few."""
    try:
        return confidence.fit_calibration(p, s, right)
    except ManifestError:
        return whole


def draw_reliability(fits: Sequence[Fit], path: Path) -> None:
    """Reliability diagrams: the share of right words against confidence. Raises ``PlotError``."""
    figure, axes = plotting.page(1, len(fits))
    for ax, fit in zip(axes, fits, strict=False):
        ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name, measured in (("before", fit.before), ("after", fit.after)):
            filled = [i for i, count in enumerate(measured.counts) if count]
            sizes = [10 + 200 * measured.counts[i] / fit.words for i in filled]
            x, y = ([values[i] for i in filled] for values in (measured.confidences, measured.accuracies))
            ax.plot(x, y, linewidth=1)
            ax.scatter(x, y, s=sizes, label=f"{name}: calibration error {100 * measured.ece:.1f} %")
        ax.set(xlabel="confidence", ylabel="share of words that are right", title=f"{fit.kind}, {fit.words} words")
        ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
        plotting.legend_below(ax)
    plotting.save_page(figure, path)
