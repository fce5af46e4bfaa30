"""An audio file, file object or array, opened and checked; its samples in mono blocks.

libsndfile decodes all but plain WAV files. It hides some damage, which this module finds: see ``asr.audio.read``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy.typing as npt
import soundfile

from asr.audio import pyav
from asr.audio.archive_index import MemberPath, find_member
from asr.audio.archive_members import is_streamed, open_member
from asr.audio.headers import Reader, argument, check_header, check_rate, mpeg_sync, truncated
from asr.audio.pipes import in_memory
from asr.audio.plain_wav import open_plain_wav
from asr.audio.samples import Array, Samples, as_columns, mono_block, scaled
from asr.cloud.addresses import is_url, without_secrets
from asr.errors import AudioError, CloudError, ForeignError

_BLOCK_VALUES = 2**20
_UNKNOWN_SAMPLES = 2**63 - 1  # libsndfile's SF_COUNT_MAX: the header gives no length
_UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
Source: TypeAlias = str | os.PathLike[str] | BinaryIO | Array


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
class OpenAudio:
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


@contextmanager
def open_source(
    source: Source, to_hz: int, source_rate_hz: int | None, channel: int | None, max_duration_s: float | None
) -> Iterator[OpenAudio]:
    """Open a file, or an array with its rate; ``channel`` (None: the mean) is what its blocks hold.

    Raises ``AudioError`` as ``asr.audio.read.load_audio``.
    """
    name = audio_name(source)
    check_rate(to_hz, f"{name}: sample_rate_hz")
    if source_rate_hz is not None:
        check_rate(source_rate_hz, f"{name}: source_rate_hz")
    with ExitStack() as stack:
        if isinstance(source, str | os.PathLike) or not hasattr(source, "__array__"):
            audio = stack.enter_context(open_file(source, name, max_duration_s))
            if source_rate_hz not in (None, audio.rate_hz):
                raise AudioError(f"{name}: the file's rate is {audio.rate_hz} Hz, but source_rate_hz={source_rate_hz}")
        else:
            samples = as_columns(source, name)
            rate_hz = to_hz if source_rate_hz is None else source_rate_hz
            audio = OpenAudio(name, rate_hz, samples.shape[1], len(samples), array=samples)
        choose_channel(audio, channel, name)
        yield audio


def choose_channel(audio: OpenAudio, channel: int | None, name: str) -> None:
    """Choose what the blocks of ``audio`` hold: one channel (from 0), or None for the mean of all."""
    if channel is not None and not 0 <= channel < audio.channels:
        raise AudioError(f"{name}: channel: expected 0 to {audio.channels - 1}, got {channel}")
    audio.channel = channel


@contextmanager
def open_file(source: Any, name: str, max_duration_s: float | None = None) -> Iterator[OpenAudio]:
    """Open a file or file object, check its header, and put libsndfile (or PyAV) behind it."""
    with _binary(source, name, max_duration_s) as raw:
        promised = None
        try:
            with _naming(name, raw):
                sound: Any = open_plain_wav(raw)
                if sound is None:
                    raw, promised = check_header(raw, name)
                    sound = _SoundFile(raw)
        except ForeignError:
            if not pyav.pyav_is_installed():
                raise
            sound = pyav.MediaSound(raw, name, _UNKNOWN_SAMPLES)
        with sound:
            check_rate(sound.samplerate, f"{name}: the file's sample rate")
            _check_log(sound, name)
            samples = None if sound.frames == _UNKNOWN_SAMPLES else min(sound.frames, promised or sound.frames)
            file = OpenAudio(name, sound.samplerate, sound.channels, samples, sound=sound, raw=raw)
            if sound.format == "MP3":
                file.mpeg_sync = mpeg_sync(raw)
                file.samples = samples if file.mpeg_sync is None else None
            yield file


def rewindable(source: Any, max_duration_s: float | None = None) -> Any:
    """A pipe, whether path or file object, as a file in memory under its own name; anything else as it is.

    A member of a compressed tar file is a file of its own too, since reading it again would read all before it.

    What reads a recording more than once begins with this. Raises ``AudioError`` as ``load_audio``.
    """
    if is_streamed(source):
        return open_member(source)
    if is_url(source) or isinstance(source, MemberPath):
        return source
    if isinstance(source, str | os.PathLike):
        try:
            if not stat.S_ISFIFO(os.stat(source).st_mode):
                return source
        except (OSError, ValueError):
            return source  # load says what is wrong with it
        with _open_path(source, name := audio_name(source)) as pipe:
            return _rewindable(pipe, name, max_duration_s)
    if not hasattr(source, "read") or (hasattr(source, "seekable") and source.seekable()):
        return source
    return _rewindable(source, audio_name(source), max_duration_s)


def _rewindable(pipe: Any, name: str, max_duration_s: float | None) -> Any:
    with _binary(pipe, name, max_duration_s) as raw:
        return raw.file


def audio_name(source: Any) -> str:
    """What messages call a source: its path, its URL without secrets, the file object's name, or its type."""
    if isinstance(source, str | os.PathLike):
        return without_secrets(os.fspath(source))
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
        if isinstance(raw.error, CloudError):  # which names the URL
            raise AudioError(str(raw.error)) from raw.error
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
    except CloudError as error:
        raise AudioError(str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise AudioError(f"{name}: cannot be read: {error}") from error
    yield raw


def _open_path(path: str | os.PathLike[str], name: str) -> BinaryIO:
    if isinstance(path, MemberPath):
        return open_member(path)
    if is_url(path):
        return _open_url(str(path))
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
            return open(path, "rb")
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        if isinstance(error, NotADirectoryError) and (member := find_member(os.fspath(path))) is not None:
            return open_member(member)
        raise AudioError(f"{name}: cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or socket"
    raise AudioError(f"{name}: expected an audio file, got {kind}")


def _open_url(url: str) -> BinaryIO:
    from asr.cloud.input_cache import open_cached  # what it needs is imported when a URL comes

    if (member := find_member(url)) is not None:
        return open_member(member)
    try:
        return open_cached(url)
    except CloudError as error:
        raise AudioError(str(error)) from error


def mono_blocks(audio: OpenAudio, start: int, stop: int | None) -> Iterator[Samples]:
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


def _seek(audio: OpenAudio, start: int) -> int:
    """Go to a little before ``start``; where it went is returned.

    A second ahead lets decoders that carry state settle: an MP3 frame borrows bits from up to 0.4 s before it, and
    Opus converges within 80 ms. What cannot seek, or states no length, is read from the start.
    """
    ahead = max(0, start - audio.rate_hz)
    if ahead == 0 or audio.samples is None or not audio.sound.can_seek():
        return 0
    with _naming(audio.name, audio.raw):
        return int(audio.sound.seek(ahead))


def _check_end(audio: OpenAudio, at: int) -> None:
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


def _check_log(sound: Any, name: str) -> None:
    """Truncation of AIFF, AU, VOC, SVX and others, which libsndfile only mentions in its log."""
    if sound.format in ("AIFF", "AU", "SVX", "VOC", "WVE", "MAT4") and re.search(
        r"\d+ \(?should be \d+|eems to be (a )?truncated|not equal to frame count", sound.extra_info
    ):
        raise AudioError(f"{name}: truncated: the file has fewer samples than its header promises; copy it again")


def _check_holes(audio: OpenAudio) -> None:
    """Ogg pages that are lost or fail their checksum; libsndfile goes on and only mentions them in its log."""
    if audio.sound.format == "OGG" and re.search(
        r"libogg reports a hole|Corrupted bitstream\?!", audio.sound.extra_info
    ):
        raise AudioError(f"{audio.name}: corrupt: pages of the Ogg stream are missing or damaged; copy it again")
