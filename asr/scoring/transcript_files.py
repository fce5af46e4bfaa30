"""Reads files of references and hypotheses: texts by utterance or recording, and words by segment.

The format is recognised by content, or by suffix where the content is ambiguous:

- JSON lines: objects with ``id`` and the key named by the role (``reference``, ``hypothesis``) or else ``text``
  (manifests; of other keys only ``speaker`` is read), or transcripts as ``asr transcribe --format json`` writes them;
- the JSON of ``asr evaluate`` and ``asr score``: an object whose ``utterances`` are such objects;
- ``.trn``: ``words (id)``; Kaldi ``text``: ``id words``; plain text, a line for each utterance, if that option is on;
- ``.stm``: segments with times and speakers; ``.ctm``: words with times (NIST);
- ``.srt``, ``.vtt``, ``.TextGrid``: one recording, named by the file;
- a folder of transcripts in any format of ``asr.formats``, as ``asr transcribe --output-dir`` fills it: one recording
  for each file, whose path without suffix is its id.

A line with an id and no words is an empty text and is kept; blank lines are skipped. All of it is UTF-8, or UTF-16 with
a byte order mark. Errors are ``ManifestError``s naming file and line.
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from asr import formats
from asr.errors import ManifestError
from asr.files import read_limited, recording_name, split_fields, split_lines
from asr.transcript import Transcript

Role = Literal["reference", "hypothesis"]
IGNORED = "ignore_time_segment_in_scoring"
"""The text of an STM segment that is not scored, and whose words are not either."""
SUMMARY_NAME = re.compile(r"summary(\.\d+-of-\d+)?\.json")
"""What ``asr transcribe --output-dir`` writes beside the transcripts."""
COMMENT = ";;"
MOST_BYTES = 1 << 30
"""Of a file of transcripts."""
PLAIN_HINT = "are these lines without ids? asr score --plain takes line by line"


@dataclass(frozen=True)
class Segment:
    """A line of an STM file; ``channel`` from 1."""

    recording: str
    channel: int
    speaker: str
    start_s: float
    end_s: float
    text: str

    @property
    def ignored(self) -> bool:
        return self.text.lower() == IGNORED

    @property
    def id(self) -> str:
        return f"{self.recording}_{self.channel}_{self.start_s:.2f}-{self.end_s:.2f}"


@dataclass(frozen=True)
class TranscriptFile:
    """What a file holds: ``texts`` and, where they are known, ``speakers`` by id.

    ``segments``: of an STM file. ``recordings``: of a file with times. ``single``: it holds one recording, named by the
    file's name. ``sparse``: a recording without words leaves no trace in it. ``named``: the texts come from the key
    that the role names. ``plain``: ids are the numbers of lines. ``kaldi``: ids are the first words of lines, which may
    in fact have no ids. ``rules``: the rules that a report was scored by (``asr.scoring.rules.Rules``).
    """

    path: str
    texts: dict[str, str]
    speakers: dict[str, str] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    recordings: tuple[Transcript, ...] = ()
    single: bool = False
    sparse: bool = False
    named: bool = False
    plain: bool = False
    kaldi: bool = False
    rules: Any = None


def read(path: str | Path, role: Role = "hypothesis", *, plain: bool = False) -> TranscriptFile:
    """Read a file or folder; see the module. ``plain``: each line is an utterance, blank ones included.

    Raises ``ManifestError`` naming file and line for anything malformed, for duplicate ids, and for an empty file.
    """
    if os.path.isdir(path):
        return _folder(Path(path))
    content = _content(path)
    if plain:
        rows = content.removesuffix("\n").split("\n") if content else []
        return TranscriptFile(str(path), {str(i): _clean(row) for i, row in enumerate(rows, 1)}, plain=True)
    suffix = PurePath(path).suffix.lower()
    if suffix not in (".stm", ".trn") and content.lstrip().startswith("{"):
        return _json(path, content, role)
    if suffix == ".stm":
        return _stm(path, content)
    kind = _kind(suffix, content)
    if kind is not None:
        return _formatted(path, content, kind)
    lines = [(number, line) for number, line in enumerate(split_lines(content), start=1) if line.strip()]
    uncommented = [numbered for numbered in lines if not numbered[1].startswith(COMMENT)]
    if suffix == ".trn" or _looks_like_trn([line for _, line in uncommented]):
        return TranscriptFile(str(path), _texts(path, _line_entries(path, uncommented, _trn_entry)))
    texts = _texts(path, _line_entries(path, lines, _kaldi_entry), hint=f"; {PLAIN_HINT}")
    return TranscriptFile(str(path), texts, kaldi=True)


def _folder(folder: Path) -> TranscriptFile:
    recordings: list[tuple[str, Transcript]] = []
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        kind = formats.of_file(path)
        if kind is None or not os.path.isfile(path) or SUMMARY_NAME.fullmatch(path.name):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        for recording in _read_as(path, _content(path), kind, name):
            if name in texts:
                raise ManifestError(f"{path}: expected one recording for each file name, got {name!r} again")
            texts[name] = _clean(recording.text)
            recordings.append((name, recording))
    if not texts:
        suffixes = ", ".join(kind.suffix for kind in formats.FORMATS.values())
        raise ManifestError(f"{folder}: expected a folder of transcripts ({suffixes}), got none")
    return TranscriptFile(str(folder), texts, recordings=tuple(_named(recordings)))


def _kind(suffix: str, content: str) -> formats.Format | None:
    """The format of ``asr.formats`` that suffix or content tell, if it has times."""
    if content.startswith("WEBVTT"):
        return formats.FORMATS["vtt"]
    if content.startswith('File type = "ooTextFile"'):
        return formats.FORMATS["textgrid"]
    found = formats.of_file(f"a{suffix}")
    return found if found and found.timed and found.suffix != ".json" else None


def _read_as(path: str | Path, content: str, kind: formats.Format, name: str) -> list[Transcript]:
    try:
        return kind.read(content, name)
    except ManifestError as error:
        raise ManifestError(f"{path}:{error}") from error


def _formatted(path: str | Path, content: str, kind: formats.Format) -> TranscriptFile:
    found = _read_as(path, content, kind, PurePath(path).stem)
    places = _places([recording.source for recording in found]) if kind.suffix == ".json" else None
    recordings = _named(list(zip(places, found, strict=True))) if places else found
    ids = _ids(recordings)
    entries = ((str(path), id, recording.text) for id, recording in zip(ids, recordings, strict=True))
    texts = _texts(path, entries)
    return TranscriptFile(
        str(path), texts, recordings=tuple(recordings), single=not kind.shared, sparse=kind.suffix == ".ctm"
    )


def _named(recordings: Sequence[tuple[str, Transcript]]) -> list[Transcript]:
    """With the name of the recording in the place of its path; ``recordings``: each with its place in the folder or
    file, which it is called by where several recordings have one name."""
    names = [recording_name(recording.source) for _, recording in recordings]
    places: dict[tuple[str, int], set[str]] = {}
    for name, (place, recording) in zip(names, recordings, strict=True):
        places.setdefault((name, recording.channel), set()).add(place)
    several = {name for (name, _), found in places.items() if len(found) > 1}
    return [
        replace(recording, source=place if name in several else name)
        for name, (place, recording) in zip(names, recordings, strict=True)
    ]


def _places(sources: Sequence[str]) -> list[str]:
    """Paths of recordings below the folder that they have in common, without the suffix."""
    paths = [PurePath(source) for source in sources]
    levels = zip(*(path.parent.parts for path in paths), strict=False)
    depth = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return [PurePath(*path.parts[depth:-1], recording_name(path.name)).as_posix() for path in paths]


def _ids(recordings: Sequence[Transcript]) -> list[str]:
    """Their names, with the channel where a recording has several."""
    count = Counter(recording.source for recording in recordings)
    return [f"{r.source}.ch{r.channel}" if r.channel and count[r.source] > 1 else r.source for r in recordings]


def _stm(path: str | Path, content: str) -> TranscriptFile:
    segments = []
    for number, line in enumerate(split_lines(content), start=1):
        if line.strip() and not line.startswith(COMMENT):
            segments.append(_segment(f"{path}:{number}", line))
    if not segments:
        raise ManifestError(f"{path}: expected transcripts, got an empty file")
    groups: dict[tuple[str, int], list[Segment]] = {}
    for segment in sorted(segments, key=lambda segment: segment.start_s):
        groups.setdefault((segment.recording, segment.channel), []).append(segment)
    joined = [
        Transcript(" ".join(s.text for s in group if not s.ignored), (), 0.0, name, channel=number)
        for (name, number), group in groups.items()
    ]
    texts = {id: _clean(recording.text) for id, recording in zip(_ids(joined), joined, strict=True)}
    return TranscriptFile(str(path), texts, segments=tuple(segments))


def _segment(where: str, line: str) -> Segment:
    fields = split_fields(line, 5)
    if len(fields) < 5:
        raise ManifestError(f"{where}: expected recording, channel, speaker, start, end and words, got {line[:60]!r}")
    try:
        start_s, end_s = float(fields[3]), float(fields[4])
    except ValueError:
        start_s = end_s = math.nan
    if not (math.isfinite(start_s) and math.isfinite(end_s) and 0 <= start_s <= end_s):
        raise ManifestError(
            f"{where}: expected start and end in seconds, got {fields[3][:20]!r} and {fields[4][:20]!r}"
        )
    text = re.sub(r"^<[^<>]*>", "", fields[5]) if len(fields) > 5 else ""
    return Segment(fields[0], formats.channel(fields[1], where), fields[2], start_s, end_s, _clean(text))


_Entry = tuple[str, str, str]
"""Where it stands (file:line), id, text."""


def _texts(path: str | Path, entries: Iterable[_Entry], hint: str = "") -> dict[str, str]:
    transcripts: dict[str, str] = {}
    for where, id, words in entries:
        if id in transcripts:
            raise ManifestError(f"{where}: expected each id once, got {id!r} again{hint}")
        transcripts[id] = _clean(words)
    if not transcripts:
        raise ManifestError(f"{path}: expected transcripts, got an empty file")
    return transcripts


def _clean(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _content(path: str | Path) -> str:
    try:
        data = read_limited(path, MOST_BYTES)
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the transcripts: {error}") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Praat saves what is not ASCII
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}:{line}: expected UTF-8, got {error}; convert the file to UTF-8") from error


def _json(path: str | Path, content: str, role: str) -> TranscriptFile:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None  # more than one object: a line each, and a malformed one is named below
    records = list(_json_records(path, content, document))
    if records and all(isinstance(record, dict) and "id" not in record for _, record in records):
        kind = formats.FORMATS["json"]
        if all("source" in record for _, record in records):
            return _formatted(path, content, kind)
    texts = _texts(path, (_json_entry(where, record, role) for where, record in records))
    speakers = {r["id"]: r["speaker"] for _, r in records if isinstance(r.get("speaker"), str) and r["speaker"]}
    named = all(role in record for _, record in records)
    rules = document.get("rules") if isinstance(document, dict) and "utterances" in document else None
    return TranscriptFile(str(path), texts, speakers, named=named, rules=rules)


def _json_records(path: str | Path, content: str, document: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict) and "utterances" in document:
        records = document["utterances"]
        if not isinstance(records, list):
            raise ManifestError(f"{path}: utterances: expected a list, got {type(records).__name__}")
        yield from ((f"{path}: utterances[{i}]", record) for i, record in enumerate(records))
        return
    if isinstance(document, dict):
        yield f"{path}:1", document
        return
    for number, line in enumerate(split_lines(content), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ManifestError(f"{where}: expected a JSON object, got {line.strip()[:60]!r}: {error}") from error


def _json_entry(where: str, record: Any, role: str) -> _Entry:
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: expected a JSON object with id and text, got {record!r:.60}")
    key = role if role in record else "text"
    for name in ("id", key):
        if name not in record:
            wanted = "id" if name == "id" else f"{role} or text"
            raise ManifestError(f"{where}: expected the key {wanted}, got {', '.join(record) or 'none'}")
        if not isinstance(record[name], str):
            raise ManifestError(f"{where}: {name}: expected a string, got {record[name]!r:.60}")
    return where, record["id"], record[key]


def _line_entries(
    path: str | Path, lines: Iterable[tuple[int, str]], parse: Callable[[str, str], tuple[str, str]]
) -> Iterator[_Entry]:
    for number, line in lines:
        where = f"{path}:{number}"
        yield where, *parse(where, line)


def _looks_like_trn(lines: Sequence[str]) -> bool:
    """Every line ends in ``(id)``, each id once; and not an ``(aside)`` behind what has an id in front."""
    entries = [_trn(line) for line in lines]
    ids = [entry[0] for entry in entries if entry]
    if len(ids) < len(lines) or len(set(ids)) < len(ids):
        return False
    return any(map(_numbered, ids)) or not any(_numbered(line.split()[0]) for line in lines)


def _numbered(id: str) -> bool:
    return any(c.isdigit() for c in id)


def _trn_entry(where: str, line: str) -> tuple[str, str]:
    entry = _trn(line)
    if not entry:
        raise ManifestError(f"{where}: expected words and (id), got {line.strip()[:60]!r}")
    return entry


def _trn(line: str) -> tuple[str, str] | None:
    """(id, words) of a line that ends in ``(id)``, or None."""
    words, bracket, rest = line.rstrip().rpartition("(")
    id = rest[:-1]
    return (id, words) if bracket and rest.endswith(")") and id and not set(id) & set(") \t") else None


def _kaldi_entry(where: str, line: str) -> tuple[str, str]:
    id, *words = split_fields(line, 1)
    return id, "".join(words)


def first_few(names: Sequence[str]) -> str:
    """Names for a message: five of them, and a sign that there are more."""
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
