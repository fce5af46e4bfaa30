"""The live streams of a worker: all that have new sound advance in one step, in one thread."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asr.decode.endpoint import Endpoint
from asr.errors import AsrError, ConfigError
from asr.recognize.recognizer import Recognizer
from asr.recognize.stream import Stream, Update, advance_streams, finish_streams
from asr.server.computing_turns import Turns
from asr.server.messages import Event, Final, Partial, SpeechStarted, SpeechStopped, StreamOptions
from asr.server.problems import WorkerLostError
from asr.server.samples_in import as_samples
from asr.server.wire import Asked, CloseStream, Emit, EndUtterance, FeedStream, Probe, Reply, ResetStream, StepReport
from asr.transcript import Transcript

STEP_S = 0.2
"""Seconds of sound that a step takes of a stream when many have some."""
ALONE_S = 2.0
"""Seconds of sound that a step takes of all streams together at least, if they have so much."""


@dataclass
class _Task:
    """What a stream is asked to do next."""

    ticket: int
    request: FeedStream | EndUtterance | ResetStream
    rest: np.ndarray | None = None
    """Samples still to be taken, once it has begun."""
    events: list[Event] = field(default_factory=list)


@dataclass
class LiveStream:
    """A stream with what waits for it."""

    stream: Stream
    model: str
    options: StreamOptions
    case: str
    offset_s: float = 0.0
    """Where the times of ``stream`` begin."""
    speaking: bool = False
    tasks: deque[_Task] = field(default_factory=deque)

    def events(self, update: Update) -> list[Event]:
        """An update as events; see ``LiveSession.feed``."""
        found: list[Event] = []
        for transcript in update.final:
            final = self.final(transcript)
            words = final.transcript.words
            if words and not self.speaking:
                found.append(SpeechStarted(words[0].start_s))
            if words or self.speaking:
                found.append(SpeechStopped(words[-1].end_s if words else update.time_s + self.offset_s))
            found.append(final)
            self.speaking = False
        if update.start_s is not None and not self.speaking:
            found.append(SpeechStarted(update.start_s + self.offset_s))
            self.speaking = True
        text, stable = update.text, update.stable
        if self.case == "written" and update.written is not None:
            text, stable = update.written, update.written_stable
        elif self.case == "lower":
            text = text.lower()
        return [*found, Partial(text, stable, update.time_s + self.offset_s)]

    def final(self, transcript: Transcript) -> Final:
        """A transcript with its alternatives, at its place in the whole stream, in the server's case."""
        spoken = shifted(transcript, self.offset_s)
        made = in_case(spoken, self.case)
        others = tuple(in_case(shifted(a.transcript, self.offset_s), self.case) for a in transcript.alternatives)
        shares = tuple(a.share for a in transcript.alternatives)
        plain = dataclasses.replace(spoken, alternatives=()) if self.case == "written" else None
        return Final(dataclasses.replace(made, alternatives=()), others or (made,), shares or (1.0,), plain)

    def begin_again(self) -> None:
        """The next utterance, with a fresh network; times go on."""
        self.offset_s += self.stream.received_s
        self.speaking = False
        self.stream.start()


def open_stream(recognizer: Recognizer, options: StreamOptions, model: str, case: str) -> LiveStream:
    """A stream for a client's options. Raises ``DecodeError`` or ``ConfigError`` for hot words or phrases that cannot
    be used."""
    rules = options.endpoint_s
    stream = recognizer.stream(
        sample_rate_hz=options.rate_hz,
        endpoint=None if rules is None else Endpoint(rules, options.longest_s),
        hotwords=options.hot_words or None,
        phrases=options.phrases,
        alternatives=options.alternatives,
        settle_s=options.settle_s,
    )
    return LiveStream(stream, model, options, case)


class LiveEngine:
    """Advances streams step by step. ``submit`` from any thread; ``run`` is the thread that computes."""

    def __init__(self, recognizers: dict[str, Recognizer], probe_model: str, turns: Turns, emit: Emit) -> None:
        self.recognizers, self.turns, self.emit = recognizers, turns, emit
        self.probe_model = probe_model
        self.streams: dict[int, LiveStream] = {}
        self._changed = threading.Condition()
        self._probes: list[int] = []

    def add(self, session: int, live: LiveStream) -> None:
        """Take a stream that ``open_stream`` has made."""
        with self._changed:
            self.streams[session] = live

    def submit(self, asked: Asked) -> None:
        """Queue a request; replies go to ``emit``."""
        ticket, request = asked
        with self._changed:
            if isinstance(request, Probe):
                self._probes.append(ticket)
            elif isinstance(request, CloseStream):
                self.streams.pop(request.session, None)
                return
            else:
                assert isinstance(request, FeedStream | EndUtterance | ResetStream)
                live = self.streams.get(request.session)
                if live is None:
                    self.emit([Reply(ticket, error=WorkerLostError("the stream is closed"))])
                    return
                live.tasks.append(_Task(ticket, request))
            self._changed.notify()

    def run(self) -> None:
        """Compute for ever."""
        while True:
            with self._changed:
                while not self._probes and not any(live.tasks for live in self.streams.values()):
                    self._changed.wait()
                waiting = [live for live in self.streams.values() if live.tasks]
                probes, self._probes = self._probes, []
            replies: list[Any] = []
            with self.turns.live():
                self.step(waiting, replies)
                replies += [self.probe(ticket) for ticket in probes]
            if replies:
                self.emit(replies)

    def probe(self, ticket: int) -> Reply:
        """A moment of silence through network and search of the default model."""
        recognizer = self.recognizers[self.probe_model]
        silence = np.zeros(recognizer.sample_rate_hz // 5, np.float32)
        try:
            try:
                stream = recognizer.stream()
            except ConfigError:  # it needs whole recordings
                recognizer.transcribe(silence)
            else:
                stream.accept(silence)
                stream.finish()
        except Exception as error:
            return Reply(ticket, error=AsrError(f"decoding fails: {type(error).__name__}"))
        return Reply(ticket, {"streams": len(self.streams)})

    def step(self, waiting: Sequence[LiveStream], replies: list[Any]) -> None:
        """Do the first task of each of these streams, or a part of it; by model, in one pass for all of them."""
        most_s = max(STEP_S, ALONE_S / max(1, len(waiting)))
        groups: dict[tuple[str, int], list[LiveStream]] = {}
        for live in waiting:  # while a model is swapped, some streams have the old one
            groups.setdefault((live.model, id(live.stream.recognizer)), []).append(live)
        for (model, _), group in groups.items():
            started = time.perf_counter()
            try:
                audio_s = self._step(group, most_s, replies)
            except Exception:  # a fault of ours: the streams of this step are lost, the others go on
                traceback.print_exc()
                for live in group:
                    if live.tasks:
                        error = WorkerLostError("the recogniser has failed; the stream cannot continue")
                        replies.append(Reply(live.tasks.popleft().ticket, error=error))
                    live.stream.start()
                continue
            replies.append(StepReport(model, len(group), audio_s, time.perf_counter() - started))

    def _step(self, group: Sequence[LiveStream], most_s: float, replies: list[Any]) -> float:
        feeding, ending, audio_s = [], [], 0.0
        for live in group:
            task = live.tasks[0]
            if isinstance(task.request, ResetStream):
                live.tasks.popleft()
                self._begin_again(live)
                replies.append(Reply(task.ticket))
            elif isinstance(task.request, EndUtterance):
                ending.append(live)
            else:
                try:
                    audio_s += _push(live, task, most_s)
                    feeding.append(live)
                except AsrError as error:
                    live.tasks.popleft()
                    replies.append(Reply(task.ticket, error=error))
        for live, update in zip(feeding, advance_streams([live.stream for live in feeding]), strict=True):
            task = live.tasks[0]
            task.events = [*(e for e in task.events if not isinstance(e, Partial)), *live.events(update)]
            if task.rest is None or not len(task.rest):
                live.tasks.popleft()
                replies.append(Reply(task.ticket, task.events))
        for live, transcript in zip(ending, finish_streams([live.stream for live in ending]), strict=True):
            final = live.final(transcript)
            self._begin_again(live)
            replies.append(Reply(live.tasks.popleft().ticket, final))
        return audio_s

    def _begin_again(self, live: LiveStream) -> None:
        """The next utterance of a stream, with the model that is served now."""
        live.begin_again()
        recognizer = self.recognizers.get(live.model)
        if recognizer is not None and live.stream.recognizer is not recognizer:
            with contextlib.suppress(AsrError):  # a hot word that it cannot spell: the old one goes on
                live.stream = open_stream(recognizer, live.options, live.model, live.case).stream


def _push(live: LiveStream, task: _Task, most_s: float) -> float:
    """Give a stream the next samples of its task; returns seconds. Raises ``AudioError`` for what is no sound."""
    if task.rest is None:
        assert isinstance(task.request, FeedStream)
        task.rest = as_samples(task.request.data, live.options.encoding)
    size = max(1, round(most_s * live.options.rate_hz))
    block, task.rest = task.rest[:size], task.rest[size:]
    live.stream.push(block)
    return len(block) / live.options.rate_hz


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
