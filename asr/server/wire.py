"""What the server and its worker processes say to each other; both sides are ours, so it travels pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asr.server.messages import FileOptions, StreamOptions


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to begin; its first message."""

    models: Mapping[str, str]
    """Directories by name."""
    live_model: str
    """Of the probe."""
    device: str
    runtime: str
    """As ``Settings.runtime``."""
    threads: int
    case: str
    file_s: float
    """Longest file."""
    learnt: Mapping[str, str] = field(default_factory=dict)
    """Directories that take the place of the models' own, by name (``asr serve --learn``)."""


@dataclass(frozen=True)
class OpenStream:
    """Begin a stream."""

    session: int
    model: str
    options: StreamOptions


@dataclass(frozen=True)
class FeedStream:
    """Whole samples of a stream, in its encoding."""

    session: int
    data: bytes


@dataclass(frozen=True)
class EndUtterance:
    """End the utterance under way; answered by ``Final``."""

    session: int


@dataclass(frozen=True)
class ResetStream:
    """Forget the utterance under way."""

    session: int


@dataclass(frozen=True)
class CloseStream:
    """Free a stream; not answered."""

    session: int


@dataclass(frozen=True)
class TranscribeFile:
    """Transcribe a file; answered by many replies, the last one with ``more`` false."""

    job: int
    model: str
    path: str
    options: FileOptions


@dataclass(frozen=True)
class CancelFile:
    """Stop a job; not answered."""

    job: int


@dataclass(frozen=True)
class Probe:
    """Decode a moment of silence as a live stream would be; answered with how many ``streams`` the worker has."""


@dataclass(frozen=True)
class SwapModel:
    """Serve a model, and those with the same weights, from another directory; answered when it is loaded."""

    model: str
    place: str


Request = (
    OpenStream | FeedStream | EndUtterance | ResetStream | CloseStream | TranscribeFile | CancelFile | Probe | SwapModel
)


class Asked(NamedTuple):
    """A request with the number that its replies carry."""

    ticket: int
    request: Request


class Reply(NamedTuple):
    """The answer to a request, or a part of it."""

    ticket: int
    value: Any = None
    error: Exception | None = None
    more: bool = False


class StepReport(NamedTuple):
    """What a step of live streams of one model has cost."""

    model: str
    streams: int
    audio_s: float
    seconds: float


class FileReport(NamedTuple):
    """What a file has cost; ``longest_s``: as ``FileTurn.longest_s``."""

    model: str
    audio_s: float
    seconds: float
    longest_s: float


class Ready(NamedTuple):
    """The models are loaded and warm. ``unusable``: why a learnt one is not, by name; the start takes its place."""

    unusable: Mapping[str, str]


class Broken(NamedTuple):
    """The worker cannot begin."""

    error: Exception


Emit = Callable[[Sequence[Any]], None]
"""Sends messages to the server, from any thread of a worker."""
