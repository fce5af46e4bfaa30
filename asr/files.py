"""Replaces files whole or not at all, and refuses to overwrite outputs that this package did not write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import IO, Any

from asr.errors import AsrError, ModelError, OutputError

PART = ".asr-part-"
"""What the names of our temporary folders begin with; nobody else's do."""
LARGEST_JSON = 16_000_000
"""Bytes of a JSON file of a model directory, which has a few thousand."""
LARGEST_NUMBER = 3e38
"""What single precision still holds."""


@contextlib.contextmanager
def atomic(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an error.

    With ``keep``, the old file has that name afterwards; where the file system has no hard links it is gone.

    The data reaches the disk before the rename, so that at every moment ``path`` is the old file or the new one. The
    temporary file has the name of ``path``, in a folder of ours beside it. A device or a pipe has nothing to replace:
    it is written directly. Raises ``OSError``.
    """
    if _is_stream(path):
        yield path
        return
    folder = Path(tempfile.mkdtemp(prefix=PART, dir=path.parent))
    try:
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if keep is not None:
            with contextlib.suppress(OSError):  # no old file, or no links: ``path`` itself must never be missing
                os.link(path, folder / "old")
                (folder / "old").replace(keep)
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_stream(path: Path) -> bool:
    """Whether ``path`` is a device, a pipe or an open file of this process (``/dev/stdout``)."""
    there = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    return there or os.path.abspath(path).startswith(("/dev/", "/proc/"))


def write_text(path: str | Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8, line ends as they stand), whole or not at all; makes missing folders.

    A link stays, and what it points to is replaced; a pipe or a device (``/dev/stdout``) is written as it is. A lone
    surrogate, which stands for a byte of a file name that is no UTF-8, becomes ``\\udcXX``, JSON's own escape.
    Raises ``AsrError`` naming the path.
    """
    path = Path(path)
    data = text.encode("utf-8", "backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path if _is_stream(path) else Path(os.path.realpath(path))) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {error.strerror or error}") from error


def write_together(texts: Mapping[Path, str]) -> None:
    """Replace several files by their texts (UTF-8), all of them or none: a full disk leaves what was there before.

    Makes missing folders. Raises ``AsrError`` naming the path.
    """
    path = Path()
    try:
        with contextlib.ExitStack() as stack:
            for path, text in texts.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(atomic(path)).write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {error.strerror or error}") from error


def check_report(path: Path | None) -> None:
    """Refuse a report that could not be written, before the work and not after it. Raises ``AsrError``."""
    if path is not None and not os.path.isdir(path.absolute().parent):
        raise AsrError(f"{path}: cannot write: no folder {path.parent}; make it first")
    if path is not None and os.path.isdir(path):
        raise AsrError(f"{path}: cannot write: expected a file, got a folder; choose another name")


def write_json(path: str | Path, tree: object) -> None:
    """Replace ``path`` by ``tree`` as indented JSON; see ``write_text``. Raises ``AsrError``."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def read_limited(path: str | Path, most: int) -> bytes:
    """The content of a file of at most ``most`` bytes; of a larger one, or of ``/dev/zero``, no more is read.

    Raises ``OSError``.
    """
    parts, left = [], most + 1
    with open(path, "rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    if left <= 0:
        raise OSError(errno.EFBIG, f"expected at most {most:,} bytes, got more")
    return b"".join(parts)


def read_json(path: str | Path, most: int = LARGEST_JSON) -> Any:
    """The JSON of a file that may be anybody's, at most ``most`` bytes.

    Raises ``OSError``, and ``ValueError`` for what is no JSON, is nested too deeply or holds a number that is not
    finite in single precision, which it names by its key.
    """
    try:
        tree = json.loads(read_limited(path, most).decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    todo = [("", tree)]
    while todo:
        key, value = todo.pop()
        if isinstance(value, dict):
            todo += [(f"{key}.{name}"[:100] if key else str(name)[:100], item) for name, item in value.items()]
        elif isinstance(value, list):
            todo += [(f"{key}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, int | float) and not -LARGEST_NUMBER < value < LARGEST_NUMBER:
            raise ValueError(f"{key}: expected a finite number, got {value:.3g}" if isinstance(value, float) else
                             f"{key}: expected a number below 1e38, got one of {value.bit_length()} bits")  # fmt: skip
    return tree


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object of a file in a model directory, empty where there is no file.

    Raises ``ModelError`` naming the file and ``what`` it should hold.
    """
    if not os.path.isfile(path):
        return {}
    try:
        tree = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot read {what}: {error}") from error
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(tree).__name__}")
    return tree


def sweep(folder: Path) -> None:
    """Remove what ``atomic`` writes that were killed have left in ``folder``."""
    for left in folder.glob(f"{PART}*"):
        shutil.rmtree(left, ignore_errors=True)  # a folder that cannot be written is named by who writes to it


def is_model(folder: Path) -> bool:
    """Whether ``folder`` holds what every model directory of ours does."""
    return all(os.path.isfile(folder / name) for name in ("config.yaml", "tokens.txt"))


def check_output(path: Path, *, force: bool = False, ours: Callable[[Path], bool] | None = None) -> None:
    """Refuse to write a file or a folder where something else is already; cheap, so that it can come before any work.

    Args:
        path: what will be written. Nothing there, or an empty folder, is always good; so is a device or a pipe.
        force: write over what is there.
        ours: whether what is there may be replaced, because this program made it for the same purpose. Without it
            nobody's may.

    Raises:
        OutputError: something is there.
    """
    try:
        if force or not os.path.lexists(path) or _is_stream(path):
            return
        if os.path.isdir(path) and not os.listdir(path):
            return
    except OSError as error:
        raise OutputError(f"{path}: cannot look at the output: {error.strerror or error}") from error
    if ours is None or not ours(path):
        kind = "a folder that is not empty" if os.path.isdir(path) else "a file"
        whose = "" if ours is None else " that this command does not know as its own"
        raise OutputError(
            f"{path}: expected a new output, got {kind}{whose}; choose another name, or overwrite it with --force"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hold_alone(file: IO[Any], message: str) -> None:
    """Lock an open file until it is closed, where there are locks. The lock of a process that is killed ends with it.

    Raises ``AsrError`` with ``message`` where another process has the file, or has removed it meanwhile
    (``remove_held``): lines that are written into a removed file are lost.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AsrError(message) from error
    if not (os.path.exists(file.name) and os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))):
        raise AsrError(message)


def remove_held(file: IO[Any]) -> None:
    """Remove an open file while it is locked (``hold_alone``): nobody else writes into it then. Raises ``OSError``."""
    try:
        os.unlink(file.name)
    except PermissionError:  # Windows does not remove an open file
        file.close()
        os.unlink(file.name)


def user_cache() -> Path | None:
    """The folder of the user's caches; None for a user without a home."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        root = "~/Library/Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(root).expanduser() / "asr"
    except RuntimeError:
        return None


def split_lines(text: str) -> list[str]:
    """The lines of a file of another program, which end at ``\\n`` or ``\\r\\n``.

    ``str.splitlines`` would cut at vertical tabs, U+2028 and others as well, which are part of words there.
    """
    return [line.removesuffix("\r") for line in text.split("\n")]


def split_fields(line: str, most: int = 0) -> list[str]:
    """The fields of a line of another program's file (ARPA, lexicon, Kaldi table, n-gram text): what stands between
    ASCII spaces and tabs. Other white space, such as a no-break space, is part of words there.

    With ``most`` above 0 the line is cut that often at most, and the last field is the rest as it stands.
    """
    if most:
        return re.split("[ \t]+", line.strip(" \t"), maxsplit=most)
    fields = line.replace("\t", " ").split(" ")
    return [field for field in fields if field] if "" in fields else fields


def file_lines(path: str | Path, encoding: str = "utf-8-sig") -> list[str]:
    """The lines of a text file (``split_lines``), a byte order mark left out.

    Raises ``OSError``, and ``UnicodeDecodeError`` for another encoding.
    """
    return split_lines(Path(path).read_bytes().decode(encoding))


AUDIO_SUFFIXES = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".sph", ".nist", ".wv1", ".wv2",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".voc",
)  # fmt: skip
"""File endings of recordings, lower case."""
FILM_SUFFIXES = (
    ".mp4", ".m4a", ".m4v", ".m4b", ".mov", ".3gp", ".mkv", ".mka", ".webm", ".avi", ".wma", ".wmv", ".asf", ".aac",
    ".ac3", ".amr", ".ape", ".wv", ".tta", ".ts", ".mpg", ".mpeg", ".flv",
)  # fmt: skip
"""File endings that are searched for in folders where PyAV is installed."""


_CHANNEL = re.compile(r" \(channel \d+\)$")
"""What ``asr transcribe --channels split`` writes behind the name."""


def recording_name(source: str) -> str:
    """The name of a recording: that of its file, without a suffix of audio or film; any other dot is part of it."""
    path = PurePath(_CHANNEL.sub("", source))
    return (path.stem if path.suffix.lower() in AUDIO_SUFFIXES + FILM_SUFFIXES else path.name) or source
