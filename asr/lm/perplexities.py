"""Perplexity: how well a language model predicts a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from asr.decode.fusion import score_sequences
from asr.decode.kenlm_binary import KenlmNgram
from asr.decode.ngram import Ngram
from asr.errors import ConfigError
from asr.files import split_fields
from asr.lm.lm_directory import LanguageDirectory
from asr.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from asr.lm.recurrent import LanguageNetwork

SENTENCES = 64
"""Sentences whose perplexity is measured side by side."""


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood per token, word and character; ends of sentences are predicted and
    counted as a token and as a word, not as a character. A word n-gram's tokens are words. ``as_unk`` unknown words
    were scored as ``<unk>``; ``unknown`` ones were left out, since the model has no ``<unk>``."""

    token: float
    word: float
    char: float
    unknown: int = 0
    as_unk: int = 0


def perplexity(
    model: LanguageDirectory | Ngram | KenlmNgram, texts: Sequence[str], *, adapt: float = 0.0
) -> Perplexity:
    """Perplexity of sentences, each by itself.

    With ``adapt``, a rate such as 0.1, a recurrent model learns from each sentence behind it (dynamic evaluation, see
    ``asr.lm.recurrent.Adapter``). Raises ``TextError`` for a sentence that the model's tokens cannot spell and
    ``ConfigError`` for a model that cannot adapt.
    """
    if isinstance(model, LanguageDirectory):
        if adapt:
            return _dynamic_perplexity(model, texts, adapt)
        return network_perplexity(model.network, model.tokenizer, texts)
    if adapt:
        raise ConfigError(
            "adapt: expected a recurrent language model, got an n-gram, which cannot adapt; leave adapt out"
        )
    return _ngram_perplexity(model, texts)


def _ngram_perplexity(model: Ngram | KenlmNgram, texts: Sequence[str]) -> Perplexity:
    total, counted, characters, left_out, as_unk = 0.0, 0, 0, 0, 0
    for text in texts:
        words = split_fields(text)
        scores = model.word_scores(words)
        known = [score for score in scores if score is not None]
        kept = [word for word, score in zip(words, scores, strict=False) if score is not None]
        total -= sum(known)
        counted += len(known)
        characters += len(" ".join(kept))
        left_out += len(words) - len(kept)
        as_unk += sum(not model.knows(word) for word in kept)
    per_word = _exp_mean(total, counted)
    return Perplexity(per_word, per_word, _exp_mean(total, characters), left_out, as_unk)


def network_perplexity(network: LanguageNetwork, tokenizer: Tokenizer, texts: Sequence[str]) -> Perplexity:
    """``perplexity`` of a network, which is left in evaluation mode."""
    from asr.lm.recurrent import RecurrentLM  # here, because n-grams need no torch

    model = RecurrentLM(network)
    total, tokens = 0.0, 0
    for at in range(0, len(texts), SENTENCES):
        encoded = [tokenizer.encode(text) for text in texts[at : at + SENTENCES]]
        total -= float(score_sequences(model, encoded).sum())
        tokens += sum(len(ids) + 1 for ids in encoded)
    return _figures(total, tokens, texts)


def _figures(total: float, tokens: int, texts: Sequence[str]) -> Perplexity:
    """Perplexities of ``texts``, whose ``tokens``, ends included, have a negative log-likelihood of ``total``."""
    words = sum(len(text.split()) + 1 for text in texts)
    characters = sum(len(text) for text in texts)
    return Perplexity(_exp_mean(total, tokens), _exp_mean(total, words), _exp_mean(total, characters))


def _dynamic_perplexity(model: LanguageDirectory, texts: Sequence[str], rate: float) -> Perplexity:
    from asr.lm.recurrent import Adapter

    adapter = Adapter(model.network, rate)
    total, tokens = 0.0, 0
    for text in tqdm(texts, desc="sentences", disable=None, leave=False):
        ids = model.tokenizer.encode(text)
        total -= float(score_sequences(adapter.model, [ids])[0])
        tokens += len(ids) + 1
        adapter.learn(ids)
    return _figures(total, tokens, texts)


def _exp_mean(total: float, count: int) -> float:
    return math.exp(min(700.0, total / max(1, count)))
