"""What is read of a model directory without its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.errors import ModelError
from asr.models.description import read_description
from asr.models.model_directory import load_model


@pytest.mark.parametrize("name", ["an4", "stream"])
def test_the_header_counts_the_parameters_of_the_network(name: str) -> None:
    assert read_description(name).parameters == sum(p.numel() for p in load_model(name).network.parameters())


def test_weights_shorter_than_their_header_says_are_refused(model_dir: Path, tmp_path: Path) -> None:
    for path in model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        read_description(tmp_path)
