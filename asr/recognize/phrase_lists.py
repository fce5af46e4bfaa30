"""A search that is limited to the words of some phrases, in any order.

Pairs of words that stand in the phrases are likelier than others (``asr.decode.phrase_bigram``). Unlike
``Decoding.phrases``, the list is no choice between whole answers: any part of a phrase may be said, and one may follow
another. Texts grow while words arrive.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from asr.decode.phrase_bigram import bigram_of_phrases
from asr.errors import DecodeError, TextError
from asr.recognize.decoder import Decoder
from asr.recognize.options import DEFAULT_BEAM, Decoding
from asr.recognize.vocabulary import Vocabulary
from asr.text.normalisation import normalise
from asr.text.tokenizer import Tokenizer
from asr.text.user_words import PUNCTUATION, whole_reading

OTHER_WORD = "[unk]"
"""Stands in a list for words that are not in it, and in texts for such a word."""
OTHER_PENALTY = -6.0
"""Added for such a word (natural logarithm), where the model directory has no penalty of its own."""


@dataclass(frozen=True)
class ListVocabulary(Vocabulary):
    """The words of a list. Texts have its spelling, by ``spelling``; a word outside it is ``OTHER_WORD``."""

    spelling: Mapping[str, str] = field(default_factory=dict)

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """As ``Vocabulary.texts``."""
        return [self.spelling.get(word, OTHER_WORD) for word in super().texts(tokens)]

    def partial(self, tokens: Sequence[int], stable: int) -> tuple[str, int]:
        """As ``Vocabulary.partial``. Of the text only whole words are stable, and the last word may be shown as far as
        it has been spelt."""
        text, settled = Vocabulary.partial(self, tokens, stable)
        ended = len(text[:settled].rpartition(" ")[0].split())
        words = [self.spelling.get(word, word) for word in text.split()]
        words[:-1] = [word if word in self._written else OTHER_WORD for word in words[:-1]]
        return " ".join(words), len(" ".join(words[:ended]))

    @property
    def _written(self) -> set[str]:
        return set(self.spelling.values())


class PhraseListDecoder(Decoder):
    """The decoder of a model for one list of phrases; ``options`` are the model's own.

    ``[unk]`` in a phrase, or as one, allows other words. Each is written as ``[unk]`` in texts.

    Raises ``DecodeError`` naming a phrase that the model cannot spell, or for a model whose tokens have no space.
    """

    def __init__(self, options: Decoding, tokenizer: Tokenizer, phrases: Sequence[str]) -> None:
        self.spelling: dict[str, str] = {}
        sentences = [self._words(phrase, tokenizer, options.language) for phrase in phrases]
        opened = any("<unk>" in words for words in sentences)
        penalty = options.unknown_penalty if options.unknown_penalty > -math.inf else OTHER_PENALTY
        own = Decoding(
            beam=max(options.beam, DEFAULT_BEAM),
            lm=bigram_of_phrases(sentences),
            lm_weight=1.0,
            unknown_penalty=penalty if opened else -math.inf,
            token_threshold=options.token_threshold,
            beam_threshold=options.beam_threshold,
            blank_threshold=options.blank_threshold,
            language=options.language,
        )
        super().__init__(own, tokenizer)

    def _words(self, phrase: str, tokenizer: Tokenizer, language: str) -> list[str]:
        """The words of a phrase as the model spells them; ``spelling`` learns how the phrase writes them."""
        words: list[str] = []
        for other, part in itertools.groupby(phrase.split(), OTHER_WORD.__eq__):
            if other:
                words += ["<unk>" for _ in part]
                continue
            try:
                read = whole_reading(" ".join(part), tokenizer, language, f"phrase {phrase[:60]!r}")
            except TextError as error:
                raise DecodeError(str(error)) from error
            for said in read.words:
                for word in said.words:
                    written = said.written.strip("".join(PUNCTUATION))
                    if normalise(written, tokenizer.config) != word:  # 42 is said as two words
                        written = word.lower() if phrase == phrase.lower() else word
                    self.spelling.setdefault(word, written)
                    words.append(word)
        return words

    def vocabulary_with(self, hotwords: Mapping[str, float]) -> Vocabulary:
        """As ``Decoder.vocabulary_with``; hot words must be made of the list's words, else ``DecodeError``."""
        made = super().vocabulary_with(hotwords)
        for word in {word for phrase in made.boosts for word in phrase.split()} - self.spelling.keys():
            raise DecodeError(f"hot word {word!r}: expected a word of the list of phrases; add it to the list")
        fields = {one.name: getattr(made, one.name) for one in dataclasses.fields(made)}
        return ListVocabulary(**fields, spelling=self.spelling)


def phrase_list_decoder(decoder: Decoder, phrases: Sequence[str]) -> PhraseListDecoder:
    """The decoder of the same model for a list of phrases. Raises ``DecodeError`` as ``PhraseListDecoder``."""
    if isinstance(phrases, str) or not all(isinstance(phrase, str) for phrase in phrases):
        raise DecodeError(f"phrases: expected a list of texts, got {phrases!r}"[:200])
    return PhraseListDecoder(decoder.options, decoder.tokenizer, phrases)
