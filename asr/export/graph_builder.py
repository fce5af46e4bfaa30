"""Builds ONNX graphs node by node; weights keep the numbers that a model directory stores."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from asr.errors import ModelError
from asr.export import onnx_writer
from asr.export.onnx_writer import ModelBytes
from asr.models.onnx_files import FORMAT, IR_VERSION, OPSET

GraphEnd: TypeAlias = "tuple[str, Any, Sequence[int | str]]"
"""An input or output: name, ``np.float32`` or ``np.int64``, shape with names for axes that change."""
END = np.iinfo(np.int64).max
"""For slices: up to the end."""


def require_onnx() -> ModuleType:
    """The package ``onnx``. Raises ``ModelError`` saying how to install it."""
    try:
        import onnx
    except ImportError as error:
        raise ModelError(f"--int8 needs the package onnx: pip install 'recurrent-asr[export]' ({error})") from error
    return onnx


@dataclass(frozen=True)
class Weight:
    """A weight as it is stored: ``values`` float32, float16 or int8, the last with ``scale``, which broadcasts."""

    values: np.ndarray
    scale: np.ndarray | None = None

    def rows(self, index: np.ndarray) -> Weight:
        """Some rows in another order."""
        return Weight(self.values[index], None if self.scale is None else self.scale[index])

    def reshaped(self, *shape: int) -> Weight:
        """With axes of length 1 added in front of a matrix or vector."""
        scale = None if self.scale is None else self.scale.reshape(*shape[:-1], 1)
        return Weight(self.values.reshape(shape), scale)

    @property
    def transposed(self) -> Weight:
        """A matrix with rows and columns exchanged."""
        return Weight(np.ascontiguousarray(self.values.T), None if self.scale is None else self.scale.T)

    @property
    def floats(self) -> np.ndarray:
        """The values that the network computes with, float32."""
        values = self.values.astype(np.float32)
        return values if self.scale is None else values * self.scale


def join_weights(weights: Sequence[Weight], axis: int) -> Weight:
    """Weights behind each other; those of different storage become float32."""
    kinds = {(w.values.dtype, w.scale is None) for w in weights}
    if len(kinds) > 1 or (weights[0].scale is not None and axis != 0):
        return Weight(np.concatenate([w.floats for w in weights], axis))
    scales = [w.scale for w in weights if w.scale is not None]
    return Weight(np.concatenate([w.values for w in weights], axis), np.concatenate(scales) if scales else None)


class GraphBuilder:
    """Collects the nodes and constants of one graph.

    Args:
        plain: store weights as float32, whatever they are, and once for each use: the quantiser of onnxruntime wants
            that (``asr.export.int8_graphs`` stores equal ones once again).
    """

    def __init__(self, *, plain: bool = False) -> None:
        self.onnx = onnx_writer
        self.plain = plain
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._numbers = itertools.count(1)
        self._scope = ""

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names of nodes inside begin with ``name``."""
        before, self._scope = self._scope, f"{self._scope}{name}/"
        yield
        self._scope = before

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; ``""`` stands for an input that is left out. Returns the names of its outputs."""
        name = f"{self._scope}{op}_{next(self._numbers)}"
        names = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(op, inputs, names, name=name, **attributes))
        return names

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.node(op, *inputs, **attributes)[0]

    def named(self, name: str, value: str) -> str:
        """Give a value a name of its own: an output of the graph."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=f"name_{name}"))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A constant tensor; equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            self._known[key] = f"constant_{len(self.constants)}"
            self.constants[self._known[key]] = array
        return self._known[key]

    def floats(self, value: Any) -> str:
        """A constant float32 tensor."""
        return self.constant(value, np.float32)

    def weight(self, weight: Weight) -> str:
        """A weight as float32: it is stored as it is, and the runtime unfolds it once, when it loads the graph."""
        if self.plain:
            name = f"weight_{len(self.constants)}"
            self.constants[name] = weight.floats
            return name
        if weight.values.dtype == np.float32:
            return self.floats(weight.values)
        values = self.constant(weight.values, weight.values.dtype)
        wide = self.op("Cast", values, to=self.onnx.TensorProto.FLOAT)
        return wide if weight.scale is None else self.op("Mul", wide, self.floats(weight.scale))

    def size(self, value: str, axis: int) -> str:
        """The length of an axis, int64 ``(1,)``."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def slice(self, value: str, start: str | int, end: str | int, axis: int) -> str:
        """``value[start:end]`` along an axis; bounds are numbers or int64 ``(1,)``."""
        bounds = [self.constant([b]) if isinstance(b, int) else b for b in (start, end)]
        return self.op("Slice", value, *bounds, self.constant([axis]))

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Values behind each other."""
        return self.op("Concat", *values, axis=axis)

    def squeeze(self, value: str, axis: int) -> str:
        """Without an axis of length 1."""
        return self.op("Squeeze", value, self.constant([axis]))

    def unsqueeze(self, value: str, axis: int) -> str:
        """With an axis of length 1 more."""
        return self.op("Unsqueeze", value, self.constant([axis]))

    def transpose(self, value: str, *axes: int) -> str:
        """With the axes in another order."""
        return self.op("Transpose", value, perm=list(axes))

    def linear(self, x: str, weight: Weight, bias: Weight) -> str:
        """``x W^T + b`` for weights ``(outputs, inputs)``."""
        return self.op("Add", self.op("MatMul", x, self.weight(weight.transposed)), self.weight(bias))

    def subgraph(self, name: str, nodes: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        """A body for ``Scan`` with float32 inputs and outputs of any shape."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        ins, outs = ([helper.make_tensor_value_info(n, kind, None) for n in part] for part in (inputs, outputs))
        return helper.make_graph(list(nodes), name, ins, outs)

    def model(
        self,
        name: str,
        inputs: Sequence[GraphEnd],
        outputs: Sequence[GraphEnd],
        metadata: Mapping[str, Any],
    ) -> ModelBytes:
        """The finished model. Metadata that are no strings are written as JSON."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        kinds: dict[Any, int] = {np.float32: self.onnx.TensorProto.FLOAT, np.int64: self.onnx.TensorProto.INT64}
        ins, outs = ([helper.make_tensor_value_info(n, kinds[t], s) for n, t, s in part] for part in (inputs, outputs))
        constants = [numpy_helper.from_array(array, key) for key, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, name, ins, outs, constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="asr"
        )
        entries = {"asr.format": str(FORMAT), "asr.graph": name, **metadata}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
        helper.set_model_props(model, texts)
        return model
