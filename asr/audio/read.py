"""Audio in: any file, stream or array -> mono float32 at the model's rate.

libsndfile decodes (WAV, FLAC, Ogg Vorbis and Opus, MP3, NIST SPHERE, AIFF, AU, CAF and others) and soxr resamples
with a band-limited filter. The rate always comes from the file; it is never assumed. Every error is an ``AudioError``
that names the file.

libsndfile hides some damage. This module finds it for the formats of ``AUDIO_SUFFIXES``: a header that promises more
than the file holds (libsndfile shortens the length), lost Ogg pages (it conceals them), an MP3 without a length in its
header (it guesses, and drops the audio after its guess). A streamed WAV or FLAC of open length is read to its end.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from asr.audio import pyav
from asr.audio.headers import (
    HEAD_BYTES,
    STDIN_NAME,
    Reader,
    argument,
    check_header,
    check_rate,
    known,
    mpeg_sync,
    truncated,
)
from asr.audio.samples import Array, Samples, as_columns, mono_block, resample, scaled
from asr.errors import AudioError, ForeignError, TooLongError

END_TOLERANCE_S = 0.010
"""How far ``end_s`` may lie past the end of the audio: manifests carry rounded times."""
_BLOCK_VALUES = 2**20
_UNKNOWN_SAMPLES = 2**63 - 1  # libsndfile's SF_COUNT_MAX: the header gives no length
_STREAM_BYTES_PER_S = 768_000  # of a pipe under max_duration_s: 48 kHz, 4 channels, 32 bit
_UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
_FILTER_SAMPLES = 256  # half-length of soxr's HQ filter at the lower rate, rounded up: parity with the whole is 3e-7


Source: TypeAlias = str | os.PathLike[str] | BinaryIO | Array


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
    with _open(source, _name(source)) as file:
        if file.samples is None:
            file.samples = sum(map(len, _blocks(file, 0, None)))
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
    with _open_any(source, sample_rate_hz, source_rate_hz, channel, max_duration_s) as audio:
        return _load(audio, sample_rate_hz, start_s, end_s, max_duration_s)


def load_blocks(source: str | os.PathLike[str] | BinaryIO, channel: int | None = None) -> Iterator[tuple[int, Samples]]:
    """Read a file from its start in blocks of bounded size: (its own rate in Hz, mono float32 ``(n,)``).

    Channels are averaged or one ``channel`` is taken; nothing is resampled. Raises ``AudioError`` as ``load_audio``
    does, where the damage is met; a file without samples gives no block.
    """
    with _open(source, name := _name(source)) as file:
        _choose(file, channel, name)
        for block in _blocks(file, 0, None):
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
    with _open_any(source, sample_rate_hz, source_rate_hz, channel, max_duration_s) as audio:
        yield from _stream(audio, sample_rate_hz, start_s, end_s, max_duration_s)


def _stream(
    audio: _Opened, to_hz: int, start_s: float, end_s: float | None, max_duration_s: float | None
) -> Iterator[Samples]:
    _check_segment(audio, start_s, end_s, max_duration_s)
    from_hz = audio.rate_hz
    stop = None if end_s is None else round(end_s * from_hz)
    most = math.inf if max_duration_s is None else max_duration_s * from_hz
    resampler = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, "float32", "HQ")
    count = 0
    for block in _blocks(audio, round(start_s * from_hz), stop):
        count += len(block)
        if count > most:  # reached only where the header gives no length
            raise _too_long(audio.name, f"more than {max_duration_s:g} s", cast(float, max_duration_s))
        out = block if resampler is None else resampler.resample_chunk(block)
        if len(out):
            yield out
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(rest):
            yield rest
    _check_segment(audio, start_s, end_s, max_duration_s)  # again, now that the end may have been met


def rewindable(source: Any, max_duration_s: float | None = None) -> Any:
    """A pipe, whether path or file object, as a file in memory under its own name; anything else as it is.

    What reads a recording more than once begins with this. Raises ``AudioError`` as ``load_audio``.
    """
    if isinstance(source, str | os.PathLike):
        try:
            if not stat.S_ISFIFO(os.stat(source).st_mode):
                return source
        except (OSError, ValueError):
            return source  # load says what is wrong with it
        with _open_path(source, name := _name(source)) as pipe:
            return _rewindable(pipe, name, max_duration_s)
    if not hasattr(source, "read") or (hasattr(source, "seekable") and source.seekable()):
        return source
    return _rewindable(source, _name(source), max_duration_s)


def _rewindable(pipe: Any, name: str, max_duration_s: float | None) -> Any:
    with _binary(pipe, name, max_duration_s) as raw:
        return raw.file


def standard_input() -> BinaryIO:
    """Standard input as bytes. Raises ``AudioError`` where it is closed."""
    if sys.stdin is None:
        raise AudioError(f"{STDIN_NAME}: expected audio, but it is closed; pipe or redirect a file into it")
    return sys.stdin.buffer


def in_memory(pipe: Any, name: str, max_duration_s: float | None = None, head: bytes = b"") -> io.BytesIO:
    """What a pipe holds, as a file in memory; ``head`` has been read of it already.

    Raises ``AudioError`` before the whole is read where it does not begin as sound does or has no end within
    ``max_duration_s`` (``TooLongError``).
    """
    reader = Reader(pipe)
    head += reader.read(HEAD_BYTES - len(head))
    if reader.error is not None:
        raise AudioError(f"{name}: cannot be read: {reader.error}") from reader.error
    if head and not known(head):
        raise AudioError(
            f"{name}: cannot be decoded: expected an audio file, got unknown first bytes {head[:8]!r}; "
            f"convert it to WAV: ffmpeg -i {argument(name)} out.wav"
        )
    limit_s = math.inf if max_duration_s is None else max_duration_s
    return _drained(pipe, name, head, 2**20 + limit_s * _STREAM_BYTES_PER_S, limit_s)


def raw_samples(
    pipe: Any, name: str, rate_hz: int, max_duration_s: float | None = None, head: bytes = b""
) -> npt.NDArray[np.int16]:
    """The samples ``(S,)`` of a pipe that holds nothing else: 16 bits, signed, little-endian, mono.

    ``head`` has been read of it already; a last half sample is dropped. Raises ``TooLongError`` as soon as there are
    more than ``max_duration_s``.
    """
    check_rate(rate_hz, f"{name}: the rate of raw samples")
    limit_s = math.inf if max_duration_s is None else max_duration_s
    content = _drained(pipe, name, head, 2 * limit_s * rate_hz + 1, limit_s).getvalue()
    return np.frombuffer(content[: len(content) // 2 * 2], "<i2")


def _drained(pipe: Any, name: str, head: bytes, limit_bytes: float, limit_s: float) -> io.BytesIO:
    buffer = io.BytesIO()
    buffer.name = name
    chunk = head
    while chunk:
        buffer.write(chunk)
        if buffer.tell() > limit_bytes:
            raise _too_long(name, f"more than {limit_s:g} s (over {limit_bytes / 1e6:.3g} MB)", limit_s)
        chunk = pipe.read(2**20)
    return buffer


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A ``SoundFile`` that reads on without seeking.

    soundfile seeks to where it already is after every read of a seekable file. That resets the MP3 decoder (audible
    glitches at each block) and fails on a FLAC of unknown length; a file that says it cannot seek is spared.
    """

    def seekable(self) -> bool:
        return False

    def can_seek(self) -> bool:
        return bool(super().seekable())


@dataclass
class _Opened:
    """Audio ready to be read, from a file (``sound`` over ``raw``) or from an ``array`` (S, C)."""

    name: str
    rate_hz: int
    channels: int
    samples: int | None
    """Length of one channel; None if the header does not say."""
    array: npt.NDArray[Any] | None = None
    sound: Any = None
    raw: Any = None
    channel: int | None = None
    """The one that is wanted; None: their mean."""
    mpeg_sync: bytes | None = None
    """First two bytes of an MPEG frame, if libsndfile could only guess the length."""


def _load(audio: _Opened, to_hz: int, start_s: float, end_s: float | None, max_duration_s: float | None) -> Samples:
    """Decode the segment and what the resampling filter needs around it, resample, cut the segment out."""
    _check_segment(audio, start_s, end_s, max_duration_s)
    from_hz, to_hz = audio.rate_hz, int(to_hz)
    first, last = round(start_s * to_hz), None if end_s is None else round(end_s * to_hz)
    grid, context = 1, 0
    if from_hz != to_hz:
        # A read that starts on this grid falls on a whole output sample, so that segment and whole have equal phase.
        grid = from_hz // math.gcd(from_hz, to_hz)
        context = math.ceil(_FILTER_SAMPLES * max(1.0, from_hz / to_hz))
    start = max(0, first * from_hz // to_hz - context) // grid * grid
    stop = None if last is None else math.ceil(last * from_hz / to_hz) + context
    if stop is None and max_duration_s is not None and max_duration_s < math.inf:
        # Reached only where the header gives no length; one sample more than allowed is enough to know.
        stop = math.floor((start_s + max_duration_s) * from_hz) + 1
    blocks = list(_blocks(audio, start, stop))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if audio.samples is None and end_s is None and max_duration_s is not None:
        raise _too_long(audio.name, f"more than {max_duration_s:g} s", max_duration_s)
    _check_segment(audio, start_s, end_s, max_duration_s)  # again, now that the end may have been met
    offset = start * to_hz // from_hz
    out = resample(samples, from_hz, to_hz)[first - offset : None if last is None else last - offset]
    if not len(out):
        raise AudioError(f"{audio.name}: expected audio, got less than one sample at {to_hz} Hz")
    return np.ascontiguousarray(out)


def _check_segment(audio: _Opened, start_s: float, end_s: float | None, max_duration_s: float | None) -> None:
    """Bounds that are sane and, where the length is known, lie inside the audio; no more than the allowed duration."""
    name = audio.name
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
        raise _too_long(name, f"{wanted_s:.3f} s", max_duration_s)


def _too_long(name: str, got: str, max_duration_s: float) -> TooLongError:
    return TooLongError(f"{name}: expected at most max_duration_s={max_duration_s:g} s of audio, got {got}; cut it")


# ---------------------------------------------------------------------------------------------------- decoding


def _blocks(audio: _Opened, start: int, stop: int | None) -> Iterator[Samples]:
    """Mono blocks of the samples ``start`` to ``stop`` (None: the end), checked; sets ``audio.samples`` at the end."""
    size = max(1, _BLOCK_VALUES // audio.channels)
    if audio.samples is not None:
        stop = audio.samples if stop is None else min(stop, audio.samples)
    if audio.array is not None:
        part = audio.array[:stop]
        for at in range(start, len(part), size):
            yield mono_block(scaled(part[at : at + size]), audio.name, audio.rate_hz, at, audio.channel)
        return
    at = _seek(audio, start)
    while stop is None or at < stop:
        wanted = size if stop is None else min(size, stop - at)
        if audio.mpeg_sync is not None:  # decode no further than the guessed length, see _check_end
            wanted = max(1, min(wanted, audio.sound.frames - at))
        with _naming(audio.name, audio.raw):
            block = audio.sound.read(wanted, dtype="float32", always_2d=True)
        if not len(block):
            _check_end(audio, at)
            audio.samples = at
            break
        if at + len(block) > start:
            skip = max(0, start - at)
            yield mono_block(block[skip:], audio.name, audio.rate_hz, at + skip, audio.channel)
        at += len(block)
    _check_holes(audio)


def _seek(audio: _Opened, start: int) -> int:
    """Go to a little before ``start``; where it went is returned.

    A second ahead lets decoders that carry state settle: an MP3 frame borrows bits from up to 0.4 s before it, and
    Opus converges within 80 ms. What cannot seek, or states no length, is read from the start.
    """
    ahead = max(0, start - audio.rate_hz)
    if ahead == 0 or audio.samples is None or not audio.sound.can_seek():
        return 0
    with _naming(audio.name, audio.raw):
        return int(audio.sound.seek(ahead))


def _check_end(audio: _Opened, at: int) -> None:
    """The decoder has nothing more to give after ``at`` samples: is that all there is?"""
    if audio.mpeg_sync is not None:
        # libsndfile stops at the length that it guessed; the decoder has then read up to the next frame.
        if audio.raw.read(2) == audio.mpeg_sync:
            raise AudioError(
                f"{audio.name}: this MP3 has a variable bit rate and states no length, so its end cannot be "
                f"decoded; rewrite its header: ffmpeg -i {argument(audio.name)} -c copy out.mp3"
            )
        return
    # An MP3's stated length may or may not count the frame that states it.
    slack = 2 * 1152 if audio.sound.format == "MP3" else 0
    if audio.samples is not None and at < audio.samples - slack:
        raise truncated(audio.name, f"{audio.samples} samples", at)


# ---------------------------------------------------------------------------------------------------- opening


@contextmanager
def _open_any(
    source: Source, to_hz: int, source_rate_hz: int | None, channel: int | None, max_duration_s: float | None
) -> Iterator[_Opened]:
    """A file, or an array with its rate, of which ``channel`` is wanted."""
    name = _name(source)
    check_rate(to_hz, f"{name}: sample_rate_hz")
    if source_rate_hz is not None:
        check_rate(source_rate_hz, f"{name}: source_rate_hz")
    with ExitStack() as stack:
        if isinstance(source, str | os.PathLike) or not hasattr(source, "__array__"):
            audio = stack.enter_context(_open(source, name, max_duration_s))
            if source_rate_hz not in (None, audio.rate_hz):
                raise AudioError(f"{name}: the file's rate is {audio.rate_hz} Hz, but source_rate_hz={source_rate_hz}")
        else:
            samples = as_columns(source, name)
            rate_hz = to_hz if source_rate_hz is None else source_rate_hz
            audio = _Opened(name, rate_hz, samples.shape[1], len(samples), array=samples)
        _choose(audio, channel, name)
        yield audio


def _choose(audio: _Opened, channel: int | None, name: str) -> None:
    if channel is not None and not 0 <= channel < audio.channels:
        raise AudioError(f"{name}: channel: expected 0 to {audio.channels - 1}, got {channel}")
    audio.channel = channel


@contextmanager
def _open(source: Any, name: str, max_duration_s: float | None = None) -> Iterator[_Opened]:
    """A file whose header has been checked, with libsndfile behind it."""
    with _binary(source, name, max_duration_s) as raw:
        promised = None
        try:
            with _naming(name, raw):
                raw, promised = check_header(raw, name)
                sound: Any = _SoundFile(raw)
        except ForeignError:
            if not pyav.pyav_is_installed():
                raise
            sound = pyav.MediaSound(raw, name, _UNKNOWN_SAMPLES)
        with sound:
            check_rate(sound.samplerate, f"{name}: the file's sample rate")
            _check_log(sound, name)
            samples = None if sound.frames == _UNKNOWN_SAMPLES else min(sound.frames, promised or sound.frames)
            file = _Opened(name, sound.samplerate, sound.channels, samples, sound=sound, raw=raw)
            if sound.format == "MP3":
                file.mpeg_sync = mpeg_sync(raw)
                file.samples = samples if file.mpeg_sync is None else None
            yield file


def _name(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


@contextmanager
def _naming(name: str, raw: Reader) -> Iterator[None]:
    """Errors of libsndfile, or of the file below it, become ``AudioError``s that name the file."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().rstrip(".")
        if error.code == _UNRECOGNISED and pyav.pyav_is_installed() and pyav.is_film(raw):
            raise ForeignError(f"{name}: libsndfile does not read it ({reason})") from error
        raise AudioError(
            f"{name}: cannot be decoded ({reason}): corrupt, truncated or not audio; expected WAV, FLAC, Ogg, MP3, "
            f"SPHERE or another format of libsndfile (others: ffmpeg -i {argument(name)} out.wav)"
        ) from error
    except (soundfile.SoundFileError, OSError, TypeError, ValueError, MemoryError) as error:
        raise AudioError(f"{name}: cannot be decoded: {error or type(error).__name__}") from error
    finally:
        if raw.error is not None:
            raise AudioError(f"{name}: cannot be read: {raw.error or type(raw.error).__name__}") from raw.error


@contextmanager
def _binary(source: Any, name: str, max_duration_s: float | None) -> Iterator[Reader]:
    """A seekable binary file: the path opened, the file itself, or a stream's content in memory."""
    if isinstance(source, str | os.PathLike):
        with _open_path(source, name) as opened, _binary(opened, name, max_duration_s) as raw:
            yield raw
        return
    if not hasattr(source, "read"):
        raise AudioError(f"{name}: expected a path, a binary file or an array, got {type(source).__name__}")
    try:
        if not isinstance(source.read(0), bytes):
            raise AudioError(f"{name}: expected a binary file (open(path, 'rb'), sys.stdin.buffer), got a text file")
        seekable = source.seekable() if hasattr(source, "seekable") else hasattr(source, "seek")
        raw = Reader(source if seekable else in_memory(source, name, max_duration_s))
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise AudioError(f"{name}: cannot be read: {error}") from error
    yield raw


def _open_path(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
            return open(path, "rb")
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise AudioError(f"{name}: cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or socket"
    raise AudioError(f"{name}: expected an audio file, got {kind}")


def _check_log(sound: Any, name: str) -> None:
    """Truncation of AIFF, AU, VOC, SVX and others, which libsndfile only mentions in its log."""
    if sound.format in ("AIFF", "AU", "SVX", "VOC", "WVE", "MAT4") and re.search(
        r"\d+ \(?should be \d+|eems to be (a )?truncated|not equal to frame count", sound.extra_info
    ):
        raise AudioError(f"{name}: truncated: the file has fewer samples than its header promises; copy it again")


def _check_holes(audio: _Opened) -> None:
    """Ogg pages that are lost or fail their checksum; libsndfile goes on and only mentions them in its log."""
    if audio.sound.format == "OGG" and re.search(
        r"libogg reports a hole|Corrupted bitstream\?!", audio.sound.extra_info
    ):
        raise AudioError(f"{audio.name}: corrupt: pages of the Ogg stream are missing or damaged; copy it again")
