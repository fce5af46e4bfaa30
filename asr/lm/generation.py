"""Draws text from a recurrent language model."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from asr.errors import ConfigError, ModelError
from asr.lm.lm_directory import LanguageDirectory
from asr.lm.recurrent import SENTENCE_BOUNDARY, RecurrentLM
from asr.text.phones import PhoneTokenizer
from asr.text.tokenizer import Tokenizer


def generate(
    directory: LanguageDirectory, prompt: str = "", *, temperature: float = 1.0, length: int = 200, seed: int = 1
) -> Iterator[str]:
    """Pieces of the text that continues ``prompt``, until it ends or ``length`` tokens have been drawn.

    A piece is what a token adds to the text, of phones what a word does; behind the prompt, joined, they are the text.

    ``temperature`` divides the log-probabilities; 0 always takes the likeliest symbol. Raises ``ConfigError`` for a
    temperature or length below 0, ``TextError`` for a prompt that cannot be spelt, ``ModelError`` for damaged weights.
    """
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature: expected 0 or more, got {temperature}")
    if length < 0:
        raise ConfigError(f"length: expected 0 or more, got {length}")
    ids = directory.tokenizer.encode(prompt)
    # Encoding takes the space off the end, which a prompt may well end in: the next word begins behind it. Phones are
    # whole words in a prompt.
    between = prompt.endswith(" ") or isinstance(directory.tokenizer, PhoneTokenizer)
    if between and ids and directory.tokenizer.space_id is not None:
        ids.append(directory.tokenizer.space_id)
    tokens = _draw(directory.model, ids, temperature, length, np.random.default_rng(seed))
    return _pieces(directory.tokenizer, ids, tokens, behind_space=not prompt or prompt[-1].isspace())


def _pieces(tokenizer: Tokenizer, ids: list[int], tokens: Iterator[int], *, behind_space: bool) -> Iterator[str]:
    """What the text of ``ids`` grows by as ``tokens`` join them."""
    # The phones of a word are a word only when it has ended.
    by_sound = isinstance(tokenizer, PhoneTokenizer) and tokenizer.space_id is not None
    text = tokenizer.decode(ids)
    ended = True
    for token in tokens:
        ids.append(token)
        ended = not by_sound or token == tokenizer.space_id
        if ended:
            before, text = text, tokenizer.decode(ids)
            piece = text[len(before) :]
            yield piece.removeprefix(" ") if behind_space else piece
            behind_space = False
    if not ended:
        piece = tokenizer.decode(ids)[len(text) :]
        yield piece.removeprefix(" ") if behind_space else piece


def _draw(
    model: RecurrentLM, ids: list[int], temperature: float, length: int, rng: np.random.Generator
) -> Iterator[int]:
    """Tokens behind ``ids``."""
    state = model.start(1)
    for token in [SENTENCE_BOUNDARY, *ids]:
        log_probs, state = model.advance(state, np.array([token]))
    for _ in range(length):
        row = log_probs[0].astype(np.float64)
        if not np.isfinite(row).all():
            raise ModelError(
                "the language model gives no valid probabilities; its weights are damaged: copy or train it again"
            )
        if temperature:
            weights = np.exp((row - row.max()) / temperature)
            token = int(rng.choice(len(row), p=weights / weights.sum()))
        else:
            token = int(row.argmax())
        if token == SENTENCE_BOUNDARY:
            return
        yield token
        log_probs, state = model.advance(state, np.array([token]))
