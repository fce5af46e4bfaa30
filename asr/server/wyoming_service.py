"""The Wyoming protocol (Home Assistant) on a TCP port of its own.

A client sends ``transcribe``, ``audio-start``, ``audio-chunk`` and ``audio-stop``, and gets ``transcript-start``,
``transcript-chunk`` while words settle, ``transcript`` and ``transcript-stop``. With ``vad_sensitivity`` in
``transcribe`` the transcript comes as soon as a command has ended, and not only behind ``audio-stop``.

Home Assistant waits for a transcript or for the end of the connection. So a connection ends behind an ``error``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.errors import AsrError
from asr.server.catalogue import ServedModel
from asr.server.client_messages import ClientError, Fields
from asr.server.live_streams import LiveSession
from asr.server.messages import HOT_WORD_BOOST, SETTLE_S, Event, Final, Partial, StreamOptions
from asr.server.problems import BusyError, ClosingError, RequestError, UnknownModelError, WorkerLostError, one_of
from asr.server.samples_in import WIDTHS
from asr.server.services import Services
from asr.server.web_sockets import Wakeup
from asr.server.wyoming_announcement import announced
from asr.server.wyoming_frames import LINE_BYTES, WyomingFrame, read_frame

WYOMING_SEND_S = 30.0
"""Seconds that a client has to read what it is sent."""
WYOMING_LINGER_S = 2.0
"""Seconds in which a client may still send, so that it reads an error before the end of the connection."""
FRAME_BYTES = 4 << 20
"""Bytes of a frame's data, and of its audio."""
WYOMING_FEED_S = 2.0
"""Audio that is decoded before its text is sent: a long frame is answered while it is decoded."""
TERM_SHARE = 0.6
"""Of the boost of names, that of other terms: names come first."""
COMMAND_SILENCE_S = {"aggressive": 0.25, "default": 0.7, "relaxed": 1.25}
"""Silence that ends a command, by Home Assistant's ``vad_sensitivity``."""


@contextlib.asynccontextmanager
async def serving_wyoming(services: Services) -> AsyncIterator[int]:
    """Serve ``settings.wyoming`` until the context ends; gives the port. Where it is None, nothing is served: 0.

    Raises ``AsrError`` for a port in use, or where the address cannot be announced.
    """
    address = services.settings.wyoming
    if address is None:
        yield 0
        return
    server = WyomingServer(services)
    try:
        listening = await asyncio.start_server(server.serve, address.host, address.port, limit=LINE_BYTES)
    except OSError as error:
        raise AsrError(
            f"{address.host}:{address.port}: cannot listen there: {_reason(error)}; choose another address with "
            "--wyoming"
        ) from error
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        stack.callback(listening.close)
        port: int = listening.sockets[0].getsockname()[1]
        if services.settings.zeroconf:
            await stack.enter_async_context(announced(address.host, port))
        yield port


def _reason(error: OSError) -> str:
    """Why; asyncio's own text has the address once more."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


class WyomingServer:
    """Serves the connections of all clients."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends the connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = WyomingConnection(self.services, reader, writer)
        try:
            async with connection.wakeup:
                await connection.run()
        except (OSError, TimeoutError, asyncio.CancelledError):  # gone, or ``stop``
            pass
        except (RequestError, WorkerLostError):  # at the very end
            pass
        finally:
            self._tasks.discard(task)
            await connection.end()
            writer.close()
            # A client that does not read would hold the connection for ever.
            asyncio.get_running_loop().call_later(WYOMING_LINGER_S, writer.transport.abort)

    async def stop(self) -> None:
        """End the connections that are left at shutdown."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass(frozen=True)
class Wanted:
    """What a ``transcribe`` event asks for; it holds for one transcript."""

    model: str | None = None
    hot_words: tuple[tuple[str, float], ...] = ()
    silence_s: float | None = None
    """Silence that ends a command; None: the client says where it ends."""


class WyomingConnection:
    """One client."""

    def __init__(self, services: Services, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.services, self.reader, self.writer = services, reader, writer
        self.wakeup = Wakeup(services.closing)
        self._wanted = Wanted()
        self._utterance: _Utterance | None = None
        self._answered = False
        """Whether the transcript was sent before the audio has stopped: the rest of it is not used."""

    async def run(self) -> None:
        """Answer events until the connection ends. Raises ``ConnectionError`` or ``TimeoutError`` where the client is
        gone or does not read."""
        try:
            while (frame := await self._next()) is not None:
                await self._obey(frame)
        except ClosingError as error:  # what has come so far is not lost
            if self._utterance is not None:
                await self._stop()
                await self._fail(error, "server-closing")
        except ClientError as error:
            await self._fail(error, error.code)
        except BusyError as error:
            await self._fail(error, "server-busy")
        except UnknownModelError as error:
            await self._fail(error, "unknown-model")
        except (RequestError, WorkerLostError) as error:
            if self._utterance is not None and isinstance(error, RequestError):
                await self._stop()
            await self._fail(error, "request-failed")

    async def _next(self) -> WyomingFrame | None:
        idle_s = self.services.settings.limits.idle_s
        try:
            async with self.wakeup.timeout(idle_s):
                await asyncio.sleep(0)  # frames that wait already would not let anybody else have a turn
                return await read_frame(self.reader, FRAME_BYTES)
        except TimeoutError as error:
            raise ClientError(f"expected an event every {idle_s:g} s at least, got none", "idle") from error

    async def end(self) -> None:
        """Free what the connection holds."""
        if self._utterance is not None:
            await self._utterance.session.close()

    async def _obey(self, frame: WyomingFrame) -> None:
        data = Fields(frame.data, frame.type)
        if frame.type == "describe":
            await self._send(WyomingFrame("info", self._info()))
        elif frame.type == "ping":
            await self._send(WyomingFrame("pong", {"text": data.text("text", None)}))
        elif frame.type == "transcribe":
            self._wanted = self._read_wanted(data)
        elif frame.type == "audio-start":
            await self.end()
            self._utterance, self._answered = None, False
            await self._start(AudioFormat.read(data))
        elif frame.type == "audio-chunk":
            await self._audio(frame, data)
        elif frame.type == "audio-stop" and not self._answered:
            await self._stop()
        elif frame.type == "audio-stop":
            self._answered, self._wanted = False, Wanted()
        # The protocol lets a server drop events that it does not know.

    def _read_wanted(self, data: Fields) -> Wanted:
        limits = self.services.settings.limits
        model = self.services.catalogue.find(data.text("name", None, 200), live=True)
        language = data.text("language", None, 35)
        if language and model.languages and language.lower().partition("-")[0] not in model.languages:
            raise ClientError(f"language: expected {one_of(model.languages)}, got {language!a}", "unsupported-language")
        names, terms = (
            data.texts(field, limits.hot_words, limits.phrase_characters)
            for field in ("transcript_names", "transcript_terms")
        )
        boosts = dict.fromkeys(terms, HOT_WORD_BOOST * TERM_SHARE) | dict.fromkeys(names, HOT_WORD_BOOST)
        sensitivity = data.choice("vad_sensitivity", tuple(COMMAND_SILENCE_S), None)
        return Wanted(model.name, tuple(boosts.items()), COMMAND_SILENCE_S[sensitivity] if sensitivity else None)

    async def _start(self, heard: AudioFormat) -> None:
        wanted = self._wanted
        options = StreamOptions(
            model=wanted.model,
            rate_hz=heard.rate,
            encoding="f32le",
            hot_words=dict(wanted.hot_words),
            settle_s=SETTLE_S,
            endpoint_s=math.inf if wanted.silence_s is None else wanted.silence_s,
        )
        self._utterance = _Utterance(await self.services.live.open(options), heard)
        await self._send(WyomingFrame("transcript-start", {"language": languages_of(self._utterance.session.model)[0]}))

    async def _audio(self, frame: WyomingFrame, data: Fields) -> None:
        if self._answered:
            return
        heard = AudioFormat.read(data)
        if self._utterance is None:
            await self._start(heard)
        utterance = self._utterance
        assert utterance is not None
        if heard != utterance.heard:
            raise ClientError(f"audio-chunk: expected {utterance.heard}, as the audio began, got {heard}")
        samples = utterance.samples(frame.payload)
        step = max(1, round(WYOMING_FEED_S * heard.rate)) * WIDTHS["f32le"]
        for at in range(0, max(1, len(samples)), step):
            if self.reader.at_eof():  # no ``audio-stop`` comes, and nobody waits for the rest
                raise ConnectionError("the client has gone")
            added, ended = utterance.take(await utterance.session.feed(samples[at : at + step]))
            await self._send_chunk(added)
            if ended and self._wanted.silence_s is not None:
                await self._stop()
                self._answered = True
                return

    async def _stop(self) -> None:
        """Send the transcript, which is empty where there was no audio."""
        utterance, self._utterance = self._utterance, None
        text, language = "", languages_of(self.services.catalogue.find(self._wanted.model, live=True))[0]
        if utterance is not None:
            try:
                added, _ = utterance.take([await utterance.session.finish()])
            finally:
                await utterance.session.close()
            text = utterance.text()
            await self._send_chunk(added)
        await self._send(WyomingFrame("transcript", {"text": text, "language": language}))
        if utterance is not None:
            await self._send(WyomingFrame("transcript-stop"))
        self._wanted = Wanted()

    async def _send_chunk(self, text: str) -> None:
        if text:
            await self._send(WyomingFrame("transcript-chunk", {"text": text}))

    async def _send(self, frame: WyomingFrame) -> None:
        self.writer.write(frame.encode())
        async with asyncio.timeout(WYOMING_SEND_S):
            await self.writer.drain()

    async def _fail(self, error: AsrError, code: str) -> None:
        """Say what is wrong and end the connection, once the client had time to read it."""
        await self.end()
        await self._send(WyomingFrame("error", {"text": str(error), "code": code}))
        self.writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WYOMING_LINGER_S):
                while await self.reader.read(LINE_BYTES):
                    pass

    def _info(self) -> dict[str, Any]:
        """One program, with the default model first: Home Assistant uses the first."""
        from asr import __version__

        catalogue = self.services.catalogue
        first = catalogue.find(None, live=True)
        models = [first, *(model for model in catalogue.models.values() if model is not first)]
        program = _artifact("asr", "Recurrent speech recognition", __version__) | {
            "models": [
                _artifact(model.name, f"Speech recognition with the model {model.name}", __version__)
                | {"languages": list(languages_of(model))}
                for model in models
            ],
            "supports_transcript_streaming": True,
            "requires_external_vad": False,
            "prefers_auto_gain_enabled": False,
            "prefers_noise_reduction_enabled": False,
        }
        return {"asr": [program], "tts": [], "handle": [], "intent": [], "wake": [], "mic": [], "snd": []}


def languages_of(model: ServedModel) -> tuple[str, ...]:
    """The languages that a model is announced with: English where none is known, since clients need one."""
    return model.languages or ("en",)


def _artifact(name: str, description: str, version: str) -> dict[str, Any]:
    about = {"name": "recurrent-asr", "url": ""}
    return {"name": name, "attribution": about, "installed": True, "description": description, "version": version}


@dataclass(frozen=True)
class AudioFormat:
    """How a client's audio is encoded: linear PCM, little-endian."""

    rate: int
    width: int
    channels: int

    @classmethod
    def read(cls, data: Fields) -> AudioFormat:
        """The format in an event's data. Raises ``ClientError`` for one that is missing or out of range."""
        for field in ("rate", "width", "channels"):
            if data.values.get(field) is None:
                raise data.wrong(field, "a number")
        return cls(data.whole("rate", 0, 4000, 192_000), data.whole("width", 0, 1, 4), data.whole("channels", 0, 1, 32))

    def __str__(self) -> str:
        return f"{self.rate} Hz, {8 * self.width} bits, {self.channels} channels"


class _Utterance:
    """The audio of one transcript, and the text so far."""

    def __init__(self, session: LiveSession, heard: AudioFormat) -> None:
        self.session, self.heard = session, heard
        self._rest = b""
        self._parts: list[str] = []
        self._sent = ""

    def samples(self, data: bytes) -> bytes:
        """The next audio as mono floats, 32 bits each; a sample that is not complete waits for the rest."""
        data = self._rest + data
        size = self.heard.width * self.heard.channels
        whole = len(data) - len(data) % size
        data, self._rest = data[:whole], data[whole:]
        columns = as_floats(data, self.heard.width).reshape(-1, self.heard.channels)
        mixed: npt.NDArray[np.float32] = columns.mean(axis=1, dtype=np.float32)
        return mixed.astype("<f4").tobytes()

    def take(self, events: list[Event] | list[Final]) -> tuple[str, bool]:
        """The text that has become stable, and whether an utterance has ended."""
        stable, ended = "", False
        for event in events:
            if isinstance(event, Final) and event.transcript.text:
                self._parts.append(event.transcript.text)
                ended = True
            elif isinstance(event, Partial):
                stable = event.text[: event.stable].rpartition(" ")[0]
        return self._more(self.text(stable)), ended

    def text(self, more: str = "") -> str:
        """All that has been said."""
        return " ".join(part for part in [*self._parts, more] if part)

    def _more(self, text: str) -> str:
        """What ``text`` adds to the chunks that have been sent."""
        if not text.startswith(self._sent):
            return ""
        added, self._sent = text[len(self._sent) :], text
        return added


def as_floats(data: bytes, width: int) -> npt.NDArray[np.float32]:
    """Linear PCM of ``width`` bytes a sample, little-endian, in [-1, 1]; of 8 bits it is unsigned, as in WAV files."""
    if width == 1:
        return np.float32(1 / 128) * (np.frombuffer(data, np.uint8).astype(np.float32) - 128)
    if width == 3:  # the low byte of 32 bits is zero
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    found: npt.NDArray[np.float32] = (np.frombuffer(data, f"<i{width}") / float(1 << 8 * width - 1)).astype(np.float32)
    return found
