"""From audio to transcripts with a loaded model."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, Unpack, overload

import numpy as np
from tqdm import tqdm

from asr import decode
from asr.config import loader
from asr.data.manifest import Utterance
from asr.decode import Hypothesis
from asr.decode.endpoint import Endpoint
from asr.errors import AudioError, ConfigError, DecodeError, TooLongError
from asr.models.inference import Counts, LoadedModel, Posteriors
from asr.models.pace import Pace
from asr.recognize import long_audio, phrase_answers
from asr.recognize.engine import BATCH_S, Engine, Part, pad_rows
from asr.recognize.known_words import aligned_transcript
from asr.recognize.language_models import Context
from asr.recognize.loading import load_any
from asr.recognize.option_sources import choose
from asr.recognize.options import Decoding, DecodingOptions
from asr.recognize.pipeline import Pipeline, Result, cut_batches
from asr.recognize.readable import all_with_written, with_written
from asr.recognize.readers import ReadingPlan, ReadRecording, read_recordings
from asr.recognize.recording import Heard, Recording, RecordingReader, source_name
from asr.recognize.stream import Stream
from asr.text.user_words import reading
from asr.transcript import Transcript

# Audio decoded together before it is sorted by length and cut into batches.
WINDOW_S = 600.0
WINDOW_ITEMS = 64


AudioSource: TypeAlias = "str | os.PathLike[str] | BinaryIO | np.ndarray | Utterance | Recording"
"""What can be transcribed."""
TranscribeMany: TypeAlias = "Callable[[Sequence[Recording]], Iterator[Result]]"
"""Each recording with its transcript or error, in any order."""


class Recognizer(Engine):
    """A model ready to transcribe.

    Args:
        model: a loaded model directory or an exported model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: how to decode; by default as the model directory says, else greedily.
        max_duration_s: refuse longer recordings; by default there is no limit.
        also: further recognizers, with any tokens and features, that score the same phrases with equal weight
            (``decoding.phrases``; the mean of the logarithms).
        precision, batch_s: see ``Engine``.

    Recordings beyond ``asr.recognize.long_audio.LONG_S`` are read and recognised in pieces, in constant memory.

    Raises ``DecodeError`` or ``ModelError`` naming a language model or word that cannot be used.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: str = "auto",
        decoding: Decoding | None = None,
        max_duration_s: float | None = None,
        also: Sequence[Recognizer] = (),
        precision: str = "fp32",
        batch_s: float | None = None,
    ) -> None:
        if max_duration_s is not None and not loader.as_number(max_duration_s, "max_duration_s") > 0:
            raise ConfigError(f"max_duration_s: expected > 0 or None, got {max_duration_s}")
        super().__init__(model, device=device, decoding=decoding, precision=precision, batch_s=batch_s)
        self.overlap = self.backend.on_gpu
        """Whether many recordings are decoded in a thread while the network computes the next batch."""
        self.reader = RecordingReader(model.config.features, max_duration_s)
        self.also: tuple[Recognizer, ...] = tuple(also)
        for other in self.also:
            phrase_answers.check_same_phrases(self, other)

    @property
    def max_duration_s(self) -> float | None:
        """Longer recordings are refused; None: there is no limit."""
        return self.reader.max_duration_s

    def stream(
        self,
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
    ) -> Stream:
        """A live stream that this recognizer listens to; the arguments are those of ``asr.Stream``."""
        return Stream(
            self,
            sample_rate_hz=sample_rate_hz,
            endpoint=endpoint,
            chunk_s=chunk_s,
            right_s=right_s,
            source=source,
            hotwords=hotwords,
            phrases=phrases,
            alternatives=alternatives,
            settle_s=settle_s,
        )

    @overload
    def transcribe(
        self, source: list[Any] | tuple[Any, ...], *, sample_rate_hz: int | None = None
    ) -> list[Transcript]: ...

    @overload
    def transcribe(self, source: AudioSource, *, sample_rate_hz: int | None = None) -> Transcript: ...

    def transcribe(self, source: Any, *, sample_rate_hz: int | None = None) -> Transcript | list[Transcript]:
        """Transcribe a recording, or a list of them, in batches, to a list.

        Args:
            source: a path, a binary file object, an array ``(S,)`` or ``(S, C)`` (float in [-1, 1] or integer), a
                manifest's utterance, or a list of any of these.
            sample_rate_hz: the rate of arrays; by default it is taken to be the model's. Files know their own.

        Raises ``AudioError`` naming the file when it cannot be read or is shorter than one analysis window: the first
        of a list. ``transcribe_many`` gives errors in their places, and the others' transcripts.
        """
        if isinstance(source, list | tuple):
            found = []
            for _, result in self.transcribe_many(source, sample_rate_hz=sample_rate_hz):
                if isinstance(result, AudioError):
                    raise result
                found.append(result)
            return found
        item = self.reader.rewindable(Recording.of(source, sample_rate_hz))
        try:
            samples = self.reader.samples(item, long_audio.LONG_S)
        except TooLongError:
            return self._transcribe_long(item)
        return self._transcripts([samples], [item.name or source_name(item.source)])[0]

    def align(self, source: AudioSource, words: str, *, sample_rate_hz: int | None = None) -> Transcript:
        """When each word and token of a recording was said, its words being known.

        Args:
            source: as for ``transcribe``.
            words: what was said, as anybody writes it: what the model cannot spell is written out as it is spoken in
                the language of the options (``asr.text.user_words``). Words of the result are written as here.
            sample_rate_hz: as for ``transcribe``.

        The result's ``left_out`` names words that cannot be spelt, and its ``mismatch`` shows whether this is what was
        said at all: beyond ``asr.decode.alignment.MISMATCH`` it hardly is.

        Raises ``AudioError`` as ``transcribe``, ``TextError`` for a text without a word that the model can spell, and
        ``DecodeError`` for more words than the recording has room for.
        """
        item = self.reader.rewindable(Recording.of(source, sample_rate_hz))
        name = item.name or source_name(item.source)
        said = reading(words, self.model.tokenizer, self.decoder.options.language, name)
        tokens, places = said.tokens(self.model.tokenizer)
        try:
            samples = self.reader.samples(item, long_audio.LONG_S)
        except TooLongError:
            parts, heard = self.whole_posteriors(item)
            matrix = np.concatenate(list(parts))
            duration_s = heard.samples / self.sample_rate_hz
        else:
            matrix = self.log_probs([samples])[0][0]
            duration_s = len(samples) / self.sample_rate_hz
        try:
            hypothesis = decode.align(matrix, tokens)
        except DecodeError as error:
            raise DecodeError(f"{name or 'audio'}: {error}") from error
        return aligned_transcript(said, places, hypothesis, matrix, self, duration_s, name)

    def transcribe_many(
        self,
        sources: Iterable[AudioSource],
        *,
        sample_rate_hz: int | None = None,
        progress: bool = False,
        readers: int | None = 0,
    ) -> Iterator[Result]:
        """Transcribe recordings in batches, in order; one that fails gives its error in its place.

        A list is read ahead of the network; recordings of any other iterable are taken one at a time.

        Args:
            sources: each as for ``transcribe``, or a ``Recording``, which names and cuts a recording.
            sample_rate_hz: the rate of arrays that are no recordings.
            progress: a bar on a terminal shows how far a long recording has come.
            readers: processes that read files ahead; 0: threads; None: see ``asr.recognize.readers.choose_readers``.

        Yields each recording as an item, and its transcript or error.
        """
        if isinstance(sources, str | bytes | os.PathLike | np.ndarray):
            raise AudioError(f"expected several recordings, got {sources!r}"[:200])
        scale = max(self.batch_s / BATCH_S["cpu"], 1.0)  # larger batches need more recordings of similar length
        most_s, most_items = WINDOW_S * scale, WINDOW_ITEMS * scale
        plan = ReadingPlan(long_audio.LONG_S, most_s, gpu=self.backend.on_gpu, processes=readers)
        readings = read_recordings(self.reader, sources, sample_rate_hz, plan)
        with contextlib.closing(readings):
            yield from self.transcribe_readings(readings, most_s, most_items, progress=progress)

    def transcribe_readings(
        self, readings: Iterable[ReadRecording], most_s: float, most_items: float, *, progress: bool = False
    ) -> Iterator[Result]:
        """Transcribe recordings that are read already, in order; one with an error gives it in its place.

        Args:
            readings: recordings with samples ``(S,)`` float32 at the model's rate, or the error of reading them. With
                ``TooLongError`` a recording is read here, in constant memory.
            most_s, most_items: seconds and recordings that are sorted by length and cut into batches together.
            progress: as for ``transcribe_many``.
        """
        overlap = self.overlap and not self.decoder.closed  # they may need the network again
        window: list[ReadRecording] = []
        window_s = 0.0
        with Pipeline(self, self._decode, overlap=overlap) as pipeline:
            for item, samples in readings:
                if isinstance(samples, TooLongError):
                    yield from pipeline.accept(window)
                    yield from pipeline.finish()
                    window, window_s = [], 0.0
                    try:
                        yield item, self._transcribe_long(item, progress=progress)
                    except AudioError as error:
                        yield item, error
                    continue
                window.append((item, samples))
                window_s += 0.0 if isinstance(samples, AudioError) else len(samples) / self.sample_rate_hz
                if window_s >= most_s or len(window) >= most_items:
                    yield from pipeline.accept(window)
                    window, window_s = [], 0.0
            yield from pipeline.accept(window)
            yield from pipeline.finish()

    def posteriors(self, utterances: Sequence[Utterance]) -> Iterator[tuple[list[str], Posteriors, Counts]]:
        """Ids, log-probabilities and valid frames of a manifest's utterances, in batches; unreadable ones are left
        out."""
        waveforms: dict[int, np.ndarray] = {}
        for index, utterance in enumerate(utterances):
            with contextlib.suppress(AudioError):
                waveforms[index] = self.reader.samples(Recording.of(utterance))
        for batch in cut_batches(waveforms, lambda: self.batch_s * self.sample_rate_hz):
            log_probs, frames = self.log_probs([waveforms[index] for index in batch])
            yield [utterances[index].id for index in batch], log_probs, frames

    def whole_posteriors(
        self, item: Recording, together: int | None = None, pace: Pace | None = None
    ) -> tuple[Iterator[Posteriors], Heard]:
        """Log-probabilities ``(T, V)`` of a recording of any length in parts, and a count of the samples read so far.

        ``together``: pieces of a bidirectional model in one pass; by default as many as ``batch_s`` has room for.
        ``pace``: how long the blocks of a unidirectional model are.
        """
        heard = Heard()
        parts = long_audio.posteriors(
            self.reader.blocks(item, heard),
            self.backend,
            self.model.config,
            self.log_probs,
            together=together or max(1, round(long_audio.TOGETHER * self.batch_s / BATCH_S["cpu"])),
            pace=pace,
        )
        return parts, heard

    def _transcribe_long(self, item: Recording, *, progress: bool = False) -> Transcript:
        """A recording in constant memory: see ``asr.recognize.long_audio``. Raises ``AudioError`` where it should be
        one phrase."""
        name = item.name or source_name(item.source)
        if self.decoder.closed:
            limit = f"at most {long_audio.LONG_S:g} s"
            raise AudioError(f"{name or 'audio'}: expected one phrase, {limit}, got more; asr stream cuts at pauses")
        parts, heard = self.whole_posteriors(item)
        found: list[Part] = []
        context = Context()
        group: list[tuple[int, Posteriors]] = []
        shown = progress and sys.stderr.isatty()
        total = item.stated_length_s() if shown else None
        with tqdm(total=total, desc=name, unit="s", disable=not shown, leave=False) as bar:
            for start, rows in long_audio.utterances(parts, self.frame_s):
                group.append((start, rows))
                if sum(len(rows) for _, rows in group) * self.frame_s >= WINDOW_S or len(group) == WINDOW_ITEMS:
                    more, context = self._utterances(group, context)
                    found += more
                    group = []
                bar.update(round((start + len(rows)) * self.frame_s) - bar.n)
            found += self._utterances(group, context)[0]
        return with_written(self.joined(found, heard.samples / self.sample_rate_hz, name), self.readable)

    def joined(self, found: Sequence[Part], duration_s: float, name: str) -> Transcript:
        """The transcript of a recording from those of its utterances, without a written text."""
        # The last frame's window may reach a little beyond the end.
        words = [dataclasses.replace(w, end_s=min(w.end_s, duration_s)) for part, _ in found for w in part.words]
        made = Transcript(" ".join(w.text for w in words), tuple(words), duration_s, name, threshold=self.threshold)
        return self.whole(made, found)

    def _utterances(self, group: Sequence[tuple[int, Posteriors]], context: Context) -> tuple[list[Part], Context]:
        """The utterances ``(first row, rows)``, decoded as one batch, or one after the other where language models
        remember what was said before, ``context``; and what was said behind them."""
        found: list[list[Hypothesis]] = []
        if self.decoder.options.lm_carry:
            for _, rows in group:
                hypotheses, context = self.decoder.continued(rows, context, self.depth)
                found.append(hypotheses)
        elif group:
            padded = pad_rows([rows for _, rows in group])
            found = self.decoder.lists(padded, np.array([len(rows) for _, rows in group]), self.depth)
        parts: list[Part] = []
        for (start, rows), hypotheses in zip(group, found, strict=True):
            sums = self.with_gap(self.sums(rows)[0], hypotheses[0])
            parts.append((self.transcript([h.shifted(start) for h in hypotheses], math.inf, sums=sums), sums))
        return parts, context

    def _transcripts(self, waveforms: list[np.ndarray], names: list[str]) -> list[Transcript]:
        return self._decode(waveforms, names, *self.log_probs(waveforms))

    def _decode(
        self, waveforms: list[np.ndarray], names: list[str], log_probs: Posteriors, frames: Counts
    ) -> list[Transcript]:
        if self.decoder.closed:
            found = phrase_answers.answer((self, *self.also), waveforms, (log_probs, frames))
        else:
            found = self.decoder.lists(log_probs, frames, self.depth)
        made = [
            self.transcript(h, len(waveform) / self.sample_rate_hz, name, sums=self.with_gap(sums, h[0]))
            for h, waveform, name, sums in zip(found, waveforms, names, self.sums(log_probs, frames), strict=True)
        ]
        return all_with_written(made, self.readable)

    def phrase_scores(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """The score of each of ``decoder.phrases`` for each waveform, by all models and at all speeds.

        Args:
            waveforms: each ``(S,)`` float32 in [-1, 1] at the model's rate.

        Returns:
            ``(B, P + 1)`` float64, last anything else: the mean over the models of the logarithm of the mean
            probability over the speeds.
        """
        return phrase_answers.list_scores((self, *self.also), waveforms, self.log_probs(waveforms))


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    max_duration_s: float | None = None,
    also: str | Path | Sequence[str | Path] = (),
    precision: str = "fp32",
    batch_s: float | None = None,
    runtime: str = "auto",
    **decoding: Unpack[DecodingOptions],
) -> Recognizer:
    """Load a model directory, a bundled model by name, or (``None``) the default bundled model.

    ``max_duration_s``: longer recordings are refused. ``precision``, ``batch_s``: see ``Recognizer``; half precision is
    for GPUs. ``runtime``: what runs the model: ``torch``, ``onnxruntime``, or ``auto``: torch where it is installed.
    ``decoding``: options of ``asr.recognize.options.Decoding``, such as ``beam=16, lm="lm.arpa"``, instead of
    those that the model directory holds; a language model may be given as an object as well. ``also``: further models
    that judge the same ``phrases="commands.txt"``. Raises ``ModelError`` naming what is missing or damaged, and
    ``ConfigError`` or ``DecodeError`` for a wrong option.
    """
    loader.check_names(decoding, [*inspect.signature(load).parameters, *DecodingOptions.__annotations__], "option ")
    loaded = load_any(model, runtime)
    options = choose(loaded.path, **decoding)
    also = [also] if isinstance(also, str | Path) else also
    if also and not options.phrases:
        raise ConfigError(
            f"also: expected phrases as well, which {1 + len(also)} models can score together; give phrases"
        )
    common: dict[str, Any] = {"device": device, "decoding": options, "precision": precision, "batch_s": batch_s}
    others = [Recognizer(load_any(other, runtime), **common) for other in also]
    return Recognizer(loaded, max_duration_s=max_duration_s, also=others, **common)
