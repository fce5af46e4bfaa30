"""Live sources of sound: files, raw samples on standard input, microphones."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from asr.audio.headers import HEAD_BYTES, STDIN_NAME, known, pcm_wav, truncated
from asr.audio.pipes import in_memory
from asr.audio.read import load_blocks
from asr.errors import AudioError, ConfigError

Block = npt.NDArray[Any]
LONGEST_BLOCK_S = 3600
WARN_WORDS = 5
"""Words of a stream after which it may be said that the model does not know this kind of speech."""


def file_blocks(path: str | BinaryIO, block_s: float, *, name: str = "") -> tuple[int, Iterator[Block]]:
    """A file's rate and its mono samples in blocks of ``block_s``.

    Raises ``AudioError`` for a file that cannot be read, where the damage is met.
    """
    source = load_blocks(path)
    try:
        rate_hz, first = next(source)
    except StopIteration:
        raise AudioError(f"{name or path}: expected audio, got no samples") from None

    def cut() -> Iterator[Block]:
        size = _block_size(block_s, rate_hz)
        rest = first
        while True:
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]
            more = next(source, None)
            if more is None:
                break
            rest = np.concatenate([rest, more[1]])
        if len(rest):
            yield rest

    return rate_hz, cut()


def paced(rate_hz: int, blocks: Iterator[Block]) -> Iterator[Block]:
    """The blocks no faster than they were recorded."""
    started, sent = time.monotonic(), 0
    for block in blocks:
        sent += len(block)
        time.sleep(max(0.0, started + sent / rate_hz - time.monotonic()))
        yield block


def _block_size(block_s: float, rate_hz: int) -> int:
    """Samples in a block. Raises ``ConfigError``."""
    if not 0 < block_s <= LONGEST_BLOCK_S:
        raise ConfigError(f"block_s: expected above 0 and at most {LONGEST_BLOCK_S}, got {block_s}")
    return max(1, round(block_s * rate_hz))


def pipe_blocks(stream: BinaryIO, rate_hz: int | None, block_s: float) -> tuple[int, Iterator[Block]]:
    """The rate of what a pipe holds, and its samples in blocks, as they come.

    An input that begins like an audio file is read as one: a WAV file of 16-bit samples while it arrives, any other
    format when all of it has arrived. Otherwise the pipe holds raw samples (16 bits, signed, little-endian, mono) at
    ``rate_hz``.

    Raises ``AudioError`` where neither is the case, and as ``file_blocks``.
    """
    head = stream.read(HEAD_BYTES)
    if (wav := pcm_wav(head)) is not None:
        own_hz, channels, at, length = wav
        return own_hz, pcm_blocks(_Behind(head[at:], stream, length), own_hz, block_s, channels)
    if known(head):
        content = in_memory(stream, STDIN_NAME, head=head)
        return file_blocks(content, block_s, name=STDIN_NAME)
    if rate_hz is None:
        got = f"unknown first bytes {head[:8]!r}" if head else "nothing (0 bytes)"
        raise AudioError(
            f"{STDIN_NAME}: expected an audio file, got {got}; "
            "raw samples (16 bits, signed, little-endian, mono) need --rate HZ"
        )
    return rate_hz, pcm_blocks(_Behind(head, stream), rate_hz, block_s)


class _Behind:
    """A pipe whose first bytes, ``head``, were read already and are given again; at most ``length`` bytes in all.

    Raises ``AudioError`` where the pipe ends before ``length`` bytes.
    """

    def __init__(self, head: bytes, stream: BinaryIO, length: int | None = None) -> None:
        self.head, self.length, self.left = head, length, length
        self._read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes, as they come; none at the end."""
        if self.left is not None:
            count = min(count, self.left)
        if not count:
            return b""
        data = self.head[:count] or self._read(count)
        self.head = self.head[count:]
        if self.left is not None:
            if not data:
                raise truncated(STDIN_NAME, f"{self.length} bytes", cast(int, self.length) - self.left)
            self.left -= len(data)
        return data


def pcm_blocks(stream: BinaryIO | _Behind, rate_hz: int, block_s: float, channels: int = 1) -> Iterator[Block]:
    """Raw samples (16 bits, signed, little-endian) from a pipe, as they come; a last half sample is dropped.

    Blocks are ``(n,)``, or ``(n, C)`` for several ``channels``, which the pipe holds interleaved.
    """
    frame = 2 * channels
    wanted = frame * _block_size(block_s, rate_hz)
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while data := read(wanted):
        data = rest + data
        whole = len(data) // frame * frame
        rest = data[whole:]
        if whole:
            block = np.frombuffer(data[:whole], "<i2")
            yield block if channels == 1 else block.reshape(-1, channels)


def microphone_blocks(device: str | None, rate_hz: int, block_s: float) -> Iterator[Block]:
    """Blocks from a microphone until interrupted.

    Raises ``ConfigError`` with advice where sounddevice or a microphone is missing.
    """
    sounddevice = _sounddevice()
    heard: queue.Queue[Block] = queue.Queue()

    def keep(block: Block, frames: int, clock: Any, status: Any) -> None:
        heard.put(block[:, 0].copy())

    name = int(device) if device and re.fullmatch("[0-9]{1,9}", device) else device
    try:
        with sounddevice.InputStream(
            rate_hz, _block_size(block_s, rate_hz), name, channels=1, dtype="float32", callback=keep
        ):
            while True:
                yield heard.get()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ConfigError(
            f"microphone {device or '(default)'}: {error}; list the microphones with asr stream --devices"
        ) from error


def devices() -> str:
    """The microphones there are, a line each. Raises ``ConfigError`` as ``microphone_blocks``."""
    sounddevice = _sounddevice()
    found = [
        f"{number:3}  {device['name']} ({device['max_input_channels']} channels, {device['default_samplerate']:.0f} Hz)"
        for number, device in enumerate(sounddevice.query_devices())
        if device["max_input_channels"] > 0
    ]
    return "\n".join(found) if found else "no microphone found"


def _sounddevice() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, the PortAudio library is not
        raise ConfigError(
            f"microphones need sounddevice and PortAudio ({error}): pip install sounddevice, and on Debian "
            "apt-get install libportaudio2"
        ) from error
    return sounddevice
