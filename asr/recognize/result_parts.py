"""Results in parts, in a folder or at a URL: files of many results, written whole or not at all, each recording once.

    out/part-5f0c….jsonl    lines of JSON: id, and the keys of Transcript.to_dict (or .parquet: the same as columns)
    out/run.json            models and options that made them
    out/failures.jsonl      id and reason of each recording without a result
    out/summary.json        counts

A part is named by the ids in it. So a part that is written twice is one file. ``Parts`` drops an id that it has
already, and removes what two runs at the same time wrote twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asr.cloud.addresses import is_url
from asr.errors import ConfigError, OutputError
from asr.recognize.result_places import open_place

PART_FORMATS = ("jsonl", "parquet")
PREFIX = "part-"
RUN = "run.json"
PART_BYTES = 64_000_000
"""A part is written when it has so many bytes."""
_ID = '{"id": '
_LONE_SURROGATE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u(d[89a-f][0-9a-f]{2})")
"""Half a character in JSON, which names of files that are no UTF-8 have."""


class Parts:
    """The parts of a folder; a missing folder is made. A context manager: at its end the last part is written.

    Args:
        folder: a path or a URL.
        format: ``jsonl`` or ``parquet``.
        run: what the results depend on, as JSON; results of another run are refused.
        resume: go on; else a folder with results is refused.
        force: remove what an earlier run wrote. Not with ``shared``.
        shared: other processes write other recordings to the same folder.
        part_recordings, part_s: a part is written when it has so many recordings, or its first is so many seconds old.

    Raises ``ConfigError`` for what does not fit, and ``OutputError`` for results that would be overwritten, a folder
    that another command writes, or a part that cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        run: Mapping[str, Any],
        *,
        format: str = "jsonl",
        resume: bool = False,
        force: bool = False,
        shared: bool = False,
        part_recordings: int = 1000,
        part_s: float = 60.0,
    ) -> None:
        if format not in PART_FORMATS:
            raise ConfigError(f"parts: expected one of {', '.join(PART_FORMATS)}, got {format!r}")
        self.format = format
        self._part_recordings, self._part_s = part_recordings, part_s
        self._shared = shared
        self._lines: dict[str, bytes] = {}
        self._bytes, self._since = 0, time.monotonic()
        self._place = open_place(folder, shared=shared)
        self.folder = self._place.shown()
        """For messages."""
        try:
            if force and not shared:
                self._clear()
            self._run: dict[str, Any] = json.loads(json.dumps({"parts": format, **run}))
            self._check_run(resume=resume, shared=shared)
            self.done: set[str] = self._read_ids(mend=not shared)
            """Ids that have a result."""
        except BaseException:
            self._place.close()
            raise

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._place.close()

    def add(self, id: str, line: bytes) -> bool:
        """Take a result, a line of JSON that begins with its id; False for an id that has one already.

        Raises ``OutputError`` where a part cannot be written.
        """
        if id in self.done:
            return False
        self.done.add(id)
        if not self._lines:
            self._since = time.monotonic()
        self._lines[id] = line
        self._bytes += len(line)
        full = len(self._lines) >= self._part_recordings or self._bytes >= PART_BYTES
        if full or time.monotonic() - self._since >= self._part_s:
            self.flush()
        return True

    def flush(self) -> None:
        """Write what is waiting as a part. Raises ``OutputError``."""
        if not self._lines:
            return
        if self._shared:  # at a URL another process may have begun at the same moment
            self._compare_run()
        self._write_part(self._lines)
        self._lines, self._bytes = {}, 0

    def write_failures(self, failures: Iterable[tuple[str, str]], name: str = "failures.jsonl") -> None:
        """Replace the list of recordings without a result: id and reason. Raises ``OutputError``."""
        lines = (json.dumps({"id": id, "error": reason}, ensure_ascii=False) + "\n" for id, reason in failures)
        self.write_file(name, "".join(lines))

    def write_file(self, name: str, text: str) -> None:
        """Replace a file beside the parts. Raises ``OutputError`` or ``CloudError``."""
        self._place.write(name, text.encode("utf-8", "backslashreplace"))

    def names(self) -> list[str]:
        """The files of the parts."""
        return list(filter(_is_part, self._place.names()))

    def _write_part(self, lines: Mapping[str, bytes]) -> str:
        digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        name = f"{PREFIX}{digest}.{self.format}"
        body = b"".join(lines.values())
        self._place.write(name, body if self.format == "jsonl" else _as_parquet(body))
        return name

    def _clear(self) -> None:
        for name in [*self.names(), RUN]:
            self._place.remove(name)

    def _check_run(self, *, resume: bool, shared: bool) -> None:
        names = self._place.names()
        there = any(map(_is_part, names))
        if there and RUN not in names:
            raise OutputError(
                f"{self.folder}: expected a folder of this command, got parts without {RUN}; choose another folder"
            )
        if there and not resume and not shared:
            raise OutputError(
                f"{self.folder}: expected a new folder, got one with results; continue with --resume, replace them "
                "with --force, or choose another folder"
            )
        if not there and not (shared and RUN in names):
            text = json.dumps(self._run, indent=2, ensure_ascii=False) + "\n"
            if shared:
                self._place.create(RUN, text.encode("utf-8", "backslashreplace"))
            else:
                self.write_file(RUN, text)
        if there or shared:
            self._compare_run()

    def _compare_run(self) -> None:
        """Raise ``ConfigError`` where the folder is one of other models or options."""
        known, run = self._known_run(), self._run
        if known != run:
            changed = sorted(key for key in run.keys() | known.keys() if run.get(key) != known.get(key))
            # Of several processes none may use --force: it would remove what the others wrote.
            advice = "or replace the results with --force"
            if self._shared:
                advice = "give all processes the same, or remove the folder"
            raise ConfigError(
                f"{self._place.shown(RUN)}: expected results of the same models and options, got other "
                f"{', '.join(changed)}; choose another folder, {advice}"
            )

    def _known_run(self) -> dict[str, Any]:
        try:
            known = json.loads(self._place.read(RUN))
        except ValueError as error:
            raise OutputError(f"{self._place.shown(RUN)}: cannot read what made the results: {error}") from error
        return known if isinstance(known, dict) else {}

    def _read_ids(self, *, mend: bool) -> set[str]:
        """The ids of all parts. ``mend``: a part with ids of other parts is written again without them.

        A command that was killed between the two steps of that leaves both parts. So what is written may be a part that
        is there and comes later: it is not read again, and not removed.
        """
        found: set[str] = set()
        written: set[str] = set()
        for name in self.names():
            if name in written:
                continue
            ids = self._ids(name)
            again = found.intersection(ids) if mend else set()
            if again or (mend and len(set(ids)) < len(ids)):
                lines = {id: line for id, line in self._part_lines(name) if id not in again}
                if lines:
                    written.add(self._write_part(lines))
                if name not in written:
                    self._place.remove(name)
            found.update(ids)
        return found

    def _ids(self, name: str) -> list[str]:
        if self.format == "parquet":
            import pyarrow.parquet

            with self._readable(name):
                file = io.BytesIO(self._place.read(name))
                ids: list[str] = pyarrow.parquet.read_table(file, columns=["id"])["id"].to_pylist()
            return ids
        return [id for id, _ in self._part_lines(name)]

    def _part_lines(self, name: str) -> Iterator[tuple[str, bytes]]:
        with self._readable(name):
            yield from read_part(name, self._place.read(name))

    @contextlib.contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            raise OutputError(
                f"{self._place.shown(name)}: expected a part with an id in each line, got {str(error)[:200]}; remove "
                "the file and continue with --resume"
            ) from error


def read_results(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The results of a folder or URL, each recording once: ``id`` and the keys of ``Transcript.to_dict``.

    Raises ``OutputError`` for a folder without results, for a part that cannot be read, and while a command writes to
    the folder.
    """
    if not is_url(folder) and not os.path.isdir(folder):
        raise OutputError(f"{folder}: expected a folder of results, got none; check the path")
    place = open_place(folder, shared=True)
    try:
        names = place.names()
        if RUN not in names:
            raise OutputError(
                f"{place.shown()}: expected a folder of results, got one without {RUN}; check the path, or make "
                "results with asr transcribe --output"
            )
        for name in filter(_is_part, names):
            try:
                for _, line in read_part(name, place.read(name)):
                    yield json.loads(line)
            except (OSError, ValueError, KeyError) as error:
                raise OutputError(f"{place.shown(name)}: cannot read the part: {error}") from error
    finally:
        place.close()


def read_part(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Ids and lines of JSON of a part. Raises ``OSError`` and ``ValueError``."""
    if name.endswith(".parquet"):
        import pyarrow.parquet

        for row in pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist():
            yield row["id"], json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        return
    for number, line in enumerate(io.BytesIO(data), start=1):
        text = line.decode("utf-8")
        if not text.startswith(_ID) or not text.endswith("\n"):
            raise ValueError(f"line {number}: {text[:60]!r}")
        id, _ = json.JSONDecoder().raw_decode(text, len(_ID))
        if not isinstance(id, str):
            raise ValueError(f"line {number}: {text[:60]!r}")
        yield id, line


def _is_part(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(tuple(f".{format}" for format in PART_FORMATS))


def _as_parquet(lines: bytes) -> bytes:
    """Lines of JSON as a Parquet file, with the same columns in each."""
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet

    word = pa.struct([("text", pa.string()), *((name, pa.float64()) for name in ("start_s", "end_s", "confidence"))])
    schema = pa.schema(
        [("id", pa.string()), ("format", pa.int64()), ("source", pa.string()), ("duration_s", pa.float64()),
         ("text", pa.string()), ("written", pa.string()), ("confidence", pa.float64()), ("reliable", pa.bool_()),
         ("reliability", pa.float64()), ("channel", pa.int64()), ("words", pa.list_(word))]
    )  # fmt: skip
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    lines = _LONE_SURROGATE.sub(rb"\1\\\\u\2", lines)  # Parquet takes UTF-8 only: the escape as text
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.json.read_json(io.BytesIO(lines), read, options), out, compression="zstd")
    return out.getvalue()
