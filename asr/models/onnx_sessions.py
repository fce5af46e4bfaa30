"""Opens and runs graphs with onnxruntime, whose faults become this project's errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from asr.config import cpus
from asr.errors import ModelError
from asr.models.onnx_files import require_onnxruntime


def open_session(graph: Path | bytes, *, keeps_memory: bool = True) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        graph: the path of a file, or its bytes.
        keeps_memory: whether it keeps what its longest call has needed for later calls.

    Raises ``ModelError`` naming the file, and where onnxruntime is not installed.
    """
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpus.threads(1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = keeps_memory
    # As OpenMP's threads do here (``cpus.settle``): threads that wait let others work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each kind of fault
        raise ModelError(f"{_name(graph)}: onnxruntime cannot open this graph: {_reason(error)}") from error


def run_graph(session: Any, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """``session.run``. Raises ``MemoryError`` where there is no memory, else ``ModelError``."""
    try:
        found: list[npt.NDArray[Any]] = session.run(outputs, feeds)
        return found
    except Exception as error:
        reason = _reason(error)
    if re.search(r"bad_alloc|[Ff]ailed to allocate|out of memory", reason):
        raise MemoryError(reason)
    raise ModelError(f"onnxruntime cannot run the graph: {reason}")


def _name(graph: Any) -> str:
    return "a graph in memory" if isinstance(graph, bytes) else str(graph)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
