"""How corpora lay out recordings and transcripts: what recipes and ``asr init`` read.

Each reader gives ``Item``s: utterances whose durations are not known yet; ``measure`` makes utterances of them.
"""

from __future__ import annotations

import csv
import os
import shlex
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import soundfile
from tqdm import tqdm

from asr import audio
from asr.errors import AudioError, ManifestError
from asr.lines import split_fields, split_lines
from asr.manifest import Utterance
from asr.subtitles import read_cues

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
OVERRUN_S = 0.5
"""How far a segment may reach beyond its recording: transcripts round, and it is cut there."""


@dataclass(frozen=True)
class Item:
    """What a recipe knows of one utterance; its duration is measured by ``main``.

    ``audio`` may lack its extension: see ``find_audio``. ``start_s`` and ``end_s`` as in a manifest.
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    start_s: float = 0.0
    end_s: float | None = None


def find_audio(stem: Path) -> Path:
    """The audio file of this name, with any extension that libsndfile reads: corpora come re-encoded.

    ``stem`` is a path without its extension, or with one: that file is taken first. Raises ``AudioError``.
    """
    if os.path.isfile(stem):
        return stem
    for name in (stem, stem.with_suffix("")):
        for extension in EXTENSIONS:
            path = name.with_name(name.name + extension)
            if os.path.isfile(path):
                return path
    raise AudioError(f"{stem}: no audio file of this name (with any of the extensions that libsndfile reads)")


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """A text file of the corpus, its line ends as they are. Raises ``ManifestError``."""
    try:
        return path.read_bytes().decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read: {error}") from error


def read_lines(path: Path, encoding: str = "utf-8-sig") -> list[str]:
    """The lines of a text file of the corpus that are not blank, stripped. Raises ``ManifestError``."""
    lines = (line.strip(" \t") for line in split_lines(read_text(path, encoding)))
    return [line for line in lines if line]


def read_table(path: Path, encoding: str = "utf-8-sig") -> dict[str, str]:
    """Lines of ``key rest``, as Kaldi's files have them. Raises ``ManifestError``, also for a key that comes twice."""
    table: dict[str, str] = {}
    for line in read_lines(path, encoding):
        key, *rest = split_fields(line, 1)
        if key in table:
            raise ManifestError(f"{path}: {key!r} is there twice")
        table[key] = rest[0] if rest else ""
    return table


def same_keys(folder: Path, **tables: Mapping[str, object]) -> None:
    """Raise ``ManifestError`` unless the tables have the same keys, naming the first that one of them lacks."""
    for name, table in tables.items():
        missing = set().union(*tables.values()) - set(table)
        if missing:
            raise ManifestError(f"{folder / name}: nothing for {min(missing)!r} (and {len(missing) - 1} more)")


Length: TypeAlias = "tuple[Path, float] | AudioError"
"""The file that an ``Item`` names and its seconds, or why they cannot be had."""


def probe(items: Sequence[Item], workers: int = 8) -> dict[Path, Length]:
    """Read the headers of the items' audio files in ``workers`` threads, each file once."""

    def info(path: Path) -> Length:
        try:
            found = find_audio(path)
            return found, audio.probe(found).duration_s
        except AudioError as error:
            return error

    paths = list(dict.fromkeys(item.audio for item in items))
    with ThreadPoolExecutor(workers) as pool:
        found = tqdm(pool.map(info, paths), "measuring", len(paths), disable=None, leave=False)
        return dict(zip(paths, found, strict=True))


def measure(
    items: Sequence[Item], lengths: Mapping[Path, Length] | None = None
) -> tuple[list[Utterance], dict[str, str]]:
    """Items as utterances, in their order, and what is wrong with the others, by id.

    ``lengths``: from ``probe``, where it was called for more items than these.
    """
    known = probe(items) if lengths is None else lengths
    utterances, failures = [], {}
    for item in items:
        answer = known[item.audio]
        if isinstance(answer, AudioError):
            failures[item.id] = str(answer)
            continue
        path, whole_s = answer
        end_s = item.end_s
        if end_s is not None and whole_s < end_s <= whole_s + OVERRUN_S:
            end_s = whole_s
        if item.start_s >= (end_s or whole_s) or (end_s or 0.0) > whole_s:
            failures[item.id] = f"{path}: {item.start_s:g} to {item.end_s} s, and it lasts {whole_s:.2f} s"
            continue
        duration_s = (whole_s if end_s is None else end_s) - item.start_s
        try:
            utterances.append(Utterance(item.id, str(path), item.text, duration_s, item.speaker, item.start_s, end_s))
        except ManifestError as error:
            failures[item.id] = str(error)
    return utterances, failures


def ffmpeg_command(path: str) -> str:
    """The entry of a ``wav.scp`` that has ffmpeg turn the file ``path`` into WAV: what ``asr export`` writes."""
    return f"ffmpeg -v error -nostdin -i {shlex.quote(path)} -f wav - |"


def _of_command(entry: str) -> str | None:
    """The path that ``ffmpeg_command`` made this entry of; None for any other, and no command is ever run."""
    try:
        path = shlex.split(entry)[5]
    except (ValueError, IndexError):
        return None
    return path if ffmpeg_command(path) == entry else None


def kaldi(folder: Path, root: Path | None = None) -> list[Item]:
    """A Kaldi data directory: ``text``, ``wav.scp``, and ``segments`` and ``utt2spk`` where they are there.

    Relative audio paths are taken from ``root`` (default: ``folder``, or the nearest folder above it that has the first
    of them). Raises ``ManifestError``, also for a ``wav.scp`` that runs other commands than ``ffmpeg_command``'s.
    """
    texts, recordings = read_table(folder / "text"), read_table(folder / "wav.scp")
    recordings = {name: _of_command(path) or path for name, path in recordings.items()}
    speakers = read_table(folder / "utt2spk") if os.path.isfile(folder / "utt2spk") else {}
    for name, path in recordings.items():
        if path.endswith("|"):
            raise ManifestError(f"{folder / 'wav.scp'}: {name!r} is the output of a command, which is not run: {path}")
    if root is None:
        first = next(iter(recordings.values()), "")
        above = (folder, *folder.absolute().parents[:3])
        root = next((path for path in above if first and os.path.exists(path / first)), folder)
    if not os.path.isfile(folder / "segments"):
        same_keys(folder, text=texts, **{"wav.scp": recordings})
        return [Item(key, root / recordings[key], texts[key], speakers.get(key, "")) for key in texts]
    items = []
    for key, line in read_table(folder / "segments").items():
        fields = split_fields(line)
        if len(fields) != 3 or fields[0] not in recordings:
            raise ManifestError(
                f"{folder / 'segments'}: {key}: expected a recording of wav.scp and two times, got {line!r}"
            )
        start_s, end_s = (_seconds(field, folder / "segments", key) for field in fields[1:])
        if key not in texts:
            raise ManifestError(f"{folder / 'text'}: nothing for {key!r}")
        items.append(Item(key, root / recordings[fields[0]], texts[key], speakers.get(key, ""), start_s, end_s))
    return items


def _seconds(field: str, path: Path, key: str) -> float:
    try:
        return float(field)
    except ValueError as error:
        raise ManifestError(f"{path}: {key}: expected seconds, got {field!r}") from error


def librispeech(folder: Path) -> list[Item]:
    """A subset of LibriSpeech's layout: ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside the audio."""
    items = []
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        for key, text in read_table(path).items():
            items.append(Item(key, path.with_name(key), text, key.split("-")[0]))
    return items


def ljspeech(path: Path) -> list[Item]:
    """LJSpeech's ``metadata.csv`` (``id|text|normalised text``, or without the last) with the audio in ``wavs/``."""
    items = []
    for number, line in enumerate(read_lines(path), start=1):
        name, _, texts = line.partition("|")
        if not texts:
            raise ManifestError(f"{path}:{number}: expected 'id|text' or 'id|text|normalised text', got {line!r}")
        items.append(Item(name, path.parent / "wavs" / name, texts.split("|")[-1]))
    return items


def common_voice(path: Path) -> list[Item]:
    """A table of Common Voice (``train.tsv``, …) with its audio in ``clips/``; the speaker is the client."""
    items = []
    for row in table(path):
        if not row.get("path") or row.get("sentence") is None:
            raise ManifestError(f"{path}: expected columns path and sentence, got {', '.join(row)}")
        clip = row["path"]
        items.append(
            Item(Path(clip).stem, path.parent / "clips" / clip, row["sentence"], row.get("client_id", "")[:16])
        )
    return items


def table(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV or TSV file with a header line, by column. Raises ``ManifestError``."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Common Voice does not quote in its TSV, and has sentences with a single quotation mark.
            quoting: Any = csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL
            head = file.readline()
            file.seek(0)
            delimiter = max("\t;|,", key=head.count)
            for row in csv.DictReader(file, delimiter=delimiter, quoting=quoting):
                if None in row or None in row.values():
                    raise ManifestError(f"{path}: a line with another number of columns than the first: {row}")
                yield {str(key).strip(): value.strip() for key, value in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot read the table: {error}") from error


def subtitles(path: Path, sound: Path) -> list[Item]:
    """Cues of a SubRip or WebVTT file as utterances of the recording ``sound``; formatting is left out."""
    cues = enumerate(read_cues(read_text(path)), start=1)
    return [Item(f"{path.stem}-{i:04}", sound, cue.text, cue.speaker, cue.start_s, cue.end_s) for i, cue in cues]


def write_left_out(path: Path, failures: Mapping[str, str]) -> list[str]:
    """Write what is left out and why, a line each, which are returned; no file where nothing is."""
    path.unlink(missing_ok=True)
    lines = [f"{name}: {reason}" for name, reason in failures.items()]
    if lines:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def checksum(name: str) -> float:
    """A number from 0 to 1 that is the same for the same name everywhere, and as good as random."""
    return zlib.crc32(name.encode(errors="surrogateescape")) / 2**32


def by_name(items: Iterable[Item], shares: Mapping[str, float]) -> dict[str, list[Item]]:
    """Sets of about these shares, the speakers apart where they are named, drawn by a checksum of the name.

    What is drawn for a speaker (or an utterance) does not depend on the others: a corpus that grows keeps its test set.
    """
    sets: dict[str, list[Item]] = {name: [] for name in shares}
    for item in items:
        place = checksum(item.speaker or item.id) * sum(shares.values())
        names = iter(shares)
        name = next(names)
        while (place := place - shares[name]) >= 0:
            name = next(names)
        sets[name].append(item)
    return sets
