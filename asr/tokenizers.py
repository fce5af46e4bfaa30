"""Tokenizers other than characters: pieces of words, words, and phones; and how one is made and loaded.

``text.tokenizer`` chooses: ``char`` (``asr.text``), ``bpe`` (Sennrich et al. 2016, through sentencepiece), ``word``
(a token is what stands between spaces: small vocabularies, and transcripts that are phones already) and ``phone`` (a
lexicon in CMUdict's format; what it lacks is spelt by the ``g2p-en`` package where ``text.g2p`` allows it), which with
a token between words reads its phones back as words. Id 0 is the CTC blank in all.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from asr.config import TextConfig
from asr.errors import ConfigError, ModelError, TextError
from asr.files import atomic, read_limited
from asr.lines import split_fields
from asr.text import (
    BLANK,
    LARGEST_LIST,
    VARIANT,
    CharTokenizer,
    Tokenizer,
    as_space,
    between,
    described,
    lexicon_lines,
    normalise,
    read_symbols,
    token_ids,
)

FILES = ("tokens.txt", "tokens.model", "lexicon.txt")
"""What a directory may hold of a tokenizer (``Tokenizer.files``)."""
WORD_START = "\u2581"
"""What sentencepiece puts in front of a piece that begins a word."""
BOUNDARY = " "
"""The token between words of ``phone``."""
MAX_SPELLINGS = 64
"""Ways to say a phrase, of which a long one with many variants has too many."""
CMUDICT = "cmudict"
"""Name of the lexicon that the pocketsphinx package brings."""


class BpeTokenizer(Tokenizer):
    """Pieces of words, from a sentencepiece model (``tokens.model``).

    Raises ``TextError`` for bytes that are no such model, or one whose id 0 is not the unknown piece.
    """

    def __init__(self, model: bytes, config: TextConfig) -> None:
        import sentencepiece

        self.config = config
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise TextError(f"not a sentencepiece model: {error}") from error
        if self._processor.unk_id() != 0 or self._processor.bos_id() >= 0 or self._processor.eos_id() >= 0:
            raise TextError("the sentencepiece model has other special pieces than one for the unknown, of id 0")
        pieces = [self._processor.id_to_piece(i) for i in range(1, self._processor.get_piece_size())]
        self.symbols = (BLANK, *pieces)
        # sentencepiece has a piece for every character it has seen.
        self._characters = {piece for piece in pieces if len(piece) == 1} | {" "}

    @classmethod
    def from_texts(cls, texts: Iterable[str], config: TextConfig) -> BpeTokenizer:
        """Learn ``config.bpe_size`` pieces, or as many as the texts give. Raises ``TextError``."""
        import sentencepiece

        sentences = [text for text in (normalise(t, config) for t in texts) if text]
        if not sentences:
            raise TextError("expected texts to learn pieces of words from, got none that is not empty")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type="bpe",
                vocab_size=config.bpe_size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="identity",
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                max_sentence_length=1 << 20,
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise TextError(
                f"text.bpe_size={config.bpe_size}: sentencepiece cannot learn the pieces: {error}"
            ) from error
        return cls(model.getvalue(), config)

    def unspelt(self, text: str) -> list[str]:
        return [c for c in dict.fromkeys(normalise(text, self.config)) if c not in self._characters]

    def encode(self, text: str, utterance: str = "") -> list[int]:
        text = normalise(text, self.config)
        unknown = set(text) - self._characters
        if unknown and self.config.unknown == "error":
            raise TextError(
                f"{described(utterance, text)}: {min(unknown)!r} is in none of the model's pieces; "
                "map it with text.replace, or set text.unknown=space"
            )
        return list(self._processor.encode(as_space(text, unknown)))

    def join(self, symbols: Sequence[str]) -> str:
        return "".join(symbols).replace(WORD_START, " ").removeprefix(" ")

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        found: list[list[int]] = []
        for position, token in enumerate(ids):
            symbol = self.symbols[token]
            if symbol.startswith(WORD_START) or not found:
                found.append([])
            if symbol != WORD_START:
                found[-1].append(position)
        return [positions for positions in found if positions]

    def files(self) -> dict[str, bytes]:
        return {"tokens.txt": self.symbol_list(), "tokens.model": self.model}


class WordTokenizer(Tokenizer):
    """A token for each word, or whatever else stands between spaces. Raises ``TextError`` for unusable symbols."""

    def __init__(self, symbols: Sequence[str], config: TextConfig) -> None:
        if not symbols or symbols[0] != BLANK:
            raise TextError(f"symbol 0: expected {BLANK} first, got {symbols[0] if symbols else 'nothing'!r}")
        for index, symbol in enumerate(symbols):
            if not symbol or symbol.split() != [symbol]:
                raise TextError(f"symbol {index}: expected something without spaces, got {symbol!r}")
        if len(set(symbols)) < len(symbols):
            twice = next(symbol for index, symbol in enumerate(symbols) if symbol in symbols[:index])
            raise TextError(f"symbol {twice!r} is there twice")
        if len(symbols) == 1:
            raise TextError("expected symbols after the blank, got none")
        self.symbols = tuple(symbols)
        self.config = config
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols) if i > 0}

    @classmethod
    def from_texts(cls, texts: Iterable[str], config: TextConfig) -> WordTokenizer:
        """The words of ``texts``, sorted. Raises ``TextError`` where there are none."""
        found = {word for text in texts for word in normalise(text, config).split()}
        if not found:
            raise TextError("expected texts to take the words from, got none that is not empty")
        return cls([BLANK, *sorted(found)], config)

    def unspelt(self, text: str) -> list[str]:
        return [word for word in dict.fromkeys(normalise(text, self.config).split()) if word not in self._ids]

    def encode(self, text: str, utterance: str = "") -> list[int]:
        words = normalise(text, self.config).split()
        unknown = [word for word in words if word not in self._ids]
        if unknown and self.config.unknown == "error":
            raise TextError(
                f"{described(utterance, text)}: {unknown[0]!r} is not one of the {self.vocab_size - 1} words of the "
                "vocabulary; map it with text.replace, or set text.unknown=space to leave such words out"
            )
        return [self._ids[word] for word in words if word in self._ids]

    def join(self, symbols: Sequence[str]) -> str:
        return " ".join(symbols)

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        return [[position] for position in range(len(ids))]

    def files(self) -> dict[str, bytes]:
        return {"tokens.txt": self.symbol_list()}


class PhoneTokenizer(WordTokenizer):
    """Phones of the words of a text by a lexicon, the first of several pronunciations. Stress (``AH0``) is left out.

    Decoded text is phones, so that its WER is the phone error rate. With ``config.word_boundary`` there is a token
    between words as well, and decoded text is words: those that the lexicon has for the phones between two boundaries,
    or the phones, joined by hyphens, where it has none.

    ``lexicon``: pronunciations of each word, which is written as in ``config.case``; the usual one first.
    """

    def __init__(self, symbols: Sequence[str], lexicon: dict[str, list[tuple[str, ...]]], config: TextConfig) -> None:
        super().__init__([symbol for symbol in symbols if symbol != BOUNDARY], config)
        if config.word_boundary != (BOUNDARY in symbols) or BOUNDARY in symbols[:-1]:
            wanted = "the last symbol to be the word boundary" if config.word_boundary else "no word boundary"
            raise TextError(f"expected {wanted}, as text.word_boundary says, got {' '.join(map(repr, symbols))}")
        self.symbols = tuple(symbols)
        self.lexicon = lexicon
        self._g2p: Any = None

    @classmethod
    def from_lexicon(cls, path: str | Path, config: TextConfig) -> PhoneTokenizer:
        """All phones of a lexicon. Raises ``TextError``."""
        lexicon = read_lexicon(path, config)
        phones = sorted({phone for spelt in lexicon.values() for phones in spelt for phone in phones})
        return cls([BLANK, *phones, *[BOUNDARY] * config.word_boundary], lexicon, config)

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
                    f"{described(utterance, text)}: the lexicon has no {word!r}; add it, or set text.g2p=true to have "
                    "a model guess, or text.unknown=space to leave such words out"
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
        ids = [self.vocab_size - 1 if symbol == BOUNDARY else self._ids[symbol] for symbol in symbols]
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


def read_lexicon(path: str | Path, config: TextConfig) -> dict[str, list[tuple[str, ...]]]:
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


def from_texts(texts: Iterable[str], config: TextConfig) -> Tokenizer:
    """The tokenizer that ``config`` asks for, made of the training transcripts. Raises ``TextError``."""
    if config.tokenizer == "phone":
        return PhoneTokenizer.from_lexicon(config.lexicon, config)
    kind: Any = {"char": CharTokenizer, "bpe": BpeTokenizer, "word": WordTokenizer}[config.tokenizer]
    made: Tokenizer = kind.from_texts(texts, config)
    return made


def save(folder: Path, tokenizer: Tokenizer) -> None:
    """Write what a model directory holds of a tokenizer, file by file or not at all. Raises ``OSError``."""
    for name, content in tokenizer.files().items():
        with atomic(folder / name) as path:
            path.write_bytes(content)


def load(path: str | Path, config: TextConfig) -> Tokenizer:
    """The tokenizer whose ``tokens.txt`` is at ``path``, its other files beside it. Raises ``ModelError``."""
    path = Path(path)
    if config.tokenizer == "char":
        return CharTokenizer.load(path, config)
    try:
        symbols = read_symbols(path)
        if config.tokenizer == "word":
            return WordTokenizer(symbols, config)
        if config.tokenizer == "phone":
            return PhoneTokenizer(symbols, read_lexicon(path.with_name("lexicon.txt"), config), config)
        made = BpeTokenizer(read_limited(path.with_name("tokens.model"), LARGEST_LIST), config)
    except (TextError, OSError) as error:
        raise ModelError(f"{path}: {error}") from error
    if list(made.symbols) != symbols:
        raise ModelError(f"{path}: its symbols are not those of {path.with_name('tokens.model')}")
    return made
