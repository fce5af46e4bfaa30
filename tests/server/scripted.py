"""Services without a model: sessions that give the events of a script. And a client without a network."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from starlette.applications import Starlette

from asr.server.messages import Final, StreamOptions
from asr.server.problems import BusyError, UnknownModelError
from asr.server.samples_in import WIDTHS
from asr.server.settings import Settings
from asr.transcript import Transcript, Word

MODEL = SimpleNamespace(name="demo", languages=("en",))


def final(text: str, *others: str, start_s: float = 0.0) -> Final:
    """An utterance whose words last a second each; ``others`` are further hypotheses of it."""
    made = [transcript(one, start_s) for one in (text, *others)]
    shares = [2.0**-rank for rank in range(len(made))]
    return Final(made[0], tuple(made), tuple(share / sum(shares) for share in shares))


def transcript(text: str, start_s: float = 0.0) -> Transcript:
    """A transcript whose words last a second each."""
    words = tuple(Word(word, start_s + at, start_s + at + 1, 0.5) for at, word in enumerate(text.split()))
    return Transcript(text, words, start_s + len(words))


class ScriptedSession:
    """A session that answers each piece of audio with the next entry of ``script``: events, or an error to raise."""

    def __init__(self, service: ScriptedLive, options: StreamOptions) -> None:
        self.service, self.options, self.model = service, options, MODEL
        self.received, self.closed, self.forgotten = 0, False, 0
        service.sessions.append(self)

    @property
    def time_s(self) -> float:
        return self.received // WIDTHS[self.options.encoding] / self.options.rate_hz

    async def feed(self, data: bytes) -> list[Any]:
        assert not self.closed
        self.received += len(data)
        events = self.service.script.pop(0) if self.service.script else []
        if isinstance(events, Exception):
            raise events
        return list(events)

    async def end_utterance(self) -> Final:
        assert not self.closed
        return self.service.endings.pop(0) if self.service.endings else final("")

    async def finish(self) -> Final:
        found = await self.end_utterance()
        await self.close()
        return found

    async def reset(self) -> None:
        self.forgotten += 1

    async def close(self) -> None:
        self.closed = True


class ScriptedLive:
    """Opens scripted sessions. ``refusal``: raised by ``open``."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.endings: list[Final] = []
        self.sessions: list[ScriptedSession] = []
        self.refusal: Exception | None = None

    async def open(self, options: StreamOptions, *, instead_of: ScriptedSession | None = None) -> ScriptedSession:
        if self.refusal is not None:
            raise self.refusal
        found(options.model)
        session = ScriptedSession(self, options)
        if instead_of is not None:
            await instead_of.close()
        return session


def found(name: str | None, *, live: bool = True) -> SimpleNamespace:
    """The catalogue's ``find``: there is one model."""
    if name not in (None, "", "demo"):
        raise UnknownModelError(name, ["demo"])
    return MODEL


def scripted_services(**settings: Any) -> Any:
    """What protocol modules get, with a ``ScriptedLive``."""
    catalogue = SimpleNamespace(find=found, models={"demo": MODEL})
    return SimpleNamespace(
        live=ScriptedLive(), catalogue=catalogue, settings=Settings(**settings), closing=asyncio.Event()
    )


BUSY = BusyError("expected fewer than 3 streams at a time; try again later", 7)


class Answers(list[Any]):
    """What an application has sent: JSON texts as values."""

    code: int | None = None
    """Of the close frame; None where the client has ended the connection."""
    reason = ""
    status = 101
    """Of the handshake."""
    headers: dict[str, str]
    body: bytes
    """Of a refusal."""
    subprotocol: str | None = None


def talk(
    routes: list[Any],
    path: str,
    messages: list[str | bytes | dict[str, Any]],
    closing: asyncio.Event | None = None,
    **scope: Any,
) -> Answers:
    """The answers to a client that sends messages and then is gone; values are sent as JSON.

    ``closing``: set behind the messages, and the client waits.
    """
    answers = Answers()
    incoming = [{"type": "websocket.connect"}]
    for message in messages:
        text = json.dumps(message) if isinstance(message, dict) else message
        incoming.append({"type": "websocket.receive", "bytes" if isinstance(text, bytes) else "text": text})
    incoming.append({"type": "websocket.disconnect", "code": 1006})

    async def receive() -> Any:
        if closing is not None and len(incoming) == 1:
            closing.set()
            await asyncio.Event().wait()
        return incoming.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            answers.append(json.loads(message["text"]))
        elif message["type"] == "websocket.close":
            answers.code, answers.reason = message["code"], message["reason"]
        elif message["type"] == "websocket.accept":
            answers.subprotocol = message["subprotocol"]
        elif message["type"] == "websocket.http.response.start":
            answers.status = message["status"]
            answers.body = b""
            answers.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "websocket.http.response.body":
            answers.body += message["body"]

    base = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [],
        "subprotocols": [], "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    asyncio.run(Starlette(routes=routes)(base | scope, receive, send))
    return answers
