"""Reads corrections for ``asr learn``: manifests, zips of the server's page, transcripts, recordings with a text.

Each input becomes utterances with audio on disk. What cannot be used is named, and the rest is read.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr.audio.archive_index import DAMAGED
from asr.corpora import detection, layouts
from asr.corpora.layouts import Clip
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, ManifestError, OutputError
from asr.files import AUDIO_SUFFIXES, read_limited
from asr.formats import read_transcript_json

ZIP_MANIFEST = "manifest.jsonl"
LARGEST_UNPACKED = 2 << 30
"""Bytes that a zip may become: some 18 hours of FLAC."""
MOST_PARTS = 100_000
LARGEST_TRANSCRIPT = 64 << 20


@dataclass
class Corrections:
    """Corrected utterances, and a reason by id or name for each that is left out."""

    utterances: list[Utterance] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, utterances: Sequence[Utterance], left_out: dict[str, str]) -> None:
        """More of them. An id that is there already gets a number behind it: several inputs may use the same."""
        taken = {utterance.id for utterance in self.utterances}
        for utterance in utterances:
            id, number = utterance.id, 1
            while id in taken:
                number += 1
                id = f"{utterance.id}-{number}"
            taken.add(id)
            self.utterances.append(utterance if id == utterance.id else replace(utterance, id=id))
        self.left_out |= left_out


def read_corrections(inputs: Sequence[str | Path], unpacked: Path) -> Corrections:
    """All corrections of ``inputs``.

    Args:
        inputs: each one of

            - a manifest (``.jsonl``);
            - a zip of the page of ``asr serve``, or the folder that it was unpacked to;
            - a transcript of ``asr transcribe --format json`` (``.json``) whose ``text`` was corrected. Its recording
              is what ``source`` names, or a file of that name beside the transcript;
            - a recording with a text file of the same name beside it (``a.wav`` and ``a.txt``), or a folder that
              ``asr init`` understands.
        unpacked: folder that zips are unpacked into.

    An input that cannot be read as a whole is left out by its name, so that the others are learnt from.

    Raises ``ManifestError`` for an input that is not there, and for a single one that cannot be read.
    """
    found = Corrections()
    for path in (Path(place) for place in inputs):
        if not os.path.exists(path):
            raise ManifestError(f"{path}: no such file or folder; expected corrections: {_KINDS}")
    for number, place in enumerate(inputs, start=1):
        try:
            found.add(*_read(Path(place), unpacked / str(number)))
        except ManifestError as error:
            if len(inputs) == 1:
                raise
            found.left_out[str(place)] = str(error)
    return found


def _read(path: Path, unpacked: Path) -> tuple[list[Utterance], dict[str, str]]:
    """The utterances of one input, and what is left out of it."""
    suffix = path.suffix.lower()
    if os.path.isdir(path):
        inner = path / ZIP_MANIFEST
        return _manifest(inner) if os.path.isfile(inner) else _folder(path)
    if suffix == ".zip":
        return _zip(path, unpacked)
    if suffix == ".jsonl":
        return _manifest(path)
    if suffix == ".json":
        return _transcripts(path)
    if suffix in AUDIO_SUFFIXES:
        return _recording(path)
    raise ManifestError(f"{path}: expected corrections, got a file that ends in {suffix!r}: give {_KINDS}")


_KINDS = (
    "a manifest (.jsonl), a zip of the page of asr serve, a transcript of asr transcribe --format json, a recording "
    "with a .txt of the same name beside it, or a folder of these recordings"
)


def _manifest(
    path: Path, root: Path | None = None, *, shown: Path | None = None
) -> tuple[list[Utterance], dict[str, str]]:
    """The utterances of a manifest whose audio is there; a bad line hides no other. Messages name ``shown``."""
    shown = shown or path
    utterances: list[Utterance] = []
    left_out: dict[str, str] = {}
    for number, one in manifest.scan_manifest(path, root):
        if isinstance(one, ManifestError):
            left_out[f"{shown}, line {number}"] = str(one.__cause__ or one)
        elif not os.path.isfile(one.audio):
            left_out[one.id] = f"{shown}, line {number}: no recording at {one.audio}"
        else:
            utterances.append(one)
    if not utterances and not left_out:
        raise ManifestError(f"{shown}: expected one JSON object a line, got no utterance")
    return utterances, left_out


def _zip(path: Path, folder: Path) -> tuple[list[Utterance], dict[str, str]]:
    """The utterances of a zip of the page, unpacked into ``folder``: its manifest and its audio, nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:
            if ZIP_MANIFEST not in archive.namelist():
                raise ManifestError(
                    f"{path}: expected the zip of the page of asr serve, which has a {ZIP_MANIFEST}, got one without"
                )
            parts = [part for part in archive.infolist() if _wanted(part)]
            size = sum(part.file_size for part in parts)
            if size > LARGEST_UNPACKED or len(parts) > MOST_PARTS:
                raise ManifestError(
                    f"{path}: expected at most {LARGEST_UNPACKED >> 30} GiB in {MOST_PARTS:,} files, got "
                    f"{size / (1 << 30):.1f} GiB in {len(parts):,}; unpack it, and give its manifest"
                )
            for part in parts:
                archive.extract(part, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot unpack {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise ManifestError(f"{path}: cannot read the zip: {error}") from error
    return _manifest(folder / ZIP_MANIFEST, folder, shown=path)


def _wanted(part: zipfile.ZipInfo) -> bool:
    """Whether a part of a zip is its manifest or a recording in its folder ``audio``."""
    name = Path(part.filename)
    inside = name.parent == Path("audio") and name.suffix.lower() in AUDIO_SUFFIXES
    return part.filename == ZIP_MANIFEST or inside


def _folder(path: Path) -> tuple[list[Utterance], dict[str, str]]:
    found = detection.detect_layout(path)
    utterances, failures = layouts.measure_durations(found.items)
    return utterances, {**found.left_out, **failures}


def _recording(path: Path) -> tuple[list[Utterance], dict[str, str]]:
    text = path.with_suffix(".txt")
    if not os.path.isfile(text):
        return [], {path.stem: f"{path}: expected its text in {text}, which is not there"}
    try:
        words = " ".join(read_limited(text, LARGEST_TRANSCRIPT).decode("utf-8-sig").split())
    except (UnicodeDecodeError, AsrError) as error:
        return [], {path.stem: f"{text}: cannot read the text: {error}"}
    return layouts.measure_durations([Clip(path.stem, path, words)])


def _transcripts(path: Path) -> tuple[list[Utterance], dict[str, str]]:
    """The recordings of transcripts as ``asr transcribe --format json`` writes them, one or several in a file."""
    try:
        found = read_transcript_json(read_limited(path, LARGEST_TRANSCRIPT).decode("utf-8-sig"), path.stem)
    except (UnicodeDecodeError, ManifestError) as error:
        raise ManifestError(f"{path}: {error}") from error
    clips: list[Clip] = []
    left_out: dict[str, str] = {}
    for number, one in enumerate(found, start=1):
        id = path.stem if len(found) == 1 else f"{path.stem}-{number}"
        places = [Path(one.source), path.parent / one.source, path.parent / Path(one.source).name]
        audio = next((place for place in places if one.source and os.path.isfile(place)), None)
        if audio is None:
            reason = (
                f"its recording {one.source!r} was not found, also not beside it"
                if one.source
                else "it names no source"
            )
            left_out[id] = f"{path}: {reason}"
        else:
            clips.append(Clip(id, audio, " ".join(one.text.split())))
    utterances, failures = layouts.measure_durations(clips)
    return utterances, {**left_out, **failures}
