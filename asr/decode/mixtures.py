"""Several language models in one search: their logarithms, weighted, add up.

Models over tokens are asked one after the other (:class:`Mixture`). Word n-grams become one (:func:`mixed_ngrams`), so
that a search with several is as fast as with one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.fusion import LanguageModel
from asr.decode.ngram import UNKNOWN_NAMES, Ngram
from asr.decode.ngram_arrays import NgramArray, NodeSearch, SortedLevel, build_arrays
from asr.errors import DecodeError


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
    names = [_renamed(ngram.words) for ngram in ngrams]
    words = {word: number for number, word in enumerate(dict.fromkeys(itertools.chain.from_iterable(names)))}
    parts = [_Part(ngram, own, words) for ngram, own in zip(ngrams, names, strict=True)]
    levels: list[SortedLevel] = []
    for order in range(1, max(ngram.order for ngram in ngrams) + 1):
        keys = [part.keys(order, len(words)) for part in parts]
        union = np.unique(np.concatenate(keys))
        context, word = union // len(words), union % len(words)
        log_prob, backoff = np.zeros(len(union)), np.zeros(len(union))
        for part, own, weight in zip(parts, keys, weights, strict=True):
            log_probs, backoffs = part.advance(order, context, word, np.searchsorted(union, own))
            log_prob += weight * log_probs
            backoff += weight * backoffs
        levels.append(SortedLevel(context, word, log_prob, backoff))
    return Ngram.of(build_arrays(levels), tuple(words))


class _Part:
    """One of the n-grams of a mixture, level by level of the mixture's n-grams."""

    def __init__(self, ngram: Ngram, own: Sequence[str], words: Mapping[str, int]) -> None:
        self.arrays, self.search = ngram.arrays, NodeSearch.of(ngram.arrays)
        self.log_prob = self.arrays.log_probs_of(0, self.arrays.starts[-1])
        self.backoff = self.arrays.backoffs_of(0, self.arrays.starts[-1])
        self.to_mixture = np.array([words[word] for word in own])
        self.lacks = np.ones(len(words), np.bool_)
        self.lacks[self.to_mixture] = False
        # What a word that the model lacks counts as there.
        strange = ngram.entry_of("<unk>") if self.lacks.any() else 0
        self.to_own = np.full(len(words), strange)
        self.to_own[self.to_mixture] = np.arange(len(own))
        self.places = np.zeros(1, np.int64)
        """Of the model's n-grams of one order below: where they stand among the mixture's."""
        self.states = np.zeros(1, np.int64)
        """Of the mixture's n-grams of one order below: the model's context behind each."""

    def keys(self, order: int, vocabulary: int) -> NgramArray:
        """The model's n-grams of an order, as the mixture numbers their contexts and words."""
        if order > self.arrays.order:
            return np.empty(0, np.int64)
        first, stop = self.arrays.starts[order - 1 : order + 1]
        below = 0 if order == 1 else self.arrays.starts[order - 2]
        context = self.places[self.search.parent[first - 1 : stop - 1] - below]
        return np.asarray(context * vocabulary + self.to_mixture[self.search.word[first - 1 : stop - 1]])

    def advance(
        self, order: int, context: NgramArray, word: NgramArray, places: NgramArray
    ) -> tuple[NgramArray, NgramArray]:
        """Log-probabilities and back-offs of the mixture's n-grams; the model's own are at ``places``."""
        own = self.to_own[word]
        found, lost = self.search.back_off(self.states[context], own, self.backoff)
        backoff = np.zeros(len(word))
        if order <= self.arrays.order:
            first, stop = self.arrays.starts[order - 1 : order + 1]
            backoff[places] = self.backoff[first:stop]
        self.places = places
        states = np.where(self.lacks[word], 0, found)  # an unknown word hides what was before it
        last = np.flatnonzero(states >= self.arrays.contexts)
        if last.size and self.arrays.order > 1:
            shorter = self.search.suffix[self.search.parent[states[last] - 1]]
            states[last] = self.search.back_off(shorter, own[last], self.backoff)[0]
        elif last.size:
            states[last] = 0
        self.states = states
        return self.log_prob[found] + lost, backoff


def _renamed(words: Sequence[str]) -> list[str]:
    """``<unk>`` by one name."""
    unknown = next((name for name in UNKNOWN_NAMES if name in words), None)
    return ["<unk>" if word == unknown else word for word in words]
