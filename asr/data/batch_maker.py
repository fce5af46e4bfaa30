"""Makes one batch: reads its utterances, distorts them, draws its masks, and lays all out in one piece of memory.

All random draws come from a generator seeded by (seed, epoch, utterance). So a batch does not depend on earlier
batches, on the process that makes it, or on where a run was resumed. This runs in loader processes: no torch here.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from asr.audio import read
from asr.cloud.addresses import is_url
from asr.cloud.retries import service_is_down
from asr.config.sections import Config, count_frames, output_frames
from asr.data import distort, splice
from asr.data.manifest import Utterance
from asr.data.remote_files import RemoteFiles
from asr.data.sample_cache import SampleCache
from asr.data.shard_members import NamedBytes, ShardMember, ShardReader
from asr.errors import AudioError, ManifestError, TextError, TrainingError
from asr.text.tokenizer import Tokenizer, min_frames

# Streams of random numbers: what is drawn for one purpose must not repeat what was drawn for another.
SPEED_STREAM, MASK_STREAM, ORDER_STREAM, COLOUR_STREAM, DISTORT_STREAM, VIEW_STREAM, SPLICE_STREAM = range(7)
_ALIGNED = 64

Kind = Literal["train", "plain", "check"]
"""``train``: distorted, with masks and colours; ``plain``: as recorded; ``check``: only whether it can be used."""


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance of a batch to be made."""

    utterance: Utterance
    label: list[int]
    place: int
    """Of its audio in the cache, -1 for none."""
    index: int = 0
    """Its position in the set, which its random draws depend on."""
    repeat: int = 0
    """How often it came before in this epoch."""
    speed: float = 1.0
    sound: NamedBytes | None = None
    """Its audio as a file in memory, if it comes from a shard."""

    def __reduce__(self) -> tuple[object, ...]:
        # Orders for loader processes are full of rows. Pickling dataclasses with slots takes three times as long.
        return _unpickled, (_IN_UTTERANCE(self.utterance), _BESIDE_IT(self))

    @property
    def id(self) -> str:
        """The id of the utterance."""
        return self.utterance.id


_UTTERANCE_NAMES = tuple(each.name for each in fields(Utterance))
_IN_UTTERANCE = operator.attrgetter(*_UTTERANCE_NAMES)
_BESIDE_IT = operator.attrgetter(*(each.name for each in fields(Row)[1:]))


def _unpickled(in_utterance: tuple[object, ...], beside_it: tuple[Any, ...]) -> Row:
    """A row whose utterance is not checked once more."""
    utterance = object.__new__(Utterance)
    for name, value in zip(_UTTERANCE_NAMES, in_utterance, strict=True):
        object.__setattr__(utterance, name, value)
    return Row(utterance, *beside_it)


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One utterance of a batch to be made, in a shard: its text is read with its audio."""

    member: ShardMember
    index: int
    repeat: int = 0
    speed: float = 1.0

    @property
    def id(self) -> str:
        """The id of the utterance."""
        return self.member.id


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """A batch to be made."""

    kind: Kind
    epoch: int
    rows: tuple[Row | StoredRow, ...]
    held_out: bool = False
    """Of validation data, for which ``data.max_utterance_s`` is no limit."""


@dataclass(frozen=True)
class BatchLayout:
    """Where the arrays of a batch lie in its memory: (dtype, shape, first byte) each."""

    ids: tuple[str, ...]
    size: int
    arrays: tuple[tuple[str, tuple[int, ...], int], ...]

    def views(self, memory: np.ndarray) -> list[np.ndarray]:
        """The arrays in ``memory`` ``(size,)`` uint8: samples, colours, lengths, token lengths, tokens, masks."""
        return [
            memory[start : start + math.prod(shape) * np.dtype(kind).itemsize].view(kind).reshape(shape)
            for kind, shape, start in self.arrays
        ]


@dataclass
class MadeBatch:
    """A batch that was made. ``layout`` is None where no utterance could be used, or none was asked for."""

    layout: BatchLayout | None = None
    memory: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """Of the kind ``check``: why each row cannot be used, or an empty text."""


_Kept: TypeAlias = dict[int, np.ndarray] | None
"""Decoded audio of a batch's rows, by ``id(row)``; None where none is kept."""
Allocator = Callable[[int], np.ndarray]
"""Gives ``(n,)`` uint8, not set to anything."""


def fresh_memory(size: int) -> np.ndarray:
    """Memory of this process."""
    return np.empty(size, np.uint8)


@dataclass(frozen=True)
class _Good:
    id: str
    samples: np.ndarray
    label: list[int]
    masks: list[np.ndarray]
    colours: np.ndarray


def misfit(duration_s: float, needed_frames: int, config: Config, *, training: bool) -> str:
    """Why audio of this length cannot be used with a label that needs so many frames, or an empty text."""
    frames = output_frames(round(duration_s * config.features.sample_rate_hz), config)
    if frames == 0:
        return f"its {duration_s:.3f} s are shorter than one window (expected at least {config.features.least_s:g} s)"
    if needed_frames > frames:
        return (
            f"its label needs {needed_frames} frames (tokens and adjacent repeats), its {duration_s:.2f} s give "
            f"{frames}"
        )
    if training and duration_s > config.data.max_utterance_s:
        return f"{duration_s:.1f} s is longer than data.max_utterance_s ({config.data.max_utterance_s:g} s)"
    return ""


class BatchMaker:
    """Makes batches of one configuration.

    ``pieces`` are what utterances are joined from (``augment.splice``) and ``piece_places`` their places in the cache.
    Raises ``ConfigError`` for a folder of noises or rooms without audio.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer | None,
        cache: SampleCache,
        pieces: Sequence[Utterance] = (),
        piece_places: Sequence[int] = (),
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.cache = cache
        self.rate_hz = config.features.sample_rate_hz
        self.distort = distort.Distorter(config.augment, self.rate_hz)
        self.splicer = splice.Splicer(pieces) if pieces else None
        self._shards = ShardReader()
        self._files = RemoteFiles()
        self._piece_places = {piece.id: int(place) for piece, place in zip(pieces, piece_places, strict=True)}

    def rng(self, epoch: int, stream: int, row: Row | None = None) -> np.random.Generator:
        """The generator of one stream of an utterance, or of an epoch."""
        key = [self.config.train.seed, epoch, stream, row.index if row else 0]
        return np.random.default_rng([*key, row.repeat] if row and row.repeat else key)

    def read(self, item: Utterance, place: int) -> np.ndarray:
        """Waveform ``(S,)`` float32 of one utterance, through the cache. Raises ``AudioError``."""
        samples = self.cache.get(place)
        if samples is None:
            samples = read.load_audio(
                self._files.source(item.audio),
                self.rate_hz,
                start_s=item.start_s,
                end_s=item.end_s,
                channel=item.channel,
            )
            self.cache.put(place, samples)
        return samples

    def _sound(self, row: Row, kept: _Kept = None) -> np.ndarray:
        if kept is not None and id(row) in kept:
            return kept[id(row)]
        shard = row.sound
        samples = self.read(row.utterance, row.place) if shard is None else read.load_audio(shard, self.rate_hz)
        if kept is not None:
            samples.flags.writeable = False
            kept[id(row)] = samples
        return samples

    def _found(self, row: Row | StoredRow) -> Row:
        """The row of an utterance; reads its text and audio where it lies in a shard."""
        if isinstance(row, Row):
            return row
        try:
            item, sound = self._shards.read(row.member)
            assert self.tokenizer is not None
            label = self.tokenizer.encode(item.text, item.id)
        except (ManifestError, TextError) as error:
            raise AudioError(str(error)) from error
        speed = row.speed
        # A label that only just fits must not be made impossible by playing it faster.
        if speed > 1 and misfit(item.duration_s / speed, min_frames(label), self.config, training=False):
            speed = 1.0
        return Row(item, label, -1, row.index, row.repeat, speed, sound)

    def _found_rows(self, given: Sequence[Row | StoredRow], failures: list[tuple[str, AudioError]]) -> list[Row]:
        """The rows of utterances, those of shards read; what cannot be read goes into ``failures`` with its id."""
        rows = []
        for row in given:
            try:
                rows.append(self._found(row))
            except AudioError as error:
                failures.append((row.id, error))
        return rows

    def make(self, order: BatchOrder, allocate: Allocator = fresh_memory) -> MadeBatch:
        """One batch. Utterances that cannot be read are named in its warnings and left out.

        Raises ``TrainingError`` naming the utterance for any other failure, and where a service is down that has all
        of them: a training must not go on without its data.
        """
        plain = [row for row in order.rows if isinstance(row, Row) and is_url(row.utterance.audio)]
        with self._files.fetch(row.utterance.audio for row in plain if self.cache.get(row.place) is None):
            return self._make(order, allocate)

    def _make(self, order: BatchOrder, allocate: Allocator) -> MadeBatch:
        good: list[_Good] = []
        failures: list[tuple[str, AudioError]] = []
        reasons: list[str] = []
        rows = self._found_rows(order.rows, failures)
        order = replace(order, rows=tuple(rows))
        # Babble is made of the batch's other utterances. So that none is decoded twice, all are kept until the end.
        setting = self.config.augment
        kept: _Kept = {} if order.kind == "train" and setting.babble_prob and not setting.babble_dir else None
        for row in rows:
            try:
                if order.kind == "check":
                    reasons.append(self._fault(row, training=not order.held_out))
                else:
                    good.append(self._prepared(row, order, kept))
            except AudioError as error:
                failures.append((row.id, error))
            except Exception as error:
                raise TrainingError(
                    f"{row.id}: cannot be made ready for training: {type(error).__name__}: {error}"
                ) from error
        warnings = [f"{name}: left out of this batch: {error}" for name, error in failures]
        if not good:
            if failures and not reasons and all(service_is_down(error) for _, error in failures):
                raise TrainingError(f"{failures[0][1]}; continue with --resume when the service is there again")
            return MadeBatch(warnings=tuple(warnings), reasons=tuple(reasons))
        layout = _layout(good)
        memory = allocate(layout.size)
        _write(good, layout, memory)
        return MadeBatch(layout, memory, tuple(warnings))

    def _fault(self, row: Row, *, training: bool) -> str:
        """Why the audio of an utterance cannot be used; reads it into the cache."""
        try:
            samples = self._sound(row)
        except AudioError as error:
            return str(error)
        # The manifest may be wrong about the duration.
        return misfit(len(samples) / self.rate_hz, min_frames(row.label), self.config, training=training)

    def _prepared(self, row: Row, order: BatchOrder, kept: _Kept) -> _Good:
        training = order.kind == "train"
        spliced = self._spliced(row, order.epoch) if training and self.splicer is not None else None
        samples, label = spliced or (self._sound(row, kept), row.label)
        needed = min_frames(label)
        samples = distort.change_speed(samples, self.rate_hz, row.speed)
        if training:
            voices = functools.partial(self._voices, row, order, kept=kept)
            distorted = self.distort(samples, self.rng(order.epoch, DISTORT_STREAM, row), voices)
            # Cut off at the ends, an utterance may be too short for its label: then it stays as it is.
            if not misfit(len(distorted) / self.rate_hz, needed, self.config, training=True):
                samples = distorted
        if reason := misfit(len(samples) / self.rate_hz, needed, self.config, training=training):
            raise AudioError(reason)
        masks: list[np.ndarray] = []
        colours = np.zeros(3, dtype=np.float32)
        if training:
            setting, features = self.config.augment, self.config.features
            frames = count_frames(len(samples), features)
            streams = (MASK_STREAM, VIEW_STREAM) if self.config.train.consistency else (MASK_STREAM,)
            generators = [self.rng(order.epoch, stream, row) for stream in streams]
            masks = [distort.draw_masks(frames, features.mel_bins, setting, rng) for rng in generators]
            colours = distort.draw_colour(setting, self.rng(order.epoch, COLOUR_STREAM, row))
        return _Good(row.utterance.id, samples, label, masks, colours)

    def _voices(
        self, row: Row, order: BatchOrder, count: int, rng: np.random.Generator, kept: _Kept = None
    ) -> list[np.ndarray]:
        """Up to ``count`` waveforms of the batch's other speakers, for babble; of other utterances where the speaker is
        not known."""
        mine = row.utterance
        others = [
            other
            for other in order.rows
            if isinstance(other, Row)
            and other.utterance.id != mine.id
            and not (mine.speaker and other.utterance.speaker == mine.speaker)
        ]
        found = []
        for at in rng.permutation(len(others))[:count]:
            with contextlib.suppress(AudioError):  # its own row names it
                found.append(self._sound(others[at], kept))
        return found

    def _spliced(self, row: Row, epoch: int) -> tuple[np.ndarray, list[int]] | None:
        """Sound and label that replace an utterance's in this epoch; ``None`` where it stays. Raises ``AudioError``."""
        assert self.splicer is not None
        assert self.tokenizer is not None
        rng = self.rng(epoch, SPLICE_STREAM, row)
        if rng.random() >= self.config.augment.splice_prob:
            return None
        pieces = self.splicer.choose(row.utterance, rng)
        label = self.tokenizer.encode(splice.joined_text(pieces), row.utterance.id)
        duration_s = sum(piece.duration_s for piece in pieces) / row.speed
        # Pieces are cut tightly: what they say may need more frames than they have.
        if not pieces or misfit(duration_s, min_frames(label), self.config, training=True):
            return None
        sounds = [self.read(piece, self._piece_places[piece.id]) for piece in pieces]
        return splice.join_pieces(sounds, self.rate_hz), label


def _layout(good: Sequence[_Good]) -> BatchLayout:
    count = len(good)
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("<f4", (count, max(len(item.samples) for item in good))),
        ("<f4", (count, 3)),
        ("<i8", (count,)),
        ("<i8", (count,)),
        ("<i8", (sum(len(item.label) for item in good),)),
        *(("<i8", (count, *mask.shape)) for mask in good[0].masks),
    ]
    arrays: list[tuple[str, tuple[int, ...], int]] = []
    start = 0
    for kind, shape in shapes:
        arrays.append((kind, shape, start))
        start += -(-math.prod(shape) * np.dtype(kind).itemsize // _ALIGNED) * _ALIGNED
    return BatchLayout(tuple(item.id for item in good), start, tuple(arrays))


def _write(good: Sequence[_Good], layout: BatchLayout, memory: np.ndarray) -> None:
    samples, colours, lengths, token_lengths, tokens, *masks = layout.views(memory)
    for row, item in enumerate(good):
        samples[row, : len(item.samples)] = item.samples
        samples[row, len(item.samples) :] = 0
        colours[row] = item.colours
        for view, mask in zip(masks, item.masks, strict=True):
            view[row] = mask
    lengths[:] = [len(item.samples) for item in good]
    token_lengths[:] = [len(item.label) for item in good]
    tokens[:] = [token for item in good for token in item.label]
