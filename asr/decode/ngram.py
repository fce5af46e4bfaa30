"""Word n-grams: back-off probabilities over flat arrays.

The arrays are a tree of contexts (``asr.decode.ngram_arrays``). The search's kernel reads the same ones
(``asr.decode.kernel.ngram``). It is imported when first used: to know the class must not cost numba.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.decode.ngram_arrays import NgramArray, NgramArrays, build_arrays, sort_levels
from asr.errors import DecodeError
from asr.files import split_fields

if TYPE_CHECKING:
    from asr.decode import kernel

LN10 = math.log(10)
UNKNOWN_NAMES = ("<unk>", "<UNK>")
NO_NGRAM_WORDS = "expected an n-gram with words, got one without"


class Ngram:
    """A back-off n-gram. Logarithms are natural; ARPA files hold them to base 10.

    ``Ngram(order, entries)`` makes one of a mapping from each n-gram, a tuple of words, to ``(log-probability,
    back-off)``; 0 where there is no back-off. ``Ngram.of`` takes arrays as they are.
    """

    _text: NgramArray

    def __init__(self, order: int, entries: Mapping[tuple[str, ...], tuple[float, float]]) -> None:
        words = tuple(key[0] for key in entries if len(key) == 1)
        ids = {word: i for i, word in enumerate(words)}
        rows: list[list[list[int]]] = [[] for _ in range(order)]
        values: list[list[tuple[float, float]]] = [[] for _ in range(order)]
        for key, value in entries.items():
            rows[len(key) - 1].append([ids[word] for word in key])
            values[len(key) - 1].append(value)
        if not words:
            raise DecodeError(NO_NGRAM_WORDS)
        tables = [np.array(table, np.float64).reshape(-1, 2) for table in values]
        keys = [np.array(table, np.int64).reshape(-1, n) for n, table in enumerate(rows, start=1)]
        levels = sort_levels(keys, [table[:, 0] for table in tables], [table[:, 1] for table in tables])
        self._hold(build_arrays(levels), {})
        self.words, self._ids = words, ids

    @classmethod
    def of(
        cls, arrays: NgramArrays, words: Sequence[str] | NgramArray, trees: Mapping[str, Any] | None = None
    ) -> Ngram:
        """An n-gram of arrays that fit together; ``words`` by id, or their UTF-8 bytes with a line feed between them.

        ``trees``: lexicon trees of the words by the fingerprint of a tokenizer (``asr.decode.lexicon_tree``).
        """
        self = cls.__new__(cls)
        self._hold(arrays, trees or {})
        if isinstance(words, np.ndarray):
            self._text = words
        else:
            self.words = tuple(words)
        return self

    def _hold(self, arrays: NgramArrays, trees: Mapping[str, Any]) -> None:
        self.arrays, self.order, self.trees = arrays, arrays.order, trees
        self.kept: tuple[Path, dict[str, Any]] | None = None
        """The file that was converted from an ARPA file and may get lexicon trees, and what it was made of."""

    def __eq__(self, other: object) -> bool:
        """Whether two n-grams have the same words and values."""
        if not isinstance(other, Ngram):
            return NotImplemented
        return self.words == other.words and all(map(np.array_equal, self.arrays, other.arrays))

    __hash__ = object.__hash__

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All unigrams in file order; a word's id is its place."""
        return tuple(self._text.tobytes().decode().split("\n"))

    @cached_property
    def entries(self) -> dict[tuple[str, ...], tuple[float, float]]:
        """All n-grams as ``Ngram`` takes them, by order. Large: it takes some 300 bytes an n-gram."""
        found: dict[tuple[str, ...], tuple[float, float]] = {}
        keys: list[tuple[str, ...]] = [()]
        for contexts, words, log_probs, backoffs in self._tables():
            keys = [(*keys[context], self.words[word]) for context, word in zip(contexts, words, strict=True)]
            found.update(zip(keys, zip(log_probs, backoffs, strict=True), strict=True))
        return found

    def _tables(self) -> Iterator[tuple[list[int], list[int], list[float], list[float]]]:
        """For each order: where each n-gram's context stands in the order below, its last word, its values."""
        starts, below = self.arrays.starts, 0
        for first, stop in itertools.pairwise(starts):
            contexts = (self.arrays.parents_of(first, stop) - below).tolist()
            words = self.arrays.words_of(first, stop).tolist()
            log_probs, backoffs = self.arrays.log_probs_of(first, stop), self.arrays.backoffs_of(first, stop)
            yield contexts, words, log_probs.tolist(), backoffs.tolist()
            below = first

    def sections(self) -> Iterator[Iterator[tuple[str, float, float]]]:
        """For each order its n-grams as ``write_sections`` takes them."""
        texts = [""]
        for contexts, words, log_probs, backoffs in self._tables():
            texts = [f"{texts[context]} {self.words[word]}" for context, word in zip(contexts, words, strict=True)]
            yield zip((text[1:] for text in texts), log_probs, backoffs, strict=True)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @property
    def unknown(self) -> int:
        """Id of ``<unk>``, -1 without one: unknown words then have the probability 1e-100."""
        return next((self._ids[name] for name in UNKNOWN_NAMES if name in self._ids), -1)

    def entry_of(self, word: str) -> int:
        """A word's id in a search: where the n-gram has neither it nor ``<unk>``, that of its least likely word: an
        impossible word could not be recognised whatever speaks for it. Raises ``DecodeError`` without any word."""
        found = self.id_of(word)
        return self._rarest if found < 0 else found

    @cached_property
    def unigrams(self) -> NgramArray:
        """Log-probabilities ``(V,)`` of the words without a context."""
        return self.arrays.log_probs_of(1, 1 + self.arrays.vocabulary)

    @cached_property
    def _rarest(self) -> int:
        # Estimates give -99 to what is never predicted.
        possible = np.where(self.unigrams > -99 * LN10, self.unigrams, np.inf)
        possible[[self._ids[end] for end in ("<s>", "</s>") if end in self._ids]] = np.inf
        if np.isinf(possible.min()):
            raise DecodeError(NO_NGRAM_WORDS)
        return int(possible.argmin())

    @property
    def end(self) -> int:
        """Id of ``</s>``, -1 without one."""
        return self._ids.get("</s>", -1)

    @property
    def start(self) -> int:
        """The context at the start of a sentence, that of ``<s>`` where there is one."""
        found = self._ids.get("<s>", -1) + 1
        return found if found < self.arrays.contexts else 0

    def context_after(self, words: Sequence[str]) -> int:
        """The context of what goes on behind ``words``, as a search counts contexts."""

        from asr.decode import kernel

        place = 0
        for word in words:
            place = kernel.ngram(self.search_arrays, place, self.entry_of(word))[1]
        return int(place)

    def knows(self, word: str) -> bool:
        """Whether the n-gram lists a word."""
        return word in self._ids

    def id_of(self, word: str) -> int:
        """A word's id, or that of ``<unk>``."""
        return self._ids.get(word, self.unknown)

    @cached_property
    def search_arrays(self) -> kernel.Backoff:
        """The arrays for a search."""

        from asr.decode import kernel

        arrays = self.arrays._asdict()
        del arrays["counts"]
        return kernel.Backoff(**arrays, sizes=self.arrays.sizes)

    def log_prob(self, context: Sequence[str], word: int | str) -> float:
        """Natural log-probability of a word after the words of ``context``, of which the last ``order - 1`` count."""

        from asr.decode import kernel

        place = 0
        for before in context[max(0, len(context) - self.order + 1) :]:
            place = kernel.ngram(self.search_arrays, place, self.id_of(before))[1]
        return float(kernel.ngram(self.search_arrays, place, self.id_of(word) if isinstance(word, str) else word)[0])

    def score(self, sentence: str | Sequence[str], *, start: bool = True, end: bool = True) -> float:
        """Natural log-probability of a sentence, by default with its start and end (as ``kenlm.Model.score``).

        ``sentence``: its words, or one string with spaces between them.
        """

        from asr.decode import kernel

        total, place = 0.0, self.start if start else 0
        ids = [self.id_of(word) for word in as_words(sentence)] + [self.end] * (end and self.end >= 0)
        for word in ids:
            log_prob, place = kernel.ngram(self.search_arrays, place, word)
            total += log_prob
        return total

    def next_words(
        self, sentence: str | Sequence[str] = (), count: int = 10, *, start: bool = True
    ) -> list[tuple[str, float]]:
        """The likeliest words after the words of ``sentence`` (as in ``score``) with their probabilities, best first.

        ``</s>`` is the end of the sentence and ``<unk>`` any word that the n-gram does not know: over all words of the
        vocabulary the probabilities sum to 1. ``start``: whether ``sentence`` begins one. Raises ``DecodeError`` for a
        ``count`` below 1.
        """

        from asr.decode import kernel

        if count < 1:
            raise DecodeError(f"count: expected 1 or more, got {count}")
        place = self.start if start else 0
        for number in map(self.id_of, as_words(sentence)):
            place = kernel.ngram(self.search_arrays, place, number)[1] if number >= 0 else 0
        chain = [place]
        while chain[-1]:
            chain.append(self.arrays.suffix_of(chain[-1]))
        log_probs = np.full(len(self.words), kernel.NEVER)
        for node in reversed(chain):  # the shortest context first; longer ones know better
            first, stop = (int(at) for at in self.arrays.branch[node : node + 2])
            log_probs += self.arrays.backoffs_of(node, node + 1)
            log_probs[self.arrays.words_of(first, stop)] = self.arrays.log_probs_of(first, stop)
        best = (number for number in np.argsort(-log_probs, kind="stable").tolist() if self.words[number] != "<s>")
        return [(self.words[number], math.exp(log_probs[number])) for number in itertools.islice(best, count)]

    def word_scores(self, sentence: str | Sequence[str]) -> list[float | None]:
        """Natural log-probability of each word of a sentence, and of its end where the n-gram has ``</s>``.

        A word that the n-gram does not know is scored as ``<unk>``. Without ``<unk>`` it has None, and what follows
        it does not see it or what was before it.
        """

        from asr.decode import kernel

        found: list[float | None] = []
        place = self.start
        for word in [*map(self.id_of, as_words(sentence)), *[self.end] * (self.end >= 0)]:
            if word < 0:
                found.append(None)
                place = 0
                continue
            log_prob, place = kernel.ngram(self.search_arrays, place, word)
            found.append(float(log_prob))
        return found

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Per word, ends of sentences counted as words; words without a probability (``word_scores``) are left out."""
        known = [score for words in sentences for score in self.word_scores(words) if score is not None]
        return math.exp(-sum(known) / max(1, len(known)))


def as_words(sentence: str | Sequence[str]) -> Sequence[str]:
    """The words of a sentence, which may be one string with spaces between them."""
    return split_fields(sentence) if isinstance(sentence, str) else sentence
