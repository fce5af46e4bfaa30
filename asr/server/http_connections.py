"""HTTP connections within bounds. uvicorn waits for ever for the head of a request, and for a client that never reads.

A thousand connections that say nothing would use up the files that a process may open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0
"""Seconds in which the head of a request must come: behind the start of the connection, and behind each answer, which
the client must have read by then."""
READ_S = 30.0
"""Seconds that a client has to make room for more of an answer; a stalled one would keep its file's place for ever."""


class BoundedHttp(H11Protocol):
    """uvicorn's HTTP connection: the ``http`` of ``uvicorn.Config``."""

    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._expect_head()

    def on_response_complete(self) -> None:
        """A request is answered; the next one may be here already."""
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered:
            self._expect_head()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """The connection goes on as a WebSocket, which has its own limits."""
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._stalled = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_waiting()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._head = self.loop.call_later(HEAD_S, self._end_without_head, self.cycle)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _end_without_head(self, before: object) -> None:
        if self.cycle is before:  # no request has come since
            self.transport.abort()
