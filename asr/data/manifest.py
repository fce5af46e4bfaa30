"""Manifests: audio files and their texts, one JSON object a line (JSONL).

    {"id": "fash-cen1", "audio": "wav/cen1.wav", "text": "OH ONE", "duration_s": 1.52, "speaker": "fash"}

``id``, ``audio``, ``text`` and ``duration_s`` are required; ``text`` may be empty (audio to transcribe, or audio
without speech). ``speaker`` is optional. ``start_s`` and ``end_s`` cut an utterance out of a longer recording;
``channel``, counted from 0, is the utterance's channel (default: the mean of all). Relative audio paths are taken from
the manifest's own folder. A manifest and its audio may be at URLs (see ``asr.cloud``). No audio is opened here.
Control characters are refused, since a newline in a name would break a table written from it.
"""

from __future__ import annotations

import difflib
import json
import os
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from asr.audio.archive_index import MemberPath, find_member, is_archive, split_archive
from asr.audio.archive_members import open_member
from asr.cloud.addresses import is_url, join_url, parent_url, shown_place, without_secrets
from asr.errors import AudioError, CloudError, ManifestError
from asr.files import atomic

SLACK_S = 0.05
"""How far ``duration_s`` may be from ``end_s - start_s``: producers round."""
_SPACES = {ord(char): " " for char in "\t\n\r"}
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Unicode's category Cc."""
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would end a line, or cannot be written, in the tables and messages that names are put into."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance: a whole audio file, or the part of it from ``start_s`` to ``end_s``.

    ``duration_s`` is the length of the utterance itself, not that of the recording it is cut from. Tabs and newlines
    in ``text`` become spaces.
    Raises ``ManifestError`` naming the id and the field for a wrong type or an impossible value, for control
    characters, and for line separators or lone surrogates in ``id``, ``audio`` or ``speaker``.
    """

    id: str
    audio: str
    text: str
    duration_s: float
    speaker: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    """The channel that it is on, counted from 0; None: the mean of all."""

    def __post_init__(self) -> None:
        if isinstance(self.text, str) and not self.text.isprintable():
            object.__setattr__(self, "text", self.text.translate(_SPACES))
        # One test for the usual line; which rule is broken matters only when one is.
        if not (
            isinstance(self.id, str)
            and isinstance(self.audio, str)
            and isinstance(self.text, str)
            and isinstance(self.speaker, str)
            and self.id
            and self.audio
            and self._unfit() is None
            and _is_seconds(self.duration_s)
            and self.duration_s > 0
            and _is_seconds(self.start_s)
            and (self.end_s is None or self._is_segment())
            and (self.channel is None or _is_channel(self.channel))
        ):
            raise ManifestError(f"utterance {self.id!r}: {self._fault()}")

    def _is_segment(self) -> bool:
        if not _is_seconds(self.end_s) or self.end_s is None:
            return False
        return self.end_s > self.start_s and abs(self.end_s - self.start_s - self.duration_s) <= SLACK_S

    def _unfit(self) -> str | None:
        """The first character that may not be where it is, in words."""
        if (self.id + self.audio + self.speaker + self.text).isprintable():
            return None
        for name in ("id", "audio", "speaker"):
            if found := _BREAKS.search(value := getattr(self, name)):
                what = "a zero byte" if found[0] == "\0" else repr(found[0])
                return (
                    f"{name}: expected no control character, line separator or lone surrogate, got {what} in {value!r}"
                )
        if found := _CONTROLS.search(self.text):
            return f"text: expected no control character but tab and newline, got {found[0]!r} in {self.text[:60]!r}"
        return None

    def _fault(self) -> str:
        for name in ("id", "audio", "text", "speaker"):
            value = getattr(self, name)
            if not isinstance(value, str):
                return f"{name}: expected a string, got {value!r}"
            if not value and name in ("id", "audio"):
                return f"{name}: expected a string that is not empty"
        if unfit := self._unfit():
            return unfit
        if not _is_seconds(self.duration_s) or self.duration_s <= 0:
            return f"duration_s: expected seconds > 0, got {self.duration_s!r}"
        if not _is_seconds(self.start_s):
            return f"start_s: expected seconds >= 0, got {self.start_s!r}"
        if self.channel is not None and not _is_channel(self.channel):
            return f"channel: expected a whole number from 0, got {self.channel!r}"
        if not _is_seconds(self.end_s) or self.end_s is None or self.end_s <= self.start_s:
            return f"end_s: expected seconds > start_s = {self.start_s:g}, got {self.end_s!r}"
        return (
            f"duration_s: expected end_s - start_s = {self.end_s - self.start_s:g}, got {self.duration_s:g}; "
            "it is the length of the utterance, not of the recording"
        )


@dataclass(frozen=True)
class Statistics:
    """What a manifest holds. ``words`` are split at whitespace, ``characters`` include the spaces between them."""

    utterances: int
    hours: float
    speakers: int
    words: int
    characters: int

    def __str__(self) -> str:
        return f"{self.utterances} utterances, {self.hours:.2f} h, {self.speakers} speakers, {self.words} words"


_KEYS = tuple(field.name for field in fields(Utterance))
_REQUIRED = frozenset(_KEYS[:4])


def read_manifest(path: str | Path, root: str | Path | None = None) -> list[Utterance]:
    """The utterances of a manifest in file order, ``audio`` as an absolute path.

    ``root``: a folder that audio must lie in, after ``..`` and symbolic links are resolved; set it for manifests of
    unknown origin (it costs a look at the file system for each line). Blank lines are skipped. Whether the audio
    exists is not checked.
    Raises ``ManifestError`` naming file and line: unreadable file, malformed JSON, unknown or missing key, wrong
    type or value, duplicate id, audio outside ``root``, no utterance at all.
    """
    return unique_utterances(path, scan_manifest(path, root))


def unique_utterances(path: str | Path, scanned: Iterable[tuple[int, Utterance | ManifestError]]) -> list[Utterance]:
    """The utterances of ``path`` as they were scanned. Raises ``ManifestError`` as ``read_manifest``."""
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    shown = without_secrets(str(path))
    for number, utterance in scanned:
        if isinstance(utterance, ManifestError):
            raise utterance
        first = seen.setdefault(utterance.id, number)
        if first != number:
            place, known = f"{shown}:{number}", f"used in line {first}"
            if isinstance(utterance.audio, MemberPath):  # of an archive, which has no lines
                other = next(each.audio for each in utterances if each.id == utterance.id)
                place, known = without_secrets(utterance.audio), f"that of {without_secrets(other)}"
            raise ManifestError(f"{place}: id {utterance.id!r} is already {known}; give each utterance its own id")
        utterances.append(utterance)
    if not utterances:
        raise ManifestError(f"{shown}: expected one JSON object a line, got no utterance")
    return utterances


def read_manifests(paths: Sequence[str | Path]) -> list[Utterance]:
    """The utterances of several manifests, one after the other. Raises as ``read_each_manifest``."""
    return [utterance for found in read_each_manifest(paths) for utterance in found]


def read_each_manifest(paths: Sequence[str | Path]) -> list[list[Utterance]]:
    """The utterances of each of several manifests.

    Raises ``ManifestError`` as ``read_manifest``, and for an id that is in two of them.
    """
    sets: list[list[Utterance]] = []
    source: dict[str, str | Path] = {}
    for path in paths:
        found = read_manifest(path)
        path = without_secrets(str(path))
        twice = next((u.id for u in found if u.id in source), None)
        if twice is not None:
            raise ManifestError(f"{path}: id {twice!r} is also in {source[twice]}; every utterance needs its own")
        source.update((u.id, path) for u in found)
        sets.append(found)
    return sets


def scan_manifest(path: str | Path, root: str | Path | None = None) -> Iterator[tuple[int, Utterance | ManifestError]]:
    """Every line of a manifest that is not blank: its number from 1 and its utterance, or what is wrong with it.

    As ``read_manifest``, but a bad line does not hide the lines behind it, and an id may come twice. A manifest in an
    archive (``calls.zip/all.jsonl``) names members of that archive only.
    Raises ``ManifestError`` for a file that cannot be read at all.
    """
    if root is None and (inside_archive := split_archive(str(path))) is not None:
        root = inside_archive[0]
    folder = parent_url(str(path)) if is_url(path) else os.path.dirname(os.path.abspath(path))
    inside = None if root is None else str(root) if is_url(root) else os.path.realpath(root)
    shown = without_secrets(str(path))
    for number, data in _lines(path):
        try:
            item = parse_line(data, number, folder, inside)
            if item is not None:
                yield number, item
        except ManifestError as error:
            named = ManifestError(f"{shown}:{number}: {error}")
            named.__cause__ = error
            yield number, named


def parse_line(data: bytes, number: int, folder: str, root: str | None = None) -> Utterance | None:
    """The utterance of one line; None for a blank one. ``number`` is 1 where a byte order mark may stand before it.

    ``folder``: what relative audio paths are taken from. Raises ``ManifestError`` without file and line.
    """
    line = _decode(data, number)
    if not line.strip():
        return None
    record = _parse(line)
    return Utterance(**{**record, "audio": _resolve(record["audio"], folder, root)})


def write_manifest(path: str | Path, utterances: Iterable[Utterance], relative_to: str | Path | None = None) -> None:
    """Write a manifest that ``read_manifest`` gives back, replacing ``path`` only once everything is on disk.

    Audio below the manifest's folder, or below ``relative_to`` (the corpus folder, say), is written relative to the
    manifest, so that both can be moved together; other audio is written as an absolute path. Paths that are relative
    in ``utterances`` are taken from the working directory. Missing folders are created.
    Raises ``ManifestError`` for no utterances, a duplicate id, or a file that cannot be written.
    """
    if is_url(path):
        raise ManifestError(f"{without_secrets(str(path))}: expected a local file to write a manifest to, got a URL")
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(records(path, utterances, relative_to))
    except (OSError, UnicodeEncodeError) as error:
        raise ManifestError(f"{path}: cannot write the manifest: {error}") from error


def records(path: str | Path, utterances: Iterable[Utterance], relative_to: str | Path | None = None) -> Iterator[str]:
    """The lines of the manifest that ``write_manifest`` puts into ``path``. Raises ``ManifestError`` as it does."""
    folder = os.path.dirname(os.path.abspath(path))
    bases = [folder] if relative_to is None else [folder, os.path.abspath(relative_to)]
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise ManifestError(f"{path}: expected each id once, got {utterance.id!r} again")
        seen.add(utterance.id)
        yield json.dumps(_record(utterance, folder, bases), ensure_ascii=False) + "\n"
    if not seen:
        raise ManifestError(f"{path}: expected utterances to write, got none")


def split_by_speaker(
    utterances: Sequence[Utterance], held_out: int | Sequence[str], seed: int = 0
) -> tuple[list[Utterance], list[Utterance]]:
    """(train, valid) with no speaker in both, each in the order of ``utterances``.

    ``held_out``: the speakers of valid by name, or how many to draw with ``seed`` (the draw depends on the set of
    speakers, not on their order). Raises ``ManifestError`` for utterances without a speaker, unknown names, and
    counts that leave one side empty.
    """
    nameless = [u.id for u in utterances if not u.speaker]
    if nameless:
        raise ManifestError(
            f"cannot split by speaker: {len(nameless)} of {len(utterances)} utterances have no speaker, the "
            f"first is {nameless[0]!r}; add the key speaker"
        )
    speakers = sorted({u.speaker for u in utterances})
    count = held_out if isinstance(held_out, int) else len(set(held_out))
    if not 0 < count < len(speakers):
        raise ManifestError(f"held-out speakers: expected 1 to {len(speakers) - 1} of {len(speakers)}, got {count}")
    if isinstance(held_out, int):
        valid_speakers = set(random.Random(seed).sample(speakers, held_out))
    else:
        for name in held_out:
            if name not in speakers:
                raise ManifestError(f"held-out speaker {name!r} is not in the manifest{_nearest(name, speakers)}")
        valid_speakers = set(held_out)
    train = [u for u in utterances if u.speaker not in valid_speakers]
    valid = [u for u in utterances if u.speaker in valid_speakers]
    return train, valid


def statistics(utterances: Iterable[Utterance]) -> Statistics:
    """Totals over ``utterances``; a speaker that is not named is not counted."""
    utterances = list(utterances)
    return Statistics(
        utterances=len(utterances),
        hours=sum(u.duration_s for u in utterances) / 3600,
        speakers=len({u.speaker for u in utterances if u.speaker}),
        words=sum(len(u.text.split()) for u in utterances),
        characters=sum(len(" ".join(u.text.split())) for u in utterances),
    )


def _is_seconds(value: Any) -> bool:
    """A finite number >= 0 (JSON lets NaN, Infinity and integers beyond any float through)."""
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _is_channel(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1024


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line)."""
    if is_archive(str(path)):
        shown = without_secrets(str(path))
        raise ManifestError(
            f"{shown}: expected a manifest, got an archive; name a manifest in it ({shown}/all.jsonl), or unpack it"
        )
    try:
        member = find_member(str(path))
        if is_url(path) and member is None:
            yield from _remote_lines(str(path))
            return
        with open(path, "rb") if member is None else open_member(member) as file:
            yield from enumerate(file, start=1)
    except AudioError as error:
        raise ManifestError(f"cannot read the manifest: {error}") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error}") from error


def _remote_lines(url: str) -> Iterator[tuple[int, bytes]]:
    from asr.cloud.inputs import open_input  # what it needs is imported when a URL comes

    try:
        with open_input(url) as file:
            yield from enumerate(file, start=1)
    except CloudError as error:
        raise ManifestError(f"cannot read the manifest: {error}") from error


def _decode(data: bytes, number: int) -> str:
    try:
        # A byte order mark is not part of the JSON; editors on Windows put one in front.
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"expected UTF-8, got {error}; convert the file to UTF-8") from error


def _parse(line: str) -> dict[str, Any]:
    """The JSON object of one line, with known keys only and all required ones."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"expected one JSON object, got {line.strip()[:60]!r}: {error}") from error
    if not isinstance(record, dict):
        raise ManifestError(f"expected one JSON object, got {line.strip()[:60]!r}")
    missing = [key for key in _KEYS if key in _REQUIRED and key not in record]
    unknown = [key for key in record if key not in _KEYS]
    if unknown:
        raise ManifestError(f"unknown key {unknown[0]!r}{_nearest(unknown[0], _KEYS)}; known keys: {', '.join(_KEYS)}")
    if missing:
        raise ManifestError(f"missing key {', '.join(missing)}; required: {', '.join(_KEYS[:4])}")
    return record


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _resolve(audio: Any, folder: str, root: str | None) -> Any:
    """``audio`` as an absolute path; what is not a path at all is left for ``Utterance`` to name."""
    if not isinstance(audio, str) or not audio or "\0" in audio:
        return audio
    if is_url(folder) and not is_url(audio) and os.path.isabs(audio):
        raise ManifestError(
            f"audio {audio!r}: expected a URL or a relative path, since the manifest is at a URL, got a path of this "
            "machine; download the manifest if you mean that file"
        )
    if is_url(audio) or is_url(folder):
        return _resolve_url(audio, folder, root)
    joined = os.path.join(folder, audio)
    if root is not None and is_url(root):
        raise ManifestError(f"audio {audio!r} lies outside the root {without_secrets(root)}")
    if root is None:
        return os.path.normpath(joined)
    # The path that was checked is the path that is used, so that no link on the way can mean another file later.
    real = os.path.realpath(joined)
    if os.path.commonpath([real, root]) != root:
        raise ManifestError(f"audio {audio!r} lies outside the root {root}")
    return real


def _resolve_url(audio: str, folder: str, root: str | None) -> str:
    """A URL, or a path relative to one."""
    url = audio if is_url(audio) else join_url(folder, audio)
    if root is not None and not (is_url(root) and join_url(url, "").startswith(join_url(root, "").rstrip("/") + "/")):
        raise ManifestError(f"audio {without_secrets(audio)!r} lies outside the root {without_secrets(root)}")
    return url


def _record(utterance: Utterance, folder: str, bases: Sequence[str]) -> dict[str, Any]:
    audio = shown_place(utterance.audio)
    if not is_url(audio) and any(os.path.commonpath([audio, base]) == base for base in bases):
        audio = os.path.relpath(audio, folder)
    record: dict[str, Any] = {
        "id": utterance.id,
        "audio": audio,
        "text": utterance.text,
        "duration_s": utterance.duration_s,
    }
    if utterance.speaker:
        record["speaker"] = utterance.speaker
    if utterance.start_s:
        record["start_s"] = utterance.start_s
    if utterance.end_s is not None:
        record["end_s"] = utterance.end_s
    if utterance.channel is not None:
        record["channel"] = utterance.channel
    return record
