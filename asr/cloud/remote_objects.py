"""One object at a URL: its size and version, and parts of it that are proven to be of that version.

A version is what the service says of the content: an ETag (S3, HTTP), a generation (Google), or the time of the last
change and the size (SFTP, and HTTP servers without ETags). Each request asks for the version that reading began with,
or compares it afterwards, so that bytes of two versions are never joined.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from asr.cloud.addresses import without_secrets
from asr.cloud.filesystems import Location
from asr.cloud.retries import ChangedError, ShortError, status_of
from asr.errors import CloudError

LARGEST_WHOLE = 1 << 30
"""Bytes that are read at once from a web server that knows no ranges."""


@dataclass(frozen=True)
class Version:
    """Size in bytes of an object, and a text that changes with its content; empty if the service gives none."""

    size: int
    tag: str = ""


@dataclass(frozen=True)
class ObjectPart:
    """Bytes of an object, from ``start``, and the version that they are of."""

    start: int
    data: bytes
    version: Version


class RemoteObject:
    """An object of any file system that fsspec knows."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.service = location.service
        self.path = location.path

    def version(self) -> Version:
        """Size and tag as they are now. Raises ``IsADirectoryError``, and errors of the service."""
        info = self.service.info(self.path)
        if info.get("type") == "directory":
            raise IsADirectoryError("expected an object, got a folder")
        return version_of(info)

    def part(self, start: int, end: int, expected: Version | None = None) -> ObjectPart:
        """The bytes from ``start`` to ``end``, fewer at the end of the object.

        ``expected``: the version that they must be of. Raises ``ChangedError`` where they are of another,
        ``ShortError`` for an answer that was cut off, and errors of the service.
        """
        before = expected or self.version()
        end = min(end, before.size)
        data = self._bytes(start, end, before) if start < end else b""
        if self.version() != before:
            raise ChangedError("changed")
        return _checked(start, end, data, before)

    def _bytes(self, start: int, end: int, version: Version) -> bytes:
        return bytes(self.service.cat_file(self.path, start=start, end=end))


class _GoogleObject(RemoteObject):
    """Google keeps a generation until it is replaced, and gives no other for it."""

    def part(self, start: int, end: int, expected: Version | None = None) -> ObjectPart:
        before = expected or self.version()
        end = min(end, before.size)
        try:
            data = self._bytes(start, end, before) if start < end else b""
        except FileNotFoundError:
            if expected is not None:
                raise ChangedError("changed") from None
            raise
        return _checked(start, end, data, before)

    def _bytes(self, start: int, end: int, version: Version) -> bytes:
        return bytes(self.service.cat_file(self.path, start=start, end=end, generation=version.tag or None))


class _S3Object(RemoteObject):
    """S3 answers with size and ETag, so that the first part needs no question before it."""

    def part(self, start: int, end: int, expected: Version | None = None) -> ObjectPart:
        if expected is not None:
            end = min(end, expected.size)
            if start >= end:
                return ObjectPart(start, b"", expected)
        from fsspec.asyn import sync

        found: ObjectPart = sync(self.service.loop, self._get, start, end, expected)
        return found

    async def _get(self, start: int, end: int, expected: Version | None) -> ObjectPart:
        bucket, key, number = self.service.split_path(self.path)
        options: dict[str, Any] = {"Range": f"bytes={start}-{end - 1}"}
        options |= {"VersionId": number} if number else {}
        options |= {"IfMatch": expected.tag} if expected is not None and expected.tag else {}
        try:
            answer = await self.service._call_s3("get_object", Bucket=bucket, Key=key, **options)
        except Exception as error:
            if status_of(error) == 412:
                raise ChangedError("changed") from None
            if status_of(error) == 416:
                return _beyond(start, expected)
            raise
        try:
            data = await answer["Body"].read()
        finally:
            answer["Body"].close()
        return _answered(start, end, data, answer.get("ContentRange"), answer.get("ETag") or "", expected)


class _WebObject(RemoteObject):
    """HTTP: as S3, for servers that know ranges and for those that do not."""

    def version(self) -> Version:
        """From the answer for the first byte: not every server answers HEAD."""
        from fsspec.asyn import sync

        found: ObjectPart = sync(self.service.loop, self._get, 0, 1, None, True)
        return found.version

    def part(self, start: int, end: int, expected: Version | None = None) -> ObjectPart:
        if expected is not None:
            end = min(end, expected.size)
            if start >= end:
                return ObjectPart(start, b"", expected)
        from fsspec.asyn import sync

        found: ObjectPart = sync(self.service.loop, self._get, start, end, expected)
        return found

    async def _get(self, start: int, end: int, expected: Version | None, brief: bool = False) -> ObjectPart:
        """The part. ``brief``: without its bytes, where the server sends the whole and says how long it is."""
        session = await self.service.set_session()
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        async with session.get(self.service.encode_url(self.path), headers=headers) as answer:
            if answer.status == 416:
                return _beyond(start, expected)
            answer.raise_for_status()
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            if answer.status == 206:
                span = answer.headers.get("Content-Range")
                return _answered(start, end, await answer.read(), span, tag, expected)
            # The server knows no ranges and sends the whole.
            length = None if answer.headers.get("Content-Encoding") else answer.content_length
            if brief and length is not None:
                return ObjectPart(0, b"", Version(length, tag))
            data = await self._whole(answer, length or 0)
        version = Version(len(data), tag)
        if expected is not None and version != expected:
            raise ChangedError("changed")
        return ObjectPart(0, data, version) if expected is None else ObjectPart(start, data[start:end], version)

    async def _whole(self, answer: Any, length: int) -> bytes:
        """All bytes of an answer. Raises ``CloudError`` for more than fit into memory."""
        data = bytearray()
        while length <= LARGEST_WHOLE and (block := await answer.content.readany()):
            data += block
            length = max(length, len(data))
        if length > LARGEST_WHOLE:
            raise CloudError(
                f"{without_secrets(self.location.url)}: expected a server that sends parts of a file, or at most "
                f"{LARGEST_WHOLE >> 20} MB at once, got more (a live stream has no end); download it and use the file"
            )
        return bytes(data)


class _SftpObject(RemoteObject):
    """SFTP: the size and the time of the last change of the open file, before and after."""

    def version(self) -> Version:
        import stat

        with self.service.channel() as channel:
            found = channel.stat(self.path)
        if stat.S_ISDIR(found.st_mode or 0):
            raise IsADirectoryError("expected an object, got a folder")
        return _stat_version(found)

    def part(self, start: int, end: int, expected: Version | None = None) -> ObjectPart:
        with self.service.channel() as channel, channel.open(self.path, "rb") as file:
            before = _stat_version(file.stat())
            if expected is not None and before != expected:
                raise ChangedError("changed")
            end = min(end, before.size)
            data = b"".join(file.readv([(start, end - start)])) if start < end else b""
            if _stat_version(file.stat()) != before:
                raise ChangedError("changed")
        return _checked(start, end, data, before)


class ObjectSlice(RemoteObject):
    """``size`` bytes of an object from ``at``, of one version of it, as an object of their own."""

    def __init__(self, whole: RemoteObject, at: int, size: int, version: Version) -> None:
        super().__init__(whole.location)
        self._whole, self._at, self._of = whole, at, version
        self._own = Version(size, version.tag)

    def version(self) -> Version:
        """Size of the slice, and the tag that it must be of."""
        return self._own

    def part(self, start: int, end: int, expected: Version | None = None) -> ObjectPart:
        """As of any object. Raises ``ChangedError`` where the whole is another by now."""
        end = min(end, self._own.size)
        if start >= end:
            return ObjectPart(start, b"", self._own)
        found = self._whole.part(self._at + start, self._at + end, self._of)
        return ObjectPart(start, found.data, self._own)


def remote_object(location: Location) -> RemoteObject:
    """The object at a place; whether there is one is seen when it is asked."""
    kinds: dict[str, type[RemoteObject]] = {"s3": _S3Object, "s3a": _S3Object}
    kinds |= {"gs": _GoogleObject, "gcs": _GoogleObject, "https": _WebObject, "http": _WebObject, "sftp": _SftpObject}
    return kinds.get(location.scheme, RemoteObject)(location)


def version_of(info: dict[str, Any]) -> Version:
    """The version in what fsspec says of an object."""
    names = ("generation", "ETag", "etag", "Last-Modified", "mtime", "modified", "created", "LastModified")
    tag = next((str(info[name]) for name in names if info.get(name)), "")
    return Version(int(info.get("size") or 0), tag)


def _stat_version(found: Any) -> Version:
    return Version(int(found.st_size or 0), f"{found.st_mtime}")


def _beyond(start: int, expected: Version | None) -> ObjectPart:
    """The answer "no such range": an empty object, or one that has become shorter."""
    if start or expected is not None:
        raise ChangedError("changed")
    return ObjectPart(0, b"", Version(0))


def _answered(start: int, end: int, data: bytes, span: str | None, tag: str, expected: Version | None) -> ObjectPart:
    """The part in an answer whose ``Content-Range`` is ``span``."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", span or "")
    if found is None or int(found[1]) != start:
        raise OSError(f"expected the bytes from {start}, got an answer with the range {span!r}")
    version = Version(int(found[3]), tag)
    if expected is not None and version != expected:
        raise ChangedError("changed")
    return _checked(start, min(end, version.size), data, version)


def _checked(start: int, end: int, data: bytes, version: Version) -> ObjectPart:
    if len(data) != max(0, end - start):
        raise ShortError(f"expected {max(0, end - start)} bytes, got {len(data)}")
    return ObjectPart(start, data, version)
