"""A language model that scores the hypotheses of a search once more, over its tokens or over tokens of its own.

The search's list keeps its members: only their scores and their order change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from asr.decode import Hypothesis
from asr.decode.fusion import LanguageModel, score_sequences
from asr.decode.kenlm_binary import KenlmNgram
from asr.decode.ngram import Ngram
from asr.errors import DecodeError
from asr.lm.lm_directory import LM, LanguageDirectory, name_of
from asr.models.description import list_symbols
from asr.recognize.language_models import SearchModels, load_source, require_same_tokens
from asr.recognize.loading import LanguageGraph
from asr.text.bpe import WORD_START
from asr.text.phones import PhoneTokenizer
from asr.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from asr.recognize.vocabulary import Vocabulary

UNSPELT = math.log(1e-100)
"""Added for a word that the language model cannot spell, as for a word that an n-gram without ``<unk>`` lacks."""


@dataclass(frozen=True)
class TextModel:
    """A recurrent language model over characters or pieces of its own, which reads the words of a hypothesis."""

    model: LanguageModel
    tokenizer: Tokenizer

    def scores(self, texts: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """Natural log-probability of each text, given as its words, end included.

        A word that the tokenizer cannot spell is left out of the text and adds ``UNSPELT``.
        """
        spellable = {word: not self.tokenizer.unspelt(word) for words in texts for word in words}
        kept = [[word for word in words if spellable[word]] for words in texts]
        found = score_sequences(self.model, [self.tokenizer.encode(" ".join(words)) for words in kept])
        lost = [len(words) - len(known) for words, known in zip(texts, kept, strict=True)]
        return found + UNSPELT * np.array(lost, np.float64)


Scorer: TypeAlias = "Ngram | KenlmNgram | LanguageModel | TextModel"


@dataclass(frozen=True)
class ScoredList:
    """The hypotheses of one search with the log-probabilities ``(n,)`` that the rescoring model gives them (``new``)
    and the weighted ones that the search's own language models gave them (``own``), bonuses and hot words left out."""

    hypotheses: Sequence[Hypothesis]
    new: npt.NDArray[np.float64]
    own: npt.NDArray[np.float64]

    def ordered(self, weight: float, keep: float = 1.0) -> list[Hypothesis]:
        """Best first by the search's score, of which ``own`` counts ``keep`` times, and ``weight`` times ``new``."""
        added = weight * self.new + (keep - 1) * self.own
        made = [
            dataclasses.replace(h, score=h.score + more, lm_score=h.lm_score + more)
            for h, more in zip(self.hypotheses, added.tolist(), strict=True)
        ]
        return sorted(made, key=lambda h: -h.score)


@dataclass(frozen=True)
class Rescorer:
    """Scores lists of hypotheses with ``model``; ``search`` is what the lists were found with."""

    model: Scorer
    search: SearchModels

    def scored(
        self, lists: Sequence[Sequence[Hypothesis]], vocabulary: Vocabulary, *, own: bool = True
    ) -> list[ScoredList]:
        """Each list with its scores; all texts are scored in one batch. Without ``own`` those are zeros."""
        flat = [hypothesis for nbest in lists for hypothesis in nbest]
        words: list[Sequence[str]] = []
        if own or isinstance(self.model, Ngram | KenlmNgram | TextModel):
            words = [vocabulary.texts(h.tokens) for h in flat]
        new = self._new(flat, words)
        weighted = self.search.weighted_scores([h.tokens for h in flat], words) if own else np.zeros(len(flat))
        cuts = np.cumsum([len(nbest) for nbest in lists])[:-1]
        parts = zip(lists, np.split(new, cuts), np.split(weighted, cuts), strict=True)
        return [ScoredList(*part) for part in parts]

    def _new(self, hypotheses: Sequence[Hypothesis], words: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        if isinstance(self.model, Ngram | KenlmNgram):
            return np.array([self.model.score(text) for text in words], np.float64)
        if isinstance(self.model, TextModel):
            return self.model.scores(words)
        return score_sequences(self.model, [h.tokens for h in hypotheses])


def for_rescoring(source: LM, tokenizer: Tokenizer, as_graphs: bool = False) -> Scorer:
    """A language model that can score the texts of an acoustic model's tokens.

    A recurrent model over the same tokens scores these. One over other characters or pieces scores the words.

    Raises ``ModelError`` where there is none, ``DecodeError`` when it cannot spell what the acoustic model writes.
    """
    loaded = load_source(source, as_graphs)
    if not isinstance(loaded, LanguageDirectory | LanguageGraph):
        require_same_tokens(loaded, name_of(source), tokenizer)
        return loaded
    if loaded.tokenizer.symbols == tokenizer.symbols:
        return loaded.model
    theirs, name = loaded.tokenizer, name_of(source)
    if theirs.config.tokenizer not in ("char", "bpe"):
        raise DecodeError(
            f"{name}: expected a language model over the acoustic model's tokens, over characters or over pieces of "
            f"words (text.tokenizer=char or bpe), got one over other {theirs.config.tokenizer} tokens"
        )
    missing = theirs.unspelt("".join(sorted(_alphabet(tokenizer))))
    if missing:
        raise DecodeError(
            f"{name}: the language model cannot spell {', '.join(map(repr, missing[:10]))}, which the acoustic model "
            f"writes; its tokens are {list_symbols(theirs)}, the acoustic model's {list_symbols(tokenizer)}; train it "
            "on texts with these characters"
        )
    return TextModel(loaded.model, theirs)


def _alphabet(tokenizer: Tokenizer) -> set[str]:
    """The characters of the words that a tokenizer can write."""
    written = tokenizer.lexicon if isinstance(tokenizer, PhoneTokenizer) else tokenizer.symbols[1:]
    return set("".join(written)) - {" ", WORD_START}
