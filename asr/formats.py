"""The formats of transcripts: one table of how each is named, written and read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from asr.errors import ManifestError
from asr.files import split_fields, split_lines
from asr.subtitles import read_cues
from asr.transcript import Transcript, Word, ctm_name


@dataclass(frozen=True)
class Format:
    """A format of transcript files.

    ``read(content, name)`` gives the transcripts in a file's content; ``name`` is the recording's name, for a format
    that does not state it. It raises ``ManifestError`` naming the line or place, not the file. ``shared``: one stream
    may hold several recordings. ``timed``: words have times.
    """

    suffix: str
    write: Callable[[Transcript], str]
    read: Callable[[str, str], list[Transcript]]
    shared: bool
    timed: bool


def read_txt(content: str, name: str) -> list[Transcript]:
    """The whole file as one text; when its words are spoken is not known."""
    return [Transcript(" ".join(content.split()), (), 0.0, name)]


def read_transcript_json(content: str, name: str) -> list[Transcript]:
    """JSON transcripts, one a line, or a single one over many lines."""
    try:
        return [_from_dict("1", json.loads(content), name)]
    except (ValueError, RecursionError):
        pass
    found = []
    for number, line in enumerate(split_lines(content), start=1):
        if line.strip():
            try:
                tree = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ManifestError(f"{number}: expected a JSON object, got {line.strip()[:60]!r}: {error}") from error
            found.append(_from_dict(str(number), tree, name))
    return found


def _from_dict(where: str, tree: Any, name: str) -> Transcript:
    if not isinstance(tree, Mapping) or not isinstance(tree.get("text"), str):
        raise ManifestError(f"{where}: expected a transcript as asr transcribe --format json writes it, with a text")
    try:
        words, tokens = (tuple(map(_word, tree.get(key, ()))) for key in ("words", "tokens"))
        duration_s = _time(tree.get("duration_s", max((w.end_s for w in words), default=0.0)))
        source, channel = str(tree.get("source") or name), int(tree.get("channel", 0))
        written = None if tree.get("written") is None else str(tree["written"])
        reliable, reliability = tree.get("reliable"), tree.get("reliability")  # from format 3 on
        reliability = None if reliability is None else _time(reliability)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ManifestError(f"{where}: expected words with text, start_s, end_s and confidence, got {error}") from error
    return Transcript(
        tree["text"], words, duration_s, source, tokens, channel, written=written,
        reliable=reliable if isinstance(reliable, bool) else None, reliability=reliability,
    )  # fmt: skip


def _word(tree: Mapping[str, Any]) -> Word:
    return Word(str(tree["text"]), _time(tree["start_s"]), _time(tree["end_s"]), float(tree.get("confidence") or 0.0))


def _time(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r}, which is not a time")
    return seconds


def read_subtitles(content: str, name: str) -> list[Transcript]:
    """Cues of SubRip or WebVTT; the time of a cue is shared out among its words by their length."""
    words = [word for cue in read_cues(content) for word in _spread(cue.text, cue.start_s, cue.end_s)]
    return [_recording(name, words)]


def read_ctm(content: str, name: str) -> list[Transcript]:
    """NIST CTM: ``recording channel start duration word [confidence …]``; a transcript for each recording and channel.

    Channels are numbers, or letters that count from A. Lines that begin with ``;;`` are comments.
    """
    groups: dict[tuple[str, int], list[Word]] = {}
    for number, line in enumerate(split_lines(content), start=1):
        fields = split_fields(line)
        if not fields or line.startswith(";;"):
            continue
        if len(fields) < 5:
            raise ManifestError(f"{number}: expected recording, channel, start, duration and word, got {line[:60]!r}")
        if fields[4].startswith("<ALT"):
            raise ManifestError(
                f"{number}: expected no alternatives in a hypothesis, got {fields[4]}; keep one of them"
            )
        try:
            start_s, duration_s = _time(fields[2]), _time(fields[3])
            confidence = 1.0 if len(fields) < 6 or fields[5] in ("NA", "-") else _time(fields[5])
        except ValueError as error:
            raise ManifestError(f"{number}: expected seconds, seconds and a confidence: {error}") from error
        word = Word(fields[4], start_s, start_s + duration_s, confidence)
        groups.setdefault((fields[0], channel(fields[1], str(number))), []).append(word)
    return [_recording(name, sorted(words, key=lambda w: w.start_s), n) for (name, n), words in groups.items()]


def channel(field: str, where: str) -> int:
    """The number of a channel that is named by a number or a letter. Raises ``ManifestError``."""
    if re.fullmatch(r"[0-9]{1,4}", field):
        return int(field)
    if re.fullmatch(r"[A-Za-z]", field):
        return ord(field.upper()) - ord("A") + 1
    raise ManifestError(f"{where}: expected a channel such as 1 or A, got {field[:20]!r}")


def read_textgrid(content: str, name: str) -> list[Transcript]:
    """Praat TextGrid, long or short: the words of the tier ``words``, else of the first tier of intervals.

    A tier ``tokens`` becomes the tokens. The time of an interval with several words is shared out by their length.
    """
    tiers, end_s = _tiers(content)
    named = {label.lower(): intervals for label, intervals in reversed(tiers)}
    chosen = next((named[label] for label in ("words", "word") if label in named), tiers[0][1] if tiers else [])
    words = [word for start_s, end_s, text in chosen for word in _spread(text, start_s, end_s)]
    tokens = tuple(Word(text, start_s, end_s, 1.0) for start_s, end_s, text in named.get("tokens", ()) if text)
    return [Transcript(" ".join(w.text for w in words), tuple(words), end_s, name, tokens)]


_Interval = tuple[float, float, str]
# What Praat reads of a text file: strings, and numbers that stand by themselves; all the rest is decoration.
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?[0-9][0-9.eE+-]*)(?!\S)')


def _tiers(content: str) -> tuple[list[tuple[str, list[_Interval]]], float]:
    """The tiers of intervals by name, in order, and where they end."""
    values = (
        match[2] if match[2] is not None else '"' + match[1].replace('""', '"') for match in _VALUE.finditer(content)
    )
    try:
        if (next(values), next(values)) != ('"ooTextFile', '"TextGrid'):
            raise ManifestError("1: expected a TextGrid as Praat saves it as text")
        _, end_s, count = _time(next(values)), _time(next(values)), int(next(values))
        tiers = [_tier(values) for _ in range(count)]
    except (StopIteration, ValueError) as error:
        raise ManifestError(f"1: the TextGrid is damaged: {str(error) or 'it ends too early'}") from error
    return [(label, intervals) for label, intervals in tiers if intervals is not None], end_s


def _tier(values: Iterator[str]) -> tuple[str, list[_Interval] | None]:
    kind, label, _, _, count = [next(values) for _ in range(5)]
    if kind == '"TextTier':
        for _ in range(2 * int(count)):
            next(values)
        return label[1:], None
    intervals = [(_time(next(values)), _time(next(values)), next(values)[1:].strip()) for _ in range(int(count))]
    return label[1:], intervals


def _spread(text: str, start_s: float, end_s: float) -> list[Word]:
    """The words of a text, the time shared out by their length."""
    words = text.split()
    characters = sum(map(len, words)) or 1
    found, done = [], 0
    for word in words:
        bounds = [start_s + (end_s - start_s) * at / characters for at in (done, done + len(word))]
        found.append(Word(word, bounds[0], bounds[1], 1.0))
        done += len(word)
    return found


def _recording(name: str, words: Sequence[Word], number: int = 0) -> Transcript:
    end_s = max((word.end_s for word in words), default=0.0)
    return Transcript(" ".join(word.text for word in words), tuple(words), end_s, name, channel=number)


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


FORMATS: dict[str, Format] = {
    "txt": Format(".txt", to_txt, read_txt, shared=True, timed=False),
    "json": Format(".json", to_json, read_transcript_json, shared=True, timed=True),
    "srt": Format(".srt", to_srt, read_subtitles, shared=False, timed=True),
    "vtt": Format(".vtt", to_vtt, read_subtitles, shared=False, timed=True),
    "ctm": Format(".ctm", to_ctm, read_ctm, shared=True, timed=True),
    "textgrid": Format(".TextGrid", to_textgrid, read_textgrid, shared=False, timed=True),
}
"""By the name that ``--format`` takes. A new format is a line here; command line, batches, scoring and tests follow."""


def of_file(path: str | PurePath) -> Format | None:
    """The format that a file's suffix names, in any case; None for others."""
    suffix = PurePath(path).suffix.lower()
    return next((format for format in FORMATS.values() if format.suffix.lower() == suffix), None)
