"""Sources with shares (``data.sources``) whose data are shards: which parts of the shards an epoch reads.

A source is cut into pieces, neighbours in one shard. It gives its pieces in an endless row of random orders. What an
epoch takes is a stretch of that row, which begins where the epoch before stopped, to the utterance.

With a cap for each speaker, all pieces are read in each epoch, and of each speaker some utterances are taken: the
speaker's utterances, in the order of the shards, are a ring. An epoch takes a stretch of it, and the next epoch goes
on behind it. The first epoch begins anywhere in a ring: if it began at the first utterance of each speaker, it would
take more than its share, since a stretch takes all utterances that begin in it.

Several processes share out the pieces of each source by their lengths. Where an epoch has few pieces of a source, they
are cut further.

Kept in memory are some numbers for each piece and, with a cap, for each speaker of each shard.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr.config.sections import Config
from asr.config.training_sections import SourceConfig
from asr.data.shard_members import ShardIndex
from asr.data.shard_set import ShardSet, is_shards
from asr.data.source_shares import STREAM, Amount, Shares, SourceMix, no_speaker, no_utterance, read_sources

BUFFER_PIECES = 4
"""Pieces of each source that a buffer is mixed from, at least."""
PROCESS_PIECES = 8
"""Pieces of each source that each of several processes gets in an epoch, about, at least."""
_SHORTEST_S = 60.0
_LEAST_PART = 1 / 16
"""Pieces of a source with a small share are not made shorter than this, or than this part of those of a single set:
reading would jump from place to place."""


@dataclass(frozen=True, slots=True)
class ShardPiece:
    """Neighbours in one shard: utterances ``begin`` to ``end`` of it."""

    shard: int
    begin: int
    end: int
    seconds: float
    """Length of the speech, about."""
    repeat: int = 0
    """How often the epoch has begun to go through the source before: the same utterance is distorted anew."""
    window: tuple[float, float] | None = None
    """With a cap for each speaker: which stretch of the rings of its speakers is taken, counted in what an epoch takes
    at most of each."""


def usable_lengths(durations_s: np.ndarray, config: Config) -> np.ndarray:
    """Whether utterances of such lengths can be trained on, whatever their texts."""
    usable: np.ndarray = (config.features.least_s <= durations_s) & (durations_s <= config.data.max_utterance_s)
    return usable


def cut_pieces(shards: ShardSet, numbers: Sequence[int], longest_s: float, size: int) -> list[ShardPiece]:
    """Some shards as pieces of about ``longest_s`` at most; ``size`` or more, for that many processes."""
    least = -(-size // max(1, len(numbers)))
    found = []
    for number in numbers:
        entry = shards.entries[number]
        count = max(1, min(entry.utterances, max(least, math.ceil(entry.seconds / longest_s))))
        edges = np.linspace(0, entry.utterances, count + 1).astype(int).tolist()
        for begin, end in itertools.pairwise(edges):
            if end > begin:
                found.append(ShardPiece(number, begin, end, entry.seconds * (end - begin) / entry.utterances))
    return found


class _Ring:
    """The utterances of each speaker of a source, in the order of the shards."""

    def __init__(self, name: str, source: SourceConfig, key: Sequence[int]) -> None:
        self._name, self._source, self._key = name, source, key
        self._numbers: dict[str, int] = {}
        self._parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.totals_s = np.zeros(0)
        """Of each speaker."""

    def add(self, number: int, index: ShardIndex, usable: np.ndarray) -> None:
        """The next shard. Raises ``ConfigError`` for an utterance without a speaker."""
        assert index.speakers is not None
        if len(nameless := np.flatnonzero(usable & (index.speakers < 0))):
            raise no_speaker(self._name, self._source, index.id(int(nameless[0])))
        names = index.sums.speakers
        speakers = np.array([self._numbers.setdefault(name, len(self._numbers)) for name in names], dtype=np.int32)
        lengths = np.bincount(index.speakers[usable], index.places["duration_s"][usable], len(names))
        self.totals_s = np.append(self.totals_s, np.zeros(len(self._numbers) - len(self.totals_s)))
        self._parts[number] = speakers, self.totals_s[speakers]
        self.totals_s[speakers] += lengths

    @functools.cached_property
    def most_s(self) -> np.ndarray:
        """What an epoch takes at most of each speaker; after the last shard."""
        most: np.ndarray = np.minimum(self.totals_s, self._source.speaker_cap_s)
        return most

    @functools.cached_property
    def _begins(self) -> np.ndarray:
        """Where in the ring of each speaker the first epoch begins, 0 to 1."""
        return np.random.default_rng(self._key).random(len(self.totals_s))

    def taken(self, number: int, index: ShardIndex, usable: np.ndarray, window: tuple[float, float]) -> np.ndarray:
        """Which of the usable utterances ``(n,)`` of a shard begin in a stretch of their speakers' rings."""
        assert index.speakers is not None
        speakers, offsets = self._parts[number]
        rows = np.flatnonzero(usable)
        local = index.speakers[rows]
        durations = index.places["duration_s"][rows]
        order = np.argsort(local, kind="stable")
        ends = np.cumsum(durations[order])
        begins = ends - durations[order]
        firsts = np.flatnonzero(np.diff(local[order], prepend=-1))
        counts = np.diff(np.append(firsts, len(rows)))
        starts = np.empty(len(rows))
        starts[order] = begins - np.repeat(begins[firsts], counts)
        starts += offsets[local]
        own = speakers[local]
        total = self.totals_s[own]
        # In turns of the ring. How often the stretches so far have reached an utterance, before and after this one:
        # each is in one of two stretches that follow each other, whatever is rounded.
        places, turns = starts / total + self._begins[own], self.most_s[own] / total
        before, after = (np.ceil(at * turns - places) for at in window)
        found = np.zeros(len(usable), dtype=bool)
        found[rows] = after > before
        return found


@dataclass(frozen=True)
class _Source:
    pieces: tuple[ShardPiece, ...]
    lengths_s: np.ndarray
    """Of the speech in each piece that can be used ``(pieces,)``."""
    ring: _Ring | None


class ShardMix(Shares):
    """What each epoch reads of shards with shares.

    Args:
        shards: of the sources that have a share, whose paths are its patterns.
        config: the sources, which lengths can be used, ``data.shuffle_s``, the seed.
        size: processes of the training.

    Raises ``ConfigError`` for a source without utterances, speakers that a cap needs and that are not named, and shares
    that a cap does not allow.
    """

    def __init__(self, shards: ShardSet, config: Config, size: int = 1) -> None:
        self.shards, self.config, self.seed = shards, config, config.train.seed
        entries: dict[str, list[int]] = defaultdict(list)
        for number, entry in enumerate(shards.entries):
            entries[entry.pattern].append(number)
        active = {name: source for name, source in config.data.sources.items() if source.share}
        total = sum(source.share for source in active.values())
        self._parts: dict[str, _Source] = {}
        self._ring_of: dict[int, _Ring] = {}
        self._taken = functools.lru_cache(maxsize=64)(self._find_taken)
        amounts = {}
        for name, source in active.items():
            numbers = entries[source.path]
            part = source.share / total
            if source.speaker_cap_s:  # all pieces are read, and only some of each is taken
                part = max(part, sum(shards.entries[number].seconds for number in numbers) / shards.seconds)
            longest_s = config.data.shuffle_s / BUFFER_PIECES
            longest_s *= max(part, min(_SHORTEST_S / longest_s, _LEAST_PART))
            pieces = cut_pieces(shards, numbers, longest_s, size)
            self._parts[name], amounts[name] = self._read(name, source, pieces)
        super().__init__(active, amounts)

    def _read(self, name: str, source: SourceConfig, pieces: Sequence[ShardPiece]) -> tuple[_Source, Amount]:
        """The usable speech of the pieces of a source, and of its speakers where these have a cap."""
        ring = _Ring(name, source, self._key(name)) if source.speaker_cap_s else None
        lengths: list[float] = []
        for number, group in itertools.groupby(pieces, lambda piece: piece.shard):
            index = self.shards.index(number)
            durations = index.places["duration_s"]
            usable = usable_lengths(durations, self.config)
            lengths += np.add.reduceat(durations * usable, [piece.begin for piece in group]).tolist()
            if ring is not None:
                ring.add(number, index, usable)
                self._ring_of[number] = ring
        lengths_s = np.array(lengths)
        whole_s = float(lengths_s.sum())
        if not whole_s:
            raise no_utterance(name, source)
        most_s = whole_s if ring is None else float(ring.most_s.sum())
        speakers = 0 if ring is None else int((ring.totals_s > 0).sum())
        return _Source(tuple(pieces), lengths_s, ring), Amount(whole_s, most_s, speakers)

    def epoch(self, number: int, span: Sequence[float]) -> list[list[list[ShardPiece]]]:
        """The pieces of each source in an epoch, in parts that follow each other.

        Args:
            number: of the epoch, from 0.
            span: where in the schedule it begins and ends, 0 to 1. A source that ends in between is only in the parts
                before.
        """
        found, repeats = [], dict.fromkeys(self.sources, 0)
        for needed, first, last in self.parts(number, span):
            drawn = {name: self._drawn(name, seconds, number, first, last) for name, seconds in needed.items()}
            found.append([
                [dataclasses.replace(piece, repeat=piece.repeat + repeats[name]) for piece in pieces]
                for name, pieces in drawn.items()
            ])  # fmt: skip
            for name, pieces in drawn.items():
                repeats[name] += 1 + max((piece.repeat for piece in pieces), default=-1)
        return found

    def _key(self, name: str) -> list[int]:
        """Of the random numbers of a source."""
        return [self.seed, STREAM, zlib.crc32(name.encode())]

    def _drawn(self, name: str, seconds: float, epoch: int, first: float, last: float) -> list[ShardPiece]:
        """What a source gives from one place to another, counted in epochs that take ``seconds`` of it."""
        source, amount = self._parts[name], self._amounts[name]
        key = self._key(name)
        if source.ring is None:
            return self._stretch(source, first * seconds, last * seconds, key)
        scale = seconds / amount.most_s
        window = (first * scale, last * scale)
        taken = (last - first) * seconds / amount.whole_s
        order = np.random.default_rng([*key, epoch]).permutation(len(source.pieces)).tolist()
        return [
            dataclasses.replace(source.pieces[at], seconds=float(source.lengths_s[at]) * taken, window=window)
            for at in order
            if source.lengths_s[at]
        ]

    def _stretch(self, source: _Source, begin_s: float, end_s: float, key: Sequence[int]) -> list[ShardPiece]:
        """The pieces whose utterances begin from ``begin_s`` to ``end_s`` in an endless row of random orders.

        The pieces at both ends are cut at the utterance.
        """
        total = float(source.lengths_s.sum())
        found = []
        cycles = range(int(begin_s // total), int(end_s // total) + 1)
        for repeat, cycle in enumerate(cycles):
            order = np.random.default_rng([*key, cycle]).permutation(len(source.pieces))
            lengths = source.lengths_s[order]
            starts = np.append(0.0, np.cumsum(lengths)[:-1])
            # The ends of the stretch cut the first order and the last one only, whatever is rounded.
            begin = begin_s - cycle * total if cycle == cycles[0] else 0.0
            end = end_s - cycle * total if cycle == cycles[-1] else math.inf
            for at in np.flatnonzero((starts < end) & (starts + lengths > begin)).tolist():
                piece = dataclasses.replace(source.pieces[order[at]], seconds=float(lengths[at]), repeat=repeat)
                if starts[at] < begin or starts[at] + lengths[at] > end:
                    piece = self._cut(piece, begin - starts[at], end - starts[at])
                if piece.end > piece.begin:
                    found.append(piece)
        return found

    def _cut(self, piece: ShardPiece, begin_s: float, end_s: float) -> ShardPiece:
        """The utterances of a piece that begin between two times of it."""
        durations = self.shards.index(piece.shard).places["duration_s"][piece.begin : piece.end]
        durations = durations * usable_lengths(durations, self.config)
        starts = np.concatenate([[0.0], np.cumsum(durations)[:-1]])
        begin, end = np.searchsorted(starts, [begin_s, end_s]).tolist()
        seconds = float(durations[begin:end].sum())
        return dataclasses.replace(piece, begin=piece.begin + begin, end=piece.begin + end, seconds=seconds)

    def within_caps(self, piece: ShardPiece) -> np.ndarray:
        """Which utterances of a piece with a window are taken: ``(n,)`` bool."""
        assert piece.window is not None
        return self._taken(piece.shard, piece.window)[piece.begin : piece.end]

    def _find_taken(self, shard: int, window: tuple[float, float]) -> np.ndarray:
        index = self.shards.index(shard)
        usable = usable_lengths(index.places["duration_s"], self.config)
        return self._ring_of[shard].taken(shard, index, usable, window)


def cut_further(pieces: Sequence[ShardPiece], count: int) -> Iterator[ShardPiece]:
    """The pieces, each in as many parts as make about ``count`` of equal length of all."""
    longest_s = sum(piece.seconds for piece in pieces) / count
    for piece in pieces:
        size = piece.end - piece.begin
        parts = max(1, min(size, math.ceil(piece.seconds / longest_s))) if longest_s else 1
        edges = [piece.begin + size * part // parts for part in range(parts + 1)]
        for begin, end in itertools.pairwise(edges):
            yield dataclasses.replace(piece, begin=begin, end=end, seconds=piece.seconds * (end - begin) / size)


def mix_sources(drawn: Sequence[Sequence[ShardPiece]], size: int) -> list[list[ShardPiece]]:
    """The pieces of each of ``size`` processes, those of all sources interleaved: any stretch has the shares of all."""
    loads_s = np.zeros(size)
    placed: list[list[tuple[float, int, ShardPiece]]] = [[] for _ in range(size)]
    for number, pieces in enumerate(drawn):
        few = size > 1 and len(pieces) < PROCESS_PIECES * size
        dealt: list[list[ShardPiece]] = [[] for _ in range(size)]
        for piece in cut_further(pieces, PROCESS_PIECES * size) if few else pieces:
            process = int(loads_s.argmin())
            loads_s[process] += piece.seconds
            dealt[process].append(piece)
        for own, found in zip(dealt, placed, strict=True):
            ends = np.cumsum([piece.seconds for piece in own])
            for piece, end in zip(own, ends.tolist(), strict=True):
                found.append(((end - piece.seconds / 2) / ends[-1] if ends[-1] else 0.0, number, piece))
    return [[piece for _, _, piece in sorted(each, key=lambda entry: entry[:2])] for each in placed]


def fill_buffers(pieces: Sequence[ShardPiece], most_s: float) -> Iterator[tuple[ShardPiece, ...]]:
    """Pieces that follow each other, together in buffers of about ``most_s``."""
    filled: list[ShardPiece] = []
    seconds = 0.0
    for piece in pieces:
        if filled and seconds + piece.seconds / 2 > most_s:
            yield tuple(filled)
            filled, seconds = [], 0.0
        filled.append(piece)
        seconds += piece.seconds
    if filled:
        yield tuple(filled)


def shares_of_shards(config: Config) -> ShardSet:
    """The shards of the sources that have a share. Raises ``ShardError`` as ``ShardSet``."""
    active = [source for source in config.data.sources.values() if source.share]
    return ShardSet([source.path for source in active], [source.path for source in active if source.speaker_cap_s])


def describe_sources(config: Config) -> str:
    """What an epoch takes of each source, for people. Raises as reading them for a training."""
    sources = config.data.sources
    if any(map(is_shards, config.data.manifests)):
        return ShardMix(shares_of_shards(config), config).describe()
    return SourceMix(sources, *read_sources(sources), config.train.seed).describe()
