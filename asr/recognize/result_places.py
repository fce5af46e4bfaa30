"""Where the parts of results are: a folder of this machine, or a URL. Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from asr.cloud.addresses import is_url, join_url, without_secrets
from asr.cloud.inputs import input_exists, list_inputs, read_whole, remove_object, write_whole
from asr.errors import ConfigError, OutputError
from asr.files import atomic

LOCK_FILE = ".lock"


class ResultPlace(Protocol):
    """A folder of files. Methods raise ``OutputError`` or ``CloudError``."""

    def shown(self, name: str = "") -> str:
        """The folder, or a file in it, for messages."""

    def names(self) -> list[str]:
        """The files in the folder itself, sorted."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, whole or not at all."""

    def create(self, name: str, data: bytes) -> None:
        """Write a file that is not there; where another process was first, its file stays. At a URL it may not."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def close(self) -> None:
        """Let others write."""


def open_place(place: str | Path, *, shared: bool) -> ResultPlace:
    """The folder or URL, made if it is missing. ``shared``: several processes write to it at the same time.

    Raises ``ConfigError`` where it cannot be made, and ``OutputError`` where another command writes to it. Services
    behind URLs have no locks: there the caller must not run two commands for one folder.
    """
    return RemoteFolder(str(place)) if is_url(place) else LocalFolder(Path(place), shared=shared)


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot make the output folder: {error}") from error
        self._lock = _locked(path, shared=shared)

    def shown(self, name: str = "") -> str:
        """See ``ResultPlace``, as the other methods."""
        return str(self._path / name)

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._path))
        except OSError as error:
            raise OutputError(f"{self._path}: cannot list the results: {error.strerror or error}") from error

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise OutputError(f"{self._path / name}: cannot read: {error.strerror or error}") from error

    def write(self, name: str, data: bytes) -> None:
        try:
            with atomic(self._path / name) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise OutputError(
                f"{self._path / name}: cannot write: {error.strerror or error}; complete parts are kept: "
                "make room, and continue with --resume"
            ) from error

    def create(self, name: str, data: bytes) -> None:
        new = self._path / f".{name}.{os.getpid()}"
        try:
            new.write_bytes(data)
            with contextlib.suppress(FileExistsError):
                os.link(new, self._path / name)
        except OSError:  # a file system without links
            if not os.path.exists(self._path / name):
                self.write(name, data)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path / name)

    def close(self) -> None:
        os.close(self._lock)


class RemoteFolder:
    """The objects below a URL."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/"
        if self._url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{without_secrets(url)}: expected a folder that can be written, got one of a web server; use s3://, "
                "gs:// or sftp://"
            )

    def shown(self, name: str = "") -> str:
        """See ``ResultPlace``, as the other methods."""
        return without_secrets(join_url(self._url, name) if name else self._url)

    def names(self) -> list[str]:
        if not input_exists(self._url):
            return []
        return sorted(file.path for file in list_inputs(self._url) if "/" not in file.path)

    def read(self, name: str) -> bytes:
        return read_whole(join_url(self._url, name))

    def write(self, name: str, data: bytes) -> None:
        write_whole(join_url(self._url, name), data)

    def create(self, name: str, data: bytes) -> None:
        self.write(name, data)

    def remove(self, name: str) -> None:
        remove_object(join_url(self._url, name))

    def close(self) -> None:
        """Nothing is held."""


def _locked(folder: Path, *, shared: bool) -> int:
    """A descriptor that holds the folder: alone, or with others that share the recordings. Raises ``OutputError``."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{folder / LOCK_FILE}: cannot write: {error.strerror or error}") from error
    try:
        import fcntl
    except ImportError:  # Windows
        return descriptor
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(f"{folder}: another command is writing results to it; wait for its end, or choose another "
                          "folder") from error  # fmt: skip
    except OSError:  # a file system without locks
        pass
    return descriptor
