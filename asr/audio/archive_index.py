"""What lies where in an archive (zip, tar, compressed tar) on this machine or at a URL, which is not unpacked.

A member is called by a path through its archive: ``calls.zip/2026/a.wav``. A zip file has a list of its members. A tar
file has none: it is read once from its beginning to its end. Sizes are bounded (zip bombs), and so are headers.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import json
import lzma
import os
import posixpath
import stat
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self, cast

from asr.audio.tar_headers import MOST_MEMBERS, walk_headers
from asr.cloud.addresses import is_url, join_url, url_name, without_secrets
from asr.cloud.remote_objects import Version
from asr.errors import AudioError, CloudError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OTHER_ARCHIVES = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz4", ".gz", ".bz2", ".xz", ".zst")
"""Files of these suffixes are refused."""
STORED, DEFLATED, STREAMED = range(3)
"""How the bytes of a member are read: as they stand, through zlib, or by reading the archive from its beginning."""
DAMAGED = (
    OSError, EOFError, KeyError, ValueError, OverflowError, RuntimeError, NotImplementedError, tarfile.TarError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What the standard library raises for archives that cannot be read."""
MOST_UNPACKED = 4 << 30
"""Bytes of a member that is compressed."""
_MOST_GROWTH = 200
"""How many times its own size a compressed archive may unpack to, beside ``MOST_UNPACKED``."""
_MOST_KEPT = 300_000
"""Members whose places are kept, of all archives together; the archive that was used last is always kept."""
LARGEST_TEXT = 1 << 20
"""Bytes of a member with texts (.json, .txt)."""
MOST_TEXTS = 512 << 20
"""Bytes of all texts in a tar file, which stay in memory."""
_BLOCK = 1 << 20
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file), b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile
}  # fmt: skip
"""What reads a compressed file, by the file's first bytes: ``.tar`` may be compressed, and ``.tgz`` may be not."""
_ZIP_START = b"PK\3\4"


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file in an archive.

    ``at``: where its content begins; in a zip file where its header begins; in a compressed tar file its number among
    the members. ``stored``, ``size``: its bytes in the archive and unpacked. ``kind``: ``STORED``, ``DEFLATED`` or
    ``STREAMED``. ``version``: of the archive. ``copy``: a file that has the content already.
    """

    archive: str
    name: str
    at: int
    stored: int
    size: int
    kind: int
    version: Version
    crc: int | None = None
    copy: str = ""


class MemberPath(str):
    """The path of a member as text, which also knows where in its archive it lies."""

    member: ArchiveMember

    def __new__(cls, text: str, member: ArchiveMember) -> Self:
        made = super().__new__(cls, text)
        made.member = member
        return made

    def __getnewargs__(self) -> Any:
        return str(self), self.member


@dataclass
class ArchiveIndex:
    """The files in an archive in their order, by name; ``problems``: what is wrong with it or with some of them."""

    archive: str
    members: dict[str, ArchiveMember] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    """The content of members with texts, where they were passed on the way (tar)."""

    def path(self, name: str) -> MemberPath:
        """The path of a member."""
        return MemberPath(member_path(self.archive, name), self.members[name])

    def key(self, name: str) -> str:
        """The name up to the first dot of its last part: what the members of one utterance share (WebDataset)."""
        folder, last = os.path.split(name)
        return os.path.join(folder, last.partition(".")[0])

    def utterance_id(self, name: str) -> str:
        """The id of a recording: its name or, beside a ``.json`` in a tar file, that of the utterance."""
        text = self.texts.get(f"{self.key(name)}.json")
        if text is None:
            return name
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(text)
            if isinstance(record, dict) and isinstance(record.get("id"), str) and record["id"]:
                return str(record["id"])
        return self.key(name)


def is_archive(path: str) -> bool:
    """Whether ``path`` ends as an archive that can be read; a folder of this machine is none."""
    name = url_name(path) if is_url(path) else path
    return name.lower().endswith(ARCHIVE_SUFFIXES) and not (not is_url(path) and os.path.isdir(path))


def member_path(archive: str, name: str) -> str:
    """The path of a member through its archive."""
    return join_url(archive, "").rstrip("/") + "/" + name if is_url(archive) else os.path.join(archive, name)


def split_archive(path: str) -> tuple[str, str] | None:
    """The archive and the name in it that a path such as ``calls.zip/a.wav`` stands for; None for any other path."""
    if not any(f"{suffix}/" in path.lower() for suffix in ARCHIVE_SUFFIXES):
        return None
    scheme, mark, rest = path.partition("://") if is_url(path) else ("", "", path)
    parts = rest.split("/")
    for count in range(1, len(parts)):
        archive = scheme + mark + "/".join(parts[:count])
        if not parts[count - 1].lower().endswith(ARCHIVE_SUFFIXES) or not "/".join(parts[count:]):
            continue
        if (mark and count > 1) or (not mark and os.path.isfile(archive)):
            return archive, "/".join(parts[count:])
    return None


def archive_version(archive: str) -> Version:
    """Size and version of the archive as it is now. Raises ``CloudError`` and ``OSError``."""
    if is_url(archive):
        from asr.cloud.inputs import input_version  # what it needs is imported when a URL comes

        return input_version(archive)
    status = os.stat(archive)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("expected a file")
    return Version(status.st_size, str(status.st_mtime_ns))


def open_archive(archive: str) -> BinaryIO:
    """The archive as a binary file. Raises ``CloudError`` and ``OSError``."""
    if is_url(archive):
        from asr.cloud.inputs import open_input

        return open_input(archive)
    return open(archive, "rb")


def read_index(archive: str) -> ArchiveIndex:
    """What is in an archive. Raises ``AudioError`` where nothing of it can be read."""
    try:
        return _indices.get(archive, archive_version(archive))
    except CloudError as error:
        raise AudioError(str(error)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise AudioError(f"{archive}: cannot read the archive: {reason}") from error


def find_member(path: str) -> MemberPath | None:
    """The member that a path through an archive stands for; None where it leads through no archive.

    Raises ``AudioError`` for an archive that cannot be read or has no such member.
    """
    found = split_archive(path)
    if found is None:
        return None
    archive, name = found[0], plain_name(found[1])
    if is_url(archive) and not _is_object(archive):  # a folder of a bucket may be called so
        return None
    index = read_index(archive)
    if name not in index.members:
        raise AudioError(f"{without_secrets(path)}: no such member in {without_secrets(archive)}")
    return index.path(name)


@functools.lru_cache(maxsize=256)
def _is_object(url: str) -> bool:
    from asr.cloud.inputs import input_exists, is_folder

    try:
        return input_exists(url) and not is_folder(url)
    except CloudError as error:
        raise AudioError(str(error)) from error


class _Indices:
    """The indices that were used last; for any number of threads, of which one reads an archive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, Version], threading.Lock] = {}
        self._kept: OrderedDict[tuple[str, Version], tuple[ArchiveIndex, int]] = OrderedDict()
        self._size = 0

    def get(self, archive: str, version: Version) -> ArchiveIndex:
        """The index. Raises as ``_listed``."""
        key = archive, version
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            try:
                with self._lock:
                    found = self._pop(key)
                if found is None:
                    index = _listed(archive, version)
                    found = index, _size(index)
                with self._lock:
                    self._kept[key] = found
                    self._size += found[1]
                    while self._size > _MOST_KEPT and len(self._kept) > 1:
                        self._pop(next(iter(self._kept)))
            finally:
                with self._lock:
                    self._turns.pop(key, None)
        return found[0]

    def _pop(self, key: tuple[str, Version]) -> tuple[ArchiveIndex, int] | None:
        found = self._kept.pop(key, None)
        self._size -= 0 if found is None else found[1]
        return found


def _size(index: ArchiveIndex) -> int:
    """The memory of an index in members, about; a text counts by its bytes."""
    return 10 + len(index.members) + sum(map(len, index.texts.values())) // 500


_indices = _Indices()


def _listed(archive: str, version: Version) -> ArchiveIndex:
    index = ArchiveIndex(archive)
    shown = without_secrets(archive)
    name = (url_name(archive) if is_url(archive) else archive).lower()
    with open_archive(archive) as file:
        zipped = name.endswith(".zip") or _begins(file, _ZIP_START)
        stream = None if zipped else decompressed(file)
        if not getattr(file, "parts", True) and stream is None:
            raise CloudError(f"{shown}: expected a server that sends parts of a file, got the whole; download the "
                             "archive and use the file")  # fmt: skip
        try:
            if zipped:
                _read_zip(index, file, version)
            else:
                _read_tar(index, file, stream, version)
        except CloudError:
            raise
        except AudioError as error:
            _note(index, str(error))
        except (*DAMAGED, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            _note(index, f"{shown}: cannot read the archive: {reason}; copy or download it again")
    return index


def _note(index: ArchiveIndex, problem: str) -> None:
    """Keep a problem; what was found before it can be used. Raises ``AudioError`` where that is nothing."""
    if not index.members:
        raise AudioError(problem)
    index.problems.append(problem)


def _add(index: ArchiveIndex, member: ArchiveMember) -> None:
    if len(index.members) >= MOST_MEMBERS:
        raise AudioError(f"{without_secrets(index.archive)}: expected at most {MOST_MEMBERS:,} members, got more")
    if member.name in index.members:
        shown = without_secrets(member_path(index.archive, member.name))
        index.problems.append(f"{shown}: is there twice; the first one is used; give each member its own name")
        return
    index.members[member.name] = member


def _leave_out(index: ArchiveIndex, name: str, reason: str) -> None:
    index.problems.append(f"{without_secrets(index.archive)}: member {name!r} was left out: {reason}")


def leads_out(path: str) -> bool:
    """Whether a name is no place below a folder: ``../a``, ``/a``, ``C:a``."""
    parts = path.replace("\\", "/").split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    return ".." in parts or not parts[0] or "\0" in path or drive or bool(os.path.splitdrive(path)[0])


def plain_name(name: str) -> str:
    """The name without ``./`` and ``//``: ``tar -C FOLDER .`` writes ``./a.wav``."""
    return posixpath.normpath(name)


def _read_zip(index: ArchiveIndex, file: BinaryIO, version: Version) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        end = archive.start_dir
    _check_growth(index.archive, sum(entry.file_size for entry in entries), version.size)
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        # The length of the name behind the header is not added: it depends on the name's encoding.
        if entry.header_offset + 30 + entry.compress_size > end:
            raise AudioError(
                f"{without_secrets(index.archive)}: expected members one behind the other, got {entry.filename!r} "
                "that reaches into the next (damaged, or a zip bomb); make the archive again"
            )
        end = entry.header_offset
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        if name.endswith("/"):  # a folder
            continue
        if leads_out(name):
            _leave_out(index, name, "expected a path below a folder")
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            _leave_out(index, name, "expected a file, got a link or a device")
        elif entry.flag_bits & 1:
            _leave_out(index, name, "it is encrypted; unpack the archive with its password")
        elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _leave_out(index, name, f"expected no compression or deflate, got method {entry.compress_type}; unpack it")
        elif entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            sizes = f"expected {entry.file_size} bytes, got {entry.compress_size}"
            _leave_out(index, name, f"damaged: {sizes}; copy the archive again")
        elif entry.compress_type == zipfile.ZIP_DEFLATED and entry.file_size > MOST_UNPACKED:
            _leave_out(index, name, f"expected at most {MOST_UNPACKED >> 30} GB unpacked; unpack the archive")
        else:
            kind = STORED if entry.compress_type == zipfile.ZIP_STORED else DEFLATED
            place = entry.header_offset, entry.compress_size, entry.file_size
            _add(index, ArchiveMember(index.archive, plain_name(name), *place, kind, version, entry.CRC))


def _check_growth(archive: str, unpacked: int, size: int) -> None:
    if unpacked > _MOST_GROWTH * size + MOST_UNPACKED:
        raise AudioError(
            f"{without_secrets(archive)}: expected at most {_MOST_GROWTH} times its size unpacked, got more (a zip "
            "bomb?); unpack it yourself if you trust it"
        )


def decompressed(file: BinaryIO) -> BinaryIO | None:
    """The bytes of a compressed tar file; None for one without compression."""
    opener = next((each for start, each in _OPENERS.items() if _begins(file, start)), None)
    return None if opener is None else cast(BinaryIO, opener(file))


def _begins(file: BinaryIO, start: bytes) -> bool:
    file.seek(0)
    found = file.read(len(start)) == start
    file.seek(0)
    return found


def _read_tar(index: ArchiveIndex, raw: BinaryIO, stream: BinaryIO | None, version: Version) -> None:
    file = stream or raw
    waiting: ArchiveMember | None = None  # it counts when the bytes behind it are there
    text_bytes = 0
    try:
        for number, header, tar in walk_headers(index.archive, file):
            if waiting is not None:
                _add(index, waiting)
                waiting = None
            if stream is not None:
                _check_growth(index.archive, tar.offset, version.size)
            if header.isdir():
                continue
            if header.size < 0:
                raise AudioError(f"{without_secrets(index.archive)}: member {header.name!r} has {header.size} bytes")
            place = (number if stream is not None else header.offset_data, header.size, header.size)
            name, kind = plain_name(header.name), STORED if stream is None else STREAMED
            member = ArchiveMember(index.archive, name, *place, kind, version)
            if leads_out(header.name):
                _leave_out(index, header.name, "expected a path below a folder")
            elif not header.isfile():
                _leave_out(index, member.name, "expected a file, got a link or a device")
            elif stream is not None and header.size > MOST_UNPACKED:
                _leave_out(index, member.name, f"expected at most {MOST_UNPACKED >> 30} GB; unpack the archive")
            else:
                waiting = member
                if member.name.endswith((".json", ".txt")) and header.size <= LARGEST_TEXT:
                    text_bytes += header.size
                    if text_bytes > MOST_TEXTS:
                        raise AudioError(
                            f"{without_secrets(index.archive)}: expected at most {MOST_TEXTS >> 20} MB of texts "
                            "(.json, .txt) in an archive, got more; make several archives of it"
                        )
                    index.texts[member.name] = _content(tar, header)
        if waiting is not None:
            _add(index, waiting)
            waiting = None
        if stream is not None:
            _read_rest(index.archive, stream, version)
    except AudioError:  # about what follows
        if waiting is not None:
            _add(index, waiting)
        raise
    finally:
        if stream is not None:
            stream.close()


def _content(tar: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(header)
    assert file is not None
    return file.read()


def _read_rest(archive: str, stream: BinaryIO, version: Version) -> None:
    """Read what follows the members: there the compression's checksum is."""
    while stream.read(_BLOCK):
        _check_growth(archive, stream.tell(), version.size)
