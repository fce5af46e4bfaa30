"""A folder of transcripts: the name of each recording's file, and the files that an earlier run wrote.

A line of ``RECORD`` names each transcript, its recording, and its content. So the same command may run again. A file
from elsewhere, a file corrected by hand, or another recording's transcript is not overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from asr.cloud.addresses import is_url, real_place
from asr.errors import ConfigError, OutputError
from asr.files import write_text

RECORD = ".asr-transcripts.jsonl"
SUMMARY = "summary.json"


class SourceEntry(NamedTuple):
    """The recording of a transcript: ``name`` relative to the output folder, and its source (a path, or not)."""

    name: PurePath
    source: Any = None


def names(recordings: Sequence[tuple[PurePath, str]], suffix: str) -> list[PurePath]:
    """The file of each recording, relative to the folder: its suffix replaced or, where several would share that, the
    new one behind the full name.

    Args:
        recordings: relative path of each, and what messages call it.
        suffix: of the transcripts, without the dot.

    Raises ``ConfigError`` naming two recordings that would share a file.
    """
    found = [short(recording, suffix) for recording, _ in recordings]
    longer = [full(recording, suffix) for recording, _ in recordings]
    counts = Counter(found)
    while any(counts[path] > 1 and path != other for path, other in zip(found, longer, strict=True)):
        found = [other if counts[path] > 1 else path for path, other in zip(found, longer, strict=True)]
        counts = Counter(found)
    taken: dict[PurePath, str] = {PurePath(SUMMARY): "the summary"}
    for path, (_, name) in zip(found, recordings, strict=True):
        if path in taken:
            raise ConfigError(f"{taken[path]} and {name} would both be written to {path}")
        taken[path] = name
    return found


def short(recording: PurePath, suffix: str) -> PurePath:
    """``film.txt`` of ``film.mp4``."""
    return recording.with_suffix(f".{suffix}")


def full(recording: PurePath, suffix: str) -> PurePath:
    """``film.mp4.txt`` of ``film.mp4``."""
    return recording.with_name(f"{recording.name}.{suffix}")


class Folder:
    """The folder and its record; a missing folder is made.

    Raises ``ConfigError`` where it cannot be made, and ``OutputError`` where the record cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot make the output folder: {error}") from error
        self.path = path
        self._record = path / RECORD
        self._known: dict[str, list[dict[str, Any]]] = {}
        """By file, all that was ever written there: a run that was killed may have left what stood there before."""
        try:
            lines = self._record.read_bytes().split(b"\n") if os.path.lexists(self._record) else []
        except OSError as error:
            raise OutputError(f"{self._record}: cannot read the record of transcripts: {error.strerror}") from error
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # the last line of a run that was killed
                continue
            if isinstance(entry, dict) and isinstance(entry.get("file"), str):
                self._known.setdefault(entry["file"], []).append(entry)

    def done(self, recording: SourceEntry, path: PurePath, suffix: str) -> bool:
        """Whether the recording's transcript is there under ``path`` or under the other form of its name.

        A file of another recording does not count, one without a record does. Only the short form may be another's.
        """
        other = short(recording.name, suffix)
        if other == path:
            other = full(recording.name, suffix)
        elif self._owner(other) is None:
            other = path
        return any(os.path.lexists(self.path / each) and not self._other(recording, each) for each in (path, other))

    def check(self, work: Sequence[tuple[SourceEntry, PurePath]], summary: str) -> None:
        """Raise ``OutputError`` where writing would replace what an earlier run did not write, or not so, or not of
        this recording."""
        there = [(recording, path) for recording, path in work if os.path.lexists(self.path / path)]
        foreign = [path for _, path in there if not self._is_ours(path)]
        if foreign and not os.path.lexists(self._record) and _is_summary(self.path / SUMMARY):
            raise OutputError(
                f"{self.path}: an older version of this command wrote these transcripts without a record, so "
                "corrected ones cannot be recognised; keep them with --resume, overwrite them with "
                "--force, or choose another output folder"
            )
        if foreign:
            more = f" ({len(foreign) - 1} more)" if len(foreign) > 1 else ""
            raise OutputError(
                f"{self.path / foreign[0]}{more}: expected no transcript or an unchanged one of an earlier run, "
                "got a file without a record or changed since; keep it with --resume, overwrite it with "
                "--force, or choose another output folder"
            )
        for recording, path in there:
            if other := self._other(recording, path):
                ours = self._place(recording) or recording.name
                raise OutputError(
                    f"{self.path / path}: expected no transcript or one of {ours}, got that of {other}; choose "
                    "another output folder, or overwrite it with --force"
                )
        if os.path.lexists(self.path / summary) and not _is_summary(self.path / summary):
            raise OutputError(
                f"{self.path / summary}: expected the summary of an earlier run, got another file; overwrite it "
                "with --force, or choose another output folder"
            )

    def write(self, recording: SourceEntry, path: PurePath, body: str) -> None:
        """Write a transcript, and before it the line that says so. Raises ``AsrError`` or ``OSError``."""
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(body.encode("utf-8")).hexdigest()
        entry = {"file": path.as_posix(), "of": recording.name.as_posix(), "sha256": digest}
        if place := self._place(recording):
            entry["from"] = place
        known = self._known.setdefault(entry["file"], [])
        if known[-1:] != [entry]:
            # One write at the file's end: several processes may share the folder. A line cut short by a kill ends here.
            with self._record.open("ab") as file:
                file.write(b"\n" * bool(file.tell()) + json.dumps(entry).encode())
            known.append(entry)
        write_text(self.path / path, body)

    def _place(self, recording: SourceEntry) -> str:
        """Where a recording is, from this folder, so that both may be moved together; empty if it is no file."""
        if not isinstance(recording.source, str | os.PathLike):
            return ""
        if is_url(recording.source):
            return real_place(str(recording.source))
        try:
            return Path(os.path.relpath(recording.source, self.path)).as_posix()
        except ValueError:  # on another drive
            return Path(os.path.abspath(recording.source)).as_posix()

    def _other(self, recording: SourceEntry, path: PurePath) -> str:
        """The recording whose transcript is at ``path`` if it is not this one; empty if it is, or if none is known."""
        entry = self._owner(path)
        if entry is None:
            return ""
        name, place, ours = str(entry.get("of")), str(entry.get("from", "")), self._place(recording)
        same = name == recording.name.as_posix() and (not place or not ours or place == ours)
        return "" if same else place or name

    def _owner(self, path: PurePath) -> dict[str, Any] | None:
        """What is recorded of the file: of several entries the last with its content, else the last."""
        entries = self._known.get(path.as_posix(), [])
        if len(entries) < 2:
            return entries[0] if entries else None
        digest = self._digest(path)
        return next((entry for entry in reversed(entries) if entry.get("sha256") == digest), entries[-1])

    def _is_ours(self, path: PurePath) -> bool:
        digest = self._digest(path)
        return digest is not None and any(e.get("sha256") == digest for e in self._known.get(path.as_posix(), []))

    def _digest(self, path: PurePath) -> str | None:
        if not os.path.isfile(self.path / path):
            return None
        try:
            with open(self.path / path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


def _is_summary(path: Path) -> bool:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and {"done", "skipped", "failures", "real_time_factor"} <= tree.keys()
