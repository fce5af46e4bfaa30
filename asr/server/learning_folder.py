"""The folder of ``asr serve --learn``: corrections that were sent, models made of them, and which one is served.

FOLDER/learning.json        the model that is taught, its weights, and the corrections that were tried
FOLDER/current.txt          the number of the model that is served; 0 is the start
FOLDER/corrections/ID.zip   recordings and texts, as the page's zip has them
FOLDER/models/1, 2, …       model directories of ``asr learn``
FOLDER/reports/1.json       what each learning found
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from asr.audio.archive_index import DAMAGED
from asr.errors import ConfigError, ModelError, OutputError
from asr.files import PART, read_limited, read_object, write_json, write_text

LEARNING_FILE = "learning.json"
CURRENT_FILE = "current.txt"
SERVER_LOCK = ".server-lock"
TEXTS = ("misfits", "left_out", "recognised", "new_words", "refusal", "summary")
"""What of a report has texts of corrections in it."""
_MOST_BYTES = 100


@dataclass(frozen=True)
class StoredCorrections:
    """How much is stored: zips, utterances in them, and bytes."""

    zips: int
    utterances: int
    bytes: int


class LearningFolder:
    """One such folder.

    Args:
        path: where it is.
        model: name or directory of the model that is taught; empty where only the served number is changed.
        weights: checksum of its weights. Where they are others than before, the start is served, and all corrections
            are learnt anew.
        create: make what is missing.

    Raises:
        ConfigError: the folder belongs to another model, or is none of these.
        OutputError: it cannot be written.
    """

    def __init__(self, path: str | Path, model: str = "", *, weights: str = "", create: bool = False) -> None:
        self.path = Path(os.path.abspath(path))
        self.corrections, self.models, self.reports = (
            self.path / name for name in ("corrections", "models", "reports")
        )
        if create:
            self._make(model)
        elif not os.path.isfile(self.path / LEARNING_FILE):
            raise ConfigError(f"{path}: expected a folder of asr serve --learn, got one without {LEARNING_FILE}")
        known = read_object(self.path / LEARNING_FILE, "a folder of asr serve --learn")
        self.model = str(known.get("model", ""))
        tried = known.get("tried", [])
        self.tried = {str(one) for one in tried} if isinstance(tried, list) else set()
        if model and self.model != model:
            raise ConfigError(
                f"{path}: expected the folder of model {model}, got that of {self.model}; give another folder with "
                "--learn"
            )
        taught = str(known.get("weights", ""))
        self._weights = weights or taught
        self.begins_anew = taught not in ("", self._weights)
        """Whether the models here were learnt from other weights."""
        if self.begins_anew:
            self.set_current(0)
        if taught != self._weights:
            self.note_tried([] if self.begins_anew else self.tried)

    def _make(self, model: str) -> None:
        try:
            for folder in (self.corrections, self.models, self.reports):
                folder.mkdir(0o700, parents=True, exist_ok=True)  # voices and texts are not for other users
            self._hold()
            for part in self.corrections.glob(f"{PART}*"):  # of a server that was killed
                part.unlink()
            if not os.path.exists(self.path / LEARNING_FILE):
                write_json(self.path / LEARNING_FILE, {"model": model, "tried": []})
            (self.path / PART).write_bytes(b"")
            (self.path / PART).unlink()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot write there: {error.strerror or error}") from error

    def _hold(self) -> None:
        """Keep other servers out, as long as this object lives. Raises ``ConfigError``; ``OSError``."""
        import fcntl  # POSIX only, as the server is

        self._lock = open(self.path / SERVER_LOCK, "wb")  # noqa: SIM115 (held until this object goes)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.path}: another server learns in it; give another folder with --learn") from error

    @contextlib.contextmanager
    def new_zip(self) -> Iterator[BinaryIO]:
        """A file for one more zip of corrections. It is stored when the block ends without an error."""
        part = self.corrections / f"{PART}{secrets.token_hex(8)}"
        try:
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            now_s, more_ns = divmod(time.time_ns(), 10**9)
            stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_s))}-{more_ns:09}"
            part.replace(self.corrections / f"{stamp}-{secrets.token_hex(4)}.zip")
        finally:
            part.unlink(missing_ok=True)

    def zips(self) -> list[Path]:
        """The stored zips, oldest first."""
        return sorted(self.corrections.glob("*.zip"))

    def stored(self) -> StoredCorrections:
        """How much is stored; a zip that cannot be read counts without its utterances."""
        found = self.zips()
        utterances = size = 0
        for path in found:
            with contextlib.suppress(*DAMAGED):
                size += os.path.getsize(path)
                with zipfile.ZipFile(path) as archive, archive.open("manifest.jsonl") as lines:
                    utterances += sum(1 for _ in lines)
        return StoredCorrections(len(found), utterances, size)

    def forget(self) -> int:
        """Delete all stored corrections, what an unfinished learning unpacked of them, and their texts in reports; how
        many zips there were.

        Raises ``OutputError`` where that is not possible.
        """
        found = self.zips()
        try:
            for path in found:
                path.unlink(missing_ok=True)
            for folder in self.models.glob("*.learning"):
                shutil.rmtree(folder)
            for path in self.reports.glob("*.json"):
                self._forget_texts(path)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot delete corrections: {error.strerror or error}") from error
        self.note_tried([])
        return len(found)

    def _forget_texts(self, path: Path) -> None:
        try:
            report = read_object(path, "a report of asr learn")
        except ModelError:  # what it has cannot be told
            path.write_text("{}\n", encoding="utf-8")
            return
        if report.keys() & set(TEXTS):
            write_json(path, {key: value for key, value in report.items() if key not in TEXTS})

    def note_tried(self, names: Iterable[str]) -> None:
        """Remember which zips the last learning had, so that the same ones are not tried again."""
        self.tried = set(names)
        known = {"model": self.model, "weights": self._weights, "tried": sorted(self.tried)}
        write_json(self.path / LEARNING_FILE, known)

    def numbers(self) -> list[int]:
        """Numbers of the models that were learnt, rising."""
        names = (path.name for path in self.models.iterdir())
        return sorted(int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name)

    def next_number(self) -> int:
        """The number of the next model: one that no model and no report has had."""
        used = [int(path.stem) for path in self.reports.iterdir() if path.stem.isdigit()]
        return 1 + max([0, *used, *self.numbers()])

    def place(self, number: int) -> Path:
        """The model directory of a number above 0."""
        return self.models / str(number)

    def current(self) -> int:
        """The number of the model to serve; 0: the start. Raises ``ModelError`` for one that is not there."""
        number = self._named()
        if number and not os.path.isdir(self.place(number)):
            raise ModelError(
                f"{self.path / CURRENT_FILE}: expected the number of a folder of {self.models}, or 0, got {number}; "
                f"asr learn --rollback {self.path} goes back to the model before it"
            )
        return number

    def _named(self) -> int:
        path = self.path / CURRENT_FILE
        if not os.path.exists(path):
            return 0
        try:
            text = read_limited(path, _MOST_BYTES).decode("utf-8", "replace").strip()
        except OSError as error:
            raise ModelError(f"{path}: cannot read it: {error.strerror or error}") from error
        if not text.isascii() or not text.isdigit():
            raise ModelError(f"{path}: expected the number of a folder of {self.models}, or 0, got {text[:40]!r}")
        return int(text)

    def set_current(self, number: int) -> None:
        """Have a number served; a running server notices within a second or two."""
        write_text(self.path / CURRENT_FILE, f"{number}\n")

    def roll_back(self) -> tuple[int, int]:
        """Serve the model before the current one, which may have been deleted; both numbers.

        Raises ``ModelError`` at the start itself.
        """
        before = self._named()
        if before == 0:
            raise ModelError(
                f"{self.path}: expected a learnt model to go back from, got {self.model} as it was at first"
            )
        number = max((one for one in self.numbers() if one < before), default=0)
        self.set_current(number)
        return before, number
