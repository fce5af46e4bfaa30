"""Fine-tuning on a few utterances: the upper layers alone, held near the model that it starts from.

The lower layers stay as they are, so what they give is computed once. Two things hold the rest near the start: weights
decay towards their first values (L2-SP, Li et al. 2018), and the posteriors of the start are learnt beside the labels
(KL-regularised adaptation, Yu et al. 2013).
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
from asr.train import finetune

BATCH_FRAMES = 7200
"""Padded frames behind the frozen parts of one step: about 50 s of speech."""
CLIP_NORM = 5.0
"""Largest global gradient norm, in natural logarithms per token."""
WARP = 0.06
"""Largest width of a mask, in frames behind the frozen parts."""


@dataclass(frozen=True)
class Lesson:
    """An utterance as fine-tuning uses it.

    ``tokens``: ids of its text; None: the posteriors alone are learnt. ``hidden``: ``(T, D)`` float32, what the frozen
    parts give. ``start``: ``(T', V)`` float32 natural log-probabilities of the model that is fine-tuned.
    """

    id: str
    tokens: tuple[int, ...] | None
    hidden: Tensor
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


def frozen_parts(layers: int) -> int:
    """How many parts, from the input, stay as they are: about half of the recurrent layers, and the convolutions."""
    return 1 + layers // 2


class Adaptation:
    """A copy of a network under fine-tuning.

    Args:
        network: the start; it is not changed.
        parts: those that are frozen, as ``train.freeze`` counts them.
        strength: of the change.
        seed: of the masks and the order.
    """

    def __init__(
        self, network: AcousticModel, parts: int, strength: Strength, seed: int = 1, chosen=lambda n: True
    ) -> None:
        self.network, self.parts, self.strength = copy.deepcopy(network).eval(), parts, strength
        own = dict(self.network.named_parameters())
        names = [name for name in own if finetune.depth_of(name, network) >= parts and chosen(name)]
        for name, parameter in own.items():
            parameter.requires_grad_(name in names)
        self.weights = [own[name] for name in names]
        self._first = [weight.detach().clone() for weight in self.weights]
        self._optimiser = torch.optim.Adam(self.weights, strength.rate, betas=(0.9, 0.98))
        self._draws = np.random.default_rng(seed)

    def epoch(self, lessons: Sequence[Lesson]) -> None:
        """One pass over the lessons."""
        for batch in batches_of([lessons[i] for i in self._draws.permutation(len(lessons))]):
            self._step(batch)

    def log_probs(self, lessons: Sequence[Lesson]) -> list[Tensor]:
        """Log-probabilities ``(T', V)`` of each lesson."""
        found: list[Tensor] = []
        with torch.inference_mode():
            for batch in batches_of(lessons):
                rows, lengths = self._forward(batch, masked=False)
                found += [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
        return found

    def _forward(self, batch: Sequence[Lesson], *, masked: bool) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(lesson.hidden) for lesson in batch])
        hidden = pad_sequence([lesson.hidden for lesson in batch], batch_first=True)
        if masked:
            hidden = torch.stack(
                [self._varied(row, length) for row, length in zip(hidden, lengths.tolist(), strict=True)]
            )
        if not self.parts:
            self.network.train(masked)
            found: tuple[Tensor, Tensor] = self.network(hidden, lengths)
            return found
        return self.network.upper(hidden, lengths, self.parts)

    def _varied(self, row: Tensor, length: int) -> Tensor:
        """Frames ``(T, D)`` with stretches of time masked, and features also as of another vocal tract."""
        row = row.clone()
        if not self.parts:
            row = warped(row, self._draws.uniform(-WARP, WARP))
            for _ in range(2):
                width = int(self._draws.integers(0, 1 + row.shape[1] // 5))
                first = int(self._draws.integers(0, 1 + row.shape[1] - width))
                row[:, first : first + width] = 0
        for _ in range(2):
            width = int(self._draws.integers(0, 1 + length // 8))
            first = int(self._draws.integers(0, 1 + length - width))
            row[first : first + width] = 0
        return row

    def _step(self, batch: Sequence[Lesson]) -> None:
        rows, lengths = self._forward(batch, masked=True)
        keep = self.strength.keep
        spelt = [i for i, lesson in enumerate(batch) if lesson.tokens is not None]
        loss = rows.new_zeros(())
        if spelt:
            labels = ctc_losses(rows[spelt], lengths[spelt], [batch[i].tokens or () for i in spelt])
            loss = loss + (1 - keep) * labels.sum() / max(1, sum(len(batch[i].tokens or ()) for i in spelt))
        start = pad_sequence([lesson.start for lesson in batch], batch_first=True)  # rows of zeros behind the ends
        valid = torch.arange(rows.shape[1]) < lengths[:, None]
        away = ((start.exp() * (start - rows)).sum(dim=-1) * valid).sum()
        loss = loss + keep * away / max(1, sum(len(lesson.tokens or lesson.start) for lesson in batch))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        if not norm.isfinite():
            return
        self._optimiser.step()
        share = self.strength.rate * self.strength.pull
        with torch.no_grad():
            for weight, first in zip(self.weights, self._first, strict=True):
                weight.lerp_(first, min(1.0, share))


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


def batches_of(lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """The lessons in their order, as many at a time as ``BATCH_FRAMES`` allow."""
    batch: list[Lesson] = []
    for lesson in lessons:
        longest = max(len(one.hidden) for one in [*batch, lesson])
        if batch and longest * (len(batch) + 1) > BATCH_FRAMES:
            yield batch
            batch = []
        batch.append(lesson)
    if batch:
        yield batch


def make_lessons(
    network: AcousticModel,
    parts: int,
    features: Sequence[Tensor],
    ids: Sequence[str],
    tokens: Sequence[Sequence[int] | None],
) -> list[Lesson]:
    """Lessons of features, each ``(T, D)`` float32, normalised."""
    lessons = []
    with torch.inference_mode():
        for id, one, text in zip(ids, features, tokens, strict=True):
            hidden, lengths = one[None], torch.tensor([len(one)])
            if parts:
                hidden, lengths = network.lower(hidden, lengths, parts)
            rows, _ = network.upper(hidden, lengths, parts) if parts else network(hidden, lengths)
            lessons.append(Lesson(id, None if text is None else tuple(text), hidden[0].clone(), rows[0].clone()))
    return lessons
