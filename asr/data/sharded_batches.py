"""Batches from shards: read in order, mixed in a shuffle buffer, split over the processes of a training.

An epoch takes the shards in a random order. Each is a row of pieces of at most a quarter of ``data.shuffle_s``. Every
process takes its share of the pieces. So many of them follow each other into a buffer that it holds ``data.shuffle_s``
seconds, and the batches are made of a buffer as those of a manifest are made of the whole. With ``data.sources`` each
buffer has pieces of all sources, as their shares say (``asr.data.shard_shares``).

The buffer is no copy: the system reads its pieces ahead into the page cache, in order, one buffer ahead of the
training. All loader processes of the machine share it, and what a batch holds does not depend on their number. What an
epoch holds depends on the seed, its number, and the number of training processes alone. Texts are read and turned into
tokens by the process that makes the batch.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from asr.data.shard_shares import (
    BUFFER_PIECES,
    ShardMix,
    ShardPiece,
    cut_pieces,
    fill_buffers,
    mix_sources,
    usable_lengths,
)
from asr.errors import CloudError
from asr.text.tokenizer import Tokenizer

BUFFER_STREAM = 8
"""Stream of random numbers, beside those of ``asr.data.batch_maker`` and ``asr.data.source_shares``."""
_ADVISED = 8 * 2**20


@dataclass(frozen=True)
class Buffer:
    """Pieces that are mixed. ``key`` chooses its random numbers in its epoch."""

    key: tuple[int, ...]
    pieces: tuple[ShardPiece, ...]


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
        longest_s = config.data.shuffle_s / BUFFER_PIECES
        self.mix = ShardMix(shards, config, size) if config.data.sources else None
        """With ``data.sources`` what an epoch takes of each."""
        self._cut = cut_pieces(shards, range(len(shards.entries)), longest_s, size) if self.mix is None else []
        self.unusable, self.first_unusable = self._count_unusable()

    def _count_unusable(self) -> tuple[int, str]:
        count, first = 0, ""
        for number in range(len(self.shards.entries)):
            index = self.shards.index(number)
            rows = np.flatnonzero(~usable_lengths(index.places["duration_s"], self.config))
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

    def plan(self, epoch: int, span: Sequence[float] = (0.0, 0.0)) -> ShardPlan:
        """This process's batches of an epoch. Each holds ``data.batch_s`` padded seconds over the processes.

        ``span`` says where in the schedule, 0 to 1, the epoch begins and ends; ``data.sources`` may depend on it.
        """
        if self.mix is None:
            order = self._rng(epoch, (0,)).permutation(len(self._cut)).tolist()
            return ShardPlan(self, epoch, [self._buffers(order[rank :: self.size]) for rank in range(self.size)])
        return ShardPlan(self, epoch, self._mixed_buffers(self.mix.epoch(epoch, span)))

    def _buffers(self, order: Sequence[int]) -> list[Buffer]:
        number_of = {self._cut[number]: number for number in order}
        filled = fill_buffers(list(number_of), self.config.data.shuffle_s)
        return [Buffer((1 + number_of[pieces[0]],), pieces) for pieces in filled]

    def _mixed_buffers(self, parts: Sequence[Sequence[Sequence[ShardPiece]]]) -> list[list[Buffer]]:
        """The buffers of each process."""
        found: list[list[Buffer]] = [[] for _ in range(self.size)]
        for part, drawn in enumerate(parts):
            for rank, pieces in enumerate(mix_sources(drawn, self.size)):
                filled = enumerate(fill_buffers(pieces, self.config.data.shuffle_s))
                found[rank] += [Buffer((part, rank, number), buffer) for number, buffer in filled]
        return found

    def _rng(self, epoch: int, key: tuple[int, ...]) -> np.random.Generator:
        return np.random.default_rng([self.config.train.seed, epoch, BUFFER_STREAM, *key])

    def _rows(self, piece: ShardPiece) -> np.ndarray:
        """The utterances of a piece that are trained on, by their places in the shard."""
        durations = self.shards.index(piece.shard).places["duration_s"][piece.begin : piece.end]
        usable = usable_lengths(durations, self.config)
        if piece.window is not None:
            assert self.mix is not None
            usable &= self.mix.within_caps(piece)
        return piece.begin + np.flatnonzero(usable)

    def plan_buffer(self, epoch: int, buffer: Buffer) -> BatchPlan:
        """The batches of the pieces of one buffer."""
        rows, lengths, repeated = [], [], []
        for piece in buffer.pieces:
            found = self._rows(piece)
            rows.append(int(self._firsts[piece.shard]) + found)
            lengths.append(self.shards.index(piece.shard).places["duration_s"][found])
            repeated.append(np.full(len(found), piece.repeat))
        numbers, durations, repeats = np.concatenate(rows), np.concatenate(lengths), np.concatenate(repeated)
        rng = self._rng(epoch, buffer.key)
        speeds = distort.draw_speeds(len(numbers), self.config.augment, rng)
        speeds[durations / speeds > self.config.data.max_utterance_s] = 1.0
        durations = durations / speeds
        keys = durations * rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(durations))
        order, starts = group_by_length(durations, keys, self.config.data.seconds_per_batch / self.size)
        batches = np.arange(len(starts) - 1)
        if not (self.config.data.shortest_first and epoch == 0):
            rng.shuffle(batches)
        return BatchPlan(numbers[order], speeds[order], repeats[order] if repeats.any() else None, starts, batches)

    def largest(self) -> tuple[float, int]:
        """Padded seconds and utterances of the largest batch of a buffer, without silence around them."""
        plan = self.plan(0)
        first = next(iter(plan.buffers), None)
        rows = 1 if first is None else int(np.diff(self.plan_buffer(0, first).starts).max(initial=1))
        longest_s = self.config.data.max_utterance_s / min(self.config.augment.speeds)
        # A label that does not fit at a higher speed is played as it was recorded.
        slower = max(*self.config.augment.speeds, 1.0)
        return max(slower * self.config.data.seconds_per_batch / self.size, longest_s), rows

    def read_ahead(self, buffer: Buffer) -> None:
        """Have the system read the pieces of a buffer into the page cache, in a thread."""
        if hasattr(os, "posix_fadvise"):
            threading.Thread(target=self._advise, args=(buffer,), name="shards-ahead", daemon=True).start()

    def _advise(self, buffer: Buffer) -> None:
        for piece in buffer.pieces:
            path = self.shards.entries[piece.shard].path
            if is_url(path):
                with contextlib.suppress(CloudError):
                    open_remote_shard(path).close()  # fetches it
                continue
            if not len(rows := self._rows(piece)):
                continue
            with contextlib.suppress(OSError):  # what cannot be read is named by who makes the batch
                places = self.shards.index(piece.shard).places[rows[0] : rows[-1] + 1]
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

    def __init__(self, data: ShardedDataset, epoch: int, buffers: Sequence[Sequence[Buffer]], start: int = 0):
        self._data, self.epoch, self._all, self._start = data, epoch, buffers, start
        self.buffers = buffers[data.rank]
        counts = [[len(data.plan_buffer(epoch, buffer)) for buffer in each] for each in buffers]
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
            and (self.epoch, self._start, self._all) == (other.epoch, other._start, other._all)
        )

    __hash__ = None  # type: ignore[assignment]
