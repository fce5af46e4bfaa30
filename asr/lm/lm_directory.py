"""Language models as files: directories of recurrent models, ARPA n-grams; perplexity and generated text."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from asr.config import loader
from asr.config.language import LanguageConfig
from asr.decode.fusion import LanguageModel
from asr.decode.kenlm_binary import KenlmNgram, is_kenlm
from asr.decode.ngram import Ngram
from asr.decode.ngram_cache import load_ngram
from asr.decode.ngram_file import is_ngram_file, open_ngram
from asr.errors import ConfigError, ModelError
from asr.files import atomic, file_sha256
from asr.models.description import load_card
from asr.models.onnx_files import read_graph_file
from asr.models.tensors import load_tensors
from asr.text import tokenizer_files
from asr.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from asr.lm.recurrent import LanguageNetwork, RecurrentLM


@dataclass(frozen=True)
class LanguageDescription:
    """A directory of a recurrent language model without its weights."""

    config: LanguageConfig
    tokenizer: Tokenizer
    card: dict[str, Any]
    path: Path


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
        from asr.lm.recurrent import RecurrentLM

        return RecurrentLM(self.network)


_WEIGHTS, _GRAPH = "model.safetensors", "lm.onnx"
"""What a directory has: the weights, or what an export makes of them."""
LM: TypeAlias = str | Ngram | LanguageDirectory | KenlmNgram | LanguageModel
"""A language model: the path of a directory of ``asr train-lm``, of a word n-gram (ARPA, ``.safetensors``) or of a
KenLM binary, or what ``load_language_model`` makes of it, or anything with the methods of
``asr.decode.fusion.LanguageModel``."""
LMs: TypeAlias = LM | tuple[LM, ...]


def name_of(source: LM) -> str:
    """For messages: a path, or what kind of object it is."""
    return source if isinstance(source, str) else type(source).__name__


def save_lm_description(folder: Path, config: LanguageConfig, tokenizer: Tokenizer) -> None:
    """Write what is known of a language model before training. Raises ``ModelError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "config.yaml") as path:
            path.write_text(loader.dumps(config), encoding="utf-8")
        tokenizer_files.save_tokenizer(folder, tokenizer)
    except OSError as error:
        raise ModelError(f"{folder}: cannot write the language model's directory: {error}") from error


def files(path: str | Path) -> list[Path]:
    """The files that a language model is made of: what ``load_language_model`` and a reader of its directory need, or
    the one file."""
    folder = Path(path)
    names = ("config.yaml", *tokenizer_files.FILES, _WEIGHTS, _GRAPH, "card.json")
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
    """A checksum of a language model's or lexicon's content: the same for a copy with another path and card.

    Raises ``ModelError`` for a file that cannot be read.
    """
    try:
        if not os.path.isdir(path):
            return f"sha256:{file_sha256(Path(path))}"
        parts = [_named_sum(file) for file in files(path) if file.name != "card.json"]
    except OSError as error:
        raise ModelError(f"{path}: cannot read: {error}") from error
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"sha256:{digest}"


def _named_sum(file: Path) -> str:
    """A file's name and checksum; a graph counts as the weights that it was exported from."""
    if file.name == _GRAPH:
        return f"{_WEIGHTS} {read_graph_file(file).metadata.get('asr.source', file_sha256(file))}"
    return f"{file.name} {file_sha256(file)}"


def load_language_model(path: str | Path) -> LanguageDirectory | Ngram | KenlmNgram:
    """A directory that ``asr train-lm`` wrote, an ARPA file or its arrays (``asr lm-convert``), a binary of KenLM.

    Raises ``ModelError`` naming what is missing or damaged, ``DecodeError`` with the line of a malformed ARPA file.
    """
    folder = Path(path)
    if not os.path.isdir(folder):
        return KenlmNgram(folder) if is_kenlm(folder) else load_ngram(folder)
    from asr.lm.recurrent import LanguageNetwork  # here, because n-grams and checksums need no torch
    from asr.models.model_directory import build, load_weights

    found = read_language(folder)
    config, tokenizer, weights = found.config, found.tokenizer, folder / "model.safetensors"
    network = build(lambda: LanguageNetwork(config.model, tokenizer.vocab_size), weights, config.model.layers)
    load_weights(network, load_tensors(weights)[0], weights)
    return LanguageDirectory(config, tokenizer, network.eval(), found.card, folder)


def read_language(folder: Path, weights: str = _WEIGHTS) -> LanguageDescription:
    """Read the directory of a recurrent language model; ``weights``: the file that must be there too.

    Raises ``ModelError`` naming what is missing or damaged.
    """
    for name in ("config.yaml", "tokens.txt", weights):
        if not os.path.isfile(folder / name):
            raise ModelError(f"{folder}: not a language model: {name} is missing")
    try:
        config = loader.read_yaml(LanguageConfig, folder / "config.yaml")
    except ConfigError as error:
        raise ModelError(f"{error}; give the directory of a language model (asr train-lm)") from error
    tokenizer = tokenizer_files.load_tokenizer(folder / "tokens.txt", config.text)
    return LanguageDescription(config, tokenizer, load_card(folder), folder)


def describe_ngrams(models: LMs) -> list[str]:
    """A line for each file of n-gram arrays among language models. Raises ``DecodeError`` naming a damaged one."""
    lines = []
    for path in models if isinstance(models, tuple) else (models,):
        if isinstance(path, str) and os.path.isfile(path) and is_ngram_file(path):
            arrays = open_ngram(path).arrays
            lines.append(
                f"{path}: {arrays.order}-gram, {arrays.vocabulary:,} words, {int(arrays.counts.sum()):,} n-grams, "
                f"{8 if arrays.quantized else 64} bits a value"
            )
    return lines


def load_recurrent(path: str | Path) -> LanguageDirectory:
    """Like ``load_language_model``, where only a recurrent model will do. Raises ``ModelError`` for an n-gram too."""
    if not os.path.isdir(path):
        raise ModelError(f"{path}: expected the directory of a recurrent language model (asr train-lm)")
    found = load_language_model(path)
    assert isinstance(found, LanguageDirectory)
    return found
