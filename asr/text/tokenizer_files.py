"""Makes, saves and loads tokenizers: characters, pieces of words, words, and phones.

``text.tokenizer`` chooses: ``char`` (``asr.text.tokenizer``), ``bpe`` (Sennrich et al. 2016, through sentencepiece),
``word`` (a token is what stands between spaces: small vocabularies, and transcripts that are phones already) and
``phone`` (a lexicon in CMUdict's format; what it lacks is spelt by the ``g2p-en`` package where ``text.g2p`` allows
it), which with a token between words reads its phones back as words. Id 0 is the CTC blank in all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asr.config.sections import TextConfig
from asr.errors import ModelError, TextError
from asr.files import atomic, read_limited
from asr.text.bpe import BpeTokenizer
from asr.text.phones import PhoneTokenizer, read_pronunciations
from asr.text.tokenizer import (
    LARGEST_LIST,
    CharTokenizer,
    Tokenizer,
    read_symbols,
)
from asr.text.word_tokens import WordTokenizer

FILES = ("tokens.txt", "tokens.model", "lexicon.txt")
"""What a directory may hold of a tokenizer (``Tokenizer.files``)."""


def tokenizer_from_texts(texts: Iterable[str], config: TextConfig) -> Tokenizer:
    """The tokenizer that ``config`` asks for, made of the training transcripts. Raises ``TextError``."""
    if config.tokenizer == "phone":
        return PhoneTokenizer.from_lexicon(config.lexicon, config)
    kind: Any = {"char": CharTokenizer, "bpe": BpeTokenizer, "word": WordTokenizer}[config.tokenizer]
    made: Tokenizer = kind.from_texts(texts, config)
    return made


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write what a model directory holds of a tokenizer, file by file or not at all. Raises ``OSError``."""
    for name, content in tokenizer.files().items():
        with atomic(folder / name) as path:
            path.write_bytes(content)


def load_tokenizer(path: str | Path, config: TextConfig) -> Tokenizer:
    """The tokenizer whose ``tokens.txt`` is at ``path``, its other files beside it. Raises ``ModelError``."""
    path = Path(path)
    if config.tokenizer == "char":
        return CharTokenizer.load(path, config)
    try:
        symbols = read_symbols(path)
        if config.tokenizer == "word":
            return WordTokenizer(symbols, config)
        if config.tokenizer == "phone":
            return PhoneTokenizer(symbols, read_pronunciations(path.with_name("lexicon.txt"), config), config)
        made = BpeTokenizer(read_limited(path.with_name("tokens.model"), LARGEST_LIST), config)
    except (TextError, OSError) as error:
        raise ModelError(f"{path}: {error}") from error
    if list(made.symbols) != symbols:
        raise ModelError(f"{path}: its symbols are not those of {path.with_name('tokens.model')}")
    return made


def spelling_fingerprint(tokenizer: Tokenizer) -> str:
    """32 hexadecimal digits, the same for tokenizers that spell every word alike."""
    config = tokenizer.config
    if config.lexicon:  # of phones: its content is among the files, its place says nothing
        config = dataclasses.replace(config, lexicon="lexicon.txt")
    digest = hashlib.sha256(repr(config).encode())
    for name, content in sorted(tokenizer.files().items()):
        digest.update(f"\n{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]
