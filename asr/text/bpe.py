"""Tokens that are pieces of words (sentencepiece)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from asr.config.sections import TextConfig
from asr.errors import TextError
from asr.text.normalisation import as_space, normalise
from asr.text.tokenizer import (
    BLANK_SYMBOL,
    Tokenizer,
    described,
)

WORD_START = "\u2581"
"""What sentencepiece puts in front of a piece that begins a word."""


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
            raise TextError(
                "the sentencepiece model: expected one special piece, <unk> of id 0, got others; "
                "train it with asr train"
            )
        pieces = [self._processor.id_to_piece(i) for i in range(1, self._processor.get_piece_size())]
        self.symbols = (BLANK_SYMBOL, *pieces)
        # sentencepiece has a piece for every character it has seen.
        self._characters = {piece for piece in pieces if len(piece) == 1} | {" "}

    @classmethod
    def from_texts(cls, texts: Iterable[str], config: TextConfig) -> BpeTokenizer:
        """Learn ``config.bpe_size`` pieces, or as many as the texts give. Raises ``TextError``."""
        import sentencepiece

        sentences = [text for text in (normalise(t, config) for t in texts) if text]
        if not sentences:
            raise TextError("expected texts to learn pieces of words from, got none with words")
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
