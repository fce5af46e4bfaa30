"""Int8 graphs by the dynamic quantisation of onnxruntime."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from asr.config.sections import ModelConfig
from asr.errors import ModelError
from asr.export.graph_builder import require_onnx
from asr.export.onnx_writer import ModelBytes
from asr.models.onnx_files import require_onnxruntime

if TYPE_CHECKING:
    from onnx import ModelProto

DYNAMIC = "dynamic int8"
"""The name of this storage in metadata."""


def check_int8(config: ModelConfig, name: object) -> None:
    """Raises ``ModelError`` for a model whose cell cannot be quantised."""
    if config.cell != "lstm":
        raise ModelError(
            f"{name}: --int8: expected LSTM layers (model.cell: lstm), which are all that onnxruntime's dynamic "
            f"quantisation knows, got {config.cell}; export without --int8, or train with model.cell=lstm"
        )


def quantized(graph: ModelBytes) -> ModelProto:
    """A graph with int8 weights in LSTMs and matrix products; activations are quantised as they come.

    ``graph`` has float32 weights. Convolutions and the features stay as they are.
    """
    require_onnxruntime()
    onnx = require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(graph.SerializeToString())
    features = [node.name for node in model.graph.node if node.name.startswith("features/")]
    quiet, logging.root.disabled = logging.root.disabled, True  # it advises to run a step that changes nothing here
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(os.path.join(folder, "int8.onnx"))
            quantize_dynamic(
                model, path, op_types_to_quantize=["LSTM", "MatMul"], per_channel=True, weight_type=QuantType.QInt8,
                nodes_to_exclude=features, extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
            made: ModelProto = onnx.load(path)
    finally:
        logging.root.disabled = quiet
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(made, kept | {"asr.weights": DYNAMIC})
    made.ir_version = model.ir_version
    _store_once(made)
    return made


def _store_once(model: ModelProto) -> None:
    """Let nodes share constants that are equal."""
    first: dict[bytes, str] = {}
    name_of: dict[str, str] = {}
    constants = list(model.graph.initializer)
    del model.graph.initializer[:]
    for constant in constants:
        name, constant.name = constant.name, ""
        name_of[name] = first.setdefault(hashlib.sha256(constant.SerializeToString()).digest(), name)
        constant.name = name
        if name_of[name] == name:
            model.graph.initializer.append(constant)
    for node in model.graph.node:
        node.input[:] = [name_of.get(name, name) for name in node.input]
