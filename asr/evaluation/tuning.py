"""Tunes decoding weights on held-out speech: posteriors are computed once, the search runs for each setting."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asr.data.archived_utterances import read_utterances
from asr.errors import ConfigError, ManifestError
from asr.models.inference import Counts, Posteriors
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding
from asr.recognize.recognizer import Recognizer
from asr.recognize.rescoring import ScoredList
from asr.scoring import wer
from asr.scoring.rules import LITERAL_RULES

WEIGHTS = (0.2, 0.4, 0.6, 0.9, 1.3)
BONUSES = (-2.0, 0.0, 1.0, 2.0, 4.0)
BLANK_PENALTIES = (0.0, 0.5, 1.0, 1.5)
RESCORE_WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
RESCORE_KEEPS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
SEARCH_BEAM = 16
"""Weights are chosen at this beam where the options name none, then the beam at these weights: with a large n-gram a
narrow beam wants other weights than a wide one."""
GREEDY, PRESENT = "greedy decoding", "the present setting"


@dataclass(frozen=True)
class Trial:
    """One setting with its errors on the manifest."""

    options: Decoding
    errors: int
    words: int
    char_errors: int
    name: str = ""
    """What a setting that was not searched for is called."""

    @property
    def cost(self) -> tuple[int, int]:
        """Word errors, then character errors: what is minimised."""
        return self.errors, self.char_errors

    def to_dict(self) -> dict[str, Any]:
        """What was tried and what came of it, for JSON; ``name`` is empty for a setting of the search."""
        options = self.options
        return {
            "name": self.name,
            "lm_weight": options.lm_weight,
            "word_bonus": options.word_bonus,
            "beam": options.beam,
            "blank_penalty": options.blank_penalty,
            "rescore_weight": options.rescore_weight if options.rescore else None,
            "rescore_keep": options.rescore_keep if options.rescore else None,
            "wer": self.errors / max(1, self.words),
            "errors": self.errors,
            "words": self.words,
            "char_errors": self.char_errors,
        }

    def __str__(self) -> str:
        options = self.options
        weights = ",".join(f"{weight:.3g}" for weight in np.atleast_1d(options.lm_weight))
        setting = f"lm_weight {weights:<5} word_bonus {options.word_bonus:<5.3g} beam {options.beam:<4}"
        if options.blank_penalty:
            setting += f" blank_penalty {options.blank_penalty:<4.3g}"
        if options.rescore:
            setting += f" rescore_weight {options.rescore_weight:<5.3g} rescore_keep {options.rescore_keep:<4.3g}"
        rate = f"WER {100 * self.errors / max(1, self.words):.2f} % ({self.errors}/{self.words})"
        return f"{self.name or setting:<{len(setting)}} {rate}"


def tune_decoding(
    path: str | Path,
    recognizer: Recognizer,
    options: Decoding,
    *,
    present: Decoding | None = None,
    beams: Sequence[int] | None = None,
    root: str | Path | None = None,
) -> list[Trial]:
    """Search LM weight and word bonus on a grid, then around its best point, then the narrowest beam that is as good,
    then the penalty of blank. Last, where the options have a model that rescores, its weight and what the search's
    models keep.

    The first two at the beam of ``options``, or at ``SEARCH_BEAM`` where that is greedy; ``beams`` are by default half
    of it, it, and twice as much.

    Greedy decoding and the ``present`` setting are tried first: what the search finds has to be better.

    The manifest must hold speakers that neither model has seen. Equal word errors are told apart by character errors,
    equal ones by the order of trial: smaller weights come first.

    Returns:
        All trials in order, first ``GREEDY`` and, where it is another, ``PRESENT``; ``best_of`` gives the best.

    Raises:
        ManifestError: no utterance could be read.
        ConfigError: several language models.
        AsrError: as ``Decoder``.
    """
    if isinstance(options.lm, tuple):
        raise ConfigError(
            f"lm: expected one language model to tune, got {len(options.lm)}; tune each alone, then give all of them "
            "with their weights"
        )
    posteriors, references = held_out(path, recognizer, root)
    trials: list[Trial] = []
    greedy = Decoding(language=options.language)
    fixed = {GREEDY: greedy} | ({} if present in (None, greedy) else {PRESENT: present})
    first = [_trial(setting, recognizer, posteriors, references, name) for name, setting in fixed.items() if setting]
    seen: set[tuple[float, float, int, float]] = set()
    # Words cannot be counted where no token stands between them.
    spaces = recognizer.model.tokenizer.space_id is not None
    weights: Sequence[float] = WEIGHTS if options.lm else (_weight(options),)
    bonuses: Sequence[float] = BONUSES if spaces else (0.0,)
    width = options.beam if options.beam > 1 else SEARCH_BEAM
    plain = dataclasses.replace(options, rescore="", rescore_keep=1.0)
    beams = (width // 2, width, 2 * width) if beams is None else beams
    around_best = 2 * (3 if options.lm else 1) * (3 if spaces else 1)
    # At most: what was tried is not tried again.
    total = len(weights) * len(bonuses) + around_best + len(set(beams)) + len(BLANK_PENALTIES)
    bar = tqdm(total=total, desc="settings", unit="setting", disable=None, leave=False)

    def run(weight: float, bonus: float, beam: int, penalty: float = options.blank_penalty) -> None:
        key = (round(weight, 6), round(bonus, 6), beam, penalty)
        if key in seen or weight < 0:
            bar.total = (bar.total or 1) - 1
            return
        seen.add(key)
        trial = dataclasses.replace(plain, lm_weight=key[0], word_bonus=key[1], beam=beam, blank_penalty=penalty)
        trials.append(_trial(trial, recognizer, posteriors, references))
        bar.update()

    with bar:
        for weight, bonus in itertools.product(weights, bonuses):
            run(weight, bonus, width)
        for scale in (1.25, 1.1):
            best = best_of(trials).options
            weight = _weight(best)
            around = (weight / scale, weight, weight * scale) if options.lm else weights
            step = 4 * (scale - 1) if spaces else 0.0
            for weight, bonus in itertools.product(around, (-step, 0.0, step)):
                run(weight, best.word_bonus + bonus, width)
        best = best_of(trials).options
        for beam in sorted(beam for beam in beams if beam > 1):
            run(_weight(best), best.word_bonus, beam)
        best = best_of(trials).options
        for penalty in BLANK_PENALTIES:
            run(_weight(best), best.word_bonus, best.beam, penalty)
    if options.rescore:
        best = dataclasses.replace(best_of(trials).options, rescore=options.rescore)
        trials += _rescored(best, recognizer, posteriors, references)
    return first + trials


def _rescored(
    options: Decoding,
    recognizer: Recognizer,
    posteriors: Sequence[tuple[list[str], Posteriors, Counts]],
    references: dict[str, str],
) -> list[Trial]:
    """Trials of the weights of rescoring, from one search; without a model in the search it keeps nothing."""
    free = options.lm_carry or options.lm_adapt or not options.lm
    settings = [
        dataclasses.replace(options, rescore_weight=weight, rescore_keep=keep)
        for keep in (RESCORE_KEEPS[:1] if free else RESCORE_KEEPS)
        for weight in RESCORE_WEIGHTS
    ]
    decoder = Decoder(settings[-1], recognizer.model.tokenizer)
    assert decoder.rescorer is not None
    names: list[str] = []
    lists: list[ScoredList] = []
    for batch, log_probs, frames in posteriors:
        names += batch
        lists += decoder.rescorer.scored(decoder.searched(log_probs, frames), decoder.vocabulary)
    trials = []
    for setting in settings:
        orders = [scored.ordered(setting.rescore_weight, setting.rescore_keep) for scored in lists]
        texts = [decoder.text(order[0].tokens) for order in orders]
        trials.append(_scored(setting, dict(zip(names, texts, strict=True)), references))
    return trials


def _weight(options: Decoding) -> float:
    """Of the one language model that is tuned."""
    assert isinstance(options.lm_weight, float)
    return options.lm_weight


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the fewest errors; of equal ones the present setting, then the narrowest beam, then the first."""
    return min(trials, key=lambda trial: (trial.cost, trial.name != PRESENT, trial.options.beam))


def held_out(
    path: str | Path, recognizer: Recognizer, root: str | Path | None
) -> tuple[list[tuple[list[str], Posteriors, Counts]], dict[str, str]]:
    """Posteriors of a manifest in batches of (ids, log-probabilities, frames), and its references by id.

    Raises ``ManifestError`` when no utterance could be read.
    """
    utterances = read_utterances(path, root)
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
    posteriors: Sequence[tuple[list[str], Posteriors, Counts]],
    references: dict[str, str],
    name: str = "",
) -> Trial:
    decoder = Decoder(options, recognizer.model.tokenizer)
    hypotheses = {}
    for names, log_probs, frames in posteriors:
        for id, hypothesis in zip(names, decoder.decode(log_probs, frames), strict=True):
            hypotheses[id] = decoder.text(hypothesis.tokens)
    return _scored(options, hypotheses, references, name)


def _scored(options: Decoding, hypotheses: dict[str, str], references: dict[str, str], name: str = "") -> Trial:
    report = wer.score({id: references[id] for id in hypotheses}, hypotheses, LITERAL_RULES)
    return Trial(options, report.errors, report.words, report.char_errors, name)
