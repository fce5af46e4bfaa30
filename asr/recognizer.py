"""From audio to transcripts with a loaded model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr import audio, checkpoint, decode, features
from asr.decode import Hypothesis
from asr.decoding import Decoder, Decoding, choose, load_options
from asr.device import pick_device
from asr.errors import AudioError, DecodeError
from asr.features import LogMel
from asr.manifest import Utterance
from asr.text import CharTokenizer
from asr.transcript import Transcript, Word

# Audio decoded together before it is sorted by length and cut into batches.
WINDOW_S = 600.0
WINDOW_ITEMS = 64
# Padded audio of one forward pass: beyond this a larger batch is no faster on a CPU and only takes memory.
BATCH_S = 90.0


@dataclass(frozen=True)
class Item:
    """One recording to transcribe: anything ``asr.audio.load`` takes, a name for messages, and a segment of it."""

    source: Any
    name: str = ""
    start_s: float = 0.0
    end_s: float | None = None


class Recognizer:
    """A model ready to transcribe.

    Args:
        model: a loaded model directory.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: how to decode; by default as the model directory says, else greedily.

    Raises ``DecodeError`` or ``ModelError`` naming a language model or word that cannot be used.
    """

    def __init__(self, model: checkpoint.Model, *, device: str = "auto", decoding: Decoding | None = None) -> None:
        self.model = model
        self.decoder = Decoder(decoding or load_options(model.path), model.tokenizer)
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

    def transcribe(self, source: Any, *, sample_rate_hz: int | None = None) -> Transcript:
        """Transcribe one recording.

        Args:
            source: a path, a binary file object, or an array ``(S,)`` or ``(S, C)`` (float in [-1, 1] or integer).
            sample_rate_hz: the rate of an array; by default it is taken to be the model's. Files know their own.

        Raises ``AudioError`` naming the file when it cannot be read or is shorter than one analysis window.
        """
        samples = self._load(Item(source), sample_rate_hz)
        return self._transcripts([samples], [describe(source)])[0]

    def align(self, source: Any, words: str, *, sample_rate_hz: int | None = None) -> Transcript:
        """When each word of a recording was said, its words being known.

        Args:
            source: as for ``transcribe``.
            words: what was said; normalised as the training texts were.
            sample_rate_hz: as for ``transcribe``.

        Raises ``AudioError`` as ``transcribe``, ``TextError`` for words that the model cannot spell, and
        ``DecodeError`` for more words than the recording has room for.
        """
        name = describe(source)
        tokens = self.model.tokenizer.encode(words, name)
        samples = self._load(Item(source), sample_rate_hz)
        log_probs, _ = self.log_probs([samples])
        try:
            hypothesis = decode.align(log_probs[0], tokens)
        except DecodeError as error:
            raise DecodeError(f"{name or 'audio'}: {error}") from error
        duration_s = len(samples) / self.sample_rate_hz
        return make_transcript(hypothesis, self.model.tokenizer, self.frame_s, duration_s, source=name)

    def transcribe_many(self, items: Iterable[Item]) -> Iterator[tuple[Item, Transcript | AudioError]]:
        """Transcribe recordings in batches, in order; one that fails gives its error in its place."""
        window: list[tuple[Item, np.ndarray | AudioError]] = []
        window_s = 0.0
        for item in items:
            try:
                samples = self._load(item)
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
            waveforms: each ``(S,)`` float32 in [-1, 1].

        Returns:
            ``(B, T, V)`` float32 natural log-probabilities on the CPU, blank first, and ``(B,)`` valid frames.
        """
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
                waveforms[index] = self._load(Item(utterance.audio, utterance.id, utterance.start_s, utterance.end_s))
        for batch in self._batches(waveforms):
            log_probs, frames = self.log_probs([waveforms[index] for index in batch])
            yield [utterances[index].id for index in batch], log_probs, frames

    def _load(self, item: Item, source_rate_hz: int | None = None) -> np.ndarray:
        rate = self.sample_rate_hz
        samples = audio.load(item.source, rate, source_rate_hz=source_rate_hz, start_s=item.start_s, end_s=item.end_s)
        if features.count_frames(len(samples), self.model.config.features) == 0:
            window_s = self.model.config.features.window_s
            name = describe(item.source) or item.name or "audio"
            raise AudioError(f"{name}: expected at least {window_s:g} s of audio, got {len(samples) / rate:.4f} s")
        return samples

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
        hypotheses = self.decoder.decode(*self.log_probs(waveforms))
        return [
            make_transcript(
                hypothesis, self.model.tokenizer, self.frame_s, len(waveform) / self.sample_rate_hz, source=name
            )
            for hypothesis, waveform, name in zip(hypotheses, waveforms, names, strict=True)
        ]


def make_transcript(
    hypothesis: Hypothesis, tokenizer: CharTokenizer, frame_s: float, duration_s: float, source: str = ""
) -> Transcript:
    """Words with times and confidences from token ids with frames.

    A word lasts from the first frame of its first token to the last of its last one; its confidence is that of its
    least certain token.
    """
    words: list[Word] = []
    positions: list[int] = []

    def close() -> None:
        if positions:
            text = tokenizer.decode([hypothesis.tokens[p] for p in positions])
            start_s = min(hypothesis.frames[positions[0]] * frame_s, duration_s)
            end_s = min(hypothesis.ends[positions[-1]] * frame_s, duration_s)
            words.append(Word(text, start_s, end_s, min(hypothesis.confidences[p] for p in positions)))
            positions.clear()

    for position, token in enumerate(hypothesis.tokens):
        if token == tokenizer.space_id:
            close()
        else:
            positions.append(position)
    close()
    return Transcript(" ".join(w.text for w in words), tuple(words), duration_s, source)


def describe(source: Any) -> str:
    """A name for messages and output: the path, or the file object's name, or nothing for an array."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", "")
    return name if isinstance(name, str) else ""


def load(model: str | Path | None = None, *, device: str = "auto", **decoding: Any) -> Recognizer:
    """Load a model directory, a bundled model by name, or (``None``) the default bundled model.

    ``decoding``: options of ``asr.decoding.Decoding``, such as ``beam=16, lm="lm.arpa"``, instead of those that the
    model directory holds. Raises ``ModelError`` naming what is missing or damaged, and ``ConfigError`` or
    ``DecodeError`` for a wrong option.
    """
    loaded = checkpoint.load_model(model)
    return Recognizer(loaded, device=device, decoding=choose(loaded.path, **decoding))
