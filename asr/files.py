"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from asr.errors import AsrError

DEVICES = ("/dev/", "/proc/")


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


def write_text(path: str | Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8, line ends as they stand), whole or not at all; makes missing folders.

    A link stays, and what it points to is replaced; a pipe or a device (``/dev/stdout``) is written as it is. A lone
    surrogate, which stands for a byte of a file name that is no UTF-8, becomes ``\\udcXX``, JSON's own escape.
    Raises ``AsrError`` naming the path.
    """
    path = Path(path)
    data = text.encode("utf-8", "backslashreplace")
    try:
        if str(path.absolute()).startswith(DEVICES) or (path.exists() and not path.is_file()):
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(Path(os.path.realpath(path))) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {error.strerror or error}") from error


def write_json(path: str | Path, tree: object) -> None:
    """Replace ``path`` by ``tree`` as indented JSON; see ``write_text``. Raises ``AsrError``."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what ``atomic`` writes that were killed have left in ``folder``."""
    for pattern in (".*.tmp", ".tmp*"):  # ours, and those of safetensors
        for temporary in folder.glob(pattern):
            with contextlib.suppress(OSError):  # a folder that cannot be written is named by who writes to it
                temporary.unlink()
