"""Members of archives as files: parts of the archive, or their content in memory and, where it is large, on the disk.

A member of a compressed tar file is found by reading the archive from its beginning. Each process keeps the place where
it stopped, so members that are opened in their order cost one reading.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import tarfile
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from asr.audio.archive_index import (
    DAMAGED,
    DEFLATED,
    STREAMED,
    ArchiveMember,
    MemberPath,
    archive_version,
    decompressed,
    member_path,
    open_archive,
    plain_name,
)
from asr.audio.tar_headers import walk_headers
from asr.cloud.addresses import is_url, without_secrets
from asr.cloud.remote_objects import Version
from asr.errors import AudioError, CloudError

IN_MEMORY = 16 << 20
"""Larger members, unpacked, lie in a temporary file."""
_BLOCK = 1 << 18
_AT_ONCE = 1 << 20
"""Bytes that come with the first request for a member at a URL."""
_ZIP_HEADER = 30
_SLACK = 512
"""Bytes by which a zip file's header of a member may be longer than the list of members says."""
_KEPT = 64
"""Members that were passed on the way to another one and are kept; threads open members nearly in their order."""
_KEPT_BYTES = 256 << 20
_KEPT_TAKEN_BYTES = 64 << 20
"""Of members that were opened: channels and parts of a recording are often opened one behind the other. Two large ones,
in temporary files, are kept."""
_STREAMS = 4
"""Compressed archives that a process keeps open."""


def open_member(path: MemberPath) -> BinaryIO:
    """The member as a binary file that seeks and has its path as ``name``.

    Raises ``AudioError`` for an archive that cannot be read or has changed, and for a member that is damaged.
    """
    member, shown = path.member, without_secrets(path)
    try:
        if member.copy:
            return _named(io.FileIO(member.copy), shown)
        if member.kind == STREAMED:
            return _stream_of(member).take(member, shown)
        return _from_zip(member, shown) if member.crc is not None else _part(member, member.at, member.size, shown)
    except CloudError as error:
        raise AudioError(str(error)) from error
    except AudioError:
        raise
    except (*DAMAGED, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AudioError(f"{shown}: cannot be read out of the archive: {reason}") from error


def is_streamed(source: Any) -> bool:
    """Whether this is a member that reading in order makes cheap, and any other order dear."""
    return isinstance(source, MemberPath) and source.member.kind == STREAMED and not source.member.copy


def copy_member(path: MemberPath, folder: str) -> MemberPath:
    """The member with a copy of its content in ``folder``. Raises ``AudioError``, and ``OSError`` for a full disk."""
    member = path.member
    descriptor, copy = tempfile.mkstemp(dir=folder)
    with open_member(path) as file, open(descriptor, "wb") as target:
        while block := file.read(_BLOCK):
            target.write(block)
    return MemberPath(str(path), dataclasses.replace(member, copy=copy))


def _named(file: Any, shown: str) -> BinaryIO:
    """A raw file with a buffer and a name for messages."""
    file.name = shown
    return io.BufferedReader(file, 1 << 16)


def _part(member: ArchiveMember, at: int, size: int, shown: str) -> BinaryIO:
    """Bytes of the archive as a file."""
    if is_url(member.archive):
        from asr.cloud.filesystems import locate  # what they need is imported when a URL comes
        from asr.cloud.range_reader import RangeReader
        from asr.cloud.remote_objects import ObjectSlice, remote_object

        return _named(RangeReader(ObjectSlice(remote_object(locate(member.archive)), at, size, member.version)), shown)
    if archive_version(member.archive) != member.version:
        raise AudioError(f"{shown}: the archive has changed since its members were listed; start again")
    return _named(FilePart(member.archive, at, size), shown)


class FilePart(io.FileIO):
    """``size`` bytes of a file from ``at``, as a raw file with a place of its own.

    ``path``: or the number of an open file, which this one closes.
    """

    def __init__(self, path: str | int, at: int, size: int) -> None:
        super().__init__(path)
        self._at, self._size, self._place = at, size, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"expected a place in the file, got {base + offset}")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self.fileno(), max(0, min(len(view), self._size - self._place)), self._at + self._place)
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = bytearray(max(0, self._size - self._place))
        view = memoryview(data)
        while len(view) and (count := self.readinto(view)):
            view = view[count:]
        return bytes(data[: len(data) - len(view)])

    read = io.RawIOBase.read  # type: ignore[assignment]  # FileIO's own would read the file


def _from_zip(member: ArchiveMember, shown: str) -> BinaryIO:
    """A member of a zip file: behind its header, whose length only the header itself says."""
    head = _ZIP_HEADER + len(member.name.encode()) + _SLACK
    span = min(head + member.stored, member.version.size - member.at)
    with _part(member, member.at, span, shown) as file:
        fixed = file.read(_ZIP_HEADER)
        if len(fixed) < _ZIP_HEADER or fixed[:4] != b"PK\x03\x04":
            raise AudioError(f"{shown}: expected its header in the archive, got other bytes; copy the archive again")
        start = _ZIP_HEADER + int.from_bytes(fixed[26:28], "little") + int.from_bytes(fixed[28:30], "little")
        if start + member.stored > member.version.size - member.at:
            raise AudioError(f"{shown}: reaches beyond the end of the archive; copy the archive again")
        whole = start + member.stored <= span
        if member.kind == DEFLATED and whole:
            file.seek(start)
            return _file_of(_unpacked(_inflated(file, member, shown), member.size), shown)
        if whole and is_url(member.archive) and member.size <= _AT_ONCE:
            file.seek(start)
            content = file.read(member.size)
            _check_sum((content,), member, shown)
            return _file_of(content, shown)
    if member.kind != DEFLATED and not is_url(member.archive):
        _check_stored(member, member.at + start, shown)
    part = _part(member, member.at + start, member.stored, shown)
    if member.kind != DEFLATED:
        return part
    with part:
        return _file_of(_unpacked(_inflated(part, member, shown), member.size), shown)


@functools.lru_cache(maxsize=1 << 16)
def _check_stored(member: ArchiveMember, at: int, shown: str) -> None:
    """Compare the bytes of a member that is not compressed with the listed checksum, once."""
    with _part(member, at, member.stored, shown) as file:
        _check_sum(iter(lambda: file.read(_BLOCK), b""), member, shown)


def _check_sum(blocks: Iterable[bytes], member: ArchiveMember, shown: str) -> None:
    size, checksum = 0, 0
    for block in blocks:
        size, checksum = size + len(block), zlib.crc32(block, checksum)
    _check_content(size, checksum, member, shown)


def _check_content(size: int, checksum: int, member: ArchiveMember, shown: str) -> None:
    if size != member.size or checksum != member.crc:
        got = "more" if size > member.size else f"{size} bytes and another checksum"
        raise AudioError(
            f"{shown}: damaged in the archive: expected {member.size} bytes and the listed checksum, got {got}; "
            "copy the archive again"
        )


def _inflated(file: BinaryIO, member: ArchiveMember, shown: str) -> Iterator[bytes]:
    """The content of a deflated member; no more than its stated size is ever unpacked."""
    inflater, checksum, size, left = zlib.decompressobj(-15), 0, 0, member.stored
    while not inflater.eof:
        data = inflater.unconsumed_tail
        if not data:
            data = file.read(min(_BLOCK, left))
            left -= len(data)
        block = inflater.decompress(data, _BLOCK)
        if not block and not data:
            break
        size += len(block)
        if size > member.size:
            break
        checksum = zlib.crc32(block, checksum)
        yield block
    _check_content(size, checksum, member, shown)


def _unpacked(blocks: Iterator[bytes], size: int) -> bytes | FilePart:
    """Content in memory or, where it is large, in a temporary file that goes when it is closed."""
    if size <= IN_MEMORY:
        return b"".join(blocks)
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            file.write(block)
        file.flush()
        return FilePart(os.dup(file.fileno()), 0, size)


def _file_of(content: bytes | FilePart, shown: str) -> BinaryIO:
    """Content as a file with a name for messages."""
    if isinstance(content, FilePart):
        return _named(content, shown)
    memory = io.BytesIO(content)
    memory.name = shown
    return memory


_streams: OrderedDict[tuple[str, Version], ArchiveStream] = OrderedDict()
_streams_lock = threading.Lock()


def _stream_of(member: ArchiveMember) -> ArchiveStream:
    """The one stream of this process through an archive as it was listed."""
    key = member.archive, member.version
    with _streams_lock:
        stream = _streams.pop(key, None) or ArchiveStream(member.archive)
        _streams[key] = stream
        if len(_streams) > _STREAMS:
            _streams.popitem(last=False)  # who reads it has it still
        return stream


class _Kept:
    """The last contents by their numbers: at most ``_KEPT``, of at most ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._contents: OrderedDict[int, bytes | FilePart] = OrderedDict()

    def put(self, number: int, content: bytes | FilePart) -> None:
        self._contents[number] = content
        self._bytes += self._counted(content)
        while len(self._contents) > _KEPT or self._bytes > self._most:
            self.pop(next(iter(self._contents)))

    def pop(self, number: int) -> bytes | FilePart | None:
        content = self._contents.pop(number, None)
        self._bytes -= 0 if content is None else self._counted(content)
        return content

    def _counted(self, content: bytes | FilePart) -> int:
        return len(content) if isinstance(content, bytes) else self._most // 2


class ArchiveStream:
    """Reads a compressed tar file from its beginning to its end; for any number of threads, one at a time.

    Members that were passed or opened are kept for a while. For one that was dropped the archive is read again.
    """

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._headers: Iterator[tuple[int, tarfile.TarInfo, tarfile.TarFile]] = iter(())
        self._close: Callable[[], object] = lambda: None
        self._next = -1
        """Number of the member that comes next; -1 before the archive is opened."""
        self._passed, self._taken = _Kept(_KEPT_BYTES), _Kept(_KEPT_TAKEN_BYTES)

    def take(self, member: ArchiveMember, shown: str) -> BinaryIO:
        """A member as a file of the caller's own. Raises ``AudioError`` and the errors of ``DAMAGED``."""
        with self._lock:
            content = self._passed.pop(member.at)
            if content is None:
                content = self._taken.pop(member.at)
            try:
                if content is None:
                    if not 0 <= self._next <= member.at:
                        self._open(member)
                    content = self._forward(member, shown)
            except BaseException:
                self._close()
                self._next = -1
                raise
            own = content if isinstance(content, bytes) else FilePart(os.dup(content.fileno()), 0, member.size)
            self._taken.put(member.at, content)
            return _file_of(own, shown)

    def _open(self, member: ArchiveMember) -> None:
        self._close()
        if archive_version(self._archive) != member.version:
            shown = without_secrets(member_path(self._archive, member.name))
            raise AudioError(f"{shown}: the archive has changed since its members were listed; start again")
        raw = open_archive(self._archive)
        stream = decompressed(raw)
        assert stream is not None, self._archive
        self._headers = walk_headers(self._archive, stream)

        def close() -> None:
            stream.close()
            raw.close()

        self._close, self._next = close, 0

    def _forward(self, member: ArchiveMember, shown: str) -> bytes | FilePart:
        for number, header, tar in self._headers:
            self._next = number + 1
            if number < member.at:
                if header.isfile() and header.size <= IN_MEMORY:
                    self._passed.put(number, b"".join(_blocks(tar, header)))
                continue
            if (plain_name(header.name), header.size) != (member.name, member.size):
                raise AudioError(f"{shown}: expected this member in the archive, got {header.name!r}; start again")
            return _unpacked(_blocks(tar, header), member.size)
        raise AudioError(f"{shown}: no longer in the archive; start again")


def _blocks(tar: tarfile.TarFile, header: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(header)
    assert file is not None
    left = header.size
    while left:
        block = file.read(min(_BLOCK, left))
        if not block:
            raise EOFError("the archive ends within it")
        left -= len(block)
        yield block
