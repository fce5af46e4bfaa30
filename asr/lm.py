"""Language models as files: directories of recurrent ones, ARPA n-grams; perplexity, and texts that they write."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asr import settings, tokenizers
from asr.archive import file_sha256
from asr.checkpoint import build, load_card, load_tensors, load_weights
from asr.decode.fusion import score_sequences
from asr.decode.kenlm_binary import KenlmNgram, is_kenlm
from asr.decode.ngram import Ngram, read_arpa
from asr.errors import ConfigError, ModelError
from asr.files import atomic
from asr.lines import split_fields
from asr.models.language import BOUNDARY, Adapter, LanguageConfig, LanguageNetwork, RecurrentLM
from asr.text import Tokenizer
from asr.tokenizers import PhoneTokenizer

SENTENCES = 64
"""Sentences whose perplexity is measured side by side."""


@dataclass(frozen=True)
class LanguageDirectory:
    """A loaded directory of a recurrent language model, in evaluation mode."""

    config: LanguageConfig
    tokenizer: Tokenizer
    network: LanguageNetwork
    card: dict[str, Any]
    path: Path

    @property
    def model(self) -> RecurrentLM:
        """The model as the beam search takes it."""
        return RecurrentLM(self.network)


def save_description(folder: Path, config: LanguageConfig, tokenizer: Tokenizer) -> None:
    """Write what is known of a language model before training. Raises ``ModelError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "config.yaml") as path:
            path.write_text(settings.dumps(config), encoding="utf-8")
        tokenizers.save(folder, tokenizer)
    except OSError as error:
        raise ModelError(f"{folder}: cannot write the language model's directory: {error}") from error


def files(path: str | Path) -> list[Path]:
    """The files that a language model is made of: what ``load`` and a reader of its directory need, or the one file."""
    folder = Path(path)
    names = ("config.yaml", *tokenizers.FILES, "model.safetensors", "card.json")
    return [folder / name for name in names if os.path.isfile(folder / name)] if os.path.isdir(folder) else [folder]


def copy(source: Path, target: Path) -> None:
    """Copy a language model, a lexicon or a list of phrases, whole; an older one's files go. Raises ``OSError``."""
    if os.path.exists(target) and source.resolve() == target.resolve():
        return
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
        needed = {file.name for file in files(source)}
        for name in needed:
            copy(source / name, target / name)
        for old in files(target):
            if old.name not in needed:
                old.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as path:
        shutil.copyfile(source, path)


def fingerprint(path: str | Path) -> str:
    """A checksum of a language model's or lexicon's content: the same for a copy, whatever its path and card.

    Raises ``ModelError`` for a file that cannot be read.
    """
    try:
        if not os.path.isdir(path):
            return f"sha256:{file_sha256(Path(path))}"
        parts = [f"{file.name} {file_sha256(file)}" for file in files(path) if file.name != "card.json"]
    except OSError as error:
        raise ModelError(f"{path}: cannot read: {error}") from error
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"sha256:{digest}"


def load(path: str | Path) -> LanguageDirectory | Ngram | KenlmNgram:
    """A directory that ``asr train-lm`` wrote, an ARPA file, or a binary file of KenLM.

    Raises ``ModelError`` naming what is missing or damaged, ``DecodeError`` with the line of a malformed ARPA file.
    """
    folder = Path(path)
    if not os.path.isdir(folder):
        return KenlmNgram(folder) if is_kenlm(folder) else read_arpa(folder)
    for name in ("config.yaml", "tokens.txt", "model.safetensors"):
        if not os.path.isfile(folder / name):
            raise ModelError(f"{folder}: not a language model: {name} is missing")
    try:
        config = settings.load(LanguageConfig, folder / "config.yaml")
    except ConfigError as error:
        raise ModelError(f"{error}; is this an acoustic model?") from error
    tokenizer = tokenizers.load(folder / "tokens.txt", config.text)
    weights = folder / "model.safetensors"
    network = build(lambda: LanguageNetwork(config.model, tokenizer.vocab_size), weights, config.model.layers)
    load_weights(network, load_tensors(weights)[0], weights)
    return LanguageDirectory(config, tokenizer, network.eval(), load_card(folder), folder)


def load_recurrent(path: str | Path) -> LanguageDirectory:
    """Like ``load``, where only a recurrent model will do. Raises ``ModelError`` for an n-gram too."""
    if not os.path.isdir(path):
        raise ModelError(f"{path}: expected the directory of a recurrent language model (asr train-lm)")
    found = load(path)
    assert isinstance(found, LanguageDirectory)
    return found


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood per token, word and character; ends of sentences are predicted and
    counted as a token and as a word, not as a character. A word n-gram's tokens are words. Of those that it does not
    know ``as_unk`` were scored as ``<unk>``; ``unknown`` were left out, since the model has no ``<unk>``."""

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
    ``asr.models.language.Adapter``). Raises ``TextError`` for a sentence that the model's tokens cannot spell and
    ``ConfigError`` for a model that cannot adapt.
    """
    if isinstance(model, LanguageDirectory):
        if adapt:
            return _dynamic_perplexity(model, texts, adapt)
        return network_perplexity(model.network, model.tokenizer, texts)
    if adapt:
        raise ConfigError("adapt: expected a recurrent language model, got an n-gram, which learns nothing here")
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
    for token in [BOUNDARY, *ids]:
        log_probs, state = model.advance(state, np.array([token]))
    for _ in range(length):
        row = log_probs[0].astype(np.float64)
        if not np.isfinite(row).all():
            raise ModelError("the language model gives no probabilities: are its weights damaged?")
        if temperature:
            weights = np.exp((row - row.max()) / temperature)
            token = int(rng.choice(len(row), p=weights / weights.sum()))
        else:
            token = int(row.argmax())
        if token == BOUNDARY:
            return
        yield token
        log_probs, state = model.advance(state, np.array([token]))
