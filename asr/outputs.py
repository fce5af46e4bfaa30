"""A folder of transcripts: what each recording's file is called, and which files an earlier run has written.

A line of ``RECORD`` names each transcript, the recording that it is of, and its content. So the same command may run
again, while a file that somebody else wrote, or has corrected by hand, is not written over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from asr.errors import ConfigError, OutputError
from asr.files import write_text

RECORD = ".asr-transcripts.jsonl"
SUMMARY = "summary.json"


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
    """The folder, which is made where it is missing, with what is recorded of it.

    Raises ``ConfigError`` where it cannot be made, and ``OutputError`` where the record cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot make the output folder: {error}") from error
        self.path = path
        self._record = path / RECORD
        self._known: dict[str, dict[str, Any]] = {}
        try:
            lines = self._record.read_bytes().split(b"\n") if os.path.lexists(self._record) else []
        except OSError as error:
            raise OutputError(f"{self._record}: cannot read which transcripts are ours: {error.strerror}") from error
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # the last line of a run that was killed
                continue
            if isinstance(entry, dict) and isinstance(entry.get("file"), str):
                self._known[entry["file"]] = entry

    def done(self, recording: PurePath, path: PurePath, suffix: str) -> bool:
        """Whether the recording's transcript is there under ``path`` or under the other form of its name.

        The short form may be another recording's: it counts where the record says that it is this one's.
        """
        if os.path.lexists(self.path / path):
            return True
        other = short(recording, suffix)
        if other == path:
            return os.path.lexists(self.path / full(recording, suffix))
        entry = self._known.get(other.as_posix(), {})
        return entry.get("of") == recording.as_posix() and os.path.lexists(self.path / other)

    def check(self, paths: Sequence[PurePath], summary: str) -> None:
        """Raise ``OutputError`` where writing would replace what an earlier run did not write, or not so."""
        foreign = [path for path in paths if os.path.lexists(self.path / path) and not self._is_ours(path)]
        if foreign:
            more = f" ({len(foreign) - 1} more)" if len(foreign) > 1 else ""
            raise OutputError(
                f"{self.path / foreign[0]}{more}: expected no transcript yet or one of an earlier run, got a file that "
                "this command did not write, or that was changed since; --resume leaves out what is there, --force "
                "writes over it, or choose another output folder"
            )
        if os.path.lexists(self.path / summary) and not _is_summary(self.path / summary):
            raise OutputError(
                f"{self.path / summary}: expected the summary of an earlier run, got another file; --force writes over "
                "it, or choose another output folder"
            )

    def write(self, recording: PurePath, path: PurePath, body: str) -> None:
        """Write a transcript, and before it the line that says so. Raises ``AsrError`` or ``OSError``."""
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(body.encode("utf-8")).hexdigest()
        entry = {"file": path.as_posix(), "of": recording.as_posix(), "sha256": digest}
        if self._known.get(entry["file"]) != entry:
            # One write at the file's end: several processes may share the folder. A line cut short by a kill ends here.
            with self._record.open("ab") as file:
                file.write(b"\n" * bool(file.tell()) + json.dumps(entry).encode())
            self._known[entry["file"]] = entry
        write_text(self.path / path, body)

    def _is_ours(self, path: PurePath) -> bool:
        entry = self._known.get(path.as_posix())
        if entry is None or not os.path.isfile(self.path / path):
            return False
        try:
            with open(self.path / path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == entry.get("sha256")
        except OSError:
            return False


def _is_summary(path: Path) -> bool:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and {"done", "skipped", "failures", "real_time_factor"} <= tree.keys()
