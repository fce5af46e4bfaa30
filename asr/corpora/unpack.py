"""Archives unpacked within bounds, whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from asr.audio.archive_index import DAMAGED
from asr.audio.tar_headers import checked_headers
from asr.corpora.download import BLOCK, ArchiveError


def unpack_archive(archive: Path, target: Path, *, max_bytes: int, max_members: int) -> Path:
    """Unpack a tar archive (any compression tarfile reads) or a zip file into the folder ``target``, all or nothing.

    Raises ``ArchiveError`` naming archive and member for: a path that is absolute or leaves the target, a link, a
    device, the same path twice, more than ``max_members`` members or ``max_bytes`` unpacked bytes, a damaged file.
    """
    if os.path.exists(target):
        raise ArchiveError(f"{target}: exists already; remove it or choose another folder")
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        if archive.suffix.lower() == ".zip":
            _unpack_zip(archive, staging, max_bytes, max_members)
        else:
            _unpack_tar(archive, staging, max_bytes, max_members)
        staging.replace(target)
    except DAMAGED as error:
        raise ArchiveError(f"{archive}: cannot unpack: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def unpack_into(archive: Path, target: Path, *, max_bytes: int, max_members: int) -> Path:
    """``unpack_archive`` beside what ``target`` holds already; files of the same name are replaced."""
    fresh = target.with_name(f".{target.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        unpack_archive(archive, fresh, max_bytes=max_bytes, max_members=max_members)
        _merge(fresh, target)
    except OSError as error:
        raise ArchiveError(f"{target}: cannot unpack {archive}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _merge(source: Path, target: Path) -> None:
    if os.path.isdir(source) and os.path.isdir(target):
        for path in sorted(source.iterdir()):
            _merge(path, target / path.name)
    else:
        source.replace(target)


def _unpack_tar(archive: Path, staging: Path, max_bytes: int, max_members: int) -> None:
    headers = checked_headers(lambda text: ArchiveError(f"{archive}: {text}"), max_members)
    with tarfile.open(archive, tarinfo=headers) as tar:
        members = []
        seen: set[str] = set()
        size = 0
        for member in tar:
            _check_member(archive, member, seen)
            size += member.size
            member.pax_headers = {}  # they were applied; a million members need not keep them
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
