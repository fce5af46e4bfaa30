"""Counts the processors that this process may use; lets waiting threads yield them. Sees GPUs and memory."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_settled: str | None = None
"""What ``settle`` has set ``OMP_NUM_THREADS`` to: the threads of one process, not the user's wish."""


def available() -> int:
    """Processors that this process may use: those it is bound to, no more than its control group's quota."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        bound = os.cpu_count() or 1
    quota = _quota(Path("/"))
    return bound if quota is None else max(1, min(bound, quota))


def threads(processes: int) -> int:
    """Threads for each of so many processes: ``OMP_NUM_THREADS`` where it is set, else their part of the processors."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    text = "" if value == _settled else value.split(",")[0].strip()
    if text.isascii() and text.isdigit() and 0 < int(text[:9]) <= 4096:
        return int(text)
    return max(1, available() // processes)


def in_use() -> int:
    """Threads that this process computes with: torch's number where torch is loaded, else that of ``threads``."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else threads(1)


def limit(count: int) -> None:
    """Let this process compute with so many threads: torch, if it is loaded, and what is loaded later."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)


def settle(*, awake: bool = False) -> None:
    """Set what OpenMP reads when torch loads it; what the user has set stays.

    Threads by the quota, which OpenMP does not know. And threads that wait sleep: by default they spin for a while, and
    beside other work take the processor from the very thread that they wait for (docs/experiments.md). ``awake`` leaves
    that as it is, for long work on a machine of its own.
    """
    global _settled
    quota = _quota(Path("/"))
    if "OMP_NUM_THREADS" not in os.environ and quota is not None and available() == quota:
        os.environ["OMP_NUM_THREADS"] = _settled = str(quota)
    if not awake and "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def sees_gpu() -> bool:
    """Whether NVIDIA's driver offers a GPU to this process. Asks the driver itself, since torch is 0.3 GB in memory."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def memory_bytes(root: Path = Path("/")) -> int:
    """The memory that this process may use: the machine's, or its control group's where that is less; 0 where it is not
    known."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        there = 0
    limits = [values[0] for values in _group_values(root, "memory", ["memory.max"], ["memory.limit_in_bytes"])]
    return min([one for one in (there, *limits) if one > 0], default=0)


def _quota(root: Path) -> int | None:
    """Processors of the control group and those above it, rounded up; None: no limit, or not known."""
    values = _group_values(root, "cpu", ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"])
    found = [math.ceil(one[0] / one[1]) for one in values if len(one) == 2 and one[1]]
    return max(1, min(found)) if found else None


def _group_values(root: Path, controller: str, names: list[str], old_names: list[str]) -> Iterator[list[int]]:
    """The limits of the control group (version 2 or 1) and of those above it, where there are any: the numbers in
    ``names`` of version 2, or in ``old_names`` of version 1."""
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = (line + "::").split(":", 2)
        place = place.removesuffix("::").strip("/")
        if controllers == "":
            folder, files = base, names
        elif controller in controllers.split(","):
            folder, files = base / controller, old_names
        else:
            continue
        # In a container the path may be that of the host, which is not there: its own group is the top one.
        parts = place.split("/") if place and ".." not in place else []
        for depth in range(len(parts) + 1):
            values = " ".join(_read(folder.joinpath(*parts[:depth], name)) for name in files).split()
            if values and all(value.isascii() and value.isdigit() for value in values):
                yield [int(value) for value in values]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
