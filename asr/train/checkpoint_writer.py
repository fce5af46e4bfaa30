"""Writes checkpoints in a thread of its own, so that training goes on meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from asr.models.tensors import save_tensors


class CheckpointWriter:
    """Writes one checkpoint at a time, each as the tensors were when ``write`` was called.

    A failure is raised by the next call, or at the end of the ``with`` statement that the writer is used in. Leaving
    it waits for the last file. Where another error ends the statement, that one is raised and the failure printed.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            # The error that ended the training counts; this one is only told.
            tqdm.write(f"warning: the last checkpoint was not written: {failure}", file=sys.stderr)
        finally:
            self._pool.shutdown()

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Any, *, keep: Path) -> None:
        """Copy ``tensors`` and write them as ``save_tensors`` does, behind the caller's back.

        Waits for the file before it, if that is still being written. Raises ``ModelError`` where that one failed.
        """
        self.wait()
        copies, copied = snapshot(tensors)
        self._writing = self._pool.submit(_save, path, copies, copied, metadata, keep)

    def wait(self) -> None:
        """Wait until the last checkpoint is in its place. Raises ``ModelError`` where it cannot be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def snapshot(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], torch.cuda.Event | None]:
    """Copies of ``tensors`` on the CPU that later steps do not change, and when those of a GPU are complete.

    The host does not wait for the GPU: the copies take their turn among its work.
    """
    copies, copied = {}, None
    for name, tensor in tensors.items():
        if tensor.is_cuda:
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copies[name] = host.copy_(tensor.detach(), non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        else:
            copies[name] = tensor.detach().clone()
    if copied is not None:
        copied.record()
    return copies, copied


def _save(
    path: Path, tensors: Mapping[str, Tensor], copied: torch.cuda.Event | None, metadata: Any, keep: Path
) -> None:
    if copied is not None:
        copied.synchronize()
    save_tensors(path, tensors, metadata, keep=keep)
