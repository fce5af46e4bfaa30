"""Makes batches of utterances: groups them by length, reads them ahead, and distorts them for training.

All random draws come from a generator seeded by (seed, epoch, utterance). So a batch does not depend on earlier
batches, on threads, or on where a run was resumed.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from asr.audio import read
from asr.config.sections import Config, count_frames, output_frames
from asr.data import distort, manifest, splice
from asr.data.manifest import Utterance
from asr.errors import AudioError
from asr.text.tokenizer import Tokenizer, min_frames

_S = TypeVar("_S")
_T = TypeVar("_T")

# Batches of utterances that differ by less than this share of their length pad little and still mix every epoch.
LENGTH_JITTER = 0.1
# Streams of random numbers: what is drawn for one purpose must not repeat what was drawn for another.
SPEED_STREAM, MASK_STREAM, ORDER_STREAM, COLOUR_STREAM, DISTORT_STREAM, VIEW_STREAM, SPLICE_STREAM = range(7)


@dataclass(frozen=True)
class Example:
    """One utterance of a batch: its position in the set, the speed it is played at, and how often it came before in
    this epoch."""

    index: int
    speed: float
    repeat: int = 0


@dataclass(frozen=True)
class Batch:
    """Padded waveforms with their labels, on the CPU.

    ``samples`` ``(B, S)`` float32, ``lengths`` ``(B,)`` int64; ``tokens`` ``(sum of token_lengths,)`` int64,
    concatenated; ``token_lengths`` ``(B,)`` int64. For training only: ``masks``, ``(B, M, 2)`` int64 for each view of
    the batch (two with ``train.consistency``, else one), and ``colours`` ``(B, 3)`` float32 (see ``draw_masks`` and
    ``draw_colour`` of ``asr.data.distort``).
    """

    ids: tuple[str, ...]
    samples: Tensor
    lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    masks: tuple[Tensor, ...]
    colours: Tensor

    @property
    def total_samples(self) -> int:
        """Valid samples of all rows."""
        return int(self.lengths.sum())

    @property
    def total_tokens(self) -> int:
        """Tokens of all labels."""
        return len(self.tokens)


class Dataset:
    """Utterances with their token ids, read as batches.

    ``labels[i]`` are the token ids of ``utterances[i]``. ``left_out`` maps the id of every utterance that cannot be
    used to the reason: audio shorter than one window, a label that needs more frames than the audio has (CTC needs one
    per token and one more per adjacent repeat), or audio longer than ``data.max_utterance_s``. ``warn`` is called with
    a message for audio that fails later.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        config: Config,
        *,
        training: bool,
        warn: Callable[[str], None],
    ) -> None:
        self.config = config
        self.training = training
        self.warn = warn
        self.tokenizer = tokenizer
        self.utterances: list[Utterance] = []
        self.labels: list[list[int]] = []
        self.left_out: dict[str, str] = {}
        self._cache: dict[str, np.ndarray] = {}
        self._cache_lock = threading.Lock()
        self.cached_s = 0.0
        self.cache_full = False
        self.distort = distort.Distorter(config.augment, config.features.sample_rate_hz) if training else None
        self.splicer = self._splicer() if training and config.augment.splice else None
        for utterance in utterances:
            label = tokenizer.encode(utterance.text, utterance.id)
            reason = self._misfit(utterance.duration_s, label)
            if reason:
                self.left_out[utterance.id] = reason
            else:
                self.utterances.append(utterance)
                self.labels.append(label)

    def _splicer(self) -> splice.Splicer:
        pieces = manifest.read_manifest(self.config.augment.splice)
        for piece in pieces:
            self.tokenizer.encode(piece.text, piece.id)  # now, not in the middle of training, is a strange symbol named
        return splice.Splicer(pieces)

    def _misfit(self, duration_s: float, label: list[int]) -> str:
        frames = output_frames(round(duration_s * self.config.features.sample_rate_hz), self.config)
        if frames == 0:
            return f"its {duration_s:.3f} s are shorter than one window ({self.config.features.window_s:g} s)"
        needed = min_frames(label)
        if needed > frames:
            return (
                f"its label needs {needed} frames (tokens and adjacent repeats), its {duration_s:.2f} s give {frames}"
            )
        if self.training and duration_s > self.config.data.max_utterance_s:
            return f"{duration_s:.1f} s is longer than data.max_utterance_s ({self.config.data.max_utterance_s:g} s)"
        return ""

    def exclude(self, failures: dict[str, str]) -> None:
        """Leave out the utterances whose ids are the keys, for the reasons given."""
        keep = [i for i, utterance in enumerate(self.utterances) if utterance.id not in failures]
        self.utterances = [self.utterances[i] for i in keep]
        self.labels = [self.labels[i] for i in keep]
        self.left_out.update(failures)
        for name in failures:
            self._cache.pop(name, None)
        self.cached_s = sum(map(len, self._cache.values())) / self.config.features.sample_rate_hz

    def check(self, index: int) -> str:
        """Read one utterance (into the cache): why its audio cannot be used, or an empty string."""
        try:
            samples = self.samples(index)
        except AudioError as error:
            return str(error)
        # The manifest may be wrong about the duration.
        return self._misfit(len(samples) / self.config.features.sample_rate_hz, self.labels[index])

    def samples(self, index: int) -> np.ndarray:
        """Waveform ``(S,)`` float32 of one utterance, cached up to ``data.cache_s``. Raises ``AudioError``."""
        return self._read(self.utterances[index])

    def _read(self, item: Utterance) -> np.ndarray:
        cached = self._cache.get(item.id)
        if cached is not None:
            return cached
        rate = self.config.features.sample_rate_hz
        samples = read.load_audio(item.audio, rate, start_s=item.start_s, end_s=item.end_s, channel=item.channel)
        duration_s = len(samples) / rate
        with self._cache_lock:
            if item.id in self._cache:  # another worker was faster
                return self._cache[item.id]
            if self.cached_s + duration_s <= self.config.data.cache_s:
                self._cache[item.id] = samples
                self.cached_s += duration_s
            else:
                self.cache_full = True
        return samples

    def _rng(self, epoch: int, stream: int, index: int = 0, repeat: int = 0) -> np.random.Generator:
        key = (self.config.train.seed, epoch, stream, index)
        return np.random.default_rng((*key, repeat) if repeat else key)

    def plan(self, epoch: int, chosen: np.ndarray | None = None) -> list[list[Example]]:
        """The batches of an epoch: utterances of similar length, at most ``data.batch_s`` padded seconds each.

        In training the speeds are drawn, lengths are jittered so that neighbours differ from epoch to epoch, and
        the batches are shuffled; otherwise the order is by length. ``chosen`` ``(n,)`` are the positions of the
        utterances, in any order and any number of times; without it each is there once.
        """
        indices = list(range(len(self.utterances))) if chosen is None else chosen.tolist()
        speeds = np.ones(len(indices))
        if self.training:
            speeds = distort.draw_speeds(len(speeds), self.config.augment, self._rng(epoch, SPEED_STREAM))
            for place, index in enumerate(indices):
                # A label that only just fits must not be made impossible by playing it faster.
                if self._misfit(self.utterances[index].duration_s / speeds[place], self.labels[index]):
                    speeds[place] = 1.0
        durations = np.array([self.utterances[index].duration_s for index in indices]) / speeds
        seen: Counter[int] = Counter()
        examples = []
        for index, speed in zip(indices, speeds.tolist(), strict=True):
            examples.append(Example(index, speed, seen[index]))
            seen[index] += 1
        order_rng = self._rng(epoch, ORDER_STREAM)
        keys = durations
        if self.training:
            keys = durations * order_rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(durations))
        batches: list[list[Example]] = []
        longest = 0.0
        for place in np.argsort(keys, kind="stable").tolist():
            longest = max(longest, durations[place])
            if not batches or longest * (len(batches[-1]) + 1) > self.config.data.batch_s:
                batches.append([])
                longest = durations[place]
            batches[-1].append(examples[place])
        if self.training and not (self.config.data.shortest_first and epoch == 0):
            order_rng.shuffle(batches)
        return batches

    def batch(self, examples: Sequence[Example], epoch: int) -> Batch | None:
        """Read and assemble one batch; utterances that cannot be read are named to ``warn``; ``None`` if all fail."""
        config = self.config
        rate = config.features.sample_rate_hz
        streams = (MASK_STREAM, VIEW_STREAM) if config.train.consistency else (MASK_STREAM,)
        good: list[tuple[str, np.ndarray, list[int], list[np.ndarray], np.ndarray]] = []
        for example in examples:
            utterance = self.utterances[example.index]
            try:
                spliced = self._spliced(example, epoch) if self.splicer is not None else None
                samples, label = spliced or (self.samples(example.index), self.labels[example.index])
                samples = distort.change_speed(samples, rate, example.speed)
                if self.distort is not None:
                    distorted = self.distort(samples, self._rng(epoch, DISTORT_STREAM, example.index, example.repeat))
                    # Cut off at the ends, an utterance may be too short for its label: then it stays as it is.
                    if not self._misfit(len(distorted) / rate, label):
                        samples = distorted
            except AudioError as error:
                self.warn(f"{utterance.id}: left out of this batch: {error}")
                continue
            if reason := self._misfit(len(samples) / rate, label):
                self.warn(f"{utterance.id}: left out of this batch: {reason}")
                continue
            masks: list[np.ndarray] = []
            colours = np.zeros(3, dtype=np.float32)
            if self.training:
                frames = count_frames(len(samples), config.features)
                for stream in streams:
                    rng = self._rng(epoch, stream, example.index, example.repeat)
                    masks.append(distort.draw_masks(frames, config.features.mel_bins, config.augment, rng))
                colours = distort.draw_colour(
                    config.augment, self._rng(epoch, COLOUR_STREAM, example.index, example.repeat)
                )
            good.append((utterance.id, samples, label, masks, colours))
        if not good:
            return None
        lengths = [len(samples) for _, samples, *_ in good]
        # In numpy: torch would start a second team of threads here, to compete with the one that trains.
        padded = np.zeros((len(good), max(lengths)), dtype=np.float32)
        for row, (_, samples, *_) in enumerate(good):
            padded[row, : len(samples)] = samples
        labels = [label for _, _, label, *_ in good]
        return Batch(
            ids=tuple(name for name, *_ in good),
            samples=torch.from_numpy(padded),
            lengths=torch.tensor(lengths),
            tokens=torch.tensor([token for label in labels for token in label], dtype=torch.int64),
            token_lengths=torch.tensor([len(label) for label in labels]),
            masks=tuple(
                torch.from_numpy(np.stack(view)) for view in zip(*(masks for *_, masks, _ in good), strict=True)
            ),
            colours=torch.from_numpy(np.stack([colours for *_, colours in good])),
        )

    def _spliced(self, example: Example, epoch: int) -> tuple[np.ndarray, list[int]] | None:
        """Sound and label that replace an utterance's in this epoch; ``None`` where it stays. Raises ``AudioError``."""
        assert self.splicer is not None
        rng = self._rng(epoch, SPLICE_STREAM, example.index, example.repeat)
        if rng.random() >= self.config.augment.splice_prob:
            return None
        utterance = self.utterances[example.index]
        pieces = self.splicer.choose(utterance, rng)
        label = self.tokenizer.encode(splice.joined_text(pieces), utterance.id)
        rate = self.config.features.sample_rate_hz
        # Pieces are cut tightly: what they say may need more frames than they have.
        if not pieces or self._misfit(sum(piece.duration_s for piece in pieces) / example.speed, label):
            return None
        return splice.join_pieces([self._read(piece) for piece in pieces], rate), label

    def batches(self, plan: Iterable[Sequence[Example]], epoch: int) -> Iterator[Batch | None]:
        """The batches of an epoch's ``plan``, or of a part of it, prepared ahead by ``data.workers`` threads."""
        make = functools.partial(self.batch, epoch=epoch)
        return prefetch(make, plan, self.config.data.prefetch, self.config.data.workers)


def prefetch(make: Callable[[_S], _T], items: Iterable[_S], depth: int, workers: int) -> Iterator[_T]:
    """``make(item)`` of every item, in order, up to ``depth`` of them ahead in threads; errors are raised here."""
    pending: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
