"""The page before a server that says what a test tells it to: the protocols' wire formats without any model.

The page's own routes are the real ones. Transcripts, live replies, the list of models and the token are a script's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from asr.server.access import AccessMiddleware, AccessRules
from asr.server.page import page_routes
from asr.server.rest import ERROR_HANDLERS
from asr.server.services import Services
from asr.server.settings import Settings

MODELS = [
    {"name": "sure", "purpose": "a model with calibrated confidences", "languages": ["en"], "calibrated": True},
    {"name": "plain", "purpose": "a model without", "languages": ["en"], "calibrated": False},
]


def transcript(text: str, confidences: list[float] | None = None, seconds: float = 0.5, **extra: Any) -> dict[str, Any]:
    """A ``verbose_json`` whose words last ``seconds`` each; ``|`` in ``text`` is a pause of a second."""
    words, at = [], 0.0
    for part in text.split():
        if part == "|":
            at += 1.0
            continue
        sure = 0.95 if confidences is None else confidences[len(words)]
        words.append({"text": part, "start_s": round(at, 3), "end_s": round(at + seconds, 3), "confidence": sure})
        at += seconds
    whole = " ".join(word["text"] for word in words)
    return {
        "task": "transcribe",
        "language": "en",
        "duration": at,
        "text": whole,
        "words": [{"word": w["text"], "start": w["start_s"], "end": w["end_s"]} for w in words],
        "asr": {"format": 3, "text": whole, "written": None, "written_words": None, "reliable": True, "words": words}
        | extra,
    }


@dataclass
class Script:
    """What the server says next. ``answers``: by the file's name; ``replies``: to messages of audio, one after the
    other, the last again and again. ``close_after``: live messages after which the server hangs up."""

    answers: dict[str, Any] = field(default_factory=dict)
    replies: list[dict[str, Any]] = field(default_factory=lambda: [{"partial": "", "stable": 0}])
    last_reply: dict[str, Any] = field(default_factory=lambda: {"text": ""})
    token: str = ""
    ready: bool = True
    close_after: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Name and model of each file that came."""
    messages: list[tuple[float, Any]] = field(default_factory=list)
    """Time and content of each live message: a configuration, or the size of a block."""

    def recorded_s(self) -> float:
        """Seconds of sound that have come."""
        if not self.messages:
            return 0.0
        rate_hz = self.messages[0][1]["config"]["sample_rate"]
        return sum(size for _, size in self.messages[1:] if isinstance(size, int)) / 2 / rate_hz


class ScriptedServer:
    """The application of a ``Script``."""

    def __init__(self) -> None:
        self.script = Script()
        services = Services(Settings(models={"an4": "an4"}))
        own = [
            Route("/page-data/info", self.info),
            Route("/ready", lambda request: JSONResponse({}, 200 if self.script.ready else 503)),
            Route("/v1/audio/transcriptions", self.transcribe, methods=["POST"]),
            WebSocketRoute("/vosk", self.vosk),
        ]
        access = Middleware(AccessMiddleware, rules=AccessRules.of(services.settings), limits=services.settings.limits)
        self.app = Starlette(
            routes=[*own, *page_routes(services)], middleware=[access], exception_handlers=ERROR_HANDLERS
        )

    def refusal(self, request: Request) -> Response | None:
        """The answer to a client without the token."""
        if not self.script.token or request.headers.get("authorization") == f"Bearer {self.script.token}":
            return None
        return JSONResponse({"error": {"message": "expected the server's token"}}, 401)

    async def info(self, request: Request) -> Response:
        """`GET /page-data/info`."""
        limits = {"file_bytes": 2**20}
        tree = {"models": MODELS, "file_model": "sure", "live_model": "sure", "limits": limits}
        return self.refusal(request) or JSONResponse(tree)

    async def transcribe(self, request: Request) -> Response:
        """`POST /v1/audio/transcriptions`."""
        async with request.form() as form:
            name, model = form["file"].filename, str(form["model"])
        self.script.requests.append((name, model))
        answer = self.script.answers.get(name, transcript("oh one two three"))
        if isinstance(answer, list):  # one after the other
            answer = answer.pop(0)
        if "error" in answer:
            return JSONResponse(answer, answer["status"], headers=answer.get("headers", {}))
        return self.refusal(request) or StreamingResponse(self.events(answer), media_type="text/event-stream")

    async def events(self, answer: dict[str, Any]) -> AsyncIterator[str]:
        """Server-sent events of a transcript: its first ``early`` words, then the whole.

        ``held``: a ``threading.Event`` that the whole waits for.
        """
        words = answer["asr"]["words"][: answer.pop("early", 0)]
        if words:
            text = " ".join(word["text"] for word in words)
            delta = {"type": "transcript.text.delta", "delta": text, "asr": {"end_s": words[-1]["end_s"]}}
            yield f": waiting\n\ndata: {json.dumps(delta)}\n\n"
        held = answer.pop("held", None)
        while held is not None and not held.is_set():
            await asyncio.sleep(0.02)
        done = {"type": "transcript.text.done", "text": answer["text"], "verbose_json": answer}
        if "broken" in answer:
            done = {"error": {"message": answer["broken"]}}
        encoded = f"data: {json.dumps(done)}\n\n"
        yield encoded[:20]  # events do not keep to packets
        await asyncio.sleep(0.01)
        yield encoded[20:]

    async def vosk(self, client: WebSocket) -> None:
        """`/vosk`."""
        script = self.script
        offered = client.scope["subprotocols"]
        if script.token and f"openai-insecure-api-key.{script.token}" not in offered:
            await client.close(1008)
            return
        await client.accept("realtime" if offered else None)
        audio = 0
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                message = await client.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("bytes") is not None:
                    script.messages.append((time.monotonic(), len(message["bytes"])))
                    await client.send_json(script.replies[min(audio, len(script.replies) - 1)])
                    audio += 1
                    if audio == script.close_after:
                        await client.close(1011)
                        return
                    continue
                tree = json.loads(message["text"])
                script.messages.append((time.monotonic(), tree))
                if "eof" in tree:
                    await client.send_json(script.last_reply)
                    await client.close()
                    return


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application in a thread of its own; the address."""
    place = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="websockets-sansio"))
    thread = threading.Thread(target=asyncio.run, args=(server.serve([place]),))
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        place.close()
