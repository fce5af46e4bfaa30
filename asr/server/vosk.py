"""The Vosk protocol over WebSockets: `/vosk`, and `/` of a port of its own.

A client alternates: it sends a message of audio and waits for the reply. Each message of audio, ``eof`` and ``reset``
has exactly one reply, ``config`` has none. ``vosk_replies.py`` has the messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from asr.errors import AsrError
from asr.server.client_messages import ClientError
from asr.server.live_streams import LiveSession
from asr.server.messages import Event, Final
from asr.server.problems import BusyError, ClosingError, RequestError, WorkerLostError
from asr.server.services import Services
from asr.server.vosk_replies import VoskConfig, moved, moved_final, read_command, vosk_reply
from asr.server.web_sockets import ClientSocket, GoneError, refuse_handshake


def vosk_routes(services: Services, path: str = "/vosk") -> list[BaseRoute]:
    """The routes of this protocol. ``?model=NAME`` chooses a model; ``model`` in a ``config`` is ignored."""

    async def vosk(socket: WebSocket) -> None:
        config, model = VoskConfig(), socket.query_params.get("model")
        try:
            session = await services.live.open(config.options(model))
        except (RequestError, BusyError) as error:
            await refuse_handshake(socket, error)
            return
        client = ClientSocket(socket, services.settings.limits, services.closing)
        connection = VoskConnection(client, services, session)
        try:
            await socket.accept()
            async with client.serving():
                await connection.run()
        except (GoneError, RequestError, WorkerLostError):  # the client, or the worker at the very end
            pass
        finally:
            await connection.session.close()

    return [WebSocketRoute(path, vosk)]


class VoskConnection:
    """One client of the Vosk protocol, with the ``session`` that was opened for it."""

    def __init__(self, client: ClientSocket, services: Services, session: LiveSession) -> None:
        self.client, self.services, self.session = client, services, session
        self.config = VoskConfig()
        self._model = session.options.model
        self._shift_s = 0.0
        """Where the session's times begin in those of the client."""
        self._ended: list[Event] = []
        """Utterances that a new configuration has ended; the next reply has them."""

    async def run(self) -> None:
        """Answer messages until the connection ends. Raises ``GoneError`` where the client has ended it."""
        while True:
            asked = False
            try:
                message = await self.client.receive()
                asked = True
                if not (await self._audio(message) if isinstance(message, bytes) else await self._command(message)):
                    return
            except ClientError as error:
                await self.client.send({"error": str(error)})
            except ClosingError as error:  # what has come so far is not lost
                finished = await self._finished()
                if asked or finished.transcript.words or self._ended:
                    await self._reply([finished])
                await self.client.close(1012, str(error))
                return
            except RequestError as error:  # such as too many seconds; what has come so far is not lost
                finished = await self._finished()
                if finished.transcript.words or self._ended:
                    await self._reply([finished])
                await self._fail(error)
                return
            except (BusyError, WorkerLostError) as error:
                await self._fail(error)
                return

    async def _audio(self, data: bytes) -> bool:
        await self._reply(moved(await self.session.feed(data), self._shift_s))
        return True

    async def _command(self, text: str) -> bool:
        """Obey a text message; whether the connection goes on."""
        command = read_command(text)
        if command.config is not None:
            try:
                await self._configure(self.config.changed(command.config, self.services.settings.limits))
            except RequestError as error:  # a reply would be taken for that to the next message
                await self._fail(error)
                return False
        elif command.reset:
            await self._reply([moved_final(await self.session.end_utterance(), self._shift_s)])
            self._shift_s = -self.session.time_s
        else:
            await self._reply([await self._finished()])
            await self.client.close()
            return False
        return True

    async def _configure(self, config: VoskConfig) -> None:
        """Use a configuration from here on. What was said before ends here where it needs another stream."""
        if config.options(self._model) != self.session.options:
            if self.session.time_s:
                ended = moved_final(await self.session.end_utterance(), self._shift_s)
                self._ended += [ended] if ended.transcript.words else []
                self._shift_s += self.session.time_s
            self.session = await self.services.live.open(config.options(self._model), instead_of=self.session)
        self.config = config

    async def _finished(self) -> Final:
        return moved_final(await self.session.finish(), self._shift_s)

    async def _reply(self, events: Sequence[Event]) -> None:
        ended, self._ended = self._ended, []
        await self.client.send(vosk_reply([*ended, *events], self.config))

    async def _fail(self, error: AsrError) -> None:
        """Say what is wrong, and end the connection."""
        await self.client.send({"error": str(error)})
        lost = isinstance(error, WorkerLostError)
        await self.client.close(1013 if isinstance(error, BusyError) else 1011 if lost else 1008, str(error))
