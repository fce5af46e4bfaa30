"""Finds corrections whose text is not what was said.

The text is aligned with its audio. How much less likely that path is than the best path of any tokens is compared with
the same for decoys: the same letters in another order, word by word as long. A right text loses a small part of what
decoys lose, however unsure the model is of the voice; a wrong text loses about as much as they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.decode.alignment import align
from asr.decode.posteriors import Matrix
from asr.errors import DecodeError

DECOYS = 12
MISFIT = 0.55
"""Share of the decoys' loss from which on a text is taken for another than what was said (docs/learning.md)."""


@dataclass(frozen=True)
class TextFit:
    """How well a text fits its audio: the text's loss over that of its decoys, near 0 for what was said."""

    ratio: float

    @property
    def wrong(self) -> bool:
        """Whether the text is probably not what was said."""
        return self.ratio > MISFIT


def text_fit(log_probs: Matrix, tokens: Sequence[int], space: int | None) -> TextFit:
    """How well a text fits log-probabilities ``(T, V)``, natural logarithms.

    ``space``: the token between words, which stays where it is in decoys. Raises ``DecodeError`` for a text that is
    longer than the recording has room for.
    """
    free = float(np.max(np.asarray(log_probs), axis=1).sum())
    loss = free - align(log_probs, tokens).score
    draws, decoys = np.random.default_rng(0), []
    places = [place for place, token in enumerate(tokens) if token != space]
    for _ in range(DECOYS):
        decoy = np.array(tokens)
        decoy[places] = draws.permutation(decoy[places])
        try:
            decoys.append(free - align(log_probs, decoy.tolist()).score)
        except DecodeError:  # more pairs of equal neighbours than there is room for
            continue
    mean = float(np.mean(decoys)) if decoys else math.inf
    # A text of one token, or of equal ones, has no other order: its loss counts alone, one nat a token as the bar.
    if len(set(np.array(tokens)[places].tolist())) < 2:
        mean = len(tokens) / MISFIT
    return TextFit(loss / max(mean, 1e-6))
