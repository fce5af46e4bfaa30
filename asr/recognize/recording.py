"""One recording to transcribe: a file or array, with its span and channel; how a model's recordings are read.

Needs no torch: reader processes import it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asr.audio import read, sound_files
from asr.audio.samples import Samples
from asr.cloud.addresses import without_secrets
from asr.config.sections import FeatureConfig, count_frames
from asr.data.manifest import Utterance
from asr.errors import AudioError, LengthLimitError, TooLongError


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
        return read.load_audio(self._own_source(), sample_rate_hz, **self._part(max_duration_s))

    def blocks(self, sample_rate_hz: int, max_duration_s: float | None = None) -> Iterator[Samples]:
        """The same in blocks of bounded size; raises as ``asr.audio.read.stream_audio``."""
        return read.stream_audio(self._own_source(), sample_rate_hz, **self._part(max_duration_s))

    def stated_length_s(self) -> float | None:
        """The length to the nearest second, for a progress bar; None where it is not known without decoding."""
        if self.end_s is not None:
            return round(self.end_s - self.start_s)
        if isinstance(self.source, str | os.PathLike):
            with contextlib.suppress(AudioError):
                return round(read.probe_audio(self.source).duration_s - self.start_s)
        return None

    def _own_source(self) -> Any:
        """The source; bytes in memory as a file of this call's own, since threads read channels of one at a time."""
        if type(self.source) is not io.BytesIO:
            return self.source
        own = io.BytesIO(self.source.getvalue())
        if hasattr(self.source, "name"):
            own.name = self.source.name
        return own

    def _part(self, max_duration_s: float | None) -> dict[str, Any]:
        bounds = {"start_s": self.start_s, "end_s": self.end_s, "max_duration_s": max_duration_s}
        return {"source_rate_hz": self.rate_hz, "channel": self.channel, **bounds}


@dataclass(frozen=True)
class RecordingReader:
    """Reads recordings for one model.

    ``features``: what their frames are made of. ``max_duration_s``: longer recordings are refused (None: no limit).
    """

    features: FeatureConfig
    max_duration_s: float | None = None

    def rewindable(self, recording: Recording) -> Recording:
        """The recording, such that it can be read twice: a pipe is read into memory. Raises as ``blocks``."""
        try:
            again = sound_files.rewindable(recording.source, self.max_duration_s)
        except TooLongError as error:
            raise LengthLimitError(str(error)) from error
        return recording if again is recording.source else dataclasses.replace(recording, source=again)

    def samples(self, recording: Recording, longest_s: float | None = None) -> Samples:
        """A recording as a whole, ``(S,)`` float32 at the model's rate.

        Raises ``LengthLimitError`` beyond ``max_duration_s``, else ``TooLongError`` beyond ``longest_s``, and
        ``AudioError`` for what is shorter than one frame, or as ``asr.audio.read.load_audio``.
        """
        limits_s = [limit for limit in (longest_s, self.max_duration_s) if limit is not None]
        try:
            samples = recording.samples(self.features.sample_rate_hz, min(limits_s, default=None))
        except TooLongError as error:
            if self.max_duration_s is not None and min(limits_s) == self.max_duration_s:
                raise LengthLimitError(str(error)) from error
            raise
        self.check_length(recording, len(samples))
        return samples

    def blocks(self, recording: Recording, heard: Heard) -> Iterator[Samples]:
        """The same in blocks of bounded size, which ``heard`` counts.

        Raises ``AudioError``, which is a ``LengthLimitError`` for what is longer than ``max_duration_s``.
        """
        try:
            for block in recording.blocks(self.features.sample_rate_hz, self.max_duration_s):
                heard.samples += len(block)
                yield block
        except TooLongError as error:
            raise LengthLimitError(str(error)) from error
        self.check_length(recording, heard.samples)

    def check_length(self, recording: Recording, samples: int) -> None:
        """Raise ``AudioError`` for a recording without one whole frame."""
        if count_frames(samples, self.features) == 0:
            name = source_name(recording.source) or recording.name or "audio"
            got_s = samples / self.features.sample_rate_hz
            raise AudioError(f"{name}: expected at least {self.features.least_s:g} s of audio, got {got_s:.4f} s")


@dataclass
class Heard:
    """Samples at the model's rate that have been read so far."""

    samples: int = 0


def source_name(source: Any) -> str:
    """A name for messages and output: the path, the URL without secrets, the file object's name, or nothing."""
    if isinstance(source, str | os.PathLike):
        return without_secrets(os.fspath(source))
    name = getattr(source, "name", "")
    return name if isinstance(name, str) else ""
