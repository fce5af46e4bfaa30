"""A folder of results in parts: files with many results each, written whole or not at all, every recording once.

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
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asr.errors import AsrError, ConfigError, OutputError
from asr.files import atomic

FORMATS = ("jsonl", "parquet")
PREFIX = "part-"
RUN, LOCK = "run.json", ".lock"
PART_BYTES = 64_000_000
"""A part is written when it has so many bytes."""
_ID = '{"id": '


class Parts:
    """The parts of a folder; a missing folder is made. A context manager: at its end the last part is written.

    Args:
        folder: where they are.
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
        if format not in FORMATS:
            raise ConfigError(f"parts: expected one of {', '.join(FORMATS)}, got {format!r}")
        self.folder, self.format = Path(folder), format
        self._part_recordings, self._part_s = part_recordings, part_s
        self._lines: dict[str, bytes] = {}
        self._bytes, self._since = 0, time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot make the output folder: {error}") from error
        self._lock = _locked(self.folder, shared=shared)
        try:
            if force and not shared:
                self._clear()
            self._check_run({"parts": format, **run}, resume=resume or shared)
            self.done: set[str] = self._read_ids(mend=not shared)
            """Ids that have a result."""
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            os.close(self._lock)

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
        self._write_part(self._lines)
        self._lines, self._bytes = {}, 0

    def write_failures(self, failures: Iterable[tuple[str, str]], name: str = "failures.jsonl") -> None:
        """Replace the list of recordings without a result: id and reason. Raises ``OutputError``."""
        lines = (json.dumps({"id": id, "error": reason}, ensure_ascii=False) + "\n" for id, reason in failures)
        self._write(name, "".join(lines).encode("utf-8", "backslashreplace"))

    def names(self) -> list[str]:
        """The files of the parts."""
        try:
            return sorted(name for name in os.listdir(self.folder) if _is_part(name))
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot list the parts: {error.strerror or error}") from error

    def _write_part(self, lines: Mapping[str, bytes]) -> str:
        digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        name = f"{PREFIX}{digest}.{self.format}"
        body = b"".join(lines.values())
        self._write(name, body if self.format == "jsonl" else _as_parquet(body))
        return name

    def _write(self, name: str, data: bytes) -> None:
        try:
            with atomic(self.folder / name) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise OutputError(
                f"{self.folder / name}: cannot write: {error.strerror or error}; what is in complete parts is kept: "
                "make room, and go on with --resume"
            ) from error

    def _clear(self) -> None:
        for name in [*self.names(), RUN]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.folder / name)

    def _check_run(self, run: Mapping[str, Any], *, resume: bool) -> None:
        path = self.folder / RUN
        run = json.loads(json.dumps(run))
        if os.path.lexists(path):
            try:
                known = json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                raise OutputError(f"{path}: cannot read what made the results: {error}") from error
            if not resume and self.names():
                raise OutputError(
                    f"{self.folder}: expected a new folder, got one with results; go on with --resume, replace them "
                    "with --force, or choose another folder"
                )
            if known != run and self.names():
                changed = sorted(key for key in run.keys() | known.keys() if run.get(key) != known.get(key))
                raise ConfigError(
                    f"{self.folder}: expected results of the same models and options, got other {', '.join(changed)} "
                    f"({path}); choose another folder, or replace the results with --force"
                )
        elif self.names():
            raise OutputError(f"{self.folder}: expected a folder of this command, got parts without {RUN}; choose "
                              "another folder")  # fmt: skip
        self._write(RUN, (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))

    def _read_ids(self, *, mend: bool) -> set[str]:
        """The ids of all parts. ``mend``: a part with ids of other parts is written again without them."""
        found: set[str] = set()
        for name in self.names():
            ids = self._ids(name)
            again = found.intersection(ids) if mend else set()
            if again or (mend and len(set(ids)) < len(ids)):
                lines = {id: line for id, line in self._part_lines(name) if id not in again}
                if lines and self._write_part(lines) == name:
                    continue
                os.unlink(self.folder / name)
            found.update(ids)
        return found

    def _ids(self, name: str) -> list[str]:
        if self.format == "parquet":
            import pyarrow.parquet

            with self._readable(name):
                ids: list[str] = pyarrow.parquet.read_table(self.folder / name, columns=["id"])["id"].to_pylist()
            return ids
        return [id for id, _ in self._part_lines(name)]

    def _part_lines(self, name: str) -> Iterator[tuple[str, bytes]]:
        with self._readable(name):
            yield from read_part(self.folder / name)

    @contextlib.contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            raise OutputError(
                f"{self.folder / name}: expected a part with an id in each line, got {str(error)[:200]}; remove the "
                "file and go on with --resume"
            ) from error


def read_results(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The results of a folder, each recording once: ``id`` and the keys of ``Transcript.to_dict``.

    Raises ``AsrError`` for a part that cannot be read.
    """
    for name in sorted(os.listdir(folder)):
        if _is_part(name):
            try:
                for _, line in read_part(Path(folder) / name):
                    yield json.loads(line)
            except (OSError, ValueError, KeyError) as error:
                raise AsrError(f"{Path(folder) / name}: cannot read the part: {error}") from error


def read_part(path: Path) -> Iterator[tuple[str, bytes]]:
    """Ids and lines of JSON of a part. Raises ``OSError`` and ``ValueError``."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        for row in pyarrow.parquet.read_table(path).to_pylist():
            yield row["id"], json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.decode("utf-8")
            if not text.startswith(_ID) or not text.endswith("\n"):
                raise ValueError(f"line {number}: {text[:60]!r}")
            id, _ = json.JSONDecoder().raw_decode(text, len(_ID))
            if not isinstance(id, str):
                raise ValueError(f"line {number}: {text[:60]!r}")
            yield id, line


def _is_part(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(tuple(f".{format}" for format in FORMATS))


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
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.json.read_json(io.BytesIO(lines), read, options), out, compression="zstd")
    return out.getvalue()


def _locked(folder: Path, *, shared: bool) -> int:
    """A descriptor that holds the folder: alone, or with others that share the recordings. Raises ``OutputError``."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{folder / LOCK}: cannot write: {error.strerror or error}") from error
    try:
        import fcntl
    except ImportError:  # Windows
        return descriptor
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(f"{folder}: another command is writing results to it; wait for its end, or choose another "
                          "folder") from error  # fmt: skip
    except OSError:  # a file system without locks
        pass
    return descriptor
