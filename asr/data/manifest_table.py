"""Large manifests by columns: ten million lines that all processes of a machine share.

The columns are kept in a file beside the manifest, ``set.jsonl.index``, or in the user's cache folder, and are mapped
into memory. Utterances are parsed from their lines, and texts become tokens, when they are asked for. What is planned
with a table is what is planned with a list of the same utterances.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from asr.audio.archive_index import is_archive
from asr.config import cpus
from asr.config.child_processes import ChildProcess, end_processes
from asr.data.manifest import Statistics, Utterance
from asr.data.manifest_lines import CASE_BITS, LINE_COLUMNS, LineColumns, index_lines, parse_manifest_line
from asr.data.shard_set import is_separable
from asr.errors import ManifestError
from asr.files import atomic, user_cache
from asr.text import tokenizer_files
from asr.text.tokenizer import CharTokenizer, Tokenizer, min_frames

LARGE_MANIFEST = 64 * 2**20
"""Bytes of a manifest from which on it is read by columns."""
LINES_PART_BYTES = 16 * 2**20
MOST_PROCESSES = 8
_FORMAT = "asr-manifest-index"
_VERSION = 1
_ALIGNED = 64


def is_large(path: str | Path) -> bool:
    """Whether a manifest is read by columns; an archive, which is none, is not."""
    try:
        return os.path.getsize(path) >= LARGE_MANIFEST and not is_archive(str(path))
    except OSError:
        return False


class ManifestTable(Sequence[Utterance]):
    """The utterances of a manifest, or some of its lines.

    Args:
        path: the manifest.

    Raises ``ManifestError`` as ``asr.data.manifest.read_manifest``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        self._folder = os.path.dirname(os.path.abspath(self.path))
        self._columns, self.sums = _find_columns(self.path)
        self._rows: np.ndarray | None = None
        self._file: Any = None

    def column(self, name: str) -> np.ndarray:
        """One of ``LINE_COLUMNS`` ``(n,)``, mapped where all lines are there."""
        found = self._columns[name]
        return found if self._rows is None else found[self._rows]

    @property
    def durations_s(self) -> np.ndarray:
        """``(n,)`` float64."""
        return self.column("duration_s")

    def keep(self, rows: np.ndarray) -> ManifestTable:
        """The utterances at these positions."""
        kept: ManifestTable = object.__new__(ManifestTable)
        kept.__dict__.update(self.__dict__)
        kept._rows = rows if self._rows is None else self._rows[rows]
        kept._file = None
        return kept

    def __len__(self) -> int:
        return len(self._columns["at"]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Utterance: ...
    @overload
    def __getitem__(self, row: slice) -> list[Utterance]: ...
    def __getitem__(self, row: int | slice) -> Utterance | list[Utterance]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        at = range(len(self))[row]
        line = at if self._rows is None else int(self._rows[at])
        data = self._read(int(self._columns["at"][line]), int(self._columns["size"][line]))
        if zlib.crc32(data) != int(self._columns["line_hash"][line]):
            place = f"{int(self._columns['at'][line]):,}"
            raise ManifestError(
                f"{self.path}: expected the line at byte {place} as it was when the manifest was read, got another; "
                "start again"
            )
        return parse_manifest_line(data, self._folder)

    def _read(self, at: int, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
            if hasattr(os, "pread"):
                return os.pread(self._file.fileno(), size, at)
            self._file.seek(at)
            return bytes(self._file.read(size))
        except OSError as error:
            raise ManifestError(f"{self.path}: cannot read the manifest: {error.strerror or error}") from error

    @property
    def statistics(self) -> Statistics:
        """Sums; words, characters and speakers are those of the whole manifest."""
        sums = self.sums
        hours = float(self.durations_s.sum()) / 3600
        return Statistics(len(self), hours, len(sums["speakers"]), sums["words"], sums["spaced"])

    @property
    def speakers(self) -> set[str]:
        """The names of all speakers of the manifest."""
        return set(self.sums["speakers"])

    def fingerprint(self, tokenizer: Tokenizer) -> str:
        """Checksum of the utterances' lines and of the tokens."""
        digest = hashlib.sha256(repr(tokenizer.symbols).encode())
        for name in ("line_hash", "duration_s"):
            digest.update(np.ascontiguousarray(self.column(name)).tobytes())
        return digest.hexdigest()

    def tokenizer(self, config: Any) -> Tokenizer:
        """As ``asr.text.tokenizer_files.tokenizer_from_texts`` of all texts; an alphabet without reading them again."""
        inventory = self.sums["inventory"]
        if config.tokenizer == "char" and (config.alphabet or is_separable(inventory, config)):
            return tokenizer_files.tokenizer_from_texts((f"{char} {char}" for char in inventory), config)
        bar = tqdm(self, "reading texts", unit="utterance", disable=None, leave=False)
        return tokenizer_files.tokenizer_from_texts((item.text for item in bar), config)

    def labels(self, tokenizer: Tokenizer) -> TableLabels:
        """Token ids of all texts, made when they are asked for. Raises ``TextError`` for a text that has none."""
        return TableLabels(self, tokenizer, self._needed_frames(tokenizer))

    def _needed_frames(self, tokenizer: Tokenizer) -> np.ndarray:
        """The fewest frames of each label: of texts that need no normalisation, from the columns."""
        config, inventory = tokenizer.config, set(self.sums["inventory"])
        needed = self.column("characters").astype(np.int32)
        exact = np.ones(len(self), dtype=bool)
        replaced = any(set(key) <= inventory for key in config.replace)
        visible = "".join(char for char in inventory if not char.isspace())
        if isinstance(tokenizer, CharTokenizer) and not replaced and not tokenizer.unspelt(visible):
            needed += self.column("repeats" if config.case == "keep" else "folded")
            exact = (self.column("plain") & CASE_BITS[config.case]) == 0
        rows = np.flatnonzero(exact).tolist()
        for row in tqdm(rows, "texts to tokens", unit="text", disable=None, leave=False, delay=1):
            item = self[row]
            needed[row] = min_frames(tokenizer.encode(item.text, item.id))
        return needed


class TableLabels(Sequence[list[int]]):
    """Token ids of the utterances of a table, made when they are asked for.

    ``needed_frames`` ``(n,)`` int32: the fewest frames in which CTC can emit each.
    """

    def __init__(self, table: ManifestTable, tokenizer: Tokenizer, needed_frames: np.ndarray) -> None:
        self._table, self._tokenizer, self.needed_frames = table, tokenizer, needed_frames

    def keep(self, rows: Sequence[int] | np.ndarray) -> TableLabels:
        """The labels of these rows."""
        kept = np.asarray(rows, dtype=np.int64)
        return TableLabels(self._table.keep(kept), self._tokenizer, self.needed_frames[kept])

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, row: int) -> list[int]: ...
    @overload
    def __getitem__(self, row: slice) -> list[list[int]]: ...
    def __getitem__(self, row: int | slice) -> list[int] | list[list[int]]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        item = self._table[row]
        return self._tokenizer.encode(item.text, item.id)


Columns = dict[str, np.ndarray]


def _find_columns(path: str) -> tuple[Columns, dict[str, Any]]:
    """The columns of a manifest, mapped; made and kept at the first use, and a line on standard error says so."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error}") from error
    stamp = [status.st_size, status.st_mtime_ns]
    places = [path + ".index"]
    if (folder := user_cache()) is not None:
        number = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
        places.append(str(folder / "manifests" / f"{number}-{os.path.basename(path)}.index"))
    for place in places:
        if (found := _map(place, stamp)) is not None:
            return found
    columns, sums = _make_columns(path, status.st_size)
    for place in places:
        try:
            _write(place, columns, sums | {"stamp": stamp})
        except OSError:
            continue
        print(f"{path}: indexed, once; the index is kept as {place}", file=sys.stderr, flush=True)
        return _map(place, stamp) or (columns, sums)
    print(f"note: {path}: its index cannot be kept, and every process makes it anew", file=sys.stderr, flush=True)
    return columns, sums


def _map(place: str, stamp: Sequence[int]) -> tuple[Columns, dict[str, Any]] | None:
    try:
        with open(place, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(min(size, os.path.getsize(place))))
        if (head["format"], head["version"], head["stamp"]) != (_FORMAT, _VERSION, list(stamp)):
            return None
        columns: Columns = {}
        at = _aligned(8 + size)
        for name, kind in LINE_COLUMNS.items():
            columns[name] = np.memmap(place, kind, "r", at, (head["count"],))
            at = _aligned(at + columns[name].nbytes)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return columns, head


def _aligned(at: int) -> int:
    return -(-at // _ALIGNED) * _ALIGNED


def _write(place: str, columns: Columns, sums: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
    head = json.dumps({"format": _FORMAT, "version": _VERSION, "count": len(columns["at"]), **sums}).encode()
    with atomic(Path(place)) as temporary, temporary.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in LINE_COLUMNS:
            file.write(bytes(_aligned(file.tell()) - file.tell()))
            file.write(columns[name].data)


def _make_columns(path: str, size: int) -> tuple[Columns, dict[str, Any]]:
    """Read a manifest once, in several processes. Raises ``ManifestError`` naming file and line."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in LINE_COLUMNS}
    inventory, speakers = Counter[str](), set[str]()
    lines = words = spaced = 0
    with tqdm(total=size, desc=f"indexing {os.path.basename(path)}", unit="B", unit_scale=True, disable=None,
              leave=False) as bar:  # fmt: skip
        for found, count in _indexed_parts(path, size):
            if found.error:
                raise ManifestError(f"{path}:{lines + found.error_line}: {found.error}")
            for name, values in found.columns.items():
                parts[name].append(values)
            lines, words, spaced = lines + found.lines, words + found.words, spaced + found.spaced
            inventory.update(found.inventory)
            speakers |= found.speakers
            bar.update(count)
    columns = {}
    for name in LINE_COLUMNS:
        columns[name] = np.concatenate(parts.pop(name))
    if not len(columns["at"]):
        raise ManifestError(f"{path}: expected one JSON object a line, got no utterance")
    _check_ids(path, columns)
    return columns, {"words": words, "spaced": spaced, "inventory": dict(inventory), "speakers": sorted(speakers)}


def _indexed_parts(path: str, size: int) -> Iterator[tuple[LineColumns, int]]:
    """The columns of the parts of a manifest in order, and the bytes of each."""
    folder = os.path.dirname(os.path.abspath(path))
    orders = _cut(path, size)
    count = min(MOST_PROCESSES, cpus.available(), -(-size // LINES_PART_BYTES))
    if os.name != "posix" or count < 2:
        with open(path, "rb") as file:
            for begin, end in orders:
                file.seek(begin)
                yield index_lines(file.read(end - begin), begin, folder, begin == 0), end - begin
        return
    children = [ChildProcess("asr.data.manifest_lines", "serve_lines") for _ in range(count)]
    pending: deque[tuple[ChildProcess, int]] = deque()
    try:
        for child in children:
            if (order := next(orders, None)) is not None:
                child.connection.send((path, *order, folder))
                pending.append((child, order[1] - order[0]))
        while pending:
            child, length = pending.popleft()
            try:
                found = child.connection.recv()
            except (EOFError, OSError) as error:
                raise ManifestError(f"{path}: a process that indexed it {child.describe_end()}") from error
            if (order := next(orders, None)) is not None:
                child.connection.send((path, *order, folder))
                pending.append((child, order[1] - order[0]))
            yield found, length
    finally:
        end_processes(children)


def _cut(path: str, size: int) -> Iterator[tuple[int, int]]:
    """Where parts of whole lines begin and end."""
    begin = 0
    with open(path, "rb") as file:
        while begin < size:
            file.seek(min(begin + LINES_PART_BYTES, size))
            file.readline()
            end = min(file.tell(), size)
            yield begin, end
            begin = end


def _check_ids(path: str, columns: Columns) -> None:
    """Refuse an id that comes twice; ids that only have the same checksum are read and compared."""
    hashes = columns["id_hash"]
    order = np.argsort(hashes, kind="stable")
    values = hashes[order]
    same = np.flatnonzero(values[1:] == values[:-1])
    rows = np.unique(np.concatenate([order[same], order[same + 1]]))
    folder = os.path.dirname(os.path.abspath(path))
    seen: dict[str, int] = {}
    with open(path, "rb") as file:
        for row in rows.tolist():
            file.seek(int(columns["at"][row]))
            item = parse_manifest_line(file.read(int(columns["size"][row])), folder)
            first = seen.setdefault(item.id, row)
            if first != row:
                numbers = [_line_number(path, int(columns["at"][which])) for which in (row, first)]
                raise ManifestError(
                    f"{path}:{numbers[0]}: id {item.id!r} is already used in line {numbers[1]}; give each utterance "
                    "its own id"
                )


def _line_number(path: str, at: int) -> int:
    """The number of the line that begins at a byte."""
    count = 1
    with open(path, "rb") as file:
        while at > 0:
            block = file.read(min(at, LINES_PART_BYTES))
            count += block.count(b"\n")
            at -= len(block)
    return count
