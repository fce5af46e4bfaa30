"""What runs on the machines of a Ray cluster: reading of recordings in tasks, recognition in actors.

Blocks travel as Arrow tables. Recordings and errors are pickled: they come from our own processes only.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import asr
from asr.audio.samples import Samples
from asr.config import cpus
from asr.errors import AudioError
from asr.recognize.recording import Recording, RecordingReader
from asr.transcript import Transcript

if TYPE_CHECKING:
    import pyarrow as pa

LINE, TRANSCRIPT, ERROR = range(3)
"""Kinds of results."""
STARTS = 3
"""Times that an actor may end while it loads the model."""


class NamedRecording(NamedTuple):
    """A recording and the id of its result."""

    id: str
    recording: Recording


class RayResult(NamedTuple):
    """What an actor gives for a recording.

    ``number``: its place in the list. ``body``: by ``kind`` a line of JSON, a pickled transcript or a pickled error.
    """

    number: int
    kind: int
    body: bytes
    audio_s: float
    doubt: str


@dataclass(frozen=True)
class BlockReader:
    """Reads recordings, in a task on a CPU.

    ``block_s``: seconds of audio that travel together. ``longest_s``: longer recordings are read by the actor that
    recognises them, in constant memory.
    """

    reader: RecordingReader
    block_s: float
    longest_s: float

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Tables ``number, recording, samples, error`` of a table ``number, recording``; samples are float32 bytes."""
        rows: list[tuple[int, bytes, bytes, bytes]] = []
        waiting_s = 0.0
        columns = (table.column(name).to_pylist() for name in ("number", "recording"))
        for number, pickled in zip(*columns, strict=True):
            samples, error = self._read(pickle.loads(pickled))
            rows.append((number, pickled, samples, error))
            waiting_s += len(samples) / 4 / self.reader.features.sample_rate_hz
            if waiting_s >= self.block_s:
                yield as_table(READ_COLUMNS, rows)
                rows, waiting_s = [], 0.0
        if rows:
            yield as_table(READ_COLUMNS, rows)

    def _read(self, named: NamedRecording) -> tuple[bytes, bytes]:
        try:
            return self.reader.samples(named.recording, self.longest_s).astype(np.float32, copy=False).tobytes(), b""
        except Exception as error:  # also a fault of ours: the others' results are kept
            return b"", pickle_error(error)


READ_COLUMNS = {"number": "int64", "recording": "large_binary", "samples": "large_binary", "error": "large_binary"}
RESULT_COLUMNS = {"number": "int64", "kind": "int8", "body": "large_binary", "audio_s": "float64", "doubt": "string"}
WORK_COLUMNS = {"number": "int64", "recording": "large_binary"}


class RayRecognizer:
    """An actor with a warm model.

    Args:
        options: arguments of ``asr.load``.
        lines: give lines of JSON (``result_line``) and not transcripts.
        threads: that the network computes with; None: as many as the machine has.
    """

    def __init__(self, options: dict[str, Any], lines: bool, threads: int | None) -> None:
        if threads is not None:
            cpus.limit(threads)
        from asr.recognize import recognizer  # here: the tasks that read need neither torch nor numba

        with _counted_start():
            self._recognizer = recognizer.load(**options)
        self._lines = lines

    def __call__(self, table: pa.Table) -> pa.Table:
        """A table of ``RayResult`` for a table of ``BlockReader``."""
        names, indices, readings, found = [], [], [], []
        for row in _rows(table):
            named: NamedRecording = pickle.loads(row["recording"])
            samples = _samples(row)
            if isinstance(samples, Exception) and not isinstance(samples, AudioError):
                found.append(RayResult(row["number"], ERROR, row["error"], 0.0, ""))
                continue
            names.append(named.id)
            indices.append(row["number"])
            readings.append((named.recording, samples))
        try:
            results = self._recognizer.transcribe_readings(readings, float("inf"), float("inf"))
            for index, id, (recording, result) in zip(indices, names, results, strict=True):
                found.append(self._result(index, id, recording, result))
        except Exception as error:  # a fault of ours: the driver sends these again, each alone
            done = {result.number for result in found}
            lost = [index for index in indices if index not in done]
            found += [RayResult(index, ERROR, pickle_error(error), 0.0, "") for index in lost]
        return as_table(RESULT_COLUMNS, found)

    def _result(self, index: int, id: str, recording: Recording, result: Transcript | AudioError) -> RayResult:
        if isinstance(result, AudioError):
            return RayResult(index, ERROR, pickle_error(result), 0.0, "")
        body = result_line(id, recording, result) if self._lines else pickle.dumps(result)
        return RayResult(index, LINE if self._lines else TRANSCRIPT, body, result.duration_s, result.doubt)


@contextlib.contextmanager
def _counted_start() -> Iterator[None]:
    """Counts the starts of this actor that did not get through the block, in a file in Ray's folder of this machine.

    Ray starts an actor again that the kernel killed, as often as one that worked before. Raises ``MemoryError`` when
    ``STARTS`` starts ended so.
    """
    import ray

    context = ray.get_runtime_context()
    folder = os.path.join(context.get_temp_dir(), context.get_session_name())
    path = os.path.join(folder, f"asr-{context.get_actor_id()}")
    if os.path.exists(path) and os.path.getsize(path) >= STARTS:
        os.unlink(path)
        raise MemoryError(f"the process ended {STARTS} times while it loaded the model (out of memory?)")
    with open(path, "ab") as file:
        file.write(b".")
    try:
        yield
    finally:
        os.unlink(path)


def result_line(id: str, recording: Recording, result: Transcript) -> bytes:
    """A recording's line of JSON, with the end of the line: ``id`` and the keys of ``Transcript.to_dict``."""
    tree = {"id": id} | result.to_dict()
    if recording.channel is not None:
        tree["channel"] = recording.channel + 1
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


class FaultError(Exception):
    """A fault of this package, by its kind, text and place: such errors cannot always be pickled."""


def pickle_error(error: Exception) -> bytes:
    """An error as bytes; one that is not of the recording as a ``FaultError``."""
    if not isinstance(error, AudioError):
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
        error = FaultError(f"{type(error).__name__}: {error}{place}")
    return pickle.dumps(error)


def is_fault(result: RayResult) -> bool:
    """Whether a result is a ``FaultError``."""
    return result.kind == ERROR and isinstance(pickle.loads(result.body), FaultError)


def fault_of_ours(id: str, fault: bytes) -> AudioError:
    """The failure of a recording, for a pickled ``FaultError``."""
    return AudioError(
        f"{id}: a fault of this program ended its recognition: {pickle.loads(fault)}; the other recordings are done; "
        "please report it"
    )


def work_table(work: Sequence[tuple[int, NamedRecording]]) -> pa.Table:
    """Recordings as ``BlockReader`` takes them."""
    return as_table(WORK_COLUMNS, [(index, pickle.dumps(named)) for index, named in work])


def results_of(table: pa.Table) -> Iterator[RayResult]:
    """The rows of a table that an actor gave."""
    columns = (table.column(name).to_pylist() for name in RESULT_COLUMNS)
    return (RayResult(*row) for row in zip(*columns, strict=True))


def inspect_node(paths: Sequence[str]) -> dict[str, Any]:
    """What a machine of the cluster has: the version of this package, and those of ``paths`` that it does not see."""
    return {"version": asr.__version__, "missing": [path for path in paths if not os.path.exists(path)]}


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows whose samples are buffers, without a copy."""
    columns = {name: table.column(name) for name in table.column_names}
    for row in range(table.num_rows):
        samples = columns["samples"][row].as_buffer()
        yield {"samples": samples} | {name: columns[name][row].as_py() for name in ("number", "recording", "error")}


def _samples(row: dict[str, Any]) -> Samples | Exception:
    if row["error"]:
        error: Exception = pickle.loads(row["error"])
        return error
    return np.frombuffer(row["samples"], np.float32)


def as_table(columns: dict[str, str], rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Rows as a table; ``columns``: names and Arrow types."""
    import pyarrow as pa

    arrays = zip(*rows, strict=True) if rows else ([] for _ in columns)
    types = [pa.type_for_alias(name) for name in columns.values()]
    return pa.table(
        {name: pa.array(list(values), kind) for name, kind, values in zip(columns, types, arrays, strict=True)}
    )
