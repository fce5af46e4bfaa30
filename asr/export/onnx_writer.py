"""Writes ONNX models without the package onnx: the few messages of its format that our graphs are made of.

The names are those of ``onnx.helper``, ``onnx.numpy_helper`` and ``onnx.TensorProto``. Messages are made as bytes at
once, in the encoding of Protocol Buffers: a message is a row of fields, each with its number and kind in front.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Chunk: TypeAlias = "bytes | memoryview"
_Message: TypeAlias = "list[_Chunk]"
"""The bytes of a message in pieces, which are joined once, at the end: weights are not copied on the way."""
VARINT, FIXED32, LENGTH = 0, 5, 2


class TensorProto:
    """Types of tensors, as ONNX numbers them."""

    FLOAT, INT8, INT32, INT64, BOOL, FLOAT16, DOUBLE = 1, 3, 6, 7, 9, 10, 11


_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "float16": TensorProto.FLOAT16,
}


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number as 64 bits."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _whole(number: int, value: int) -> _Message:
    return [_varint(number << 3 | VARINT) + _varint(value)]


def _part(number: int, content: str | bytes | _Message) -> _Message:
    """A field that is a text or a message."""
    chunks: _Message = (
        content if isinstance(content, list) else [content.encode() if isinstance(content, str) else content]
    )
    return [_varint(number << 3 | LENGTH) + _varint(sum(map(len, chunks))), *chunks]


def _given(number: int, text: str) -> _Message:
    """A text that is left out where it is empty."""
    return _part(number, text) if text else []


def _parts(number: int, contents: Iterable[str | _Message]) -> _Message:
    return [chunk for content in contents for chunk in _part(number, content)]


@dataclass
class ModelBytes:
    """A model: its fields in the order in which they were set."""

    chunks: _Message

    def SerializeToString(self) -> bytes:
        """The content of an ``.onnx`` file."""
        return b"".join(self.chunks)

    def ByteSize(self) -> int:
        """Its length."""
        return sum(map(len, self.chunks))


class numpy_helper:
    @staticmethod
    def from_array(array: npt.NDArray[Any], name: str = "") -> _Message:
        """A tensor."""
        kind = _TYPES[array.dtype.name]
        dims = [chunk for size in array.shape for chunk in _whole(1, size)]
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        data = little.reshape(-1).view(np.uint8).data if little.size else b""
        return [*dims, *_whole(2, kind), *_given(8, name), *_part(9, [data])]


class helper:
    @staticmethod
    def make_node(
        op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", domain: str = "", **attributes: Any
    ) -> _Message:
        """A node; an empty input is left out."""
        fields = _parts(1, inputs) + _parts(2, outputs) + _given(3, name) + _part(4, op)
        fields += _parts(5, [_attribute(key, value) for key, value in sorted(attributes.items())])
        return fields + _given(7, domain)

    @staticmethod
    def make_tensor_value_info(name: str, kind: int, shape: Sequence[int | str] | None) -> _Message:
        """An input or output; text in the shape names an axis of any length, ``None`` is any shape."""
        tensor = _whole(1, kind)
        if shape is not None:
            axes = [_part(2, size) if isinstance(size, str) else _whole(1, size) for size in shape]
            tensor += _part(2, _parts(1, axes))
        return _part(1, name) + _part(2, _part(1, tensor))

    @staticmethod
    def make_graph(
        nodes: Sequence[_Message],
        name: str,
        inputs: Sequence[_Message],
        outputs: Sequence[_Message],
        initializer: Sequence[_Message] = (),
    ) -> Graph:
        """A graph, of a model or in a node."""
        return Graph(
            _parts(1, nodes) + _part(2, name) + _parts(5, initializer) + _parts(11, inputs) + _parts(12, outputs)
        )

    @staticmethod
    def make_opsetid(domain: str, version: int) -> _Message:
        """A version of the operators of a domain."""
        return _part(1, domain) + _whole(2, version)

    @staticmethod
    def make_model(
        graph: Graph, *, opset_imports: Sequence[_Message], ir_version: int, producer_name: str = ""
    ) -> ModelBytes:
        """A model of a graph."""
        head = _whole(1, ir_version) + _part(2, producer_name)
        return ModelBytes(head + _part(7, graph.content) + _parts(8, opset_imports))

    @staticmethod
    def set_model_props(model: ModelBytes, entries: Mapping[str, str]) -> None:
        """Add metadata."""
        model.chunks += _parts(14, [_part(1, key) + _part(2, value) for key, value in entries.items()])


@dataclass(frozen=True)
class Graph:
    """The content of a graph, told from that of a tensor by its type."""

    content: _Message


def _attribute(name: str, value: Any) -> _Message:
    """An attribute of a node: number, text, tensor (a message), graph, or a list of numbers or of texts."""
    head = _part(1, name)
    if isinstance(value, Graph):
        return head + _part(6, value.content) + _whole(20, 5)
    if isinstance(value, str):
        return head + _part(4, value) + _whole(20, 3)
    if isinstance(value, float):
        return [*head, _varint(2 << 3 | FIXED32) + struct.pack("<f", value), *_whole(20, 1)]
    if isinstance(value, int):
        return head + _whole(3, value) + _whole(20, 2)
    if value and isinstance(value[0], bytes | memoryview):
        return head + _part(5, value) + _whole(20, 4)
    if value and isinstance(value[0], str):
        return head + _parts(9, value) + _whole(20, 8)
    return head + [chunk for x in value for chunk in _whole(8, int(x))] + _whole(20, 7)
