"""Live recognition: takes samples as they arrive, gives text while it is spoken.

A stream gives the same result as the whole recording. Resampler, features, convolutions, recurrent layers and search
carry their state from block to block. The size of the blocks changes nothing. ``advance_streams`` and
``asr.recognize.stream_batch`` advance many streams with one pass through the network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.audio.headers import check_rate
from asr.config import loader
from asr.decode import BeamSearch
from asr.decode.endpoint import Endpoint, Endpointer
from asr.decode.judgement import FrameSums
from asr.decode.posteriors import BLANK, positive_int
from asr.errors import ConfigError
from asr.models.inference import Latency, Posteriors, StreamState
from asr.recognize.engine import Engine, Part
from asr.recognize.language_models import Context
from asr.recognize.phrase_lists import phrase_list_decoder
from asr.recognize.readable import ReadableWriter, with_written
from asr.recognize.vocabulary import Vocabulary
from asr.recognize.waiting_samples import WaitingSamples
from asr.transcript import Transcript, Word

SILENCE_S = 60.0
"""Silence at an utterance's start that is kept, so that hot words can still change."""
SETTLE_EVERY_S = 0.24
"""How often words are decided on, where a stream is asked to."""
ALIKE = 4
"""Hypotheses that are asked for each alternative text."""


@dataclass(frozen=True)
class Update:
    """The result of a block of samples.

    ``final``: utterances that have ended. ``text``: the best guess at the current utterance; its first ``stable``
    characters will not change any more (except by a language model's end of sentence). ``time_s``: the position in the
    stream that ``text`` reaches. ``written``: the same with case, punctuation and digits; its first ``written_stable``
    characters will not change any more, and what follows is in plain small letters. None where the model has no tagger.
    """

    final: tuple[Transcript, ...]
    text: str
    stable: int
    time_s: float
    written: str | None = None
    written_stable: int = 0
    start_s: float | None = None
    """When the first word of ``text`` begins; None without a word."""


class Stream:
    """One stream. ``accept`` blocks, then ``finish``; or let a ``StreamBatch`` do both for many.

    Weights, language models and lexicon are the recognizer's, which all of its streams share. Hot words, phrases,
    alternatives and endpoint are the stream's own.

    Args:
        recognizer: a model and how to decode: the result of ``asr.load``.
        sample_rate_hz: the rate of the samples to come; by default the model's.
        endpoint: rules that cut the stream into utterances; ``None``: one utterance, with the same text as
            ``Recognizer.transcribe``.
        chunk_s, right_s: for a bidirectional model, the length of its chunks and of their right context in seconds;
            by default as the model directory says (``asr.recognize.options.Chunks``). It answers after both. A
            unidirectional model needs neither.
        source: a name for transcripts and messages.
        hotwords: boosts of words and phrases (natural logarithms) instead of the recognizer's; ``set_hotwords`` gives
            others later.
        phrases: only their words are recognised, in any order (``asr.recognize.phrase_lists``).
        alternatives: hypotheses in ``Transcript.alternatives`` of each utterance, if more than 1.
        settle_s: how long ago a word must have ended to be decided on: it is ``stable`` then, and rival hypotheses are
            dropped. Few words change (docs/streaming.md). None: a word is stable when no hypothesis has another.

    Raises:
        ConfigError: an impossible ``chunk_s`` or ``right_s``; several models or speeds, which need whole recordings.
        AudioError: an impossible rate.
        DecodeError: a hot word or phrase that cannot be spelt.
    """

    def __init__(
        self,
        recognizer: Engine,
        *,
        sample_rate_hz: int | None = None,
        endpoint: Endpoint | None = None,
        chunk_s: float | None = None,
        right_s: float | None = None,
        source: str = "stream",
        hotwords: Mapping[str, float] | None = None,
        phrases: Sequence[str] = (),
        alternatives: int = 1,
        settle_s: float | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.decoder = phrase_list_decoder(recognizer.decoder, phrases) if phrases else recognizer.decoder
        speeds = recognizer.decoder.options.speeds
        if recognizer.also or speeds != (1.0,):
            raise ConfigError(
                f"{source}: expected one model and speed 1 for a stream, got {1 + len(recognizer.also)} models and "
                f"speeds {list(speeds)}, which need whole recordings"
            )
        self.source = source
        self.endpoint = endpoint
        self.latency = _latency(recognizer, chunk_s, right_s)
        self.rate_hz = recognizer.sample_rate_hz if sample_rate_hz is None else sample_rate_hz
        check_rate(self.rate_hz, f"{source}: sample_rate_hz")
        if not isinstance(endpoint, Endpoint | None):
            raise ConfigError(f"{source}: endpoint: expected an Endpoint or None, got {endpoint!r}"[:200])
        self.alternatives = positive_int("alternatives", alternatives)
        self._settle_frames = self._settle_every = 0
        if settle_s is not None:
            if not 0 <= loader.as_number(settle_s, "settle_s") < math.inf:
                raise ConfigError(f"{source}: settle_s: expected 0 or more, or None, got {settle_s}")
            self._settle_frames = round(settle_s / recognizer.frame_s)
            self._settle_every = max(1, round(SETTLE_EVERY_S / recognizer.frame_s))
        self._search = self.decoder.search()
        self._vocabulary = self._next_vocabulary = self.decoder.vocabulary
        """With the hot words of the utterance under way, and of the next one."""
        if hotwords is not None:
            self._next_vocabulary = self._with(hotwords)
        self.start()

    def start(self) -> None:
        """Forget everything and begin a new stream."""
        self._waiting = WaitingSamples(self.recognizer.model.config, self.rate_hz, self.source)
        self._state: StreamState | None = None
        """What features and network carry on; None before their first frame."""
        self._context = Context()
        """What was said in the utterances before, for language models that go on."""
        self._sums: FrameSums | None = None
        """Of the posteriors of the utterance under way, for a model with a judge."""
        self._ended: list[Part] = []
        """Utterances that have ended in the block under way."""
        self._begin()
        self._offset = 0
        """Frame of log-probabilities at which the utterance under way begins."""
        self._endpointer = None if self.endpoint is None else Endpointer(self.endpoint, self.recognizer.frame_s)

    def _begin(self) -> None:
        """Begin an utterance."""
        self._vocabulary = self._next_vocabulary
        self._writer = None if self.recognizer.readable is None else ReadableWriter(self.recognizer.readable)
        self.decoder.begin(self._search, self._vocabulary, self._context)
        self._silence: list[Posteriors] | None = [] if self.decoder.options.beam > 1 else None
        """Log-probabilities of the utterance while it is only silence; None after its first sound."""

    def set_hotwords(self, hotwords: Mapping[str, float]) -> None:
        """Take other hot words from now on: boosts (natural logarithms) of words and phrases, instead of those before.

        They apply to the current utterance if it holds only silence so far, of at most ``SILENCE_S``; otherwise from
        the next utterance on. For a prefix of a text carries what hot words have earned it so far:
        changed in the middle of an utterance, its text would be that of neither list and depend on the blocks. As it
        is, each utterance is what ``Recognizer`` makes of it with the list that it has. ``start`` keeps the new list.

        The lexicon or n-gram is not arranged again: new hot words are added to its tree.

        Raises ``ConfigError`` where the recognizer decodes without a beam, ``DecodeError`` naming a hot word that
        cannot be used; the words before stay then.
        """
        self._next_vocabulary = self._with(hotwords)
        if self._silence is not None:
            silence = self._silence
            self._begin()
            for rows in silence:
                self._search.accept(rows)
            self._silence = silence

    def _with(self, hotwords: Mapping[str, float]) -> Vocabulary:
        if self.decoder.options.beam == 1:
            raise ConfigError(
                f"{self.source}: hot words: expected a beam above 1, got a search without hot words; set beam"
            )
        return self.decoder.vocabulary_with(hotwords)

    def note(self, log_probs: Posteriors) -> None:
        """Add rows ``(T, V)`` that the search has taken to the sums; remember the rows while they are silence."""
        if (sums := self.recognizer.sums(log_probs)[0]) is not None:
            self._sums = sums if self._sums is None else self._sums + sums
        if self._silence is None:
            return
        self._silence.append(log_probs)
        heard_s = self._search.frames * self.recognizer.frame_s
        if heard_s > SILENCE_S or bool((log_probs.argmax(axis=1) != BLANK).any()):
            self._silence = None

    @property
    def received_s(self) -> float:
        """Seconds of audio that were pushed since ``start``."""
        return self._waiting.received / self.rate_hz

    @property
    def time_s(self) -> float:
        """Seconds of audio that the search has processed."""
        return (self._offset + self._search.frames) * self.recognizer.frame_s

    def accept(self, samples: npt.ArrayLike) -> Update:
        """Take the next samples ``(n,)``, mono; floats in [-1, 1] or integers, any number of them.

        Raises ``AudioError`` for another shape or type, for NaN and infinity, and behind ``finish``.
        """
        self.push(samples)
        return advance_streams([self])[0]

    def finish(self) -> Transcript:
        """End the stream: the transcript of the utterance under way, empty if nothing was said since the last one."""
        return finish_streams([self])[0]

    def push(self, samples: npt.ArrayLike) -> None:
        """Take samples without computing anything yet; ``advance_streams`` does."""
        self._waiting.push(samples)

    def cut(self, log_probs: Posteriors) -> list[tuple[Posteriors, bool]]:
        """Log-probabilities ``(T, V)`` cut at endpoints: parts, and whether an utterance ends behind each."""
        parts = [(log_probs, False)] if self._endpointer is None else self._endpointer.cut(log_probs)
        return list(self._cut_to_settle(parts)) if self._settle_every else parts

    def _cut_to_settle(self, parts: Sequence[tuple[Posteriors, bool]]) -> Iterator[tuple[Posteriors, bool]]:
        """Parts cut where words are decided on: at certain frames of the utterance, whatever the blocks are."""
        at = self._search.frames
        for rows, ends in parts:
            while len(rows) > (room := self._settle_every - at % self._settle_every):
                yield rows[:room], False
                rows, at = rows[room:], at + room
            yield rows, ends
            at = 0 if ends else at + len(rows)

    def settle(self) -> None:
        """Decide on words where this stream does so; ``advance_streams`` calls it behind every part."""
        search, every = self._search, self._settle_every
        if every and isinstance(search, BeamSearch) and search.frames and search.frames % every == 0:
            search.settle(self._settle_frames)

    def end_utterance(self) -> Transcript:
        """The transcript of the utterance under way; the next one begins here. Times count from the stream's start."""
        frames = self._search.frames
        recognizer, decoder = self.recognizer, self.decoder
        depth = recognizer.depth
        if self.alternatives > 1 and decoder.options.beam > 1:  # several hypotheses may be the same text
            depth = max(depth, ALIKE * self.alternatives)
        found = [h.shifted(self._offset) for h in decoder.finish(self._search, depth)]
        self._context = decoder.following(self._context, found[0], self._vocabulary)
        vocabulary = self._vocabulary
        self._begin()
        self._offset += frames
        duration_s = min(self.received_s, self._offset * recognizer.frame_s)
        if self._waiting.closed:
            duration_s = self.received_s
        sums = recognizer.with_gap(self._sums, found[0], vocabulary, decoder)
        self._sums = None
        made = recognizer.transcript(found[: recognizer.depth], duration_s, self.source, vocabulary, sums, decoder)
        self._ended.append((made, sums))
        made = with_written(made, recognizer.readable)
        if self.alternatives > 1 and made.words:
            others = recognizer.alternatives(found, made, self.alternatives, vocabulary, decoder)
            made = dataclasses.replace(made, alternatives=others)
        return made

    def update(self, final: Sequence[Transcript]) -> Update:
        """What is known now."""
        hypothesis, stable = self._search.partial()
        text, settled = self._vocabulary.partial(hypothesis.tokens, stable)
        written, decided = self._written(text, settled)
        start_s = (self._offset + hypothesis.frames[0]) * self.recognizer.frame_s if hypothesis.frames else None
        return Update(tuple(final), text, settled, self.time_s, written, decided, start_s)

    def _written(self, text: str, settled: int) -> tuple[str | None, int]:
        """``text`` with case, punctuation and digits, and how many characters are decided."""
        if self._writer is None or self.decoder.closed:  # a phrase is written as its list has it
            return None, 0
        stable = text[:settled].rpartition(" ")[0].split()  # the last word may still grow
        known = len(self._writer.accepted)
        self._writer.accept(stable[known:])
        return self._writer.guess(text.split()[len(self._writer.accepted) :]), len(self._writer.text())


def advance_streams(streams: Sequence[Stream]) -> list[Update]:
    """Decode what has been pushed to streams of one recognizer, those with equally much to do in one pass."""
    final: list[list[Transcript]] = [[] for _ in streams]
    for stream in streams:
        stream._ended = []
    for indices in iter(lambda: _next_group(streams), []):
        matrices = _forward([streams[i] for i in indices])
        # An endpoint splits a stream's frames; the first parts of all go to the search together, then the second ones.
        queues = {i: streams[i].cut(matrix) for i, matrix in zip(indices, matrices, strict=True)}
        while queues:
            decoder = streams[indices[0]].recognizer.decoder
            decoder.accept([streams[i]._search for i in queues], [parts[0][0] for parts in queues.values()])
            for i in list(queues):
                rows, ends = queues[i].pop(0)
                streams[i].note(rows)
                streams[i].settle()
                if ends:
                    ended = streams[i].end_utterance()
                    if ended.words or ended.reliable is False:
                        final[i].append(ended)
                if not queues[i]:
                    del queues[i]
    return [stream.update(done) for stream, done in zip(streams, final, strict=True)]


def finish_streams(streams: Sequence[Stream]) -> list[Transcript]:
    """End streams of one recognizer, together; ``Stream.finish`` of each."""
    for stream in streams:
        stream._waiting.close()
    before = [update.final for update in advance_streams(streams)]
    transcripts = []
    for stream, done in zip(streams, before, strict=True):
        last = stream.end_utterance()
        words: tuple[Word, ...] = sum((t.words for t in done), ()) + last.words
        spoken = sum((t.spoken for t in done), ()) + last.spoken
        written = None if last.written is None else " ".join(t.written for t in (*done, last) if t.written)
        written_words: tuple[Word, ...] = sum((t.written_words for t in done), ()) + last.written_words
        text = " ".join(w.text for w in words)
        made = dataclasses.replace(
            last, text=text, words=words, spoken=spoken, written=written, written_words=written_words
        )
        # Alternatives are those of the last utterance that has words.
        *before_it, final = [t for t in (*done, last) if t.words] or [last]
        if before_it or final is not last:
            made = dataclasses.replace(made, alternatives=tuple(a.behind(before_it) for a in final.alternatives))
        transcripts.append(stream.recognizer.whole(made, stream._ended))
    return transcripts


def _next_group(streams: Sequence[Stream]) -> list[int]:
    """Streams that can take the same next step: as many frames, from states of the same shape."""
    groups: dict[object, list[int]] = {}
    for index, stream in enumerate(streams):
        ready, state = stream._waiting.ready(), stream._state
        last = stream._waiting.is_last(ready)
        if ready or (last and state is not None and state.pending):
            groups.setdefault((ready, None if state is None else state.shape, last), []).append(index)
    return max(groups.values(), key=len, default=[])


def _forward(streams: Sequence[Stream]) -> list[Posteriors]:
    """Log-probabilities ``(T, V)`` of the next frames of features, as many for each of the streams."""
    first = streams[0]
    frames = first._waiting.ready()
    last = first._waiting.is_last(frames)
    samples = np.stack([stream._waiting.take(frames) for stream in streams])
    states = [stream._state for stream in streams]
    rows, states = first.recognizer.backend.stream(samples, states, latency=first.latency, last=last)
    for stream, state in zip(streams, states, strict=True):
        stream._state = state
    return rows


def _latency(recognizer: Engine, chunk_s: float | None, right_s: float | None) -> Latency | None:
    """Chunk and right context in subsampled frames, rounded up."""
    config = recognizer.model.config
    if not config.model.bidirectional:
        return None
    frame_s = config.features.hop_s * config.model.subsampling
    given = {name: value for name, value in (("chunk_s", chunk_s), ("right_s", right_s)) if value is not None}
    chunks = dataclasses.replace(recognizer.chunks, **given)
    return Latency(math.ceil(chunks.chunk_s / frame_s), math.ceil(chunks.right_s / frame_s))
