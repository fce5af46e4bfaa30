"""WebSockets within bounds: what uvicorn leaves open, closed; a client's messages with time limits.

uvicorn takes what a read gives at once, which can be tens of thousands of short frames, and everybody else waits
meanwhile. A client could also make it keep pongs that nobody reads and empty fragments without end, or hold a closed
connection for ever by not reading. Nothing of this is possible here, and no malformed frame is an exception in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from asr.server.api_errors import api_error
from asr.server.problems import BusyError, ClosingError, RequestError
from asr.server.settings import ServerLimits

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

UNSENT_BYTES = 1 << 20
"""Bytes that may wait for a client to read them, beside one message."""
QUEUED_BYTES = 1 << 20
"""Bytes of messages that may wait for the application. While they wait the client's pings are answered: by default,
clients of the package websockets hang up when a pong takes 20 s."""
MESSAGE_BYTES = 300
"""About what a waiting message takes beside its content."""
TAKEN_BYTES = 1 << 13
"""Bytes of a client that are taken apart before others have their turn."""
LINGER_S = 5.0
"""Seconds that a client has to read what was sent before the connection was closed."""
SEND_S = 30.0
"""Seconds that a client has to make room for a message."""
SHUTTING_DOWN = "the server is shutting down"
GONE = "asr.gone"
"""Key of a connection's scope: a future that is done when the client has gone."""
LONGEST_REASON = 120
"""Bytes of a close frame's reason; the protocol allows 123."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket connection: the ``ws`` of ``uvicorn.Config``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Pings keep proxies awake. A pong may wait behind a long message, so that a late one proves nothing.
        self.ping_timeout = None
        self.gone = self.loop.create_future()
        self._held = bytearray()
        """What has come and is not taken apart yet; nothing more is read meanwhile."""
        self._taking = False
        """Whether the next part is taken in the next round of the event loop."""
        self._queued: deque[int] = deque()
        """Bytes of each message that waits for the application, and of all together."""
        self._queued_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take the client's bytes, a part in each round of the event loop."""
        waits = bool(self._held)
        self._held += data
        if not waits:
            self._take()

    def _take(self) -> None:
        """Take a part, unless many messages wait already: few compressed bytes can be many."""
        self._taking = False
        part = b"" if self.read_paused else bytes(self._held[:TAKEN_BYTES])
        if part:
            super().data_received(part)
            del self._held[:TAKEN_BYTES]
            self._read_on()
        if self._held:
            self.transport.pause_reading()
        self._go_on()

    def _go_on(self) -> None:
        """Take or read more, unless many messages wait."""
        if self.read_paused or self.transport.is_closing():
            return
        if not self._held:
            self.transport.resume_reading()
        elif not self._taking:
            self._taking = True
            self.loop.call_soon(self._take)

    async def receive(self) -> ASGIReceiveEvent:
        """The next event of the client."""
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._queued_bytes -= self._queued.popleft()
            self._read_on()
        self._go_on()
        self._stay_paused()
        return message

    def _read_on(self) -> None:
        """uvicorn stops reading at each message; here when many wait."""
        if self.read_paused and self._queued_bytes < QUEUED_BYTES:
            self.read_paused = False

    def _stay_paused(self) -> None:
        """uvicorn reads on when a message is taken; here only when nothing is held any more."""
        if self._held:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; what is computed for it can end."""
        super().connection_lost(exc)
        self._held.clear()
        if not self.gone.done():
            self.gone.set_result(None)

    def handle_connect(self, event: Any) -> None:
        """Begin a handshake; what it needs and is not ASCII would be an exception within websockets."""
        needed = ("connection", "upgrade", "sec-websocket-")
        if all(value.isascii() or not name.lower().startswith(needed) for name, value in event.headers.raw_items()):
            super().handle_connect(event)
            if not self.close_sent:
                self.scope[GONE] = self.gone  # type: ignore[literal-required]
        else:
            self._answer_bad_request()

    def handle_ping(self) -> None:
        """Answer a ping, unless answers pile up."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > UNSENT_BYTES:
            self.transport.abort()

    def handle_cont(self, event: Any) -> None:
        """Keep a fragment; an empty one is nothing to keep."""
        if event.data or event.fin:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Pass a message on. Text that is no UTF-8 closes the connection with 1007."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self.frames = []
                if self.conn.state is State.OPEN:  # a client may send before the handshake is answered
                    self.conn.send_close(1007, "text is not UTF-8")
                self.handle_parser_exception()
                return
        size, before = MESSAGE_BYTES + sum(map(len, self.frames)), self.queue.qsize()
        super().send_receive_event_to_app()
        if self.queue.qsize() > before:
            self._queued.append(size)
            self._queued_bytes += size

    def handle_parser_exception(self) -> None:
        """End a connection whose bytes are no frames; without a close frame where the handshake is not done."""
        if self.conn.close_sent is not None:
            super().handle_parser_exception()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1002})
        self._answer_bad_request()

    def _answer_bad_request(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()

    def send_500_response(self) -> None:
        """Answer a handshake that nobody has answered, unless the client has gone."""
        if self.conn.state is State.CONNECTING and not self.conn.eof_sent and not self.transport.is_closing():
            super().send_500_response()

    async def send(self, message: ASGISendEvent) -> None:
        """Send; what comes behind the end of the connection is a client that has gone, and no fault of the server."""
        await self.writable.wait()
        ended = self.close_sent or self.transport.is_closing()
        if ended and message["type"] in ("websocket.send", "websocket.close"):
            raise ClientDisconnected
        await super().send(message)
        self._go_on()
        self._stay_paused()
        if message["type"] == "websocket.http.response.body":  # a refusal completes the handshake, too
            self.handshake_complete = self.handshake_complete or self.close_sent

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The application has ended: soon the connection has too."""
        super().on_task_complete(task)
        if not self.gone.done():
            last = self.loop.call_later(LINGER_S, self.transport.abort)
            self.gone.add_done_callback(lambda _: last.cancel())  # else the timer keeps what a client had


class Wakeup:
    """Ends the waits of one connection when the server is closing, without a task for each wait."""

    def __init__(self, closing: asyncio.Event) -> None:
        self.closing = closing
        self._waiting: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._wake())

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None  # it refers to this object: a cycle

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Wait within for so long at most. Raises ``TimeoutError``, and ``ClosingError`` when the server is closing."""
        if self.closing.is_set():
            raise ClosingError(SHUTTING_DOWN)
        try:
            async with asyncio.timeout(seconds) as self._waiting:
                yield
        except TimeoutError:
            if self.closing.is_set():
                raise ClosingError(SHUTTING_DOWN) from None
            raise
        finally:
            self._waiting = None

    async def _wake(self) -> None:
        await self.closing.wait()
        if self._waiting is not None:
            with contextlib.suppress(RuntimeError):  # it has run out
                self._waiting.reschedule(asyncio.get_running_loop().time())


class GoneError(Exception):
    """The client has closed the connection, or does not read what it is sent."""


class ClientSocket:
    """A client's WebSocket after the handshake. Serve it within ``serving``."""

    def __init__(self, socket: WebSocket, limits: ServerLimits, closing: asyncio.Event) -> None:
        self.socket, self.limits = socket, limits
        self.wakeup = Wakeup(closing)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """A context that notices that the server is closing. It ends with ``GoneError`` as soon as the client has gone,
        even in the middle of a long message that is being recognised."""
        gone: asyncio.Future[None] | None = self.socket.scope.get(GONE)
        loop = asyncio.get_running_loop()
        try:
            async with self.wakeup, asyncio.timeout(None) as until:
                watch = functools.partial(_end_now, until, loop)
                if gone is not None:
                    gone.add_done_callback(watch)
                try:
                    yield
                finally:
                    if gone is not None:
                        gone.remove_done_callback(watch)
        except TimeoutError:
            if until.expired():
                raise GoneError from None
            raise

    async def receive(self) -> str | bytes:
        """The next message. Raises ``GoneError``, ``ClosingError`` at shutdown; closes a connection that was silent for
        too long."""
        try:
            async with self.wakeup.timeout(self.limits.idle_s):
                message = await self.socket.receive()
                await asyncio.sleep(0)  # messages that wait already would not let anybody else have a turn
        except TimeoutError:
            await self.close(1008, f"no message for {self.limits.idle_s:g} s")
            raise GoneError from None
        if message["type"] == "websocket.disconnect":
            raise GoneError
        text: str | None = message.get("text")
        data: bytes | None = message.get("bytes")
        return text if text is not None else data or b""

    async def send(self, value: dict[str, Any]) -> None:
        """Send a value as JSON. Raises ``GoneError``, also for a client that makes no room for it."""
        try:
            async with asyncio.timeout(SEND_S):
                await self.socket.send_text(json.dumps(value))
        except (WebSocketDisconnect, TimeoutError):
            raise GoneError from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; nothing where it is closed."""
        with contextlib.suppress(WebSocketDisconnect, TimeoutError, RuntimeError):
            async with asyncio.timeout(SEND_S):
                await self.socket.close(code, reason.encode()[:LONGEST_REASON].decode(errors="ignore"))


def _end_now(until: asyncio.Timeout, loop: asyncio.AbstractEventLoop, _: object) -> None:
    with contextlib.suppress(RuntimeError):  # it has ended
        until.reschedule(loop.time())


async def refuse_handshake(socket: WebSocket, error: RequestError | BusyError) -> None:
    """Answer a handshake with the status and the body that the HTTP interface has for the error."""
    answer = api_error(error)
    await socket.send_denial_response(Response(answer.body(), answer.status, answer.headers()))
