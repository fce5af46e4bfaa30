"""Bodies of requests that are recordings, with nothing around them: into temporary files as they arrive."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from typing import BinaryIO

from starlette.requests import ClientDisconnect, Request

from asr.server.api_errors import ApiError
from asr.server.settings import ServerLimits

PIECE_BYTES = 2**20
"""Bytes that are held in memory before they are written."""
HEADER_BYTES = 2**24
"""Longest line of JSON ahead of a recording."""


class RawBody:
    """The body of a request, taken piece by piece.

    Every method raises ``ApiError``: 408 where nothing comes for ``limits.idle_s`` seconds, 413 for what is too large,
    400 for a body that ends too early, 507 where the disk is full.
    """

    def __init__(self, request: Request, limits: ServerLimits) -> None:
        self._chunks = request.stream()
        self._limits = limits
        self._held = bytearray()
        self._over = False

    async def _more(self) -> bool:
        """Take the next chunk; False at the end."""
        try:
            async with asyncio.timeout(self._limits.idle_s):
                chunk = await anext(self._chunks, None)
        except TimeoutError as error:
            raise ApiError(
                408, f"expected the rest of the upload, got nothing for {self._limits.idle_s:g} s"
            ) from error
        except ClientDisconnect as error:
            raise ApiError(400, "the upload ended in the middle; send it again", code="truncated_upload") from error
        self._held += chunk or b""
        self._over = chunk is None
        return not self._over

    async def line(self) -> bytes | None:
        """The bytes up to the next line feed; None at the end of the body."""
        searched = 0
        while (end := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            if searched > HEADER_BYTES:
                raise ApiError(413, f"expected a line of at most {HEADER_BYTES} bytes ahead of a recording, got more")
            if not await self._more():
                if self._held.strip():
                    raise ApiError(400, "the upload ended in the middle; send it again", code="truncated_upload")
                return None
        line, self._held = bytes(self._held[:end]), self._held[end + 1 :]
        return line

    @contextlib.asynccontextmanager
    async def file(self, size: int | None = None) -> AsyncIterator[str]:
        """A temporary file with the next ``size`` bytes (None: all that is left), gone when the block ends."""
        if size is not None and size > self._limits.file_bytes:
            raise self._too_large()
        try:
            handle, path = tempfile.mkstemp(prefix="asr-upload-")
        except OSError as error:
            raise no_room(error) from error
        try:
            with open(handle, "wb") as file:
                await self._fill(file, size)
            yield path
        finally:
            os.unlink(path)

    async def _fill(self, file: BinaryIO, size: int | None) -> None:
        count, wanted = 0, self._limits.file_bytes if size is None else size
        while True:
            while not self._over and len(self._held) < min(PIECE_BYTES, wanted - count + 1) and await self._more():
                pass
            piece = bytes(self._held[: wanted - count])
            del self._held[: len(piece)]
            try:
                await asyncio.to_thread(file.write, piece)
            except OSError as error:
                raise no_room(error) from error
            count += len(piece)
            if count == wanted or not piece:
                break
        if size is None and self._held:
            raise self._too_large()
        if not count or (size is not None and count < size):
            raise ApiError(400, f"expected {'a recording' if size is None else f'{size} bytes'}, got {count} bytes")

    def _too_large(self) -> ApiError:
        most = f"{round(self._limits.file_bytes / 2**20, 2):g} MiB"
        return ApiError(413, f"expected a recording of at most {most}, got more; cut it")


def no_room(error: OSError) -> ApiError:
    """The answer where a temporary file cannot be written."""
    return ApiError(507, f"the server cannot keep the upload: {error.strerror or error}")
