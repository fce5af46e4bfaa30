"""Reads speaker turns (who speaks when) from RTTM files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.corpora.text_files import read_text
from asr.errors import ManifestError
from asr.files import split_fields, split_lines

MOST_OVERLAP = 0.5
"""Share of a segment that the turns of its speaker, and of nobody else, must cover for it to be that speaker's."""


@dataclass(frozen=True)
class Turn:
    """``speaker`` speaks from ``start_s`` to ``end_s``; ``channel`` counts from 1, as RTTM does, in decimal digits."""

    start_s: float
    end_s: float
    speaker: str
    channel: str = "1"


def rttm(path: Path) -> dict[str, list[Turn]]:
    """Turns of speakers by recording, sorted by time, from the lines ``SPEAKER`` of an RTTM file (NIST 2009).

    ``;;`` begins a comment. Raises ``ManifestError`` naming the line.
    """
    turns: dict[str, list[Turn]] = {}
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        fields = split_fields(line)
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            recording, start_s, duration_s, speaker = fields[1], float(fields[3]), float(fields[4]), fields[7]
            if not (0 <= start_s < math.inf and 0 <= duration_s < math.inf):
                raise ValueError(f"{fields[3]} and {fields[4]}")
        except (IndexError, ValueError) as error:
            raise ManifestError(
                f"{path}:{number}: expected SPEAKER, recording, channel, start and duration in seconds, two fields and "
                f"the speaker, got {line[:100]!r}"
            ) from error
        if speaker != "<NA>":
            turns.setdefault(recording, []).append(Turn(start_s, start_s + duration_s, speaker, fields[2]))
    return {recording: sorted(found, key=lambda turn: turn.start_s) for recording, found in turns.items()}


def speaker(turns: Sequence[Turn], start_s: float, end_s: float | None, channel: int | None = None) -> str:
    """Who speaks from ``start_s`` to ``end_s`` (None: the end): the one whose turns cover ``MOST_OVERLAP`` of it.

    Nobody (empty) where that is true of several, or of none. ``channel``: that of the segment, counted from 0; turns of
    others do not count then. None: of all.
    """
    if channel is not None:
        turns = [turn for turn in turns if turn.channel == str(channel + 1)]
    if end_s is None:
        names = {turn.speaker for turn in turns if turn.end_s > start_s}
        return names.pop() if len(names) == 1 else ""
    covered: dict[str, float] = {}
    reached: dict[str, float] = {}  # turns of one speaker may overlap
    for turn in sorted(turns, key=lambda turn: turn.start_s):
        from_s = max(start_s, turn.start_s, reached.get(turn.speaker, start_s))
        to_s = min(end_s, turn.end_s)
        if to_s > from_s:
            covered[turn.speaker] = covered.get(turn.speaker, 0.0) + to_s - from_s
            reached[turn.speaker] = to_s
    least_s = MOST_OVERLAP * (end_s - start_s) - 1e-6  # times are decimal, sums of them are not
    names = {name for name, seconds in covered.items() if seconds >= least_s}
    return names.pop() if len(names) == 1 else ""
