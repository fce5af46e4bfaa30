"""What is to be transcribed: the recordings behind file names, folders, manifests, archives and standard input."""

from __future__ import annotations

import dataclasses
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from asr.audio import find, pipes, read, sound_files
from asr.audio.archive_index import find_member, read_index, split_archive
from asr.audio.headers import HEAD_BYTES, STDIN_NAME, known
from asr.cloud.addresses import is_url, url_name, without_secrets
from asr.data import manifest
from asr.errors import AsrError, AudioError
from asr.files import AUDIO_SUFFIXES, FILM_SUFFIXES
from asr.recognize import output_folder
from asr.recognize.recording import Recording

STDIN = "-"


@dataclass(frozen=True)
class Job:
    """One recording and the path of its transcript, relative to the output folder and without suffix.

    ``id``: the utterance's id, or the file's path relative to its folder. ``place``: decides which of several processes
    takes it; the same number in each, also where files come and go in a folder that they list one after the other.
    """

    item: Recording
    output: Path
    id: str = ""
    place: int = 0

    @property
    def recording(self) -> output_folder.SourceEntry:
        """What its transcript is of."""
        return output_folder.SourceEntry(self.output, self.item.source)


def find_jobs(
    inputs: Sequence[str],
    *,
    split_channels: bool = False,
    raw_rate_hz: int | None = None,
    max_duration_s: float | None = None,
) -> tuple[list[Job], list[str]]:
    """The recordings behind file names, folders (searched in depth), manifests (``.jsonl``), archives (zip, tar,
    compressed tar, a range of them) and ``-`` (standard input).

    All but the last may be at URLs (see ``asr.cloud``). A path may lead through an archive to a recording, a folder or
    a manifest in it (``calls.zip/2026``). A folder without recordings stands for the archives in it.
    ``split_channels`` makes a job of each channel. Standard input that begins as an audio file does is one; else it
    holds raw samples (16 bits, signed, little-endian, mono) at ``raw_rate_hz``. Pipes are read at once, no further than
    ``max_duration_s``. Returns the jobs in order and a message for each input that holds none.
    """
    jobs: list[Job] = []
    failures: list[str] = []
    for place, name in enumerate(inputs):
        try:
            found = _jobs(name, raw_rate_hz, max_duration_s, failures)
            jobs += [dataclasses.replace(job, place=place + job.place) for job in found]
        except AsrError as error:
            failures.append(str(error))
    if not split_channels:
        return jobs, failures
    split: list[Job] = []
    for job in jobs:
        try:
            split += _channels(job)
        except AudioError as error:
            failures.append(message(job.item, error))
    return split, failures


def _jobs(name: str, raw_rate_hz: int | None, max_duration_s: float | None, failures: list[str]) -> list[Job]:
    if name == STDIN:
        return [Job(_standard_input(raw_rate_hz, max_duration_s), Path("stdin"), "stdin")]
    if (archives := find.input_archives(name)) is not None:
        return _in_archives(archives, failures)
    if (inside := split_archive(name)) is not None and (jobs := _inside_archive(name, *inside, failures)) is not None:
        return jobs
    if is_url(name):
        return _jobs_at_url(name, failures)
    if os.path.isdir(name):
        count = len(failures)
        beside: list[str] = []
        found = find.find_audio_files(name, failures, beside)
        if not found and beside:
            return _in_archives(sorted(beside), failures, name)
        if not found and len(failures) == count:
            raise AudioError(f"{name}: no audio file in this folder")
        _warn_of_archives(name, beside, "name them as inputs")
        return [_in_folder(path, path.relative_to(name)) for path in found]
    if name.endswith(".jsonl"):
        return _in_manifest(name)
    # A pipe can be read once, and only by this process.
    base = Path(name).name
    return [Job(Recording(sound_files.rewindable(name, max_duration_s), name), Path(base), base)]


def _in_folder(path: Path, relative: Path) -> Job:
    name = relative.as_posix()
    return Job(Recording(path, str(path)), relative, name, zlib.crc32(os.fsencode(name)))


def _in_archives(archives: Sequence[str], failures: list[str], folder: str = "") -> list[Job]:
    """The recordings of archives; ``folder``: was named in their place, so that names begin below it."""
    jobs: list[Job] = []
    for archive in archives:
        try:
            jobs += _in_archive(archive, failures, folder=folder)
        except AsrError as error:
            failures.append(str(error))
    return jobs


def _in_archive(archive: str, failures: list[str], *, folder: str = "", below: str = "") -> list[Job]:
    """The recordings of an archive, or of its folder ``below``."""
    count = len(failures)
    nested: list[str] = []
    found = find.find_archived_audio(archive, below, failures, nested)
    if not found and len(failures) == count:
        more = "; it holds archives: unpack it, and name its folder" if nested else ""
        place = f" below {below}" if below else ""
        raise AudioError(f"{without_secrets(archive)}: no audio file in this archive{place}{more}")
    _warn_of_archives(archive, nested, "unpack it, and name them as inputs")
    index = read_index(archive)
    before = f"{archive[len(folder) :].lstrip('/')}/" if folder else ""
    cut = len(below) + 1 if below else 0
    jobs = []
    for path in found:
        name, id = path.member.name, index.utterance_id(path.member.name)
        shown = before + name[cut:]
        item = Recording(path, without_secrets(path))
        jobs.append(Job(item, Path(shown), shown if id == name else id, zlib.crc32(os.fsencode(shown))))
    return jobs


def _warn_of_archives(place: str, archives: Sequence[str], advice: str) -> None:
    """Say which archives beside recordings are left out. They may be what the recordings were unpacked from."""
    if archives:
        count = "an archive" if len(archives) == 1 else f"{len(archives)} archives"
        first = without_secrets(min(archives))
        print(
            f"warning: {without_secrets(place)}: {count} beside the recordings left out ({first}); to read them too, "
            f"{advice}",
            file=sys.stderr,
        )


def _inside_archive(name: str, archive: str, inside: str, failures: list[str]) -> list[Job] | None:
    """What ``name``, a path through an archive, stands for: a manifest, a recording, a folder; None for no archive."""
    inside = inside.rstrip("/")
    if inside.endswith(".jsonl"):
        return _in_manifest(name)
    try:
        path = find_member(name)
    except AudioError:  # no such member: the name of a folder
        return _in_archive(archive, failures, below=inside)
    if path is None:
        return None
    base = PurePosixPath(inside).name
    return [Job(Recording(path, without_secrets(path)), Path(base), base)]


def _in_manifest(name: str) -> list[Job]:
    # Ids may hold anything; as names of files they must stay inside the folder.
    utterances = manifest.read_manifest(name)
    return [Job(Recording.of(u), Path(_file_name(u.id)), u.id, place) for place, u in enumerate(utterances)]


def _jobs_at_url(url: str, failures: list[str]) -> list[Job]:
    from asr.cloud.inputs import is_folder  # what it needs is imported when a URL comes

    if url_name(url).endswith(".jsonl"):
        return _in_manifest(url)
    if url_name(url).lower().endswith(AUDIO_SUFFIXES + FILM_SUFFIXES) or not is_folder(url):
        return [Job(Recording(url, without_secrets(url)), Path(url_name(url)), url_name(url))]
    count = len(failures)
    archives: list[str] = []
    found = find.find_remote_audio(url, failures, archives)
    if not found and archives:
        return _in_archives(sorted(archives), failures, url)
    if not found and len(failures) == count:
        raise AudioError(f"{without_secrets(url)}: no audio file in this folder")
    _warn_of_archives(url, archives, "name them as inputs")
    return [
        Job(Recording(file.url, without_secrets(file.url)), Path(file.path), file.path, zlib.crc32(file.path.encode()))
        for file in found
    ]


def _standard_input(raw_rate_hz: int | None, max_duration_s: float | None) -> Recording:
    """An audio file by its first bytes, else samples at ``raw_rate_hz``."""
    stream = pipes.standard_input()
    head = stream.read(HEAD_BYTES)
    if known(head):
        return Recording(pipes.in_memory(stream, STDIN_NAME, max_duration_s, head), STDIN_NAME)
    if not head:
        raise AudioError(f"{STDIN_NAME}: expected audio, got nothing (0 bytes)")
    if raw_rate_hz is None:
        raise AudioError(
            f"{STDIN_NAME}: expected an audio file, got unknown first bytes {head[:8]!r}; "
            "raw samples (16 bits, signed, little-endian, mono) need --raw-rate HZ"
        )
    samples = pipes.raw_samples(stream, STDIN_NAME, raw_rate_hz, max_duration_s, head)
    return Recording(samples, STDIN_NAME, rate_hz=raw_rate_hz)


def _file_name(id: str) -> str:
    """An utterance's id as the name of a file; the suffix that ``with_suffix`` will replace comes behind it."""
    return "".join("_" if c in '/\\\0:*?"<>|' else c for c in id) + ".id"


def _channels(job: Job) -> list[Job]:
    source = job.item.source
    if isinstance(source, np.ndarray) or job.item.channel is not None:
        return [job]
    count = read.probe_audio(source).channels
    if count == 1:
        return [job]
    jobs = []
    for channel in range(count):
        name = f"{job.item.name} (channel {channel + 1})"
        output = job.output.with_name(f"{job.output.stem}.ch{channel + 1}{job.output.suffix or '.id'}")
        item = dataclasses.replace(job.item, name=name, channel=channel)
        jobs.append(dataclasses.replace(job, item=item, output=output, id=f"{job.id}.ch{channel + 1}"))
    return jobs


def message(item: Recording, error: AsrError | OSError) -> str:
    """The error's text, with the recording's name in front unless it is there already."""
    text = str(error)
    return text if item.name in text else f"{item.name}: {text}"


def encodable(text: str) -> str:
    """``text`` as UTF-8 can hold it: bytes of a file name that are no UTF-8 become ``\\udcXX``, JSON's own escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
