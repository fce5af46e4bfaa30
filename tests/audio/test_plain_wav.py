"""WAV files read without libsndfile: the same samples, and nothing but whole files of 16 bits."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from asr.audio import read, sound_files
from asr.audio.headers import Reader
from asr.audio.plain_wav import PlainWav, open_plain_wav
from asr.errors import AudioError


def wav(frames: int, channels: int = 1, subtype: str = "PCM_16", container: str = "WAV", rate_hz: int = 16000) -> bytes:
    values = np.random.default_rng(frames).integers(-(2**15), 2**15, (frames, channels), dtype=np.int16)
    values[:1], values[1:2] = -(2**15), 2**15 - 1
    file = io.BytesIO()
    soundfile.write(file, values, rate_hz, subtype=subtype, format=container)
    return file.getvalue()


def opened(data: bytes) -> PlainWav:
    sound = open_plain_wav(Reader(io.BytesIO(data)))
    assert sound is not None
    return sound


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("frames", [1, 2, 1000])
def test_samples_are_those_of_libsndfile(frames: int, channels: int) -> None:
    data = wav(frames, channels)
    expected, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    sound = opened(data)
    np.testing.assert_array_equal(sound.read(frames + 10), expected)
    assert (sound.samplerate, sound.channels, sound.frames) == (rate_hz, channels, frames)
    assert sound.read(10).shape == (0, channels)


def test_reading_goes_on_where_it_stopped_or_was_sent() -> None:
    data = wav(1000, 2)
    expected = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    sound = opened(data)
    np.testing.assert_array_equal(np.concatenate([sound.read(300), sound.read(700)]), expected)
    assert sound.seek(990) == 990
    np.testing.assert_array_equal(sound.read(100), expected[990:])


@pytest.mark.parametrize("segment", [(0.0, None), (0.1, 0.9), (1.5, 1.9), (1.7, None)])
def test_segments_are_those_that_libsndfile_gives(
    segment: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = wav(32000, 2, rate_hz=16000)
    quick = read.load_audio(io.BytesIO(data), start_s=segment[0], end_s=segment[1])
    monkeypatch.setattr(sound_files, "open_plain_wav", lambda raw: None)
    np.testing.assert_array_equal(quick, read.load_audio(io.BytesIO(data), start_s=segment[0], end_s=segment[1]))


def test_what_stands_around_the_samples_is_not_sound() -> None:
    data = wav(100)
    tag = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    tagged = data[:36] + tag + data[36:] + tag
    np.testing.assert_array_equal(opened(tagged).read(200), opened(data).read(200))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"RIFF", wav(100, subtype="PCM_24"), wav(100, subtype="FLOAT"), wav(100, subtype="ULAW"),
        wav(100, container="WAVEX"), wav(100, container="RF64"), wav(100, container="AIFF"),
        wav(100)[:-1], wav(0), wav(100)[:40] + struct.pack("<I", 0xFFFFFFFF) + wav(100)[44:],
    ],
    ids="empty cut-head 24-bit float mu-law extensible rf64 aiff cut-off no-samples streamed".split(),
)  # fmt: skip
def test_anything_else_is_left_to_libsndfile(data: bytes) -> None:
    assert open_plain_wav(Reader(io.BytesIO(data))) is None


def test_a_file_cut_off_while_it_is_read_is_named_truncated() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            self.truncate(1000)
            return found

    with pytest.raises(AudioError, match=r"truncated or damaged: the header promises 20000 samples"):
        read.load_audio(Shrinking(wav(20000)))
