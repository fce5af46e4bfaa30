"""Transcribes an archive into parts (``asr.recognize.result_parts``): on this machine, by torchrun, or on Ray."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr.config.ranks import processes
from asr.errors import AsrError, AudioError, ConfigError, OutputError
from asr.recognize import batch, ray_engine, recognizer
from asr.recognize.batch import Outcome
from asr.recognize.batch_inputs import Job, find_jobs, message
from asr.recognize.pipeline import Result
from asr.recognize.ray_stages import ERROR, LINE, NamedRecording, RayResult, fault_of_ours, pickle_error, result_line
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording
from asr.recognize.result_parts import Parts
from asr.recognize.run_identity import describe_run

ENGINES = ("local", "ray")
MOST_ALONE = 1000
"""Recordings that are recognised each alone after a fault, until the one at fault is found."""
MOST_FAULTS = 20
"""Recordings in a row that end by a fault of ours. Then nothing works, and the run ends."""
MOST_DOUBTS = 100
"""Doubts that are kept for messages; the parts have ``reliable`` for each recording."""

Results = Callable[[Sequence[NamedRecording]], Iterator[RayResult]]


def transcribe_archive(
    inputs: Sequence[str],
    output: str | Path,
    *,
    engine: str = "local",
    jobs: int | None = None,
    ray_address: str | None = None,
    parts: str = "jsonl",
    part_recordings: int = 1000,
    resume: bool = False,
    force: bool = False,
    split_channels: bool = False,
    readers: int | None = 0,
    **options: Any,
) -> Outcome:
    """Transcribe files, folders and manifests into a folder of parts, every recording once by its id.

    Under ``torchrun``, or with RANK and WORLD_SIZE, each process takes its share. Such a process leaves out what is in
    the folder already, as with ``resume``.

    Args:
        inputs: see ``asr.recognize.batch_inputs.find_jobs``. The id of a recording is that of its manifest, or its path
            relative to its folder.
        output: the folder, or its URL (extra ``cloud``). Its files are described in ``asr.recognize.result_parts``.
        engine: ``local``: this machine. ``ray``: Ray at ``ray_address``; see ``asr.recognize.ray_engine.RayEngine``.
        jobs: processes with a model. None: one on this machine; on Ray one for each GPU or else each processor.
        parts: ``jsonl``, or ``parquet``, which needs pyarrow.
        part_recordings: recordings of a part; after 60 seconds it has fewer.
        resume: leave out recordings that have a result. Those that failed are tried again.
        force: replace the results of an earlier run. Not under ``torchrun``.
        split_channels, readers: see ``asr.recognize.batch.transcribe_files``.
        options: of ``asr.load``, such as ``model="an4"``.

    Returns the counts. ``failures.jsonl`` and ``summary.json`` in the folder have them too.

    Raises ``ConfigError`` for an id that two recordings have, and for options that cannot be; ``OutputError`` for a
    folder with other results.
    """
    started = time.perf_counter()
    rank, size = processes()
    _check(engine, jobs, parts, size)
    if force and size > 1:
        raise ConfigError(
            f"force: expected one process, got {size} (WORLD_SIZE), each of which would remove what others wrote; "
            "remove the folder or choose another, and leave --force out"
        )
    found, broken = find_jobs(inputs, split_channels=split_channels, max_duration_s=options.get("max_duration_s"))
    _check_ids(found, parts)
    share = [job for job in found if size == 1 or job.place % size == rank]
    run, model = _runner(engine, jobs or 1 if engine == "local" else jobs, ray_address, readers, options)
    identity = describe_run(model) | {"precision": options.get("precision") or "fp32"}
    folder = Parts(
        output, identity, format=parts, resume=resume, force=force, shared=size > 1, part_recordings=part_recordings
    )
    suffix = "" if size == 1 else f".{rank + 1}-of-{size}"
    outcome = Outcome()
    failures = [("", text) for text in broken] if rank == 0 else []
    with folder:
        work = [job for job in share if job.id not in folder.done]
        outcome.skipped = len(share) - len(work)
        try:
            _transcribe(run, work, folder, outcome, failures)
        finally:
            folder.flush()
            folder.write_failures(failures, f"failures{suffix}.jsonl")
            outcome.failures = [text for _, text in failures]
            outcome.seconds = time.perf_counter() - started
            summary = json.dumps(outcome.to_dict(), indent=2, ensure_ascii=False) + "\n"
            folder.write_file(f"summary{suffix}.json", summary)
    return outcome


def _check(engine: str, jobs: int | None, parts: str, size: int) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: expected 1 or more, got {jobs}")
    if engine == "ray" and size > 1:
        raise ConfigError("engine ray: expected one process, got several (WORLD_SIZE); Ray itself uses all machines")
    if parts == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError("parts parquet: expected pyarrow, got no such package; install the extra: pip install "
                              "'recurrent-asr[ray]'") from error  # fmt: skip


def _check_ids(jobs: Sequence[Job], parts: str) -> None:
    """Raise ``ConfigError`` for two recordings with one id, and for an id that parts of this format cannot hold."""
    known: dict[str, Job] = {}
    for job in jobs:
        if parts == "parquet" and not _is_utf8(job.id):
            raise ConfigError(
                f"parts parquet: expected ids in UTF-8, got {job.id!r}; rename the file, or use --parts jsonl"
            )
        if (other := known.setdefault(job.id, job)) is not job:
            names = [str(one.item.source if isinstance(one.item.source, str | os.PathLike) else one.item.name)
                     for one in (other, job)]  # fmt: skip
            raise ConfigError(
                f"expected each id once, got {job.id!r} for {names[0]} and for {names[1]}; results are kept by id: "
                "leave one out, or write a manifest with other ids"
            )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # from the name of a file in another encoding
        return False
    return True


def _runner(
    engine: str, jobs: int | None, address: str | None, readers: int | None, options: dict[str, Any]
) -> tuple[Results, Recognizer]:
    """What transcribes, and its model on this machine."""
    if engine == "ray":
        on_ray = ray_engine.RayEngine(options, address=address, actors=jobs)
        return lambda work: on_ray.results(work, lines=True), on_ray.recognizer
    model = recognizer.load(**options)
    source = model if jobs == 1 else options

    def run(work: Sequence[NamedRecording]) -> Iterator[RayResult]:
        items = [named.recording for named in work]
        found = _surviving(
            items, lambda part: batch.local_results(source, part, jobs or 1, readers, progress=False),
            lambda one: next(iter(model.transcribe_many([one]))),
        )  # fmt: skip
        with contextlib.closing(found) as results:
            for index, (recording, result) in enumerate(results):
                if isinstance(result, AudioError):
                    yield RayResult(index, ERROR, pickle_error(result), 0.0, "")
                    continue
                line = result_line(work[index].id, recording, result)
                yield RayResult(index, LINE, line, result.duration_s, result.doubt)

    return run, model


def _surviving(
    items: Sequence[Recording],
    together: Callable[[Sequence[Recording]], Generator[Result, None, None]],
    alone: Callable[[Recording], Result],
) -> Generator[Result, None, None]:
    """Results of all items in order, through ``together``; where a fault of ours ends that, some each ``alone``.

    The one at fault is then a failure with the reason, and ``together`` goes on behind it. Raises ``AsrError`` after
    ``MOST_FAULTS`` of them in a row.
    """
    done = faults = 0
    while done < len(items):
        try:
            with contextlib.closing(together(items[done:])) as results:
                for result in results:
                    yield result
                    done, faults = done + 1, 0
            return
        except AsrError:
            raise
        except Exception:  # which recording of the batch it is of is not known
            for item in items[done : done + MOST_ALONE]:
                done += 1
                try:
                    result = alone(item)
                except AsrError:
                    raise
                except Exception as error:
                    faults += 1
                    fault = fault_of_ours(item.name, pickle_error(error))
                    if faults == MOST_FAULTS:
                        raise AsrError(
                            f"{faults} recordings in a row failed; the last, {fault}; continue with --resume"
                        ) from error
                    yield item, fault
                    break
                yield result
                faults = 0


def _transcribe(
    run: Results, jobs: Sequence[Job], folder: Parts, outcome: Outcome, failures: list[tuple[str, str]]
) -> None:
    """Results of all jobs into the folder, counted in ``outcome``; the others into ``failures``."""
    work = [NamedRecording(job.id, job.item) for job in jobs]
    total = len(work) + outcome.skipped
    bar = tqdm(total=total, initial=outcome.skipped, desc="transcribing", unit="file", disable=not work or None)
    with bar, contextlib.closing(run(work)) as results:  # type: ignore[type-var]
        for result in results:
            job = jobs[result.number]
            bar.update()
            if result.kind == ERROR:
                failures.append((job.id, message(job.item, pickle.loads(result.body))))
                continue
            if not folder.add(job.id, result.body):
                raise OutputError(f"{folder.folder}: {job.id!r} was recognised twice: please report this")
            if result.doubt and len(outcome.doubts) < MOST_DOUBTS:
                outcome.doubts.append(result.doubt)
            outcome.done += 1
            outcome.audio_s += result.audio_s
            bar.set_postfix_str(f"{outcome.audio_s / 3600:.1f} h", refresh=False)
