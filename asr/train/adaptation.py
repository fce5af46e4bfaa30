"""Fine-tuning on a few utterances: many distorted views of each, held near the model that it starts from.

Two things hold it there: weights decay towards their first values (L2-SP, Li et al. 2018), and the posteriors of the
start are learnt beside the labels (KL-regularised adaptation, Yu et al. 2013). Features are computed once. Each epoch
masks them and stretches their mel axis anew (Park et al. 2019; Jaitly & Hinton 2013).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from asr.models.acoustic import AcousticModel

STEP_FRAMES = 1500
"""Padded feature frames of one step: about 11 s of speech, three short sentences. With all of ten sentences in
one step, an epoch was one step and changed little."""
BATCH_FRAMES = 7200
"""Padded feature frames that are measured at a time."""
CLIP_NORM = 5.0
"""Largest global gradient norm, in natural logarithms per token."""
WARP = 0.06
"""Largest stretch of the mel axis, either way."""
MASKS = 2
"""Masks of frames, and of mel bins, in each view."""


@dataclass(frozen=True)
class Lesson:
    """An utterance as fine-tuning uses it.

    ``tokens``: ids of its text. ``features``: ``(T, D)`` float32, normalised.
    ``start``: ``(T', V)`` float32 natural log-probabilities of the model that is fine-tuned.
    """

    id: str
    tokens: tuple[int, ...]
    features: Tensor
    start: Tensor


@dataclass(frozen=True)
class Strength:
    """How strongly a model is changed: the learning rate, and what holds it near the start.

    ``keep``: share of the loss that the start's posteriors earn. ``pull``: share of its learning rate by which each
    weight goes back towards its first value in a step.
    """

    rate: float
    keep: float = 0.2
    pull: float = 1.0


class Adaptation:
    """A copy of a network under fine-tuning.

    Args:
        network: the start; it is not changed.
        strength: of the change.
        seed: of distortions, order and dropout.
    """

    def __init__(self, network: AcousticModel, strength: Strength, seed: int = 1) -> None:
        self.network, self.strength = copy.deepcopy(network).eval(), strength
        self._weights = [weight.requires_grad_() for weight in self.network.parameters()]
        self._first = [weight.detach().clone() for weight in self._weights]
        self._optimiser = torch.optim.Adam(self._weights, strength.rate, betas=(0.9, 0.98))
        self._draws = np.random.default_rng(seed)
        torch.manual_seed(seed)

    def epoch(self, lessons: Sequence[Lesson]) -> None:
        """One pass over the lessons."""
        self.network.train()
        for batch in batches_of([lessons[i] for i in self._draws.permutation(len(lessons))], STEP_FRAMES):
            self._step(batch)
        self.network.eval()

    def log_probs(self, lessons: Sequence[Lesson]) -> list[Tensor]:
        """Log-probabilities ``(T', V)`` of each lesson."""
        found: list[Tensor] = []
        with torch.inference_mode():
            for batch in batches_of(lessons):
                rows, lengths = self._forward([lesson.features for lesson in batch])
                found += [row[:length].clone() for row, length in zip(rows, lengths.tolist(), strict=True)]
        return found

    def _forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        frames = torch.tensor([len(one) for one in features])
        found: tuple[Tensor, Tensor] = self.network(pad_sequence(list(features), batch_first=True), frames)
        return found

    def _varied(self, features: Tensor) -> Tensor:
        """Features ``(T, D)`` as of another vocal tract, with frames and bins masked."""
        features = warped(features, self._draws.uniform(-WARP, WARP))
        frames, bins = features.shape
        for _ in range(MASKS):
            features[:, self._part(bins, bins // 5)] = 0
            features[self._part(frames, frames // 8)] = 0
        return features

    def _part(self, size: int, most: int) -> slice:
        width = int(self._draws.integers(0, 1 + most))
        first = int(self._draws.integers(0, 1 + size - width))
        return slice(first, first + width)

    def _step(self, batch: Sequence[Lesson]) -> None:
        rows, lengths = self._forward([self._varied(lesson.features) for lesson in batch])
        count = sum(len(lesson.tokens) for lesson in batch)
        labels = ctc_losses(rows, lengths, [lesson.tokens for lesson in batch]).sum()
        start = pad_sequence([lesson.start for lesson in batch], batch_first=True)
        valid = torch.arange(rows.shape[1]) < lengths[:, None]
        away = ((start.exp() * (start - rows)).sum(dim=-1) * valid).sum()
        keep = self.strength.keep
        loss = ((1 - keep) * labels + keep * away) / max(1, count)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._weights, CLIP_NORM)
        if not norm.isfinite():
            return
        self._optimiser.step()
        share = min(1.0, self.strength.rate * self.strength.pull)
        with torch.no_grad():
            for weight, first in zip(self._weights, self._first, strict=True):
                weight.lerp_(first, share)


def warped(features: Tensor, shift: float) -> Tensor:
    """Features ``(T, D)`` whose mel axis is stretched by ``1 + shift`` from its lower end; the top bin is repeated."""
    bins = features.shape[1]
    place = (torch.arange(bins) * (1 + shift)).clamp(max=bins - 1)
    low = place.floor().long()
    share = place - low
    return features[:, low] * (1 - share) + features[:, (low + 1).clamp(max=bins - 1)] * share


def ctc_losses(log_probs: Tensor, lengths: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """CTC losses ``(B,)``, natural logarithms, of texts against log-probabilities ``(B, T, V)``."""
    counts = torch.tensor([len(row) for row in tokens])
    joined = torch.tensor([token for row in tokens for token in row], dtype=torch.long)
    return functional.ctc_loss(log_probs.transpose(0, 1), joined, lengths, counts, reduction="none")


def batches_of(lessons: Sequence[Lesson], frames: int = BATCH_FRAMES) -> Iterator[list[Lesson]]:
    """The lessons in their order, as many at a time as ``frames`` allow, padded; at least one."""
    batch: list[Lesson] = []
    for lesson in lessons:
        longest = max(len(one.features) for one in [*batch, lesson])
        if batch and longest * (len(batch) + 1) > frames:
            yield batch
            batch = []
        batch.append(lesson)
    if batch:
        yield batch


def make_lessons(
    network: AcousticModel, features: Sequence[Tensor], ids: Sequence[str], tokens: Sequence[Sequence[int]]
) -> list[Lesson]:
    """Lessons of features, each ``(T, D)`` float32, normalised, with what the network gives for them."""
    lessons = []
    with torch.inference_mode():
        for id, one, text in zip(ids, features, tokens, strict=True):
            rows, _ = network(one[None], torch.tensor([len(one)]))
            lessons.append(Lesson(id, tuple(text), one, rows[0].clone()))
    # Outside inference mode: training computes with them.
    return [Lesson(x.id, x.tokens, x.features.clone(), x.start.clone()) for x in lessons]
