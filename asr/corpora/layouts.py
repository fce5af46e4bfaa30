"""How corpora lay out recordings and transcripts: what recipes and ``asr init`` read.

Each reader gives ``Clip``s: utterances without durations. ``measure_durations`` adds the durations.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import soundfile
from tqdm import tqdm

from asr.audio.read import probe_audio
from asr.corpora.text_files import read_lines, read_table, read_text, table
from asr.data.manifest import Utterance
from asr.errors import AudioError, ManifestError, TextError
from asr.files import split_fields, write_text
from asr.subtitles import read_cues
from asr.text.written_out import spoken

LONGEST_S = 1e9
"""No recording lasts longer: 30 years."""
EXTENSIONS = tuple(
    f".{name}"
    for name in (
        "wav",
        "flac",
        "opus",
        "ogg",
        "mp3",
        "sph",
        "wv1",
        "aiff",
        *sorted(map(str.lower, soundfile.available_formats())),
    )
)
SETS = {
    "train": ("train", "training", "tr"),
    "valid": ("valid", "validation", "dev", "val", "development", "cv"),
    "test": ("test", "testing", "eval", "evaluation"),
}
OVERRUN_S = 0.5
"""How far a segment may reach beyond its recording: transcripts round, and it is cut there."""


@dataclass(frozen=True)
class Clip:
    """What a recipe knows about one utterance; ``run_recipe`` measures its duration.

    ``audio`` may lack its extension: see ``find_audio``. ``start_s`` and ``end_s`` as in a manifest.
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    """Counted from 0; None: the mean of all."""
    fault: str = ""
    """Why it cannot be used: ``measure_durations`` leaves it out by name."""
    recording: str = ""
    """What Kaldi and RTTM files call the recording, where that is not the name of its file."""


def find_audio(stem: Path) -> Path:
    """The audio file of this name, with any extension that libsndfile reads: corpora come re-encoded.

    ``stem`` is a path without its extension, or with one: that file is taken first. Raises ``AudioError``.
    """
    if os.path.isfile(stem):  # unlike those of pathlib it answers no to a name that is too long
        return stem
    for name in (stem, stem.with_suffix("")) if stem.name else ():
        for extension in EXTENSIONS:
            path = name.with_name(name.name + extension)
            if os.path.isfile(path):
                return path
    raise AudioError(f"{stem}: no audio file of this name (with any of the extensions that libsndfile reads)")


def same_keys(folder: Path, **tables: Mapping[str, object]) -> None:
    """Raise ``ManifestError`` unless the tables have the same keys, naming the first that one of them lacks."""
    for name, keys in tables.items():
        missing = set().union(*tables.values()) - set(keys)
        if missing:
            raise ManifestError(f"{folder / name}: nothing for {min(missing)!r} (and {len(missing) - 1} more)")


Length: TypeAlias = "tuple[Path, float, int] | AudioError"
"""The file that an ``Clip`` names, its seconds and channels, or why they cannot be had."""


def probe_length(items: Sequence[Clip], workers: int = 8) -> dict[Path, Length]:
    """Read the headers of the items' audio files in ``workers`` threads, each file once."""

    def look(path: Path) -> Length:
        try:
            found = find_audio(path)
            info = probe_audio(found)
            return found, info.duration_s, info.channels
        except AudioError as error:
            return error

    paths = list(dict.fromkeys(item.audio for item in items))
    with ThreadPoolExecutor(workers) as pool:
        found = tqdm(pool.map(look, paths), "measuring", len(paths), disable=None, leave=False)
        return dict(zip(paths, found, strict=True))


def measure_durations(
    items: Sequence[Clip], lengths: Mapping[Path, Length] | None = None
) -> tuple[list[Utterance], dict[str, str]]:
    """Items as utterances, in their order, and what is wrong with the others, by id.

    ``lengths``: from ``probe_length``, where it was called for more items than these.
    """
    known = probe_length(items) if lengths is None else lengths
    utterances: list[Utterance] = []
    failures: dict[str, str] = {}
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            failures[f"{item.id} (again)"] = (
                f"{item.audio}: {item.text[:60]!r}: its id is that of an utterance before it"
            )
            continue
        seen.add(item.id)
        if item.fault:
            failures[item.id] = item.fault
            continue
        answer = known[item.audio]
        if isinstance(answer, AudioError):
            failures[item.id] = str(answer)
            continue
        path, whole_s, channels = answer
        if (item.channel or 0) >= channels:
            failures[item.id] = f"{path}: channel {item.channel}, counted from 0, and it has {channels}"
            continue
        channel = item.channel if channels > 1 else None
        end_s = item.end_s
        if end_s is not None and whole_s < end_s <= whole_s + OVERRUN_S:
            end_s = whole_s
        if item.start_s >= (end_s or whole_s) or (end_s or 0.0) > whole_s:
            failures[item.id] = f"{path}: {item.start_s:g} to {item.end_s} s, and it lasts {whole_s:.2f} s"
            continue
        duration_s = (whole_s if end_s is None else end_s) - item.start_s
        try:
            utterances.append(
                Utterance(item.id, str(path), item.text, duration_s, item.speaker, item.start_s, end_s, channel)
            )
        except ManifestError as error:
            failures[item.id] = str(error)
    return utterances, failures


def ffmpeg_command(path: str, channel: int | None = None) -> str:
    """The entry of a ``wav.scp`` that has ffmpeg turn the file ``path``, or a channel of it, into WAV: what ``asr
    export`` writes."""
    chosen = "" if channel is None else f" -af 'pan=mono|c0=c{channel}'"
    return f"ffmpeg -v error -nostdin -i {shlex.quote(path)}{chosen} -f wav - |"


def _of_command(entry: str) -> tuple[str, int | None]:
    """Path and channel that ``ffmpeg_command`` made this entry of; any other as it is, and no command is ever run."""
    try:
        fields = shlex.split(entry)
    except ValueError:
        return entry, None
    chosen = re.fullmatch(r"pan=mono\|c0=c([0-9]{1,4})", fields[7]) if len(fields) > 7 else None
    channel = int(chosen[1]) if chosen else None
    return (fields[5], channel) if fields[5:] and ffmpeg_command(fields[5], channel) == entry else (entry, None)


def kaldi(folder: Path, root: Path | None = None) -> list[Clip]:
    """A Kaldi data directory: ``text``, ``wav.scp``, and ``segments`` and ``utt2spk`` where they are there.

    Relative audio paths are taken from ``root`` (default: ``folder``, or the nearest folder above it that has the first
    of them). Raises ``ManifestError``, also for a ``wav.scp`` that runs other commands than ``ffmpeg_command``'s.
    """
    texts, entries = read_table(folder / "text"), read_table(folder / "wav.scp")
    read = {name: _of_command(entry) for name, entry in entries.items()}
    recordings = {name: path for name, (path, _) in read.items()}
    channels = {name: channel for name, (_, channel) in read.items()}
    speakers = read_table(folder / "utt2spk") if os.path.isfile(folder / "utt2spk") else {}
    for name, path in recordings.items():
        if path.endswith("|"):
            raise ManifestError(
                f"{folder / 'wav.scp'}: {name!r} is the output of a command, and commands are "
                f"not run; write the audio to a file and name it: {path}"
            )
    if root is None:
        first = next(iter(recordings.values()), "")
        above = (folder, *folder.absolute().parents[:3])
        root = next((path for path in above if first and os.path.exists(path / first)), folder)
    if not os.path.isfile(folder / "segments"):
        same_keys(folder, text=texts, **{"wav.scp": recordings})
        return [
            Clip(key, root / recordings[key], texts[key], speakers.get(key, ""), channel=channels[key], recording=key)
            for key in texts
        ]
    items = []
    for key, line in read_table(folder / "segments").items():
        fields = split_fields(line)
        if len(fields) not in (3, 4) or fields[0] not in recordings:
            raise ManifestError(
                f"{folder / 'segments'}: {key}: expected a recording of wav.scp and two times, and a channel where it "
                f"has several, got {line!r}"
            )
        start_s, end_s = (_seconds(field, folder / "segments", key) for field in fields[1:3])
        if key not in texts:
            raise ManifestError(f"{folder / 'text'}: nothing for {key!r}")
        items.append(
            Clip(
                key,
                root / recordings[fields[0]],
                texts[key],
                speakers.get(key, ""),
                start_s,
                None if end_s == -1 else end_s,  # -1: to the end of the recording
                _channel(fields[3], folder / "segments", key) if fields[3:] else channels[fields[0]],
                recording=fields[0],
            )
        )
    return items


def _channel(field: str, path: Path, key: str) -> int:
    """Kaldi counts channels from 0; A and B are those of a telephone call."""
    if field in ("A", "B"):
        return "AB".index(field)
    if not re.fullmatch("[0-9]{1,4}", field):
        raise ManifestError(f"{path}: {key}: expected a channel (0, 1, … or A, B), got {field!r}")
    return int(field)


def seconds(value: object) -> float:
    """A time from a table. Raises ``ValueError`` for what is no number, or none that a recording can have."""
    try:
        number = float(str(value))
    except OverflowError:
        number = math.inf
    if not -LONGEST_S < number < LONGEST_S:
        raise ValueError(f"expected seconds, got {str(value)[:60]!r}")
    return number


def _seconds(field: str, path: Path, key: str) -> float:
    try:
        return seconds(field)
    except ValueError as error:
        raise ManifestError(f"{path}: {key}: expected seconds, got {field[:60]!r}") from error


def librispeech(folder: Path) -> list[Clip]:
    """A subset of LibriSpeech's layout: ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside the audio."""
    return [clip for path in sorted(folder.glob("*/*/*.trans.txt")) for clip in librispeech_chapter(path)]


def librispeech_chapter(path: Path) -> list[Clip]:
    """A chapter of LibriSpeech: its ``.trans.txt``, with the audio beside it."""
    return [Clip(key, path.with_name(key), text, key.split("-")[0]) for key, text in read_table(path).items()]


def ljspeech(path: Path) -> list[Clip]:
    """LJSpeech's ``metadata.csv`` (``id|text|normalised text``, or without the last) with the audio in ``wavs/``."""
    items = []
    for number, line in enumerate(read_lines(path), start=1):
        name, _, texts = line.partition("|")
        if not texts:
            raise ManifestError(f"{path}:{number}: expected 'id|text' or 'id|text|normalised text', got {line!r}")
        said = next((text for text in reversed(texts.split("|")) if text.strip()), "")
        items.append(Clip(name, path.parent / "wavs" / name, said))
    return items


def common_voice(path: Path, left_out: dict[str, str] | None = None) -> list[Clip]:
    """A table of Common Voice (``train.tsv``, …) with its audio in ``clips/``; the speaker is the client.

    ``left_out`` gets the rows that are broken, as in ``table``.
    """
    items = []
    for row in table(path, left_out):
        if not row.get("path") or row.get("sentence") is None:
            raise ManifestError(f"{path}: expected columns path and sentence, got {', '.join(row)}")
        clip = row["path"]
        items.append(
            Clip(Path(clip).stem, path.parent / "clips" / clip, row["sentence"], row.get("client_id", "")[:16])
        )
    return items


def subtitles(path: Path, sound: Path) -> list[Clip]:
    """Cues of a SubRip or WebVTT file as utterances of the recording ``sound``; formatting is left out."""
    cues = enumerate(read_cues(read_text(path)), start=1)
    return [Clip(f"{path.stem}-{i:04}", sound, cue.text, cue.speaker, cue.start_s, cue.end_s) for i, cue in cues]


def as_spoken(item: Clip, language: str = "en") -> Clip:
    """``item`` with its text as spoken in ``language``. If ``asr.text.written_out`` does not understand the text, the
    reason is the ``fault`` of the result."""
    try:
        return replace(item, text=spoken(item.text, language))
    except TextError as error:
        return replace(item, fault=str(error))


def left_out_lines(failures: Mapping[str, str]) -> list[str]:
    """What is left out and why, a line each: a newline in a name is written as ``\\n``."""
    lines = (f"{name}: {reason}" for name, reason in failures.items())
    return ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in lines]


def write_left_out(path: Path, failures: Mapping[str, str]) -> list[str]:
    """Write what is left out and why, a line each, which are returned; no file where nothing is."""
    lines = left_out_lines(failures)
    if lines:
        write_text(path, "\n".join(lines) + "\n")
    else:
        path.unlink(missing_ok=True)
    return lines


def set_name(word: str) -> str:
    """``train``, ``valid`` or ``test`` for what people call them; otherwise nothing."""
    first = word.lower().replace("_", "-").split("-")[0]
    return next((name for name, words in SETS.items() if first in words), "")


def content_checksum(name: str) -> float:
    """A number from 0 to 1 that is the same for the same name everywhere, and as good as random."""
    return zlib.crc32(name.encode(errors="surrogateescape")) / 2**32


def by_name(items: Iterable[Clip], shares: Mapping[str, float]) -> dict[str, list[Clip]]:
    """Sets of about these shares, the speakers apart where they are named, drawn by a checksum of the name.

    What is drawn for a speaker (or an utterance) does not depend on the others: a corpus that grows keeps its test set.
    """
    sets: dict[str, list[Clip]] = {name: [] for name in shares}
    for item in items:
        place = content_checksum(item.speaker or item.id) * sum(shares.values())
        names = iter(shares)
        name = next(names)
        while (place := place - shares[name]) >= 0:
            name = next(names)
        sets[name].append(item)
    return sets
