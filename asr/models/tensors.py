"""Tensors in safetensors files, with JSON metadata; nothing in such a file can run code."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from asr.errors import ModelError
from asr.files import atomic

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as safetensors itself limits it."""


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
    """The shapes of the tensors of a file by name, from its header alone, for ``build``.

    Raises ``ModelError`` as ``load_tensors`` does.
    """
    with _reading(path):
        tree = json.loads(_header(path))
        with safetensors.safe_open(path, framework="numpy"):  # compares the header with the file's length
            pass
        return {name: tuple(entry["shape"]) for name, entry in tree.items() if name != "__metadata__"}


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
