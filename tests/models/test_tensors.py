"""Weights as int8 with scales: how exact they are, and which scales are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_model_directory import make_model
from torch import Tensor

from asr.errors import ModelError
from asr.models import model_directory
from asr.models.description import read_description
from asr.models.tensors import (
    SMALLEST_ROW,
    load_shapes,
    load_storage,
    load_tensors,
    quantize,
    save_tensors,
    split_scales,
)

NAME = "encoder.layers.0.forward_cell.weight_hh_l0"


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    weights, scales = split_scales(tensors, Path("x"))
    return {
        name: value.float() * scales[name].view(-1, *[1] * (value.ndim - 1)) if name in scales else value.float()
        for name, value in weights.items()
    }


def test_no_value_is_off_by_more_than_half_a_scale() -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(7, 100) * torch.logspace(-6, 3, 7)[:, None], "b": torch.randn(4, 8, 3, 3)}
    back = restored(quantize(weights))
    for name, value in weights.items():
        steps = value.flatten(1).abs().amax(1) / 127
        off = (back[name] - value).flatten(1).abs().amax(1)
        assert (off <= steps * 0.5001).all(), name


def test_what_is_int8_already_comes_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    once = quantize({"a": torch.randn(20, 128)})
    twice = quantize(restored(once))
    assert torch.equal(once["a"], twice["a"])
    torch.testing.assert_close(once["a.scale"], twice["a.scale"], rtol=1e-6, atol=0)


def test_rows_of_zeros_and_of_tiny_values_stay_finite() -> None:
    weights = torch.zeros(3, SMALLEST_ROW)
    weights[1], weights[2, 0] = 1e-44, 1e30
    back = restored(quantize({"a": weights}))["a"]
    assert back.isfinite().all()
    assert back[0].eq(0).all()
    assert back[2, 0] == pytest.approx(1e30, rel=1e-6)


def test_vectors_and_short_rows_are_float16() -> None:
    stored = quantize({"bias": torch.randn(500), "conv": torch.randn(32, 1, 3, 3), "scalar": torch.tensor(1.5)})
    assert {name: value.dtype for name, value in stored.items()} == dict.fromkeys(stored, torch.float16)
    assert set(stored) == {"bias", "conv", "scalar"}


def test_an_int8_model_is_a_quarter_of_float32_and_says_so(tmp_path: Path) -> None:
    for storage in ("float32", "float16", "int8"):
        make_model(tmp_path / storage, hidden=128, storage=storage)
    sizes = {s: (tmp_path / s / "model.safetensors").stat().st_size for s in ("float32", "float16", "int8")}
    assert sizes["int8"] < 0.28 * sizes["float32"]
    assert sizes["int8"] < 0.6 * sizes["float16"]
    for storage in sizes:
        found = read_description(tmp_path / storage)
        assert found.storage == load_storage(tmp_path / storage / "model.safetensors") == storage
        assert found.parameters == read_description(tmp_path / "float32").parameters


def test_a_number_of_another_kind_than_a_scale_is_not_taken_for_one(tmp_path: Path) -> None:
    tensors = {"norm": torch.ones(3), "norm.scale": torch.ones(3)}
    save_tensors(tmp_path / "x", tensors)
    assert load_shapes(tmp_path / "x") == {"norm": (3,), "norm.scale": (3,)}
    assert split_scales(load_tensors(tmp_path / "x")[0], tmp_path)[0].keys() == tensors.keys()


def change(tensors: dict[str, Tensor], fault: str) -> None:
    scale = tensors[NAME + ".scale"]
    if fault == "missing":
        del tensors[NAME + ".scale"]
    elif fault == "short":
        tensors[NAME + ".scale"] = scale[:-1].clone()
    elif fault == "matrix":
        tensors[NAME + ".scale"] = scale[:, None].clone()
    elif fault == "integer":
        tensors[NAME + ".scale"] = scale.to(torch.int32)
    elif fault == "scalar":
        tensors[NAME] = torch.tensor(3, dtype=torch.int8)
    elif fault == "alone":
        tensors["output.bias.scale"] = torch.ones(5)
    else:
        scale[2] = float(fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", rf"{NAME} is int8 and has no scales: expected {NAME}\.scale with one number per row"),
        ("short", rf"{NAME}\.scale: expected 512 floats, one per row, got F32 \(511,\)"),
        ("matrix", r"expected 512 floats, one per row, got F32 \(512, 1\)"),
        ("integer", r"expected 512 floats, one per row, got I32 \(512,\)"),
        ("scalar", "expected a matrix, whose rows have scales"),
        ("alone", r"unexpected output\.bias\.scale"),
        ("nan", r"expected positive finite scales, got nan for row 2"),
        ("inf", r"expected positive finite scales, got inf for row 2"),
        ("3e38", r"expected positive finite scales, got 3e\+38 for row 2"),
        ("-0.1", r"expected positive finite scales, got -0\.1 for row 2"),
        ("0", r"expected positive finite scales, got 0 for row 2"),
    ],
)
def test_malformed_scales_are_named_with_the_file(tmp_path: Path, fault: str, message: str) -> None:
    make_model(tmp_path, hidden=128, storage="int8")
    path = tmp_path / "model.safetensors"
    tensors, _ = load_tensors(path)
    change(tensors, fault)
    save_tensors(path, tensors)
    with pytest.raises(ModelError, match=rf"model\.safetensors: .*{message}"):
        model_directory.load_model(tmp_path)


@pytest.mark.parametrize("fault", ["missing", "short", "integer"])
def test_scales_of_another_shape_are_refused_by_the_header_alone(tmp_path: Path, fault: str) -> None:
    make_model(tmp_path, hidden=128, storage="int8")
    path = tmp_path / "model.safetensors"
    tensors, _ = load_tensors(path)
    change(tensors, fault)
    with pytest.raises(ModelError, match=NAME):
        split_scales(tensors, path)
    save_tensors(path, tensors)
    with pytest.raises(ModelError, match=NAME):
        read_description(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved_as_int8(tmp_path: Path, value: float) -> None:
    network = torch.nn.Linear(128, 4)
    torch.nn.init.constant_(network.weight[1], value)
    with pytest.raises(ModelError, match="weight holds values that are not finite"):
        model_directory.save_weights(tmp_path, network, {}, storage="int8")
    assert list(tmp_path.iterdir()) == []
