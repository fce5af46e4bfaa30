"""Batches of utterances: which go together, and what the training gets of them.

``Dataset`` groups utterances of similar length into the batches of an epoch. ``asr.data.batch_maker`` makes one,
``asr.data.crew`` has them made ahead, ``asr.data.feeding`` hands them to the training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.config.sections import Config
from asr.data import distort, manifest
from asr.data.batch_maker import (
    ORDER_STREAM,
    SPEED_STREAM,
    BatchMaker,
    BatchOrder,
    Kind,
    MadeBatch,
    Row,
    misfit,
)
from asr.data.crew import BatchStream, Crew, ThreadCrew
from asr.data.labels import LabelArray
from asr.data.manifest import Utterance
from asr.data.sample_cache import SampleCache
from asr.text.tokenizer import Tokenizer

# Batches of utterances that differ by less than this share of their length pad little and still mix every epoch.
LENGTH_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance of a batch: its position in the set, the speed it is played at, and how often it came before in
    this epoch."""

    index: int
    speed: float
    repeat: int = 0


@dataclass(frozen=True)
class Batch:
    """Padded waveforms with their labels.

    ``samples`` ``(B, S)`` float32, ``lengths`` ``(B,)`` int64; ``tokens`` ``(sum of token_lengths,)`` int64,
    concatenated; ``token_lengths`` ``(B,)`` int64. For training only: ``masks``, ``(B, M, 2)`` int64 for each view of
    the batch (two with ``train.consistency``, else one), and ``colours`` ``(B, 3)`` float32 (see ``draw_masks`` and
    ``draw_colour`` of ``asr.data.distort``).

    On a GPU ``samples``, ``masks`` and ``colours`` are there already, and ``device_lengths`` are the lengths there.
    ``lengths``, ``tokens`` and ``token_lengths`` stay on the CPU, where CTC wants them.
    """

    ids: tuple[str, ...]
    samples: Tensor
    lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    masks: tuple[Tensor, ...]
    colours: Tensor
    device_lengths: Tensor | None = None

    @property
    def total_samples(self) -> int:
        """Valid samples of all rows."""
        return int(self.lengths.sum())

    @property
    def total_tokens(self) -> int:
        """Tokens of all labels."""
        return len(self.tokens)


def batch_tensors(made: MadeBatch) -> Batch | None:
    """The tensors of a batch that was made, on the CPU; None where no utterance could be used."""
    if made.layout is None:
        return None
    samples, colours, lengths, counts, tokens, *masks = map(torch.from_numpy, made.layout.views(made.memory))
    return Batch(made.layout.ids, samples, lengths, tokens, counts, tuple(masks), colours, lengths)


class Dataset:
    """Utterances with their token ids, read as batches.

    ``labels[i]`` are the token ids of ``utterances[i]``, ``durations_s`` ``(n,)`` their lengths and ``places`` those of
    their audio in the cache. ``left_out`` maps the id of every utterance that cannot be used to the reason: audio
    shorter than one window, a label that needs more frames than the audio has (CTC needs one per token and one more per
    adjacent repeat), or audio longer than ``data.max_utterance_s``. ``warn`` is called with a message for audio that
    fails later. ``cache`` may be that of other sets too.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        config: Config,
        *,
        training: bool,
        warn: Callable[[str], None],
        cache: SampleCache | None = None,
    ) -> None:
        self.config = config
        self.training = training
        self.warn = warn
        self.tokenizer = tokenizer
        self.left_out: dict[str, str] = {}
        labels = LabelArray(tokenizer.encode(utterance.text, utterance.id) for utterance in utterances)
        durations_s = np.array([utterance.duration_s for utterance in utterances], dtype=np.float64)
        fits = self._fits(durations_s, labels.needed_frames)
        for row in np.flatnonzero(~fits).tolist():
            self.left_out[utterances[row].id] = self._misfit(durations_s[row], int(labels.needed_frames[row]))
        kept = np.flatnonzero(fits).tolist()
        self.utterances: list[Utterance] = [utterances[row] for row in kept]
        self.labels = labels if fits.all() else labels.keep(kept)
        self.durations_s = durations_s[fits]
        self.cache = cache or SampleCache(config.features.sample_rate_hz, config.data.cache_s)
        self.places = self.cache.reserve(self.utterances)
        self.pieces = self._read_pieces() if training and config.augment.splice else []
        self.piece_places = self.cache.reserve(self.pieces).tolist()
        self.maker = BatchMaker(config, tokenizer, self.cache, self.pieces, self.piece_places)

    def _read_pieces(self) -> list[Utterance]:
        pieces = manifest.read_manifest(self.config.augment.splice)
        for piece in pieces:
            self.tokenizer.encode(piece.text, piece.id)  # now, not in the middle of training, is a strange symbol named
        return pieces

    def _fits(self, durations_s: np.ndarray, needed_frames: np.ndarray) -> np.ndarray:
        """Whether each utterance of such a length can be used: what ``misfit`` says, of many at once."""
        features = self.config.features
        samples = np.rint(durations_s * features.sample_rate_hz).astype(np.int64)
        given = np.maximum(0, 1 + (samples - features.window_samples) // features.hop_samples)
        model = self.config.model
        frames = model.upsampling * -(-given // model.subsampling)
        fits: np.ndarray = (frames > 0) & (needed_frames <= frames)
        return fits & (durations_s <= self.config.data.max_utterance_s) if self.training else fits

    def _misfit(self, duration_s: float, needed_frames: int) -> str:
        return misfit(duration_s, needed_frames, self.config, training=self.training)

    @property
    def cached_s(self) -> float:
        """Seconds of audio in the cache."""
        return self.cache.cached_s

    def exclude(self, failures: dict[str, str]) -> None:
        """Leave out the utterances whose ids are the keys, for the reasons given."""
        self.left_out.update(failures)
        if not failures:
            return
        keep = np.array([utterance.id not in failures for utterance in self.utterances], dtype=bool)
        rows = np.flatnonzero(keep).tolist()
        self.cache.drop(self.places[~keep])
        self.utterances = [self.utterances[row] for row in rows]
        self.labels = self.labels.keep(rows)
        self.durations_s, self.places = self.durations_s[keep], self.places[keep]

    def order(self, examples: Iterable[Example], epoch: int, kind: Kind | None = None) -> BatchOrder:
        """What a crew needs to make a batch."""
        rows = tuple(
            Row(self.utterances[e.index], self.labels[e.index], int(self.places[e.index]), e.index, e.repeat, e.speed)
            for e in examples
        )
        return BatchOrder(kind or ("train" if self.training else "plain"), epoch, rows, held_out=not self.training)

    def check(self, index: int) -> str:
        """Read one utterance (into the cache): why its audio cannot be used, or an empty string."""
        return self.maker.make(self.order([Example(index, 1.0)], 0, "check")).reasons[0]

    def samples(self, index: int) -> np.ndarray:
        """Waveform ``(S,)`` float32 of one utterance, cached up to ``data.cache_s``. Raises ``AudioError``."""
        return self.maker.read(self.utterances[index], int(self.places[index]))

    def plan(self, epoch: int, chosen: np.ndarray | None = None) -> list[list[Example]]:
        """The batches of an epoch: utterances of similar length, at most ``data.batch_s`` padded seconds each.

        In training the speeds are drawn, lengths are jittered so that neighbours differ from epoch to epoch, and
        the batches are shuffled; otherwise the order is by length. ``chosen`` ``(n,)`` are the positions of the
        utterances, in any order and any number of times; without it each is there once.
        """
        chosen = np.arange(len(self.utterances)) if chosen is None else np.asarray(chosen)
        repeats = _count_earlier(chosen)
        whole_s = self.durations_s[chosen]
        speeds = np.ones(len(chosen))
        if self.training:
            speeds = distort.draw_speeds(len(speeds), self.config.augment, self.maker.rng(epoch, SPEED_STREAM))
            # A label that only just fits must not be made impossible by playing it faster.
            speeds[~self._fits(whole_s / speeds, self.labels.needed_frames[chosen])] = 1.0
        durations = whole_s / speeds
        order_rng = self.maker.rng(epoch, ORDER_STREAM)
        keys = durations
        if self.training:
            keys = durations * order_rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(durations))
        sizes, examples = durations.tolist(), list(map(Example, chosen.tolist(), speeds.tolist(), repeats.tolist()))
        batches: list[list[Example]] = []
        longest, most = 0.0, self.config.data.seconds_per_batch
        for position in np.argsort(keys, kind="stable").tolist():
            longest = max(longest, sizes[position])
            if not batches or longest * (len(batches[-1]) + 1) > most:
                batches.append([])
                longest = sizes[position]
            batches[-1].append(examples[position])
        if self.training and not (self.config.data.shortest_first and epoch == 0):
            order_rng.shuffle(batches)
        return batches

    def batch(self, examples: Sequence[Example], epoch: int) -> Batch | None:
        """Read and assemble one batch; utterances that cannot be read are named to ``warn``; ``None`` if all fail."""
        return self.received(self.maker.make(self.order(examples, epoch)))

    def received(self, made: MadeBatch) -> Batch | None:
        """The batch, after its warnings have been given."""
        for message in made.warnings:
            self.warn(message)
        return batch_tensors(made)

    def batches(
        self, plan: Iterable[Sequence[Example]], epoch: int, crew: Crew | None = None
    ) -> Iterator[Batch | None]:
        """The batches of an epoch's ``plan``, or of a part of it, made ahead by ``crew`` or one thread."""
        with contextlib.ExitStack() as stack:
            if crew is None:
                crew = stack.enter_context(contextlib.closing(ThreadCrew(self.maker)))
            stream = BatchStream(crew, (self.order(examples, epoch) for examples in plan))
            stack.callback(stream.close)
            while stream.fill(self.config.data.prefetch):
                made = stream.take()
                assert made is not None
                yield self.received(made)


def _count_earlier(chosen: np.ndarray) -> np.ndarray:
    """How often each value stands before its place: ``(n,)`` int64."""
    order = np.argsort(chosen, kind="stable")
    values = chosen[order]
    begins = np.flatnonzero(np.diff(values, prepend=-1))
    counts = np.arange(len(values)) - np.repeat(begins, np.diff(np.append(begins, len(values))))
    earlier = np.empty(len(values), dtype=np.int64)
    earlier[order] = counts
    return earlier
