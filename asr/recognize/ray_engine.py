"""Transcribes many recordings on a Ray cluster: tasks read, actors with a warm model recognise.

Ray Data bounds what waits between the stages. Every recording is counted here by its number: results of tasks that
ran twice are dropped, and recordings whose tasks were lost are sent again.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.audio.archive_index import MemberPath
from asr.audio.archive_members import is_streamed
from asr.cloud.addresses import is_url
from asr.errors import AsrError, AudioError, ConfigError
from asr.recognize import long_audio, ray_cluster, ray_stages, recognizer
from asr.recognize.options import PLACES
from asr.recognize.pipeline import Result
from asr.recognize.ray_cluster import Capacity
from asr.recognize.ray_stages import (
    ERROR,
    BlockReader,
    NamedRecording,
    RayRecognizer,
    RayResult,
    fault_of_ours,
    is_fault,
)
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording

BATCHES = 4
"""Batches of the network in a block: they are cut out of it by length."""
BLOCK_ROWS = 64
"""Recordings that a task reads."""
BLOCKS_PER_ACTOR = 8
"""Blocks for each actor, at least, so that all end at about the same time."""
WINDOW = 500_000
"""Recordings of one execution of Ray Data: so many are in memory at once."""
ROUNDS = 3
"""Times that a recording is sent: its tasks may be lost with their machine, or its audio may end the process."""
ALONE = 2000
"""Most recordings that are sent again each in a block of its own, so that one that ends a process fails alone."""
STALL_S = 4 * 3600
"""Seconds without a result after which work ends: a recording of a day takes less."""
BASE_BYTES = 600_000_000
"""Memory of a process beside the weights: the interpreter, the libraries, a batch."""
SAMPLE_PATHS = 16
"""Number of inputs that each machine must find in the check before the work."""


class RayEngine:
    """Recognition on a Ray cluster.

    Args:
        options: arguments of ``asr.load``, for every actor.
        address: see ``asr.recognize.ray_cluster.connected``.
        actors: processes with a model; None: one for each GPU of the cluster, else one for each processor.

    Raises ``ConfigError`` where Ray is not installed, and as ``asr.load``: the model is loaded here once.
    """

    def __init__(self, options: dict[str, Any], *, address: str | None = None, actors: int | None = None) -> None:
        ray_cluster.require_ray()
        self.options = _absolute(options)
        self.address, self.actors = address, actors
        self.recognizer: Recognizer = recognizer.load(**self.options | {"device": "cpu"})
        """The model on this machine, which says how recordings are read."""

    def transcribe_many(self, sources: Iterable[Any]) -> Iterator[Result]:
        """Each recording with its transcript or its error, in no particular order; as ``Recognizer.transcribe_many``.

        Raises ``ConfigError`` for recordings that are no files, or for a cluster that cannot be used.
        """
        recordings = [Recording.of(source) for source in sources]
        named = [NamedRecording(recording.name, recording) for recording in recordings]
        for result in self.results(named, lines=False):
            yield recordings[result.number], pickle.loads(result.body)

    def results(self, work: Sequence[NamedRecording], *, lines: bool) -> Iterator[RayResult]:
        """A result for each recording, once, in no particular order: a transcript, or with ``lines`` its line of JSON,
        or an ``AudioError``.

        Raises ``ConfigError`` as ``transcribe_many``, and ``AsrError`` where no process could load the model.
        """
        work = [_placed(named) for named in work]
        if not work:
            return
        with ray_cluster.connected(self.address):
            ray_cluster.check_nodes(self._paths(work))
            room = self._room()
            for start in range(0, len(work), WINDOW):
                window = dict(enumerate(work[start : start + WINDOW], start))
                yield from self._window(window, room, lines)

    def _room(self, former: Capacity | None = None) -> Capacity:
        """The room on the machines that are there now; ``former``, where there is none now or of another kind."""
        device = str(self.options.get("device") or "auto")
        try:
            found = ray_cluster.capacity(device, self._memory_bytes(), self.actors)
        except ConfigError:
            if former is None:
                raise
            return former
        return found if former is None or found.gpu == former.gpu else former

    def _window(
        self, waiting: dict[int, NamedRecording], room: ray_cluster.Capacity, lines: bool
    ) -> Iterator[RayResult]:
        from ray.data.exceptions import ExecutionTimeoutError
        from ray.exceptions import RayError

        reason = ""
        for attempt in range(ROUNDS):
            before, fault = len(waiting), b""
            alone = attempt > 0 and before <= ALONE
            if attempt:  # a machine that has gone leaves no place for its processes: Ray would wait for one
                room = self._room(room)
            try:
                for result in self._round(waiting, room, lines, alone=alone):
                    if is_fault(result) and not alone and attempt < ROUNDS - 1:
                        fault = result.body
                        continue  # another one of its batch may be at fault: each is sent again
                    if (named := waiting.pop(result.number, None)) is None:
                        continue  # the task ran twice
                    yield _listed(result, named)
            except ExecutionTimeoutError as error:
                raise AsrError(
                    f"Ray gave no result for {STALL_S / 3600:g} hours: machines are gone, or have no free memory "
                    "(ray status on the head shows both); continue with the same command and --resume"
                ) from error
            except RayError as error:
                reason = " ".join(re.sub("\x1b\\[[0-9;]*m", "", str(error)).split())  # without colours
                reason = reason if len(reason) < 400 else f"{reason[:100]} … {reason[-250:]}"
                if attempt and len(waiting) == before:
                    raise AsrError(
                        f"processes with the model die before they recognise anything: {reason}; if memory ran out, "
                        "use fewer --jobs, larger machines or a smaller model; continue with the same command and "
                        "--resume"
                    ) from error
            if not waiting:
                return
            if fault and len(waiting) == before > ALONE:
                raise AsrError(
                    f"a fault of this program ended the recognition of all {before} recordings: {pickle.loads(fault)}; "
                    "please report it, and continue with --resume"
                )
        for index, named in waiting.items():
            died = AudioError(
                f"{named.id}: the process that transcribed it died, {ROUNDS} times (out of memory?)"
                f"{f': {reason}' if reason else ''}; use fewer --jobs, or transcribe this recording alone"
            )
            yield RayResult(index, ERROR, pickle.dumps(died), 0.0, "")

    def _round(
        self, waiting: Mapping[int, NamedRecording], room: Capacity, lines: bool, *, alone: bool
    ) -> Iterator[RayResult]:
        """One execution of Ray Data over what is waiting; what is lost on the way is missing."""
        import ray.data

        batch_s = self.recognizer.batch_s if not room.gpu else self.options.get("batch_s") or 800.0
        block_s = BATCHES * batch_s
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # their recordings are missed and sent again
        context.max_consecutive_actor_init_deaths = 0  # an actor has counted its own: ray_stages.STARTS
        context.execution_no_progress_timeout_s = STALL_S
        context.target_max_block_size = round(block_s * self.recognizer.sample_rate_hz * 4)
        rows = 1 if alone else max(1, min(BLOCK_ROWS, -(-len(waiting) // (BLOCKS_PER_ACTOR * room.actors))))
        tables = [ray_stages.work_table(part) for part in _cut(waiting.items(), rows, together=not alone)]
        actors = min(room.actors, len(tables))
        with ray.data.DataContext.current(context):
            # from_arrow would start tasks that wait for processors which the actors of the round before may still hold.
            read = ray.data.from_blocks(tables).map_batches(
                BlockReader(self.recognizer.reader, block_s, long_audio.LONG_S),
                batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=ray_cluster.READER_CPUS,
                max_retries=3, concurrency=None if room.gpu else max(2, actors),
            )  # fmt: skip
            found = read.map_batches(
                RayRecognizer, fn_constructor_args=(self.options, lines, None if room.gpu else 1),
                batch_size=None, batch_format="pyarrow", zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1 if alone else 2),
                num_cpus=1 - ray_cluster.READER_CPUS, num_gpus=1 if room.gpu else 0, memory=self._memory_bytes(),
                # No retries: a retry waits for its own actor, and one of a machine that has gone may never start again.
                max_restarts=100, max_task_retries=0,
            )  # fmt: skip
            for table in found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from ray_stages.results_of(table)

    def _memory_bytes(self) -> int:
        """Memory that a process with the model needs, about: the weights twice, as files and as tensors."""
        models = [self.recognizer, *self.recognizer.also]
        files = [file for one in models for file in Path(one.model.path).rglob("*") if os.path.isfile(file)]
        return BASE_BYTES + 2 * sum(os.path.getsize(file) for file in files)

    def _paths(self, work: Sequence[NamedRecording]) -> list[str]:
        """Files that every machine should see: the model's, and some of the recordings."""
        chosen = random.Random(0).sample(range(len(work)), min(SAMPLE_PATHS, len(work)))
        paths = [_file_of(work[index].recording.source) for index in sorted(chosen)]
        paths += [str(one.model.path) for one in (self.recognizer, *self.recognizer.also)]
        paths += [value for name in PLACES if isinstance(value := self.options.get(name), str)]
        return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def _listed(result: RayResult, named: NamedRecording) -> RayResult:
    """The result; a fault of this package as a failure of the recording."""
    return result._replace(body=pickle.dumps(fault_of_ours(named.id, result.body))) if is_fault(result) else result


def _placed(named: NamedRecording) -> NamedRecording:
    """The recording by a path that does not depend on the working folder."""
    source = named.recording.source
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(
            f"{named.id}: expected a file, which other machines can open, got {type(source).__name__}; write it to a "
            "file first"
        )
    text = os.fspath(source)
    if is_url(text):
        return named
    if isinstance(source, MemberPath):
        member = dataclasses.replace(source.member, archive=os.path.abspath(source.member.archive))
        return named._replace(
            recording=dataclasses.replace(named.recording, source=MemberPath(os.path.abspath(text), member))
        )
    return named._replace(recording=dataclasses.replace(named.recording, source=os.path.abspath(text)))


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Options whose paths do not depend on the working folder."""

    def absolute(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(absolute, value))
        if isinstance(value, str | os.PathLike) and value and os.path.exists(value):
            return os.path.abspath(value)
        return value

    named = {"model", "also", *PLACES}
    return {name: absolute(value) if name in named else value for name, value in options.items()}


def _cut(
    items: Iterable[tuple[int, NamedRecording]], size: int, *, together: bool = True
) -> Iterator[list[tuple[int, NamedRecording]]]:
    """Parts of ``size`` recordings; ``together``: those of a compressed archive, which one task reads in their order,
    are one part."""

    def streamed(item: tuple[int, NamedRecording]) -> str:
        source: Any = item[1].recording.source if together else None
        return source.member.archive if is_streamed(source) else ""

    for archive, group in itertools.groupby(items, streamed):
        while part := list(group if archive else itertools.islice(group, size)):
            yield part


def _file_of(source: Any) -> str:
    return source.member.archive if isinstance(source, MemberPath) else str(source)
