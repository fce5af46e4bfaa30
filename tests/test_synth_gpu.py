"""``tools/synth_gpu.py``: integers become floats that compute the same, and shards run side by side."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from asr.data import kokoro, manifest
from asr.errors import AsrError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PATH = Path(__file__).parents[1] / "tools" / "synth_gpu.py"
CHANNELS, UNITS = 6, 5


@pytest.fixture(scope="module")
def synth_gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synth_gpu", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(path: Path, nodes: list[Any], values: dict[str, np.ndarray], shape: list[int | str]) -> Path:
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def small_network(path: Path, kind: str) -> Path:
    """A float network of one operator."""
    rng, node = np.random.default_rng(3), onnx.helper.make_node
    if kind == "Conv":
        weights = {"w": rng.normal(size=(4, CHANNELS, 3)), "b": rng.normal(size=4)}
        return written(path, [node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1])], weights, [1, CHANNELS, "n"])
    if kind == "MatMul":
        return written(
            path, [node("MatMul", ["x", "w"], ["y"])], {"w": rng.normal(size=(CHANNELS, 7))}, [1, "n", CHANNELS]
        )
    weights = {
        "w": 0.4 * rng.normal(size=(2, 4 * UNITS, CHANNELS)),
        "r": 0.4 * rng.normal(size=(2, 4 * UNITS, UNITS)),
        "b": rng.normal(size=(2, 8 * UNITS)),
    }
    lstm = node("LSTM", ["x", "w", "r", "b"], ["y"], direction="bidirectional", hidden_size=UNITS)
    return written(path, [lstm], weights, ["n", 1, CHANNELS])


def computed(model: bytes | str, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize(("kind", "quantised"), [("Conv", "ConvInteger"), ("MatMul", "MatMulInteger"), ("LSTM", "")])
def test_a_quantised_network_as_floats_computes_what_it_was_made_from(
    synth_gpu: ModuleType, tmp_path: Path, kind: str, quantised: str, by_channel: bool
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = small_network(tmp_path / "float.onnx", kind)
    signed = QuantType.QInt8 if by_channel else QuantType.QUInt8
    quantize_dynamic(path, tmp_path / "int8.onnx", [kind], per_channel=by_channel, weight_type=signed)
    model = onnx.load(tmp_path / "int8.onnx")
    assert (quantised or "DynamicQuantizeLSTM") in {node.op_type for node in model.graph.node}
    shape = {"Conv": (1, CHANNELS, 30), "MatMul": (1, 30, CHANNELS), "LSTM": (30, 1, CHANNELS)}[kind]
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    expected, rounded = computed(str(path), x), computed(str(tmp_path / "int8.onnx"), x)
    floats = synth_gpu.as_floats(model)
    assert {node.op_type for node in floats.graph.node} <= {kind, "Identity", "Cast", "Mul", "Add", "Reshape"}
    found = computed(floats.SerializeToString(), x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(found - expected).mean() < np.abs(rounded - expected).mean(), "activations are no longer rounded"


def test_a_bias_that_is_added_as_an_integer_is_no_longer_rounded(synth_gpu: ModuleType, tmp_path: Path) -> None:
    node = onnx.helper.make_node
    weights, bias = np.array([[[-3], [5]]], np.int8), np.array([0.37], np.float32)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        node("ConvInteger", ["xq", "w", "xz"], ["product"]),
        node("Mul", ["xs", "ws"], ["scale"]),
        node("Div", ["b", "scale"], ["steps"]),
        node("Floor", ["steps"], ["floor"]),
        node("Cast", ["floor"], ["whole"], to=onnx.TensorProto.INT32),
        node("Reshape", ["whole", "shape"], ["bias"]),
        node("Add", ["product", "bias"], ["sum"]),
        node("Cast", ["sum"], ["number"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["number", "scale"], ["y"]),
    ]
    model = onnx.load_model_from_string(
        written(tmp_path / "a.onnx", nodes, {"ws": np.array(0.1), "b": bias}, [1, 2, "n"]).read_bytes()
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 1]), "shape"))
    x = np.random.default_rng(5).normal(size=(1, 2, 9)).astype(np.float32)
    found = computed(synth_gpu.as_floats(model).SerializeToString(), x)
    assert found == pytest.approx(0.1 * (5 * x[:, 1:] - 3 * x[:, :1]) + bias, abs=1e-5)


def test_an_operator_on_integers_that_is_not_known_is_named(synth_gpu: ModuleType, tmp_path: Path) -> None:
    node = onnx.helper.make_node("QLinearAdd", ["x", "x"], ["y"], "sum", domain="com.microsoft")
    model = onnx.load_model_from_string(written(tmp_path / "a.onnx", [node], {}, [1, 2]).read_bytes())
    with pytest.raises(AsrError, match="sum: no way is known to compute QLinearAdd with floats"):
        synth_gpu.as_floats(model)


def test_a_file_of_weights_is_not_written_over(synth_gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "kokoro.onnx").write_bytes(b"mine")
    with pytest.raises(AsrError, match="--force"):
        synth_gpu.main(["weights", str(tmp_path / "kokoro.onnx")])


@pytest.mark.skipif(importlib.util.find_spec("hibari") is None, reason="the extra synth is not installed")
def test_shards_are_spoken_side_by_side_and_a_line_left_out_shows_in_the_status(
    synth_gpu: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PATH.parents[1]))
    helper = onnx.helper
    inputs = [("tokens", 7, [1, "n"]), ("style", 1, [1, 256]), ("speed", 1, [1])]
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["style"], ["audio"], axis=0)],
        "says the style",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info("audio", 1, [1, 256])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "kokoro.onnx"
    )
    (tmp_path / "voices").mkdir()
    np.random.default_rng(0).normal(0, 0.1, (20, 256)).astype(np.float32).tofile(tmp_path / "voices" / "af_one.bin")
    (tmp_path / "text").write_text("one\ntwo\nпять\nfour\n")
    places = [str(tmp_path / name) for name in ("text", "out")]
    rest = ["--voices", str(tmp_path / "voices"), "--model", str(tmp_path / "kokoro.onnx"), "--device", "cpu"]
    assert synth_gpu.main(["speak", *places, *rest, "--processes", "2", "--", "--format", "wav"]) == 1
    assert "shard 1/2 ended with 1" in capfd.readouterr().err
    spoken = [manifest.read_manifest(tmp_path / "out" / f"manifest.{k}-of-2.jsonl") for k in (1, 2)]
    assert [[u.text for u in part] for part in spoken] == [["ONE"], ["TWO", "FOUR"]]
    assert all(u.audio.endswith(".wav") for part in spoken for u in part)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("hibari", *kokoro.PARTS)), reason="the extra synth is missing"
)
def test_the_packaged_network_has_only_operators_that_become_floats(synth_gpu: ModuleType) -> None:
    model = synth_gpu.as_floats(onnx.load_model_from_string(kokoro.packaged_weights()))
    left = {node.op_type for node in model.graph.node}
    assert not {name for name in left if "Integer" in name or ("Quantize" in name and name != "DequantizeLinear")}
    assert {entry.name for entry in model.graph.input} == {"tokens", "style", "speed"}
