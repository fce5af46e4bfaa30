"""Who speaks when in a recording: turns of speakers, from RTTM files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from asr.errors import ManifestError
from asr.lines import split_fields, split_lines
from asr.subtitles import Cue
from asr.textfiles import read_text

MOST_OVERLAP = 0.5
"""Share of a segment that its speaker's turns must cover for the segment to be taken for that speaker's."""


def rttm(path: Path) -> dict[str, list[Cue]]:
    """Turns of speakers by recording, sorted by time, from the lines ``SPEAKER`` of an RTTM file (NIST 2009); no texts.

    ``;;`` begins a comment. Raises ``ManifestError`` naming the line.
    """
    turns: dict[str, list[Cue]] = {}
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
            turns.setdefault(recording, []).append(Cue(start_s, start_s + duration_s, "", speaker))
    return {recording: sorted(found, key=lambda turn: turn.start_s) for recording, found in turns.items()}


def speaker(turns: Sequence[Cue], start_s: float, end_s: float | None) -> str:
    """Who speaks from ``start_s`` to ``end_s`` (None: the end): whose turns cover most of it, if they cover
    ``MOST_OVERLAP``; nobody (empty) where it is not that clear."""
    if end_s is None:
        names = {turn.speaker for turn in turns if turn.end_s > start_s}
        return names.pop() if len(names) == 1 else ""
    covered: dict[str, float] = {}
    for turn in turns:
        common_s = min(end_s, turn.end_s) - max(start_s, turn.start_s)
        if common_s > 0:
            covered[turn.speaker] = covered.get(turn.speaker, 0.0) + common_s
    most = max(covered, key=lambda name: covered[name], default="")
    return most if most and covered[most] >= MOST_OVERLAP * (end_s - start_s) else ""
