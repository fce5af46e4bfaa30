"""Describes an export for people: a folder of ``asr export``, or one of its graphs (``asr info EXPORT``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asr.config import loader, sections
from asr.config.sections import Config
from asr.errors import ConfigError, ModelError
from asr.export.onnx_folder import EXPORT_FILE, check_files, is_export
from asr.files import file_sha256
from asr.models.description import card_lines, load_card, network_text, row_lines
from asr.models.onnx_files import GraphFile, check_graph, read_graph_file

SHERPA_KINDS = {
    "omnilingual.onnx": "whole recordings: OfflineRecognizer.from_omnilingual_asr_ctc",
    "nemo_ctc.onnx": "streams: OnlineRecognizer.from_nemo_ctc",
    "encoder.onnx": "streams with hot words: OnlineRecognizer.from_transducer",
    "decoder.onnx": "part of the transducer",
    "joiner.onnx": "part of the transducer",
}
SHERPA_RATE_HZ = 16000


def is_described_here(place: Path) -> bool:
    """Whether a place is an export, and not a model directory."""
    return is_export(place) or (place.suffix == ".onnx" and os.path.isfile(place))


def describe_export(place: Path) -> str:
    """Lines about an export: its kind, graphs with their sizes, input, tokens, checksums, and the model's card.

    Raises ``ModelError`` naming a file that is missing, damaged or foreign.
    """
    if os.path.isfile(place):
        found = check_graph(place)
        rows = {"export": f"{place}, one graph of asr export --to onnx", **_own_rows(found)}
        rows["checksum"] = f"SHA-256 {file_sha256(place)}; there is no {EXPORT_FILE} to compare it with"
        return "\n".join([*row_lines(rows | _graph_rows([place])), *card_lines(_card(found))])
    tree = check_files(place)
    kind = str(tree.get("to"))
    rows = {"export": f"{place}, for {'sherpa-onnx' if kind == 'sherpa' else 'onnxruntime'} (--to {kind})",
            "made of": f"{tree.get('model')}, by {tree.get('package')}, weights as {tree.get('weights')}"}  # fmt: skip
    graphs = [place / name for name in tree["files"] if name.endswith(".onnx")]
    if kind == "sherpa":
        tail_s = float(tree.get("tail_s", 0))
        rows["input"] = f"{SHERPA_RATE_HZ} Hz; a stream needs {tail_s:g} s of silence behind its last sample"
    else:
        rows |= _config_rows(sections.load_config(place / "config.yaml"))
    rows["tokens"] = _token_count(place)
    rows |= _graph_rows(graphs)
    rows["checksums"] = f"{len(tree['files'])} files have those of {EXPORT_FILE}"
    return "\n".join([*row_lines(rows), *card_lines(load_card(place))])


def _own_rows(found: GraphFile) -> dict[str, str]:
    """What the metadata of one of our graphs say."""
    tokens = found.tree("asr.tokens")
    if not isinstance(tokens, list):
        raise ModelError(f"{found.path}: metadata asr.tokens: expected a list, got {str(tokens)[:100]}")
    rows = {"tokens": f"{len(tokens)}, blank among them", "weights": found.metadata.get("asr.weights", "")}
    if found.kind == "lm":
        return rows
    try:
        config = loader.from_dict(Config, loader.parse_yaml(found.metadata.get("asr.config", "")))
    except (ConfigError, ValueError) as error:
        raise ModelError(f"{found.path}: its metadata have no readable configuration: {error}") from error
    return _config_rows(config) | rows


def _config_rows(config: Config) -> dict[str, str]:
    features = config.features
    return {
        "network": network_text(config),
        "input": f"{features.sample_rate_hz} Hz, {features.mel_bins} mel bins, "
        f"one output per {config.output_frame_s * 1000:g} ms",
    }


def _graph_rows(graphs: list[Path]) -> dict[str, str]:
    """A row for each graph: what it is for and its size."""
    rows = {}
    for path in graphs:
        kind = SHERPA_KINDS.get(path.name) or f"{read_graph_file(path).kind or 'unknown'} graph"
        rows[path.name] = f"{os.path.getsize(path) / 1e6:.1f} MB, {kind}"
    return rows


def _card(found: GraphFile) -> dict[str, Any]:
    card = found.tree("asr.card")
    if not isinstance(card, dict):
        raise ModelError(f"{found.path}: metadata asr.card: expected an object, got {str(card)[:100]}")
    return card


def _token_count(folder: Path) -> str:
    """How many tokens ``tokens.txt`` lists. Its checksum is that of the export, so that it needs no other check."""
    lines = (folder / "tokens.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return f"{len(lines)}, blank among them"
