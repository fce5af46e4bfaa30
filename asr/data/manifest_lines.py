"""Lines of a manifest as columns: what batches are planned by, of many lines at once.

Also a process that does this for its parent (``asr.config.child_processes``); it imports neither torch nor numba.
"""

from __future__ import annotations

import json
import operator
import threading
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from asr.config.child_processes import end_with
from asr.data.manifest import Utterance, parse_line
from asr.errors import ManifestError

LINE_COLUMNS = {
    "at": "<i8", "size": "<i4", "duration_s": "<f8", "characters": "<u2", "repeats": "<u2", "folded": "<u2",
    "plain": "u1", "id_hash": "<u4", "line_hash": "<u4",
}  # fmt: skip
"""First byte and size of a line; its utterance's length; its text's characters, and how many of them equal the one
before, as they stand and in upper case; for which case rules these are right (bits of ``CASE_BITS``); checksums of the
id and of the line."""
CASE_BITS = {"keep": 1, "upper": 2, "lower": 4}
_LONGEST = 60_000
_SPACE, _BREAK = 32, 10


@dataclass
class LineColumns:
    """The columns of some lines, and their sums; or the first error among them."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lines: int = 0
    """Blank ones included."""
    words: int = 0
    spaced: int = 0
    """Characters, single spaces between words included."""
    inventory: Counter[str] = field(default_factory=Counter)
    speakers: set[str] = field(default_factory=set)
    error: str = ""
    error_line: int = 0
    """From 1, among these lines."""


def index_lines(data: bytes, at: int, folder: str, first: bool) -> LineColumns:
    """The columns of whole lines ``data``, which begin at byte ``at`` of a manifest in ``folder``.

    ``first``: whether these are the first lines, before which a byte order mark may stand.
    """
    found = LineColumns()
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw == _BREAK)
    if not len(ends) or ends[-1] != len(raw) - 1:
        ends = np.append(ends, len(raw))
    starts = np.concatenate([[0], ends[:-1] + 1])
    found.lines = len(starts)
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = [line.decode("utf-8", "surrogateescape") for line in data.split(b"\n")]
    rows, durations, texts, ids, hashes = [], [], [], [], []
    decoder: Any = json.JSONDecoder()
    scan, crc = decoder.scan_once, zlib.crc32
    for row in range(found.lines):
        line = lines[row]
        try:
            record, end = scan(line, 0)
            name, audio, text, seconds = record["id"], record["audio"], record["text"], record["duration_s"]
            speaker = record["speaker"] if len(record) == 5 else ""
            usual = (
                len(record) == 4 + (len(record) == 5)
                and end == len(line)
                and type(name) is type(audio) is type(text) is type(speaker) is str
                and type(seconds) is float
                and 0 < seconds < 1e9
                and name
                and audio
                and "://" not in audio
                and (name + audio + speaker + text).isprintable()
            )
        except (StopIteration, ValueError, KeyError, TypeError, RecursionError):
            usual = False
        if not usual:
            try:
                item = parse_line(data[starts[row] : ends[row] + 1], 1 if first and row == 0 else 2, folder)
            except ManifestError as error:
                found.error, found.error_line = str(error), row + 1
                return found
            if item is None:
                continue
            name, text, seconds, speaker = item.id, item.text, item.duration_s, item.speaker
        rows.append(row)
        durations.append(seconds)
        texts.append(text)
        ids.append(crc(name.encode("utf-8", "surrogatepass")))
        hashes.append(crc(data[starts[row] : ends[row]]))
        if speaker:
            found.speakers.add(speaker)
    kept = np.array(rows, dtype=np.int64)
    columns = {"at": at + starts[kept], "size": ends[kept] - starts[kept], "duration_s": durations, "id_hash": ids,
               "line_hash": hashes, **_measure(texts, found)}  # fmt: skip
    found.columns = {key: np.asarray(columns[key]).astype(kind) for key, kind in LINE_COLUMNS.items()}
    return found


def _measure(texts: Sequence[str], found: LineColumns) -> dict[str, np.ndarray]:
    """Characters and repeats of texts; adds words, characters and the inventory to the sums."""
    count = len(texts)
    ascii_ = np.array([text.isascii() and len(text) < _LONGEST for text in texts], dtype=bool)
    joined = "\n".join(text if good else "" for text, good in zip(texts, ascii_.tolist(), strict=True)) + "\n"
    raw = np.frombuffer(joined.encode("ascii"), np.uint8)
    ends = np.flatnonzero(raw == _BREAK) if count else np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1]) if count else ends
    filled = ends > starts
    lengths = ends - starts

    def inside(flags: np.ndarray) -> np.ndarray:
        """How many of the flags of neighbours ``(n - 1,)`` are set within each text."""
        sums = np.concatenate([[0], np.cumsum(flags, dtype=np.int32)])
        return np.where(filled, sums[np.maximum(ends - 1, starts)] - sums[starts], 0) if count else lengths

    equal = raw[1:] == raw[:-1]
    lower = (raw >= 97) & (raw <= 122)
    folded = np.where(lower, raw - 32, raw)
    space = raw == _SPACE
    # White space is in ASCII the space alone, since controls are refused.
    untidy = inside(equal & space[1:]) > 0
    untidy |= filled & (space[np.minimum(starts, len(raw) - 1)] | space[np.maximum(ends - 1, 0)])
    plain = np.where(ascii_ & ~untidy, sum(CASE_BITS.values()), 0).astype(np.uint8)
    repeats, folds = inside(equal), inside(folded[1:] == folded[:-1])
    tidy = plain > 0
    words = inside(space[1:])[tidy & filled] + 1
    found.words += int(words.sum())
    found.spaced += int(lengths[tidy].sum())
    counts = np.bincount(raw, minlength=128)
    found.inventory.update({chr(code): int(counts[code]) for code in np.flatnonzero(counts).tolist() if code != _BREAK})
    lengths = lengths.copy()
    for row in np.flatnonzero(~tidy).tolist():
        text = texts[row]
        if not ascii_[row]:
            found.inventory.update(text)
        split = " ".join(text.split())
        found.words += len(text.split())
        found.spaced += len(split)
        plain[row], lengths[row], repeats[row], folds[row] = _measure_one(text, split)
    return {"characters": lengths, "repeats": repeats, "folded": folds, "plain": plain}


def _measure_one(text: str, split: str) -> tuple[int, int, int, int]:
    """Case rules for which a text's numbers are right, and these: characters, repeats, repeats in upper case."""
    if text != split or len(text) >= _LONGEST or not unicodedata.is_normalized("NFC", text):
        return 0, 0, 0, 0
    upper, low = text.upper(), text.lower()
    cases, repeats, folded = CASE_BITS["keep"], _count_repeats(text), 0
    if len(upper) == len(text) and unicodedata.is_normalized("NFC", upper):
        cases, folded = cases | CASE_BITS["upper"], _count_repeats(upper)
        if len(low) == len(text) and unicodedata.is_normalized("NFC", low) and _count_repeats(low) == folded:
            cases |= CASE_BITS["lower"]
    return cases, len(text), repeats, folded


def _count_repeats(text: str) -> int:
    return sum(map(operator.eq, text, text[1:]))


def parse_manifest_line(data: bytes, folder: str) -> Utterance:
    """The utterance of one line that was read before. Raises ``ManifestError``."""
    item = parse_line(data.removeprefix(b"\xef\xbb\xbf"), 2, folder)
    if item is None:
        raise ManifestError("expected one JSON object, got a blank line")
    return item


def serve_lines(descriptor: int, parent: int) -> None:
    """Index parts of a manifest for the process ``parent`` until it hangs up: (path, begin, end, folder) each."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    try:
        while True:
            path, begin, end, folder = connection.recv()
            with open(path, "rb") as file:
                file.seek(begin)
                data = file.read(end - begin)
            connection.send(index_lines(data, begin, folder, begin == 0))
    except (EOFError, OSError):
        return
