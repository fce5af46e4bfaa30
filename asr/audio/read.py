"""Audio in: any file, stream or array -> mono float32 at the model's rate.

libsndfile decodes (WAV, FLAC, Ogg Vorbis and Opus, MP3, NIST SPHERE, AIFF, AU, CAF and others) and soxr resamples
with a band-limited filter. The rate always comes from the file; it is never assumed. Every error is an ``AudioError``
that names the file.

libsndfile hides some damage. This module finds it for the formats of ``AUDIO_SUFFIXES``: a header that promises more
than the file holds (libsndfile shortens the length), lost Ogg pages (it conceals them), an MP3 without a length in its
header (it guesses, and drops the audio after its guess). A streamed WAV or FLAC of open length is read to its end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soxr

from asr.audio.pipes import too_long
from asr.audio.samples import Samples, resample
from asr.audio.sound_files import OpenAudio, Source, audio_name, choose_channel, mono_blocks, open_file, open_source
from asr.errors import AudioError

END_TOLERANCE_S = 0.010
"""How far ``end_s`` may lie past the end of the audio: manifests carry rounded times."""
_FILTER_SAMPLES = 256  # half-length of soxr's HQ filter at the lower rate, rounded up: parity with the whole is 3e-7


@dataclass(frozen=True)
class AudioInfo:
    """Rate, channels and length of a file; ``samples`` counts one channel."""

    sample_rate_hz: int
    channels: int
    samples: int
    duration_s: float
    format: str
    """Container and coding in libsndfile's names, such as ``WAV PCM_16``."""


def probe_audio(source: str | os.PathLike[str] | BinaryIO) -> AudioInfo:
    """Describe an audio file without decoding it (one that does not state its length is decoded and counted).

    Raises ``AudioError`` as ``load_audio`` does, save for damage that only decoding shows.
    """
    with open_file(source, audio_name(source)) as file:
        if file.samples is None:
            file.samples = sum(map(len, mono_blocks(file, 0, None)))
        form = f"{file.sound.format} {file.sound.subtype}"
        return AudioInfo(file.rate_hz, file.channels, file.samples, file.samples / file.rate_hz, form)


def load_audio(
    source: Source,
    sample_rate_hz: int = 16000,
    *,
    source_rate_hz: int | None = None,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | None = None,
    max_duration_s: float | None = None,
) -> Samples:
    """Read audio as mono float32 ``(S,)`` in [-1, 1] at ``sample_rate_hz``: the channels' mean, or one ``channel``.

    ``source`` is a path, a binary file object (read from its start; one that cannot seek, such as
    ``sys.stdin.buffer``, is first read into memory) or an array. Arrays have shape ``(S,)`` or ``(S, C)`` and hold
    floats in [-1, 1] or integers of 8, 16 or 32 bits, which are scaled; ``source_rate_hz`` gives their rate, None
    says that it is ``sample_rate_hz`` already. A file states its own rate; a ``source_rate_hz`` that differs is an
    error.

    ``start_s`` and ``end_s`` (None: the end) cut out a segment, which is sought rather than decoded from the start
    and equals ``load(source)[round(start_s * sample_rate_hz):round(end_s * sample_rate_hz)]``. ``max_duration_s``
    refuses what is longer before decoding it.

    Raises ``TooLongError`` for what is longer than ``max_duration_s``, and ``AudioError``, naming the file, for: a
    missing, empty, truncated or corrupt file; a folder; a format that libsndfile does not read; a rate outside 1 to
    768 kHz; no channels; no samples; NaN, infinity or samples beyond ``LOUDEST``; bounds outside the audio; an array
    of another type or shape.
    """
    with open_source(source, sample_rate_hz, source_rate_hz, channel, max_duration_s) as audio:
        return _load(audio, int(sample_rate_hz), _Part(start_s, end_s, max_duration_s))


def load_blocks(source: str | os.PathLike[str] | BinaryIO, channel: int | None = None) -> Iterator[tuple[int, Samples]]:
    """Read a file from its start in blocks of bounded size: (its own rate in Hz, mono float32 ``(n,)``).

    Channels are averaged or one ``channel`` is taken; nothing is resampled. Raises ``AudioError`` as ``load_audio``
    does, where the damage is met; a file without samples gives no block.
    """
    with open_file(source, name := audio_name(source)) as file:
        choose_channel(file, channel, name)
        for block in mono_blocks(file, 0, None):
            yield file.rate_hz, block


def stream_audio(
    source: Source,
    sample_rate_hz: int = 16000,
    *,
    source_rate_hz: int | None = None,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | None = None,
    max_duration_s: float | None = None,
) -> Iterator[Samples]:
    """``load_audio`` in blocks of bounded size, for recordings of any length; consecutive, never empty.

    A segment begins and ends at the nearest sample of the file. Raises as ``load_audio`` does, where the damage is met.
    """
    with open_source(source, sample_rate_hz, source_rate_hz, channel, max_duration_s) as audio:
        yield from _stream(audio, sample_rate_hz, _Part(start_s, end_s, max_duration_s))


@dataclass(frozen=True)
class _Part:
    """The part of a source that is wanted, and how long it may be."""

    start_s: float
    end_s: float | None
    max_duration_s: float | None

    def check(self, audio: OpenAudio) -> None:
        """Refuse bounds that are out of order or, where the length is known, outside the audio or too far apart."""
        name, start_s, end_s, max_duration_s = audio.name, self.start_s, self.end_s, self.max_duration_s
        if not (0 <= start_s < math.inf and (end_s is None or start_s < end_s < math.inf)):
            raise AudioError(f"{name}: expected 0 <= start_s < end_s, got start_s={start_s:g}, end_s={end_s}")
        if max_duration_s is not None and not max_duration_s > 0:
            raise AudioError(f"{name}: max_duration_s: expected > 0 or None, got {max_duration_s}")
        if audio.samples is not None and audio.samples <= 0:
            raise AudioError(f"{name}: expected audio, got no samples; copy or record it again")
        duration_s = math.inf if audio.samples is None else audio.samples / audio.rate_hz
        latest_s = start_s if end_s is None else end_s - END_TOLERANCE_S
        if start_s >= duration_s or latest_s > duration_s:
            raise AudioError(
                f"{name}: expected a segment inside the audio, which lasts {duration_s:.3f} s, "
                f"got start_s={start_s:g}, end_s={end_s}"
            )
        wanted_s = min(duration_s, math.inf if end_s is None else end_s) - start_s
        if max_duration_s is not None and max_duration_s < wanted_s < math.inf:
            raise too_long(name, f"{wanted_s:.3f} s", max_duration_s)


def _load(audio: OpenAudio, to_hz: int, part: _Part) -> Samples:
    """Decode the segment and what the resampling filter needs around it, resample, cut the segment out."""
    part.check(audio)
    from_hz = audio.rate_hz
    first, last = round(part.start_s * to_hz), None if part.end_s is None else round(part.end_s * to_hz)
    grid, context = 1, 0
    if from_hz != to_hz:
        # A read that starts on this grid falls on a whole output sample, so that segment and whole have equal phase.
        grid = from_hz // math.gcd(from_hz, to_hz)
        context = math.ceil(_FILTER_SAMPLES * max(1.0, from_hz / to_hz))
    start = max(0, first * from_hz // to_hz - context) // grid * grid
    stop = None if last is None else math.ceil(last * from_hz / to_hz) + context
    if stop is None and part.max_duration_s is not None and part.max_duration_s < math.inf:
        # Reached only where the header gives no length; one sample more than allowed is enough to know.
        stop = math.floor((part.start_s + part.max_duration_s) * from_hz) + 1
    blocks = list(mono_blocks(audio, start, stop))
    if len(blocks) == 1 and audio.array is None:  # a caller's array is copied
        samples = blocks[0]
    else:
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if audio.samples is None and part.end_s is None and part.max_duration_s is not None:
        raise too_long(audio.name, f"more than {part.max_duration_s:g} s", part.max_duration_s)
    part.check(audio)  # again, now that the end may have been met
    offset = start * to_hz // from_hz
    out = resample(samples, from_hz, to_hz)[first - offset : None if last is None else last - offset]
    if not len(out):
        raise AudioError(f"{audio.name}: expected audio, got less than one sample at {to_hz} Hz")
    return np.ascontiguousarray(out)


def _stream(audio: OpenAudio, to_hz: int, part: _Part) -> Iterator[Samples]:
    part.check(audio)
    from_hz = audio.rate_hz
    stop = None if part.end_s is None else round(part.end_s * from_hz)
    most_s = math.inf if part.max_duration_s is None else part.max_duration_s
    resampler = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, "float32", "HQ")
    count = 0
    for block in mono_blocks(audio, round(part.start_s * from_hz), stop):
        count += len(block)
        if count > most_s * from_hz:  # reached only where the header gives no length
            raise too_long(audio.name, f"more than {most_s:g} s", most_s)
        out = block if resampler is None else resampler.resample_chunk(block)
        if len(out):
            yield out
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(rest):
            yield rest
    part.check(audio)  # again, now that the end may have been met
