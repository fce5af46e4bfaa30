"""One recording to transcribe: a file or array, with its span and channel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asr.audio import read
from asr.audio.samples import Samples
from asr.data.manifest import Utterance


@dataclass(frozen=True)
class Recording:
    """One recording to transcribe: anything ``asr.audio.read.load_audio`` takes, a name for messages, and the part to
    transcribe. ``channel``: one channel instead of the mean of all. ``rate_hz``: the rate of an array; by default the
    model's.
    """

    source: Any
    name: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    rate_hz: int | None = None

    @classmethod
    def of(cls, source: Any, rate_hz: int | None = None) -> Recording:
        """A manifest's utterance, named by its id, or a recording by its path, file object or array.

        ``rate_hz``: of an array. A ``Recording`` stays what it is.
        """
        if isinstance(source, Recording):
            return source
        if isinstance(source, Utterance):
            return cls(source.audio, source.id, source.start_s, source.end_s, source.channel)
        return cls(source, source_name(source), rate_hz=rate_hz)

    def samples(self, sample_rate_hz: int, max_duration_s: float | None = None) -> Samples:
        """The whole recording, ``(S,)`` float32; raises as ``asr.audio.read.load_audio``."""
        return read.load_audio(self.source, sample_rate_hz, **self._part(max_duration_s))

    def blocks(self, sample_rate_hz: int, max_duration_s: float | None = None) -> Iterator[Samples]:
        """The same in blocks of bounded size; raises as ``asr.audio.read.stream_audio``."""
        return read.stream_audio(self.source, sample_rate_hz, **self._part(max_duration_s))

    def _part(self, max_duration_s: float | None) -> dict[str, Any]:
        bounds = {"start_s": self.start_s, "end_s": self.end_s, "max_duration_s": max_duration_s}
        return {"source_rate_hz": self.rate_hz, "channel": self.channel, **bounds}


@dataclass
class Heard:
    """Samples at the model's rate that have been read so far."""

    samples: int = 0


def source_name(source: Any) -> str:
    """A name for messages and output: the path, or the file object's name, or nothing for an array."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", "")
    return name if isinstance(name, str) else ""
