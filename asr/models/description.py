"""What a model directory says about its model, without its weights: ``asr info`` and ``asr init`` need no torch."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.config import sections
from asr.config.sections import Config
from asr.errors import ModelError
from asr.files import read_json, read_object
from asr.models.bundled import locate_model, model_file, readable_folder
from asr.models.tensors import load_shapes, load_storage
from asr.text import tokenizer_files
from asr.text.tokenizer import Tokenizer

RATES = ("wer", "cer", "ser")
OF_RUNS = (
    "checkpoint.safetensors", "checkpoint.previous.safetensors", "log.jsonl", "tensorboard", "rehearsal.safetensors",
)  # fmt: skip
"""What a training needs and a deployment does not; the last one has features of speech and texts."""


@dataclass(frozen=True)
class FeatureStats:
    """Mean and standard deviation of each mel bin over the training frames."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    frames: int

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps({"frames": self.frames, "mean": self.mean, "std": self.std}) + "\n")

    @classmethod
    def load(cls, path: Path) -> FeatureStats:
        """Read what ``save`` wrote. Raises ``ModelError`` naming the file."""
        try:
            tree = read_json(path)
            stats = cls(tuple(map(float, tree["mean"])), tuple(map(float, tree["std"])), int(tree["frames"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: cannot read the feature statistics: {error}") from error
        mean, std = np.array(stats.mean), np.array(stats.std)
        if not len(mean) or len(mean) != len(std) or not np.isfinite([mean, std]).all() or std.min() <= 0:
            raise ModelError(f"{path}: expected as many finite means as positive standard deviations")
        return stats


@dataclass(frozen=True)
class Description:
    """A model directory without its weights.

    ``parameters``: how many numbers the weights are. ``storage``: float32, float16 or int8, as they are stored.
    """

    config: Config
    tokenizer: Tokenizer
    stats: FeatureStats
    parameters: int
    storage: str
    card: dict[str, Any]
    path: Path


def read_description(model: str | Path | None = None) -> Description:
    """Read a model directory (``model`` as in ``load_model``); of the weights only the header, which has their shapes.

    Raises ``ModelError`` naming the file that is missing or damaged, ``ConfigError`` for a bad config.yaml. Whether
    the weights fit the configuration is for ``load_model`` to say.
    """
    folder = locate_model(model)
    files = {
        name: model_file(folder, name) for name in ("config.yaml", "tokens.txt", "stats.json", "model.safetensors")
    }
    for name, path in files.items():
        if not os.path.isfile(path):
            export = os.path.isfile(folder / "export.json") or folder.suffix == ".onnx"
            why = "it is an export, which transcribes; give the model that it was made of" if export else ""
            raise ModelError(f"{folder}: not a model directory: {why or name + ' is missing'}")
    config = sections.load_config(files["config.yaml"])
    tokenizer = tokenizer_files.load_tokenizer(files["tokens.txt"], config.text)
    stats = FeatureStats.load(files["stats.json"])
    if len(stats.mean) != config.features.mel_bins:
        raise ModelError(f"{files['stats.json']}: {len(stats.mean)} bins, expected {config.features.mel_bins}")
    weights = files["model.safetensors"]
    parameters = sum(math.prod(shape) for shape in load_shapes(weights).values())
    return Description(config, tokenizer, stats, parameters, load_storage(weights), load_card(folder), folder)


def load_card(folder: Path) -> dict[str, Any]:
    """The model card, empty where there is none. Raises ``ModelError`` when it is damaged."""
    return read_object(folder / "card.json", "the model card")


def card_languages(card: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The languages that the model of a card is for, as codes of ISO 639; none where the card names none.

    Raises ``ModelError`` naming ``path``.
    """
    found = card.get("languages", [])
    if not isinstance(found, list) or not all(isinstance(x, str) and re.fullmatch("[a-z]{2,3}", x) for x in found):
        raise ModelError(f'{path}/card.json: languages: expected codes of ISO 639 such as ["en"], got {found!r:.60}')
    return tuple(found)


def describe_model(model: Description) -> str:
    """A few lines about a model for people: network, input, tokens, and what its card says."""
    base = model_file(model.path, "model.safetensors").parent
    rows = {
        "model": f"{model.path}" + (f" (weights of the bundled model {base.name})" if base != model.path else ""),
        "network": f"{network_text(model.config)}, "
        f"{model.parameters / 1e6:.2f} million parameters, stored as {model.storage}",
        "input": f"{model.config.features.sample_rate_hz} Hz, {model.config.features.mel_bins} mel bins, "
        f"one output per {model.config.output_frame_s * 1000:g} ms",
        "tokens": f"{model.tokenizer.vocab_size} (blank and {list_symbols(model.tokenizer)})",
        "written text": _describe_tagger(model.path),
    }
    return "\n".join([*row_lines(rows), *card_lines(model.card)])


def network_text(config: Config) -> str:
    """Layers, units, direction and cell of a network in words."""
    model = config.model
    direction = "bidirectional" if model.bidirectional else "unidirectional"
    if model.lookahead:
        ahead_s = (model.layers - 1) * model.lookahead * config.features.hop_s * model.subsampling
        direction += f" (looking {ahead_s:.2g} s ahead)"
    return f"{model.layers} x {model.hidden} {direction} {model.cell}, subsampling {model.subsampling}"


def row_lines(rows: dict[str, str]) -> list[str]:
    """A line for each row, its name in front."""
    return [f"{name + ':':<15} {value}" for name, value in rows.items()]


def card_lines(card: dict[str, Any]) -> list[str]:
    """Lines of what a model card says."""
    lines: list[str] = []
    for name, value in card.items():
        if isinstance(value, dict) and value and all(isinstance(part, dict) for part in value.values()):
            # Results by corpus: a line each.
            parts = [f"{key} {_one_line(part)}" for key, part in value.items()]
        else:
            parts = [_one_line(value)]
        lines += [f"{label:<16}{part}" for label, part in zip([f"{name}:", *[""] * len(parts)], parts, strict=False)]
    return lines


def _describe_tagger(model: Path) -> str:
    """What gives transcripts case, punctuation and digits."""
    folder = readable_folder(model)
    if folder is None:
        return "none, words as they are spoken (asr train-readable makes a tagger)"
    tree = read_object(folder / "readable.json", "the description of a tagger")
    words = len(str(tree.get("words", "")).split())
    return f"case, punctuation and digits by the tagger {folder} ({tree.get('language')}, {words:,} words)"


def list_symbols(tokenizer: Tokenizer) -> str:
    """All characters, or the first few of longer symbols."""
    if tokenizer.config.tokenizer == "char":
        return repr("".join(tokenizer.symbols[1:]))
    more = ", …" if tokenizer.vocab_size > 11 else ""
    return f"{tokenizer.config.tokenizer} tokens {', '.join(tokenizer.symbols[1:11])}{more}"


def figure(name: str, value: Any) -> str:
    """A name and its value in words: error rates as percentages."""
    if name.rpartition("_")[2] in RATES and isinstance(value, int | float):
        return f"{name} {100 * value:.2f} %"
    if name == "ci95" and isinstance(value, list | tuple) and len(value) == 2:
        low, high = value
        return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    return f"{name} {_one_line(value)}"


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(figure(key, item) for key, item in value.items())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
