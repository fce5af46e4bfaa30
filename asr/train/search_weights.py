"""The weight of the language models for a model that has learnt: a share of the start's, chosen on held-out sentences.

Weights in a model directory are tuned for what it was made for. Speech of one user is often far from the texts that its
language models were estimated on, and wants less of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding
from asr.scoring.score_report import Report
from asr.scoring.wer import score
from asr.text.tokenizer import Tokenizer

WEIGHT_SHARES = (0.75, 1.0, 0.5)
"""Of the start's weight. The first made fewest errors on the development speakers; another one has to beat it."""
PREFERENCE = 1.5
"""Errors that are added to each share but the first, so that it must make two fewer. On ten sentences a smaller
difference is chance: the best share on half of a speaker's sentences did not predict the other half
(docs/learning.md)."""


def shares_to_try(card: Mapping[str, Any]) -> tuple[float, ...]:
    """``WEIGHT_SHARES``. For a model that has learnt before, the present weight comes first. Otherwise each further
    learning would lower it again."""
    return tuple(sorted(WEIGHT_SHARES, reverse=True)) if card.get("learnt_from") else WEIGHT_SHARES


def decode_rows(search: Decoder, rows: Sequence[Tensor]) -> list[str]:
    """The texts of log-probabilities, each ``(T, V)``."""
    found = []
    for row in rows:
        best = search.decode(row[None].float().numpy(), np.array([len(row)]))[0]
        found.append(" ".join(search.vocabulary.texts(best.tokens)))
    return found


def score_rows(search: Decoder, rows: Sequence[Tensor], references: Mapping[str, str]) -> Report:
    """Errors of log-probabilities, each ``(T, V)``, against texts by id in the same order."""
    return score(references, dict(zip(references, decode_rows(search, rows), strict=True)))


def score_weights(
    options: Decoding,
    tokenizer: Tokenizer,
    rows: Sequence[Tensor],
    references: Mapping[str, str],
    shares: Sequence[float] = WEIGHT_SHARES,
) -> list[tuple[Decoder, Report]]:
    """For each of the shares the search and its errors; without language models the search of the start alone.

    Args:
        options: of the start.
        tokenizer: of the model.
        rows: log-probabilities ``(T, V)`` of sentences that the new weights were not tuned on.
        references: their texts by id, in the same order.
        shares: of the start's weight, the preferred one first.
    """
    found: list[tuple[Decoder, Report]] = []
    for share in shares if options.models else (1.0,):
        search = Decoder(with_share(options, share), tokenizer)
        found.append((search, score_rows(search, rows, references)))
    return found


def rank_shares(found: Sequence[tuple[Decoder, Report]]) -> list[tuple[Decoder, Report]]:
    """The searches of ``score_weights`` with their errors, the best first: the first share is preferred."""
    first = found[0][0]

    def cost(one: tuple[Decoder, Report]) -> tuple[float, int]:
        search, report = one
        return report.errors + (0.0 if search is first else PREFERENCE), report.char_errors

    return sorted(found, key=cost)


def with_share(options: Decoding, share: float) -> Decoding:
    """The options with a share of their weights of language models."""
    weight = options.lm_weight
    scaled = tuple(share * one for one in weight) if isinstance(weight, tuple) else share * weight
    return dataclasses.replace(options, lm_weight=scaled)
