"""WAV files of 16-bit samples, read without libsndfile.

Most corpora have this form. soundfile takes three times as long for a short one: libsndfile reads the header in some
thirty calls of Python functions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr.audio.headers import HEAD_BYTES, Reader, pcm_wav

_SCALE = np.float32(1 / 2**15)


class PlainWav:
    """Reads as ``soundfile.SoundFile`` does, with the same values; only what ``asr.audio.sound_files`` needs of it."""

    format = "WAV"
    subtype = "PCM_16"
    extra_info = ""

    def __init__(self, raw: Reader, samplerate: int, channels: int, at: int, frames: int) -> None:
        self.samplerate = samplerate
        self.channels = channels
        self.frames = frames
        self._raw = raw
        self._at = at
        self._frame = -1
        """The frame that the file stands at; -1: not known."""

    def __enter__(self) -> PlainWav:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be closed: the file is its opener's."""

    def can_seek(self) -> bool:
        return True

    def seek(self, frame: int) -> int:
        """Go to a frame; returns it."""
        self._raw.seek(self._at + 2 * self.channels * frame)
        self._frame = frame
        return frame

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> npt.NDArray[np.float32]:
        """The next ``frames``, or those that are left: ``(n, C)`` float32 in [-1, 1). A file cut off gives fewer."""
        assert dtype == "float32"
        assert always_2d
        if self._frame < 0:
            self.seek(0)
        wanted = min(frames, self.frames - self._frame)
        data = self._raw.read(2 * self.channels * wanted)
        count = len(data) // (2 * self.channels)
        self._frame += count
        samples = np.frombuffer(data, "<i2", count * self.channels).astype(np.float32)
        samples *= _SCALE
        return samples.reshape(count, self.channels)


def open_plain_wav(raw: Reader) -> PlainWav | None:
    """The samples of a file, if it is WAV of 16 bits and whole; None for anything else, damaged files among them."""
    size = raw.seek(0, 2)
    raw.seek(0)
    head = raw.read(HEAD_BYTES)
    # Extensible headers (65534 in place of 1) have a name of their own in libsndfile.
    if head[12:16] != b"fmt " or head[20:22] != b"\1\0" or (found := pcm_wav(head)) is None:
        return None
    rate_hz, channels, at, count = found
    if count is None or at + count > size or count < 2 * channels:
        return None
    return PlainWav(raw, rate_hz, channels, at, count // (2 * channels))
