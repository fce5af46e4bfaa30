"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an error.

    The data reaches the disk before the rename, so that at every moment ``path`` is the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what ``atomic`` writes that were killed have left in ``folder``."""
    for pattern in (".*.tmp", ".tmp*"):  # ours, and those of safetensors
        for temporary in folder.glob(pattern):
            with contextlib.suppress(OSError):  # a folder that cannot be written is named by who writes to it
                temporary.unlink()
