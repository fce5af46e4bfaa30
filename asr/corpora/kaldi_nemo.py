"""Manifests in the formats of other toolkits."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr.corpora import layouts
from asr.data.manifest import Utterance
from asr.errors import ManifestError
from asr.files import write_text

KALDI_SYMBOLS = re.compile(r"(?<!\w)(?:</?s>|#0)(?!\w)", re.ASCII)
"""Words that Kaldi's validation refuses in ``text``, by the rule of ``grep -w``."""


def to_kaldi(utterances: Sequence[Utterance], folder: str | Path) -> None:
    """Write a Kaldi data directory: ``text``, ``wav.scp``, ``utt2spk``, ``spk2utt``, and ``segments`` if there are any.

    Ids get their speaker in front where they do not begin with it, and speakers are spelled so that sorting by speaker
    and sorting by id agree: Kaldi's ``validate_data_dir.sh`` asks for that. Audio that is not WAV, or one channel
    of it, is piped through ffmpeg, as is usual there. White space in texts becomes single spaces.
    Raises ``ManifestError`` for a name with spaces, for speakers that cannot be told apart as Kaldi needs them, for
    ``<s>``, ``</s>`` or ``#0`` in a text, and for a folder that cannot be written.
    """
    folder = Path(folder)
    segments = any(u.start_s or u.end_s is not None for u in utterances)
    names = _names(utterances)
    recording_ids = _recordings(utterances) if segments else {}
    text, recordings, utt2spk, spans = {}, {}, {}, {}
    for utterance, (key, speaker) in zip(utterances, names, strict=True):
        text[key], utt2spk[key] = " ".join(utterance.text.split()), speaker
        if found := KALDI_SYMBOLS.search(f"{key} {text[key]}"):
            raise ManifestError(
                f"utterance {utterance.id}: {found[0]} is reserved by Kaldi; expected an id and a text without it, "
                f"got {text[key][:60]!r}"
            )
        path, channel = os.path.abspath(utterance.audio), utterance.channel
        recording = recording_ids.get((path, channel), key)
        plain = channel is None and path.lower().endswith(".wav")
        recordings[recording] = path if plain else layouts.ffmpeg_command(path, channel)
        end_s = utterance.end_s if utterance.end_s is not None else utterance.start_s + utterance.duration_s
        spans[key] = f"{recording} {utterance.start_s:.3f} {end_s:.3f}"
    speakers = defaultdict(list)
    for key in sorted(utt2spk):
        speakers[utt2spk[key]].append(key)
    tables = {
        "text": text,
        "wav.scp": recordings,
        "utt2spk": utt2spk,
        "spk2utt": {s: " ".join(k) for s, k in speakers.items()},
    }
    if segments:
        tables["segments"] = spans
    for name, table in tables.items():
        # Kaldi wants the order of LC_ALL=C, which is that of the bytes.
        _write(folder / name, (f"{key} {table[key]}".rstrip() for key in sorted(table, key=str.encode)))


def _names(utterances: Sequence[Utterance]) -> list[tuple[str, str]]:
    """Id and speaker of each utterance as Kaldi gets them: as they are, if they can be sorted both ways alike."""
    for utterance in utterances:
        for name in filter(None, (utterance.speaker, utterance.id)):
            if name.split() != [name]:
                raise ManifestError(
                    f"utterance {utterance.id}: expected a name without spaces for Kaldi, got {name!r}; rename it"
                )
    plain = []
    for utterance in utterances:
        speaker = utterance.speaker or utterance.id
        plain.append((utterance.id if utterance.id.startswith(speaker) else f"{speaker}-{utterance.id}", speaker))
    if len({key for key, _ in plain}) == len(plain) and sorted(plain) == sorted(plain, key=lambda pair: pair[::-1]):
        return plain
    # No character of a speaker sorts before the hyphen behind it: then "anna" and "anna_2" sort as their ids do.
    spelled: dict[str, str] = {}
    names = {}
    for utterance in utterances:
        speaker = utterance.speaker or utterance.id
        written = "".join(c if c > "-" else "_" for c in speaker)
        if spelled.setdefault(written, speaker) != speaker:
            raise ManifestError(
                f"speakers {spelled[written]!r} and {speaker!r}: both would be written {written!r}, since Kaldi "
                "sorts by speaker and id alike; rename one of them"
            )
        key = f"{written}-{utterance.id}"
        if key in names:
            raise ManifestError(f"utterance {utterance.id}: expected each id once")
        names[key] = written
    return list(names.items())


def _recordings(utterances: Sequence[Utterance]) -> dict[tuple[str, int | None], str]:
    """An id for each audio file, by its absolute path, and channel: the end of the path, with a checksum where ends are
    equal."""
    sounds = dict.fromkeys((os.path.abspath(u.audio), u.channel) for u in utterances)
    ends = {
        sound: re.sub(r"[\s/]", "_", "/".join(Path(sound[0]).with_suffix("").parts[-3:]).strip("/"))
        + ("" if sound[1] is None else f"-channel{sound[1]}")
        for sound in sounds
    }
    count = Counter(ends.values())
    ids = {
        sound: end if count[end] == 1 else f"{end}-{hashlib.sha256(sound[0].encode()).hexdigest()[:12]}"
        for sound, end in ends.items()
    }
    owners: dict[str, tuple[str, int | None]] = {}
    for sound, id in ids.items():
        if owners.setdefault(id, sound) != sound:
            raise ManifestError(
                f"{sound[0]} and {owners[id][0]}: both would be the recording {id!r}; rename one of them"
            )
    return ids


def to_nemo(utterances: Sequence[Utterance], path: str | Path) -> None:
    """Write a manifest of NeMo: JSON lines with ``audio_filepath``, ``duration``, ``text``; ``offset`` for segments.

    Texts are in lower case, as NeMo's English models take them. Raises ``ManifestError`` for an utterance on one of
    several channels, and for a file that cannot be written.
    """
    lines = []
    for utterance in utterances:
        if utterance.channel is not None:
            raise ManifestError(
                f"utterance {utterance.id}: NeMo's manifests have no channel, got "
                f"{utterance.channel}; write the channel to a file of its own"
            )
        row: dict[str, object] = {"audio_filepath": utterance.audio, "duration": utterance.duration_s}
        if utterance.start_s or utterance.end_s is not None:
            row["offset"] = utterance.start_s
        row["text"] = utterance.text.lower()
        if utterance.speaker:
            row["speaker"] = utterance.speaker
        lines.append(json.dumps(row, ensure_ascii=False))
    _write(Path(path), lines)


def _write(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))
