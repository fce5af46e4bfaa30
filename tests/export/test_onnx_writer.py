"""Models that are written without the package onnx are those that the package writes."""

import numpy as np
import pytest
from graph_models import SmallModel

from asr.export import onnx_writer
from asr.export.acoustic_graphs import offline_graph, streaming_graph

onnx = pytest.importorskip("onnx")


def build(library):
    """A model with every kind of attribute, a graph in a node, tensors of all types, metadata."""
    helper, numpy_helper, kinds = library.helper, library.numpy_helper, library.TensorProto
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        "body",
        [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in "ab"],
        [helper.make_tensor_value_info("c", kinds.FLOAT, None)],
    )
    nodes = [
        helper.make_node(
            "Mixed", ["x", "", "w"], ["y"], name="ü/1", domain="own", whole=-3, number=0.5, text="é",
            wholes=[1, -(2**40)], texts=["a", "bc"], body=body, value=numpy_helper.from_array(np.zeros(1, np.float32)),
        )
    ]  # fmt: skip
    arrays = [np.arange(300).reshape(3, 100).astype(kind) for kind in ("float32", "float16", "int8", "int32", "int64")]
    arrays += [np.array(5), np.zeros((0, 2), np.float32), np.array([True, False])]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ("B", 3, "T"))],
        [helper.make_tensor_value_info("y", kinds.INT64, ())],
        [numpy_helper.from_array(array, f"w{at}") for at, array in enumerate(arrays)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="asr")
    helper.set_model_props(model, {"key": "välue" * 100, "empty": ""})
    return model


def test_a_model_is_the_one_that_the_package_writes():
    written = onnx.load_from_string(build(onnx_writer).SerializeToString())
    assert written == build(onnx)


def test_graphs_pass_the_checker_of_the_package():
    weights = SmallModel(features={"adapt_s": 0.5}, lookahead=2, projection=5).weights
    for graph in (offline_graph(weights), streaming_graph(weights)):
        onnx.checker.check_model(onnx.load_from_string(graph.SerializeToString()), full_check=True)
