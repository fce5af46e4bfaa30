"""Tokens that are words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asr.config.sections import TextConfig
from asr.errors import TextError
from asr.text.normalisation import normalise
from asr.text.tokenizer import (
    BLANK_SYMBOL,
    Tokenizer,
    described,
)


class WordTokenizer(Tokenizer):
    """A token for each word: any text between spaces. Raises ``TextError`` for unusable symbols."""

    def __init__(self, symbols: Sequence[str], config: TextConfig) -> None:
        if not symbols or symbols[0] != BLANK_SYMBOL:
            raise TextError(f"symbol 0: expected {BLANK_SYMBOL} first, got {symbols[0] if symbols else 'nothing'!r}")
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
            raise TextError("expected texts to take the words from, got none with words")
        return cls([BLANK_SYMBOL, *sorted(found)], config)

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
