"""Whole objects on the local disk: the least recently used go when the limit is reached.

An object is stored under its URL and its version, which the service is asked for at each opening. So a changed object
is never read from an old copy. Objects without a version (web servers without ETag and Last-Modified) are not kept.
Any number of processes may share the folder: one fetches an object, the others wait for it.

``ASR_CACHE_GB`` is the limit (0: no cache), ``ASR_CACHE_DIR`` the folder (default: ``asr/inputs`` below
``XDG_CACHE_HOME`` or ``~/.cache``). Training keeps ``TRAINING_GB`` by default, other commands nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from asr.cloud.addresses import identity, without_secrets
from asr.cloud.filesystems import locate
from asr.cloud.inputs import InputFile
from asr.cloud.range_reader import RangeReader
from asr.cloud.remote_objects import RemoteObject, Version, remote_object
from asr.cloud.retries import repeat
from asr.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SIZE_VARIABLE, FOLDER_VARIABLE = "ASR_CACHE_GB", "ASR_CACHE_DIR"
TRAINING_GB = 20.0
"""Limit of trainings where none is set."""
_LEFT = 0.9
"""Share of the limit that is left after the oldest went, so that not each new object looks through the folder."""
_ABANDONED_S = 86400
"""Age of a part that no process is writing any more."""
_COPY_BYTES = 1 << 20


class _Full(Exception):
    """Other processes are fetching what the limit allows."""


class CachedFile(io.BufferedReader):
    """A local copy as a binary file; its ``name`` is the URL without secrets."""

    def __init__(self, raw: io.FileIO, url: str) -> None:
        super().__init__(raw, 1 << 16)
        self._shown = without_secrets(url)

    @property
    def name(self) -> str:
        """For messages."""
        return self._shown


def open_cached(url: str, default_gb: float = 0.0) -> io.BufferedReader:
    """The object at ``url`` as a binary file, from the cache if there is one. Raises ``CloudError``, ``ConfigError``.

    ``default_gb``: the limit where ``ASR_CACHE_GB`` is not set.
    """
    target = remote_object(locate(url))
    limit = cache_limit(default_gb)
    if limit <= 0:
        return InputFile(RangeReader(target))
    return InputCache(input_folder(), limit).open(url, target)


def cache_limit(default_gb: float = 0.0) -> int:
    """Bytes that may be kept. Raises ``ConfigError`` for a variable that is no number."""
    text = os.environ.get(SIZE_VARIABLE, "").strip()
    try:
        value = float(text) if text else default_gb
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"{SIZE_VARIABLE}: expected a number of gigabytes from 0, got {text!r}")
    return int(value * 1e9)


def input_folder() -> Path:
    """Where objects are kept."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "asr" / "inputs"


class InputCache:
    """Copies of objects in a folder, at most ``limit`` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def open(self, url: str, target: RemoteObject) -> io.BufferedReader:
        """The object as it is now. Where the disk does not take it, it is read without a copy, and a warning says why.

        Raises ``CloudError``.
        """
        version = repeat(target.version, url)
        while version.tag and version.size <= self.limit:
            path = self._path(url, version)
            if (found := _opened(path, version)) is not None:
                return CachedFile(found, url)
            try:
                version = self._fetch(url, target, version)
            except _Full:
                break
            except OSError as error:
                _warn_once(f"warning: {self.folder}: cannot keep objects there: {error.strerror or error}")
                break
        return InputFile(RangeReader(target))

    def _path(self, url: str, version: Version) -> Path:
        name = hashlib.sha256(f"{identity(url)}\0{version.size}\0{version.tag}".encode()).hexdigest()
        return self.folder / name[:2] / name

    def _fetch(self, url: str, target: RemoteObject, version: Version) -> Version:
        """Make the copy, unless another process does; returns the version that was fetched.

        Raises ``OSError`` where the disk does not take it, and ``_Full`` where other processes fill the cache now.
        """
        path = self._path(url, version)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{version.size}.part")
        with _own(part) as file:
            if os.path.exists(path):
                with contextlib.suppress(OSError):
                    part.unlink()
                return version
            with RangeReader(target) as reader:
                if reader.version != version:  # it changed since it was asked for
                    part.unlink()
                    return reader.version
                try:
                    self._make_room(version.size)
                except _Full:
                    part.unlink()
                    raise
                file.truncate(0)
                try:
                    while block := reader.read(_COPY_BYTES):
                        file.write(block)
                    file.flush()
                except BaseException:  # a disk that is full must not stay so
                    with contextlib.suppress(OSError):
                        os.ftruncate(file.fileno(), 0)
                    raise
            part.replace(path)
        return version

    def _make_room(self, size: int) -> None:
        """Count ``size`` more bytes, whose part exists; the least recently used copies go where they are too many.

        Raises ``_Full`` where that does not leave room enough.
        """
        with self._counter() as file:
            text = file.read()
            total = int(text) + size if text.isdigit() else self.limit + 1  # unknown: it is counted anew
            if total > self.limit:
                total = self._evict(min(self.limit, int(_LEFT * self.limit) + size))
            file.seek(0)
            file.truncate()
            file.write(str(total))
        if total > self.limit:
            raise _Full

    def _evict(self, most: int) -> int:
        """Remove the least recently used copies until ``most`` bytes are left; returns how many are left.

        A part counts as the whole object that it will be. Where the parts alone are more than ``most``, no copy goes.
        """
        copies, coming = [], 0
        for folder in self.folder.iterdir():
            for entry in os.scandir(folder) if os.path.isdir(folder) else ():
                with contextlib.suppress(OSError, ValueError):  # another process may have removed it
                    about = entry.stat()
                    if not entry.name.endswith(".part"):
                        copies.append((about.st_mtime, about.st_size, entry.path))
                    elif about.st_mtime < time.time() - _ABANDONED_S:
                        os.unlink(entry.path)
                    elif not _removed(entry.path):
                        coming += int(entry.name.split(".")[1])
        total = coming + sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= most or coming > most:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)  # who has it open reads on
            total -= size
        return total

    @contextlib.contextmanager
    def _counter(self) -> Iterator[IO[str]]:
        """The file with the number of bytes, for this process alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "bytes", "a+", encoding="ascii", errors="replace") as file:
            _lock(file)
            file.seek(0)
            yield file


def _opened(path: Path, version: Version) -> io.FileIO | None:
    """The copy, if it is whole; it counts as used now."""
    try:
        file = io.FileIO(path)
    except OSError:
        return None
    if os.fstat(file.fileno()).st_size != version.size:  # the machine went down before all was on disk
        file.close()
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return file


def _own(part: Path) -> IO[bytes]:
    """The file ``part``, for this process alone until it is closed; what another process made of it is left alone."""
    while True:
        file = part.open("ab")
        _lock(file)  # goes with the process
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                return file
        file.close()


def _removed(part: str) -> bool:
    """Remove a part whose process has ended; whether that was so."""
    if fcntl is not None:
        with open(part, "rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(part)  # before another process can lock it
            return True
    return False


def _lock(file: IO[str] | IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)


_warned: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        print(text, file=sys.stderr)
