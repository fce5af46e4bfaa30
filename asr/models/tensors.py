"""Tensors in safetensors files, with JSON metadata; nothing in such a file can run code."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors

from asr.errors import ModelError
from asr.files import atomic

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as safetensors itself limits it."""
SCALE = ".scale"
"""What the name of an int8 tensor's scales ends in."""
SMALLEST_ROW = 64
"""Values of a row from which ``quantize`` stores int8: shorter rows save little and are few."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Any = None, *, keep: Path | None = None) -> None:
    """Write tensors and a JSON-serialisable ``metadata`` as one safetensors file, atomically.

    ``keep``, beside it, is what the file that was there before is called from now on.

    Raises ``ModelError`` naming the file when it cannot be written (disk full, read-only); an older file stays.
    """
    import safetensors.torch  # here, because reading a header needs no torch

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic(path, keep) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            safetensors.torch.save_file(contiguous, temporary, metadata={"json": json.dumps(metadata)})
            # safetensors goes through a private file: without this nobody but the trainer could read the model.
            temporary.chmod(mode)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: cannot write: {error}; the previous file, if any, is untouched") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what ``save_tensors`` wrote. Raises ``ModelError`` naming the file when it is missing or damaged.

    The file is opened once: a training may put a new one in its place at any moment, and safetensors' own reader, which
    opens it twice, would mix the two.
    """
    import safetensors.torch

    with _reading(path):
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        return tensors, _metadata(data[8 : 8 + int.from_bytes(data[:8], "little")])


def load_metadata(path: Path) -> Any:
    """The metadata alone. Raises ``ModelError`` as ``load_tensors`` does."""
    with _reading(path):
        return _metadata(_header(path))


def load_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of a file by name, from its header alone, for ``build``; without the scales of int8.

    Raises ``ModelError`` as ``load_tensors`` does, and for int8 weights without fitting scales.
    """
    shapes, types = _entries(path)
    scales = set()
    for name in (name for name, kind in types.items() if kind == "I8"):
        scales.add(scale := name + SCALE)
        if scale not in shapes:
            raise ModelError(_without_scales(path, name))
        if types[scale] not in ("F16", "BF16", "F32", "F64") or shapes[scale] != shapes[name][:1] or not shapes[name]:
            raise ModelError(_other_scales(path, name, shapes[name], f"{types[scale]} {shapes[scale]}"))
    return {name: shape for name, shape in shapes.items() if name not in scales}


def load_storage(path: Path) -> str:
    """How a file stores its weights: ``float32``, ``float16`` or ``int8``, from its header alone.

    Raises ``ModelError`` as ``load_tensors`` does.
    """
    types = set(_entries(path)[1].values())
    return "int8" if "I8" in types else "float16" if "F16" in types else "float32"


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in a quarter of their size as float32: int8 with one scale per row, ``<name>.scale``.

    A row is everything behind the first dimension. Its scale is its largest magnitude divided by 127, so that no value
    is off by more than half a scale. Vectors and tensors with rows shorter than ``SMALLEST_ROW`` become float16.
    ``split_scales`` and ``load_weights`` of ``asr.models.model_directory`` read the result.

    Args:
        tensors: floating point, any shapes, finite.
    """
    import torch

    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor[:1].numel() < SMALLEST_ROW:
            stored[name] = tensor.to(torch.float16)
            continue
        rows = tensor.detach().to(torch.float32).flatten(1)
        largest = rows.abs().amax(1)
        scale = torch.where(largest > 0, largest / 127, 1.0).clamp(min=torch.finfo(torch.float32).tiny)
        stored[name] = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).view(tensor.shape)
        stored[name + SCALE] = scale
    return stored


def split_scales(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights as they are stored, and the scales of those that are int8 by the names of the weights.

    ``weights[name].float() * scales[name]``, row by row, are the values. Raises ``ModelError`` naming ``source`` for
    int8 weights whose scales are missing, not one per row, not positive or not finite.
    """
    import torch

    scales = {}
    for name in (name for name, tensor in tensors.items() if tensor.dtype == torch.int8):
        if name + SCALE not in tensors:
            raise ModelError(_without_scales(source, name))
        scale, shape = tensors[name + SCALE], tuple(tensors[name].shape)
        if not shape or tuple(scale.shape) != shape[:1] or not scale.is_floating_point():
            raise ModelError(_other_scales(source, name, shape, f"{scale.dtype} {tuple(scale.shape)}"))
        scales[name] = scale.float()
        _check_scale(source, name, scales[name].cpu().numpy())
    return {name: tensor for name, tensor in tensors.items() if name.removesuffix(SCALE) not in scales
            or not name.endswith(SCALE)}, scales  # fmt: skip


Stored: TypeAlias = "tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]"
"""A weight as a file has it, float32, float16 or int8, and the scales of int8, which broadcast over it."""


def load_stored(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Stored]:
    """Weights as they are stored, without torch.

    Args:
        path: what ``save_tensors`` wrote.
        expected: names and shapes.

    Raises ``ModelError`` as ``load_tensors`` and ``split_scales``, and for other names and shapes, of which it lists
    some, before anything but the header is read.
    """
    compare_shapes(path, expected, load_shapes(path))
    import safetensors.numpy

    with _reading(path):
        tensors = safetensors.numpy.load(path.read_bytes())
    stored: dict[str, Stored] = {}
    for name in expected:
        array, scale = tensors[name], None
        if array.dtype == np.int8:
            scale = tensors[name + SCALE].astype(np.float32)
            _check_scale(path, name, scale)
            scale = scale.reshape(-1, *[1] * (array.ndim - 1))
        stored[name] = array, scale
    return stored


def load_arrays(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of ``load_stored`` as float32; int8 weights are multiplied by their scales."""
    arrays = {}
    for name, (array, scale) in load_stored(path, expected).items():
        arrays[name] = array.astype(np.float32)
        if scale is not None:
            arrays[name] *= scale
    return arrays


def compare_shapes(source: Path, own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Require the names and shapes of ``own``."""
    problems = [f"missing {name}" for name in own if name not in found]
    problems += [f"unexpected {name[:100]}" for name in found if name not in own]
    problems += [
        f"{name} is {shape}, expected {own[name]}"
        for name, shape in found.items()
        if name in own and own[name] != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelError(f"{source}: weights of another architecture: {'; '.join(problems[:5])}{more}")


def _check_scale(source: Path, name: str, scale: npt.NDArray[np.float32]) -> None:
    # 128: the largest magnitude of int8 must not overflow either.
    with np.errstate(over="ignore"):
        bad = ~((scale > 0) & np.isfinite(scale * 128))
    if bad.any():
        row = int(bad.argmax())
        raise ModelError(f"{source}: {name}{SCALE}: expected positive finite scales, got {float(scale[row]):g} for "
                         f"row {row}; the file is damaged: get it again, or write it anew from the float "
                         "model")  # fmt: skip


def _without_scales(source: Path, name: str) -> str:
    return (
        f"{source}: {name[:100]} is int8 and has no scales: expected {name[:100]}{SCALE} with one number per row; "
        "asr quantize writes both"
    )


def _other_scales(source: Path, name: str, shape: tuple[int, ...], found: str) -> str:
    expected = f"{shape[0]} floats, one per row" if shape else "a matrix, whose rows have scales"
    return f"{source}: {name[:100]}{SCALE}: expected {expected}, got {found}; asr quantize writes both"


def _entries(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes and types of all tensors of a file by name. Raises ``ModelError``."""
    with _reading(path):
        tree = json.loads(_header(path))
        with safetensors.safe_open(path, framework="numpy"):  # compares the header with the file's length
            pass
        entries = {name: entry for name, entry in tree.items() if name != "__metadata__"}
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        return shapes, {name: str(entry["dtype"]) for name, entry in entries.items()}


def _header(path: Path) -> bytes:
    """The JSON in front of a file's tensors; more than ``LARGEST_HEADER`` bytes is none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST_HEADER:
            raise ValueError(f"its header would have {size:,} bytes, expected at most {LARGEST_HEADER:,}")
        return file.read(size)


def _metadata(header: bytes) -> Any:
    """The metadata in a file's header, which is a JSON object."""
    return json.loads(json.loads(header).get("__metadata__", {}).get("json", "null"))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except MemoryError:
        raise ModelError(f"{path}: {os.path.getsize(path):,} bytes do not fit into memory") from None
    except RecursionError:
        raise ModelError(f"{path}: not a readable safetensors file: its header is nested too deeply") from None
    except (OSError, ValueError, AttributeError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from error
