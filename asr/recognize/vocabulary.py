"""The words of a search, and how its hypotheses are read as words."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from asr.decode.lexicon import add_hotwords, make_words, pack_lexicon, read_words
from asr.decode.lexicon_tree import Packed
from asr.decode.ngram import Ngram
from asr.decode.ngram_cache import cached_tree, keep_tree
from asr.errors import DecodeError, TextError
from asr.text import tokenizer_files
from asr.text.normalisation import normalise
from asr.text.phones import PhoneTokenizer
from asr.text.tokenizer import Tokenizer
from asr.text.user_words import whole_reading


@dataclass(frozen=True)
class WordModels:
    """The words of a search and their costs, without hot words (``asr.decode.lexicon.make_words`` describes them)."""

    lexicon: Sequence[str] = ()
    ngram: Ngram | None = None
    weight: float = 1.0
    word_bonus: float = 0.0
    unknown_penalty: float = float("-inf")

    @property
    def words(self) -> Sequence[str]:
        """The words that may be recognised; none where any may."""
        return self.lexicon or (self.ngram.words if self.ngram is not None else ())


@dataclass(frozen=True)
class Vocabulary:
    """The words of a search with one list of hot words.

    ``arrays`` are for ``asr.decode.BeamSearch``, None for a search without words. ``ngram`` with its ``weight``
    distinguishes homophones; where there is none, ``boosts`` of hot words do.
    """

    tokenizer: Tokenizer
    arrays: Any = None
    ngram: Ngram | None = None
    weight: float = 1.0
    boosts: Mapping[str, float] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)
    """Words that the search may write, by normalised form; none where it has no lexicon or no words sound alike."""

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """The words of a hypothesis' tokens; those that sound alike are told apart by the n-gram."""
        return read_words(self._heard(tokens), self.ngram, weight=self.weight, boosts=self.boosts, forms=self.forms)

    def partial(self, tokens: Sequence[int], stable: int) -> tuple[str, int]:
        """The text of a hypothesis whose first ``stable`` tokens will not change any more, and how many of the text's
        characters will not."""
        if not _by_sound(self.tokenizer):
            # Spaces as in the final text: one between words, none in front of the first.
            text, agreed = (" ".join(self.tokenizer.decode(t).split()) for t in (tokens, tokens[:stable]))
            return text, len(agreed) if text.startswith(agreed) else 0
        # What is a word yet may be the beginning of another; of words that sound alike the n-gram may come to favour
        # the other.
        texts = self.texts(tokens)
        ended = max((p for p in range(stable) if tokens[p] == self.tokenizer.space_id), default=0)
        heard = self._heard(tokens[:ended])
        settled = len(heard)
        if self.ngram is not None:
            settled = sum(1 for _ in takewhile(lambda words: len(words) == 1, heard))
        return " ".join(texts), len(" ".join(texts[:settled]))

    def _heard(self, tokens: Sequence[int]) -> list[list[str]]:
        """For each word of a hypothesis those that sound so, of the search's lexicon where there are any."""
        heard = [self.tokenizer.heard([tokens[p] for p in positions]) for positions in self.tokenizer.words(tokens)]
        if self.forms:
            heard = [[word for word in words if word in self.forms] or words[:1] for words in heard]
        return heard


class Vocabularies:
    """Makes vocabularies of the same models with different hot words; shared parts are made once.

    ``reader``: an n-gram and its weight that distinguish homophones where the search has no n-gram.
    """

    def __init__(
        self, tokenizer: Tokenizer, models: WordModels, language: str, reader: tuple[Ngram | None, float] = (None, 1.0)
    ) -> None:
        self.tokenizer = tokenizer
        self.models = models
        self.language = language
        self.reader = reader if models.ngram is None else (models.ngram, models.weight)
        self._known: Any = set(models.lexicon) or (() if models.ngram is None else models.ngram)
        self._plain: Any = None
        if models.words or models.word_bonus:
            self._plain = self._arrays({})

    def make(self, hotwords: Mapping[str, float]) -> Vocabulary:
        """A vocabulary with these hot words.

        They are read as ``asr.text.user_words`` reads texts. A lexicon learns them; its own tree stays as it is and is
        shared. Raises ``DecodeError`` naming a hot word that cannot be spelt or whose boost is no finite number.
        """
        if not isinstance(hotwords, Mapping):
            raise DecodeError(
                f"hot words: expected words with boosts, such as {{'GORDON': 5.0}}, got {hotwords!r}"[:200]
            )
        hotwords = {self._spelt(phrase): boost for phrase, boost in hotwords.items()}
        words = " ".join(hotwords).split()
        arrays = self._plain
        if hotwords and arrays is not None:
            ngram = self.models.ngram if self.models.weight else None
            arrays = add_hotwords(arrays, self.tokenizer.spellings, hotwords, self._known, ngram)
        elif hotwords:
            arrays = self._arrays(hotwords)
        forms = self._forms
        if forms:
            forms = {**{normalise(word, self.tokenizer.config): word for word in reversed(words)}, **forms}
        boosts = {normalise(phrase, self.tokenizer.config): boost for phrase, boost in hotwords.items()}
        return Vocabulary(self.tokenizer, arrays, *self.reader, boosts, forms)

    def listed(self) -> set[str] | None:
        """The words of the lexicon or n-gram, normalised; None where the search has neither and may write any word."""
        words = {normalise(word, self.tokenizer.config) for word in self.models.words}
        return words or None

    @functools.cached_property
    def _forms(self) -> dict[str, str]:
        """The words of the search by normalised form, where words may sound alike."""
        found: dict[str, str] = {}
        for word in self.models.words if _by_sound(self.tokenizer) else ():
            found.setdefault(normalise(word, self.tokenizer.config), word)
        return found

    def _arrays(self, hotwords: Mapping[str, float]) -> Any:
        models = self.models
        asked = {
            "an n-gram (lm)": models.ngram is not None,
            "lexicon": bool(models.lexicon),
            "word_bonus": models.word_bonus != 0,
            "hotwords": bool(hotwords),
        }
        _require_spaces(self.tokenizer, ", ".join(name for name, used in asked.items() if used))
        return make_words(
            self.tokenizer.spellings,
            self.tokenizer.vocab_size,
            self.tokenizer.space_id,
            lexicon=models.lexicon,
            ngram=models.ngram,
            hotwords=hotwords,
            weight=models.weight,
            word_bonus=models.word_bonus,
            unknown_penalty=models.unknown_penalty,
            tree=self._tree(),
        )

    def _tree(self) -> Packed | None:
        """The tree of the search's words for the tokenizer: from the n-gram's file, or from a cache."""
        tokenizer, space, lexicon = self.tokenizer, self.tokenizer.space_id, self.models.lexicon
        ngram = self.models.ngram if self.models.weight else None
        if space is None or not (lexicon or ngram):
            return None
        fingerprint = tokenizer_files.spelling_fingerprint(tokenizer)

        def make() -> Packed | None:
            return pack_lexicon(tokenizer.spellings, tokenizer.vocab_size, space, lexicon=lexicon, ngram=ngram)

        if ngram is None or lexicon:
            return cached_tree(fingerprint, ngram, lexicon, make)
        tree: Packed | None = ngram.trees.get(fingerprint)
        if tree is None and ngram.kept:
            tree = make()
            keep_tree(ngram, fingerprint, tree or {})
        return tree if tree is not None else cached_tree(fingerprint, ngram, (), make)

    def _spelt(self, phrase: str) -> str:
        """A hot word as the tokenizer can spell it: words that it knows as they are written, others as spoken."""
        try:
            read = whole_reading(phrase, self.tokenizer, self.language, f"hot word {phrase!r}")
        except TextError as error:
            raise DecodeError(str(error)) from error
        plain = [" ".join(one.words) == normalise(one.written, self.tokenizer.config) for one in read.words]
        return " ".join(
            one.written if same else " ".join(one.words) for one, same in zip(read.words, plain, strict=True)
        )


def _require_spaces(tokenizer: Tokenizer, asked: str) -> None:
    """Refuse what works on words, by name, for tokens without one between words. Raises ``DecodeError``."""
    if tokenizer.space_id is not None:
        return
    kind = tokenizer.config.tokenizer
    tokens = {"word": "whole words", "bpe": "pieces of words", "phone": "phones alone"}.get(kind, "without a space")
    raise DecodeError(
        f"{asked}: the search needs a token between words to use this, and the model's tokens are {tokens}. These "
        f"work: a recurrent language model over the same tokens (asr train-lm with text.tokenizer={kind} "
        "data.tokens=MODEL/tokens.txt), any language model that rescores (rescore), and a list of phrases (phrases)"
    )


def _by_sound(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer, PhoneTokenizer) and tokenizer.space_id is not None
