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

from asr.config.sections import Config, count_frames
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
from asr.data.batch_plan import BatchPlan, Example, count_earlier, group_by_length
from asr.data.crew import BatchStream, Crew, ThreadCrew
from asr.data.labels import LabelArray
from asr.data.manifest import Utterance
from asr.data.manifest_table import ManifestTable, TableLabels
from asr.data.sample_cache import SampleCache
from asr.text.tokenizer import Tokenizer

# Batches of utterances that differ by less than this share of their length pad little and still mix every epoch.
LENGTH_JITTER = 0.1
_AT_ONCE = 2**20


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


def read_pieces(config: Config, tokenizer: Tokenizer) -> list[Utterance]:
    """What utterances are joined from (``augment.splice``). Raises ``ManifestError`` and ``TextError``."""
    pieces = manifest.read_manifest(config.augment.splice) if config.augment.splice else []
    for piece in pieces:
        tokenizer.encode(piece.text, piece.id)  # now, not in the middle of training, is a strange symbol named
    return pieces


class Dataset:
    """Utterances with their token ids, read as batches.

    ``labels[i]`` are the token ids of ``utterances[i]``, ``durations_s`` ``(n,)`` their lengths and ``places`` those of
    their audio in the cache. ``left_out`` maps the id of every utterance that cannot be used to the reason: audio
    shorter than one window, a label that needs more frames than the audio has (CTC needs one per token and one more per
    adjacent repeat), or audio longer than ``data.max_utterance_s``. ``warn`` is called with a message for audio that
    fails later. ``cache`` may be that of other sets too.
    """

    presplit = False
    """Whether ``plan`` gives this process's part of a batch, not the whole."""

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
        labels: LabelArray | TableLabels
        if isinstance(utterances, ManifestTable):
            labels, durations_s = utterances.labels(tokenizer), utterances.durations_s
        else:
            labels = LabelArray(tokenizer.encode(utterance.text, utterance.id) for utterance in utterances)
            durations_s = np.array([utterance.duration_s for utterance in utterances], dtype=np.float64)
        fits = np.empty(len(durations_s), dtype=bool)
        for first in range(0, len(fits), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            fits[part] = self._fits(durations_s[part], labels.needed_frames[part])
        for row in np.flatnonzero(~fits).tolist():
            self.left_out[utterances[row].id] = self._misfit(durations_s[row], int(labels.needed_frames[row]))
        self.utterances, self.labels, self.durations_s = utterances, labels, durations_s
        self._keep(fits)
        self.cache = cache or SampleCache(config.features.sample_rate_hz, config.data.cache_s)
        looked_at = np.inf
        if isinstance(self.utterances, ManifestTable):  # whose lines are parsed one by one
            looked_at = float(np.searchsorted(np.cumsum(self.durations_s), self.cache.limit_s)) + 1
        self.places = self.cache.reserve(self.utterances, looked_at)
        self.pieces = read_pieces(config, tokenizer) if training else []
        self.piece_places = self.cache.reserve(self.pieces).tolist()
        self.maker = BatchMaker(config, tokenizer, self.cache, self.pieces, self.piece_places)

    def _fits(self, durations_s: np.ndarray, needed_frames: np.ndarray) -> np.ndarray:
        """Whether each utterance of such a length can be used: what ``misfit`` says, of many at once."""
        features = self.config.features
        samples = np.rint(durations_s * features.sample_rate_hz).astype(np.int64)
        given = count_frames(samples, features)
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
        keep = np.ones(len(self.utterances), dtype=bool)
        # Of a table only what is in the cache was read, and can have failed.
        looked_at = np.flatnonzero(self.places >= 0) if isinstance(self.utterances, ManifestTable) else range(len(keep))
        for row in looked_at:
            keep[row] = self.utterances[int(row)].id not in failures
        self.cache.drop(self.places[~keep])
        self.places = self.places[keep]
        self._keep(keep)

    def _keep(self, good: np.ndarray) -> None:
        """Keep the utterances for which ``good`` ``(n,)`` is true."""
        rows = np.flatnonzero(good)
        if isinstance(self.utterances, ManifestTable):
            self.utterances = self.utterances if good.all() else self.utterances.keep(rows)
        else:
            self.utterances = [self.utterances[row] for row in rows.tolist()]
        if not good.all():
            self.labels, self.durations_s = self.labels.keep(rows.tolist()), self.durations_s[good]

    @property
    def statistics(self) -> manifest.Statistics:
        """Sums over the utterances that can be used."""
        table = self.utterances
        return table.statistics if isinstance(table, ManifestTable) else manifest.statistics(table)

    def sample(self, seed: int, limit_s: float) -> list[int]:
        """Utterances drawn at random, of ``limit_s`` seconds; the one that reaches the limit still counts."""
        order = np.random.default_rng(seed).permutation(len(self.utterances))
        within = np.cumsum(self.durations_s[order]) - self.durations_s[order] <= limit_s
        rows: list[int] = order[within].tolist()
        return rows

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

    def plan(self, epoch: int, chosen: np.ndarray | None = None) -> BatchPlan:
        """The batches of an epoch: utterances of similar length, at most ``data.batch_s`` padded seconds each.

        In training the speeds are drawn, lengths are jittered so that neighbours differ from epoch to epoch, and
        the batches are shuffled; otherwise the order is by length. ``chosen`` ``(n,)`` are the positions of the
        utterances, in any order and any number of times; without it each is there once.
        """
        # Ten million utterances fit into memory because arrays are used again, and none is made that is not needed.
        rows = None if chosen is None else np.asarray(chosen)
        repeats = None if rows is None else count_earlier(rows)
        durations = np.array(self.durations_s) if rows is None else self.durations_s[rows]
        speeds = np.ones(len(durations))
        if self.training:
            speeds = distort.draw_speeds(len(speeds), self.config.augment, self.maker.rng(epoch, SPEED_STREAM))
            # A label that only just fits must not be made impossible by playing it faster.
            for first in range(0, len(speeds), _AT_ONCE):
                part = slice(first, first + _AT_ONCE)
                needed = self.labels.needed_frames[part if rows is None else rows[part]]
                speeds[part][~self._fits(durations[part] / speeds[part], needed)] = 1.0
        durations /= speeds
        order_rng = self.maker.rng(epoch, ORDER_STREAM)
        keys = durations
        if self.training:
            keys = order_rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(durations))
            keys *= durations
        order, starts = group_by_length(durations, keys, self.config.data.seconds_per_batch)
        batches = np.arange(len(starts) - 1)
        if self.training and not (self.config.data.shortest_first and epoch == 0):
            order_rng.shuffle(batches)
        del keys, durations
        ordered = order if rows is None else rows[order]
        return BatchPlan(ordered, speeds[order], None if repeats is None else repeats[order], starts, batches)

    def batch(self, examples: Sequence[Example], epoch: int) -> Batch | None:
        """Read and assemble one batch; utterances that cannot be read are named to ``warn``; ``None`` if all fail."""
        return self.received(self.maker.make(self.order(examples, epoch)))

    def received(self, made: MadeBatch) -> Batch | None:
        """The batch, after its warnings have been given."""
        self.give_warnings(made)
        return batch_tensors(made)

    def give_warnings(self, made: MadeBatch) -> None:
        """Name what was left out of a batch."""
        for message in made.warnings:
            self.warn(message)

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
