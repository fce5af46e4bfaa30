"""Cutting a long recording with its text into utterances to train on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asr.errors import ConfigError
from asr.manifest import Utterance
from asr.transcript import Transcript, Word

SUSPICIOUS = 0.2
"""Mean confidence of an utterance's words below which its text is taken not to be what was said."""


@dataclass(frozen=True)
class Segments:
    """Utterances cut from one recording, and those left out because their words were hardly heard."""

    kept: list[Utterance]
    doubtful: list[Utterance]


def segment(
    aligned: Transcript,
    audio: str,
    id: str,
    *,
    speaker: str = "",
    shortest_s: float = 2.0,
    longest_s: float = 15.0,
    least_confidence: float = SUSPICIOUS,
) -> Segments:
    """Cut an aligned recording (``Recognizer.align``) at its longest pauses.

    The recording is cut at its longest pause, the parts at theirs, until each lasts at most ``longest_s``, and no cut
    leaves less than ``shortest_s`` unless nothing else would do. Cuts lie in the middle of pauses, so that the
    utterances together are the recording; a word is never cut. Utterances whose words have a mean confidence below
    ``least_confidence`` come back as doubtful.

    Args:
        aligned: words with times.
        audio, id, speaker: of the utterances; ids get a number behind them.

    Raises:
        ConfigError: bounds that contradict.
    """
    if not 0 < shortest_s <= longest_s < math.inf:
        raise ConfigError(f"expected 0 < shortest_s <= longest_s, got {shortest_s} and {longest_s}")
    if not 0 <= least_confidence <= 1:
        raise ConfigError(f"least_confidence: expected 0 to 1, got {least_confidence}")
    words = aligned.words
    groups = _cut(words, 0.0, aligned.duration_s, shortest_s, longest_s) if words else []
    kept: list[Utterance] = []
    doubtful: list[Utterance] = []
    digits = len(str(len(groups)))
    for number, (start_s, end_s, group) in enumerate(groups, start=1):
        utterance = Utterance(
            id=f"{id}-{number:0{digits}}",
            audio=audio,
            text=" ".join(word.text for word in group),
            duration_s=round(end_s - start_s, 4),
            speaker=speaker,
            start_s=round(start_s, 4),
            end_s=round(end_s, 4),
        )
        sure = sum(word.confidence for word in group) / len(group) >= least_confidence
        (kept if sure else doubtful).append(utterance)
    return Segments(kept, doubtful)


Group = tuple[float, float, Sequence[Word]]


def _cut(words: Sequence[Word], start_s: float, end_s: float, shortest_s: float, longest_s: float) -> list[Group]:
    """``words``, which fill the time from ``start_s`` to ``end_s``, in groups that last at most ``longest_s``."""
    done: list[Group] = []
    todo: list[Group] = [(start_s, end_s, words)]
    while todo:
        start_s, end_s, words = todo.pop()
        place = _longest_pause(words, start_s, end_s, shortest_s) if end_s - start_s > longest_s else None
        if place is None:
            done.append((start_s, end_s, words))
            continue
        middle_s = (words[place - 1].end_s + words[place].start_s) / 2
        todo.append((middle_s, end_s, words[place:]))
        todo.append((start_s, middle_s, words[:place]))
    return done


def _longest_pause(words: Sequence[Word], start_s: float, end_s: float, shortest_s: float) -> int | None:
    """The word behind the longest pause that leaves enough on both sides; if none does, behind the longest."""
    if len(words) < 2:
        return None

    def rank(place: int) -> tuple[bool, float]:
        middle_s = (words[place - 1].end_s + words[place].start_s) / 2
        return min(middle_s - start_s, end_s - middle_s) >= shortest_s, words[place].start_s - words[place - 1].end_s

    return max(range(1, len(words)), key=rank)
