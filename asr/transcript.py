"""What recognition returns, and how it is written (``asr.formats`` is the table of formats, and reads them)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from asr.media import recording_name

# Subtitle guidelines: two lines of 42 characters, at most 7 s on screen, a new
# cue after a pause; on screen for at least a second and long enough to be read, where the next cue leaves the time.
LINE_CHARACTERS = 42
CUE_LINES = 2
CUE_S = 7.0
PAUSE_S = 1.0
LEAST_CUE_S = 1.0
CHARACTERS_PER_S = 17.0
LEAST_S = 0.001
"""Of a cue, and of an interval in a TextGrid: readers leave out what has no duration."""
DOUBT_WORDS = 3
"""Words of which the mean confidence says enough of the kind of speech: a single short command is often unsure."""


@dataclass(frozen=True)
class Word:
    """A word, when it was said (seconds from the start of the recording) and how sure the model is (0 to 1).

    ``raw``: the model's own confidence, where a calibration has put another in its place.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float
    raw: float | None = None

    @property
    def own(self) -> float:
        """The model's own confidence, before any calibration."""
        return self.confidence if self.raw is None else self.raw


@dataclass(frozen=True)
class Transcript:
    """The text of one recording. ``str()`` gives the text alone.

    ``channel``: the one it was heard in, from 1; 0: the mean of all. ``threshold``: the mean of the
    words' own confidences below which the model may not know this kind of speech; None where that is not known.

    Words of a text or phrase that was given are as they were given; ``spoken`` is then for each what was heard for it
    (``42`` as ``FORTY TWO``). Where alignment was asked for, ``tokens`` are the words' tokens one by one, with times
    and confidences; ``left_out`` says for each word of the text that could not be aligned why, and ``gaps`` how many of
    ``words`` come before it; ``mismatch`` is how much
    less likely the text is than what is heard without it (``asr.decode.mismatch``), and ``losses`` are its parts, one
    for each word with half of the pauses beside it (``asr.decode.losses``).
    """

    text: str
    words: tuple[Word, ...]
    duration_s: float
    source: str = ""
    tokens: tuple[Word, ...] = ()
    channel: int = 0
    spoken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    mismatch: float | None = None
    losses: tuple[tuple[float, int, int], ...] = ()
    threshold: float | None = None
    gaps: tuple[int, ...] = ()

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words; None when there are none."""
        return sum(w.confidence for w in self.words) / len(self.words) if self.words else None

    @property
    def doubt(self) -> str:
        """A line for people where the words' own confidences are below the threshold: the text may have little to do
        with what was said. Empty elsewhere."""
        return doubt(self.source, len(self.words), sum(word.own for word in self.words), self.threshold)

    @property
    def spoken_text(self) -> str:
        """The text as the model spells it: what is scored, and trained on."""
        return " ".join(self.spoken) if self.spoken else self.text

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in seconds. ``transcript.schema.json`` in ``asr/assets`` describes them."""
        confidence = self.confidence
        tree = {
            "format": 2,
            "source": self.source,
            "duration_s": round(self.duration_s, 3),
            "text": self.text,
            "confidence": None if confidence is None else round(confidence, 4),
            "words": [_plain(word) for word in self.words],
        }
        if self.channel:
            tree["channel"] = self.channel
        if self.mismatch is not None:
            tree["mismatch"] = round(self.mismatch, 3)
        return tree | ({"tokens": [_plain(token) for token in self.tokens]} if self.tokens else {})


def doubt(source: str, words: int, total: float, threshold: float | None) -> str:
    """``Transcript.doubt`` of a recording with so many words, whose own confidences sum to ``total``.

    One word is a third of the evidence that three are, and two are two thirds: so much of the threshold is expected.
    """
    if not words or threshold is None:
        return ""
    threshold *= min(1.0, words / DOUBT_WORDS)
    if total / words >= threshold:
        return ""
    return (
        f"{source or 'audio'}: the model may not know this kind of speech (confidence {total / words:.2f}, expected "
        f"{threshold:.2f} or more): check the text, or use a model that was trained on such speech; asr info shows "
        "what a model is for"
    )


def _plain(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start_s": round(word.start_s, 3),
        "end_s": round(word.end_s, 3),
        "confidence": round(word.confidence, 4),
    }


def to_txt(transcript: Transcript) -> str:
    """The text, one line."""
    return transcript.text + "\n"


def to_json(transcript: Transcript) -> str:
    """One JSON object on one line: ``Transcript.to_dict``."""
    return json.dumps(transcript.to_dict(), ensure_ascii=False) + "\n"


def to_ctm(transcript: Transcript) -> str:
    """NIST CTM: ``recording channel start duration word confidence``, one word a line.

    The recording is named by its file without the suffix, as in the reference CTM of most corpora.
    """
    name = ctm_name(transcript.source)
    channel = max(1, transcript.channel)
    return "".join(
        f"{name} {channel} {start_s:.3f} {end_s - start_s:.3f} {text} {w.confidence:.4f}\n"
        for w in transcript.words
        for text, start_s, end_s in _single(w)
    )


def _single(word: Word) -> Iterator[tuple[str, float, float]]:
    """The parts of words that were written together (``$5 million``), each with its share of the time."""
    parts = word.text.split() or [""]
    step_s = (word.end_s - word.start_s) / len(parts)
    for number, part in enumerate(parts):
        yield part, word.start_s + number * step_s, word.start_s + (number + 1) * step_s


def ctm_name(source: str) -> str:
    """What a CTM calls a recording."""
    # Fields are separated by blanks, so a name with blanks would shift all of them.
    return "_".join(recording_name(source).split()) or "-"


def to_srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    cues = group_cues(transcript.words)
    return "\n".join(
        f"{number}\n{_clock(start_s, ',')} --> {_clock(end_s, ',')}\n{_wrap(cue)}\n"
        for number, (cue, (start_s, end_s)) in enumerate(zip(cues, cue_times(cues), strict=True), start=1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles."""
    cues = group_cues(transcript.words)
    return "WEBVTT\n" + "".join(
        f"\n{_clock(start_s, '.')} --> {_clock(end_s, '.')}\n{_escape(_wrap(cue))}\n"
        for cue, (start_s, end_s) in zip(cues, cue_times(cues), strict=True)
    )


def to_textgrid(transcript: Transcript) -> str:
    """Praat TextGrid, long form: an interval tier of words, one of tokens where they are known, gaps being empty."""
    tiers = {"words": transcript.words} | ({"tokens": transcript.tokens} if transcript.tokens else {})
    placed = {name: _intervals(words) for name, words in tiers.items()}
    end_s = max([round(transcript.duration_s, 6), *(interval[1] for tier in placed.values() for interval in tier)])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end_s:.6f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, intervals) in enumerate(placed.items(), start=1):
        at = intervals[-1][1] if intervals else 0.0
        if end_s > at or not intervals:
            intervals.append((at, end_s, ""))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {end_s:.6f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, end, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def group_cues(words: Sequence[Word]) -> list[list[Word]]:
    """Words as subtitle cues: broken at pauses, and before a cue gets too long to show or to fit its lines."""
    cues: list[list[Word]] = []
    for word in words:
        if cues and _belongs(cues[-1], word):
            cues[-1].append(word)
        else:
            cues.append([word])
    return cues


def cue_times(cues: Sequence[Sequence[Word]]) -> list[tuple[float, float]]:
    """When each cue is shown: from its first word on, long enough to be read, and never into the next cue."""
    times = []
    for index, cue in enumerate(cues):
        start_s, spoken_s = cue[0].start_s, cue[-1].end_s
        characters = len(_wrap(cue))
        wanted_s = start_s + min(CUE_S, max(LEAST_CUE_S, characters / CHARACTERS_PER_S))
        limit_s = cues[index + 1][0].start_s if index + 1 < len(cues) else math.inf
        times.append((start_s, max(spoken_s, min(wanted_s, limit_s), start_s + LEAST_S)))
    return times


def _intervals(words: Sequence[Word]) -> list[tuple[float, float, str]]:
    """Words as intervals without gaps from 0 on, as Praat wants them: each word has one, and none is empty.

    A word ends where the next one begins, if that is earlier. One that has no time left of its own gets ``LEAST_S``,
    and what follows begins later.
    """
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for index, word in enumerate(words):
        start, end = max(at, round(word.start_s, 6)), round(word.end_s, 6)
        if index + 1 < len(words):
            end = min(end, round(words[index + 1].start_s, 6))
        if start > at:
            intervals.append((at, start, ""))
        at = max(end, round(start + LEAST_S, 6))
        intervals.append((start, at, word.text))
    return intervals


def _belongs(cue: list[Word], word: Word) -> bool:
    if word.start_s - cue[-1].end_s > PAUSE_S or word.end_s - cue[0].start_s > CUE_S:
        return False
    return _wrap([*cue, word]).count("\n") < CUE_LINES


def _wrap(cue: Sequence[Word]) -> str:
    lines: list[str] = []
    for word in cue:
        if lines and len(lines[-1]) + 1 + len(word.text) <= LINE_CHARACTERS:
            lines[-1] += " " + word.text
        else:
            lines.append(word.text)
    return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, separator: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{separator}{rest % 1000:03}"
