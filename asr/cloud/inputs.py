"""Opens, lists and writes what URLs point to. For other modules: ``open_input``, ``read_whole``, ``list_inputs``,
``input_exists``, ``write_whole``.

Requests are repeated where the error may pass. All errors are ``CloudError``s: they name the URL without its secrets,
and say what to do.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

from asr.cloud.addresses import without_secrets
from asr.cloud.filesystems import Location, locate
from asr.cloud.range_reader import RangeReader
from asr.cloud.remote_objects import Version, remote_object, version_of
from asr.cloud.retries import repeat, status_of
from asr.errors import CloudError
from asr.files import atomic

_LONGEST_PAGE = 1 << 26
"""Bytes of a page of links that are read."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that was found below a folder: its URL, its path relative to the folder, its size in bytes or None."""

    url: str
    path: str
    size: int | None


class InputFile(io.BufferedReader):
    """An object as a binary file: seeks, reads ahead, has lines. Its ``name`` is the URL without secrets.

    All bytes are of one ``version``. Reads raise ``CloudError``, also for an object that changed since it was opened.
    Not for several threads at once.
    """

    def __init__(self, reader: RangeReader) -> None:
        super().__init__(reader, 1 << 16)
        self.version = reader.version
        self.parts = reader.parts
        """Whether the service sends parts of the object, so that reading a part of it costs no more than that."""

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.version.size


def open_input(url: str) -> InputFile:
    """The object at ``url`` as a binary file. A small one comes whole with the first request. Raises ``CloudError``."""
    return InputFile(RangeReader(remote_object(locate(url))))


def read_whole(url: str, most: int | None = None) -> bytes:
    """All bytes of one version of the object. Raises ``CloudError``, also for more than ``most`` bytes."""
    with open_input(url) as file:
        if most is not None and file.size > most:
            raise CloudError(f"{without_secrets(url)}: expected at most {most:,} bytes, got {file.size:,}")
        return file.read()


def copy_input(url: str, target: Path, most: int) -> Path:
    """Write the object to the file ``target``, whole or not at all. Raises ``CloudError``, also for too many bytes."""
    with open_input(url) as file:
        if file.size > most:
            raise CloudError(f"{without_secrets(url)}: expected at most {most:,} bytes, got {file.size:,}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic(target) as temporary, temporary.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
        except OSError as error:
            raise CloudError(f"{target}: cannot write: {error.strerror or error}") from error
    return target


def input_version(url: str) -> Version:
    """Size and tag of the object as it is now. Raises ``CloudError``."""
    target = remote_object(locate(url))
    return repeat(target.version, url)


def input_exists(url: str) -> bool:
    """Whether there is an object or a folder at ``url``. Raises ``CloudError`` where that cannot be known."""
    where = locate(url)

    def ask() -> bool:
        try:
            if where.scheme in ("http", "https"):
                remote_object(where).version()
            elif where.scheme == "sftp":
                _sftp_stat(where)
            else:
                where.service.info(where.path)
        except Exception as error:
            if isinstance(error, FileNotFoundError) or status_of(error) in (404, 410):
                return False
            raise
        return True

    return repeat(ask, url)


def is_folder(url: str) -> bool:
    """Whether ``url`` is a folder: a URL that ends with a slash, or a folder by what the service says.

    A web server does not say that; there only the slash counts. Raises ``CloudError``.
    """
    where = locate(url)
    if url.endswith("/") or not where.path.strip("/"):
        return True
    if where.scheme in ("http", "https"):
        return False
    return bool(repeat(lambda: _is_folder(where), url))


def list_inputs(url: str) -> Iterator[RemoteFile]:
    """The files below the folder ``url``, in depth, as the service lists them; hidden ones are left out.

    A web server must answer with a page of links (as nginx and Apache do for folders). Raises ``CloudError``.
    """
    where = locate(url)
    kinds: dict[str, Callable[[Location], Iterator[tuple[str, int | None]]]] = {"s3": _s3_keys, "s3a": _s3_keys}
    kinds |= {"sftp": _sftp_files, "http": _web_files, "https": _web_files}
    web = where.scheme in ("http", "https")
    base = re.split("[?#]", url)[0] if web else url
    for path, size in kinds.get(where.scheme, _found_files)(where):
        name = unquote(path) if web else path
        if name and not any(map(_is_hidden, name.split("/"))):
            yield RemoteFile(f"{base.rstrip('/')}/{path}", name, size)


def _is_hidden(part: str) -> bool:
    return (part.startswith(".") and part not in (".", "..")) or part == "lost+found"


def write_whole(url: str, data: bytes) -> None:
    """Replace the object at ``url`` by ``data``, whole or not at all. Raises ``CloudError``, also for web servers."""
    where = locate(url)
    if where.scheme in ("http", "https"):
        raise CloudError(
            f"{without_secrets(url)}: cannot write: web servers take no files; use s3://, gs:// or sftp://"
        )
    if where.scheme == "sftp":
        repeat(lambda: _sftp_write(where, data), url)
    else:
        repeat(lambda: where.service.pipe_file(where.path, data), url)


def remove_object(url: str) -> None:
    """Remove the object at ``url``, if it is there. Raises ``CloudError``."""
    where = locate(url)

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            if where.scheme == "sftp":
                with where.service.channel() as channel:
                    channel.remove(where.path)
            else:
                where.service.rm_file(where.path)

    repeat(remove, url)


def _is_folder(where: Location) -> bool:
    try:
        if where.scheme == "sftp":
            return stat.S_ISDIR(_sftp_stat(where).st_mode or 0)
        return bool(where.service.info(where.path)["type"] == "directory")
    except FileNotFoundError:
        return False


def _s3_keys(where: Location) -> Iterator[tuple[str, int | None]]:
    """Page by page, each repeated for itself: a long listing must not begin again because of one error."""
    bucket, key, _ = where.service.split_path(where.path)
    prefix = key.rstrip("/") + "/" if key else ""
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = repeat(lambda: where.service.call_s3("list_objects_v2", **options), where.url)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):
                yield entry["Key"][len(prefix) :], int(entry["Size"])
        if not page.get("IsTruncated"):
            return
        options["ContinuationToken"] = page["NextContinuationToken"]


def _found_files(where: Location) -> Iterator[tuple[str, int | None]]:
    """What fsspec's ``find`` gives."""
    folder = where.path.rstrip("/") + "/"
    found = repeat(lambda: where.service.find(folder, detail=True), where.url)
    for name, info in sorted(found.items()):
        if name.startswith(folder):
            yield name[len(folder) :], version_of(info).size


class _Links(HTMLParser):
    """The addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep ``href`` of ``<a>``."""
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _web_files(where: Location) -> Iterator[tuple[str, int | None]]:
    """The links of the folder's page that lead below it, and of the pages of folders in it."""
    base = re.split("[?#]", where.url)[0].rstrip("/") + "/"
    plain = re.sub("//[^/@]*@", "//", base)  # links do not hold the password
    folders, seen = [""], {""}
    while folders:
        folder = folders.pop()
        page = remote_object(locate(base + folder))
        links = _Links()
        answer = repeat(functools.partial(page.part, 0, _LONGEST_PAGE), where.url)
        links.feed(answer.data.decode("utf-8", "replace"))
        for link in links.found:
            address = re.split("[?#]", urljoin(plain + folder, link))[0]
            path = address[len(plain) :] if address.startswith(plain) else ""
            if path in seen or any(part in ("", ".", "..") for part in path.rstrip("/").split("/")):
                continue
            seen.add(path)
            if path.endswith("/") and not path.rpartition("/")[0].rpartition("/")[2].startswith("."):
                folders.append(path)
            elif not path.endswith("/"):
                yield path, None


def _sftp_files(where: Location) -> Iterator[tuple[str, int | None]]:
    folders = [""]
    while folders:
        folder = folders.pop()
        place = f"{where.path.rstrip('/')}/{folder}"

        def entries(place: str = place) -> list[Any]:
            with where.service.channel() as channel:
                return list(channel.listdir_attr(place))

        for entry in sorted(repeat(entries, where.url), key=lambda found: str(found.filename)):
            path = f"{folder}{entry.filename}"
            mode = entry.st_mode or 0
            if stat.S_ISDIR(mode) and not entry.filename.startswith("."):
                folders.append(f"{path}/")
            elif not stat.S_ISDIR(mode):
                yield path, entry.st_size


def _sftp_stat(where: Location) -> Any:
    with where.service.channel() as channel:
        return channel.stat(where.path)


def _sftp_write(where: Location, data: bytes) -> None:
    temporary = f"{where.path}.asr-part"
    with where.service.channel() as channel:
        channel.putfo(io.BytesIO(data), temporary)
        channel.posix_rename(temporary, where.path)
