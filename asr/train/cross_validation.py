"""How strongly to fine-tune, and whether it helps: cross-validation over the corrections, and an exact paired test."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from asr.errors import ModelError
from asr.models.acoustic import AcousticModel
from asr.models.tensors import load_tensors, save_tensors
from asr.train.adaptation import Adaptation, Lesson, Strength, ctc_losses

EXACT = 13
"""Utterances up to which all changes of signs are tried."""
DRAWS = 20_000
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """What is tried: learning rates, and numbers of epochs in rising order; and in how many folds."""

    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    folds: int = 5

    @property
    def settings(self) -> list[tuple[float, int]]:
        """Rates with epochs, in the order of all results."""
        return list(itertools.product(self.rates, self.epochs))


PLANS = (
    (150.0, Grid((2e-4,), (2, 4, 6), 5)),
    (600.0, Grid((2e-4,), (4, 8), 2)),
    (math.inf, Grid((2e-4,), (2, 4), 2)),
)
"""Seconds of speech up to which each grid is tried."""


@dataclass(frozen=True)
class BestSetting:
    """The best setting of a grid, and what it gained on sentences that it was not tuned on.

    ``gains``: ``(n,)`` natural logarithms per token by which each held-out text became likelier. ``p_value``: of gains
    as large by chance. ``log_probs``: ``(T, V)`` of each held-out utterance under the chosen setting.
    """

    rate: float
    epochs: int
    gains: tuple[float, ...]
    p_value: float
    log_probs: list[Tensor]

    @property
    def gain(self) -> float:
        """Mean of ``gains``."""
        return float(np.mean(self.gains))


def plan_grid(speech_s: float) -> Grid:
    """What is tried on so many seconds of speech, with what is rehearsed: less for more speech.

    Each plan passes over at most 11,000 s, which takes ``english`` some ten minutes on a core.
    """
    for longest_s, grid in PLANS:
        if speech_s <= longest_s:
            return grid
    return PLANS[-1][1]


def make_folds(texts: Sequence[str], folds: int) -> list[list[int]]:
    """Places of the utterances of each fold; those of one text lie in the same fold, which keeps the test honest."""
    groups: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        groups.setdefault(text, []).append(place)
    made: list[list[int]] = [[] for _ in range(min(folds, len(groups)))]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(made, key=len).extend(group)
    return [sorted(fold) for fold in made]


def cross_validate(
    network: AcousticModel,
    lessons: Sequence[Lesson],
    rehearsal: Sequence[Lesson],
    texts: Sequence[str],
    grid: Grid,
    folder: Path,
) -> BestSetting:
    """Fine-tune on all folds but one, at each rate, and measure that one after each number of epochs.

    Args:
        network: the start.
        lessons: the corrections.
        rehearsal: utterances that are learnt beside them in every fold.
        texts: of the corrections.
        grid: what is tried.
        folder: where each finished fold is kept; a run that was interrupted goes on behind the last one.
    """
    folds = make_folds(texts, grid.folds)
    settings = grid.settings
    gains = np.zeros((len(settings), len(lessons)))
    outputs: list[list[Tensor]] = [[torch.empty(0)] * len(lessons) for _ in settings]
    for number, fold in enumerate(tqdm(folds, "cross-validation", disable=None, leave=False)):
        path = folder / f"fold{number}.safetensors"
        results = _kept(path, len(settings) * len(fold))
        if results is None:
            held = [lessons[i] for i in fold]
            rest = [lesson for i, lesson in enumerate(lessons) if i not in fold]
            results = [rows for rate in grid.rates for rows in _run(network, rest, rehearsal, held, rate, grid)]
            save_tensors(path, {str(i): rows.contiguous() for i, rows in enumerate(results)})
        for s in range(len(settings)):
            for i, rows in zip(fold, results[s * len(fold) : (s + 1) * len(fold)], strict=True):
                outputs[s][i] = rows
                gains[s, i] = token_loss(lessons[i].start, lessons[i]) - token_loss(rows, lessons[i])
    best = int(gains.mean(axis=1).argmax())
    rate, epochs = settings[best]
    return BestSetting(rate, epochs, tuple(gains[best].tolist()), best_of_p_value(gains), outputs[best])


def _run(
    network: AcousticModel,
    rest: Sequence[Lesson],
    rehearsal: Sequence[Lesson],
    held: Sequence[Lesson],
    rate: float,
    grid: Grid,
) -> list[Tensor]:
    """The held-out log-probabilities after each number of epochs, all of the first before those of the second."""
    adaptation = Adaptation(network, Strength(rate))
    found: list[Tensor] = []
    for epoch in range(1, grid.epochs[-1] + 1):
        adaptation.epoch([*rest, *rehearsal])
        if epoch in grid.epochs:
            found += adaptation.log_probs(held)
    return found


def _kept(path: Path, count: int) -> list[Tensor] | None:
    """The results of a finished fold; None where there are none."""
    if not os.path.exists(path):
        return None
    try:
        tensors, _ = load_tensors(path)
    except ModelError:
        return None
    return [tensors[str(i)] for i in range(count)] if len(tensors) == count else None


def token_loss(log_probs: Tensor, lesson: Lesson) -> float:
    """CTC loss of a lesson's text under log-probabilities ``(T, V)``, natural logarithms per token."""
    tokens = lesson.tokens
    loss = ctc_losses(log_probs[None].float(), torch.tensor([len(log_probs)]), [tokens])
    return float(loss) / max(1, len(tokens))


def best_of_p_value(gains: _Floats, chosen: int | None = None) -> float:
    """Probability that the largest mean of several settings' gains ``(S, n)`` is as large if none gains anything.

    ``chosen``: the largest is compared with the mean of this setting, which need not be the largest of those found.

    Then each utterance's gains might as well have the other sign, in all settings together. All ``2^n`` changes of
    signs are tried up to ``EXACT`` utterances, else ``DRAWS`` of them. Since each is compared by the best of the
    settings, having chosen the best does not count as evidence (Westfall & Young 1993).
    """
    count = gains.shape[1]
    if count <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=count)))
    else:
        draws = np.random.default_rng(0).choice((1.0, -1.0), (DRAWS, count))
        signs = np.concatenate([np.ones((1, count)), draws])
    sums = signs @ gains.T
    found = sums[0].max() if chosen is None else sums[0, chosen]
    return float((sums.max(axis=1) >= found - 1e-12).mean())


def write_key(folder: Path, key: dict[str, object]) -> bool:
    """Mark a working folder as that of one run; whether it was that already. Folds of another run are removed."""
    path, text = folder / "run.json", json.dumps(key, sort_keys=True)
    if os.path.isfile(path) and path.read_text(encoding="utf-8", errors="replace") == text:
        return True
    for old in folder.glob("fold*.safetensors"):
        old.unlink()
    path.write_text(text, encoding="utf-8")
    return False


def describe_grid(grid: Grid) -> dict[str, object]:
    """The grid as plain values."""
    return asdict(grid)
