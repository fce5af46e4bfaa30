"""Foreign ONNX files are refused with their fault; the package onnx is the oracle of what they say."""

import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from asr.errors import ModelError
from asr.models import onnx_files
from asr.models.onnx_files import check_graph, read_graph_file, require_onnxruntime

OURS = {"asr.format": "1", "asr.graph": "lm"}


def make(path, *, nodes=None, metadata=OURS, state_axes=4, change=None):
    """A graph with the ends of a language model."""
    state = [2] * state_axes
    ends = [("tokens", TensorProto.INT64, ["N"]), ("state", TensorProto.FLOAT, state)]
    outs = [("log_probs", TensorProto.FLOAT, ["N", 5]), ("next.state", TensorProto.FLOAT, state)]
    weights = numpy_helper.from_array(np.ones((3, 5), np.float32), "weights")
    if nodes is None:
        nodes = [
            helper.make_node("Gather", ["weights", "tokens"], ["log_probs"]),
            helper.make_node("Identity", ["state"], ["next.state"]),
        ]
    infos = [[helper.make_tensor_value_info(*end) for end in part] for part in (ends, outs)]
    model = helper.make_model(helper.make_graph(nodes, "g", *infos, [weights]))
    helper.set_model_props(model, metadata)
    if change is not None:
        change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_reads_what_the_package_onnx_wrote(tmp_path):
    found = check_graph(make(tmp_path / "lm.onnx"), "lm")
    assert found.metadata == OURS
    assert found.operators == {("", "Gather"), ("", "Identity")}
    assert {name: (end.kind, end.shape) for name, end in found.inputs.items()} == {
        "tokens": (7, (None,)),
        "state": (1, (2, 2, 2, 2)),
    }
    assert found.outputs["log_probs"].shape == (None, 5)


def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def external_in_a_node(model):
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "hidden")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "body", [], [])
    model.graph.node.append(helper.make_node("Scan", [], ["x"], body=body, num_scan_inputs=0))


@pytest.mark.parametrize("change", [external, external_in_a_node])
def test_external_data_are_refused_wherever_they_hide(tmp_path, change):
    with pytest.raises(ModelError, match=r"lm\.onnx: expected all weights in the file, got external data"):
        check_graph(make(tmp_path / "lm.onnx", change=change))


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("Loop", [], ["x"]), "Loop"),
        (helper.make_node("Anything", [], ["x"], domain="com.example"), "com.example:Anything"),
        (helper.make_node("Gelu", [], ["x"], domain="com.microsoft"), "com.microsoft:Gelu"),
    ],
)
def test_operators_that_we_never_write_are_named(tmp_path, node, named):
    nodes = [node, helper.make_node("Identity", ["state"], ["next.state"])]
    with pytest.raises(ModelError, match=f"expected operators of asr export, got {named}"):
        check_graph(make(tmp_path / "lm.onnx", nodes=nodes))


def test_operators_inside_of_scans_count(tmp_path):
    body = helper.make_graph([helper.make_node("Loop", [], ["c"])], "body", [], [])
    nodes = [helper.make_node("Scan", [], ["x"], body=body, num_scan_inputs=0)]
    with pytest.raises(ModelError, match="got Loop"):
        check_graph(make(tmp_path / "lm.onnx", nodes=nodes))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "expected a graph of asr export"),
        ({"asr.format": "9", "asr.graph": "lm"}, "got format '9'"),
        ({"asr.format": "1", "asr.graph": "vision"}, "graph 'vision'"),
        ({"asr.format": "1", "asr.graph": "offline"}, r"inputs: expected samples \(float32, 2 axes\).*got tokens"),
        ({"asr.format": "1", "asr.graph": "streaming"}, "metadata asr.states: expected JSON"),
        ({"asr.format": "1", "asr.graph": "streaming", "asr.states": "[3]"}, "expected names and shapes"),
    ],
)
def test_other_metadata_are_refused(tmp_path, metadata, message):
    with pytest.raises(ModelError, match=message):
        check_graph(make(tmp_path / "g.onnx", metadata=metadata))


def test_other_inputs_are_refused_with_both(tmp_path):
    with pytest.raises(ModelError, match=r"expected.*state \(float32, 4 axes\), got.*state \(float32, 3 axes\)"):
        check_graph(make(tmp_path / "lm.onnx", state_axes=3))
    with pytest.raises(ModelError, match="expected the graph offline, got lm"):
        check_graph(make(tmp_path / "lm.onnx"), "offline")


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match=r"huge\.onnx: expected at most 2,147,483,647 bytes, got 2,147,483,648"):
        read_graph_file(path)


@pytest.mark.parametrize("data", [b"", b"RIFF....WAVE", b"\xff" * 50, b"\x3a\x05ab"], ids=repr)
def test_what_is_no_onnx_is_refused(tmp_path, data):
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"x\.onnx: not an ONNX file"):
        read_graph_file(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="expected an ONNX file, got nothing there"):
        read_graph_file(tmp_path / "y.onnx")
    with pytest.raises(ModelError, match="expected an ONNX file, got no file"):
        read_graph_file(tmp_path)


def test_every_cut_of_a_file_is_refused_or_read(tmp_path):
    data = make(tmp_path / "lm.onnx").read_bytes()
    for end in range(len(data)):
        (tmp_path / "cut.onnx").write_bytes(data[:end])
        try:
            check_graph(tmp_path / "cut.onnx")
        except ModelError:
            continue
        raise AssertionError(f"{end} of {len(data)} bytes pass the check")


def test_graphs_nested_too_deeply_are_refused(tmp_path):
    body = helper.make_graph([], "body", [], [])
    for _ in range(10):
        body = helper.make_graph([helper.make_node("Scan", [], ["x"], body=body)], "body", [], [])
    with pytest.raises(ModelError, match="nested too deeply"):
        check_graph(make(tmp_path / "deep.onnx", nodes=[helper.make_node("Scan", [], ["x"], body=body)]))


def test_an_old_onnxruntime_is_named(monkeypatch):
    assert require_onnxruntime().__name__ == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.15.1"))
    with pytest.raises(ModelError, match=r"onnxruntime: expected version 1\.19 or newer, got 1\.15\.1"):
        require_onnxruntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match="pip install onnxruntime"):
        require_onnxruntime()


def test_the_operators_are_those_of_the_standard_domain():
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert known >= onnx_files.OPERATORS
