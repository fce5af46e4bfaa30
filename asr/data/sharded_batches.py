"""Batches from shards: read in order, mixed in a shuffle buffer, split over the processes of a training.

An epoch takes the shards in a random order. Each is a row of pieces of at most a quarter of ``data.shuffle_s``. Every
process takes its share of the pieces. So many of them follow each other into a buffer that it holds ``data.shuffle_s``
seconds, and the batches are made of a buffer as those of a manifest are made of the whole.

The buffer is no copy: the system reads its pieces ahead into the page cache, in order, one buffer ahead of the
training. All loader processes of the machine share it, and what a batch holds does not depend on their number. What an
epoch holds depends on the seed, its number, and the number of training processes alone. Texts are read and turned into
tokens by the process that makes the batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from asr.cloud.addresses import is_url
from asr.config.sections import Config
from asr.data import distort
from asr.data.batch_maker import BatchMaker, BatchOrder, Kind, MadeBatch, StoredRow
from asr.data.batch_plan import BatchPlan, Example, group_by_length
from asr.data.batches import LENGTH_JITTER, Batch, batch_tensors, read_pieces
from asr.data.manifest import Statistics
from asr.data.remote_shards import open_remote_shard
from asr.data.sample_cache import SampleCache
from asr.data.shard_set import ShardSet, draw_utterances
from asr.errors import CloudError
from asr.text.tokenizer import Tokenizer

BUFFER_STREAM = 8
"""Stream of random numbers, beside those of ``asr.data.batch_maker`` and ``asr.data.source_shares``."""
BUFFER_PIECES = 4
"""Pieces that a buffer is mixed from, at least."""
_ADVISED = 8 * 2**20


@dataclass(frozen=True)
class _Piece:
    """Neighbours in one shard: utterances ``begin`` to ``end`` of it."""

    shard: int
    begin: int
    end: int


class ShardedDataset:
    """Shards with a tokenizer, read as batches: what ``asr.data.batches.Dataset`` is for utterances of manifests.

    Args:
        shards: the set.
        tokenizer: spells its texts.
        config: batches, speeds, limits.
        warn: called with a message for what fails later.
        cache: decoded audio of the pieces of ``augment.splice``; that of shards is not kept.
        rank, size: which process of the training this is, of how many.
    """

    presplit = True
    training = True

    def __init__(
        self,
        shards: ShardSet,
        tokenizer: Tokenizer,
        config: Config,
        *,
        warn: Callable[[str], None],
        cache: SampleCache,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.shards, self.tokenizer, self.config, self.warn, self.cache = shards, tokenizer, config, warn, cache
        self.rank, self.size = rank, size
        self.left_out: dict[str, str] = {}
        self.pieces = read_pieces(config, tokenizer)
        self.piece_places = cache.reserve(self.pieces).tolist()
        self.maker = BatchMaker(config, tokenizer, cache, self.pieces, self.piece_places)
        self._firsts = np.array([entry.first for entry in shards.entries])
        self._cut = self._cut_pieces()
        self.unusable, self.first_unusable = self._count_unusable()

    def _cut_pieces(self) -> list[_Piece]:
        longest_s = self.config.data.shuffle_s / BUFFER_PIECES
        least = -(-self.size // len(self.shards.entries))  # every process needs one
        found = []
        for number, entry in enumerate(self.shards.entries):
            count = max(1, min(entry.utterances, max(least, int(np.ceil(entry.seconds / longest_s)))))
            edges = np.linspace(0, entry.utterances, count + 1).astype(int).tolist()
            found += [_Piece(number, begin, end) for begin, end in itertools.pairwise(edges) if end > begin]
        return found

    def _usable(self, durations_s: np.ndarray) -> np.ndarray:
        """Whether utterances of such lengths can be trained on, whatever their texts."""
        least_s, most_s = self.config.features.least_s, self.config.data.max_utterance_s
        usable: np.ndarray = (least_s <= durations_s) & (durations_s <= most_s)
        return usable

    def _count_unusable(self) -> tuple[int, str]:
        count, first = 0, ""
        for number in range(len(self.shards.entries)):
            index = self.shards.index(number)
            rows = np.flatnonzero(~self._usable(index.places["duration_s"]))
            if len(rows) and not first:
                first = f"{index.id(int(rows[0]))} ({float(index.places['duration_s'][rows[0]]):.2f} s)"
            count += len(rows)
        return count, first

    @property
    def statistics(self) -> Statistics:
        """Sums over all utterances of the shards."""
        return self.shards.statistics

    @property
    def durations_s(self) -> _Durations:
        """The length of each utterance, by its number."""
        return _Durations(self)

    def fingerprint(self) -> str:
        """Checksum of ids and lengths of all utterances, in their order, and of the number of processes."""
        digest = hashlib.sha256(f"shards {self.size} {self.tokenizer.symbols}".encode())
        for number in range(len(self.shards.entries)):
            places = self.shards.index(number).places
            digest.update(places["id_hash"].tobytes() + places["duration_s"].tobytes())
        return digest.hexdigest()

    def sample(self, seed: int, limit_s: float) -> list[int]:
        """Utterances to measure features on, ``limit_s`` seconds at most."""
        return draw_utterances(self.shards, seed, limit_s)

    def order(self, examples: Iterable[Example], epoch: int, kind: Kind = "train") -> BatchOrder:
        """What a crew needs to make a batch."""
        return BatchOrder(kind, epoch, tuple(map(self._stored, examples)))

    def _stored(self, example: Example) -> StoredRow:
        number = int(np.searchsorted(self._firsts, example.index, side="right")) - 1
        member = self.shards.index(number).member(example.index - int(self._firsts[number]))
        return StoredRow(member, example.index, example.repeat, example.speed)

    def received(self, made: MadeBatch) -> Batch | None:
        """The batch, after its warnings have been given."""
        self.give_warnings(made)
        return batch_tensors(made)

    def give_warnings(self, made: MadeBatch) -> None:
        """Name what was left out of a batch."""
        for message in made.warnings:
            self.warn(message)

    def plan(self, epoch: int) -> ShardPlan:
        """This process's batches of an epoch. Each holds ``data.batch_s`` padded seconds over the processes."""
        order = self._rng(epoch, 0).permutation(len(self._cut))
        return ShardPlan(self, epoch, [list(self._buffers(order[rank :: self.size])) for rank in range(self.size)])

    def _buffers(self, order: np.ndarray) -> Iterator[list[int]]:
        """The pieces of each buffer, by their numbers."""
        filled: list[int] = []
        seconds = 0.0
        for number in order.tolist():
            piece = self._cut[number]
            entry = self.shards.entries[piece.shard]
            length_s = entry.seconds * (piece.end - piece.begin) / entry.utterances
            if filled and seconds + length_s / 2 > self.config.data.shuffle_s:
                yield filled
                filled, seconds = [], 0.0
            filled.append(number)
            seconds += length_s
        if filled:
            yield filled

    def _rng(self, epoch: int, buffer: int) -> np.random.Generator:
        return np.random.default_rng([self.config.train.seed, epoch, BUFFER_STREAM, buffer])

    def plan_buffer(self, epoch: int, numbers: Sequence[int]) -> BatchPlan:
        """The batches of the pieces of one buffer."""
        rows, lengths = [], []
        for number in numbers:
            piece = self._cut[number]
            durations = self.shards.index(piece.shard).places["duration_s"][piece.begin : piece.end]
            usable = np.flatnonzero(self._usable(durations))
            rows.append(int(self._firsts[piece.shard]) + piece.begin + usable)
            lengths.append(durations[usable])
        found, durations = np.concatenate(rows), np.concatenate(lengths)
        rng = self._rng(epoch, 1 + numbers[0])
        speeds = distort.draw_speeds(len(found), self.config.augment, rng)
        speeds[durations / speeds > self.config.data.max_utterance_s] = 1.0
        durations = durations / speeds
        keys = durations * rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(durations))
        order, starts = group_by_length(durations, keys, self.config.data.seconds_per_batch / self.size)
        batches = np.arange(len(starts) - 1)
        if not (self.config.data.shortest_first and epoch == 0):
            rng.shuffle(batches)
        return BatchPlan(found[order], speeds[order], None, starts, batches)

    def largest(self) -> tuple[float, int]:
        """Padded seconds and utterances of the largest batch of a buffer, without silence around them."""
        plan = self.plan(0)
        first = next(iter(plan.buffers), None)
        rows = 1 if first is None else int(np.diff(self.plan_buffer(0, first).starts).max(initial=1))
        longest_s = self.config.data.max_utterance_s / min(self.config.augment.speeds)
        # A label that does not fit at a higher speed is played as it was recorded.
        slower = max(*self.config.augment.speeds, 1.0)
        return max(slower * self.config.data.seconds_per_batch / self.size, longest_s), rows

    def read_ahead(self, numbers: Sequence[int]) -> None:
        """Have the system read the pieces of a buffer into the page cache, in a thread."""
        if hasattr(os, "posix_fadvise"):
            threading.Thread(target=self._advise, args=(numbers,), name="shards-ahead", daemon=True).start()

    def _advise(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            piece = self._cut[number]
            path = self.shards.entries[piece.shard].path
            if is_url(path):
                with contextlib.suppress(CloudError):
                    open_remote_shard(path).close()  # fetches it
                continue
            with contextlib.suppress(OSError):  # what cannot be read is named by who makes the batch
                places = self.shards.index(piece.shard).places[piece.begin : piece.end]
                begin, last = int(places["audio_at"][0]), places[-1]
                end = max(int(last["audio_at"] + last["audio_size"]), int(last["json_at"] + last["json_size"]))
                with open(path, "rb") as file:
                    for at in range(max(0, begin - 4096), end, _ADVISED):
                        os.posix_fadvise(file.fileno(), at, _ADVISED, os.POSIX_FADV_WILLNEED)


class _Durations:
    """Lengths in seconds by the numbers of utterances, read from the indices."""

    def __init__(self, data: ShardedDataset) -> None:
        self._data = data

    def __getitem__(self, row: int) -> float:
        number = int(np.searchsorted(self._data._firsts, row, side="right")) - 1
        return float(self._data.shards.index(number).places["duration_s"][row - int(self._data._firsts[number])])


class ShardPlan(Sequence[list[Example]]):
    """The batches of one process in one epoch, planned a buffer at a time.

    All processes have as many: one whose shards give fewer has empty ones at the end.
    """

    def __init__(self, data: ShardedDataset, epoch: int, buffers: Sequence[Sequence[Sequence[int]]], start: int = 0):
        self._data, self.epoch, self._all, self._start = data, epoch, buffers, start
        self.buffers = buffers[data.rank]
        counts = [[len(data.plan_buffer(epoch, numbers)) for numbers in each] for each in buffers]
        self._ends = np.cumsum(counts[data.rank], dtype=np.int64)
        self._steps = max(map(sum, counts))
        self._planned: OrderedDict[int, BatchPlan] = OrderedDict()

    def __len__(self) -> int:
        return max(0, self._steps - self._start)

    @overload
    def __getitem__(self, number: int) -> list[Example]: ...
    @overload
    def __getitem__(self, number: slice) -> ShardPlan: ...
    def __getitem__(self, number: int | slice) -> list[Example] | ShardPlan:
        if isinstance(number, slice):
            start, stop, step = number.indices(len(self))
            if step != 1 or stop != len(self):
                raise ValueError(f"expected a slice to the end of the plan, got {number}")
            rest: ShardPlan = object.__new__(ShardPlan)
            rest.__dict__.update(self.__dict__)
            rest._start = self._start + start
            return rest
        batch = range(len(self))[number] + self._start
        if not len(self._ends) or batch >= self._ends[-1]:
            return []
        buffer = int(np.searchsorted(self._ends, batch, side="right"))
        return self._buffer(buffer)[batch - (int(self._ends[buffer - 1]) if buffer else 0)]

    def _buffer(self, number: int) -> BatchPlan:
        if number not in self._planned:
            self._planned[number] = self._data.plan_buffer(self.epoch, self.buffers[number])
            if len(self._planned) > 2:
                self._planned.popitem(last=False)
        return self._planned[number]

    def __iter__(self) -> Iterator[list[Example]]:
        """The batches in order; each buffer is read ahead while the one before is used."""
        ahead = -1
        for number in range(len(self)):
            buffer = int(np.searchsorted(self._ends, number + self._start, side="right"))
            while ahead < min(buffer + 1, len(self._ends) - 1):
                ahead = max(ahead + 1, buffer)
                self._data.read_ahead(self.buffers[ahead])
            yield self[number]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ShardPlan)
            and self._data is other._data
            and (self.epoch, self._start) == (other.epoch, other._start)
        )

    __hash__ = None  # type: ignore[assignment]
