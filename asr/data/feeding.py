"""Hands batches to the training: one crew for training and validation data, the next epoch begun in time, and on a GPU
the next batch copied there while the current one is trained on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from asr.config.sections import Config
from asr.data.batch_maker import BatchOrder, MadeBatch
from asr.data.batch_plan import Example
from asr.data.batches import Batch, Dataset, batch_tensors
from asr.data.crew import LENT_SLOTS, BatchStream, Crew, ProcessCrew, ThreadCrew, trainings_here
from asr.data.crew_child import CrewSetup
from asr.data.sample_cache import free_memory
from asr.data.sharded_batches import ShardedDataset
from asr.errors import ConfigError

_T = TypeVar("_T")

CHECKED_AT_ONCE = 32
"""Utterances of one order to check."""
SPARE = 1.1
"""Room of a slot over what the manifests say."""
ROOM = 2**18
"""Bytes of a slot for labels and masks, beside its sound. The order lies there before the batch."""
ORDERS_EACH = 3
"""Orders at a time for each loader process, where there is memory for so many batches."""
WINDOW_SHARE = 0.2
"""Share of the free memory that batches of ``ORDERS_EACH`` orders may take."""
AHEAD_ON_GPU = 2
"""Batches on the GPU that wait to be trained on."""

Plan = Sequence[Sequence[Example]]
"""The batches of an epoch, of all processes; of shards, of this one."""


@dataclass
class _Begun:
    """Batches of an epoch that are made before the training asks for them."""

    epoch: int
    plan: Plan
    stream: BatchStream


class Feeder:
    """Batches for one training, made by ``workers`` processes, or by a thread if it is 0.

    ``share`` gives this process's part of a batch. ``following`` gives the plan of an epoch, or None after the last: it
    is called, and that epoch begun, while the one before is trained on. Raises ``ConfigError`` where there is not
    enough shared memory.
    """

    def __init__(
        self,
        config: Config,
        train: Dataset | ShardedDataset,
        valid: Dataset,
        workers: int,
        device: torch.device,
        share: Callable[[Sequence[Example]], Sequence[Example]] = lambda examples: examples,
        following: Callable[[int], Plan | None] = lambda epoch: None,
    ) -> None:
        self.config = config
        self.train = train
        self.device = device
        self.share = share
        self._following = following
        self._next: _Begun | None = None
        self._told_full = False
        self._depth = max(config.data.prefetch, workers + 1)
        # Validation may come in the middle of an epoch, whose batches wait.
        self._side_depth = workers + 1
        self.crew: Crew = ThreadCrew(train.maker)
        if workers:
            self._fit_cache()
            slot_bytes = max(self._slot_bytes(train), self._slot_bytes(valid))
            self._depth = self._window(workers, slot_bytes)
            self._slots = (self._depth + self._side_depth + LENT_SLOTS, slot_bytes)
            self.crew = ProcessCrew(workers, *self._slots, self._setup)

    def _setup(self, slots: int, orders: int) -> CrewSetup:
        train = self.train
        tokenizer = train.tokenizer if train.pieces or train.presplit else None
        return CrewSetup(
            self.config, tokenizer, train.cache.layout(), slots, orders, *self._slots, train.pieces, train.piece_places
        )

    def _window(self, workers: int, slot_bytes: int) -> int:
        """Batches of an epoch that are ordered at a time.

        The training gets them in order, and some take several times as long as others. While the first of them is not
        ready, the processes make the others, if there are enough.
        """
        least, free = max(self.config.data.prefetch, workers + 1), free_memory()
        room = math.inf if free is None else WINDOW_SHARE * free / trainings_here()
        affordable = room / slot_bytes - self._side_depth - LENT_SLOTS
        return int(max(least, min(ORDERS_EACH * workers, affordable)))

    def _fit_cache(self) -> None:
        fitting_s = self.train.cache.fitting_s()
        if math.isfinite(fitting_s):
            raise ConfigError(
                f"data.cache_s: {self.config.data.cache_s:g} s of decoded audio need more than half of the free "
                f"memory; set data.cache_s={math.floor(fitting_s)} or less"
            )

    def _slot_bytes(self, data: Dataset | ShardedDataset) -> int:
        """Room for the largest batch of an epoch, by what the manifest says."""
        setting, rate_hz = self.config.augment, self.config.features.sample_rate_hz
        silence_s = 2 * setting.silence_s if data.training else 0.0
        if isinstance(data, ShardedDataset):
            seconds, count = data.largest()
            return math.ceil(SPARE * (seconds + count * silence_s) * rate_hz) * 4 + ROOM
        plan = data.plan(0)
        if not len(plan):
            return math.ceil(SPARE * rate_hz) * 4 + ROOM
        longest = np.maximum.reduceat(data.durations_s[plan.rows] / plan.speeds, plan.starts[:-1])
        counts = np.diff(plan.starts)
        shares = {count: len(self.share([Example(0, 1.0)] * count)) for count in np.unique(counts).tolist()}
        parts = np.array([shares[count] for count in counts.tolist()])
        most = max(1.0, float((parts * (longest + silence_s)).max()))
        return math.ceil(SPARE * most * rate_hz) * 4 + ROOM

    def close(self) -> None:
        """End the processes or the thread."""
        if self._next is not None:
            self._next.stream.close()
            self._next = None
        self.crew.close()

    def check(self, data: Dataset, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
        """(row, why its audio cannot be used or an empty text) of utterances, in order; they get into the cache."""
        parts = [rows[at : at + CHECKED_AT_ONCE] for at in range(0, len(rows), CHECKED_AT_ONCE)]
        orders = (data.order([Example(row, 1.0) for row in part], 0, "check") for part in parts)
        with contextlib.closing(BatchStream(self.crew, orders)) as stream:
            for part in parts:
                stream.fill(self._side_depth)
                made = stream.take()
                assert made is not None
                self._look_at_cache()
                yield from zip(part, made.reasons, strict=True)

    def recordings(self, data: Dataset | ShardedDataset, rows: Sequence[int]) -> Iterator[Batch]:
        """Utterances as they were recorded, in order, some in each batch; those that cannot be read are left out."""
        parts: list[list[Example]] = []
        longest = 0.0
        for row in rows:
            longest = max(longest, float(data.durations_s[row]))
            if not parts or longest * (len(parts[-1]) + 1) > self.config.data.seconds_per_batch:
                parts.append([])
                longest = float(data.durations_s[row])
            parts[-1].append(Example(row, 1.0))
        orders = (data.order(part, 0, "plain") for part in parts)
        with contextlib.closing(BatchStream(self.crew, orders)) as stream:
            while stream.fill(self._side_depth):
                made = stream.take()
                assert made is not None
                if (batch := data.received(made)) is not None:
                    yield batch

    def batches(self, plan: Plan, epoch: int) -> Iterator[Batch | None]:
        """This process's shares of the batches of a training epoch, or of the rest of it, on the device."""
        return self._delivered(self.train, self._made(plan, epoch))

    def held_out(self, data: Dataset, plan: Plan) -> Iterator[Batch | None]:
        """This process's shares of the batches of ``plan``, which may come in the middle of a training epoch."""
        orders = (data.order(self.share(part), 0) for part in plan)
        return self._delivered(data, self._drained(BatchStream(self.crew, orders), self._side_depth))

    def _drained(self, stream: BatchStream, depth: int) -> Generator[MadeBatch, None, None]:
        with contextlib.closing(stream):
            while stream.fill(depth):
                made = stream.take()
                assert made is not None
                yield made

    def _orders(self, plan: Plan, epoch: int) -> Iterator[BatchOrder]:
        share = (lambda part: part) if self.train.presplit else self.share
        return (self.train.order(share(part), epoch) for part in plan)

    def _made(self, plan: Plan, epoch: int) -> Generator[MadeBatch, None, None]:
        begun, self._next = self._next, None
        if begun is not None and (begun.epoch, begun.plan) == (epoch, plan):
            stream = begun.stream
        else:
            if begun is not None:  # what was begun is not what is wanted now
                begun.stream.close()
            stream = BatchStream(self.crew, self._orders(plan, epoch))
        planned = _in_background(lambda: self._following(epoch + 1))
        following: _Begun | None = None
        finished = False
        try:
            while waiting := stream.fill(self._depth):
                if stream.exhausted and following is None and planned.done() and planned.result() is not None:
                    following = self._begin(epoch + 1, planned.result() or ())
                if following is not None:
                    following.stream.fill(self._depth - waiting)
                made = stream.take()
                assert made is not None
                yield made
            finished = True
        finally:
            stream.close()
            if following is not None and not finished:
                following.stream.close()
                following = None
        if following is None and (plan_after := planned.result()) is not None:
            following = self._begin(epoch + 1, plan_after)
        if following is not None:
            following.stream.fill(self._depth)
        self._next = following

    def _begin(self, epoch: int, plan: Plan) -> _Begun:
        return _Begun(epoch, plan, BatchStream(self.crew, self._orders(plan, epoch)))

    def _delivered(
        self, data: Dataset | ShardedDataset, made: Generator[MadeBatch, None, None]
    ) -> Iterator[Batch | None]:
        """The batches on the device, each with its warnings given when it is its turn."""
        cuda = self.device.type == "cuda"
        ready = _read_ahead(self._uploaded(made)) if cuda else ((each, None) for each in made)
        with contextlib.closing(made), contextlib.closing(ready):
            for each, there in ready:
                self._look_at_cache()
                data.give_warnings(each)
                yield batch_tensors(each) if there is None else there()

    def _uploaded(
        self, made: Generator[MadeBatch, None, None]
    ) -> Generator[tuple[MadeBatch, Callable[[], Batch] | None], None, None]:
        """Batches whose copy to the GPU has begun on a stream of its own, through pinned memory, in one piece."""
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with contextlib.closing(made):
            for each in made:
                there = _upload(each, self.device, side) if each.layout is not None else None
                yield MadeBatch(warnings=each.warnings), there

    def _look_at_cache(self) -> None:
        cache = self.train.cache
        if not self._told_full and (cache.failed or getattr(self.crew, "cache_failed", False)):
            self._told_full = True
            self.train.warn(
                f"data.cache_s: memory for decoded audio ran out after {cache.cached_s:.0f} s; the rest is read again "
                f"in each epoch; set data.cache_s={math.floor(cache.cached_s)}"
            )


def _upload(made: MadeBatch, device: torch.device, side: torch.cuda.Stream) -> Callable[[], Batch]:
    """Begin the copy; what is returned makes the current stream wait for it and gives the batch."""
    assert made.layout is not None
    pinned = torch.empty(made.layout.size, dtype=torch.uint8, pin_memory=True)
    pinned.copy_(torch.from_numpy(made.memory[: made.layout.size]))
    here = batch_tensors(dataclasses.replace(made, memory=pinned.numpy()))  # so that its slot is free at once
    assert here is not None
    with torch.cuda.stream(side):
        there = pinned.to(device, non_blocking=True)
        copied = side.record_event()
    arrays = made.layout.arrays

    def view(number: int) -> torch.Tensor:
        kind, shape, start = arrays[number]
        size = math.prod(shape) * np.dtype(kind).itemsize
        return there[start : start + size].view(torch.float32 if kind == "<f4" else torch.int64).reshape(shape)

    def arrive() -> Batch:
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        there.record_stream(current)  # its memory is not used again before this stream has done with it
        masks = tuple(view(number) for number in range(5, len(arrays)))
        return Batch(here.ids, view(0), here.lengths, here.tokens, here.token_lengths, masks, view(1), view(2))

    return arrive


def _in_background(work: Callable[[], _T]) -> Future[_T]:
    """The result of ``work``, done in a thread that ends with the process."""
    found: Future[_T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # raised where the result is asked for
            found.set_exception(error)

    threading.Thread(target=run, name="loader-plan", daemon=True).start()
    return found


def _read_ahead(items: Iterable[_T]) -> Generator[_T, None, None]:
    """``items``, taken by a thread ``AHEAD_ON_GPU`` ahead; its errors are raised here."""
    ready: queue.Queue[tuple[bool, object]] = queue.Queue(AHEAD_ON_GPU)
    ended = threading.Event()

    def put(entry: tuple[bool, object]) -> bool:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=run, name="loader-upload", daemon=True)
    thread.start()
    try:
        while True:
            good, item = ready.get()
            if not good:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]
    finally:
        ended.set()
        thread.join()
