"""Forms with a file, read as they arrive: the file goes to a temporary file, never into memory.

Every part has a bound. A form that stops in the middle is an error, and so is one that pauses too long. The client's
file name is for messages only: folders are cut off, and no path is made of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import unquote

from asr.server.api_errors import ApiError
from asr.server.form_fields import FILE_FIELD, field_name
from asr.server.settings import ServerLimits

FIELD_BYTES = 2**16
"""Longest text field."""
FORM_FIELDS = 64
"""Text fields beside hot words."""
UPLOAD_S = 3600.0
"""Longest time that an upload may take."""
WRITE_BYTES = 2**20
"""Bytes of the file that are held in memory before they are written."""
NAME_CHARACTERS = 120
"""Longest file name in messages."""
# Each damaged form would be a line of the log, with bytes of the client in it; the client gets the reason.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass
class UploadedForm:
    """A form that has arrived: its text fields in order, and its file.

    ``path``: the temporary file; ``name``: the client's name of it without folders, for messages; ``size``: its bytes.
    """

    path: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    name: str = ""
    size: int = 0


@contextlib.asynccontextmanager
async def received_form(
    content_type: str, chunks: AsyncIterator[bytes], limits: ServerLimits
) -> AsyncIterator[UploadedForm]:
    """The form of a request with one file; the temporary file is gone when the block ends.

    Args:
        content_type: the request's header.
        chunks: the request's body.
        limits: ``file_bytes``, ``idle_s`` (longest pause between chunks) and ``hot_words``.

    Raises ``ApiError``: no form (415), no file, an unknown field or a truncated form (400), too large (413), too slow
    (408), or no room on the disk (507).
    """
    boundary = _boundary(content_type)
    try:
        handle, path = tempfile.mkstemp(prefix="asr-upload-")
    except OSError as error:
        raise _no_room(error) from error
    try:
        reader = _FormReader(UploadedForm(path), limits, boundary)
        with open(handle, "wb") as file:
            try:
                async with asyncio.timeout(UPLOAD_S):
                    await _receive(reader, chunks, limits.idle_s, file)
            except TimeoutError as error:
                raise ApiError(408, f"expected the whole upload within {UPLOAD_S:g} s, got a part of it") from error
        yield reader.finished()
    finally:
        os.unlink(path)


async def _receive(reader: _FormReader, chunks: AsyncIterator[bytes], idle_s: float, file: BinaryIO) -> None:
    """Feed a form's reader, and write what it finds of the file in another thread."""
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            raise ApiError(
                408, f"expected the rest of the upload, got nothing for {idle_s:g} s; send it again"
            ) from error
        if chunk is not None:
            reader.feed(chunk)
        if reader.found and (chunk is None or len(reader.found) >= WRITE_BYTES):
            data, reader.found = bytes(reader.found), bytearray()
            try:
                await asyncio.to_thread(_write, file, data)
            except OSError as error:
                raise _no_room(error) from error
        if chunk is None:
            return


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()


class _FormReader:
    """Takes a form apart. ``found``: bytes of the file that are not written yet."""

    def __init__(self, form: UploadedForm, limits: ServerLimits, boundary: bytes) -> None:
        from python_multipart import exceptions, multipart

        self.form = form
        self.limits = limits
        self.found = bytearray()
        self.complete = False
        self._failure: type[Exception] = exceptions.FormParserError
        self._header = {"field": bytearray(), "value": bytearray()}
        self._disposition = b""
        self._field = ""
        self._text: bytearray | None = None
        """The text field under way; None in the file."""
        self._files = 0
        callbacks: Any = {
            "on_part_begin": self._begin_part,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_header_field": lambda data, start, end: self._header["field"].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header["value"].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_end": self._end,
        }
        self._parser = multipart.MultipartParser(boundary, callbacks)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body. Raises ``ApiError``."""
        try:
            self._parser.write(chunk)
        except self._failure as error:
            raise ApiError(400, f"expected a form of multipart/form-data, got a damaged one: {error}") from error

    def finished(self) -> UploadedForm:
        """The form, if it is complete and has a file with content. Raises ``ApiError``."""
        if not self.complete:
            raise ApiError(400, "the upload ended in the middle of the form; send it again", code="truncated_upload")
        if any(field_name(name)[0] == FILE_FIELD for name, _ in self.form.fields):
            raise ApiError(400, "file: expected a part with a file name, got a text field", param=FILE_FIELD)
        if not self._files:
            raise ApiError(400, "file: expected an audio file, got none", param=FILE_FIELD)
        if not self.form.size:
            raise ApiError(400, f"{self.form.name}: expected audio, got an empty file", param=FILE_FIELD)
        return self.form

    def _begin_part(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        if bytes(self._header["field"]).lower() == b"content-disposition":
            self._disposition = bytes(self._header["value"])
        self._header = {"field": bytearray(), "value": bytearray()}

    def _begin_content(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise ApiError(400, "expected a name in each part of the form, got a part without one")
        self._field = options[b"name"].decode("utf-8", "replace")
        base, _ = field_name(self._field)
        name = _file_name(self._disposition, options)
        if name is None:
            self._text = bytearray()
            return
        if base != FILE_FIELD:
            raise ApiError(400, f"{base}: expected text, got a file", param=base)
        self._files += 1
        if self._files > 1:
            raise ApiError(400, "file: expected one file, got several; send one request for each", param=FILE_FIELD)
        self._text = None
        self.form.name = safe_name(name)

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._text is None:
            self.form.size += end - start
            if self.form.size > self.limits.file_bytes:
                raise too_large(self.limits)
            self.found += data[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES:
            raise ApiError(400, f"{self._field}: expected at most {FIELD_BYTES} bytes, got more", param=self._field)

    def _end_part(self) -> None:
        if self._text is None:
            return
        if len(self.form.fields) >= FORM_FIELDS + self.limits.hot_words:
            raise ApiError(400, f"expected at most {FORM_FIELDS + self.limits.hot_words} fields, got more")
        try:
            self.form.fields.append((self._field, self._text.decode("utf-8")))
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x} at {error.start}"
            raise ApiError(400, f"{self._field}: expected text in UTF-8, got {found}", param=self._field) from error
        self._text = bytearray()

    def _end(self) -> None:
        self.complete = True


def too_large(limits: ServerLimits) -> ApiError:
    """The answer to a body that is larger than a file may be."""
    most = f"{round(limits.file_bytes / 2**20, 2):g} MiB"
    return ApiError(413, f"file: expected at most {most}, got more; cut the recording", param=FILE_FIELD)


def _no_room(error: OSError) -> ApiError:
    return ApiError(507, f"the server cannot keep the upload: {error.strerror or error}")


def safe_name(name: str) -> str:
    """The last part of a client's path, printable and of bounded length; ``audio`` where nothing is left."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(character if character.isprintable() else "_" for character in last).strip(". ")
    return shown[-NAME_CHARACTERS:] or "audio"


def _file_name(disposition: bytes, options: Mapping[bytes, bytes]) -> str | None:
    """The file name of a part, also where it is encoded (RFC 5987), as older clients send it; None for text."""
    if b"filename" in options:
        return options[b"filename"].decode("utf-8", "replace")
    encoded = re.search(rb"""filename\*\s*=\s*[\w-]*'[\w-]*'([^;\s]*)""", disposition, re.IGNORECASE)
    return None if encoded is None else unquote(encoded[1].decode("latin-1"))


def _boundary(content_type: str) -> bytes:
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        got = repr(content_type[:60]) if content_type else "none"
        raise ApiError(415, f"Content-Type: expected multipart/form-data with a field file, got {got}")
    boundary: bytes = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise ApiError(400, "Content-Type: expected a boundary of multipart/form-data, got none")
    return boundary
