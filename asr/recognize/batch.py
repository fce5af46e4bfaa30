"""Transcribes many files: shares them between processes, names outputs, resumes after interruptions."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path, PurePath
from typing import Any, TextIO

from tqdm import tqdm

from asr import formats
from asr.config import cpus
from asr.config.ranks import processes
from asr.errors import AsrError, AudioError, ConfigError
from asr.files import write_json
from asr.models import bundled
from asr.recognize import output_folder, recognizer
from asr.recognize.batch_inputs import Job, encodable, find_jobs, message
from asr.recognize.fetched_chunks import FetchedChunks
from asr.recognize.pipeline import Result
from asr.recognize.readable_model import missing_tagger
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording
from asr.transcript import Transcript, ctm_name

WRITTEN_FORMATS = ("txt", "srt", "vtt", "json")
CHUNK = 16
"""Recordings that a process takes at a time."""


@dataclass
class Outcome:
    """The result for many recordings.

    ``failures`` has a message for each input without a transcript; ``doubts`` has one for each input whose transcript
    may be unreliable (``Transcript.doubt``).
    """

    done: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    audio_s: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        factor = round(self.seconds / self.audio_s, 6) if self.audio_s else None
        tree = dataclasses.asdict(self) | {"failed": len(self.failures), "real_time_factor": factor}
        return tree | {"audio_s": round(self.audio_s, 3), "seconds": round(self.seconds, 3)}


def transcribe_files(
    engine: Recognizer | dict[str, Any],
    inputs: Sequence[str],
    *,
    format: str = "txt",
    output_dir: Path | None = None,
    out: TextIO | None = None,
    jobs: int = 1,
    resume: bool = False,
    force: bool = False,
    split_channels: bool = False,
    raw_rate_hz: int | None = None,
    written: bool = False,
    readers: int | None = 0,
) -> Outcome:
    """Transcribe files, folders, manifests and standard input; write to ``output_dir`` or else to ``out`` (stdout).

    Each transcript is written as soon as it is ready, also if others fail. At the end ``summary.json`` is written to
    ``output_dir``. Under ``torchrun`` each process takes its share and writes a summary of its own.

    Args:
        engine: a recogniser, or what ``asr.load`` needs to make one (``{"model": ...}``), which ``jobs`` need.
        inputs: see ``find_jobs``, as ``split_channels`` and ``raw_rate_hz``.
        format: a key of ``asr.formats.FORMATS``.
        jobs: processes that share the recordings, each with a model and its part of the CPUs (or ``OMP_NUM_THREADS``).
        resume: leave out recordings whose file is in ``output_dir`` already.
        readers: as for ``Recognizer.transcribe_many``; with ``jobs`` each process reads in threads.
        force: overwrite any file in ``output_dir``. Otherwise only files that an earlier run wrote, and that nobody
            changed since, are replaced (see ``asr.recognize.output_folder``).
        written: txt, srt and vtt get the written text, with case, punctuation and digits; JSON has it always.

    Raises ``ConfigError`` for an unknown format, two inputs with one output file or name in a CTM, subtitles of
    several recordings without an ``output_dir``, or an ``output_dir`` that cannot be made; ``OutputError`` for files of
    somebody else.
    """
    started = time.perf_counter()
    rank, size = processes()
    _check_request(engine, format, output_dir, jobs, resume, size)
    if written:
        _check_written(engine, format)
    longest_s = engine.max_duration_s if isinstance(engine, Recognizer) else engine.get("max_duration_s")
    found, failures = find_jobs(
        inputs, split_channels=split_channels, raw_rate_hz=raw_rate_hz, max_duration_s=longest_s
    )
    outcome = Outcome(failures=failures if rank == 0 else [])
    if output_dir is None and not formats.FORMATS[format].shared and len(found) > 1:
        raise ConfigError(f"{format} cannot hold {len(found)} recordings in one stream; give --output-dir")
    if output_dir is None and format == "ctm":
        _check_names(found)
    summary = output_folder.SUMMARY if size == 1 else f"summary.{rank + 1}-of-{size}.json"
    folder = None
    work: list[tuple[Job, PurePath]] = [(job, job.output) for job in found]
    if output_dir:
        suffix = formats.FORMATS[format].suffix.removeprefix(".")
        names = output_folder.names([(job.output, job.item.name) for job in found], suffix)
        share = [(job, name) for job, name in zip(found, names, strict=True) if job.place % size == rank]
        folder = output_folder.Folder(output_dir)
        work = [(job, path) for job, path in share if not (resume and folder.done(job.recording, path, suffix))]
        outcome.skipped = len(share) - len(work)
        if not force:
            folder.check([(job.recording, path) for job, path in work], summary)
    stream = out or sys.stdout
    # On a terminal the texts themselves show the progress, and a bar would run through them.
    shown = not (output_dir is None and stream.isatty())
    silent = None if shown and len(work) > 1 else True
    named = format == "txt" and len(found) > 1
    items = [job.item for job, _ in work]
    with contextlib.closing(local_results(engine, items, jobs, readers, progress=shown)) as results:
        bar = tqdm(results, total=len(work), desc="transcribing", unit="file", disable=silent)
        for (item, result), (job, path) in zip(bar, work, strict=True):
            try:
                if isinstance(result, AudioError):
                    raise result
                body = _body(item, result.as_written() if written and format != "json" else result, format)
                if folder:
                    folder.write(job.recording, path, body)
            except (AsrError, OSError) as error:
                outcome.failures.append(message(item, error))
                continue
            if not folder:
                stream.write((encodable(f"{item.name}: ") if named else "") + body)
                stream.flush()
            if result.doubt:
                outcome.doubts.append(result.doubt)
            outcome.done += 1
            outcome.audio_s += result.duration_s
    outcome.seconds = time.perf_counter() - started
    if output_dir:
        _write_summary(output_dir / summary, outcome)
    return outcome


def _check_request(
    engine: Recognizer | dict[str, Any], format: str, output_dir: Path | None, jobs: int, resume: bool, size: int
) -> None:
    """Raise ``ConfigError`` for arguments of ``transcribe_files`` that make no sense among ``size`` processes."""
    if format not in formats.FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(formats.FORMATS)}, got {format!r}")
    if jobs < 1:
        raise ConfigError(f"jobs: expected 1 or more, got {jobs}")
    if jobs > 1 and isinstance(engine, Recognizer):
        raise ConfigError("jobs: expected the arguments of asr.load, so that each process can load the model")
    if output_dir is None and resume:
        raise ConfigError("resume: expected an output folder with the finished files, got none; give one")
    if size > 1 and output_dir is None:
        raise ConfigError("several processes (torchrun) cannot share standard output: give an output folder")


def _check_written(engine: Recognizer | dict[str, Any], format: str) -> None:
    """Raise ``ConfigError`` where no written text can be had: in this format, or by this model."""
    if format not in WRITTEN_FORMATS:
        raise ConfigError(
            f"written: expected the format {', '.join(WRITTEN_FORMATS)}, got {format}, which has words as spoken"
        )
    path = engine.model.path if isinstance(engine, Recognizer) else bundled.locate_model(engine.get("model"))
    if bundled.readable_folder(path) is None:
        raise ConfigError(missing_tagger(path))


def _check_names(jobs: Sequence[Job]) -> None:
    """Raise ``ConfigError`` for two recordings that one CTM would call the same, and so make one of them."""
    names: dict[tuple[str, int | None], str] = {}
    for item in (job.item for job in jobs):
        key = ctm_name(item.name), item.channel
        if key in names:
            raise ConfigError(f"{names[key]} and {item.name} would both be {key[0]!r} in one CTM: give --output-dir")
        names[key] = item.name


def _body(item: Recording, result: Transcript, format: str) -> str:
    """What stands in the transcript's file."""
    if item.channel is not None:
        result = dataclasses.replace(result, channel=item.channel + 1)
    return encodable(formats.FORMATS[format].write(result))


def local_results(
    engine: Recognizer | dict[str, Any], items: Sequence[Recording], jobs: int, readers: int | None, *, progress: bool
) -> Generator[Result, None, None]:
    """Each recording with its transcript or error, in order, from this process or from ``jobs`` processes."""
    if jobs > 1 and len(items) > 1:
        assert isinstance(engine, dict)
        yield from _parallel(engine, items, jobs)
        return
    if not items:
        return
    one = engine if isinstance(engine, Recognizer) else recognizer.load(**engine)
    yield from one.transcribe_many(items, progress=progress, readers=readers)


def _parallel(options: dict[str, Any], items: Sequence[Recording], jobs: int) -> Iterator[Result]:
    """Results in order from ``jobs`` processes; what a process that died had in hand fails, and the rest goes on."""
    recognizer.load(**options)  # what is wrong with the model is said here, not by a process that cannot start
    threads = cpus.threads(jobs)
    size = max(1, min(CHUNK, -(-len(items) // jobs)))
    with contextlib.closing(FetchedChunks(items, size)) as chunks:
        yield from _in_processes(options, chunks, jobs, threads)


def _in_processes(options: dict[str, Any], chunks: FetchedChunks, jobs: int, threads: int) -> Iterator[Result]:
    done = 0
    while done < len(chunks):
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), _load_worker, (options, threads))
        futures: deque[Future[list[Result]]] = deque()
        try:
            while done < len(chunks):
                first_is_done = bool(futures) and futures[0].done()
                if (more := done + len(futures)) < len(chunks) and not first_is_done and not (futures and chunks.full):
                    futures.append(pool.submit(_run_worker, chunks.get(more)))
                    continue
                yield from futures.popleft().result()
                chunks.drop(done)
                done += 1
        except BrokenProcessPool:
            # Which recording is at fault is unknown: the first unfinished chunk goes one by one, the rest together.
            pool.shutdown()
            yield from _alone(options, chunks.get(done), threads)
            chunks.drop(done)
            done += 1
        except BaseException:  # interrupted, or nobody wants the rest: what is under way is not waited for
            _end(pool)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(options: dict[str, Any], items: Sequence[Recording], threads: int) -> list[Result]:
    """Each item in a process of its own, so that one that kills it fails alone."""
    results: list[Result] = []
    for item in items:
        with ProcessPoolExecutor(1, get_context("spawn"), _load_worker, (options, threads)) as pool:
            try:
                results += pool.submit(_run_worker, [item]).result()
            except BrokenProcessPool:
                died = AudioError(f"{item.name}: the process that transcribed it died (out of memory?)")
                results.append((item, died))
            except BaseException:
                _end(pool)
                raise
    return results


def _end(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes at once; ``shutdown`` alone would wait for what they have in hand."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


_worker: Recognizer | None = None


def _load_worker(options: dict[str, Any], threads: int) -> None:
    global _worker
    # Ctrl-C reaches all processes of a terminal: the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    cpus.limit(threads)
    _worker = recognizer.load(**options)


def _follow_parent() -> None:
    """End this process when its parent has ended, however that happened: the sentinel is a pipe that breaks."""
    if (parent := parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run_worker(items: Sequence[Recording]) -> list[Result]:
    assert _worker is not None
    return list(_worker.transcribe_many(items))


def _write_summary(path: Path, outcome: Outcome) -> None:
    try:
        write_json(path, outcome.to_dict())
    except AsrError as error:
        outcome.failures.append(str(error))
