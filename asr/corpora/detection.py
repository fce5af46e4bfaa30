"""Detects how a folder of recordings and transcripts is laid out: the first half of ``asr init``."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr.corpora import layouts, tabular, turns
from asr.corpora.layouts import EXTENSIONS, Clip, set_name
from asr.corpora.text_files import read_lines, table
from asr.corpora.turns import Turn
from asr.errors import ManifestError
from asr.files import AUDIO_SUFFIXES, FILM_SUFFIXES

AUDIO = frozenset((*EXTENSIONS, *AUDIO_SUFFIXES, *FILM_SUFFIXES))
SUBTITLES = (".srt", ".vtt")
TRANSCRIPTS = (".txt", ".lab")
TURNS = (".rttm",)
DOCUMENTS = (".rtf", ".doc", ".docx", ".odt", ".pdf")
"""What people write transcripts in and nothing here reads."""
TABLES = (".csv", ".tsv", ".jsonl", ".json")
READ = frozenset((*AUDIO, *SUBTITLES, *TRANSCRIPTS, *TURNS, *TABLES))
COMMON_VOICE = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
NOT_AGREED = ("invalidated.tsv", "other.tsv", "reported.tsv")
PROJECT_MARK = "# Written by asr init"
"""What ``train.yaml`` of a project of ours begins with."""
PROJECT = ("train.jsonl", "valid.jsonl", "test.jsonl", "spoken.tsv", "left_out.txt")
"""What ``asr init`` writes beside it."""
LEAST_FILES = 2
"""Files that each of several folders must have to be taken for a speaker."""


@dataclass
class Detection:
    """The detected layout: ``kind`` in words, utterances by set (``""``: no set named), remarks, files left out."""

    kind: str
    sets: dict[str, list[Clip]]
    remarks: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    """All files that were looked at."""
    unused: set[str] = field(default_factory=set)
    """Recordings, without their endings, that are not used on purpose."""

    @property
    def items(self) -> list[Clip]:
        return [item for items in self.sets.values() for item in items]


@dataclass
class Listing:
    """The files below a folder, sorted, hidden ones left out, and what is wrong with others."""

    folder: Path
    files: list[Path]
    left_out: dict[str, str]

    def of(self, suffixes: Iterable[str]) -> list[Path]:
        """Those with one of these endings, in any case."""
        wanted = frozenset(suffixes)
        return [path for path in self.files if path.suffix.lower() in wanted]


def detect_layout(folder: Path, without: Path | None = None) -> Detection:
    """The layout of ``folder``, the first that gives utterances of: Kaldi, LibriSpeech, LJSpeech, Common Voice, tables
    (NeMo's and this package's manifests among them), transcripts beside audio, subtitles beside media.

    ``without``: a folder in it that is not looked at, such as the one that earlier manifests are in.
    Raises ``ManifestError`` with what was looked for where nothing fits, and for a layout that is there but broken.
    """
    if not os.path.isdir(folder):
        raise ManifestError(f"{folder}: expected a folder of recordings with transcripts; check the path")
    listing = _list(folder, without)
    refused = dict(listing.left_out)
    for reader in (_kaldi, _librispeech, _ljspeech, _common_voice, _tables, _beside, _subtitles):
        found = reader(listing)
        if found is not None and found.items:
            found.left_out = {**listing.left_out, **found.left_out}
            found.files = listing.files
            _name_speakers(listing, found)
            if reader is _subtitles:
                _speaker_each(found)
            _unique(found, across=reader is _tables)
            _leftovers(listing, found)
            return found
        if found is not None:
            refused.update(found.left_out)
    first = next(iter(refused.items()), None)
    raise ManifestError(
        f"{folder}: {len(listing.of(AUDIO))} audio files, but no transcripts in a known layout; expected a .txt, "
        ".lab, .srt or .vtt file of the same name for each, a table (CSV, TSV, JSON lines) with a column of paths and "
        "one of texts, Kaldi's text and wav.scp, or LJSpeech's metadata.csv"
        + (f"; {len(refused)} files could not be used, the first: {first[0]}: {first[1]}" if first else "")
    )


def _list(folder: Path, without: Path | None) -> Listing:
    listing = Listing(folder, [], {})
    passed = os.path.realpath(without) if without else ""

    def fail(error: OSError) -> None:
        listing.left_out[str(error.filename)] = f"a folder that cannot be read: {error.strerror}"

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != passed
        ]
        written = PROJECT if "train.yaml" in names and is_project(Path(parent)) else ()
        for name in names:
            path = Path(parent, name)
            if (
                name in written
                or name.startswith(".")
                or (path.suffix.lower() not in READ and path.name not in ("text", "wav.scp"))
            ):
                continue
            if not _encodable(str(path)):
                listing.left_out[str(path)] = "expected a file name in UTF-8, which a manifest can hold"
            elif not os.path.isfile(path):
                listing.left_out[str(path)] = "expected a file, got a pipe, a device or a link to nothing"
            else:
                listing.files.append(path)
    listing.files.sort()
    return listing


def is_project(folder: Path) -> bool:
    """Whether ``asr init`` has written a project into ``folder``."""
    path = folder / "train.yaml"
    try:
        if not os.path.isfile(path):
            return False
        with path.open("rb") as file:
            return file.read(len(PROJECT_MARK)) == PROJECT_MARK.encode()
    except OSError:
        return False


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kaldi(listing: Listing) -> Detection | None:
    there = set(listing.files)
    places = [path.parent for path in listing.files if path.name == "wav.scp" and path.with_name("text") in there]
    if not places:
        return None
    sets: dict[str, list[Clip]] = {}
    for place in places:
        name = set_name(place.name) if place != listing.folder else ""
        sets.setdefault(name, []).extend(layouts.kaldi(place))
    return Detection(f"Kaldi data ({', '.join(p.name for p in places)})", sets)


def _librispeech(listing: Listing) -> Detection | None:
    """A folder below a subset, that of one speaker or chapter, has no set; what lies beside it is not read."""
    paths = [path for path in listing.of([".txt"]) if path.name.endswith(".trans.txt")]
    sets: dict[str, list[Clip]] = {}
    for path in paths:
        place = path.parents[2] if len(path.relative_to(listing.folder).parts) > 2 else None
        sets.setdefault(set_name(place.name) if place else "", []).extend(layouts.librispeech_chapter(path))
    return Detection("LibriSpeech's layout", sets) if paths else None


def _ljspeech(listing: Listing) -> Detection | None:
    path = listing.folder / "metadata.csv"
    if path not in listing.files or not os.path.isdir(listing.folder / "wavs"):
        return None
    if "|" not in "".join(read_lines(path)[:1]):
        return None
    return Detection("LJSpeech's layout", {"": layouts.ljspeech(path)}, ["one speaker is assumed"])


def _common_voice(listing: Listing) -> Detection | None:
    """Train, dev and test where they are there, which are made of ``validated``; what was voted down is not used."""
    places: dict[Path, set[str]] = {}
    for path in listing.of([".tsv"]):
        if os.path.isdir(path.parent / "clips"):
            places.setdefault(path.parent, set()).add(path.name)
    sets: dict[str, list[Clip]] = {}
    remarks, left_out, unused = [], dict[str, str](), set[str]()
    for place, names in places.items():
        used = {name: file for name, file in COMMON_VOICE.items() if file in names}
        used = used or ({"": "validated.tsv"} if "validated.tsv" in names else {})
        for name, file in used.items():
            try:
                read = layouts.common_voice(place / file, left_out)
            except ManifestError as error:
                left_out[str(place / file)] = str(error)
            else:
                sets.setdefault(name, []).extend(read)
        if rest := sorted(names - set(used.values())):
            clips = {clip for file in rest for clip in _clips(place / file)}
            clips -= {_stem(item.audio) for items in sets.values() for item in items}
            counted = f" ({len(clips)} more clips)" if clips else ""
            remarks.append(f"{place}: {', '.join(used.values()) or 'nothing'} is used, {', '.join(rest)} not{counted}")
            unused |= clips
    return Detection("Common Voice's layout", sets, remarks, left_out, unused=unused) if any(sets.values()) else None


def _clips(path: Path) -> list[str]:
    """The clips that a table of Common Voice names; other tables name none."""
    try:
        return [_stem(path.parent / "clips" / row["path"]) for row in table(path, {}) if row.get("path")]
    except ManifestError:
        return []


def _tables(listing: Listing) -> Detection | None:
    sets: dict[str, list[Clip]] = {}
    used: list[str] = []
    left_out: dict[str, str] = {}
    for path in listing.of(TABLES):
        if path.name in NOT_AGREED and os.path.isdir(path.parent / "clips"):
            left_out[str(path)] = "clips of Common Voice that listeners did not agree on"
            continue
        columns, rows = tabular.items(path, left_out)
        if columns:
            used.append(f"{path.name}: {', '.join(f'{theirs} as {ours}' for ours, theirs in columns.items())}")
        for name, item in rows:
            sets.setdefault(name, []).append(item)
    return Detection("a table of recordings", sets, used, left_out) if used or left_out else None


def _name_speakers(listing: Listing, found: Detection) -> None:
    """Utterances without a speaker get the one that an RTTM file names, by the recording's name and the time."""
    known: dict[str, dict[Path, list[Turn]]] = {}
    for path in listing.of(TURNS):
        try:
            for recording, its in turns.rttm(path).items():
                known.setdefault(recording, {}).setdefault(path.parent, []).extend(its)
        except ManifestError as error:
            found.left_out[str(path)] = str(error)
    if not known:
        return

    def called(item: Clip) -> str:
        return item.recording if item.recording in known else item.audio.stem

    files = Counter(name for name, _ in {(called(item), item.audio) for item in found.items})

    def named_in(item: Clip) -> list[Turn]:
        """The turns beside the recording; those from elsewhere where one recording alone has the name."""
        name = called(item)
        places = known.get(name, {})
        alone = files[name] == 1 and len(places) == 1
        return places.get(item.audio.parent, next(iter(places.values())) if alone else [])

    count = 0
    for name, items in found.sets.items():
        named = [
            item
            if item.speaker
            else replace(item, speaker=turns.speaker(named_in(item), item.start_s, item.end_s, item.channel))
            for item in items
        ]
        count += sum(new.speaker != old.speaker for new, old in zip(named, items, strict=True))
        found.sets[name] = named
    found.remarks.append(f"{count} utterances have their speakers from RTTM")


def _unique(found: Detection, *, across: bool) -> None:
    """Ids of their own in each set: segments of one file have the file's name, and names may differ by a space only.

    What a set has twice, audio and words, is left out the second time; so is, where no set is named, what one has.
    ``across``: ids are made of names of files, so that sets of one file have the same ones.
    """
    Place = tuple[Path, str, float, float | None, int | None]
    everything: tuple[set[Place], set[str]] = (set(), set())
    known = Counter(item.id for item in found.items)
    for name in sorted(found.sets, key=("test", "valid", "train", "").index):
        seen, taken = (set[Place](), set[str]()) if name else everything
        count = known if across else Counter(item.id for item in found.sets[name])
        kept = []
        for item in found.sets[name]:
            place = (item.audio, item.text, item.start_s, item.end_s, item.channel)
            if place in seen:
                found.left_out[f"{item.id} (again)"] = f"{item.audio}: is there twice with the same words"
                continue
            seen.add(place)
            id = item.id
            if count[id] > 1 and (item.start_s or item.end_s is not None):
                id = f"{id}-{round(1000 * item.start_s):08}"
            numbered = (id if n == 1 else f"{id}-{n}" for n in itertools.count(1))
            kept.append(replace(item, id=next(free for free in numbered if free not in taken)))
            taken.add(kept[-1].id)
        found.sets[name] = kept
        everything[0].update(seen)
        everything[1].update(taken)


def _beside(listing: Listing) -> Detection | None:
    items: list[Clip] = []
    left_out: dict[str, str] = {}
    # Beside the audio, or in another folder under a name that is there once (VCTK's txt/ and wav48/).
    elsewhere: dict[str, list[Path]] = {}
    for path in listing.of(TRANSCRIPTS):
        elsewhere.setdefault(path.stem, []).append(path)
    for path in listing.of(AUDIO):
        same = elsewhere.get(path.stem, [])
        transcript = next((p for p in same if p.parent == path.parent), same[0] if len(same) == 1 else None)
        if transcript is None:
            continue
        try:
            text = " ".join(read_lines(transcript))
        except ManifestError as error:
            left_out[str(path)] = str(error)
            continue
        items.append(Clip(_id(path, listing.folder), path, text))
    found = Detection("a transcript of the same name for each recording", {"": items}, [], left_out)
    return _by_folder(found, listing.folder) if items else found


def _subtitles(listing: Listing) -> Detection | None:
    items: list[Clip] = []
    left_out: dict[str, str] = {}
    there = set(listing.files)
    for path in listing.of(AUDIO):
        cues = next((path.with_suffix(s) for s in SUBTITLES if path.with_suffix(s) in there), None)
        if cues is None:
            continue
        name = _id(path, listing.folder)
        try:
            cut = layouts.subtitles(cues, path)
        except ManifestError as error:
            left_out[str(path)] = str(error)
            continue
        items += [replace(item, id=f"{name}-{number:04}") for number, item in enumerate(cut, start=1)]
    return Detection("subtitles beside recordings", {"": items}, [], left_out)


def _speaker_each(found: Detection) -> None:
    """Where nobody is named, each recording is taken for one speaker: where there are enough, none is in two sets."""
    nameless = sum(not item.speaker for item in found.items)
    if nameless:
        whose = "each recording is" if nameless == len(found.items) else f"of {nameless} utterances each recording is"
        found.remarks.append(f"{whose} taken for one speaker")
    for name, items in found.sets.items():
        found.sets[name] = [item if item.speaker else replace(item, speaker=item.id[:-5]) for item in items]


def _by_folder(found: Detection, folder: Path) -> Detection:
    """Sets and speakers as the folders' names tell."""
    parts = [item.audio.relative_to(folder).parts[:-1] for item in found.items]
    names = [next((set_name(part) for part in p if set_name(part)), "") for p in parts]
    rest = [tuple(part for part in p if not set_name(part)) for p in parts]
    folders = Counter(r[0] for r in rest if r)
    speakers = len(folders) > 1 and min(folders.values()) >= LEAST_FILES and all(rest)
    sets: dict[str, list[Clip]] = {}
    for item, name, place in zip(found.items, names, rest, strict=True):
        sets.setdefault(name, []).append(replace(item, speaker=place[0]) if speakers else item)
    remark = f"{len(folders)} folders are taken for speakers" if speakers else "no speakers are known"
    return replace(found, sets=sets, remarks=[*found.remarks, remark])


def _id(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix().replace("/", "-").replace(" ", "_")


def _leftovers(listing: Listing, found: Detection) -> None:
    """Recordings that nothing speaks of, and utterances without words."""
    taken = {_stem(item.audio) for item in found.items} | found.unused
    for path in listing.of(AUDIO):
        if _stem(path) not in taken and str(path) not in found.left_out:
            document = next((p for s in DOCUMENTS if os.path.isfile(p := path.with_suffix(s))), None)
            hint = f"; {document.name} is not read, save it as plain text in UTF-8" if document else ""
            found.left_out[str(path)] = f"no transcript{hint}"
    for name, items in found.sets.items():
        for item in items:
            if not item.text.strip():
                found.left_out[item.id] = "its transcript is empty"
        found.sets[name] = [item for item in items if item.text.strip()]


def _stem(path: Path) -> str:
    return str((path.with_suffix("") if path.suffix.lower() in AUDIO else path).absolute())
