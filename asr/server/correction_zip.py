"""Corrected utterances as a zip to train on: FLAC files, and a ``manifest.jsonl`` that ``asr train`` takes."""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import numpy as np

from asr.audio.samples import Samples
from asr.data.manifest import Utterance, records
from asr.errors import AsrError, AudioError, TextError
from asr.server.page_audio import mono_blocks_of
from asr.server.problems import RequestError
from asr.text.written_out import language_code, spoken

UTTERANCE_HZ = 16_000
"""Highest rate of the utterances, which is the models' own."""
SHORTEST_CUT_S = 0.02
MOST_SEGMENTS = 100_000
UNKNOWN_LANGUAGE = "und"
"""Code of ISO 639: abbreviations and symbols have no spoken form then."""
MANIFEST = "manifest.jsonl"
LEFT_OUT = "left_out.txt"
_PLAIN = re.compile(r"(?:[^\W\d_]|[' ])*")
ADVICE = """Utterances that somebody checked or corrected, one FLAC file each, and their texts in manifest.jsonl.

Unpack the folder, look at it, and train a model further on it:

    asr check manifest.jsonl
    asr train CONF train.init=MODEL data.train=manifest.jsonl train.output=exp/corrected

Texts are in spoken form, without punctuation. What has no certain spoken form, such as digits that somebody typed, is
listed in left_out.txt, if there is such a file.
"""


@dataclass(frozen=True)
class Correction:
    """A part of a recording and what is said in it."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class CorrectedRecording:
    """What the page sends ahead of each recording: its name, the language of its texts (a code), its size and its
    corrected parts in the order of time."""

    name: str
    language: str
    bytes: int
    segments: tuple[Correction, ...]

    @classmethod
    def read(cls, tree: Any) -> CorrectedRecording:
        """From plain values of JSON. Raises ``RequestError`` for what is none."""
        try:
            segments = tuple(
                Correction(_seconds(part["start_s"]), _seconds(part["end_s"]), _text(part["text"]))
                for part in tree["segments"]
            )
            found = cls(
                _text(tree["name"]), _text(tree.get("language") or UNKNOWN_LANGUAGE), int(tree["bytes"]), segments
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RequestError(
                f"expected a recording with name, bytes and segments of start_s, end_s and text, got {error!r}"[:300]
            ) from error
        if not found.bytes > 0 or not 0 < len(segments) <= MOST_SEGMENTS:
            raise RequestError(f"{found.name[:100]}: expected bytes > 0 and 1 to {MOST_SEGMENTS} segments")
        at = 0.0
        for part in segments:
            if not (at <= part.start_s + SHORTEST_CUT_S and part.start_s + SHORTEST_CUT_S <= part.end_s):
                raise RequestError(
                    f"{found.name[:100]}: expected segments in order that last at least {SHORTEST_CUT_S:g} s, "
                    f"got {part.start_s:g} to {part.end_s:g} s behind {at:g} s"
                )
            at = part.end_s
        return found


def _seconds(value: Any) -> float:
    seconds = float(value)
    if isinstance(value, bool) or not 0 <= seconds < math.inf:
        raise ValueError(f"{value!r}, which is not a time")
    return seconds


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r}, which is not a text")
    return value


class CorrectionZip:
    """A zip under way, as a context. ``left_out``: a line for each utterance that is not in it, with the reason."""

    def __init__(self, target: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(target, "w", zipfile.ZIP_STORED)  # FLAC does not get smaller
        self._utterances: list[Utterance] = []
        self._stems: set[str] = set()
        self.left_out: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def add(self, path: str, recording: CorrectedRecording, most_s: float) -> None:
        """Cut the segments out of the recording at ``path``, as the recognizer hears it: mono, at most 16 kHz.

        A recording that cannot be read, or is longer than ``most_s``, is named in ``left_out``.
        """
        stem = self._stem(recording.name)
        digits = max(3, len(str(len(recording.segments))))
        texts = [self._training_text(recording, part) for part in recording.segments]
        wanted = [(part, text) for part, text in zip(recording.segments, texts, strict=True) if text is not None]
        try:
            parts = _cut(path, [(part.start_s, part.end_s) for part, _ in wanted], most_s)
            for number, ((part, text), (rate_hz, samples)) in enumerate(zip(wanted, parts, strict=False), start=1):
                if len(samples) < SHORTEST_CUT_S * rate_hz:
                    self._leave_out(recording, part, "it is after the end of the recording")
                    continue
                id = f"{stem}-{number:0{digits}}"
                self._zip.writestr(f"audio/{id}.flac", _flac(samples, rate_hz))
                duration_s = round(len(samples) / rate_hz, 4)
                self._utterances.append(Utterance(id, f"/audio/{id}.flac", text, duration_s))
        except AudioError as error:
            message = str(error).replace(path, shown_name(recording.name))
            self.left_out.append(f"{message} (utterances after the damage are left out)")

    def finish(self) -> None:
        """Write the manifest, and end the zip. Raises ``RequestError`` where no utterance is left."""
        if not self._utterances:
            reasons = "; ".join(self.left_out[:3]) or "nothing was checked or corrected"
            raise RequestError(f"expected utterances to train on, got none: {reasons}")
        self._zip.writestr(MANIFEST, "".join(records(f"/{MANIFEST}", self._utterances)))
        self._zip.writestr("README.txt", ADVICE)
        if self.left_out:
            self._zip.writestr(LEFT_OUT, "\n".join(self.left_out) + "\n")
        self._zip.close()

    def _stem(self, name: str) -> str:
        """What ids of a recording begin with: its name in plain characters, once only."""
        base = re.sub(r"[^A-Za-z0-9_]+", "-", os.path.splitext(re.split(r"[/\\]", name)[-1])[0]).strip("-")[:60]
        base = base or "recording"
        stem, number = base, 1
        while stem in self._stems:
            number += 1
            stem = f"{base}-{number}"
        self._stems.add(stem)
        return stem

    def _training_text(self, recording: CorrectedRecording, part: Correction) -> str | None:
        try:
            return training_text(part.text, recording.language)
        except AsrError as error:
            self._leave_out(recording, part, str(error))
            return None

    def _leave_out(self, recording: CorrectedRecording, part: Correction, reason: str) -> None:
        name = shown_name(recording.name)
        self.left_out.append(f"{name}, {part.start_s:.2f} to {part.end_s:.2f} s: {' '.join(reason.split())}")


def training_text(text: str, language: str) -> str:
    """A text as it is said, without punctuation; in capitals where most of it is, as models spell.

    Words of one case without digits and marks stay as they are: they are a model's own spelling. Raises ``TextError``
    for digits, since 42 may be said in several ways, and for what else has no certain spoken form.
    """
    text = " ".join(text.split())
    if _PLAIN.fullmatch(text) and text in (text.upper(), text.lower()):
        return text
    if any(character.isdigit() for character in text):
        raise TextError(f"expected numbers in words, as they are said, got {text[:60]!r}")
    try:
        said = spoken(text, language_code(language))
    except TextError:
        raise
    except AsrError as error:
        raise TextError(str(error)) from error
    capitals = sum(character.isupper() for character in text)
    return said.upper() if 2 * capitals > sum(character.isalpha() for character in text) else said


def shown_name(name: str) -> str:
    """A client's name of a recording for messages: printable, of bounded length."""
    return "".join(c if c.isprintable() else "_" for c in name)[-120:] or "recording"


def _cut(path: str, bounds: Sequence[tuple[float, float]], most_s: float) -> Iterator[tuple[int, Samples]]:
    """The samples between each pair of seconds, from one pass over a recording; ``bounds`` are in the order of time."""
    source = mono_blocks_of(path, UTTERANCE_HZ, most_s)
    rate_hz, held = next(source)
    at, over = 0, False
    """``held`` begins with sample ``at`` of the recording."""
    for start_s, end_s in bounds:
        first, last = round(start_s * rate_hz), round(end_s * rate_hz)
        while at + len(held) < last and not over:
            if at + len(held) <= first:
                at, held = at + len(held), held[:0]
            block = next(source, None)
            over = block is None
            if block is not None:
                held = np.concatenate([held, block[1]])
        from_, to = max(0, first - at), max(0, last - at)
        yield rate_hz, held[from_:to]
        kept = min(len(held), from_)
        at, held = at + kept, held[kept:]


def _flac(samples: Samples, rate_hz: int) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples.clip(-1, 1), rate_hz, "PCM_16", format="FLAC")
    return buffer.getvalue()


def read_header(line: bytes) -> CorrectedRecording:
    """The line ahead of a recording. Raises ``RequestError``."""
    try:
        tree: Mapping[str, Any] = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"expected a line of JSON ahead of each recording, got {line[:60]!r}") from error
    return CorrectedRecording.read(tree)
