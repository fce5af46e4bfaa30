"""Frames of the Wyoming protocol: a line of JSON, further JSON, bytes; read within bounds.

``{"type": ..., "data": {...}, "data_length": n, "payload_length": m}\\n``, then ``n`` bytes of JSON that join ``data``,
then ``m`` bytes. A length that is announced is checked before anything is read into memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asr.server.client_messages import ClientError, Fields, parse_object

LINE_BYTES = 1 << 16
"""Bytes of a frame's first line; the ``limit`` of the ``asyncio.StreamReader`` that frames are read from."""


@dataclass(frozen=True)
class WyomingFrame:
    """An event with its data and its bytes."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes of the frame on the wire."""
        data = json.dumps(self.data).encode() if self.data else b""
        head: dict[str, Any] = {"type": self.type, "version": "1.8.0"}
        if data:
            head["data_length"] = len(data)
        if self.payload:
            head["payload_length"] = len(self.payload)
        return json.dumps(head).encode() + b"\n" + data + self.payload


async def read_frame(reader: asyncio.StreamReader, most_bytes: int) -> WyomingFrame | None:
    """The next frame, None at the end of the stream, also within a frame.

    ``most_bytes``: of its data and of its payload, each. Raises ``ClientError`` for what is no frame; the position in
    the stream is unknown then.
    """
    try:
        line = await reader.readuntil(b"\n")
        head = Fields(parse_object(line, "frame"), "frame")
        kind = head.text("type", None, 100)
        if not kind:
            raise head.wrong("type", "the type of an event", "invalid_frame")
        data = dict((head.object("data") or Fields({})).values)
        lengths = [head.whole(name, 0, 0, most_bytes) for name in ("data_length", "payload_length")]
        if lengths[0]:
            data |= parse_object(await reader.readexactly(lengths[0]), f"data of {kind}")
        payload = await reader.readexactly(lengths[1]) if lengths[1] else b""
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError as error:
        raise ClientError(
            f"frame: expected a line of at most {LINE_BYTES} bytes of JSON, got a longer one", "invalid_frame"
        ) from error
    return WyomingFrame(kind, data, payload)
