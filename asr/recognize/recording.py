"""One recording to transcribe: a file or array, with its span and channel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

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

        ``rate_hz``: of an array. An item stays what it is.
        """
        if isinstance(source, Recording):
            return source
        if isinstance(source, Utterance):
            return cls(source.audio, source.id, source.start_s, source.end_s, source.channel)
        return cls(source, source_name(source), rate_hz=rate_hz)


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
