"""Several language models in one search: their logarithms, weighted, add up.

Models over tokens are asked one after the other (:class:`Mixture`). Word n-grams become one (:func:`mixed_ngrams`), so
that a search with several is as fast as with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.fusion import LanguageModel
from asr.decode.ngram import UNKNOWN_NAMES, Ngram
from asr.errors import DecodeError

Key = tuple[str, ...]


class Mixture:
    """Token language models as one ``LanguageModel``: the weighted sum of their log-probabilities.

    Raises ``DecodeError`` for no models, or models of different vocabularies.
    """

    def __init__(self, models: Sequence[tuple[LanguageModel, float]]) -> None:
        sizes = {model.vocab_size for model, _ in models}
        if len(sizes) != 1:
            raise DecodeError(
                f"expected language models with the same vocabulary, got {sorted(sizes)} tokens; "
                f"train them with the same tokens"
            )
        self.models = [model for model, _ in models]
        self.weights = [weight for _, weight in models]

    @property
    def vocab_size(self) -> int:
        return self.models[0].vocab_size

    def start(self, n: int) -> tuple[Any, ...]:
        return tuple(model.start(n) for model in self.models)

    def advance(
        self, state: tuple[Any, ...], tokens: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], tuple[Any, ...]]:
        found = [model.advance(own, tokens) for model, own in zip(self.models, state, strict=True)]
        return self._sum([log_probs for log_probs, _ in found]), tuple(own for _, own in found)

    def select(self, state: tuple[Any, ...], indices: npt.NDArray[np.int64]) -> tuple[Any, ...]:
        return tuple(model.select(own, indices) for model, own in zip(self.models, state, strict=True))

    def join(self, states: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        return tuple(model.join(own) for model, own in zip(self.models, zip(*states, strict=True), strict=True))

    def finish(self, state: tuple[Any, ...]) -> npt.NDArray[Any]:
        return self._sum([model.finish(own) for model, own in zip(self.models, state, strict=True)])

    def _sum(self, values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        total = self.weights[0] * np.asarray(values[0])
        for weight, more in zip(self.weights[1:], values[1:], strict=True):
            total = total + weight * np.asarray(more)
        return total


def mixed_ngrams(ngrams: Sequence[Ngram], weights: Sequence[float]) -> Ngram:
    """One n-gram that gives each word the weighted sum of the log-probabilities that ``ngrams`` give it.

    Backing off adds logarithms, and so does the mixture: over all n-grams that any of them lists it is exact. Its
    words are those of all. A word that one of them lacks has its ``<unk>`` there, or is as rare as its rarest word, and
    hides from it what was said before. What comes out are scores, which do not sum to one.
    """
    # N-grams of a model's highest order are nothing's history there: whatever back-off they carry is never used.
    models = [
        {_renamed(key): (p, backoff if len(key) < ngram.order else 0.0) for key, (p, backoff) in ngram.entries.items()}
        for ngram in ngrams
    ]
    # What a word that a model lacks counts as there.
    strange = ["<unk>" if ngram.unknown >= 0 else ngram.words[ngram.entry_of("<unk>")] for ngram in ngrams]
    keys = dict.fromkeys(key for entries in models for key in entries)
    mixed = {}
    for key in keys:
        score = backoff = 0.0
        for entries, unknown, weight in zip(models, strange, weights, strict=True):
            score += weight * _log_prob(entries, key if key[-1:] in entries else (*key[:-1], unknown))
            backoff += weight * entries.get(key, (0.0, 0.0))[1]
        mixed[key] = score, backoff
    return Ngram(max(ngram.order for ngram in ngrams), mixed)


def _log_prob(entries: Mapping[Key, tuple[float, float]], key: Key) -> float:
    """Of the last word of ``key``, which is listed alone, behind the others."""
    total = 0.0
    while key not in entries:
        total += entries.get(key[:-1], (0.0, 0.0))[1]
        key = key[1:]
    return total + entries[key][0]


def _renamed(key: Key) -> Key:
    """``<unk>`` by one name."""
    return tuple("<unk>" if word in UNKNOWN_NAMES else word for word in key)
