"""Downloading and unpacking corpora, safely: what recipes share.

An archive from the network is input like any other. Members that would land outside the target, links, devices,
duplicates, and archives that unpack to more than they should are refused before anything is written.
"""

from __future__ import annotations

import hashlib
import http
import http.client
import lzma
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from asr.errors import AsrError

BLOCK = 1 << 20
TIMEOUT_S = 60
ATTEMPTS = 5
"""Connections in a row that a download may take."""


class ArchiveError(AsrError):
    """A download or an archive that is missing, damaged, or not safe to unpack."""


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) address rather than a local path."""
    return source.startswith(("http://", "https://"))


def fetch(url: str, target: Path, *, max_bytes: int, sha256: str | None = None) -> Path:
    """Download ``url`` to the file ``target``, with a progress bar; a file that is there and has ``sha256`` is taken.

    A download that was cut short stays as ``target`` with ``.part`` and is gone on with, here and by the next call, if
    the server still has the same file (by its ETag or date). There is never half a ``target``.
    Raises ``ArchiveError`` naming the address: unreachable, larger than ``max_bytes``, cut short, wrong ``sha256``.
    """
    part = target.with_name(target.name + ".part")
    if sha256 and target.is_file() and file_sha256(target) == sha256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{target}: cannot write: {error}") from error
    try:
        for attempt in range(1, ATTEMPTS + 1):
            done = part.stat().st_size if part.exists() else 0
            if _download(url, part, max_bytes, target.name):
                break
            # A server that gives nothing new twice has no more to give.
            if attempt == ATTEMPTS or part.stat().st_size <= done:
                size = part.stat().st_size
                _discard(part, unless_resumable=True)
                raise ArchiveError(f"{url}: cut short at {size} bytes; try again")
        found = file_sha256(part)
        if sha256 and found != sha256:
            _discard(part)
            raise ArchiveError(f"{url}: SHA-256 is {found}, expected {sha256}")
        part.replace(target)
        _discard(part)
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        _discard(part, unless_resumable=True)
        hint = "download it by other means and pass the file with --source"
        raise ArchiveError(f"{url}: cannot download: {error}; {hint}") from error
    return target


def _download(url: str, part: Path, max_bytes: int, name: str) -> bool:
    """Append what is missing of ``url`` to ``part``; whether all of it has come."""
    mark = part.with_name(part.name + ".version")
    done = part.stat().st_size if part.exists() and mark.exists() else 0
    request = urllib.request.Request(url)
    if done:
        # If-Range: the rest only if it is a rest of the same file, else the whole of the new one.
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", mark.read_text(encoding="latin-1"))
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            with error:
                if error.headers.get("Content-Range", "").rpartition("/")[2] == str(done):
                    return True
            _discard(part)
            return _download(url, part, max_bytes, name)
        raise
    with answer:
        ranged = answer.headers.get("Content-Range", "")
        if not (answer.status == http.HTTPStatus.PARTIAL_CONTENT and ranged.startswith(f"bytes {done}-")):
            done = 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        sized = "Content-Length" in answer.headers
        if total > max_bytes:
            _discard(part)
            raise ArchiveError(f"{url}: {total} bytes, expected at most {max_bytes}")
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if version and not version.startswith("W/"):
            mark.write_text(version, encoding="latin-1")
        else:
            mark.unlink(missing_ok=True)
        bar = tqdm(total=total if sized else None, initial=done, unit="B", unit_scale=True, desc=name, disable=None)
        with part.open("ab" if done else "wb") as file, bar:
            try:
                while block := answer.read(BLOCK):
                    done += len(block)
                    if done > max_bytes:
                        _discard(part)
                        raise ArchiveError(f"{url}: more than {max_bytes} bytes came, stopped")
                    file.write(block)
                    bar.update(len(block))
            except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
                rest = error.partial if isinstance(error, http.client.IncompleteRead) else b""
                file.write(rest)
                return False
    return not sized or done == total


def _discard(part: Path, *, unless_resumable: bool = False) -> None:
    """Remove a part of a download, unless something of it is there and the server named its version."""
    mark = part.with_name(part.name + ".version")
    if unless_resumable and mark.exists() and part.exists() and part.stat().st_size:
        return
    part.unlink(missing_ok=True)
    mark.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, target: Path, *, max_bytes: int, max_members: int) -> Path:
    """Unpack a tar archive (any compression tarfile reads) or a zip file into the folder ``target``, all or nothing.

    Raises ``ArchiveError`` naming archive and member for: a path that is absolute or leaves the target, a link, a
    device, the same path twice, more than ``max_members`` members or ``max_bytes`` unpacked bytes, a damaged file.
    """
    if target.exists():
        raise ArchiveError(f"{target}: exists already")
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        if archive.suffix.lower() == ".zip":
            _unpack_zip(archive, staging, max_bytes, max_members)
        else:
            _unpack_tar(archive, staging, max_bytes, max_members)
        staging.replace(target)
    except (
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        RuntimeError,  # an encrypted zip file
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise ArchiveError(f"{archive}: cannot unpack: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def unpack_into(archive: Path, target: Path, *, max_bytes: int, max_members: int) -> Path:
    """``unpack`` beside what ``target`` holds already; files of the same name are replaced."""
    fresh = target.with_name(f".{target.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        unpack(archive, fresh, max_bytes=max_bytes, max_members=max_members)
        _merge(fresh, target)
    except OSError as error:
        raise ArchiveError(f"{target}: cannot unpack {archive}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _merge(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            _merge(path, target / path.name)
    else:
        source.replace(target)


def _unpack_tar(archive: Path, staging: Path, max_bytes: int, max_members: int) -> None:
    with tarfile.open(archive) as tar:
        members = []
        seen: set[str] = set()
        size = 0
        for member in tar:
            _check_member(archive, member, seen)
            size += member.size
            members.append(member)
            _check_totals(archive, member.name, len(members), size, max_bytes, max_members)
        _check_tail(archive, tar, max_bytes)
        staging.mkdir(parents=True)
        for member in tqdm(members, desc=f"unpacking {archive.name}", disable=None, leave=False):
            tar.extract(member, staging, filter="data")


def _unpack_zip(archive: Path, staging: Path, max_bytes: int, max_members: int) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        seen: set[str] = set()
        size = 0
        for count, member in enumerate(members, start=1):
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"{archive}: member {member.filename!r} is {NO_FILE}")
            _check_name(archive, member.filename, None if member.is_dir() else seen)
            size += member.file_size
            _check_totals(archive, member.filename, count, size, max_bytes, max_members)
        staging.mkdir(parents=True)
        for member in tqdm(members, desc=f"unpacking {archive.name}", disable=None, leave=False):
            # zipfile stops at the stated size and compares the checksum: what is counted above is what comes.
            file.extract(member, staging)


NO_FILE = "a link or a device; expected files and folders"


def _check_totals(archive: Path, name: str, count: int, size: int, max_bytes: int, max_members: int) -> None:
    if count > max_members:
        raise ArchiveError(f"{archive}: more than {max_members} members")
    if size > max_bytes:
        raise ArchiveError(f"{archive}: unpacks to more than {max_bytes} bytes (at {name})")


def _check_name(archive: Path, name: str, seen: set[str] | None) -> None:
    """Refuse a path outside the target, and one that is in ``seen`` (None for a folder, which may come twice)."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{archive}: member {name!r} would be written outside the target")
    if seen is not None:
        key = str(path).casefold()
        if key in seen:
            raise ArchiveError(f"{archive}: member {name!r} is there twice")
        seen.add(key)


def _check_member(archive: Path, member: tarfile.TarInfo, seen: set[str]) -> None:
    if not (member.isfile() or member.isdir()):
        raise ArchiveError(f"{archive}: member {member.name!r} is {NO_FILE}")
    _check_name(archive, member.name, seen if member.isfile() else None)
    if member.size < 0:
        raise ArchiveError(f"{archive}: member {member.name!r} has a size of {member.size} bytes")


def _check_tail(archive: Path, tar: tarfile.TarFile, max_bytes: int) -> None:
    """Read what follows the last member: tarfile stops before it, and there the compression's checksum is."""
    assert tar.fileobj is not None
    size = 0
    while block := tar.fileobj.read(BLOCK):
        size += len(block)
        if size > max_bytes:
            raise ArchiveError(f"{archive}: more than {max_bytes} bytes behind the last member")


def digest(folder: Path, files: Iterable[str]) -> str:
    """SHA-256 over the named files' relative paths and contents, in sorted order.

    A checksum of what a corpus holds, whichever way it was packed. Raises ``ArchiveError`` for a missing file.
    """
    total = hashlib.sha256()
    for name in sorted(files):
        try:
            content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise ArchiveError(f"{folder / name}: cannot read: {error}") from error
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()
