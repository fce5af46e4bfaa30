"""Text: normalisation, what tokenizers have in common, and the character tokenizer (the others:
``asr.text.tokenizer_files``).

Token id 0 is the CTC blank. A text is normalised by the rules of the configuration before it is spelt. A character
outside the alphabet is an error that names the utterance, or becomes a word boundary. Nothing is dropped silently.
"""

from __future__ import annotations

import abc
import operator
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from asr.config.sections import TextConfig
from asr.errors import AsrError, ModelError, TextError
from asr.files import read_limited, split_fields, split_lines
from asr.text.normalisation import as_space, normalise

BLANK_SYMBOL = "<blank>"
"""Symbol of id 0 in ``CharTokenizer.symbols`` and in ``tokens.txt``."""
SPACE_SYMBOL = "<space>"
"""How ``tokens.txt`` writes the space, which would be invisible on a line of its own."""


FIRST_FIELD = re.compile(r"^(?!;;;)[ \t]*([^ \t\n]+)", re.MULTILINE)
LARGEST_LIST = 256_000_000
"""Bytes of a list of tokens or a lexicon; English has 4 million in CMUdict."""


def min_frames(ids: Sequence[int]) -> int:
    """Fewest frames in which CTC can emit ``ids``: one each, and a blank between equal neighbours (Graves 2006)."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def token_ids(ids: Iterable[Any], size: int, *, least: int = 0, error: type[AsrError] = TextError) -> list[int]:
    """``ids`` as whole numbers from ``least`` to ``size - 1``: the one check of token ids that come from outside.

    Integers of numpy and torch are welcome. Raises ``error`` naming the first id that is a float, a truth value or
    anything else that is not an integer, or out of range.
    """
    found = []
    for given in ids:
        try:
            # bool is an int to Python, and numpy's is an index to nobody: a mask in place of ids is a mistake.
            token = -1 if isinstance(given, bool) else operator.index(given)
        except TypeError:
            token = -1
        if not least <= token < size:
            raise error(f"expected whole token ids from {least} to {size - 1}, got {given!r}")
        found.append(token)
    return found


class Tokenizer(abc.ABC):
    """Texts to token ids and back. ``symbols``: the symbol of every id in order, ``"<blank>"`` first."""

    symbols: tuple[str, ...]
    config: TextConfig

    @property
    def vocab_size(self) -> int:
        """Number of symbols, blank included: the ``V`` of the model's output."""
        return len(self.symbols)

    @property
    def space_id(self) -> int | None:
        """Id of the token between words, or None for a tokenizer without one."""
        return None

    @abc.abstractmethod
    def encode(self, text: str, utterance: str = "") -> list[int]:
        """Ids of the normalised ``text``; never contains blank.

        Raises ``TextError`` naming ``utterance`` and what cannot be spelt when ``config.unknown`` is ``error``; with
        ``space`` it becomes a word boundary.
        """

    @abc.abstractmethod
    def unspelt(self, text: str) -> list[str]:
        """What of the normalised ``text`` the tokens cannot spell, each once: characters, or words where tokens are
        words or phones."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``, blanks left out. Repeats stay: collapsing CTC paths is the decoders' work.

        Raises ``TextError`` for an id outside ``0 .. vocab_size - 1``.
        """
        return self.join([self.symbols[i] for i in token_ids(ids, self.vocab_size) if i > 0])

    @abc.abstractmethod
    def join(self, symbols: Sequence[str]) -> str:
        """The text that the symbols spell."""

    @abc.abstractmethod
    def words(self, ids: Sequence[int]) -> list[list[int]]:
        """Positions in ``ids`` of the tokens of each word; tokens between words belong to none."""

    def spellings(self, word: str) -> list[list[int]]:
        """All ways to say a word, the usual one first. Raises ``TextError`` as ``encode``."""
        return [self.encode(word)]

    def heard(self, ids: Sequence[int]) -> list[str]:
        """The words that sound as ``ids`` do, the tokens of one word, the usual one first."""
        return [self.decode(ids)]

    def symbol(self, token: int) -> str:
        """How one token is written by itself."""
        return self.decode([token])

    def reference(self, text: str) -> str:
        """What a recogniser without a fault would print of a transcript: what hypotheses are scored against."""
        return normalise(text, self.config)

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """What a model directory holds of the tokenizer, by file name; ``asr.text.tokenizer_files.load_tokenizer``
        reads it."""

    def symbol_list(self) -> bytes:
        """``tokens.txt``: UTF-8, one symbol a line, line number = id from 0, the space as ``<space>``."""
        lines = [SPACE_SYMBOL if symbol == " " else symbol for symbol in self.symbols]
        return ("\n".join(lines) + "\n").encode()


def between(ids: Sequence[int], space: int | None) -> list[list[int]]:
    """Positions of the tokens between ``space`` tokens, where there are any."""
    found: list[list[int]] = [[]]
    for position, token in enumerate(ids):
        if token == space:
            found.append([])
        else:
            found[-1].append(position)
    return [positions for positions in found if positions]


def described(utterance: str, text: str) -> str:
    """An utterance for a message: its id, or the beginning of its text."""
    return f"utterance {utterance}" if utterance else f"text {text[:60]!r}"


def lexicon_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines of a lexicon in CMUdict's format with their numbers from 1, comments (``;;;``) and blank ones left out.

    UTF-8, or Latin-1 as CMUdict itself is. Raises ``OSError``.
    """
    lines = enumerate(split_lines(_lexicon_text(path)), start=1)
    return [(n, line) for n, line in lines if split_fields(line) and not line.startswith(";;;")]


def lexicon_words(path: str | Path) -> list[str]:
    """The first field of each of ``lexicon_lines``, of large lexicons in a tenth of the time. Raises ``OSError``."""
    return FIRST_FIELD.findall(_lexicon_text(path).replace("\r\n", "\n").removesuffix("\r"))


def _lexicon_text(path: str | Path) -> str:
    data = read_limited(path, LARGEST_LIST)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_symbols(path: str | Path) -> list[str]:
    """The symbols of a ``tokens.txt``. Raises ``ModelError``."""
    try:
        lines = split_lines(read_limited(path, LARGEST_LIST).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot read the symbol list: {error}") from error
    if len(lines) > 1 and not lines[-1]:  # behind the last line's end
        del lines[-1]
    return [" " if line == SPACE_SYMBOL else line for line in lines]


class CharTokenizer(Tokenizer):
    """Characters (single code points) to ids and back.

    ``symbols``: the symbol of every id in order, ``"<blank>"`` first, the space as ``" "``.
    Raises ``TextError`` for symbols that are no alphabet: no blank in front, duplicates, more than one character,
    whitespace other than the space, or no space although ``config.unknown`` is ``space``.
    """

    def __init__(self, symbols: Sequence[str], config: TextConfig) -> None:
        fault = _fault(symbols, config)
        if fault:
            raise TextError(f"symbol {fault[0]}: {fault[1]}")
        self.symbols = tuple(symbols)
        self.config = config
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols) if i > 0}

    @property
    def space_id(self) -> int | None:
        return self._ids.get(" ")

    def unspelt(self, text: str) -> list[str]:
        return [c for c in dict.fromkeys(normalise(text, self.config)) if c not in self._ids and c != " "]

    def encode(self, text: str, utterance: str = "") -> list[int]:
        text = normalise(text, self.config)
        unknown = set(text).difference(self._ids)
        if unknown and self.config.unknown == "error":
            raise TextError(self._unknown(text, unknown, utterance))
        return [self._ids[c] for c in as_space(text, unknown)]

    def join(self, symbols: Sequence[str]) -> str:
        return "".join(symbols)

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        return between(ids, self.space_id)

    def files(self) -> dict[str, bytes]:
        return {"tokens.txt": self.symbol_list()}

    @classmethod
    def from_texts(cls, texts: Iterable[str], config: TextConfig) -> CharTokenizer:
        """The alphabet ``config.alphabet``, or when that is empty the characters of ``texts``; both normalised.

        Sorted by code point, so that the ids depend on the set of characters only. The space is always there.
        Raises ``TextError`` when no character besides the space is found.
        """
        found: set[str] = {" "}
        for text in [config.alphabet] if config.alphabet else texts:
            found.update(normalise(text, config))
        if len(found) == 1:
            raise TextError("expected texts to take the alphabet from, got none with words; set text.alphabet")
        return cls([BLANK_SYMBOL, *sorted(found)], config)

    @classmethod
    def load(cls, path: str | Path, config: TextConfig) -> CharTokenizer:
        """Read a ``tokens.txt``. Raises ``ModelError`` naming file and line."""
        symbols = read_symbols(path)
        fault = _fault(symbols, config)
        if fault:
            raise ModelError(f"{path}:{fault[0] + 1}: {fault[1]}")
        return cls(symbols, config)

    def _unknown(self, text: str, unknown: set[str], utterance: str) -> str:
        first = next(c for c in text if c in unknown)
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        where = described(utterance, text)
        return (
            f"{where}: {_name(first)}{more} is not in the alphabet {''.join(self.symbols[1:])[:80]!r}; "
            "map it with text.replace, add it to text.alphabet, or set text.unknown=space"
        )


def _fault(symbols: Sequence[str], config: TextConfig) -> tuple[int, str] | None:
    """Position and description of the first thing that makes ``symbols`` unusable, or None."""
    if not symbols or symbols[0] != BLANK_SYMBOL:
        return (
            0,
            f"expected {BLANK_SYMBOL} first, got {symbols[0]!r}"
            if symbols
            else f"expected {BLANK_SYMBOL} first, got nothing",
        )
    seen: set[str] = set()
    for i, symbol in enumerate(symbols[1:], start=1):
        if len(symbol) != 1:
            return i, f"expected one character, got {symbol!r}"
        if symbol.isspace() and symbol != " ":
            return i, f"{_name(symbol)} cannot be a symbol: normalisation turns it into a space"
        if unicodedata.category(symbol) == "Cs":
            return i, f"{_name(symbol)} is half of a surrogate pair, not a character; was the text cut or mis-decoded?"
        if symbol in seen:
            return i, f"{_name(symbol)} occurs twice"
        seen.add(symbol)
    if len(symbols) == 1:
        return 0, "expected characters after the blank, got none"
    if config.unknown == "space" and " " not in seen:
        return 0, "text.unknown=space needs a space among the symbols, and there is none"
    return None


def _name(char: str) -> str:
    """``'É' (U+00C9 LATIN CAPITAL LETTER E WITH ACUTE)``; invisible characters are escaped."""
    return f"{char!r} (U+{ord(char):04X} {unicodedata.name(char, 'unnamed')})"
