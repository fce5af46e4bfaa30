"""Reads and checks the ONNX files of exported models (docs/export.md), before a runtime gets them.

An ONNX file may be anybody's. It is a protocol buffer; what the checks need of it is read here, without the package
``onnx`` and without a copy of the weights. A runtime would open files that a graph names as its data, and run whatever
operators it has.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from asr.errors import ModelError

FORMAT, OPSET, IR_VERSION = 1, 17, 8
"""Of our graphs."""
LARGEST_GRAPH = 2**31 - 1
"""Bytes of a protocol buffer, and so of an ONNX file without external data."""
OLDEST_RUNTIME = (1, 19)
"""Version of onnxruntime that our graphs are tested with, and newer ones."""
KINDS = ("offline", "streaming", "lm")
FLOAT32, INT64 = 1, 7
"""Types of tensors, as ONNX counts them."""
OPERATORS = frozenset(
    "Add Cast Concat ConstantOfShape Conv DequantizeLinear Div DynamicQuantizeLinear Exp Expand GRU Gather "
    "GatherElements GreaterOrEqual Identity LSTM LayerNormalization Less Log LogSoftmax MatMul MatMulInteger Max "
    "Min Mul Pad RNN Range Relu Reshape ReverseSequence Scan Shape Sigmoid Slice Softplus Split Squeeze Sub "
    "Transpose Unsqueeze Where".split()
)
"""Operators of the standard domain that ``asr export`` writes."""
MOST_WAITING = 16
"""Of a stream's state before the first call; ours have 2 or none."""
QUANTIZED_DOMAIN = "com.microsoft"
QUANTIZED_OPERATORS = frozenset({"DynamicQuantizeLSTM"})

_Field: TypeAlias = "tuple[int, int | memoryview]"


@dataclass(frozen=True)
class TensorType:
    """An input or output: ``kind`` as ONNX counts types, ``shape`` with None for axes of any length."""

    kind: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphFile:
    """What an ONNX file says without its weights."""

    path: Path
    inputs: dict[str, TensorType] = field(default_factory=dict)
    outputs: dict[str, TensorType] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    """Domain and name; the standard domain is ``""``."""
    external: list[str] = field(default_factory=list)
    """Tensors whose data lies in other files."""

    @property
    def kind(self) -> str:
        """``offline``, ``streaming`` or ``lm``."""
        return self.metadata.get("asr.graph", "")

    def tree(self, key: str) -> Any:
        """A metadata entry that is JSON. Raises ``ModelError`` naming it when it is missing or damaged."""
        try:
            return json.loads(self.metadata[key])
        except (KeyError, ValueError, RecursionError) as error:
            raise ModelError(f"{self.path}: metadata {key}: expected JSON, got {error!r}; export the model "
                             "again") from error  # fmt: skip


def require_onnxruntime() -> ModuleType:
    """The package ``onnxruntime``. Raises ``ModelError`` where it is missing or too old."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"ONNX models need the package onnxruntime: pip install onnxruntime ({error})") from error
    found = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if found < OLDEST_RUNTIME:
        oldest = ".".join(map(str, OLDEST_RUNTIME))
        raise ModelError(f"onnxruntime: expected version {oldest} or newer, got {onnxruntime.__version__}; "
                         "pip install --upgrade onnxruntime")  # fmt: skip
    module: ModuleType = onnxruntime
    return module


def read_graph_file(path: str | Path) -> GraphFile:
    """Read what an ONNX file says, its weights left where they are.

    Raises ``ModelError`` naming a file that is missing, above ``LARGEST_GRAPH`` or no ONNX.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise ModelError(f"{path}: expected an ONNX file, got {'no file' if os.path.exists(path) else 'nothing there'}")
    size = os.path.getsize(path)
    if size > LARGEST_GRAPH:
        raise ModelError(f"{path}: expected at most {LARGEST_GRAPH:,} bytes, got {size:,}")
    if not size:
        raise ModelError(f"{path}: not an ONNX file: it is empty")
    found = GraphFile(path)
    try:
        with path.open("rb") as file:
            # Not closed by hand: an error keeps views of it for its traceback.
            _read_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), found)
    except OSError as error:
        raise ModelError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ValueError, IndexError, RecursionError) as error:
        raise ModelError(f"{path}: not an ONNX file: {error}") from error
    if not found.inputs or not found.outputs:
        raise ModelError(f"{path}: not an ONNX file: it has no graph with inputs and outputs")
    return found


def check_graph(path: str | Path, kind: str | None = None) -> GraphFile:
    """Read an ONNX file and require that it is one of ``asr export --to onnx``.

    Args:
        path: the file.
        kind: ``offline``, ``streaming`` or ``lm``; None: any of them.

    Raises ``ModelError`` naming the file and what is wrong: external data, operators that we never write, another
    format, other inputs or outputs.
    """
    found = read_graph_file(path)
    again = "export the model with asr export MODEL OUT --to onnx"
    if found.external:
        raise ModelError(f"{found.path}: expected all weights in the file, got external data for "
                         f"{found.external[0][:100]!r}, which may lie anywhere; {again}")  # fmt: skip
    if found.metadata.get("asr.format") != str(FORMAT) or found.kind not in KINDS:
        got = f"format {found.metadata.get('asr.format', 'none')[:20]!r}, graph {found.kind[:20]!r}"
        expected = f"a graph of asr export (format {FORMAT}: {', '.join(KINDS)})"
        raise ModelError(f"{found.path}: expected {expected}, got {got}; {again}")
    if kind is not None and found.kind != kind:
        raise ModelError(f"{found.path}: expected the graph {kind}, got {found.kind}")
    foreign = {f"{domain}:{name}" if domain else name for domain, name in found.operators
               if name not in (QUANTIZED_OPERATORS if domain == QUANTIZED_DOMAIN else OPERATORS if not domain
                               else ())}  # fmt: skip
    if foreign:
        raise ModelError(
            f"{found.path}: expected operators of asr export, got {', '.join(sorted(foreign))[:200]}; {again}"
        )
    _check_ends(found)
    return found


def _check_ends(found: GraphFile) -> None:
    """Require the inputs and outputs of the kind of graph, in order, with their types and numbers of axes."""
    inputs, outputs = _ENDS[found.kind]
    states: list[tuple[str, int, int]] = []
    shapes: dict[str, list[Any]] = {}
    if found.kind == "streaming":
        if "latency" in found.inputs:
            inputs = [*inputs, ("latency", INT64, 1)]
        try:
            shapes = {str(s["name"]): list(s["shape"]) for s in found.tree("asr.states")}
        except (KeyError, TypeError) as error:
            raise ModelError(f"{found.path}: metadata asr.states: expected names and shapes, got {error!r}") from error
        states = [(name, FLOAT32, len(shape)) for name, shape in shapes.items()]
    after = [(f"next.{name}", kind, axes) for name, kind, axes in states]
    for what, expected, got in (("inputs", [*inputs, *states], found.inputs), ("outputs", [*outputs, *after],
                                                                               found.outputs)):  # fmt: skip
        own = [(name, tensor.kind, len(tensor.shape)) for name, tensor in got.items()]
        if own != expected:
            raise ModelError(f"{found.path}: {what}: expected {_named(expected)}, got {_named(own)}")
    for name, shape in shapes.items():
        _check_initial_shape(found, name, shape)


def _check_initial_shape(found: GraphFile, name: str, shape: list[Any]) -> None:
    """Require that the zeros of a stream's start fit the input that takes them: they are made as the metadata say."""
    axes = found.inputs[name].shape
    fits = shape[:1] == [-1] and all(
        isinstance(size, int) and (size == axis or (axis is None and 0 <= size <= MOST_WAITING))
        for size, axis in zip(shape[1:], axes[1:], strict=True)
    )
    if not fits:
        expected = [-1, *("a few frames" if axis is None else axis for axis in axes[1:])]
        raise ModelError(f"{found.path}: metadata asr.states: {name[:40]}: expected the shape {expected}, got "
                         f"{str(shape)[:100]}")  # fmt: skip


_ENDS: dict[str, tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]] = {
    "offline": (
        [("samples", FLOAT32, 2), ("lengths", INT64, 1)],
        [("log_probs", FLOAT32, 3), ("frames", INT64, 1)],
    ),
    "streaming": ([("samples", FLOAT32, 2), ("last", INT64, 1)], [("log_probs", FLOAT32, 3)]),
    "lm": ([("tokens", INT64, 1), ("state", FLOAT32, 4)], [("log_probs", FLOAT32, 2), ("next.state", FLOAT32, 4)]),
}
"""Inputs and outputs by kind: name, type and number of axes."""


def _named(ends: list[tuple[str, int, int]]) -> str:
    kinds = {FLOAT32: "float32", INT64: "int64"}
    texts = [f"{name[:40]} ({kinds.get(kind, f'type {kind}')}, {axes} axes)" for name, kind, axes in ends]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


# What follows reads protocol buffers. The numbers of the fields are those of onnx.proto.


def _fields(data: memoryview) -> Iterator[_Field]:
    """Numbers and values of a message's fields: numbers as they are, everything else as bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of the unknown type {wire}")
        if size > end - at:
            raise ValueError("it is cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _messages(data: int | memoryview) -> Iterator[_Field]:
    """The fields of a value that should be a message."""
    if isinstance(data, int):
        raise ValueError("a number in place of a message")
    return _fields(data)


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise ValueError("a number in place of a text")
    return bytes(value).decode("utf-8")


def _read_model(data: memoryview, found: GraphFile) -> None:
    for number, value in _fields(data):
        if number == 7:
            _read_graph(value, found, 0)
        elif number == 14:
            entry = {key: _text(part) for key, part in _messages(value) if key in (1, 2)}
            found.metadata[entry.get(1, "")] = entry.get(2, "")
        elif number == 25:
            found.operators.add(("", "a function of its own"))


def _read_graph(data: int | memoryview, found: GraphFile, depth: int) -> None:
    if depth > 4:
        raise ValueError("graphs nested too deeply")
    for number, value in _messages(data):
        if number == 1:
            _read_node(value, found, depth)
        elif number == 5:
            _read_tensor(value, found)
        elif number == 15:
            for key, part in _messages(value):
                if key in (1, 2):
                    _read_tensor(part, found)
        elif number in (11, 12) and depth == 0:
            name, tensor = _read_value(value)
            (found.inputs if number == 11 else found.outputs)[name] = tensor


def _read_node(data: int | memoryview, found: GraphFile, depth: int) -> None:
    name = domain = ""
    for number, value in _messages(data):
        if number == 4:
            name = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            for key, part in _messages(value):
                if key in (5, 10):
                    _read_tensor(part, found)
                elif key in (22, 23):
                    for inner, tensor in _messages(part):
                        if inner in (1, 2):
                            _read_tensor(tensor, found)
                elif key in (6, 11):
                    _read_graph(part, found, depth + 1)
    found.operators.add(("" if domain == "ai.onnx" else domain, name))


def _read_tensor(data: int | memoryview, found: GraphFile) -> None:
    """Note a tensor whose data lies elsewhere."""
    name, external = "", False
    for number, value in _messages(data):
        if number == 8:
            name = _text(value)
        elif number == 13 or (number == 14 and value != 0):
            external = True
    if external:
        found.external.append(name)


def _read_value(data: int | memoryview) -> tuple[str, TensorType]:
    """The name and type of an input or output; of what is no tensor the type is 0."""
    name, kind, shape = "", 0, list[int | None]()
    for number, value in _messages(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for _, tensor in (part for part in _messages(value) if part[0] == 1):
                for key, part in _messages(tensor):
                    if key == 1 and isinstance(part, int):
                        kind = part
                    elif key == 2:
                        shape += [_length(axis) for inner, axis in _messages(part) if inner == 1]
    return name, TensorType(kind, tuple(shape))


def _length(axis: int | memoryview) -> int | None:
    return next((size for number, size in _messages(axis) if number == 1 and isinstance(size, int)), None)
