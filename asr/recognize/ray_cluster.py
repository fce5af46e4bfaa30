"""Connects to a Ray cluster, or starts Ray on this machine and stops it; checks what its machines have."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import shutil
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asr
from asr.errors import ConfigError
from asr.recognize import ray_stages

CONNECT_S = 10.0
"""Seconds to wait for the head of a cluster."""
CHECK_S = 600.0
"""Seconds to wait for the check of a machine: its first process of Python has to start."""
GONE_S = 60.0
"""Seconds in which the head of a cluster notices that a machine died."""
READER_CPUS = 0.1
"""Part of a processor that Ray sets aside for a task that reads: a network needs far longer for the same audio."""


@dataclass(frozen=True)
class Capacity:
    """Processes with a model that a cluster has room for, and whether each has a GPU of its own."""

    actors: int
    gpu: bool


def require_ray() -> None:
    """Raise ``ConfigError`` where Ray Data is not installed."""
    for name in ("ray", "pyarrow", "pandas"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"engine ray: expected Ray Data, got no package {name}; install the extra: "
                              "pip install 'recurrent-asr[ray]'")  # fmt: skip


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster: that of this process where it is connected already, else that at ``address``.

    ``address``: HOST:PORT of the cluster's head, or ``auto`` for the one that runs on this machine; None: that of
    RAY_ADDRESS, or a new one on this machine that ends with the block. Its log files stay only after an error.

    Raises ``ConfigError`` where Ray is not installed or no cluster is at the address.
    """
    require_ray()
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or None
    with _quiet():
        if ray.is_initialized():
            yield
            return
        if address is not None:
            _check_address(address)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options |= {"include_dashboard": False}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else a process of Ray reports to its makers
        try:
            ray.init(address=address or "local", **options)
        except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and others here
            ray.shutdown()
            reason = " ".join(str(error).split())[:300]
            if address is None:
                raise ConfigError(f"Ray cannot start on this machine: {reason}") from error
            raise ConfigError(
                f"--ray-address {address}: cannot join the cluster: {reason}; see ray status on its head"
            ) from error
        context = ray.get_runtime_context()
        folder = os.path.join(context.get_temp_dir(), context.get_session_name())
        try:
            yield
        finally:
            ray.shutdown()
        if address is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Ray's own messages on standard error: ours name what failed, and Ray writes log files too."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    importlib.import_module("ray.data")  # sets its handlers
    from ray.util.annotations import RayDeprecationWarning

    handlers = [*logging.getLogger("ray").handlers, *logging.getLogger("ray.data").handlers]
    shown = {handler: handler.level for handler in handlers if not isinstance(handler, logging.FileHandler)}
    for handler in shown:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RayDeprecationWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")  # it copies its own settings
            yield
    finally:
        for handler, level in shown.items():
            handler.setLevel(level)


def _check_address(address: str) -> None:
    """Raise ``ConfigError`` for an address that nobody answers: Ray itself ends the process then."""
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise ConfigError(
            f"--ray-address {address}: expected HOST:PORT of the head, got the address of a Ray client; run the "
            "command on a machine of the cluster (ray job submit -- asr transcribe …)"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise ConfigError(f"--ray-address: expected HOST:PORT or auto, got {address[:100]!r}")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"--ray-address {address}: no cluster answers: {error}; check the address (ray status on the head shows "
            "it), start one with ray start --head, or leave the option out for Ray on this machine alone"
        ) from error


def alive_nodes() -> list[dict[str, Any]]:
    """The machines of the cluster, as ``ray.nodes()`` describes them."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call,unused-ignore]
    return [node for node in nodes if node["Alive"]]


def capacity(device: str, memory_bytes: int, actors: int | None) -> Capacity:
    """Room for processes with a model.

    Args:
        device: as for ``asr.load``; ``auto``: GPUs where the cluster has any.
        memory_bytes: that a process needs.
        actors: as many as the caller wants; None: one for each GPU, or for each processor.

    Raises ``ConfigError`` where there is room for none.
    """
    nodes = [node["Resources"] for node in alive_nodes()]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
    if gpu and not gpus:
        raise ConfigError(f"--device {device}: expected a cluster with GPUs, got none; use --device cpu")
    room = 0
    for node in nodes:
        places = int(node.get("GPU", 0)) if gpu else int(node.get("CPU", 0))
        room += min(places, int(node.get("memory", 0) // memory_bytes))
    if not room:
        most = max((node.get("memory", 0) for node in nodes), default=0)
        raise ConfigError(
            f"a process with this model needs about {memory_bytes / 1e9:.1f} GB of memory, and no machine of the "
            f"cluster has that beside a {'GPU' if gpu else 'processor'} (the most is {most / 1e9:.1f} GB); add larger "
            "machines, start them with more --memory, or use a smaller model"
        )
    return Capacity(room if actors is None else min(actors, room), gpu)


def _has_gone(id: str) -> bool:
    """Whether a machine that gave no answer leaves the cluster: the head notices that a moment later."""
    ends = time.monotonic() + GONE_S
    while any(node["NodeID"] == id for node in alive_nodes()):
        if time.monotonic() >= ends:
            return False
        time.sleep(0.2)
    return True


def check_nodes(paths: Sequence[str]) -> None:
    """Require that every machine has this version of the package and sees ``paths``, which this one sees.

    A machine that dies meanwhile is left out. Raises ``ConfigError`` naming the machine.
    """
    import ray
    from ray.exceptions import RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    inspect = ray.remote(num_cpus=0, max_retries=2)(ray_stages.inspect_node)
    asked = {}
    for node in alive_nodes():
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeID"]] = (
            f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})",
            inspect.options(scheduling_strategy=here).remote(list(paths)),
        )
    for id, (name, reference) in asked.items():
        try:
            found = ray.get(reference, timeout=CHECK_S)
        except Exception as error:
            if not isinstance(error, RayTaskError) and _has_gone(id):
                continue  # it died meanwhile, and is no machine of the cluster any more
            reason = " ".join(str(error).split())[-300:]
            raise ConfigError(
                f"machine {name} of the cluster cannot run this package: {reason}; install version {asr.__version__} "
                "on each machine, with the extra ray"
            ) from error
        if found["version"] != asr.__version__:
            raise ConfigError(
                f"machine {name} of the cluster has version {found['version']} of this package, and this one has "
                f"{asr.__version__}; install the same on each"
            )
        if found["missing"]:
            raise ConfigError(
                f"machine {name} of the cluster does not see {found['missing'][0]}; put files where every machine "
                "sees them under the same path, or give a URL"
            )
