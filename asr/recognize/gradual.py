"""One recording in small steps of computing, so that other work fits between them; the result is the same.

``Recognizer.transcribe`` decodes up to ten minutes in one call, and everybody else on a server would wait. Here the
caller's ``between`` runs between any two steps: before each recurrent layer and direction, between pieces of a long
recording, and between stretches of the search. It may wait as long as it likes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from asr.decode import Hypothesis
from asr.errors import ConfigError, TooLongError
from asr.models.inference import Posteriors
from asr.models.pace import Pace
from asr.recognize import long_audio
from asr.recognize.decoder import Decoder
from asr.recognize.engine import Part
from asr.recognize.language_models import Context
from asr.recognize.phrase_lists import phrase_list_decoder
from asr.recognize.readable import ReadableWriter, with_written, written_words
from asr.recognize.recognizer import AudioSource, Recognizer
from asr.recognize.recording import Recording, source_name
from asr.recognize.vocabulary import Vocabulary
from asr.transcript import Transcript, Word

SEARCH_S = 5.0
"""Seconds of posteriors that the search takes in one step."""
PIECES = 2
"""Pieces of a long recording in one pass through the network."""

Between = Callable[[], None]

_here = threading.local()


class Step(NamedTuple):
    """An utterance that is settled or, with ``whole``, the transcript of the whole recording: the last step."""

    transcript: Transcript
    whole: bool


def allow_breaks(recognizer: Recognizer) -> None:
    """Let ``between`` run inside passes through a recognizer's network; call it once."""

    def pause() -> None:
        between: Between | None = getattr(_here, "between", None)
        if between is not None:
            between()

    recognizer.backend.before_layers(pause)


def transcribe_gradually(
    recognizer: Recognizer,
    source: AudioSource,
    between: Between,
    *,
    hotwords: Mapping[str, float] | None = None,
    phrases: Sequence[str] = (),
) -> Iterator[Step]:
    """The transcript of a recording, in steps.

    Args:
        recognizer: best with ``allow_breaks``.
        source: as for ``Recognizer.transcribe``.
        between: called between steps, in the thread that asks for them.
        hotwords: instead of the recognizer's.
        phrases: only their words are recognised (``asr.recognize.phrase_lists``).

    Yields each utterance with words as soon as it is settled, and last the whole. Written words follow when they are
    decided, so that those of an utterance may come with a later one, or at the end with one that has no other words.

    Raises ``AudioError`` as ``Recognizer.transcribe``, ``DecodeError`` for a hot word or phrase that cannot be spelt,
    ``ConfigError`` for hot words where the model decodes greedily or by a closed list.
    """
    item = recognizer.reader.rewindable(Recording.of(source))
    decoder = phrase_list_decoder(recognizer.decoder, phrases) if phrases else recognizer.decoder
    if hotwords and decoder.options.beam == 1:
        raise ConfigError("hot words: expected a model with a beam above 1, got one whose search knows no hot words")
    if decoder.closed:  # a closed list: it is short, and may need several models and speeds
        between()
        with _breaks(between):
            made = recognizer.transcribe(item)
        yield Step(made, True)
        return
    vocabulary = decoder.vocabulary if hotwords is None else decoder.vocabulary_with(hotwords)
    work = _Work(recognizer, decoder, vocabulary, between)
    name = item.name or source_name(item.source)
    try:
        samples = recognizer.reader.samples(item, long_audio.LONG_S)
    except TooLongError:
        yield from work.long(item, name)
    else:
        yield from work.short(samples, name)


@contextlib.contextmanager
def _breaks(between: Between) -> Iterator[None]:
    """Let passes through the network, in this thread, call ``between``."""
    _here.between = between
    try:
        yield
    finally:
        _here.between = None


class _Work:
    def __init__(self, recognizer: Recognizer, decoder: Decoder, vocabulary: Vocabulary, between: Between) -> None:
        self.recognizer, self.decoder, self.vocabulary, self.between = recognizer, decoder, vocabulary, between

    def short(self, samples: np.ndarray, name: str) -> Iterator[Step]:
        self.between()
        with _breaks(self.between):
            rows = self.recognizer.log_probs([samples])[0][0]
        sums = self.recognizer.sums(rows)[0]
        duration_s = len(samples) / self.recognizer.sample_rate_hz
        hypotheses, _ = self.decoded(rows, Context())
        sums = self.recognizer.with_gap(sums, hypotheses[0], self.vocabulary, self.decoder)
        made = self.recognizer.transcript(hypotheses, duration_s, name, self.vocabulary, sums, self.decoder)
        made = with_written(made, self.recognizer.readable)
        if made.words:
            yield Step(made, False)
        yield Step(made, True)

    def long(self, item: Recording, name: str) -> Iterator[Step]:
        recognizer = self.recognizer
        parts, heard = recognizer.whole_posteriors(item, PIECES, Pace())
        found: list[Part] = []
        words: list[Word] = []
        context = Context()
        writer = None if recognizer.readable is None else ReadableWriter(recognizer.readable)
        for start, rows in long_audio.utterances(self.broken(parts), recognizer.frame_s):
            hypotheses, context = self.decoded(rows, context)
            shifted = [h.shifted(start) for h in hypotheses]
            sums = recognizer.with_gap(recognizer.sums(rows)[0], hypotheses[0], self.vocabulary, self.decoder)
            made = recognizer.transcript(shifted, math.inf, name, self.vocabulary, sums, self.decoder)
            found.append((made, sums))
            words += made.words
            if made.words:
                yield Step(self.with_decided(made, words, writer), False)
            self.between()
        whole = recognizer.joined(found, heard.samples / recognizer.sample_rate_hz, name)
        done = len(writer.pieces) if writer else 0
        whole = with_written(whole, recognizer.readable, writer)
        rest = whole.written_words[done:] if writer else ()
        if rest:
            text = " ".join(word.text for word in rest)
            yield Step(dataclasses.replace(whole, text="", words=(), written=text, written_words=rest), False)
        yield Step(whole, True)

    def broken(self, parts: Iterator[Posteriors]) -> Iterator[Posteriors]:
        """The parts, with pauses between and inside them."""
        while True:
            self.between()
            with _breaks(self.between):
                part = next(parts, None)
            if part is None:
                return
            yield part

    def decoded(self, rows: Posteriors, context: Context) -> tuple[list[Hypothesis], Context]:
        """The hypotheses of an utterance ``(T, V)`` behind a context, and the context behind it."""
        search = self.decoder.search()
        self.decoder.begin(search, self.vocabulary, context)
        size = max(1, round(SEARCH_S / self.recognizer.frame_s))
        for at in range(0, len(rows), size):
            self.decoder.accept([search], [rows[at : at + size]])
            self.between()
        found = self.decoder.finish(search, self.recognizer.depth)
        return found, self.decoder.following(context, found[0], self.vocabulary)

    def with_decided(self, made: Transcript, words: Sequence[Word], writer: ReadableWriter | None) -> Transcript:
        """An utterance with the written words that it decides, which may be those of earlier ones; ``words``: all of
        the recording so far."""
        if writer is None:
            return made
        before = len(writer.pieces)
        writer.accept([word.text for word in made.words])
        decided = writer.pieces[before:]
        written = tuple(written_words(decided, words))
        return dataclasses.replace(made, written=" ".join(piece.text for piece in decided), written_words=written)
