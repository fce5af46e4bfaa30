"""Live streams for the protocols: ``LiveService.open`` gives a ``LiveSession``.

A protocol module needs nothing else to serve streams:

    session = await services.live.open(StreamOptions(model=None, rate_hz=8000))   # raises BusyError, RequestError
    async with session:                                    # leaving it frees everything, also when the client vanished
        events = await session.feed(data)                  # bytes of the session's encoding, any number of them
        ...
        final = await session.finish()
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from types import TracebackType
from typing import Any

from asr.errors import ConfigError, DecodeError
from asr.server.catalogue import Catalogue, ServedModel
from asr.server.messages import Event, Final, Partial, StreamOptions
from asr.server.metrics import Metrics
from asr.server.problems import BusyError, ClosingError, RequestError, WorkerLostError
from asr.server.samples_in import WIDTHS
from asr.server.settings import Settings
from asr.server.wire import CloseStream, EndUtterance, FeedStream, OpenStream, ResetStream
from asr.server.workers import WorkerPool, WorkerProcess

PART_S = 2.0
"""Seconds of sound that are on their way to a worker at most, of each stream."""
LIVE_S = 0.5
"""Length of a block up to which its lag is one of a live client: files in large blocks wait for themselves."""


class LiveService:
    """Opens live streams, and refuses them where those that are served would suffer."""

    def __init__(self, settings: Settings, catalogue: Catalogue, pool: WorkerPool, metrics: Metrics) -> None:
        self.settings, self.catalogue, self.pool, self.metrics = settings, catalogue, pool, metrics
        self.sessions: set[LiveSession] = set()
        """Streams that are open."""
        self.closing = False
        """Whether the server is shutting down; ``feed`` then raises ``ClosingError``."""
        self._numbers = itertools.count(1)

    @property
    def open_sessions(self) -> int:
        """How many streams are open."""
        return len(self.sessions)

    async def open(self, options: StreamOptions, *, instead_of: LiveSession | None = None) -> LiveSession:
        """A new stream. Call it before the handshake, so that a refusal can be an HTTP status.

        ``instead_of``: a session that the new one replaces. It was admitted, so that the new one always is, and it is
        closed; where this raises ``RequestError`` it stays as it was.

        Raises:
            BusyError: no room; ``retry_after_s`` says when to try again. ``ClosingError``: the server shuts down.
            UnknownModelError, RequestError: options that cannot be served, ``param`` naming the one at fault.
        """
        if self.closing:
            raise ClosingError("the server is shutting down")
        model = check_stream_options(options, self.catalogue, self.settings)
        try:
            if instead_of is not None:
                worker = instead_of.worker
            else:
                worker = await self.pool.for_stream(model.name)
                if self.open_sessions >= self.settings.limits.streams:
                    raise BusyError(f"expected fewer than {self.open_sessions} streams at a time; try again later")
        except BusyError:
            self.metrics.refused["live"] += 1
            raise
        session = LiveSession(self, worker, model, options, next(self._numbers))
        try:
            await session.begin()
        except BaseException:
            await session.close()
            raise
        if instead_of is None:
            self.metrics.opened["live"] += 1
        else:
            await instead_of.close()
        return session


def check_stream_options(options: StreamOptions, catalogue: Catalogue, settings: Settings) -> ServedModel:
    """The model that options name. Raises ``RequestError`` naming an option out of range."""
    limits = settings.limits
    model = catalogue.find(options.model, live=True)
    if not 4000 <= options.rate_hz <= 192_000:
        raise RequestError(f"sample rate: expected 4000 to 192000 Hz, got {options.rate_hz}", "rate_hz")
    if options.encoding not in WIDTHS:
        raise RequestError(f"encoding: expected one of {', '.join(WIDTHS)}, got {options.encoding!r}", "encoding")
    if not 1 <= options.alternatives <= 16:
        raise RequestError(f"alternatives: expected 1 to 16, got {options.alternatives}", "alternatives")
    for param, words in (("hot_words", list(options.hot_words)), ("phrases", list(options.phrases))):
        if len(words) > limits.hot_words:
            raise RequestError(f"{param}: expected at most {limits.hot_words}, got {len(words)}", param)
        for word in words:
            if len(word) > limits.phrase_characters:
                raise RequestError(
                    f"{param}: expected at most {limits.phrase_characters} characters each, got {len(word)}", param
                )
    return model


class LiveSession:
    """One live stream. Calls of one session must not overlap, save ``close``."""

    def __init__(
        self, service: LiveService, worker: WorkerProcess, model: ServedModel, options: StreamOptions, number: int
    ) -> None:
        self.service, self.worker, self.model, self.options = service, worker, model, options
        self._number, self._life = number, worker.life
        self._rest = b""
        self._received_s = 0.0
        service.sessions.add(self)
        worker.load.streams[model.name] += 1

    async def __aenter__(self) -> LiveSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def time_s(self) -> float:
        """Seconds of audio received so far."""
        return self._received_s

    async def begin(self) -> None:
        """Prepare the search; ``LiveService.open`` calls it."""
        options = dataclasses.replace(self.options, model=self.model.name)
        request = OpenStream(self._number, self.model.name, options)
        try:
            await self.worker.ask(request)
        except DecodeError as error:
            raise RequestError(str(error), "phrases" if options.phrases else "hot_words") from error
        except ConfigError as error:
            raise RequestError(str(error), "hot_words" if self.options.hot_words else None) from error

    async def feed(self, data: bytes) -> list[Event]:
        """Take audio in the session's encoding; returns when all of it has been computed (but for the lookahead).

        Any number of bytes: those of a sample that is not complete wait for the next call. The events come in order:
        for each utterance that has ended ``SpeechStopped`` and ``Final``, then ``SpeechStarted`` where a new one
        begins, and last one ``Partial``, also where its text is empty or has not changed.

        Raises ``ClosingError`` when the server shuts down (call ``finish`` and close), ``RequestError`` beyond the
        limit of seconds, ``WorkerLostError``.
        """
        if self.service.closing:
            raise ClosingError("the server is shutting down")
        started = time.monotonic()
        data = self._rest + data
        width = WIDTHS[self.options.encoding]
        whole = len(data) - len(data) % width
        self._rest = data[whole:]
        seconds = whole / width / self.options.rate_hz
        limit_s = self.service.settings.limits.stream_s
        if self._received_s + seconds > limit_s:
            raise RequestError(f"expected at most {limit_s:g} s of audio in a stream, got more")
        size = max(1, round(PART_S * self.options.rate_hz)) * width
        events: list[Event] = []
        for at in range(0, max(whole, 1), size):
            part = data[at : min(at + size, whole)]
            found = await self._ask(FeedStream(self._number, part))
            events = [event for event in events if not isinstance(event, Partial)] + found
            self._received_s += len(part) / width / self.options.rate_hz
        self.service.metrics.audio_s["live"] += seconds
        if 0 < seconds <= LIVE_S:
            lag_s = time.monotonic() - started
            self.worker.load.note_lag(lag_s)
            self.service.metrics.note_lag(lag_s)
        return events

    async def end_utterance(self) -> Final:
        """End the utterance under way here, lookahead included; its text is that of a recording that ends here.

        The stream goes on with the next utterance, and times go on counting. The transcript is empty where nothing was
        said. Utterances that ended within the lookahead are part of it.
        """
        final: Final = await self._ask(EndUtterance(self._number))
        return final

    async def finish(self) -> Final:
        """``end_utterance``, and the stream is over. Works while the server shuts down."""
        final = await self.end_utterance()
        await self.close()
        return final

    async def reset(self) -> None:
        """Forget the utterance under way without a result."""
        await self._ask(ResetStream(self._number))
        self._rest = b""

    async def close(self) -> None:
        """Free everything; may be called twice."""
        if self not in self.service.sessions:
            return
        self.service.sessions.discard(self)
        self.worker.load.streams[self.model.name] -= 1
        if self.worker.life == self._life:
            self.worker.tell(CloseStream(self._number))

    async def _ask(self, request: FeedStream | EndUtterance | ResetStream) -> Any:
        if self not in self.service.sessions:
            raise RequestError("the stream is closed")
        if self.worker.life != self._life:
            raise WorkerLostError("the recogniser has ended in the middle of this stream")
        try:
            return await self.worker.ask(request)
        except WorkerLostError:
            self.service.metrics.failed["live"] += 1
            raise
