"""What a folder of recordings and transcripts is laid out like: the first half of ``asr init``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr import layouts
from asr.errors import AsrError, ManifestError
from asr.layouts import EXTENSIONS, Item

AUDIO = frozenset(EXTENSIONS) | {".m4a", ".mp4", ".mkv", ".webm", ".mov", ".aac", ".wma"}
SUBTITLES = (".srt", ".vtt")
TRANSCRIPTS = (".txt", ".lab")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
COLUMNS = {
    "audio": ("audio", "audio_filepath", "path", "file", "filename", "file_name", "wav", "wav_filename", "audio_path",
              "audio_file", "clip", "recording", "sound"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text", "normalised_text", "words", "label",
             "utterance"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "client_id", "user", "user_id", "reader", "reader_id"),
    "start_s": ("start_s", "start", "start_time", "begin", "offset"),
    "end_s": ("end_s", "end", "end_time", "stop"),
    "set": ("split", "set", "subset", "partition"),
    "id": ("id", "utt_id", "utterance_id", "key"),
}  # fmt: skip
"""Names of columns, in the order they are preferred."""
SETS = {
    "train": ("train", "training", "tr"),
    "valid": ("valid", "validation", "dev", "val", "development", "cv"),
    "test": ("test", "testing", "eval", "evaluation"),
}
LEAST_FILES = 2
"""Files that each of several folders must have to be taken for a speaker."""


@dataclass
class Found:
    """What was understood: ``kind`` in words, utterances by set (``""``: it names none), remarks, what is left out."""

    kind: str
    sets: dict[str, list[Item]]
    remarks: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def items(self) -> list[Item]:
        return [item for items in self.sets.values() for item in items]


def detect(folder: Path) -> Found:
    """The layout of ``folder``, the first that gives utterances of: Kaldi, LibriSpeech, LJSpeech, tables (Common Voice,
    NeMo and this package's manifests among them), transcripts beside audio, subtitles beside media.

    Raises ``ManifestError`` with what was looked for where nothing fits, and for a layout that is there but broken.
    """
    if not os.path.isdir(folder):
        raise ManifestError(f"{folder}: expected a folder of recordings with transcripts")
    for reader in (_kaldi, _librispeech, _ljspeech, _tables, _beside, _subtitles):
        found = reader(folder)
        if found is not None and found.items:
            _leftovers(folder, found)
            return found
    count = sum(1 for _ in _audio_files(folder))
    raise ManifestError(
        f"{folder}: {count} audio files, and no transcripts that are understood; expected a .txt, .lab, .srt or .vtt "
        "file of the same name for each, a table (CSV, TSV, JSON lines) with a column of paths and one of texts, "
        "Kaldi's text and wav.scp, or LJSpeech's metadata.csv"
    )


def set_name(word: str) -> str:
    """``train``, ``valid`` or ``test`` for what people call them; otherwise nothing."""
    first = word.lower().replace("_", "-").split("-")[0]
    return next((name for name, words in SETS.items() if first in words), "")


def _kaldi(folder: Path) -> Found | None:
    places = [p.parent for p in sorted(folder.rglob("wav.scp")) if os.path.isfile(p.parent / "text")]
    if not places:
        return None
    sets: dict[str, list[Item]] = {}
    for place in places:
        name = set_name(place.name) if place != folder else ""
        sets.setdefault(name, []).extend(layouts.kaldi(place))
    return Found(f"Kaldi data ({', '.join(p.name for p in places)})", sets)


def _librispeech(folder: Path) -> Found | None:
    paths = sorted(folder.rglob("*.trans.txt"))
    sets: dict[str, list[Item]] = {}
    for place in sorted({path.parents[2] for path in paths}):
        sets.setdefault(set_name(place.name), []).extend(layouts.librispeech(place))
    return Found("LibriSpeech's layout", sets) if paths else None


def _ljspeech(folder: Path) -> Found | None:
    path = folder / "metadata.csv"
    if (
        not os.path.isfile(path)
        or not os.path.isdir(folder / "wavs")
        or "|" not in "".join(layouts.read_lines(path)[:1])
    ):
        return None
    return Found("LJSpeech's layout", {"": layouts.ljspeech(path)}, ["one speaker is assumed"])


def _tables(folder: Path) -> Found | None:
    sets: dict[str, list[Item]] = {}
    used: list[str] = []
    left_out: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in TABLES and os.path.isfile(p)):
        try:
            rows = list(_rows(path))
        except AsrError as error:
            left_out[str(path)] = str(error)
            continue
        # Of all rows: in JSON lines each names what it has, and only segments have an offset.
        names = dict.fromkeys(name for row in rows for name in row)
        columns = _columns(names)
        if not {"audio", "text"} <= columns.keys():
            if rows:
                left_out[str(path)] = f"no columns of audio and text among {', '.join(list(names)[:8])}"
            continue
        used.append(f"{path.name}: {', '.join(f'{theirs} as {ours}' for ours, theirs in columns.items())}")
        for number, row in enumerate(rows, start=1):
            item = _item(path, number, row, columns, left_out)
            name = set_name(str(row.get(columns.get("set", ""), ""))) or set_name(path.stem)
            if item:
                sets.setdefault(name, []).append(item)
    _unique(sets)
    return Found("a table of recordings", sets, used, left_out) if used else None


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from layouts.table(path)
        return
    for number, line in enumerate(layouts.read_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ManifestError(f"{path}:{number}: expected a JSON object on each line: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{path}:{number}: expected a JSON object on each line")
        if "offset" in row and "duration" in row and "end" not in row:  # NeMo's
            try:
                row["end"] = float(row["offset"]) + float(row["duration"])
            except (TypeError, ValueError) as error:
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
) -> Item | None:
    def value(name: str) -> str:
        found: object = row.get(columns.get(name, ""))
        return "" if found is None else str(found).strip()

    name = value("audio")
    if not name:
        left_out[f"{path}:{number}"] = "no path"
        return None
    places = (path.parent / name, path.parent / "clips" / name, path.parent / "wavs" / name, path.parent.parent / name)
    audio = next(filter(None, map(_located, places)), places[0])
    key = value("id") or f"{Path(name).with_suffix('')}".replace("/", "-").strip(".-")
    try:
        start_s, end_s = float(value("start_s") or 0), float(value("end_s")) if value("end_s") else None
    except ValueError:
        left_out[f"{path}:{number}"] = f"times that are no seconds: {value('start_s')!r} to {value('end_s')!r}"
        return None
    return Item(key, audio, value("text"), value("speaker")[:32], start_s, end_s)


def _located(path: Path) -> Path | None:
    try:
        return layouts.find_audio(path)
    except AsrError:
        return None


def _unique(sets: dict[str, list[Item]]) -> None:
    """Segments of one file have the file's name: number them."""
    count = Counter(item.id for items in sets.values() for item in items)
    for name, items in sets.items():
        sets[name] = [
            replace(item, id=f"{item.id}-{round(1000 * item.start_s):08}") if count[item.id] > 1 else item
            for item in items
        ]


def _beside(folder: Path) -> Found | None:
    items: list[Item] = []
    left_out: dict[str, str] = {}
    # Beside the audio, or in another folder under a name that is there once (VCTK's txt/ and wav48/).
    elsewhere: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in TRANSCRIPTS):
        elsewhere.setdefault(path.stem, []).append(path)
    for path in _audio_files(folder):
        same = elsewhere.get(path.stem, [])
        transcript = next((p for p in same if p.parent == path.parent), same[0] if len(same) == 1 else None)
        if transcript is None:
            continue
        try:
            text = " ".join(layouts.read_lines(transcript))
        except ManifestError as error:
            left_out[str(path)] = str(error)
            continue
        items.append(Item(_id(path, folder), path, text))
    if not items:
        return None
    return _by_folder(Found("a transcript of the same name for each recording", {"": items}, [], left_out), folder)


def _subtitles(folder: Path) -> Found | None:
    items: list[Item] = []
    left_out: dict[str, str] = {}
    for path in _audio_files(folder):
        cues = next((path.with_suffix(s) for s in SUBTITLES if os.path.isfile(path.with_suffix(s))), None)
        if cues is None:
            continue
        name = _id(path, folder)
        try:
            cut = layouts.subtitles(cues, path)
        except ManifestError as error:
            left_out[str(path)] = str(error)
            continue
        items += [
            replace(item, id=f"{name}-{number:04}", speaker=item.speaker or name)
            for number, item in enumerate(cut, start=1)
        ]
    remarks = ["each recording is taken for one speaker, so that no recording is in two sets"]
    return Found("subtitles beside recordings", {"": items}, remarks, left_out) if items else None


def _by_folder(found: Found, folder: Path) -> Found:
    """Sets and speakers as the folders' names tell."""
    parts = [item.audio.relative_to(folder).parts[:-1] for item in found.items]
    names = [next((set_name(part) for part in p if set_name(part)), "") for p in parts]
    rest = [tuple(part for part in p if not set_name(part)) for p in parts]
    folders = Counter(r[0] for r in rest if r)
    speakers = len(folders) > 1 and min(folders.values()) >= LEAST_FILES and all(rest)
    sets: dict[str, list[Item]] = {}
    for item, name, place in zip(found.items, names, rest, strict=True):
        sets.setdefault(name, []).append(replace(item, speaker=place[0]) if speakers else item)
    remark = f"{len(folders)} folders are taken for speakers" if speakers else "no speakers are known"
    return replace(found, sets=sets, remarks=[*found.remarks, remark])


def _id(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix().replace("/", "-").replace(" ", "_")


def _audio_files(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in AUDIO and os.path.isfile(p))


def _leftovers(folder: Path, found: Found) -> None:
    """Recordings that nothing speaks of, and utterances without words."""
    taken = {_stem(item.audio) for item in found.items}
    for path in _audio_files(folder):
        if _stem(path) not in taken and str(path) not in found.left_out:
            found.left_out[str(path)] = "no transcript"
    for name, items in found.sets.items():
        for item in items:
            if not item.text.strip():
                found.left_out[item.id] = "its transcript is empty"
        found.sets[name] = [item for item in items if item.text.strip()]


def _stem(path: Path) -> str:
    return str((path.with_suffix("") if path.suffix.lower() in AUDIO else path).absolute())
