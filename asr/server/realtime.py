"""OpenAI's Realtime API for transcription: the WebSocket `/v1/realtime`.

``realtime_settings.py`` has the session's settings, ``realtime_items.py`` the events that a client gets. A client's
fault is an ``error`` event; the connection goes on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from asr.errors import AsrError
from asr.server.client_messages import ClientError, Fields, parse_object, shown_value
from asr.server.live_streams import LiveSession
from asr.server.problems import BusyError, ClosingError, RequestError, WorkerLostError
from asr.server.realtime_items import Message, RealtimeItems
from asr.server.realtime_settings import RealtimeSettings
from asr.server.samples_in import WIDTHS
from asr.server.services import Services
from asr.server.web_sockets import ClientSocket, GoneError, refuse_handshake

MOST_AUDIO = 15 << 20
"""Bytes of audio in one message, as in OpenAI's API."""
FEED_S = 2.0
"""Audio that is decoded before its events are sent: a long message is answered while it is decoded."""
LARGE_MESSAGE = 1 << 18
"""Characters of a message that is parsed away from the event loop."""
OTHER_EVENTS = ("conversation.", "response.", "output_audio_buffer.")
"""Beginnings of events that are for conversations."""


def realtime_routes(services: Services) -> list[BaseRoute]:
    """The routes of this protocol. ``?model=NAME`` chooses a model; ``?intent=transcription`` alone takes the default
    for streams."""

    async def realtime(socket: WebSocket) -> None:
        settings = RealtimeSettings(model=socket.query_params.get("model"))
        try:
            session = await services.live.open(settings.options())
        except (RequestError, BusyError) as error:
            await refuse_handshake(socket, error)
            return
        client = ClientSocket(socket, services.settings.limits, services.closing)
        connection = RealtimeConnection(client, services, session, settings)
        try:
            await socket.accept()
            async with client.serving():
                await connection.run()
        except (GoneError, RequestError, WorkerLostError):  # the client, or the worker at the very end
            pass
        finally:
            await connection.session.close()

    return [WebSocketRoute("/v1/realtime", realtime)]


class RealtimeConnection:
    """One client of the Realtime API, with the ``session`` that was opened for its first ``settings``."""

    def __init__(
        self, client: ClientSocket, services: Services, session: LiveSession, settings: RealtimeSettings
    ) -> None:
        self.client, self.services, self.session, self.settings = client, services, session, settings
        self.items = RealtimeItems()
        self._shift_s = 0.0
        """Where the session's times begin in those of the client."""

    async def run(self) -> None:
        """Answer events until the connection ends. Raises ``GoneError`` where the client has ended it."""
        await self._send([self.items.message("session.created", session=self._tree())])
        while True:
            identity: str | None = None
            try:
                event = await _parsed(await self.client.receive())
                found = event.values.get("event_id")
                identity = found if isinstance(found, str) and len(found) <= 512 else None
                await self._obey(event)
            except ClientError as error:
                await self._send([self.items.error(str(error), error.code, error.param, identity)])
            except ClosingError as error:  # what has come so far is not lost
                if self._under_way:
                    await self._commit()
                await self._fail(error, "server_closing", 1012, identity)
                return
            except BusyError as error:
                await self._fail(error, "server_busy", 1013, identity)
                return
            except WorkerLostError as error:
                await self._fail(error, "server_error", 1011, identity)
                return
            except RequestError as error:  # such as too many seconds
                if self._under_way:
                    await self._commit()
                await self._fail(error, "invalid_request", 1008, identity)
                return

    async def _obey(self, event: Fields) -> None:
        kind = event.text("type", None, 200)
        known: dict[str, Callable[[Fields], Awaitable[None]]] = {
            "session.update": self._update,
            "transcription_session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._asked_to_commit,
            "input_audio_buffer.clear": self._clear,
        }
        if kind in known:
            await known[kind](event)
        elif kind is not None and kind.startswith(OTHER_EVENTS):
            raise ClientError(
                f"type: expected an event of a transcription session, got {shown_value(kind)}",
                "unsupported_event",
                "type",
            )
        else:
            raise event.wrong("type", f"one of {', '.join(known)}", "unknown_event")

    async def _update(self, event: Fields) -> None:
        asked = event.object("session")
        if asked is None:
            raise event.wrong("session", "an object", "missing_required_parameter")
        new = self.settings.changed(asked, self.services.catalogue, self.services.settings.limits)
        if new.options() != self.session.options:
            await self._reopen(new)
        self.settings = new
        self.items.use(detects=new.turns is not None, prefix_ms=new.turns.prefix_ms if new.turns else 0,
                       logprobs=new.logprobs)  # fmt: skip
        old = event.values["type"] == "transcription_session.update"
        self.items.old_names = self.items.old_names or old
        name = "transcription_session.updated" if old else "session.updated"
        await self._send([self.items.message(name, session=self._tree(old=old))])

    async def _reopen(self, new: RealtimeSettings) -> None:
        """Go on with another stream. What has been said before is committed where there is any."""
        old = self.session
        if self._under_way:
            await self._commit()
        try:
            session = await self.services.live.open(new.options(), instead_of=old)
        except RequestError as error:
            param = "session.audio.input.transcription.keywords" if error.param == "hot_words" else error.param
            raise ClientError(str(error), "invalid_value", param) from error
        self._shift_s, self.session = self._time_s, session

    async def _append(self, event: Fields) -> None:
        text = event.values.get("audio")
        if not isinstance(text, str):
            raise event.wrong("audio", "audio in base64", "missing_required_parameter")
        if len(text) > MOST_AUDIO * 4 // 3:
            raise event.wrong("audio", f"at most {MOST_AUDIO >> 20} MiB of audio", "too_large")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise event.wrong("audio", "audio in base64", "invalid_base64") from error
        options = self.session.options
        step = max(1, int(FEED_S * options.rate_hz)) * WIDTHS[options.encoding]
        for start in range(0, len(data), step):
            events = await self.session.feed(data[start : start + step])
            await self._send(self.items.take(events, self._time_s, self._shift_s))

    async def _asked_to_commit(self, event: Fields) -> None:
        if not self._buffered:
            raise ClientError(
                "input_audio_buffer.commit: expected audio in the buffer, got none since the last commit",
                "input_audio_buffer_commit_empty",
            )
        await self._commit()

    async def _commit(self) -> None:
        final = await self.session.end_utterance()
        await self._send(self.items.committed(final, self._time_s))

    async def _clear(self, event: Fields) -> None:
        await self.session.reset()
        await self._send(self.items.clear(self._time_s))

    @property
    def _time_s(self) -> float:
        return self._shift_s + self.session.time_s

    @property
    def _buffered(self) -> bool:
        return self.items.holds(self._time_s)

    @property
    def _under_way(self) -> bool:
        """Whether there is an item that would be lost."""
        return self._buffered and (self.settings.turns is None or self.items.speaking)

    def _tree(self, *, old: bool = False) -> Message:
        identity, model = f"sess_{self.items.session}", self.settings.model or self.session.model.name
        return self.settings.old_tree(identity, model) if old else self.settings.tree(identity, model)

    async def _send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            await self.client.send(message)

    async def _fail(self, error: AsrError, code: str, status: int, identity: str | None) -> None:
        """Say what is wrong, and end the connection."""
        kind = "invalid_request_error" if status == 1008 else "server_error"
        param = getattr(error, "param", None)
        await self._send([self.items.error(str(error), code, param, identity, kind)])
        await self.client.close(status, str(error))


async def _parsed(message: str | bytes) -> Fields:
    """A client's event. Raises ``ClientError`` for what is none."""
    if isinstance(message, bytes):
        raise ClientError(
            "expected an event as a text message, got a binary one; send audio in base64 by input_audio_buffer.append",
            "invalid_json",
        )
    if len(message) < LARGE_MESSAGE:
        return Fields(parse_object(message, "event"))
    return Fields(await asyncio.to_thread(parse_object, message, "event"))
