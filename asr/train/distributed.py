"""Several processes that train one model: under ``torchrun`` each takes its share of every batch.

Gradients are sums over all examples of a batch, over all processes, divided by all its tokens. One process and many
take the same steps, even where batches do not divide evenly. That is why this is not torch's
``DistributedDataParallel``, which averages the processes' means: a process with one short utterance would count as much
as one with ten, and one whose audio cannot be read would have to invent some.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from asr.errors import ConfigError
from asr.models.device import local_rank, processes

_T = TypeVar("_T")


@dataclass(frozen=True)
class World:
    """The processes of a training, and which of them this is.

    With one process every method is the identity. All processes must call each method but ``share``, in the same order.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes the log and the files."""
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """This process's part of ``items``: every ``size``-th, so that neighbours in length are spread evenly."""
        return items if self.size == 1 else items[self.rank :: self.size]

    def sum(self, *values: float) -> list[float]:
        """The sums of ``values`` over all processes, the same float64 numbers everywhere."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in one message; a missing one counts as zero."""
        if self.size == 1:
            return
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def gather(self, value: _T) -> list[_T]:
        """``value`` of every process, by rank, on every process. Pickled in between: for our own data only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite ``tensors`` by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


def together() -> bool:
    """Whether this process was started as one of several, or as the only one of them, by ``torchrun``."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Meet the processes that ``torchrun`` started (its variables RANK, WORLD_SIZE, LOCAL_RANK); else a world of one.

    NCCL on GPUs, each process on its own, and gloo on CPUs. Raises ``ConfigError`` where a process finds no GPU of
    its own, or where the variables do not tell how the processes meet.
    """
    processes()  # refuses ranks that cannot be
    if not together():
        yield World(device=device)
        return
    if device.type == "cuda":
        local = local_rank()
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no GPU of its own: {torch.cuda.device_count()} are there; "
                "start as many processes as GPUs with --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: expected values, since RANK and WORLD_SIZE are set; start processes with "
            "torchrun, which sets all of them, or unset RANK and WORLD_SIZE"
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
        dist.barrier()  # nobody hangs up while another still listens
    finally:
        dist.destroy_process_group()
