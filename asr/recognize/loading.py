"""Loads models of any kind: model directories, which torch runs, or onnxruntime without it; and exported graphs.

A model directory for onnxruntime becomes the same graphs that ``asr export --to onnx`` writes, in memory.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr.config import loader, sections
from asr.config.sections import Config
from asr.errors import ConfigError, ModelError, TextError
from asr.export.acoustic_graphs import first_wait, frames_metadata, offline_graph, streaming_graph
from asr.export.lm_graph import language_graph
from asr.export.staged_graphs import offline_stages
from asr.export.stored_weights import acoustic_weights, check_weights, language_weights
from asr.lm.lm_directory import read_language
from asr.lm.onnx_lm import OnnxLM
from asr.models.bundled import locate_model
from asr.models.description import load_card, read_description
from asr.models.inference import AcousticBackend, Latency, LoadedModel
from asr.models.onnx_backend import OnnxBackend, OpenSession, OpenStages
from asr.models.onnx_files import KINDS, GraphFile, check_graph
from asr.models.onnx_sessions import open_session
from asr.text import tokenizer_files
from asr.text.tokenizer import CharTokenizer, Tokenizer
from asr.text.word_tokens import WordTokenizer

RUNTIMES = ("auto", "torch", "onnxruntime")
"""What can run a model directory; ``auto``: torch where it is installed."""
OFFLINE, STREAMING, LANGUAGE = "offline.onnx", "streaming.onnx", "lm.onnx"


@dataclass(frozen=True)
class GraphModel:
    """A model that onnxruntime runs, as ``asr.models.inference.LoadedModel``.

    ``offline``, ``streaming``: open the sessions of its graphs. ``stages``: those of the offline graph's stages.
    """

    config: Config
    tokenizer: Tokenizer
    card: dict[str, Any]
    path: Path
    offline: OpenSession | None = field(repr=False)
    streaming: OpenSession | None = field(repr=False)
    stages: OpenStages | None = field(default=None, repr=False)

    def backend(self, device: str = "auto", precision: str = "fp32") -> AcousticBackend:
        """See ``asr.models.inference.LoadedModel``."""
        return OnnxBackend(
            self.config,
            self.offline,
            self.streaming,
            self.tokenizer.vocab_size,
            self.path,
            device,
            precision,
            self.stages,
        )


def torch_is_installed() -> bool:
    """Whether torch can be imported, without importing it."""
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):
        return False


def load_any(model: str | Path | None = None, runtime: str = "auto") -> LoadedModel:
    """A model directory, a bundled model by name, or (``None``) the default bundled one; a folder of ``asr export
    MODEL FOLDER --to onnx``, or one of its graphs.

    ``runtime``, one of ``RUNTIMES``, runs model directories: by default torch where it is installed, else onnxruntime.
    Exports are always run by onnxruntime.

    Raises ``ModelError`` naming what is missing or damaged, and ``ConfigError`` for a bad ``config.yaml`` or another
    runtime.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime: expected one of {', '.join(RUNTIMES)}, got {runtime!r}")
    place = locate_model(model)
    if os.path.isfile(place):
        _require_graphs(place, runtime)
        return _single_graph(place)
    graphs = [name for name in (OFFLINE, STREAMING) if os.path.isfile(place / name)]
    if graphs and not os.path.isfile(place / "model.safetensors"):
        _require_graphs(place, runtime)
        return _exported(place)
    if runtime == "torch" and not torch_is_installed():
        raise ConfigError("runtime: torch is asked for, and is not installed: pip install 'recurrent-asr[train]'")
    if runtime != "onnxruntime" and torch_is_installed():
        from asr.models.model_directory import load_model  # here, because nothing else here needs torch

        return load_model(model)
    return _directory_as_graphs(place)


def _require_graphs(place: Path, runtime: str) -> None:
    if runtime == "torch":
        raise ConfigError(f"runtime: expected onnxruntime for the exported model {place}, got torch; leave runtime out")


def _exported(folder: Path) -> GraphModel:
    """A folder that ``asr export --to onnx`` wrote."""
    for name in ("config.yaml", "tokens.txt"):
        if not os.path.isfile(folder / name):
            raise ModelError(f"{folder}: expected a folder of asr export --to onnx, got none: {name} is missing")
    config = sections.load_config(folder / "config.yaml")
    tokenizer = tokenizer_files.load_tokenizer(folder / "tokens.txt", config.text)
    openers = {name: _opener(folder / name, config, tokenizer) for name in (OFFLINE, STREAMING)}
    return GraphModel(config, tokenizer, load_card(folder), folder, openers[OFFLINE], openers[STREAMING])


def _opener(path: Path, config: Config, tokenizer: Tokenizer) -> OpenSession | None:
    """Opens a graph of an exported folder; None where it is not there."""
    if not os.path.isfile(path):
        return None

    def opened() -> Any:
        _check_fit(check_graph(path, path.stem), config, tokenizer, path.parent)
        return open_session(path)

    return opened


def _check_fit(found: GraphFile, config: Config, tokenizer: Tokenizer, source: Path) -> None:
    """Require that a graph has the tokens and frames of a configuration from ``source``: texts and times are made with
    them."""
    again = "export the model again"
    if found.tree("asr.tokens") != list(tokenizer.symbols):
        raise ModelError(f"{found.path}: its tokens are not those of {source / 'tokens.txt'}; {again}")
    columns = found.outputs["log_probs"].shape[-1]
    if columns != tokenizer.vocab_size:
        raise ModelError(f"{found.path}: expected log-probabilities of {tokenizer.vocab_size} tokens, got {columns}; "
                         f"{again}")  # fmt: skip
    expected = frames_metadata(config)
    if found.kind == "streaming":
        known = found.tree("asr.latency")
        ours = {"bidirectional": config.model.bidirectional, "first_wait": first_wait(config)}
        expected["asr.latency"] = known | ours if isinstance(known, dict) else ours
    for key, values in expected.items():
        if found.tree(key) != values:
            raise ModelError(f"{found.path}: metadata {key}: expected {values}, as the configuration of {source} says, "
                             f"got {str(found.tree(key))[:200]}; {again}")  # fmt: skip


def _single_graph(path: Path) -> GraphModel:
    """A graph outside its folder: all that is known of it is its metadata."""
    known = check_graph(path)
    if known.kind == "lm":
        raise ModelError(f"{path}: expected the graph of an acoustic model, got that of a language model")
    try:
        config = loader.from_dict(Config, loader.parse_yaml(known.metadata.get("asr.config", "")))
    except (ConfigError, ValueError) as error:
        raise ModelError(f"{path}: its metadata have no readable configuration: {error}") from error
    tokens, card = known.tree("asr.tokens"), known.tree("asr.card")
    for key, value, kind in (("asr.tokens", tokens, list), ("asr.card", card, dict)):
        if not isinstance(value, kind):
            raise ModelError(f"{path}: metadata {key}: expected a {kind.__name__}, got {str(value)[:100]}; export the "
                             "model again")  # fmt: skip
    tokenizer = _tokenizer(path, config, tokens)
    _check_fit(known, config, tokenizer, path)
    offline, streaming = (functools.partial(open_session, path) if known.kind == kind else None for kind in KINDS[:2])
    return GraphModel(config, tokenizer, card, path, offline, streaming)


def _tokenizer(path: Path, config: Config, symbols: Sequence[str]) -> Tokenizer:
    kinds: dict[str, Any] = {"char": CharTokenizer, "word": WordTokenizer}
    kind = config.text.tokenizer
    if kind not in kinds:
        raise ModelError(
            f"{path}: a model with {kind} tokens needs the other files of its folder; load the whole folder"
        )
    try:
        made: Tokenizer = kinds[kind](symbols, config.text)
    except TextError as error:
        raise ModelError(f"{path}: its metadata have no readable tokens: {error}") from error
    return made


def _directory_as_graphs(folder: Path) -> GraphModel:
    """A model directory whose graphs are made in memory."""
    found = read_description(folder)
    check_weights(found)  # now, and not when the graph is first needed
    parts = functools.cache(lambda: acoustic_weights(found))

    # Models with the same weights share the sessions.
    @functools.cache
    def offline() -> Any:
        return open_session(offline_graph(parts()).SerializeToString())

    @functools.cache
    def stages() -> list[Any]:
        # One after the other is in use: if each kept its memory, that would be several times as much.
        return [open_session(graph.SerializeToString(), keeps_memory=False) for graph in offline_stages(parts())]

    @functools.cache
    def streaming() -> Any:
        chunks = Latency(1, 0) if found.config.model.bidirectional else None  # streams give their own
        return open_session(streaming_graph(parts(), chunks).SerializeToString())

    staged = stages if found.config.model.bidirectional else None
    return GraphModel(found.config, found.tokenizer, found.card, folder, offline, streaming, staged)


@dataclass(frozen=True)
class LanguageGraph:
    """A recurrent language model that onnxruntime runs."""

    tokenizer: Tokenizer
    model: OnnxLM


def is_language_graph(folder: str | Path, as_graph: bool = False) -> bool:
    """Whether onnxruntime runs the recurrent language model of a directory: an exported one, and any without torch or
    ``as_graph``."""
    weights = os.path.isfile(os.path.join(folder, "model.safetensors"))
    return as_graph or not torch_is_installed() if weights else os.path.isfile(os.path.join(folder, LANGUAGE))


def load_language_graph(path: str | Path) -> LanguageGraph:
    """A directory of ``asr train-lm``, or what an export makes of it. Raises ``ModelError``."""
    folder = Path(path)
    weights = folder / "model.safetensors"
    if not os.path.isfile(weights):
        found = read_language(folder, LANGUAGE)
        check_graph(folder / LANGUAGE, "lm")
        return LanguageGraph(found.tokenizer, OnnxLM(open_session(folder / LANGUAGE)))
    found = read_language(folder)
    graph = language_graph(found, *language_weights(found))
    return LanguageGraph(found.tokenizer, OnnxLM(open_session(graph.SerializeToString())))
