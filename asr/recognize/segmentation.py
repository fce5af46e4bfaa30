"""Cuts a long recording with its text into utterances to train on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from asr.config import loader
from asr.data.manifest import Utterance
from asr.decode.alignment import MISMATCH, per_token
from asr.errors import ConfigError, TextError
from asr.transcript import Transcript, Word

SUSPICIOUS = 0.2
"""Mean confidence of an utterance's words below which its text is taken not to be what was said."""


@dataclass(frozen=True)
class Segments:
    """Utterances cut from one recording, and those left out.

    ``doubtful``: those with a low mean confidence or a high mismatch. ``overlong``: those without a pause to cut at.
    ``incomplete``: those that hold or adjoin a word that the model cannot spell.
    """

    kept: list[Utterance]
    doubtful: list[Utterance]
    overlong: list[Utterance]
    incomplete: list[Utterance] = dataclasses.field(default_factory=list)


def cut_segments(
    aligned: Transcript,
    audio: str,
    id: str,
    *,
    speaker: str = "",
    shortest_s: float = 2.0,
    longest_s: float = 15.0,
    least_confidence: float = SUSPICIOUS,
    most_mismatch: float = MISMATCH,
) -> Segments:
    """Cut an aligned recording (``Recognizer.align``) at its longest pauses.

    The recording is cut at its longest pause, the parts at theirs, until each lasts at most ``longest_s``, and no cut
    leaves less than ``shortest_s`` unless nothing else would do. Cuts lie in the middle of pauses, so that the
    utterances together are the recording; a word is never cut. Utterances whose words have a mean confidence below
    ``least_confidence`` or a mismatch above ``most_mismatch`` come back as doubtful, a single word that lasts
    longer than ``longest_s`` as overlong, and what may lack a word that was left out (``Transcript.gaps``) as
    incomplete.
    Texts are as the model spells them, so that they can be trained on.

    Args:
        aligned: words with times.
        audio, id, speaker: of the utterances; ids get a number behind them.
        most_mismatch: of the whole and of each utterance (``asr.decode.mismatch``), in nats per token; ``inf`` takes
            any text.

    Raises:
        ConfigError: bounds that contradict, or are no numbers.
        TextError: a text that has nothing to do with the recording.
    """
    bounds = {"shortest_s": shortest_s, "longest_s": longest_s}
    bounds |= {"least_confidence": least_confidence, "most_mismatch": most_mismatch}
    for name, value in bounds.items():
        loader.as_number(value, name)
    if not 0 < shortest_s <= longest_s < math.inf:
        raise ConfigError(f"expected 0 < shortest_s <= longest_s, got {shortest_s} and {longest_s}")
    if not 0 <= least_confidence <= 1:
        raise ConfigError(f"least_confidence: expected 0 to 1, got {least_confidence}")
    if not most_mismatch >= 0:
        raise ConfigError(f"most_mismatch: expected 0 or more, got {most_mismatch}")
    if aligned.mismatch is not None and aligned.mismatch > most_mismatch:
        raise TextError(
            f"{aligned.source or audio}: the text does not seem to match the recording: it is "
            f"{aligned.mismatch:.1f} nats per token less likely than the model's own transcript, expected "
            f"at most {most_mismatch:g}; check that text and recording belong together and that the "
            "model knows such speech"
        )
    words = aligned.words
    if aligned.spoken:
        words = tuple(dataclasses.replace(w, text=text) for w, text in zip(words, aligned.spoken, strict=True))
    groups = _cut(words, 0.0, aligned.duration_s, shortest_s, longest_s) if words else []
    found = Segments([], [], [], [])
    digits = len(str(len(groups)))
    at = 0
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
        whole = not any(at <= gap <= at + len(group) for gap in aligned.gaps)
        sure = sum(word.confidence for word in group) / len(group) >= least_confidence
        if parts := aligned.losses[at : at + len(group)]:
            sure = sure and per_token(*parts) <= most_mismatch
        at += len(group)
        if end_s - start_s > longest_s:
            found.overlong.append(utterance)
        elif not whole:
            found.incomplete.append(utterance)
        else:
            (found.kept if sure else found.doubtful).append(utterance)
    return found


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
