"""Where the CPU time of a loader goes: microseconds of each step for a second of audio, in one thread of this process.

A step's time is without that of the steps inside it. Reading the clock adds some microseconds to each.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
from typing import Any
from unittest import mock

import numpy as np

from asr.config.sections import Config
from asr.data import batch_maker, distort
from asr.data.batch_maker import BatchMaker
from asr.data.batches import Dataset, batch_tensors
from asr.data.distort import Distorter
from asr.data.manifest import Utterance
from asr.data.sample_cache import SampleCache
from asr.text.tokenizer import Tokenizer

STEPS: dict[str, tuple[tuple[Any, str], ...]] = {
    "reading, decoding": ((BatchMaker, "read"),),
    "speed": ((distort, "change_speed"),),
    "rooms": ((distort, "reverberate"), (distort, "simulate_room")),
    "noise": ((distort, "coloured_noise"), (distort, "add_noise")),
    "babble": ((distort, "babble"), (BatchMaker, "_voices")),
    "telephone's band": ((distort, "limit_band"),),
    "mu-law": ((distort, "mu_law"),),
    "Opus": ((distort, "opus"),),
    "GSM": ((distort, "gsm"),),
    "lost packets, clipping, trimming": ((distort, "lose_packets"), (distort, "clip"), (distort, "trim")),
    "silence, gain, generators": ((Distorter, "__call__"), (BatchMaker, "rng")),
    "masks, colours": ((distort, "draw_masks"), (distort, "draw_colour")),
    "layout in shared memory": ((batch_maker, "_write"), (batch_maker, "_layout")),
    "the rest": ((BatchMaker, "make"), (BatchMaker, "_prepared")),
}


class Stopwatch:
    """CPU seconds of each step so far, without the steps inside it."""

    def __init__(self) -> None:
        self.seconds: collections.Counter[str] = collections.Counter()
        self._inside: list[float] = []

    def timed(self, step: str, work: Any) -> Any:
        """``work``, with its time added to a step."""

        @functools.wraps(work)
        def run(*args: Any, **named: Any) -> Any:
            began = time.thread_time()
            self._inside.append(0.0)
            try:
                return work(*args, **named)
            finally:
                used = time.thread_time() - began
                self.seconds[step] += used - self._inside.pop()
                if self._inside:
                    self._inside[-1] += used

        return run


class Memory:
    """One piece of memory for every batch, as loader processes have it; new memory costs 50 us a second of audio."""

    def __init__(self) -> None:
        self._memory = np.zeros(0, np.uint8)

    def first(self, size: int) -> np.ndarray:
        """The first ``size`` bytes, ``(size,)`` uint8."""
        if size > len(self._memory):
            self._memory = np.zeros(size + size // 4, np.uint8)
        return self._memory[:size]


def print_steps(utterances: list[Utterance], tokenizer: Tokenizer, config: Config, epochs: int) -> None:
    """A line for each step, over ``epochs`` after one that is not timed."""
    cache = SampleCache(config.features.sample_rate_hz, 0.0)
    data = Dataset(utterances, tokenizer, config, training=True, warn=print, cache=cache)
    watch, memory, audio_s = Stopwatch(), Memory(), 0.0
    with contextlib.ExitStack() as stack:
        for step, places in STEPS.items():
            for owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, watch.timed(step, getattr(owner, name))))
        for epoch in range(epochs + 1):
            if epoch == 1:
                watch.seconds.clear()
            for part in data.plan(epoch):
                made = data.maker.make(data.order(part, epoch), memory.first)
                batch = batch_tensors(made)
                if epoch and batch is not None:
                    audio_s += batch.total_samples / config.features.sample_rate_hz
    total = sum(watch.seconds.values())
    for step in STEPS:
        if watch.seconds[step]:
            print(f"{step:>34} {1e6 * watch.seconds[step] / audio_s:6.0f} us {watch.seconds[step] / total:6.1%}")
    print(f"{'sum':>34} {1e6 * total / audio_s:6.0f} us")
