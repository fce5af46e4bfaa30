"""Choosing decoding weights on held-out speech: the posteriors are computed once, the search runs for each setting."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from asr import manifest, scoring
from asr.decoding import Decoder, Decoding
from asr.errors import ManifestError
from asr.recognizer import Recognizer

WEIGHTS = (0.2, 0.4, 0.6, 0.9, 1.3)
BONUSES = (-2.0, 0.0, 1.0, 2.0, 4.0)
SEARCH_BEAM = 16
"""Weights are chosen at this beam, then the beam at these weights."""


@dataclass(frozen=True)
class Trial:
    """One setting with its errors on the manifest."""

    options: Decoding
    errors: int
    words: int
    char_errors: int

    @property
    def cost(self) -> tuple[int, int]:
        """Word errors, then character errors: what is minimised."""
        return self.errors, self.char_errors

    def __str__(self) -> str:
        options = self.options
        return (
            f"lm_weight {options.lm_weight:<5.3g} word_bonus {options.word_bonus:<5.3g} beam {options.beam:<4} "
            f"WER {100 * self.errors / max(1, self.words):.2f} % ({self.errors}/{self.words})"
        )


def tune(
    path: str | Path,
    recognizer: Recognizer,
    options: Decoding,
    *,
    beams: Sequence[int] = (8, 16, 32),
    root: str | Path | None = None,
) -> list[Trial]:
    """Search LM weight and word bonus on a grid, then around its best point, then the narrowest beam that is as good.

    The manifest must hold speakers that neither model has seen. Equal word errors are told apart by character errors,
    equal ones by the order of trial: smaller weights come first.

    Returns:
        All trials in order; the best is ``min(trials, key=lambda t: t.cost)``.

    Raises:
        ManifestError: no utterance could be read.
        AsrError: as ``Decoder``.
    """
    posteriors, references = held_out(path, recognizer, root)
    trials: list[Trial] = []
    seen: set[tuple[float, float, int]] = set()
    bar = tqdm(desc="settings", unit="setting", disable=None, leave=False)

    def run(weight: float, bonus: float, beam: int) -> None:
        key = (round(weight, 6), round(bonus, 6), beam)
        if key in seen or weight < 0:
            return
        seen.add(key)
        trial = dataclasses.replace(options, lm_weight=key[0], word_bonus=key[1], beam=beam)
        trials.append(_trial(trial, recognizer, posteriors, references))
        bar.update()

    with bar:
        weights: Sequence[float] = WEIGHTS if options.lm else (options.lm_weight,)
        for weight, bonus in itertools.product(weights, BONUSES):
            run(weight, bonus, SEARCH_BEAM)
        for scale in (1.25, 1.1):
            best = best_of(trials).options
            around = (best.lm_weight / scale, best.lm_weight, best.lm_weight * scale) if options.lm else weights
            step = 4 * (scale - 1)
            for weight, bonus in itertools.product(around, (-step, 0.0, step)):
                run(weight, best.word_bonus + bonus, SEARCH_BEAM)
        best = best_of(trials).options
        for beam in sorted(beams):
            run(best.lm_weight, best.word_bonus, beam)
    return trials


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the fewest errors; of equal ones the narrowest beam, then the first."""
    return min(trials, key=lambda trial: (trial.cost, trial.options.beam))


def held_out(
    path: str | Path, recognizer: Recognizer, root: str | Path | None
) -> tuple[list[tuple[list[str], torch.Tensor, torch.Tensor]], dict[str, str]]:
    """Posteriors of a manifest in batches of (ids, log-probabilities, frames), and its references by id.

    Raises ``ManifestError`` when no utterance could be read.
    """
    utterances = manifest.read(path, root)
    references = {u.id: recognizer.model.tokenizer.reference(u.text) for u in utterances}
    batches = []
    bar = tqdm(recognizer.posteriors(utterances), total=len(utterances), desc="posteriors", disable=None, leave=False)
    for names, log_probs, frames in bar:
        batches.append((names, log_probs, frames))
    if not batches:
        raise ManifestError(f"{path}: none of {len(utterances)} utterances could be read")
    return batches, references


def _trial(
    options: Decoding,
    recognizer: Recognizer,
    posteriors: Sequence[tuple[list[str], torch.Tensor, torch.Tensor]],
    references: dict[str, str],
) -> Trial:
    decoder = Decoder(options, recognizer.model.tokenizer)
    hypotheses = {}
    for names, log_probs, frames in posteriors:
        for name, hypothesis in zip(names, decoder.decode(log_probs, frames), strict=True):
            hypotheses[name] = decoder.text(hypothesis.tokens)
    report = scoring.score({name: references[name] for name in hypotheses}, hypotheses)
    return Trial(options, report.errors, report.words, report.char_errors)
