"""Manifests in the formats of other toolkits."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr.errors import ManifestError
from asr.files import write_text
from asr.manifest import Utterance


def to_kaldi(utterances: Sequence[Utterance], folder: str | Path) -> None:
    """Write a Kaldi data directory: ``text``, ``wav.scp``, ``utt2spk``, ``spk2utt``, and ``segments`` if there are any.

    Ids get their speaker in front where they do not begin with it, since Kaldi sorts both alike. Audio that is not WAV
    is piped through ffmpeg, as is usual there. Raises ``ManifestError`` for a name with spaces or a folder that cannot
    be written.
    """
    folder = Path(folder)
    segments = any(u.start_s or u.end_s is not None for u in utterances)
    text, recordings, utt2spk, spans = {}, {}, {}, {}
    for utterance in utterances:
        speaker = utterance.speaker or utterance.id
        key = utterance.id if utterance.id.startswith(speaker) else f"{speaker}-{utterance.id}"
        for name in (speaker, key):
            if name.split() != [name]:
                raise ManifestError(f"utterance {utterance.id}: Kaldi's names have no spaces, got {name!r}")
        if key in text:
            raise ManifestError(f"utterance {utterance.id}: expected each id once")
        recording = _recording(utterance) if segments else key
        text[key], utt2spk[key] = utterance.text, speaker
        recordings[recording] = _command(utterance.audio)
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


def to_nemo(utterances: Sequence[Utterance], path: str | Path) -> None:
    """Write a manifest of NeMo: JSON lines with ``audio_filepath``, ``duration``, ``text``; ``offset`` for segments.

    Texts are in lower case, as NeMo's English models take them. Raises ``ManifestError`` for a file that cannot be
    written.
    """
    lines = []
    for utterance in utterances:
        row: dict[str, object] = {"audio_filepath": utterance.audio, "duration": utterance.duration_s}
        if utterance.start_s or utterance.end_s is not None:
            row["offset"] = utterance.start_s
        row["text"] = utterance.text.lower()
        if utterance.speaker:
            row["speaker"] = utterance.speaker
        lines.append(json.dumps(row, ensure_ascii=False))
    _write(Path(path), lines)


def _recording(utterance: Utterance) -> str:
    return "_".join(Path(utterance.audio).with_suffix("").parts[-3:]).replace(" ", "_").strip("/")


def _command(audio: str) -> str:
    if audio.lower().endswith(".wav"):
        return audio
    return f"ffmpeg -v error -nostdin -i {shlex.quote(audio)} -f wav - |"


def _write(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))
