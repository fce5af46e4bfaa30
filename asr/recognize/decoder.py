"""The decoder: made of options and the language models that they name, it turns posteriors into text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from asr.config import cpus
from asr.decode import (
    BeamSearch,
    GreedySearch,
    Hypothesis,
    Phrase,
    PhraseSearch,
    accept_all,
    beam_search,
    greedy,
    score_phrases,
)
from asr.decode.lexicon import read_word_list
from asr.decode.ngram import Ngram
from asr.decode.phrase_graph import Key, PhraseGraph
from asr.decode.phrase_search import answers, read_phrases
from asr.decode.posteriors import Matrix
from asr.recognize.language_models import Context, for_search
from asr.recognize.options import Decoding
from asr.recognize.rescoring import Rescorer, for_rescoring
from asr.recognize.vocabulary import Vocabularies, Vocabulary, WordModels
from asr.text.templates import read_templates
from asr.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from asr.decode import BeamSearch


LONG_LIST = 2000
"""Phrases from which on a list is searched as a graph, and not scored as a whole."""
MOST_ANSWERS = 10_000
"""Answers of a graph that a decoder remembers."""

Search: TypeAlias = "GreedySearch | PhraseSearch | BeamSearch"


class Decoder:
    """Decodes batches of log-probabilities as ``options`` say, for the tokens of one acoustic model.

    ``as_graphs``: onnxruntime runs recurrent language models, also where torch could; those that adapt need torch.

    Raises ``DecodeError``, ``ModelError`` or ``ConfigError`` naming a language model, word or option that cannot be
    used.
    """

    def __init__(self, options: Decoding, tokenizer: Tokenizer, as_graphs: bool = False) -> None:
        self.options = options
        self.tokenizer = tokenizer
        found = self._models = for_search(options.models, tokenizer, options.lm_adapt, as_graphs)
        self.fusion, self.adapters = found.fusion, found.adapters
        self.phrases: list[Phrase] = []
        """The closed list that answers come from; empty where there is none, or a graph instead."""
        self.graph: PhraseGraph | None = None
        """The phrases of templates or of a long list."""
        if options.phrases:
            self._read_phrases(options.phrases)
        self.phrase_of = {phrase.text: phrase for phrase in self.phrases}
        """Phrases by their text, which is the ``phrase`` of hypotheses; those of a graph once they were an answer."""
        self.rescorer: Rescorer | None = None
        if options.rescore and (options.rescore_weight or options.rescore_keep != 1):
            self.rescorer = Rescorer(for_rescoring(options.rescore, tokenizer, as_graphs), found)
        models = WordModels(
            read_word_list(options.lexicon) if options.lexicon else (),
            found.ngram,
            found.ngram_weight,
            options.word_bonus,
            options.unknown_penalty,
        )
        reader = self.rescorer.model if self.rescorer and isinstance(self.rescorer.model, Ngram) else None
        self._vocabularies = Vocabularies(tokenizer, models, options.language, (reader, options.rescore_weight))
        self.vocabulary = self.vocabulary_with(options.hotwords)
        """The words of the search, with the options' hot words."""

    def _read_phrases(self, path: str) -> None:
        templates = read_templates(path)
        if templates.plain and len(templates.lines) <= LONG_LIST:
            self.phrases = read_phrases(path, self.tokenizer, self.options.language)
        else:
            self.graph = PhraseGraph(templates, self.tokenizer, self.options.language)

    @property
    def closed(self) -> bool:
        """Whether each utterance is one of a closed list of phrases."""
        return bool(self.phrases) or self.graph is not None

    def vocabulary_with(self, hotwords: Mapping[str, float]) -> Vocabulary:
        """The words of the search with other hot words. Raises ``DecodeError`` naming one that cannot be used."""
        return self._vocabularies.make(hotwords)

    def listed_words(self) -> set[str] | None:
        """The words of the phrases, the lexicon or the n-gram, normalised; None where any word can be written."""
        if self.graph is not None:
            return self.graph.words()
        if self.phrases:
            return {word for phrase in self.phrases for one in phrase.said for word in one.words}
        return self._vocabularies.listed()

    def decode(self, log_probs: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> list[Hypothesis]:
        """The best hypothesis of each row of ``(B, T, V)`` log-probabilities with ``(B,)`` valid frames."""
        return [found[0] for found in self.lists(log_probs, lengths)]

    def lists(self, log_probs: npt.NDArray[Any], lengths: npt.NDArray[Any], count: int = 1) -> list[list[Hypothesis]]:
        """As ``decode``, up to ``count`` hypotheses of each row, best first; greedy decoding has one."""
        if self.graph is not None:
            return [self._from_graph(log_probs[row, : int(length)], count) for row, length in enumerate(lengths)]
        if self.phrases:
            return self.answers(log_probs, lengths, self.phrase_scores(log_probs, lengths), count)
        if self.options.beam == 1:
            return [[hypothesis] for hypothesis in greedy(log_probs, lengths)]
        if not self.adapters:
            return self.nbest(log_probs, lengths, count)
        found = []
        for row in range(len(lengths)):
            matrix = log_probs[row : row + 1, : int(lengths[row])]
            found.append(self.nbest(matrix, lengths[row : row + 1], count)[0])
            self._learn(found[-1][0])
        return found

    def phrase_scores(self, log_probs: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> np.ndarray:
        """Natural log-probabilities ``(B, P + 1)`` of the phrases and, last, of anything else.

        Anything else is what greedy decoding gives, unless that is one of them, at the price of ``unknown_penalty``.
        """
        return self._scores(log_probs, lengths, self.phrases)

    def candidate_scores(self, matrix: npt.NDArray[Any], keys: Sequence[Key]) -> np.ndarray:
        """As ``phrase_scores``, of some phrases of the graph for one utterance ``(T, V)``: ``(len(keys) + 1,)``."""
        found: np.ndarray = self._scores(matrix[None], np.array([len(matrix)]), self._candidates(keys))[0]
        return found

    def best_candidates(
        self, matrix: npt.NDArray[Any], keys: Sequence[Key], scores: np.ndarray, count: int = 1
    ) -> list[Hypothesis]:
        """As ``answers``, of some phrases of the graph for one utterance ``(T, V)``."""
        phrases = self._candidates(keys)
        found = answers(matrix, phrases, scores, count)
        known = {phrase.text: phrase for phrase in phrases}
        self.phrase_of |= {h.phrase: known[h.phrase] for h in found if h.phrase}
        while len(self.phrase_of) > MOST_ANSWERS:
            self.phrase_of.pop(next(iter(self.phrase_of)))
        return found

    def _candidates(self, keys: Sequence[Key]) -> list[Phrase]:
        assert self.graph is not None
        return [self.graph.phrase(key) for key in keys]

    def _from_graph(self, matrix: npt.NDArray[Any], count: int) -> list[Hypothesis]:
        assert self.graph is not None
        keys = self.graph.candidates(matrix)
        return self.best_candidates(matrix, keys, self.candidate_scores(matrix, keys), count)

    def _scores(self, log_probs: npt.NDArray[Any], lengths: npt.NDArray[Any], phrases: Sequence[Phrase]) -> np.ndarray:
        scores = score_phrases(log_probs, phrases, lengths)
        other = np.full((len(scores), 1), -np.inf)
        if self.options.unknown_penalty > -math.inf:
            listed = {way for phrase in phrases for way in phrase.spellings}
            for row, free in enumerate(greedy(log_probs, lengths)):
                if free.tokens in listed:
                    continue
                text = Phrase("", (free.tokens,))
                matrix = log_probs[row, : int(lengths[row])]
                other[row] = score_phrases(matrix, [text])[0] + self.options.unknown_penalty
        return np.concatenate([scores, other], axis=1)

    def answers(
        self, log_probs: npt.NDArray[Any], lengths: npt.NDArray[Any], scores: np.ndarray, count: int = 1
    ) -> list[list[Hypothesis]]:
        """The phrases that are best by ``scores`` ``(B, P + 1)``, at most ``count`` of each row, with their times."""
        return [
            answers(log_probs[row, : int(length)], self.phrases, scores[row], count)
            for row, length in enumerate(lengths)
        ]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a hypothesis' tokens."""
        return " ".join(self.vocabulary.texts(tokens))

    def continued(self, log_probs: Matrix, context: Context, count: int = 1) -> tuple[list[Hypothesis], Context]:
        """As ``lists`` for one utterance ``(T, V)`` of a recording, with what was said before it; and what was said
        behind it, for the next one."""
        search = self.search()
        self.begin(search, self.vocabulary, context)
        search.accept(log_probs)
        found = self.finish(search, count)
        return found, self.following(context, found[0], self.vocabulary)

    def following(self, context: Context, hypothesis: Hypothesis, vocabulary: Vocabulary) -> Context:
        """What was said behind an utterance; always nothing without ``lm_carry``."""
        if not self.options.lm_carry:
            return context
        words = vocabulary.texts(hypothesis.tokens)
        return self._models.following(context, hypothesis.tokens, words)

    def begin(self, search: Search, vocabulary: Vocabulary, context: Context) -> None:
        """Let a search forget its frames and go on with a vocabulary behind a context."""
        if isinstance(search, BeamSearch):
            search.begin(self._models.behind(vocabulary.arrays, context), context.state)
        else:
            search.start()

    def search(self) -> Search:
        """A search over one utterance whose frames come in pieces; ``finish`` ends it."""
        options = self.options
        if self.closed:
            return PhraseSearch(self._answer)
        if options.beam == 1:
            return GreedySearch()
        return BeamSearch(
            beam=options.beam,
            token_threshold=options.token_threshold,
            beam_threshold=options.beam_threshold,
            blank_threshold=options.blank_threshold,
            blank_penalty=options.blank_penalty,
            words=self.vocabulary.arrays,
            lm=self.fusion,
        )

    def _answer(self, matrix: np.ndarray) -> list[Hypothesis]:
        """The likeliest phrase of a whole utterance's log-probabilities ``(T, V)``."""
        return self.lists(matrix[None], np.array([len(matrix)]))[0]

    def accept(self, searches: Sequence[Search], matrices: Sequence[Matrix]) -> None:
        """``accept_searches``, of searches of this decoder."""
        accept_searches(searches, matrices)

    def finish(self, search: Search, count: int = 1) -> list[Hypothesis]:
        """The final hypotheses of a search, at least one, rescored if the options ask for it.

        Afterwards the search is ready for the next utterance.
        """
        found = search.finish(1 if self.options.beam == 1 else self._depth(count))
        found = self._rescore([found])[0]
        self._learn(found[0])
        return found

    def _learn(self, hypothesis: Hypothesis) -> None:
        for adapter in self.adapters:
            adapter.learn(hypothesis.tokens)

    def _depth(self, count: int) -> int:
        """Hypotheses to ask the search for."""
        return min(max(count, self.options.nbest if self.rescorer else 1), self.options.beam)

    def nbest(self, log_probs: npt.NDArray[Any], lengths: npt.NDArray[Any], count: int = 1) -> list[list[Hypothesis]]:
        """Hypotheses of the beam search, rescored where that is asked for, best first."""
        return self._rescore(self.searched(log_probs, lengths, count))

    def searched(
        self, log_probs: npt.NDArray[Any], lengths: npt.NDArray[Any], count: int = 1
    ) -> list[list[Hypothesis]]:
        """As ``nbest``, as the search alone orders them: what a rescoring model would get."""
        options = self.options
        return beam_search(
            log_probs,
            lengths,
            beam=options.beam,
            token_threshold=options.token_threshold,
            beam_threshold=options.beam_threshold,
            blank_threshold=options.blank_threshold,
            blank_penalty=options.blank_penalty,
            words=self.vocabulary.arrays,
            lm=self.fusion,
            nbest=self._depth(count),
            threads=cpus.in_use(),
        )

    def _rescore(self, lists: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
        """Each list in the order of the rescoring model, where there is one; all are scored in one batch."""
        if self.rescorer is None:
            return lists
        weight, keep = self.options.rescore_weight, self.options.rescore_keep
        scored = self.rescorer.scored(lists, self.vocabulary, own=keep != 1)
        return [found.ordered(weight, keep) for found in scored]


def accept_searches(searches: Sequence[Search], matrices: Sequence[Matrix]) -> None:
    """Feed each search its next frames ``(T, V)``. The searches may be those of several decoders over the same tokens;
    a language model is asked for all of its searches at once."""
    together: dict[int, list[int]] = {}
    for index, (search, matrix) in enumerate(zip(searches, matrices, strict=True)):
        if isinstance(search, BeamSearch):
            together.setdefault(id(search.lm), []).append(index)
        else:
            search.accept(matrix)
    for indices in together.values():
        accept_all(
            [s for s in (searches[i] for i in indices) if isinstance(s, BeamSearch)], [matrices[i] for i in indices]
        )
