"""Processes that work for this one.

Each is a new interpreter. It imports what its work needs, never the parent's main module, so a script without a main
guard can start one. It ends when its parent ends.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

_START = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(int(sys.argv[4]), int(sys.argv[5]))"
)

_DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "


class ChildProcess:
    """A process that runs ``module.function(descriptor, parent)``, and a ``connection`` to it.

    Args:
        module, function: what it runs, with the descriptor of its end of the connection and the id of this process.
        descriptors: further open files that it inherits.
        deaf: whether it ignores SIGINT and SIGTERM, also while it imports.
        defaults: environment variables that it gets where the user has not set them.
        threads: that OpenMP and the libraries for linear algebra use in it; usually the processes are the parallelism.

    Raises ``OSError`` where no process can be started. POSIX only.
    """

    def __init__(
        self,
        module: str,
        function: str,
        descriptors: Sequence[int] = (),
        threads: int = 1,
        *,
        deaf: bool = False,
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        self.connection, other = multiprocessing.connection.Pipe()
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        folders = [folder for folder in sys.path if isinstance(folder, str)]  # imports ignore the rest, such as paths
        arguments = [json.dumps(folders), module, function, str(other.fileno()), str(os.getpid())]
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-c", (_DEAF if deaf else "") + _START, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno(), *descriptors],
                env={**(defaults or {}), **os.environ, **dict.fromkeys(names, str(threads))},
                process_group=0,  # the terminal's Ctrl-C is for the parent, which ends its processes
            )

    def describe_end(self) -> str:
        """How the process has ended, for a message: waits some seconds for that."""
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "does not answer"
        return f"ended with status {status}" if status >= 0 else f"was killed by {_signal_name(-status)}"


def end_processes(children: Iterable[ChildProcess]) -> None:
    """Kill processes, and wait until they are gone."""
    children = list(children)
    for child in children:
        with contextlib.suppress(OSError):
            child.process.kill()
        child.connection.close()
    for child in children:
        child.process.wait()


def end_with(parent: int) -> None:
    """Run in a thread of a child: end it when the process ``parent`` has ended.

    The end of the connection alone is not enough: another process may hold the parent's side of it.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
