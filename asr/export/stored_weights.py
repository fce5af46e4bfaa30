"""The weights of a network for a graph: as its file stores them, or as they are in memory. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr.export.acoustic_parts import AcousticWeights
from asr.export.graph_builder import Weight
from asr.lm.lm_directory import LanguageDescription
from asr.models.bundled import model_file
from asr.models.description import Description
from asr.models.tensors import compare_shapes, load_shapes, load_storage, load_stored
from asr.models.weight_shapes import acoustic_shapes, language_shapes

WEIGHTS_FILE = "model.safetensors"


def acoustic_weights(model: Description) -> AcousticWeights:
    """What the graphs of a model directory are made of. Raises ``ModelError`` naming a file that does not fit."""
    stored = load_stored(model_file(model.path, WEIGHTS_FILE), _shapes(model))
    weights = {name: Weight(*parts) for name, parts in stored.items()}
    return AcousticWeights(model.config, model.tokenizer, model.stats, model.card, weights, model.storage)


def check_weights(model: Description) -> None:
    """Compare the names and shapes of a model directory's weights with its configuration. Raises ``ModelError``."""
    path = model_file(model.path, WEIGHTS_FILE)
    compare_shapes(path, _shapes(model), load_shapes(path))


def _shapes(model: Description) -> dict[str, tuple[int, ...]]:
    return acoustic_shapes(model.config.model, model.config.features.mel_bins, model.tokenizer.vocab_size)


def language_weights(model: LanguageDescription) -> tuple[dict[str, Weight], str]:
    """The weights of a recurrent language model by name, and how they are stored. Raises ``ModelError``."""
    path: Path = model.path / WEIGHTS_FILE
    expected = language_shapes(model.config.model, model.tokenizer.vocab_size)
    return {name: Weight(*parts) for name, parts in load_stored(path, expected).items()}, load_storage(path)


def network_weights(network: Any) -> dict[str, Weight]:
    """The weights of a ``torch.nn.Module`` by name, float32."""
    return {name: Weight(tensor.detach().float().cpu().numpy()) for name, tensor in network.state_dict().items()}
