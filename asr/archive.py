"""Downloading and unpacking corpora, safely: what recipes share.

An archive from the network is input like any other. Members that would land outside the target, links, devices,
duplicates, and archives that unpack to more than they should are refused before anything is written.
"""

from __future__ import annotations

import hashlib
import http.client
import lzma
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from asr.errors import AsrError

BLOCK = 1 << 20
TIMEOUT_S = 60


class ArchiveError(AsrError):
    """A download or an archive that is missing, damaged, or not safe to unpack."""


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) address rather than a local path."""
    return source.startswith(("http://", "https://"))


def fetch(url: str, target: Path, *, max_bytes: int, sha256: str | None = None) -> Path:
    """Download ``url`` to the file ``target``, with a progress bar; an interrupted download leaves no ``target``.

    Raises ``ArchiveError`` naming the address: unreachable, larger than ``max_bytes``, cut short, wrong ``sha256``.
    """
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{target}: cannot write: {error}") from error
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
            total = int(answer.headers.get("Content-Length") or 0)
            if total > max_bytes:
                raise ArchiveError(f"{url}: {total} bytes, expected at most {max_bytes}")
            bar = tqdm(total=total or None, unit="B", unit_scale=True, desc=target.name, disable=None)
            with bar:
                done = 0
                while block := answer.read(BLOCK):
                    done += len(block)
                    if done > max_bytes:
                        raise ArchiveError(f"{url}: more than {max_bytes} bytes came, stopped")
                    digest.update(block)
                    file.write(block)
                    bar.update(len(block))
        if total and done != total:
            raise ArchiveError(f"{url}: {done} of {total} bytes came; try again")
        if sha256 and digest.hexdigest() != sha256:
            raise ArchiveError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256}")
        part.replace(target)
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        hint = "download it by other means and pass the file with --source"
        raise ArchiveError(f"{url}: cannot download: {error}; {hint}") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def unpack(archive: Path, target: Path, *, max_bytes: int, max_members: int) -> Path:
    """Unpack a tar archive (any compression tarfile reads) into the folder ``target``, all of it or nothing.

    Raises ``ArchiveError`` naming archive and member for: a path that is absolute or leaves the target, a link, a
    device, the same path twice, more than ``max_members`` members or ``max_bytes`` unpacked bytes, a damaged file.
    """
    if target.exists():
        raise ArchiveError(f"{target}: exists already")
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            members = []
            seen: set[str] = set()
            size = 0
            for member in tar:
                _check_member(archive, member, seen)
                size += member.size
                members.append(member)
                if len(members) > max_members:
                    raise ArchiveError(f"{archive}: more than {max_members} members")
                if size > max_bytes:
                    raise ArchiveError(f"{archive}: unpacks to more than {max_bytes} bytes (at {member.name})")
            _check_tail(archive, tar, max_bytes)
            staging.mkdir(parents=True)
            for member in tqdm(members, desc=f"unpacking {archive.name}", disable=None, leave=False):
                tar.extract(member, staging, filter="data")
        staging.replace(target)
    except (OSError, EOFError, ValueError, OverflowError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(f"{archive}: cannot unpack: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _check_member(archive: Path, member: tarfile.TarInfo, seen: set[str]) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise ArchiveError(f"{archive}: member {member.name!r} would be written outside the target")
    if not (member.isfile() or member.isdir()):
        raise ArchiveError(f"{archive}: member {member.name!r} is a link or a device; expected files and folders")
    if member.size < 0:
        raise ArchiveError(f"{archive}: member {member.name!r} has a size of {member.size} bytes")
    key = str(path).casefold()
    if member.isfile():
        if key in seen:
            raise ArchiveError(f"{archive}: member {member.name!r} is there twice")
        seen.add(key)


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
