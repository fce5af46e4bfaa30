"""Which utterances are good enough to train on: their length, their speaking rate, their letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asr.corpora.layouts import Clip, probe_length
from asr.errors import AudioError


@dataclass(frozen=True)
class SpeechGate:
    """Limits of a quality gate. An utterance outside one of them gets a ``fault``, and recipes leave it out by name.

    Rates count letters without spaces. A rate above ``fastest_hz`` means that the recording is cut short or has
    another text. A rate below ``slowest_hz`` means that words are missing from the text; it is tested only beyond
    ``slow_from_s``, since a short word between pauses is slow too.
    """

    shortest_s: float = 0.5
    longest_s: float = 18.0
    fastest_hz: float = 25.0
    slowest_hz: float = 1.0
    slow_from_s: float = 5.0
    letters: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"

    def fault(self, text: str, duration_s: float) -> str:
        """What is wrong with an utterance, in words; empty where nothing is."""
        strange = re.sub(f"[{re.escape(self.letters)} ]", "", text)
        if strange or not text.strip():
            return f"text: expected words in {self.letters}, got {strange[:20]!r} in {text[:60]!r}"
        if not self.shortest_s <= duration_s <= self.longest_s:
            return f"expected {self.shortest_s:g} to {self.longest_s:g} s, got {duration_s:.2f} s"
        rate_hz = len(text.replace(" ", "")) / duration_s
        if rate_hz > self.fastest_hz or (rate_hz < self.slowest_hz and duration_s > self.slow_from_s):
            return (
                f"expected {self.slowest_hz:g} to {self.fastest_hz:g} letters a second, got {rate_hz:.1f} in "
                f"{duration_s:.2f} s: {text[:60]!r}"
            )
        return ""

    def mark(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips with their texts in upper case, and a ``fault`` where they do not pass.

        Audio headers are read for the lengths. A clip whose audio cannot be read is left to ``run_recipe`` to report.
        """
        clips = [replace(clip, text=" ".join(clip.text.upper().split())) for clip in clips]
        lengths = probe_length([clip for clip in clips if not clip.fault and clip.end_s is None])
        marked = []
        for clip in clips:
            found = lengths.get(clip.audio)
            whole_s = None if found is None or isinstance(found, AudioError) else found[1]
            end_s = clip.end_s if clip.end_s is not None else whole_s
            if clip.fault or end_s is None:
                marked.append(clip)
            else:
                marked.append(replace(clip, fault=self.fault(clip.text, end_s - clip.start_s)))
        return marked
