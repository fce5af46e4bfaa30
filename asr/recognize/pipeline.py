"""Windows of recordings on their way through network and search: batches of similar length, results in order."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeAlias

import numpy as np

from asr.errors import AudioError
from asr.models.inference import Counts, Posteriors
from asr.recognize.engine import Engine
from asr.recognize.readers import ReadRecording
from asr.recognize.recording import Recording, source_name
from asr.transcript import Transcript

_AHEAD = 2
"""Batches that the network may be ahead of the search: each holds its log-probabilities."""

Decode: TypeAlias = Callable[[list[np.ndarray], list[str], Posteriors, Counts], list[Transcript]]
"""Waveforms, names, log-probabilities ``(B, T, V)`` and valid frames ``(B,)`` -> transcripts."""
Result: TypeAlias = "tuple[Recording, Transcript | AudioError]"
_Part: TypeAlias = "tuple[AudioError | list[Transcript] | Future[list[Transcript]], int]"
"""The transcripts of a batch, or their future, or an error; and which of the transcripts."""


def cut_batches(waveforms: Mapping[int, np.ndarray], most_samples: Callable[[], float]) -> Iterator[list[int]]:
    """Keys of waveforms ``(S,)`` in batches of similar length, shortest first.

    ``most_samples``: padded samples of a batch; asked before each, since it may change. A batch holds one at least.
    """
    waiting = deque(sorted(waveforms, key=lambda key: len(waveforms[key])))
    while waiting:
        limit = most_samples()
        batch = [waiting.popleft()]
        while waiting and len(waveforms[waiting[0]]) * (len(batch) + 1) <= limit:
            batch.append(waiting.popleft())
        yield batch


class Pipeline:
    """Recognises windows of recordings.

    With ``overlap`` a thread decodes a batch while the network computes the next, and the transcripts of a window come
    with the window after it. Without it nothing is kept.
    """

    def __init__(self, engine: Engine, decode: Decode, *, overlap: bool) -> None:
        self._engine = engine
        self._decode = decode
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decoding") if overlap else None
        self._decoding: deque[Future[list[Transcript]]] = deque()
        self._windows: deque[Iterator[Result]] = deque()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def accept(self, window: Sequence[ReadRecording]) -> Iterator[Result]:
        """Take a window; gives the results of those before it that are due."""
        self._windows.append(self._results(window, self._begin(window)))
        while len(self._windows) > (0 if self._pool is None else 1):
            yield from self._windows.popleft()

    def finish(self) -> Iterator[Result]:
        """The results that are still to come."""
        while self._windows:
            yield from self._windows.popleft()

    def _begin(self, window: Sequence[ReadRecording]) -> dict[int, _Part]:
        waveforms = {i: samples for i, (_, samples) in enumerate(window) if not isinstance(samples, AudioError)}
        names = [recording.name or source_name(recording.source) for recording, _ in window]
        found: dict[int, _Part] = {}
        for batch in cut_batches(waveforms, lambda: self._engine.batch_s * self._engine.sample_rate_hz):
            found |= self._run(batch, waveforms, names)
        return found

    def _run(self, batch: list[int], waveforms: Mapping[int, np.ndarray], names: Sequence[str]) -> dict[int, _Part]:
        part = [waveforms[index] for index in batch]
        while len(self._decoding) >= _AHEAD:
            wait([self._decoding.popleft()])
        try:
            fetch = self._engine.begin_log_probs(part)
        except AudioError as error:  # no memory for one recording: the others are transcribed
            if len(batch) == 1:
                return {batch[0]: (error, 0)}
            alone = (self._run([index], waveforms, names) for index in batch)
            return functools.reduce(lambda one, other: one | other, alone)

        def decode() -> list[Transcript]:
            return self._decode(part, [names[index] for index in batch], *fetch())

        if self._pool is None:
            made = decode()
            return {index: (made, row) for row, index in enumerate(batch)}
        future = self._pool.submit(decode)
        self._decoding.append(future)
        return {index: (future, row) for row, index in enumerate(batch)}

    def _results(self, window: Sequence[ReadRecording], found: Mapping[int, _Part]) -> Iterator[Result]:
        for index, (recording, samples) in enumerate(window):
            if isinstance(samples, AudioError):
                yield recording, samples
                continue
            made, row = found[index]
            if isinstance(made, Future):
                made = made.result()
            yield recording, made if isinstance(made, AudioError) else made[row]
