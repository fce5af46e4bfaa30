"""Live streams for the protocols: ``LiveService.open`` gives a ``LiveSession``.

A protocol module needs nothing else to serve streams:

    session = await services.live.open(StreamOptions(model=None, rate_hz=8000))   # raises BusyError, RequestError
    async with session:                                    # leaving it frees everything, also when the client vanished
        events = await session.feed(data)                  # bytes of the session's encoding, any number of them
        ...
        final = await session.finish()
"""

from __future__ import annotations

import asyncio
import dataclasses
from types import TracebackType
from typing import TYPE_CHECKING, Any

from asr.errors import DecodeError
from asr.server.catalogue import Catalogue, ServedModel
from asr.server.messages import Event, Final, Partial, SpeechStarted, SpeechStopped, StreamOptions
from asr.server.models_in_memory import LoadedModels
from asr.server.problems import BusyError, ClosingError, RequestError
from asr.server.samples_in import WIDTHS, as_samples
from asr.server.settings import Settings
from asr.transcript import Transcript

if TYPE_CHECKING:
    from asr.recognize.stream import Stream, Update


class LiveService:
    """Opens live streams, and refuses them where those that are served would suffer."""

    def __init__(self, settings: Settings, catalogue: Catalogue, models: LoadedModels) -> None:
        self.settings, self.catalogue, self.models = settings, catalogue, models
        self.open_sessions = 0
        self.closing = False
        """Whether the server is shutting down; ``feed`` then raises ``ClosingError``."""

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
        if instead_of is None and self.open_sessions >= self.settings.limits.streams:
            raise BusyError(f"expected fewer than {self.open_sessions} streams at a time; try again later")
        model = check_stream_options(options, self.catalogue, self.settings)
        session = LiveSession(self, model, options)
        try:
            await session.begin()
        except BaseException as error:
            await session.close()
            if isinstance(error, DecodeError):  # a hot word or phrase that the model cannot spell
                raise RequestError(str(error), "phrases" if options.phrases else "hot_words") from error
            raise
        if instead_of is not None:
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

    def __init__(self, service: LiveService, model: ServedModel, options: StreamOptions) -> None:
        self.service, self.model, self.options = service, model, options
        self._stream: Stream | None = None
        self._rest = b""
        self._offset_s = 0.0
        self._received = 0
        self._speaking = False
        self._open = True
        service.open_sessions += 1

    async def __aenter__(self) -> LiveSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def time_s(self) -> float:
        """Seconds of audio received so far."""
        return self._received / self.options.rate_hz

    async def begin(self) -> None:
        """Prepare the search; ``LiveService.open`` calls it."""
        from asr.decode.endpoint import Endpoint

        recognizer = await asyncio.to_thread(self.service.models.get, self.model)
        rules = self.options.endpoint_s
        endpoint = None if rules is None else Endpoint(rules, self.options.longest_s)
        self._stream = recognizer.stream(sample_rate_hz=self.options.rate_hz, endpoint=endpoint)
        if self.options.hot_words:
            self._stream.set_hotwords(self.options.hot_words)

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
        data = self._rest + data
        whole = len(data) - len(data) % WIDTHS[self.options.encoding]
        data, self._rest = data[:whole], data[whole:]
        samples = as_samples(data, self.options.encoding)
        self._received += len(samples)
        if self.time_s > self.service.settings.limits.stream_s:
            raise RequestError(f"expected at most {self.service.settings.limits.stream_s:g} s in a stream, got more")
        stream = self._need()
        return self._events(await asyncio.to_thread(self._locked, stream.accept, samples))

    async def end_utterance(self) -> Final:
        """End the utterance under way here, lookahead included; its text is that of a recording that ends here.

        The stream goes on with the next utterance, and times go on counting. The transcript is empty where nothing was
        said. Utterances that ended within the lookahead are part of it.
        """
        stream = self._need()
        made = await asyncio.to_thread(self._locked, stream.finish)
        final = self._final(made)
        self._offset_s, self._speaking = self.time_s, False
        stream.start()
        return final

    async def finish(self) -> Final:
        """``end_utterance``, and the stream is over. Works while the server shuts down."""
        final = await self.end_utterance()
        await self.close()
        return final

    async def reset(self) -> None:
        """Forget the utterance under way without a result."""
        self._need().start()
        self._rest = b""
        self._offset_s, self._speaking = self.time_s, False

    async def close(self) -> None:
        """Free everything; may be called twice."""
        if self._open:
            self._open, self._stream = False, None
            self.service.open_sessions -= 1

    def _need(self) -> Stream:
        if self._stream is None:
            raise RequestError("the stream is closed")
        return self._stream

    def _locked(self, work: Any, *arguments: Any) -> Any:
        with self.service.models.computing:
            return work(*arguments)

    def _events(self, update: Update) -> list[Event]:
        events: list[Event] = []
        for transcript in update.final:
            if not self._speaking and transcript.words:
                events.append(SpeechStarted(transcript.words[0].start_s + self._offset_s))
            final = self._final(transcript)
            words = final.transcript.words
            events += [SpeechStopped(words[-1].end_s if words else self.time_s), final]
            self._speaking = False
        if update.text and not self._speaking:
            events.append(SpeechStarted(update.time_s + self._offset_s))
            self._speaking = True
        if self.service.settings.case == "written" and update.written is not None:
            return [*events, Partial(update.written, update.written_stable, update.time_s + self._offset_s)]
        text = update.text.lower() if self.service.settings.case == "lower" else update.text
        return [*events, Partial(text, update.stable, update.time_s + self._offset_s)]

    def _final(self, transcript: Transcript) -> Final:
        made = in_case(shifted(transcript, self._offset_s), self.service.settings.case)
        return Final(made, (made,), (1.0,))


def shifted(transcript: Transcript, offset_s: float) -> Transcript:
    """A transcript whose words lie so many seconds later."""
    later = [
        tuple(dataclasses.replace(word, start_s=word.start_s + offset_s, end_s=word.end_s + offset_s) for word in words)
        for words in (transcript.words, transcript.written_words)
    ]
    return dataclasses.replace(transcript, words=later[0], written_words=later[1])


def in_case(transcript: Transcript, case: str) -> Transcript:
    """A transcript with its text and words as ``Settings.case`` says; ``written`` needs a model with a tagger."""
    if case == "written":
        return transcript.as_written()
    if case == "lower":
        words = tuple(dataclasses.replace(word, text=word.text.lower()) for word in transcript.words)
        return dataclasses.replace(transcript, text=transcript.text.lower(), words=words)
    return transcript
