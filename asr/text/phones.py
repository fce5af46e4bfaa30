"""Tokens that are phones, with a lexicon of pronunciations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from asr.config.sections import TextConfig
from asr.errors import ConfigError, TextError
from asr.files import split_fields
from asr.text.normalisation import VARIANT, normalise
from asr.text.tokenizer import (
    BLANK_SYMBOL,
    between,
    described,
    lexicon_lines,
    token_ids,
)
from asr.text.word_tokens import WordTokenizer

WORD_BOUNDARY = " "
"""The token between words of ``phone``."""
MAX_SPELLINGS = 64
"""Ways to say a phrase, of which a long one with many variants has too many."""
CMUDICT = "cmudict"
"""Name of the lexicon that the pocketsphinx package brings."""


class PhoneTokenizer(WordTokenizer):
    """Phones of the words of a text by a lexicon, the first of several pronunciations. Stress (``AH0``) is left out.

    Decoded text is phones, so that its WER is the phone error rate. With ``config.word_boundary`` there is a token
    between words as well, and decoded text is words: those that the lexicon has for the phones between two boundaries,
    or the phones, joined by hyphens, where it has none.

    ``lexicon``: pronunciations of each word, which is written as in ``config.case``; the usual one first.
    """

    def __init__(self, symbols: Sequence[str], lexicon: dict[str, list[tuple[str, ...]]], config: TextConfig) -> None:
        super().__init__([symbol for symbol in symbols if symbol != WORD_BOUNDARY], config)
        if config.word_boundary != (WORD_BOUNDARY in symbols) or WORD_BOUNDARY in symbols[:-1]:
            wanted = "the last symbol to be the word boundary" if config.word_boundary else "no word boundary"
            raise TextError(f"expected {wanted}, as text.word_boundary says, got {' '.join(map(repr, symbols))}")
        self.symbols = tuple(symbols)
        self.lexicon = lexicon
        self._g2p: Any = None

    @classmethod
    def from_lexicon(cls, path: str | Path, config: TextConfig) -> PhoneTokenizer:
        """All phones of a lexicon. Raises ``TextError``."""
        lexicon = read_pronunciations(path, config)
        phones = sorted({phone for spelt in lexicon.values() for phones in spelt for phone in phones})
        return cls([BLANK_SYMBOL, *phones, *[WORD_BOUNDARY] * config.word_boundary], lexicon, config)

    @property
    def space_id(self) -> int | None:
        return self.vocab_size - 1 if self.config.word_boundary else None

    def unspelt(self, text: str) -> list[str]:
        return [word for word in dict.fromkeys(normalise(text, self.config).split()) if not self._pronounced(word)]

    def encode(self, text: str, utterance: str = "") -> list[int]:
        ids: list[int] = []
        for word in normalise(text, self.config).split():
            spelt = self._pronounced(word)
            if not spelt and self.config.unknown == "error":
                raise TextError(
                    f"{described(utterance, text)}: the lexicon has no {word!r}; add it, or set text.g2p=true "
                    "to let a model guess, or text.unknown=space to leave such words out"
                )
            if spelt:
                ids += [self.vocab_size - 1] * (self.config.word_boundary and bool(ids))
                ids += self._numbered(spelt[0], described(utterance, text))
        return ids

    def spellings(self, word: str) -> list[list[int]]:
        spelt = [self._pronounced(part) for part in normalise(word, self.config).split()]
        if not spelt or not all(spelt):
            return [self.encode(word)]
        boundary = [self.vocab_size - 1] * self.config.word_boundary
        return [
            [
                token
                for at, phones in enumerate(way)
                for token in boundary * (at > 0) + self._numbered(phones, repr(word))
            ]
            for way in itertools.islice(itertools.product(*spelt), MAX_SPELLINGS)
        ]

    def _pronounced(self, word: str) -> list[tuple[str, ...]]:
        """What the lexicon, or else the model of pronunciation, knows of a normalised word; nothing is possible."""
        spelt = self.lexicon.get(word)
        if spelt is None and self.config.g2p:
            if self._g2p is None:
                self._g2p = letter_to_sound()
            phones = tuple(phone for phone in self._g2p(word.lower()) if phone in self._ids)
            spelt = self.lexicon[word] = [phones] if phones else []
            self.__dict__.pop("_by_sound", None)
        return spelt or []

    def _numbered(self, phones: Sequence[str], where: str) -> list[int]:
        try:
            return [self._ids[phone] for phone in phones]
        except KeyError as error:
            raise TextError(f"{where}: {error} is not one of the model's phones") from error

    @cached_property
    def _by_sound(self) -> dict[tuple[str, ...], list[str]]:
        """Words by pronunciation, those that are usually said so first."""
        found: dict[tuple[str, ...], list[str]] = {}
        for rank in range(max((len(spelt) for spelt in self.lexicon.values()), default=0)):
            for word, spelt in self.lexicon.items():
                if rank < len(spelt) and word not in found.setdefault(spelt[rank], []):
                    found[spelt[rank]].append(word)
        return found

    def heard(self, ids: Sequence[int]) -> list[str]:
        if not self.config.word_boundary:
            return super().heard(ids)
        phones = tuple(self.symbols[token] for token in ids)
        return self._by_sound.get(phones) or ["-".join(phones)]

    def symbol(self, token: int) -> str:
        return self.symbols[token_ids([token], self.vocab_size)[0]]

    def join(self, symbols: Sequence[str]) -> str:
        if not self.config.word_boundary:
            return super().join(symbols)
        ids = [self.vocab_size - 1 if symbol == WORD_BOUNDARY else self._ids[symbol] for symbol in symbols]
        return " ".join(self.heard([ids[p] for p in positions])[0] for positions in self.words(ids))

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        return between(ids, self.space_id) if self.config.word_boundary else super().words(ids)

    def reference(self, text: str) -> str:
        return normalise(text, self.config) if self.config.word_boundary else self.decode(self.encode(text))

    def files(self) -> dict[str, bytes]:
        lines = [
            f"{word}{f'({number})' if number > 1 else ''}  {' '.join(phones)}\n"
            for word, spelt in self.lexicon.items()  # in order: of words that sound alike the first is read
            for number, phones in enumerate(spelt, start=1)
        ]
        return {"tokens.txt": self.symbol_list(), "lexicon.txt": "".join(lines).encode()}


def read_pronunciations(path: str | Path, config: TextConfig) -> dict[str, list[tuple[str, ...]]]:
    """A lexicon in CMUdict's format: ``WORD  P1 P2 …``, ``;;;`` before comments, further variants as ``WORD(2)``.

    ``path``: a file, or ``cmudict`` for the one that the pocketsphinx package brings. Words get the case rule of
    ``config``, phones lose their stress marks. Raises ``TextError`` naming file and line.
    """
    lexicon: dict[str, list[tuple[str, ...]]] = {}
    if str(path) == CMUDICT:
        path = cmudict()
    try:
        lines = lexicon_lines(path)
    except OSError as error:
        raise TextError(f"text.lexicon: {path}: cannot read: {error}") from error
    for number, line in lines:
        word, *phones = split_fields(line if line.startswith("#") else line.split("#")[0])
        if not phones:
            raise TextError(f"{path}:{number}: expected 'WORD  PHONES', got {line.strip()!r}")
        spelt = lexicon.setdefault(normalise(VARIANT.sub("", word), config), [])
        variant = tuple(phone.rstrip("012") or phone for phone in phones)
        if variant not in spelt:
            spelt.append(variant)
    if not lexicon:
        raise TextError(f"{path}: expected lines of 'WORD  PHONES', got none")
    return lexicon


def cmudict() -> str:
    """Where the pocketsphinx package keeps CMUdict. Raises ``ConfigError`` where the package is missing."""
    try:
        import pocketsphinx
    except ImportError as error:
        raise ConfigError(
            f"text.lexicon={CMUDICT} needs the pocketsphinx package, which brings CMUdict: pip install pocketsphinx; "
            "or name a file"
        ) from error
    path: str = pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")
    return path


def letter_to_sound() -> Any:
    """``spell(word)``: phones (CMUdict's, without stress) of an English word in lower case, by ``g2p-en``'s network.

    Raises ``ConfigError`` where the package is missing.
    """
    try:
        import nltk

        # Imported, g2p-en looks for dictionaries on the network; its network for single words needs none of them.
        download, nltk.download = nltk.download, lambda *args, **kwargs: False
        try:
            from g2p_en import G2p
        finally:
            nltk.download = download
    except ImportError as error:
        raise ConfigError("text.g2p needs the g2p-en package: pip install g2p-en") from error

    class Network(G2p):  # type: ignore[misc]
        def __init__(self) -> None:
            self.graphemes = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
            self.g2idx = {letter: index for index, letter in enumerate(self.graphemes)}
            vowels = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
            plain = "B CH D DH F G HH JH K L M N NG P R S SH T TH UW V W Y Z ZH"
            phones = sorted([v + stress for v in vowels.split() for stress in "012"] + plain.split())
            self.idx2p = dict(enumerate(["<pad>", "<unk>", "<s>", "</s>", *phones]))
            self.load_variables()

    network = Network()
    return lambda word: [phone.rstrip("012") for phone in network.predict(word) if phone[0].isalpha()]
