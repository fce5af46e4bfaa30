"""From audio to transcripts with a loaded model."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, Unpack, overload

import numpy as np
import torch
from tqdm import tqdm

from asr import audio, checkpoint, confidence, decode, features, long, settings
from asr.decode import Hypothesis
from asr.decoding import Decoder, Decoding, DecodingOptions, load_options
from asr.device import pick_device
from asr.errors import AudioError, ConfigError, DecodeError, TooLongError
from asr.features import LogMel
from asr.language_models import Context
from asr.manifest import Utterance
from asr.options import choose, confidences
from asr.said import as_written, reading
from asr.text import Tokenizer
from asr.transcript import Transcript, Word
from asr.vocabulary import Vocabulary

# Audio decoded together before it is sorted by length and cut into batches.
WINDOW_S = 600.0
WINDOW_ITEMS = 64
# Padded audio of one forward pass: beyond this a larger batch is no faster on a CPU and only takes memory.
BATCH_S = 90.0


@dataclass(frozen=True)
class Item:
    """One recording to transcribe: anything ``asr.audio.load`` takes, a name for messages, and what of it is meant.

    ``channel``: one channel instead of the mean of all. ``rate_hz``: of an array; by default the model's.
    """

    source: Any
    name: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    rate_hz: int | None = None

    @classmethod
    def of(cls, source: Any, rate_hz: int | None = None) -> Item:
        """A manifest's utterance, named by its id, or a recording by its path, file object or array.

        ``rate_hz``: of an array. An item stays what it is.
        """
        if isinstance(source, Item):
            return source
        if isinstance(source, Utterance):
            return cls(source.audio, source.id, source.start_s, source.end_s, source.channel)
        return cls(source, describe(source), rate_hz=rate_hz)


@dataclass
class Heard:
    """Samples at the model's rate that have been read so far."""

    samples: int = 0


Source: TypeAlias = "str | os.PathLike[str] | BinaryIO | np.ndarray | Utterance | Item"
"""What can be transcribed."""


class Recognizer:
    """A model ready to transcribe.

    Args:
        model: a loaded model directory.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: how to decode; by default as the model directory says, else greedily.
        max_duration_s: refuse longer recordings; by default there is no limit.
        also: further recognizers, with any tokens and features, whose opinion of the same phrases counts as much
            (``decoding.phrases``; the mean of the logarithms).

    Recordings beyond ``asr.long.LONG_S`` are read and recognised in pieces, in constant memory.

    Raises ``DecodeError`` or ``ModelError`` naming a language model or word that cannot be used.
    """

    def __init__(
        self,
        model: checkpoint.Model,
        *,
        device: str = "auto",
        decoding: Decoding | None = None,
        max_duration_s: float | None = None,
        also: Sequence[Recognizer] = (),
    ) -> None:
        if max_duration_s is not None and not settings.as_number(max_duration_s, "max_duration_s") > 0:
            raise ConfigError(f"max_duration_s: expected > 0 or None, got {max_duration_s}")
        self.max_duration_s = max_duration_s
        self.model = model
        self.decoder = Decoder(decoding or load_options(model.path), model.tokenizer)
        self.calibration, self.threshold, self.remark = confidences(model.path, self.decoder.options)
        """See ``asr.options.Confidences``."""
        self.also = tuple(also)
        for other in self.also:
            name, options = other.model.path, (self.decoder.options, other.decoder.options)
            if not self.decoder.phrases or options[0] != options[1]:
                raise ConfigError(
                    f"{name}: expected the same phrases, speeds and unknown_penalty for several models, whose scores "
                    f"are put together; got {options[0]} and {options[1]}"
                )
            # The same file, but what a model's alphabet makes equal counts once.
            lines = [[phrase.line for phrase in r.decoder.phrases] for r in (self, other)]
            if lines[0] != lines[1]:
                odd = sorted(set(lines[0]) ^ set(lines[1]))
                raise ConfigError(
                    f"{name}: expected phrases that differ for all models; one takes {odd[0]!r} for another"
                )
        self.device = pick_device(device)
        self.network = model.network.to(self.device)
        self.log_mel = LogMel(model.config.features, model.stats).to(self.device)

    @property
    def sample_rate_hz(self) -> int:
        """The rate the model hears; other audio is resampled to it."""
        return self.model.config.features.sample_rate_hz

    @property
    def frame_s(self) -> float:
        """Seconds from one row of log-probabilities to the next."""
        return self.model.config.output_frame_s

    @overload
    def transcribe(
        self, source: list[Any] | tuple[Any, ...], *, sample_rate_hz: int | None = None
    ) -> list[Transcript]: ...

    @overload
    def transcribe(self, source: Source, *, sample_rate_hz: int | None = None) -> Transcript: ...

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
        item = self._item(source, sample_rate_hz)
        try:
            samples = self._load(item, long.LONG_S)
        except TooLongError:
            return self._transcribe_long(item)
        return self._transcripts([samples], [item.name or describe(item.source)])[0]

    def align(self, source: Source, words: str, *, sample_rate_hz: int | None = None) -> Transcript:
        """When each word and token of a recording was said, its words being known.

        Args:
            source: as for ``transcribe``.
            words: what was said, as anybody writes it: what the model cannot spell is written out as it is spoken in
                the language of the options (``asr.said``). Words of the result are written as here.
            sample_rate_hz: as for ``transcribe``.

        The result's ``left_out`` names words that cannot be spelt, and its ``mismatch`` tells whether this is what was
        said at all: beyond ``asr.decode.align.MISMATCH`` it hardly is.

        Raises ``AudioError`` as ``transcribe``, ``TextError`` for a text without a word that the model can spell, and
        ``DecodeError`` for more words than the recording has room for.
        """
        item = self._item(source, sample_rate_hz)
        name = item.name or describe(item.source)
        said = reading(words, self.model.tokenizer, self.decoder.options.language, name)
        tokens, places = said.tokens(self.model.tokenizer)
        try:
            samples = self._load(item, long.LONG_S)
        except TooLongError:
            parts, heard = self._posteriors(item)
            matrix = torch.cat(list(parts))
            duration_s = heard.samples / self.sample_rate_hz
        else:
            matrix = self.log_probs([samples])[0][0]
            duration_s = len(samples) / self.sample_rate_hz
        try:
            hypothesis = decode.align(matrix, tokens)
        except DecodeError as error:
            raise DecodeError(f"{name or 'audio'}: {error}") from error
        texts = [word.written for word in said.words]
        spans = [Span.of(hypothesis, place, text) for place, text in zip(places, texts, strict=True)]
        middles = [(before.end + after.start) // 2 for before, after in itertools.pairwise(spans)]
        return Transcript(
            " ".join(texts),
            tuple(span.word(self.frame_s, duration_s) for span in spans),
            duration_s,
            name,
            tokens=self._tokens(hypothesis, duration_s),
            spoken=tuple(" ".join(word.words) for word in said.words),
            left_out=said.left_out,
            gaps=said.gaps,
            mismatch=decode.mismatch(matrix, hypothesis),
            losses=tuple(decode.losses(matrix, hypothesis, middles)),
        )

    def transcribe_many(
        self, sources: Iterable[Source], *, sample_rate_hz: int | None = None, progress: bool = False
    ) -> Iterator[tuple[Item, Transcript | AudioError]]:
        """Transcribe recordings in batches, in order; one that fails gives its error in its place.

        Args:
            sources: each as for ``transcribe``, or an ``Item``, which names and cuts a recording.
            sample_rate_hz: the rate of arrays that are no items.
            progress: a bar on a terminal shows how far a long recording has come.

        Yields each recording as an item, and its transcript or error.
        """
        if isinstance(sources, str | bytes | os.PathLike | np.ndarray):
            raise AudioError(f"expected several recordings, got {sources!r}"[:200])
        window: list[tuple[Item, np.ndarray | AudioError]] = []
        window_s = 0.0
        for source in sources:
            item = Item.of(source, sample_rate_hz)
            try:
                item = self._item(item)
                samples = self._load(item, long.LONG_S)
            except TooLongError:
                yield from self._window(window)
                window, window_s = [], 0.0
                try:
                    yield item, self._transcribe_long(item, progress=progress)
                except AudioError as error:
                    yield item, error
            except AudioError as error:
                window.append((item, error))
            else:
                window.append((item, samples))
                window_s += len(samples) / self.sample_rate_hz
            if window_s >= WINDOW_S or len(window) >= WINDOW_ITEMS:
                yield from self._window(window)
                window, window_s = [], 0.0
        yield from self._window(window)

    def log_probs(self, waveforms: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of waveforms at the model's rate, as one batch.

        Args:
            waveforms: one or more, each ``(S,)`` floats in [-1, 1] or integers.

        Returns:
            ``(B, T, V)`` float32 natural log-probabilities on the CPU, blank first, and ``(B,)`` valid frames.

        Raises ``AudioError`` for what is no sound, as ``asr.audio.load`` for arrays.
        """
        waveforms = [audio.as_mono(w, f"waveform {i}", self.sample_rate_hz) for i, w in enumerate(waveforms)]
        lengths = torch.tensor([len(w) for w in waveforms])
        padded = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in enumerate(waveforms):
            padded[row, : len(waveform)] = torch.from_numpy(waveform)
        with torch.inference_mode():
            mel, frames = self.log_mel(padded.to(self.device), lengths.to(self.device))
            log_probs, valid = self.network(mel, frames)
        return log_probs.cpu(), valid.cpu()

    def posteriors(self, utterances: Sequence[Utterance]) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
        """Ids, log-probabilities and valid frames of a manifest's utterances, in batches; unreadable ones are left
        out."""
        waveforms: dict[int, np.ndarray] = {}
        for index, utterance in enumerate(utterances):
            with contextlib.suppress(AudioError):
                waveforms[index] = self._load(Item.of(utterance))
        for batch in self._batches(waveforms):
            log_probs, frames = self.log_probs([waveforms[index] for index in batch])
            yield [utterances[index].id for index in batch], log_probs, frames

    def _tokens(self, hypothesis: Hypothesis, duration_s: float) -> tuple[Word, ...]:
        tokenizer = self.model.tokenizer
        spoken = zip(hypothesis.tokens, hypothesis.frames, hypothesis.ends, hypothesis.confidences, strict=True)
        return tuple(
            Span(tokenizer.symbol(token), start, end, p).word(self.frame_s, duration_s)
            for token, start, end, p in spoken
            if token != tokenizer.space_id
        )

    def _load(self, item: Item, longest_s: float | None = None) -> np.ndarray:
        """A recording as a whole. Raises ``TooLongError`` beyond ``longest_s`` unless no length is allowed either."""
        rate = self.sample_rate_hz
        limits_s = [limit for limit in (longest_s, self.max_duration_s) if limit is not None]
        try:
            samples = audio.load(
                item.source,
                rate,
                source_rate_hz=item.rate_hz,
                start_s=item.start_s,
                end_s=item.end_s,
                channel=item.channel,
                max_duration_s=min(limits_s, default=None),
            )
        except TooLongError as error:
            if self.max_duration_s is not None and min(limits_s) == self.max_duration_s:
                raise AudioError(str(error)) from error
            raise
        self._check_length(item, len(samples))
        return samples

    def _item(self, source: Any, rate_hz: int | None = None) -> Item:
        """A recording that can be read again where it turns out to be long, a pipe among it."""
        item = Item.of(source, rate_hz)
        try:
            again = audio.rewindable(item.source, self.max_duration_s)
        except TooLongError as error:  # than max_duration_s: not for another way of reading it
            raise AudioError(str(error)) from error
        return item if again is item.source else dataclasses.replace(item, source=again)

    def _check_length(self, item: Item, samples: int) -> None:
        if features.count_frames(samples, self.model.config.features) == 0:
            window_s = self.model.config.features.window_s
            name = describe(item.source) or item.name or "audio"
            raise AudioError(
                f"{name}: expected at least {window_s:g} s of audio, got {samples / self.sample_rate_hz:.4f} s"
            )

    def _posteriors(self, item: Item) -> tuple[Iterator[torch.Tensor], Heard]:
        """Log-probabilities ``(T, V)`` of a recording of any length in parts, and a count of what has been heard."""
        heard = Heard()

        def counted() -> Iterator[np.ndarray]:
            blocks = audio.stream(
                item.source,
                self.sample_rate_hz,
                source_rate_hz=item.rate_hz,
                start_s=item.start_s,
                end_s=item.end_s,
                channel=item.channel,
                max_duration_s=self.max_duration_s,
            )
            for block in blocks:
                heard.samples += len(block)
                yield block
            self._check_length(item, heard.samples)

        return long.posteriors(counted(), self.network, self.log_mel, self.log_probs), heard

    def _transcribe_long(self, item: Item, *, progress: bool = False) -> Transcript:
        """A recording in constant memory: see ``asr.long``. Raises ``AudioError`` where it should be one phrase."""
        name = item.name or describe(item.source)
        if self.decoder.phrases:
            limit = f"at most {long.LONG_S:g} s"
            raise AudioError(f"{name or 'audio'}: expected one phrase, {limit}, got more; asr stream cuts at pauses")
        parts, heard = self._posteriors(item)
        words: list[Word] = []
        context = Context()
        group: list[tuple[int, torch.Tensor]] = []
        shown = progress and sys.stderr.isatty()
        total = _seconds(item) if shown else None
        with tqdm(total=total, desc=name, unit="s", disable=not shown, leave=False) as bar:
            for start, rows in long.utterances(parts, self.frame_s):
                group.append((start, rows))
                if sum(len(rows) for _, rows in group) * self.frame_s >= WINDOW_S or len(group) == WINDOW_ITEMS:
                    more, context = self._words(group, context)
                    words += more
                    group = []
                bar.update(round((start + len(rows)) * self.frame_s) - bar.n)
            words += self._words(group, context)[0]
        duration_s = heard.samples / self.sample_rate_hz
        # The last frame's window may reach a little beyond the end.
        words = [dataclasses.replace(w, end_s=min(w.end_s, duration_s)) for w in words]
        return Transcript(" ".join(w.text for w in words), tuple(words), duration_s, name, threshold=self.threshold)

    def _words(self, group: Sequence[tuple[int, torch.Tensor]], context: Context) -> tuple[list[Word], Context]:
        """The words of utterances ``(first row, rows)``, decoded as one batch, or one after the other where language
        models remember what was said before, ``context``; and what was said behind them."""
        found: list[list[Hypothesis]] = []
        if self.decoder.options.lm_carry:
            for _, rows in group:
                hypotheses, context = self.decoder.continued(rows, context, self.depth)
                found.append(hypotheses)
        elif group:
            padded = torch.nn.utils.rnn.pad_sequence([rows for _, rows in group], batch_first=True)
            found = self.decoder.lists(padded, torch.tensor([len(rows) for _, rows in group]), self.depth)
        words: list[Word] = []
        for (start, _), hypotheses in zip(group, found, strict=True):
            words += self.transcript([h.shifted(start) for h in hypotheses], math.inf).words
        return words, context

    def _window(
        self, window: list[tuple[Item, np.ndarray | AudioError]]
    ) -> Iterator[tuple[Item, Transcript | AudioError]]:
        results: dict[int, Transcript | AudioError] = {}
        waveforms: dict[int, np.ndarray] = {}
        for index, (_, samples) in enumerate(window):
            if isinstance(samples, AudioError):
                results[index] = samples
            else:
                waveforms[index] = samples
        for batch in self._batches(waveforms):
            names = [window[index][0].name or describe(window[index][0].source) for index in batch]
            transcripts = self._transcripts([waveforms[index] for index in batch], names)
            results.update(zip(batch, transcripts, strict=True))
        for index, (item, _) in enumerate(window):
            yield item, results[index]

    def _batches(self, waveforms: dict[int, np.ndarray]) -> list[list[int]]:
        limit = BATCH_S * self.sample_rate_hz
        batches: list[list[int]] = []
        for index in sorted(waveforms, key=lambda i: len(waveforms[i])):
            if not batches or len(waveforms[index]) * (len(batches[-1]) + 1) > limit:
                batches.append([])
            batches[-1].append(index)
        return batches

    def _transcripts(self, waveforms: list[np.ndarray], names: list[str]) -> list[Transcript]:
        log_probs, frames = self.log_probs(waveforms)
        if self.decoder.phrases:
            found = self.decoder.answers(log_probs, frames, self._phrase_scores(waveforms, (log_probs, frames)))
        else:
            found = self.decoder.lists(log_probs, frames, self.depth)
        return [
            self.transcript(hypotheses, len(waveform) / self.sample_rate_hz, name)
            for hypotheses, waveform, name in zip(found, waveforms, names, strict=True)
        ]

    def phrase_scores(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """What each of ``decoder.phrases`` has for it, by all models and at all speeds.

        Args:
            waveforms: each ``(S,)`` float32 in [-1, 1] at the model's rate.

        Returns:
            ``(B, P + 1)`` float64, last anything else: the mean over the models of the logarithm of the mean
            probability over the speeds.
        """
        return self._phrase_scores(waveforms, self.log_probs(waveforms))

    def _phrase_scores(self, waveforms: Sequence[np.ndarray], heard: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
        """``phrase_scores``, with what ``log_probs`` has given for the waveforms."""
        scores = [self._at_all_speeds(waveforms, heard)]
        for other in self.also:
            rates = self.sample_rate_hz, other.sample_rate_hz
            resampled = [audio.resample(samples, *rates) if rates[0] != rates[1] else samples for samples in waveforms]
            scores.append(other._at_all_speeds(resampled, other.log_probs(resampled)))
        mean: np.ndarray = np.mean(scores, axis=0)
        return mean

    def _at_all_speeds(self, waveforms: Sequence[np.ndarray], heard: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
        rate = self.sample_rate_hz
        speeds = self.decoder.options.speeds
        scores = []
        for speed in speeds:
            posteriors = heard
            if speed != 1:
                posteriors = self.log_probs([audio.resample(x, round(rate * speed), rate) for x in waveforms])
            scores.append(self.decoder.phrase_scores(*posteriors))
        summed: np.ndarray = np.logaddexp.reduce(scores, axis=0)
        return summed - math.log(len(speeds))

    @property
    def depth(self) -> int:
        """Hypotheses of a search that ``transcript`` needs."""
        return confidence.NBEST if self.calibration is not None and self.calibration.share else 1

    def transcript(
        self,
        hypotheses: Sequence[Hypothesis],
        duration_s: float,
        source: str = "",
        vocabulary: Vocabulary | None = None,
    ) -> Transcript:
        """The best of a search's hypotheses as a transcript, with calibrated confidences where the model has them.

        ``vocabulary``: that of the search, where it has other hot words than the options.
        """
        best = hypotheses[0]
        texts = (vocabulary or self.decoder.vocabulary).texts(best.tokens)
        # The same phones may be those of several phrases: what was chosen counts, not what they are read as.
        phrase = self.decoder.phrase_of.get(best.phrase)
        if phrase and len(phrase.text.split()) == len(texts):
            texts = phrase.text.split()
        made = make_transcript(best, self.model.tokenizer, self.frame_s, duration_s, source, texts)
        made = dataclasses.replace(made, threshold=self.threshold)
        if phrase and sum(len(one.words) for one in phrase.said) == len(texts):
            written = as_written(made.words, phrase.said)
            spoken = tuple(" ".join(one.words) for one in phrase.said)
            made = dataclasses.replace(made, text=" ".join(w.text for w in written), words=written, spoken=spoken)
        if self.calibration is None:
            return made
        words = [
            dataclasses.replace(word, confidence=self.calibration.apply(p, s), raw=word.confidence)
            for word, (_, p, s) in zip(made.words, self.evidence(hypotheses, vocabulary), strict=True)
        ]
        return dataclasses.replace(made, words=tuple(words))

    def evidence(
        self, hypotheses: Sequence[Hypothesis], vocabulary: Vocabulary | None = None
    ) -> list[tuple[str, float, float]]:
        """What confidences are made of: each word of the best hypothesis, the posterior of its least certain token,
        and the share of the hypotheses' probability that agrees (see ``asr.confidence``)."""
        vocabulary = vocabulary or self.decoder.vocabulary
        lists = [spans(h, self.model.tokenizer, vocabulary.texts(h.tokens)) for h in hypotheses]
        rivals = [
            (h.score, [(x.text, x.start, x.end) for x in words]) for h, words in zip(hypotheses, lists, strict=True)
        ]
        return [
            (x.text, x.confidence, confidence.share((x.text, x.start, x.end), rivals) if len(rivals) > 1 else 1.0)
            for x in lists[0]
        ]


@dataclass(frozen=True)
class Span:
    """A word or token of a hypothesis in frames ``start`` to ``end - 1``."""

    text: str
    start: int
    end: int
    confidence: float

    @classmethod
    def of(cls, hypothesis: Hypothesis, positions: Sequence[int], text: str) -> Span:
        """The tokens at ``positions`` as one word: from the first frame of the first to the last of the last, as
        certain as the least certain."""
        certainty = min(hypothesis.confidences[p] for p in positions)
        return cls(text, hypothesis.frames[positions[0]], hypothesis.ends[positions[-1]], certainty)

    def word(self, frame_s: float, duration_s: float) -> Word:
        """The same in seconds; the last frame's window may reach beyond the end of the recording."""
        return Word(
            self.text, min(self.start * frame_s, duration_s), min(self.end * frame_s, duration_s), self.confidence
        )


def spans(hypothesis: Hypothesis, tokenizer: Tokenizer, texts: Sequence[str] | None = None) -> list[Span]:
    """Words of a hypothesis, with the confidence of their least certain token; ``texts`` if they are known already."""
    places = tokenizer.words(hypothesis.tokens)
    if texts is None:
        texts = [tokenizer.decode([hypothesis.tokens[p] for p in positions]) for positions in places]
    return [Span.of(hypothesis, positions, text) for positions, text in zip(places, texts, strict=True)]


def make_transcript(
    hypothesis: Hypothesis,
    tokenizer: Tokenizer,
    frame_s: float,
    duration_s: float,
    source: str = "",
    texts: Sequence[str] | None = None,
) -> Transcript:
    """Words with times and confidences from token ids with frames; ``texts`` of the words if they are known already.

    A word lasts from the first frame of its first token to the last of its last one; its confidence is that of its
    least certain token.
    """
    words = [span.word(frame_s, duration_s) for span in spans(hypothesis, tokenizer, texts)]
    return Transcript(" ".join(w.text for w in words), tuple(words), duration_s, source)


def _seconds(item: Item) -> float | None:
    """How long a recording is said to be, for a progress bar; None where that is not known without decoding it."""
    if item.end_s is not None:
        return round(item.end_s - item.start_s)
    if isinstance(item.source, str | os.PathLike):
        with contextlib.suppress(AudioError):
            return round(audio.probe(item.source).duration_s - item.start_s)
    return None


def describe(source: Any) -> str:
    """A name for messages and output: the path, or the file object's name, or nothing for an array."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", "")
    return name if isinstance(name, str) else ""


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    max_duration_s: float | None = None,
    also: str | Path | Sequence[str | Path] = (),
    **decoding: Unpack[DecodingOptions],
) -> Recognizer:
    """Load a model directory, a bundled model by name, or (``None``) the default bundled model.

    ``max_duration_s``: longer recordings are refused. ``decoding``: options of ``asr.decoding.Decoding``, such as
    ``beam=16, lm="lm.arpa"``, instead of those that the model directory holds; a language model may be given as an
    object as well. ``also``: further models that judge the same ``phrases="commands.txt"``. Raises ``ModelError``
    naming what is missing or damaged, and ``ConfigError`` or ``DecodeError`` for a wrong option.
    """
    settings.check_names(decoding, [*inspect.signature(load).parameters, *DecodingOptions.__annotations__], "option ")
    loaded = checkpoint.load_model(model)
    options = choose(loaded.path, **decoding)
    also = [also] if isinstance(also, str | Path) else also
    if also and not options.phrases:
        raise ConfigError(f"also: expected phrases, the scores of which add up over {1 + len(also)} models")
    others = [Recognizer(checkpoint.load_model(other), device=device, decoding=options) for other in also]
    return Recognizer(loaded, device=device, decoding=options, max_duration_s=max_duration_s, also=others)
