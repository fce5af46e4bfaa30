"""Chooses the device and the precision; copies to the device."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from asr.errors import ConfigError

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""What a network may compute in: float32 throughout; float32 whose matrix products and LSTMs round to TF32 on a GPU;
autocast to bfloat16 or float16."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in, where the precision asks for it."""
ALIGNMENT = 16
"""Bytes that the place of a tensor in a packed copy is a multiple of."""


def pick_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises ``ConfigError`` when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # torch knows more devices (meta, say), on which nothing here is tested, and takes cuda:200 for a negative number.
    if not re.fullmatch(r"cpu(:0)?|cuda(:[0-9]{1,2})?", name):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device: {name} asked for, but torch sees {count} CUDA devices; use auto or cpu")
    return device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory, on a GPU or on the CPU.

    Only torch's own allocator for GPUs has an error class. The CPU's, cuDNN and cuBLAS have messages.
    """
    messages = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)


def set_precision(precision: str) -> None:
    """Have this process compute float32 as ``precision`` (one of ``PRECISIONS``) says: rounded to TF32, or strictly.

    Half precision leaves float32 what it is for ``fp32``. CPUs know no TF32: there nothing changes.
    """
    _allow_tf32(precision == "tf32", precision == "tf32")


@contextlib.contextmanager
def strict_fp32(device: torch.device) -> Iterator[None]:
    """Matrix products in float32 itself, whatever ``set_precision`` and autocast say.

    The flags of TF32 belong to the process. So the first thread that enters sets them, and the last one that leaves
    puts them back; until then a training in another thread computes strictly, too.
    """
    if device.type != "cuda" and not torch.is_autocast_enabled(device.type):
        yield
        return
    _strictness.enter()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _strictness.leave()


class _Strictness:
    """Counts who is within ``strict_fp32``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = (False, False)

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
                _allow_tf32(False, False)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _allow_tf32(*self._before)


_strictness = _Strictness()


def _allow_tf32(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


def pack(tensors: Sequence[Tensor], *, pinned: bool = False) -> Tensor:
    """The bytes of CPU tensors in one tensor, uint8 ``(N,)``, with each at a multiple of ``ALIGNMENT``."""
    places = _places(tensors)
    packed = torch.zeros(places[-1], dtype=torch.uint8, pin_memory=pinned)
    for tensor, place in zip(tensors, places, strict=False):
        data = tensor.detach().contiguous().view(-1).view(torch.uint8)
        packed[place : place + len(data)] = data
    return packed


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of what ``pack`` packed, with the types and shapes of ``like``, on the device of ``packed``."""
    views = []
    for tensor, place in zip(like, _places(like), strict=False):
        data = packed[place : place + tensor.numel() * tensor.element_size()]
        views.append(data.view(tensor.dtype).view(tensor.shape))
    return views


def _places(tensors: Sequence[Tensor]) -> list[int]:
    """Where each tensor begins in a packed copy, and where the last one ends."""
    places = [0]
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        places.append(places[-1] + math.ceil(size / ALIGNMENT) * ALIGNMENT)
    return places


def copy_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """``tensors`` on ``device``: those that are not there yet go in one copy, which the host does not wait for."""
    away = [tensor for tensor in tensors if tensor.device.type != device.type]
    if not away:
        return list(tensors)
    packed = pack(away, pinned=device.type == "cuda").to(device, non_blocking=True)
    arrived = iter(unpack(packed, away))
    return [tensor if tensor.device.type == device.type else next(arrived) for tensor in tensors]
