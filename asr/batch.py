"""Transcribing many files: finding them, naming outputs, reporting failures."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from asr import audio, transcript
from asr.errors import AsrError, AudioError, ConfigError
from asr.files import atomic
from asr.recognizer import Item, Recognizer

STDIN = "-"


@dataclass(frozen=True)
class Job:
    """One recording and, relative to the output folder and without suffix, where its transcript goes."""

    item: Item
    output: Path


def find_jobs(inputs: Sequence[str]) -> tuple[list[Job], list[str]]:
    """The recordings behind file names, folders (searched in depth) and ``-`` (standard input).

    Returns the jobs in order and a message for each input that holds none.
    """
    jobs: list[Job] = []
    failures: list[str] = []
    for name in inputs:
        if name == STDIN:
            jobs.append(Job(Item(io.BytesIO(sys.stdin.buffer.read()), "standard input"), Path("stdin")))
        elif Path(name).is_dir():
            try:
                found = audio.find(name)
            except AudioError as error:
                failures.append(str(error))
                continue
            if not found:
                failures.append(f"{name}: no audio file in this folder")
            jobs += [Job(Item(path, str(path)), path.relative_to(name)) for path in found]
        else:
            jobs.append(Job(Item(name, name), Path(Path(name).name)))
    return jobs, failures


def transcribe_files(
    recognizer: Recognizer,
    inputs: Sequence[str],
    *,
    format: str = "txt",
    output_dir: Path | None = None,
    out: TextIO | None = None,
) -> list[str]:
    """Transcribe files, folders and standard input; write to ``output_dir`` or, without one, to ``out`` (stdout).

    Returns one message per input that failed; the others are written all the same, each as soon as it is ready.
    Raises ``ConfigError`` for an unknown format, two inputs with one output file, subtitles of several recordings
    without an ``output_dir``, or an ``output_dir`` that cannot be made.
    """
    if format not in transcript.FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(transcript.FORMATS)}, got {format!r}")
    jobs, failures = find_jobs(inputs)
    if output_dir is None and format in ("srt", "vtt", "textgrid") and len(jobs) > 1:
        raise ConfigError(f"{format} of {len(jobs)} recordings cannot share one stream: give --output-dir")
    outputs = output_paths(jobs, format, output_dir) if output_dir else []
    if output_dir:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{output_dir}: cannot make the output folder: {error}") from error
    stream = out or sys.stdout
    results = recognizer.transcribe_many(job.item for job in jobs)
    # On a terminal the texts themselves show the progress, and a bar would run through them.
    shown = len(jobs) > 1 and not (output_dir is None and stream.isatty())
    bar = tqdm(results, total=len(jobs), desc="transcribing", unit="file", disable=None if shown else True)
    for index, (item, result) in enumerate(bar):
        if isinstance(result, AudioError):
            failures.append(message(item, result))
            continue
        body = encodable(transcript.FORMATS[format](result))
        if output_dir:
            try:
                outputs[index].parent.mkdir(parents=True, exist_ok=True)
                with atomic(outputs[index]) as path:
                    path.write_text(body, encoding="utf-8")
            except OSError as error:
                failures.append(f"{item.name}: cannot write {outputs[index]}: {error}")
        else:
            prefix = encodable(f"{item.name}: ") if format == "txt" and len(jobs) > 1 else ""
            stream.write(prefix + body)
            stream.flush()
    return failures


def output_paths(jobs: Sequence[Job], format: str, folder: Path) -> list[Path]:
    """Where each transcript goes. Raises ``ConfigError`` naming two recordings that would share a file."""
    taken: dict[Path, str] = {}
    paths = []
    for job in jobs:
        path = folder / job.output.with_suffix(f".{transcript.SUFFIXES.get(format, format)}")
        if path in taken:
            raise ConfigError(f"{taken[path]} and {job.item.name} would both be written to {path}")
        taken[path] = job.item.name
        paths.append(path)
    return paths


def encodable(text: str) -> str:
    """``text`` as UTF-8 can hold it: bytes of a file name that are no UTF-8 become ``\\udcXX``, JSON's own escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def message(item: Item, error: AsrError) -> str:
    """The error's text, with the recording's name in front unless it is there already."""
    text = str(error)
    return text if item.name in text else f"{item.name}: {text}"
