"""Utterances from tables: CSV, TSV and JSON lines, with columns of any sensible name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from asr.corpora import layouts
from asr.corpora.layouts import Clip, set_name
from asr.corpora.text_files import read_lines, table
from asr.errors import AsrError, ManifestError

COLUMNS = {
    "audio": ("audio", "audio_filepath", "path", "file", "filename", "file_name", "wav", "wav_filename", "audio_path",
              "audio_file", "audio_filename", "clip", "recording", "sound"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text", "normalised_text", "words", "label",
             "utterance"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "client_id", "user", "user_id", "reader", "reader_id"),
    "start_s": ("start_s", "start", "start_time", "begin", "offset"),
    "end_s": ("end_s", "end", "end_time", "stop"),
    "set": ("split", "set", "subset", "partition"),
    "id": ("id", "utt_id", "utterance_id", "key"),
}  # fmt: skip
"""Names of columns, in the order they are preferred."""


def items(path: Path, left_out: dict[str, str]) -> tuple[dict[str, str], list[tuple[str, Clip]]]:
    """Which of the table's columns are what, and each utterance with the set that it is named for.

    What cannot be used, and why, goes to ``left_out``; a table without columns of audio and texts has no utterances.
    """
    try:
        rows = list(_rows(path, left_out))
    except AsrError as error:
        left_out[str(path)] = str(error)
        return {}, []
    # Of all rows: in JSON lines each names what it has, and only segments have an offset.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = _columns(names)
    if not {"audio", "text"} <= columns.keys():
        if rows:
            left_out[str(path)] = f"no columns of audio and text among {', '.join(list(names)[:8])}"
        return {}, []
    found = []
    for number, row in enumerate(rows, start=1):
        if item := _item(path, number, row, columns, left_out):
            found.append((set_name(str(row.get(columns.get("set", ""), ""))) or set_name(path.stem), item))
    return columns, found


def _rows(path: Path, left_out: dict[str, str]) -> Iterator[Mapping[str, object]]:
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from table(path, left_out)
        return
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}:{number}: expected a JSON object on each line: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{path}:{number}: expected a JSON object on each line")
        if "offset" in row and "duration" in row and "end" not in row:  # NeMo's
            try:
                row["end"] = layouts.seconds(row["offset"]) + layouts.seconds(row["duration"])
            except ValueError as error:
                raise ManifestError(f"{path}:{number}: offset and duration: expected seconds: {error}") from error
        yield row


def _columns(theirs: Iterable[str]) -> dict[str, str]:
    lower = {str(name).lower().strip().replace(" ", "_"): str(name) for name in theirs}
    found: dict[str, str] = {}
    for ours, names in COLUMNS.items():
        name = next((lower[candidate] for candidate in names if candidate in lower), None)
        if name is not None and name not in found.values():
            found[ours] = name
    return found


def _item(
    path: Path, number: int, row: Mapping[str, object], columns: dict[str, str], left_out: dict[str, str]
) -> Clip | None:
    def value(name: str) -> str:
        found: object = row.get(columns.get(name, ""))
        return "" if found is None else str(found).strip()

    name = value("audio")
    if not name:
        left_out[f"{path}:{number}"] = "no path"
        return None
    places = (path.parent / name, path.parent / "clips" / name, path.parent / "wavs" / name, path.parent.parent / name)
    audio = next(filter(None, map(_located, places)), places[0])
    key = value("id") or os.path.splitext(name)[0].replace("/", "-").strip(".-")
    try:
        start_s = layouts.seconds(value("start_s") or 0)
        end_s = layouts.seconds(value("end_s")) if value("end_s") else None
    except ValueError:
        left_out[f"{path}:{number}"] = f"times that are no seconds: {value('start_s')!r} to {value('end_s')!r}"
        return None
    # Only where it is ours: other tables count from 1.
    channel = row.get("channel") if "duration_s" in row else None
    if channel is not None and not isinstance(channel, int):
        left_out[f"{path}:{number}"] = f"channel: expected a whole number from 0, got {channel!r}"
        return None
    return Clip(key, audio, value("text"), value("speaker")[:32], start_s, end_s, channel)


def _located(path: Path) -> Path | None:
    try:
        return layouts.find_audio(path)
    except AsrError:
        return None
