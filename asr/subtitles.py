"""Reads the cues of SubRip and WebVTT files; the one reader of subtitles."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

# No field has a pattern without a bound, and none is searched for within a line: a hostile file is read in linear time.
_CLOCK = r"(?:(\d{1,9}):)?(\d{1,9}):(\d{1,2})[.,](\d{1,9})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s{{0,9}}-->\s{{0,9}}{_CLOCK}(?!\d)")
_LINE_END = re.compile(r"\r\n|\n|\r")
_VTT_TAG = re.compile(r"<[^<>]*>")
_SRT_TAG = re.compile(r"</?(?:b|i|u|s|br)[ ]?/?>|</?(?:font|span|c|v)\b[^<>]*>|\{\\[^{}]*\}", re.IGNORECASE)
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?[ \t]+([^<>]+)>")


@dataclass(frozen=True)
class Cue:
    """A cue from ``start_s`` to ``end_s``: its text on one line, and its speaker where WebVTT names one."""

    start_s: float
    end_s: float
    text: str
    speaker: str = ""


def read_cues(content: str) -> list[Cue]:
    """The cues of a SubRip or WebVTT file in order; formatting is left out, and so are cues without text or duration.

    WebVTT is what begins with ``WEBVTT``: there every ``<…>`` is a tag, ``<v Name>`` names the speaker, and ``&amp;``
    and the like are escapes. In SubRip ``<i>``, ``<font …>`` and ``{\\an8}`` are formatting, and nothing is an escape.
    """
    content = content.removeprefix("\ufeff")
    vtt = content.startswith("WEBVTT")
    cues = []
    for start_s, end_s, lines in _blocks(_LINE_END.split(content)):
        voices = {html.unescape(name).strip() for line in lines for name in _VOICE.findall(line)} if vtt else set()
        text = " ".join((_VTT_TAG if vtt else _SRT_TAG).sub("", line) for line in lines)
        text = " ".join((html.unescape(text) if vtt else text).split())
        if text and end_s > start_s:
            cues.append(Cue(start_s, end_s, text, voices.pop() if len(voices) == 1 else ""))
    return cues


def _blocks(lines: list[str]) -> Iterator[tuple[float, float, list[str]]]:
    """Times and lines of each cue: up to a blank line or, where one is missing, the next cue's number or times."""
    index = 0
    while index < len(lines):
        match = _TIMES.match(lines[index])
        index += 1
        if not match:
            continue
        start = index
        while index < len(lines) and lines[index].strip() and not _TIMES.match(lines[index]):
            index += 1
        body = lines[start:index]
        if index < len(lines) and lines[index].strip() and body and body[-1].strip().isdigit():
            del body[-1]
        yield _seconds(match.groups()[:4]), _seconds(match.groups()[4:]), body


def _seconds(fields: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, part = (field or "0" for field in fields)
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds) + float(f"0.{part}")
