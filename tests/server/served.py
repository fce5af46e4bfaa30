"""A real server in a process of its own, for tests with real clients."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "egs" / "sample.wav"
SAMPLE_TEXT = (ROOT / "egs" / "sample.txt").read_text(encoding="utf-8").strip()


@dataclass(frozen=True)
class Served:
    """A server that runs: where it listens, its process, and the lines that it has printed."""

    host: str
    port: int
    process: subprocess.Popen[str]
    lines: list[str]

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{self.host}:{self.port}"


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Served]:
    """``asr serve`` with these options at a free port, until the block ends."""
    command = [sys.executable, "-m", "asr.cli", "serve", "--port", "0", "--lag-s", "none", "--workers", "1", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=[process.stderr], daemon=True)  # a full pipe would stop it
    try:
        for line in process.stderr:
            if found := re.search(r"serving on https?://(\S+):(\d+)/", line):
                break
            lines.append(line)
        else:
            raise AssertionError(f"the server ended with status {process.wait()}: {lines}")
        reader.start()
        yield Served(found[1], int(found[2]), process, lines)
    finally:
        process.terminate()
        process.wait()
        process.stderr.close() if not reader.ident else reader.join()
