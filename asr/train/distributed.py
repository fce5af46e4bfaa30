"""Several processes that train one model: under ``torchrun`` each takes its share of every batch.

Gradients are sums over all examples of a batch, over all processes, divided by all its tokens. One process and many
take the same steps, even where batches do not divide evenly. That is why this is not torch's
``DistributedDataParallel``, which averages the processes' means: a process with one short utterance would count as much
as one with ten, and one whose audio cannot be read would have to invent some.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from asr.config.ranks import local_rank, processes
from asr.errors import ConfigError

_T = TypeVar("_T")

BUCKET_BYTES = 25 * 2**20
"""Gradients of about this size are sent in one message."""


@dataclass(frozen=True)
class World:
    """The processes of a training, and which of them this is.

    With one process every method is the identity. All processes must call each method but ``share``, in the same order.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    host_group: Any = None
    """The processes as a gloo group, for values on the host: sending these must not wait for a GPU."""

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
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.host_group)
        return [float(value) for value in total.tolist()]

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Add up a tensor of all processes in place, on their device; the host does not wait for a GPU."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: _T) -> list[_T]:
        """``value`` of every process, by rank, on every process. Pickled in between: for our own data only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.host_group)
        return values

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite ``tensors`` by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


@dataclass
class _Bucket:
    """Parameters whose gradients are sent in one message."""

    parameters: list[Tensor]
    flat: Tensor
    """Their gradients one behind the other."""
    arrived: set[int] = field(default_factory=set)
    """Ids of the parameters that have their gradient."""
    work: Any = None
    """The message on its way."""

    @property
    def views(self) -> list[Tensor]:
        """The places of the gradients in ``flat``."""
        parts = torch.split(self.flat, [parameter.numel() for parameter in self.parameters])
        return [part.view_as(parameter) for parameter, part in zip(self.parameters, parts, strict=True)]


class GradientBuckets:
    """Adds up gradients over all processes, in messages that are sent while the backward pass goes on.

    A backward pass reaches the last layers first. As soon as all parameters of a bucket have their gradients, its
    message is sent. Messages are sent in the same order by all processes, whichever order gradients come in. With one
    process nothing is done.
    """

    def __init__(self, parameters: Iterable[Tensor], world: World, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._buckets: list[_Bucket] = []
        self._sent = 0
        self._open = False
        if world.size == 1:
            return
        groups: list[list[Tensor]] = []
        size = 0
        for parameter in reversed([parameter for parameter in parameters if parameter.requires_grad]):
            if not groups or size >= bucket_bytes or groups[-1][-1].dtype != parameter.dtype:
                groups.append([])
                size = 0
            groups[-1].append(parameter)
            size += parameter.numel() * parameter.element_size()
        for group in groups:
            flat = group[0].new_zeros(sum(parameter.numel() for parameter in group))
            self._buckets.append(_Bucket(group, flat))
            arrived = self._hook(self._buckets[-1])
            for parameter in group:
                parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]

    def _hook(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        def arrived(parameter: Tensor) -> None:
            if self._open:
                bucket.arrived.add(id(parameter))
                self._send_complete()

        return arrived

    @contextlib.contextmanager
    def summing(self) -> Iterator[None]:
        """Add up the gradients that are there at the end of the ``with`` statement; a missing one counts as zero.

        The last backward pass of a step belongs inside, earlier ones, which only accumulate, outside. A process
        without an example for this step leaves the statement empty.
        """
        for bucket in self._buckets:
            bucket.arrived.clear()
        self._sent = 0
        self._open = True
        try:
            yield
            self._open = False
            while self._sent < len(self._buckets):
                self._send_next()
            for bucket in self._buckets:
                bucket.work.wait()
                for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                    parameter.grad = view
        finally:
            self._open = False

    def _send_complete(self) -> None:
        """Send the buckets that are complete, up to the first that is not."""
        while self._sent < len(self._buckets):
            bucket = self._buckets[self._sent]
            if len(bucket.arrived) < len(bucket.parameters):
                return
            self._send_next()

    def _send_next(self) -> None:
        bucket = self._buckets[self._sent]
        self._sent += 1
        with torch.no_grad():
            present = [
                (view, p.grad) for view, p in zip(bucket.views, bucket.parameters, strict=True) if p.grad is not None
            ]
            if len(present) < len(bucket.parameters):
                bucket.flat.zero_()
            if present:
                views, gradients = zip(*present, strict=True)
                torch._foreach_copy_(views, gradients)
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)


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
        group: Any = dist.new_group(backend="gloo") if device.type == "cuda" else None
        yield World(dist.get_rank(), dist.get_world_size(), device, group)
        dist.barrier(group)  # nobody hangs up while another still listens
    finally:
        dist.destroy_process_group()
