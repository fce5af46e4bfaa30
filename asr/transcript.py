"""What recognition returns, and the formats it is written in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

# Subtitle conventions: two lines of 42 characters, at most 7 s on screen, a new cue after a pause.
LINE_CHARACTERS = 42
CUE_LINES = 2
CUE_S = 7.0
PAUSE_S = 1.0


@dataclass(frozen=True)
class Word:
    """A word, when it was said (seconds from the start of the recording) and how sure the model is (0 to 1)."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """The text of one recording. ``str()`` gives the text alone."""

    text: str
    words: tuple[Word, ...]
    duration_s: float
    source: str = ""

    @property
    def confidence(self) -> float:
        """Mean confidence of the words; 1 when there are none."""
        return sum(w.confidence for w in self.words) / len(self.words) if self.words else 1.0

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in seconds."""
        return {
            "format": 1,
            "source": self.source,
            "duration_s": round(self.duration_s, 3),
            "text": self.text,
            "confidence": round(self.confidence, 4),
            "words": [
                {
                    "text": word.text,
                    "start_s": round(word.start_s, 3),
                    "end_s": round(word.end_s, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in self.words
            ],
        }


def to_txt(transcript: Transcript) -> str:
    """The text, one line."""
    return transcript.text + "\n"


def to_json(transcript: Transcript) -> str:
    """One JSON object on one line: ``Transcript.to_dict``."""
    return json.dumps(transcript.to_dict(), ensure_ascii=False) + "\n"


def to_ctm(transcript: Transcript) -> str:
    """NIST CTM: ``recording channel start duration word confidence``, one word a line.

    The recording is named by its file's stem, as in the reference CTM of most corpora.
    """
    # Fields are separated by blanks, so a name with blanks would shift all of them.
    name = "_".join(PurePath(transcript.source).stem.split()) or "-"
    return "".join(
        f"{name} 1 {w.start_s:.3f} {w.end_s - w.start_s:.3f} {w.text} {w.confidence:.4f}\n" for w in transcript.words
    )


def to_srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    cues = enumerate(group_cues(transcript.words), start=1)
    return "\n".join(
        f"{number}\n{_clock(cue[0].start_s, ',')} --> {_clock(cue[-1].end_s, ',')}\n{_wrap(cue)}\n"
        for number, cue in cues
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles."""
    cues = group_cues(transcript.words)
    body = "".join(f"\n{_clock(c[0].start_s, '.')} --> {_clock(c[-1].end_s, '.')}\n{_escape(_wrap(c))}\n" for c in cues)
    return "WEBVTT\n" + body


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
    "ctm": to_ctm,
}


def group_cues(words: Sequence[Word]) -> list[list[Word]]:
    """Words as subtitle cues: broken at pauses, and before a cue gets too long to show or to fit its lines."""
    cues: list[list[Word]] = []
    for word in words:
        if cues and _belongs(cues[-1], word):
            cues[-1].append(word)
        else:
            cues.append([word])
    return cues


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
