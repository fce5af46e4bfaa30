"""What protocols ask of the services, and what they get: plain values that know no protocol and no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from asr.transcript import Transcript

ENCODINGS = ("s16le", "mulaw", "alaw", "f32le")
"""Encodings of mono samples: 16 bits signed, G.711 µ-law and A-law, 32-bit floats in [-1, 1]; all little-endian."""
SETTLE_S = 0.6
"""``StreamOptions.settle_s`` of protocols that send text once and cannot take it back."""
HOT_WORD_BOOST = 5.0
"""Natural logarithm that a hot word without a boost of its own gets."""


@dataclass(frozen=True)
class StreamOptions:
    """How one live stream is recognised. None of it touches other streams."""

    model: str | None = None
    """Name or alias; None: the default for live streams."""
    rate_hz: int = 16000
    encoding: str = "s16le"
    hot_words: Mapping[str, float] = field(default_factory=dict)
    """Boosts (natural logarithms) of words and phrases."""
    phrases: tuple[str, ...] = ()
    """A closed list: only its words are recognised, in any order, by a word bigram of the list. ``[unk]`` in it allows
    other words. Empty: no list."""
    alternatives: int = 1
    """Hypotheses of each final result, best first, 1 to 16."""
    settle_s: float | None = None
    """How long ago a word must have ended to be decided on; None: until no hypothesis has another."""
    endpoint_s: float | None = 0.8
    """Silence that ends an utterance; None: it ends only where the client says so."""
    longest_s: float = 20.0
    """Length beyond which an utterance ends at the next blank frame; with ``endpoint_s`` None it has no effect."""


@dataclass(frozen=True)
class SpeechStarted:
    """The first sound of speech in an utterance, at ``time_s`` of the stream."""

    time_s: float


@dataclass(frozen=True)
class SpeechStopped:
    """The end of speech in an utterance that an endpoint ended; its ``Final`` follows at once."""

    time_s: float


@dataclass(frozen=True)
class Partial:
    """The best guess at the utterance under way. Its first ``stable`` characters will not change any more."""

    text: str
    stable: int
    time_s: float
    """Position in the stream that the text reaches."""


@dataclass(frozen=True)
class Final:
    """An utterance that has ended. Times count from the start of the stream.

    ``alternatives``: as many hypotheses as were asked for, or fewer, best first; the first is ``transcript``.
    ``shares``: of each the probability among them. ``spoken``: ``transcript`` as it was spoken, where that has digits
    and punctuation instead (``Settings.case``); None: it is as it was spoken itself.
    """

    transcript: Transcript
    alternatives: tuple[Transcript, ...] = ()
    shares: tuple[float, ...] = ()
    spoken: Transcript | None = None


Event: TypeAlias = SpeechStarted | SpeechStopped | Partial | Final


@dataclass(frozen=True)
class FileOptions:
    """How one file is transcribed."""

    model: str | None = None
    """Name or alias; None: the default for files."""
    hot_words: Mapping[str, float] = field(default_factory=dict)
    phrases: tuple[str, ...] = ()
    """As for ``StreamOptions``."""
    name: str = ""
    """The file's name in messages and as the transcript's ``source``, without folders."""


@dataclass(frozen=True)
class Settled:
    """An utterance of a file that will not change any more; they come in order of time."""

    transcript: Transcript


@dataclass(frozen=True)
class Done:
    """The transcript of the whole file: the last event."""

    transcript: Transcript


FileEvent: TypeAlias = Settled | Done
