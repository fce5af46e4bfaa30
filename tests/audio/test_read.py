"""Audio input: formats, rates, segments, arrays, streams, and every kind of bad file."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import hypothesis.strategies as st
import librosa
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings

from asr.audio import find, headers, pyav, sound_files
from asr.audio.read import AudioInfo, load_audio, probe_audio
from asr.audio.samples import resample
from asr.audio.sound_files import _SoundFile, rewindable
from asr.errors import AudioError

RATE = 16000


def voice(duration_s: float = 1.0, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Speech-like ``(S,)`` or ``(S, C)``: harmonics of a gliding pitch under formants, syllables, pauses, noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(duration_s * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = np.zeros_like(time)
    for harmonic in range(1, 30):
        gain = sum(np.exp(-(((harmonic * 120 - formant) / 200) ** 2)) for formant in (600, 1200, 2500))
        sound += gain * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    sound *= np.maximum(0, np.sin(2 * np.pi * 3 * time))
    sound = 0.4 * sound / np.abs(sound).max() + 0.001 * rng.standard_normal(len(time))
    if channels == 1:
        return sound.astype(np.float32)
    return (sound[:, None] * np.linspace(0.5, 1, channels)).astype(np.float32)


def tone(frequency: float, rate: int, duration_s: float = 1.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(duration_s * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, form: str, coding: str | None = None, rate: int = RATE, **options: object) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=coding, **options)
    return buffer.getvalue()


def sphere(pcm: bytes, samples: int, channels: int = 1, width: int = 2, coding: str = "pcm", rate: int = RATE) -> bytes:
    """A NIST SPHERE file as the LDC writes it: 1024 bytes of text, then the samples."""
    order = {1: "1", 2: "01", 4: "0123"}[width]
    fields = [
        "database_id -s4 TEST",
        f"channel_count -i {channels}",
        f"sample_count -i {samples}",
        f"sample_rate -i {rate}",
        f"sample_n_bytes -i {width}",
        f"sample_byte_format -s{len(order)} {order}",
        f"sample_sig_bits -i {8 * width}",
        f"sample_coding -s{len(coding)} {coding}",
        "end_head",
    ]
    return ("NIST_1A\n   1024\n" + "\n".join(fields) + "\n").encode().ljust(1024) + pcm


def int16(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767).astype("<i2")


def snr_db(got: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(expected**2) / np.sum((got - expected) ** 2)))


def amplitude(samples: np.ndarray, frequency: float, rate: int) -> float:
    """Amplitude of one sinusoid, by projection under a Hann window."""
    window = np.hanning(len(samples))
    probe = np.exp(-2j * np.pi * frequency * np.arange(len(samples)) / rate)
    return float(2 * abs(np.sum(window * samples * probe)) / np.sum(window))


# ------------------------------------------------------------------------------------------------- formats

LOSSLESS = [
    ("WAV", "PCM_U8", 1 / 128),
    ("WAV", "PCM_16", 2**-15),
    ("WAV", "PCM_24", 2**-23),
    ("WAV", "PCM_32", 2**-23),
    ("WAV", "FLOAT", 0),
    ("WAV", "DOUBLE", 0),
    ("WAVEX", "PCM_16", 2**-15),
    ("RF64", "PCM_16", 2**-15),
    ("W64", "PCM_16", 2**-15),
    ("FLAC", "PCM_16", 2**-15),
    ("FLAC", "PCM_24", 2**-23),
    ("AIFF", "PCM_16", 2**-15),
    ("AU", "PCM_16", 2**-15),
    ("CAF", "PCM_16", 2**-15),
    ("CAF", "ALAC_16", 2**-15),
    ("NIST", "PCM_16", 2**-15),
    ("VOC", "PCM_16", 2**-15),
]


@pytest.mark.parametrize(("form", "coding", "tolerance"), LOSSLESS)
def test_lossless_formats_give_the_samples_back(form: str, coding: str, tolerance: float) -> None:
    samples = voice()
    got = load_audio(io.BytesIO(encoded(samples, form, coding)))
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.shape == samples.shape
    assert np.abs(got - samples).max() <= tolerance


LOSSY = [
    ("OGG", "VORBIS", RATE, 12),
    ("OGG", "OPUS", RATE, 8),
    ("OGG", "OPUS", 48000, 8),
    ("MP3", "MPEG_LAYER_III", RATE, 12),
    ("MP3", "MPEG_LAYER_III", 44100, 12),
    ("WAV", "ULAW", 8000, 30),
    ("WAV", "ALAW", 8000, 30),
    ("WAV", "MS_ADPCM", RATE, 15),
    ("WAV", "IMA_ADPCM", RATE, 15),
    ("WAV", "GSM610", 8000, 6),
    ("NIST", "ULAW", 8000, 30),
    ("AU", "ULAW", 8000, 30),
]


@pytest.mark.parametrize(("form", "coding", "rate", "least_db"), LOSSY)
def test_lossy_formats_stay_close_and_in_time(form: str, coding: str, rate: int, least_db: float) -> None:
    samples = voice(2.0, rate)
    got = load_audio(io.BytesIO(encoded(samples, form, coding, rate)), rate)
    assert len(got) - len(samples) in range(0, 4096)  # ADPCM comes in whole blocks
    assert snr_db(got[: len(samples)], samples) > least_db


def test_files_by_path_whatever_their_ending(tmp_path: Path) -> None:
    samples = voice()
    for name in ("a.wav", "b.WAV", "c.raw", "d.flac", "e", "ü ñ.wav"):
        path = tmp_path / name
        path.write_bytes(encoded(samples, "WAV", "FLOAT"))
        np.testing.assert_array_equal(load_audio(path), samples)
        np.testing.assert_array_equal(load_audio(str(path)), samples)


def test_mp3_has_no_seams_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(voice(5.0), "MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    whole = load_audio(io.BytesIO(data))
    monkeypatch.setattr(sound_files, "_BLOCK_VALUES", 1000)
    np.testing.assert_array_equal(load_audio(io.BytesIO(data)), whole)


def test_mp3_with_tags_and_cover() -> None:
    data = encoded(voice(), "MP3")
    cover = 200_000
    size = bytes((cover >> shift) & 127 for shift in (21, 14, 7, 0))
    tagged = b"ID3\x04\x00\x00" + size + bytes(cover) + data + b"TAG" + bytes(125)
    np.testing.assert_array_equal(load_audio(io.BytesIO(tagged)), load_audio(io.BytesIO(data)))
    assert probe_audio(io.BytesIO(tagged)).samples == RATE


def without_length(mp3: bytes) -> bytes:
    """The MP3 without its first frame, which holds nothing but the length."""
    return mp3[mp3.index(mp3[:2], 40) :]


def test_mp3_that_states_no_length() -> None:
    samples = voice(5.0)
    data = without_length(encoded(samples, "MP3", bitrate_mode="CONSTANT", compression_level=0.5))
    got = load_audio(io.BytesIO(data))
    assert abs(len(got) - len(samples)) <= 3 * 576
    assert probe_audio(io.BytesIO(data)).samples == len(got)
    np.testing.assert_allclose(load_audio(io.BytesIO(data), start_s=2.0, end_s=3.0), got[32000:48000], atol=1e-6)


def test_mp3_whose_end_libsndfile_would_drop() -> None:
    # A rich beginning has large frames, from which libsndfile guesses too short a length.
    samples = 0.3 * np.random.default_rng(0).uniform(-1, 1, 5 * RATE)
    samples[RATE:] = 0
    data = without_length(encoded(samples, "MP3", bitrate_mode="VARIABLE"))
    assert soundfile.info(io.BytesIO(data)).duration < 3
    for use in (load_audio, probe_audio):
        with pytest.raises(AudioError, match=r"states no length.*ffmpeg"):
            use(io.BytesIO(data))


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("riff", [0, 8, 36, 0x7FFFF024, 0xFFFFFFFF])
@pytest.mark.parametrize("order", ["<", ">"])
def test_streamed_wav_reaches_to_the_end(size: int, riff: int, order: str) -> None:
    pcm = int16(voice())
    fmt = struct.pack(f"{order}IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    kind = b"RIFF" if order == "<" else b"RIFX"
    head = kind + struct.pack(f"{order}I", riff) + b"WAVEfmt " + fmt + b"data" + struct.pack(f"{order}I", size)
    got = load_audio(io.BytesIO(head + pcm.astype(f"{order}i2").tobytes()))
    np.testing.assert_array_equal(got, pcm / np.float32(32768))


def flac_of_unknown_length(samples: np.ndarray) -> bytes:
    """What ``flac -`` and ffmpeg write to a pipe: the header's sample count stays 0."""
    data = bytearray(encoded(samples, "FLAC", "PCM_16"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def test_flac_of_unknown_length() -> None:
    samples = voice(3.0)
    data = flac_of_unknown_length(samples)
    whole = load_audio(io.BytesIO(data))
    assert np.abs(whole - samples).max() <= 2**-15
    assert probe_audio(io.BytesIO(data)).duration_s == 3.0
    np.testing.assert_array_equal(load_audio(io.BytesIO(data), start_s=1.5, end_s=2.0), whole[24000:32000])
    np.testing.assert_array_equal(load_audio(io.BytesIO(data), max_duration_s=3.0), whole)
    np.testing.assert_array_equal(load_audio(io.BytesIO(data), start_s=1.5, max_duration_s=1.5), whole[24000:])
    with pytest.raises(AudioError, match="max_duration_s=2"):
        load_audio(io.BytesIO(data), max_duration_s=2.0)
    for bounds in ({"end_s": 3.1}, {"start_s": 3.1}, {"start_s": 3.1, "end_s": 9.0}):
        with pytest.raises(AudioError, match=r"inside the audio, which lasts 3\.000 s"):
            load_audio(io.BytesIO(data), **bounds)


def test_ogg_recorded_from_a_stream_needs_no_end_mark() -> None:
    for coding in ("VORBIS", "OPUS"):
        data = encoded(voice(10.0), "OGG", coding)
        cut = data[: data.rindex(b"OggS")]
        assert 0.5 * RATE < len(load_audio(io.BytesIO(cut))) < 10 * RATE


# ------------------------------------------------------------------------------------------------- SPHERE


def test_sphere_pcm() -> None:
    pcm = int16(voice())
    got = load_audio(io.BytesIO(sphere(pcm.tobytes(), len(pcm))))
    np.testing.assert_array_equal(got, pcm / np.float32(32768))
    big = sphere(pcm.astype(">i2").tobytes(), len(pcm)).replace(b"-s2 01", b"-s2 10")
    np.testing.assert_array_equal(load_audio(io.BytesIO(big)), got)
    info = probe_audio(io.BytesIO(big))
    assert info == AudioInfo(RATE, 1, len(pcm), 1.0, "NIST PCM_16")


def test_sphere_ulaw_in_stereo() -> None:
    codes = np.arange(512, dtype=np.uint8).reshape(256, 2)  # every code, on both channels
    low = ~codes.astype(np.int64)
    magnitude = (((low & 15) << 3) + 0x84) << ((low >> 4) & 7)
    decoded = np.where(low & 0x80, 0x84 - magnitude, magnitude - 0x84) / 32768  # ITU-T G.711
    got = load_audio(io.BytesIO(sphere(codes.tobytes(), 256, 2, 1, "ulaw", 8000)), 8000)
    np.testing.assert_allclose(got, decoded.mean(axis=1), atol=1e-7)


def test_sphere_reads_what_the_header_counts_and_no_more() -> None:
    pcm = int16(voice())
    data = sphere(pcm.tobytes() + b"\x7f" * 999, len(pcm))
    assert len(load_audio(io.BytesIO(data))) == len(pcm)
    assert probe_audio(io.BytesIO(data)).samples == len(pcm)


@pytest.mark.parametrize("coding", ["pcm,embedded-shorten-v2.00", "ulaw,embedded-shorten-v2.00", "shortpack-v0"])
def test_compressed_sphere_says_what_to_do(coding: str, tmp_path: Path) -> None:
    path = tmp_path / "wsj.wv1"
    path.write_bytes(sphere(b"ajkg" + bytes(2000), 16000, coding=coding))
    for use in (load_audio, probe_audio):
        with pytest.raises(AudioError, match=r"wsj\.wv1: SPHERE audio coded as.*sph2pipe"):
            use(path)


def test_an4_sphere_files() -> None:
    folder = os.environ.get("ASR_DATA")
    if not folder or not Path(folder, "an4_sphere.tar.gz").exists():
        pytest.skip("ASR_DATA does not name a folder with an4_sphere.tar.gz")
    with tarfile.open(Path(folder, "an4_sphere.tar.gz")) as archive:
        found = 0
        for member in archive:
            if member.name.endswith(".sph"):
                data = archive.extractfile(member).read()
                got = load_audio(io.BytesIO(data))
                np.testing.assert_array_equal(got, np.frombuffer(data[1024:], "<i2") / np.float32(32768))
                found += 1
            if found == 50:
                break
    assert found == 50


# ------------------------------------------------------------------------------------------------- rates

RATES = [8000, 11025, 22050, 44100, 48000]


@pytest.mark.parametrize("rate", RATES)
def test_resampling_keeps_frequency_level_and_time(rate: int) -> None:
    """Against the analytic signal: within 1e-4 for all that lies below 90 % of the lower Nyquist frequency."""
    limit = 0.9 * min(rate, RATE) / 2
    frequencies = np.linspace(100, limit, 7)
    time, wanted_time = np.arange(2 * rate) / rate, np.arange(2 * RATE) / RATE
    samples = sum(0.1 * np.sin(2 * np.pi * f * time + f) for f in frequencies).astype(np.float32)
    wanted = sum(0.1 * np.sin(2 * np.pi * f * wanted_time + f) for f in frequencies)
    got = load_audio(io.BytesIO(encoded(samples, "WAV", "FLOAT", rate)))
    assert len(got) == 2 * RATE
    inner = slice(RATE // 10, -RATE // 10)  # the signal starts and ends abruptly
    # 0.01 dB of passband ripple on up to 7 sinusoids of 0.1
    np.testing.assert_allclose(got[inner], wanted[inner], atol=7 * 0.1 * 0.0012)
    for f in frequencies:
        assert amplitude(got[inner], f, RATE) == pytest.approx(0.1, rel=0.0012)


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_no_aliases(rate: int) -> None:
    for frequency in np.linspace(8050, rate / 2 - 500, 6):
        got = resample(tone(frequency, rate), rate, RATE)[1600:-1600]
        assert 20 * np.log10(np.abs(got).max() / 0.5) < -100
        loud = resample(tone(frequency, rate), rate, RATE, quality="LQ")[1600:-1600]
        assert loud.shape == got.shape


@pytest.mark.parametrize("rate", [8000, 11025])
def test_no_images(rate: int) -> None:
    got = resample(tone(0.8 * rate / 2, rate), rate, RATE)
    spectrum = np.abs(np.fft.rfft(got * np.hanning(len(got))))
    above = np.fft.rfftfreq(len(got), 1 / RATE) > rate / 2
    assert 20 * np.log10(spectrum[above].max() / spectrum.max()) < -100


@pytest.mark.parametrize("rate", RATES)
def test_parity_with_librosa(rate: int) -> None:
    samples = voice(1.0, rate)  # speech lies below the band edge, where HQ and VHQ agree
    reference = librosa.resample(samples, orig_sr=rate, target_sr=RATE, res_type="soxr_vhq")
    np.testing.assert_allclose(resample(samples, rate, RATE), reference, atol=2e-3)
    smooth = librosa.resample(librosa.resample(samples, orig_sr=rate, target_sr=6000), orig_sr=6000, target_sr=rate)
    reference = librosa.resample(smooth, orig_sr=rate, target_sr=RATE, res_type="soxr_vhq")
    np.testing.assert_allclose(resample(smooth, rate, RATE), reference, atol=2e-5)


@given(
    samples=st.integers(0, 3000),
    from_hz=st.sampled_from([1000, 8000, 11025, 14400, 16000, 17600, 44100, 48000, 44101, 768000]),
    to_hz=st.sampled_from([1000, 8000, 16000, 22050, 48000]),
)
@settings(max_examples=60, deadline=None)
def test_resampled_length(samples: int, from_hz: int, to_hz: int) -> None:
    got = resample(np.ones(samples), from_hz, to_hz)
    assert got.dtype == np.float32
    assert abs(len(got) - samples * to_hz / from_hz) <= 0.5 + 1e-9
    assert np.isfinite(got).all()


def test_resample_takes_channels() -> None:
    stereo = voice(0.5, 44100, channels=2)
    got = resample(stereo, 44100, RATE)
    assert got.shape == (8000, 2)
    np.testing.assert_allclose(got[:, 1], resample(stereo[:, 1], 44100, RATE), atol=1e-6)


@pytest.mark.parametrize("arguments", [(0, 16000), (-1, 16000), (16000, 0), (16000, 1e9), (float("nan"), 16000)])
def test_resample_refuses_silly_rates(arguments: tuple[float, float]) -> None:
    with pytest.raises(AudioError, match="expected 1000 to 768000 Hz"):
        resample(np.zeros(10), *arguments)


def test_resample_refuses_other_shapes_and_qualities() -> None:
    with pytest.raises(AudioError, match=r"\(S,\) or \(S, C\)"):
        resample(np.zeros((2, 2, 2)), 8000, RATE)
    with pytest.raises(AudioError, match=r"quality.*'best'"):
        resample(np.zeros(10), 8000, RATE, quality="best")


# ------------------------------------------------------------------------------------------------- channels


@pytest.mark.parametrize("channels", [2, 3, 8, 64])
def test_channels_are_averaged(channels: int) -> None:
    samples = voice(0.25, channels=channels)
    got = load_audio(io.BytesIO(encoded(samples, "WAV", "FLOAT")))
    np.testing.assert_allclose(got, samples.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(load_audio(samples), got)
    assert probe_audio(io.BytesIO(encoded(samples, "WAV", "FLOAT"))).channels == channels


def test_blocks_join_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = voice(0.5, 44100, channels=2)
    data = encoded(samples, "FLAC", "PCM_24", 44100)
    whole = load_audio(io.BytesIO(data))
    monkeypatch.setattr(sound_files, "_BLOCK_VALUES", 999)
    np.testing.assert_array_equal(load_audio(io.BytesIO(data)), whole)
    np.testing.assert_allclose(load_audio(samples, source_rate_hz=44100), whole, atol=1e-6)


# ------------------------------------------------------------------------------------------------- probe


def test_probe(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, voice(1.5, 44100, channels=2), 44100)
    assert probe_audio(path) == AudioInfo(44100, 2, 66150, 1.5, "FLAC PCM_16")
    assert probe_audio(str(path)) == probe_audio(io.BytesIO(path.read_bytes()))


# ------------------------------------------------------------------------------------------------- segments


@pytest.mark.parametrize(
    ("form", "coding", "rate"),
    [
        ("WAV", "PCM_16", RATE),
        ("WAV", "PCM_16", 8000),
        ("WAV", "PCM_16", 44100),
        ("WAV", "PCM_16", 44101),
        ("FLAC", "PCM_16", 48000),
        ("NIST", "PCM_16", RATE),
        ("WAV", "GSM610", 8000),  # cannot seek
        ("WAV", "IMA_ADPCM", RATE),
        ("OGG", "VORBIS", 22050),
        ("OGG", "OPUS", RATE),
        ("OGG", "OPUS", 48000),
        ("MP3", "MPEG_LAYER_III", RATE),
        ("MP3", "MPEG_LAYER_III", 44100),
    ],
)
def test_segments_equal_slices_of_the_whole(form: str, coding: str, rate: int) -> None:
    data = encoded(voice(6.0, rate), form, coding, rate)
    whole = load_audio(io.BytesIO(data))
    # Opus converges from any start, but does not repeat to the bit: libsndfile's own seek differs by 4e-4.
    tolerance = 1e-4 if coding == "OPUS" else 2e-6
    for start_s, end_s in ((0, 0.5), (0.0101, 0.9), (1.2345, 1.3), (2.5, 5.7), (5.99, 6.0), (3.0, None), (0, None)):
        got = load_audio(io.BytesIO(data), start_s=start_s, end_s=end_s)
        wanted = whole[round(start_s * RATE) : None if end_s is None else round(end_s * RATE)]
        np.testing.assert_allclose(got, wanted, atol=tolerance)


@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    to_hz=st.sampled_from([8000, 16000]),
    bounds=st.tuples(st.floats(0, 0.999), st.floats(0.0005, 1.0)),
)
@settings(max_examples=50, deadline=None)
def test_any_segment_of_an_array(rate: int, to_hz: int, bounds: tuple[float, float]) -> None:
    samples = tone(440, rate) + np.float32(0.1)
    start_s, end_s = bounds[0], min(1.0, bounds[0] + bounds[1])
    whole = load_audio(samples, to_hz, source_rate_hz=rate)
    wanted = whole[round(start_s * to_hz) : round(end_s * to_hz)]
    if not len(wanted):
        return
    got = load_audio(samples, to_hz, source_rate_hz=rate, start_s=start_s, end_s=end_s)
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [(-0.1, None), (1.0, None), (5, None), (0, 1.02), (0.5, 0.5), (0.6, 0.5), (0, 0), (0, -1), (2, 3)]
    + [(float("nan"), None), (0, float("nan")), (0, float("inf")), (float("inf"), None)],
)
def test_bounds_outside_the_audio(start_s: float, end_s: float | None, tmp_path: Path) -> None:
    path = tmp_path / "one second.wav"
    soundfile.write(path, voice(), RATE)
    with pytest.raises(AudioError, match=r"one second\.wav: expected.*start_s=.*end_s="):
        load_audio(path, start_s=start_s, end_s=end_s)
    with pytest.raises(AudioError, match=r"ndarray.*start_s="):
        load_audio(voice(), start_s=start_s, end_s=end_s)


def test_end_may_be_rounded_up() -> None:
    assert len(load_audio(voice(), start_s=0.5, end_s=1.0099)) == RATE // 2
    assert len(load_audio(io.BytesIO(encoded(voice(), "WAV")), end_s=1.0099)) == RATE


def test_a_segment_of_no_samples() -> None:
    with pytest.raises(AudioError, match="less than one sample"):
        load_audio(voice(), start_s=0.5, end_s=0.500001)
    with pytest.raises(AudioError, match="less than one sample"):
        load_audio(np.zeros(1), 8000, source_rate_hz=48000)


# ------------------------------------------------------------------------------------------------- arrays


def test_arrays_of_every_type() -> None:
    samples = voice()
    np.testing.assert_array_equal(load_audio(samples), samples)
    np.testing.assert_allclose(load_audio(samples.astype(np.float64)), samples)
    np.testing.assert_allclose(load_audio(samples.astype(np.float16)), samples, atol=1e-3)
    np.testing.assert_array_equal(load_audio(samples.astype(">f4")), samples)
    pcm = int16(samples)
    scaled = pcm / np.float32(32768)
    np.testing.assert_array_equal(load_audio(pcm), scaled)
    np.testing.assert_array_equal(load_audio(pcm.astype(">i2")), scaled)
    np.testing.assert_array_equal(load_audio(pcm.astype(np.int32) << 16), scaled)
    np.testing.assert_array_equal(load_audio((pcm >> 8).astype(np.int8)), (pcm >> 8) / np.float32(128))
    np.testing.assert_array_equal(load_audio(((pcm >> 8) + 128).astype(np.uint8)), (pcm >> 8) / np.float32(128))
    np.testing.assert_array_equal(load_audio(samples[::-1]), samples[::-1])
    np.testing.assert_array_equal(load_audio(np.stack([samples, -samples], 1)), 0 * samples)


def test_torch_tensors() -> None:
    samples = voice()
    np.testing.assert_array_equal(load_audio(torch.from_numpy(samples)), samples)
    np.testing.assert_array_equal(load_audio(torch.from_numpy(samples).requires_grad_()), samples)
    np.testing.assert_allclose(load_audio(torch.from_numpy(samples).bfloat16()), samples, atol=2e-3)
    pcm = int16(samples)
    np.testing.assert_array_equal(load_audio(torch.from_numpy(pcm)), pcm / np.float32(32768))
    with pytest.raises(AudioError, match=r"Tensor>: .*\(1, 16000\).*\(C, S\)"):
        load_audio(torch.from_numpy(samples)[None])


def test_result_is_not_the_callers_memory() -> None:
    samples = voice()
    load_audio(samples)[:] = 7
    assert np.abs(samples).max() < 1


def test_array_rate() -> None:
    samples = tone(440, 8000)
    got = load_audio(samples, source_rate_hz=8000)
    assert amplitude(got[800:-800], 440, RATE) == pytest.approx(0.5, rel=1e-3)
    assert len(load_audio(samples)) == 8000


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 16000)), r"\(2, 16000\), which looks like \(C, S\): pass samples.T"),
        (np.zeros((8, 9)), "looks like"),
        (np.zeros((1, 16000), np.int16), "looks like"),
        (np.zeros((64, 16000)), "looks like"),
        (np.zeros((10, 0)), "at least one channel"),
        (np.zeros((10, 2, 2)), r"\(S,\) or \(S, C\)"),
        (np.float32(0.5), r"\(S,\) or \(S, C\), got \(\)"),
        (np.zeros(0), "got no samples"),
        (np.zeros((0, 2)), "got no samples"),
        (np.zeros(10, np.int64), "float, int16 or int32 samples, got int64"),
        (np.zeros(10, np.uint16), "got uint16"),
        (np.zeros(10, bool), "got bool"),
        (np.zeros(10, complex), "got complex"),
        (np.array(["a"]), "got <U1"),
        (np.array([None]), "got object"),
        (np.full(10, 32767.0), r"is 32767; expected floats in \[-1, 1\]: divide 16-bit"),
        (np.full(10, -11.0), "is 11; expected"),
        (np.array([0, 0, np.nan, 0]), r"sample 2 \(0.000 s\) is not a finite"),
        (np.array([0, -np.inf]), "sample 1 .* is not a finite"),
        (np.full(10, 1e300), "expected floats"),
        ([0.1, 0.2], "<list>: expected a path, a binary file or an array, got list"),
        (b"RIFF", "got bytes"),
        (None, "got NoneType"),
        (3, "got int"),
    ],
)
def test_bad_arrays(array: object, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(array)  # type: ignore[arg-type]


def test_loud_but_not_unscaled_is_taken() -> None:
    assert load_audio(np.full(10, 9.9)).max() == pytest.approx(9.9)


@pytest.mark.parametrize("rate", [0, -1, 999, 768001, float("nan"), float("inf"), 16000.5])
def test_silly_rates(rate: float) -> None:
    with pytest.raises(AudioError, match=r"sample_rate_hz: expected 1000 to 768000 Hz"):
        load_audio(voice(), rate)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"source_rate_hz: expected 1000 to 768000 Hz"):
        load_audio(voice(), source_rate_hz=rate)  # type: ignore[arg-type]


def test_a_file_states_its_own_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, voice(1, 8000), 8000)
    assert len(load_audio(path, source_rate_hz=8000)) == RATE
    with pytest.raises(AudioError, match=r"a\.wav: the file's rate is 8000 Hz, but source_rate_hz=16000"):
        load_audio(path, source_rate_hz=16000)


# ------------------------------------------------------------------------------------------------- file objects


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives little at a time, as a socket or a process does."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: object) -> int:
        view = memoryview(target)[:4000]  # type: ignore[arg-type]
        count = self.buffer.readinto(view)
        self.given += count
        return count


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "NIST"])
def test_file_objects(form: str, tmp_path: Path) -> None:
    data = encoded(voice(), form)
    whole = load_audio(io.BytesIO(data))
    path = tmp_path / "a"
    path.write_bytes(data)
    at_end = io.BytesIO(data)
    at_end.seek(0, io.SEEK_END)
    with open(path, "rb") as buffered, open(path, "rb", buffering=0) as raw:
        for source in (buffered, raw, at_end, Pipe(data), io.BufferedReader(Pipe(data))):
            np.testing.assert_array_equal(load_audio(source), whole)
        np.testing.assert_array_equal(load_audio(buffered), whole)  # again: it is read from its start
    got = load_audio(Pipe(data), start_s=0.25, end_s=0.5)
    np.testing.assert_allclose(got, whole[4000:8000], atol=1e-6)


def test_file_in_an_archive() -> None:
    data = encoded(voice(), "FLAC")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("a.flac")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        assert len(load_audio(archive.extractfile("a.flac"))) == RATE


def test_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(encoded(voice(), "WAV", "FLOAT"),))
    writer.start()
    np.testing.assert_array_equal(load_audio(path), voice())
    writer.join()


def test_a_pipe_can_be_kept_and_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(encoded(voice(), "WAV", "FLOAT"),))
    writer.start()
    kept = rewindable(path)
    writer.join()
    for _ in range(2):
        np.testing.assert_array_equal(load_audio(kept), voice())
    assert kept.name == str(path)
    assert rewindable(tmp_path / "none.wav") == tmp_path / "none.wav"


def test_a_pipe_that_begins_as_no_audio_does_is_not_read_to_its_end() -> None:
    endless = Pipe(bytes(50_000_000))
    with pytest.raises(AudioError, match=r"got unknown first bytes.*ffmpeg -i INPUT"):
        load_audio(endless)
    assert endless.given <= 4096


@pytest.mark.parametrize(
    "form",
    [
        "WAV",
        "WAVEX",
        "W64",
        "RF64",
        "FLAC",
        "OGG",
        "MP3",
        "AIFF",
        "AU",
        "CAF",
        "VOC",
        "PAF",
        "PVF",
        "AVR",
        "NIST",
        "SVX",
    ],
)
def test_files_are_known_by_their_first_bytes(form: str) -> None:
    assert headers.known(encoded(voice(), form)[:4096])


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_known_with_and_without_its_tags(rate: int, mode: str) -> None:
    data = encoded(voice(rate=rate), "MP3", rate=rate, bitrate_mode=mode)
    assert headers.known(data[:4096])
    assert headers.known(b"ID3\4\0\0\0\0\0\0" + data[:4086])


def test_tags_without_end_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = headers.Reader(io.BytesIO(b"ID3\4\0\0\0\0\0\0" * 100_000))
    reads = []
    monkeypatch.setattr(raw, "read", lambda count: reads.append(count) or raw.file.read(count))
    headers.mpeg_sync(raw)
    assert len(reads) <= 1000


@pytest.mark.parametrize("level", [0, 0.3, 1, 10, 100, 3000])
def test_samples_are_no_file(level: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        samples = rng.normal(0, level, 2048)
        samples[0] = -1  # the bytes FF FF, with which an MPEG frame may begin
        assert not headers.known(samples.astype("<i2").tobytes())


def test_a_wav_without_a_length_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    head = encoded(voice(), "WAV", "PCM_16")[:40] + bytes(4)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**28)  # a hole: takes no room on the disk
    program = (
        "import sys, tracemalloc; from asr.audio import read; tracemalloc.start();"
        "print(read.probe_audio(sys.argv[1]).samples);"
        "assert tracemalloc.get_traced_memory()[1] < 2**24"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True)
    assert int(done.stdout) == (2**28 - 44) // 2


def test_standard_input() -> None:
    program = "import sys; from asr.audio import read; print(len(read.load_audio(sys.stdin.buffer)))"
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, input=encoded(voice(), "FLAC"), capture_output=True, check=True)
    assert int(done.stdout) == RATE
    done = subprocess.run(run, input=voice().tobytes(), capture_output=True, check=False)
    assert b"AudioError: <stdin>: cannot be decoded: expected an audio file" in done.stderr
    done = subprocess.run(run, input=b"", capture_output=True, check=False)
    assert b"AudioError: <stdin>: expected audio, got an empty file" in done.stderr


def test_importing_needs_no_torch() -> None:
    program = "import sys, asr.audio.read; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


class Failing(io.BytesIO):
    """A disk that breaks after some reads."""

    def __init__(self, data: bytes, reads: int) -> None:
        super().__init__(data)
        self.reads = reads

    def read(self, size: int | None = -1) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise OSError("input/output error")
        return super().read(size)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "NIST"])
def test_file_that_fails_while_it_is_read(form: str) -> None:
    data = encoded(voice(20.0), form)
    whole = Failing(data, 10**6)
    load_audio(whole)
    needed = 10**6 - whole.reads
    assert needed > 1
    for reads in {0, 1, 2, 3, 5, 10, 12, needed - 1} & set(range(needed)):
        with pytest.raises(AudioError, match=r"<Failing>: cannot be read: input/output error"):
            load_audio(Failing(data, reads))


class Trickle(io.BytesIO):
    """A seekable file that gives little at a time, as some network file systems do."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(100, size) if size is not None and size > 0 else size)


def test_short_reads_are_not_the_end() -> None:
    for form in ("WAV", "FLAC", "OGG", "MP3", "NIST", "CAF"):
        data = encoded(voice(), form)
        np.testing.assert_array_equal(load_audio(Trickle(data)), load_audio(io.BytesIO(data)))


def test_bad_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(voice(), "WAV"))
    with open(path, encoding="latin-1") as text, pytest.raises(AudioError, match=r"a\.wav: .*binary"):
        load_audio(text)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="binary"):
        load_audio(io.StringIO("RIFF"))  # type: ignore[arg-type]
    closed = open(path, "rb")  # noqa: SIM115
    closed.close()
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read: .*closed"):
        load_audio(closed)


# ------------------------------------------------------------------------------------------------- duration limit


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "NIST", "AIFF"])
def test_too_long_is_refused_before_decoding(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(voice(2.0), form)
    assert len(load_audio(io.BytesIO(data), max_duration_s=2.0)) == 2 * RATE
    assert len(load_audio(io.BytesIO(data), start_s=0.5, end_s=1.5, max_duration_s=1.0)) == RATE
    monkeypatch.setattr(_SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    for options in ({}, {"end_s": 1.5}, {"start_s": 0.5}, {"start_s": 0.2, "end_s": 1.4}):
        with pytest.raises(AudioError, match="at most max_duration_s=1 s"):
            load_audio(io.BytesIO(data), max_duration_s=1.0, **options)


def test_arrays_and_streams_have_the_limit_too() -> None:
    with pytest.raises(AudioError, match=r"at most max_duration_s=0\.5 s of audio, got 1\.000 s"):
        load_audio(voice(), max_duration_s=0.5)
    endless = Pipe(encoded(voice(0.1), "WAV") + bytes(50_000_000))
    with pytest.raises(AudioError, match="at most max_duration_s=1 s of audio, got more than 1 s"):
        load_audio(endless, max_duration_s=1.0)
    assert endless.given < 5_000_000
    for unlimited in (voice(), io.BytesIO(flac_of_unknown_length(voice())), Pipe(encoded(voice(), "WAV"))):
        assert len(load_audio(unlimited, max_duration_s=float("inf"))) == RATE
    for limit in (0, -1, float("nan")):
        with pytest.raises(AudioError, match="max_duration_s: expected > 0"):
            load_audio(voice(), max_duration_s=limit)


def test_header_that_promises_terabytes() -> None:
    data = bytearray(encoded(voice(), "FLAC", "PCM_16"))
    data[21] |= 0x0F
    data[22:26] = b"\xff\xff\xff\xff"
    with pytest.raises(AudioError, match="max_duration_s=10"):
        load_audio(io.BytesIO(data), max_duration_s=10)
    with pytest.raises(AudioError, match=r"truncated or damaged: the header promises 68719476735 samples, 16000 are"):
        load_audio(io.BytesIO(data))


# ------------------------------------------------------------------------------------------------- bad files


def test_missing_folder_empty_and_device(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    for use in (load_audio, probe_audio):
        with pytest.raises(AudioError, match=r"nowhere\.wav: no such file"):
            use(tmp_path / "nowhere.wav")
        with pytest.raises(AudioError, match="got a folder"):
            use(tmp_path)
        with pytest.raises(AudioError, match=r"empty\.wav: expected audio, got an empty file"):
            use(empty)
        with pytest.raises(AudioError, match="got a device"):
            use(os.devnull)
        with pytest.raises(AudioError, match="cannot be opened"):
            use("a\0b.wav")
        with pytest.raises(AudioError, match=r"a\.wav: cannot be opened: Not a directory"):
            use(empty / "a.wav")


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "FLAC", "NIST", "AIFF", "AU", "OGG", "MP3"])
def test_headers_without_samples(form: str) -> None:
    with pytest.raises(AudioError):
        load_audio(io.BytesIO(encoded(np.zeros(0, np.float32), form)))


def test_wav_without_samples_but_with_tags() -> None:
    data = bytearray(encoded(np.zeros(0, np.int16), "WAV", "PCM_16") + b"LIST\x04\x00\x00\x00INFO")
    data[4:8] = struct.pack("<I", len(data) - 8)
    with pytest.raises(AudioError, match="got no samples"):
        load_audio(io.BytesIO(data))


TRUNCATED = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAV", "IMA_ADPCM"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("NIST", "PCM_16"),
    ("NIST", "ULAW"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("VOC", "PCM_16"),
    ("W64", "PCM_16"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]


@pytest.mark.parametrize(("form", "coding"), TRUNCATED)
def test_truncated_by_any_amount(form: str, coding: str, tmp_path: Path) -> None:
    data = encoded(voice(3.0), form, coding)
    path = tmp_path / f"cut.{form.lower()}"
    for length in [len(data) - 8, *(int(len(data) * share) for share in (0.99, 0.7, 0.5, 0.1)), 60, 20, 5]:
        path.write_bytes(data[:length])
        with pytest.raises(AudioError, match=path.name):
            load_audio(path)


@pytest.mark.parametrize("form", ["WAV", "RF64", "NIST"])
def test_one_missing_sample_is_one_too_many(form: str) -> None:
    data = encoded(voice(), form, "PCM_16")
    end = data.rindex(b"data") + 8 + 2 * RATE if form != "NIST" else len(data)
    for use in (load_audio, probe_audio):
        with pytest.raises(AudioError, match=r"truncated.* promises 16000 samples.* 15999 are there"):
            use(io.BytesIO(data[: end - 2]))


def test_truncated_mp3() -> None:
    data = encoded(voice(5.0), "MP3")
    for share in (0.95, 0.5, 0.1):
        with pytest.raises(AudioError):
            load_audio(io.BytesIO(data[: int(len(data) * share)]))


def test_segment_in_the_intact_part_of_a_cut_flac_needs_no_end() -> None:
    data = encoded(voice(10.0), "FLAC")
    got = load_audio(io.BytesIO(data[: len(data) * 3 // 4]), start_s=1.0, end_s=2.0)
    np.testing.assert_array_equal(got, load_audio(io.BytesIO(data), start_s=1.0, end_s=2.0))


@pytest.mark.parametrize("coding", ["VORBIS", "OPUS"])
def test_damaged_ogg_pages(coding: str) -> None:
    data = encoded(voice(20.0), "OGG", coding)
    pages = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    middle = len(pages) // 2
    flipped = bytearray(data)
    flipped[pages[middle] + 100] ^= 4
    lost = data[: pages[middle]] + data[pages[middle + 1] :]
    for damaged in (bytes(flipped), lost):
        with pytest.raises(AudioError, match=r"pages of the Ogg stream|truncated or damaged"):
            load_audio(io.BytesIO(damaged))


def test_several_ogg_streams_are_not_cut_to_the_first() -> None:
    chained = encoded(voice(1.0), "OGG") + encoded(voice(2.0), "OGG")
    for use in (load_audio, probe_audio):
        with pytest.raises(AudioError, match=r"several Ogg streams.*ffmpeg"):
            use(io.BytesIO(chained))


@pytest.mark.parametrize("position", [0.3, 0.6, 0.9])
def test_corrupt_flac(position: float) -> None:
    data = bytearray(encoded(voice(3.0), "FLAC"))
    data[int(len(data) * position)] ^= 0x10
    with pytest.raises(AudioError, match=r"<BytesIO>: cannot be decoded"):
        load_audio(io.BytesIO(data))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (22, b"\0\0", "at least one channel"),
        (22, b"\xff\xff", "cannot be decoded"),
        (24, b"\0\0\0\0", "sample rate: expected 1000 to 768000 Hz, got 0"),
        (24, b"\x01\0\0\0", "sample rate: expected 1000 to 768000 Hz, got 1"),
        (24, b"\xff\xff\xff\xff", "sample rate: expected 1000 to 768000 Hz, got 4294967295"),
        (20, b"\xee\xee", "cannot be decoded"),
        (8, b"EVAW", "cannot be decoded"),
        (36, b"atad", "cannot be decoded"),
    ],
)
def test_broken_wav_headers(offset: int, value: bytes, message: str, tmp_path: Path) -> None:
    data = bytearray(encoded(voice(), "WAV", "PCM_16"))
    data[offset : offset + len(value)] = value
    path = tmp_path / "broken.wav"
    path.write_bytes(data)
    for use in (load_audio, probe_audio):
        with pytest.raises(AudioError, match=rf"broken\.wav: .*{message}"):
            use(path)


def test_silly_rate_in_other_formats() -> None:
    with pytest.raises(AudioError, match="the file's sample rate: expected 1000 to 768000 Hz, got 100"):
        load_audio(io.BytesIO(encoded(voice(), "AU", rate=100)))
    pcm = int16(voice()).tobytes()
    for channels, rate in ((0, RATE), (1, 0), (1, 10**9), (-1, RATE)):
        with pytest.raises(AudioError):
            load_audio(io.BytesIO(sphere(pcm, 0, channels, rate=rate)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_with_nan(bad: float, channels: int, tmp_path: Path) -> None:
    samples = voice(1.0, channels=channels).reshape(-1, channels)
    samples[8000, -1] = bad
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: sample 8000 \(0\.500 s\) is not a finite number"):
        load_audio(path)
    assert len(load_audio(path, end_s=0.4)) == 6400


def test_float_file_with_16_bit_values(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    soundfile.write(path, voice() * 32768, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"loud\.wav: sample .* expected floats in \[-1, 1\]: divide"):
        load_audio(path)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_digital_silence_is_fine(form: str) -> None:
    got = load_audio(io.BytesIO(encoded(np.zeros(RATE, np.float32), form)), 8000)
    assert len(got) == 8000
    assert np.abs(got).max() < 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x20ftypM4A \0\0\0\0", r"MP4.*ffmpeg"),
        (b"\x1aE\xdf\xa3" + bytes(100), r"WebM.*ffmpeg"),
        (b"#!AMR\n" + bytes(100), "AMR"),
        (b"ajkg\x02" + bytes(100), "Shorten"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"id,audio,text\n1,a.wav,hello\n", "cannot be decoded"),
        (np.random.default_rng(0).bytes(20_000), "cannot be decoded"),
        (bytes(20_000), "cannot be decoded"),
        (b"R", "cannot be decoded"),
        (b"RIFF", "cannot be decoded"),
        (b"OggS", "truncated"),
        (b"NIST_1A\n   1024\n", "cannot be decoded"),
        (b"fLaC", "cannot be decoded"),
        (b"ID3", "cannot be decoded"),
    ],
)
def test_contents_that_are_not_audio(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav, "pyav_is_installed", lambda: False)  # tests/test_media.py has it
    path = tmp_path / "thing.wav"
    path.write_bytes(content)
    for use in (load_audio, probe_audio):
        with pytest.raises(AudioError, match=rf"thing\.wav: .*{message}"):
            use(path)


def test_headerless_audio_called_raw(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(int16(voice()).tobytes())
    with pytest.raises(AudioError, match=r"a\.raw: cannot be decoded"):
        load_audio(path)


def test_libsndfile_logs_of_intact_files_hold_no_false_alarm() -> None:
    for form in ("AIFF", "AU", "VOC", "OGG", "FLAC", "WAV"):
        options = {} if form in ("AU", "VOC") else {"title": "It should be 3, truncated"}
        buffer = io.BytesIO()
        with soundfile.SoundFile(buffer, "w", RATE, 1, format=form) as file:
            for key, value in options.items():
                setattr(file, key, value)
            file.write(voice())
        assert len(load_audio(io.BytesIO(buffer.getvalue()))) == RATE


# ------------------------------------------------------------------------------------------------- mutations

SEEDS = {
    (form, coding): encoded(voice(0.3, channels=channels), form, coding)
    for form, coding, channels in [
        ("WAV", "PCM_16", 1),
        ("WAV", "FLOAT", 2),
        ("WAV", "MS_ADPCM", 1),
        ("RF64", "PCM_24", 1),
        ("FLAC", "PCM_16", 1),
        ("OGG", "VORBIS", 1),
        ("OGG", "OPUS", 2),
        ("MP3", "MPEG_LAYER_III", 1),
        ("NIST", "PCM_16", 1),
        ("AIFF", "PCM_16", 1),
        ("AU", "ULAW", 1),
        ("CAF", "ALAC_16", 1),
    ]
}
SEEDS["MP3", "without length"] = without_length(SEEDS["MP3", "MPEG_LAYER_III"])


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files_load_or_raise_audio_error(data: st.DataObject) -> None:
    content = bytearray(SEEDS[data.draw(st.sampled_from(sorted(SEEDS)))])
    # Headers are where a flipped bit does most.
    place = st.one_of(st.integers(0, 120), st.integers(0, len(content) - 1))
    for at, bit in data.draw(st.lists(st.tuples(place, st.integers(0, 7)), max_size=8)):
        content[at] ^= 1 << bit
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    options = data.draw(
        st.sampled_from([{}, {"start_s": 0.1}, {"start_s": 0.05, "end_s": 0.2}, {"max_duration_s": 0.35}])
    )
    try:
        samples = load_audio(io.BytesIO(content), **{"max_duration_s": 60.0, **options})
    except AudioError as error:
        assert str(error).startswith("<BytesIO>: ")  # noqa: PT017
    else:
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert len(samples) > 0
        assert np.isfinite(samples).all()
    try:
        info = probe_audio(io.BytesIO(content))
    except AudioError:
        return
    assert info.sample_rate_hz >= headers.MIN_RATE_HZ
    assert info.channels > 0


# ------------------------------------------------------------------------------------------------- find


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "pyav_is_installed", lambda: False)
    for name in ("b/2.flac", "b/10.WAV", "a.mp3", "b/c/d.sph", "b/notes.txt", "._a.wav", ".hidden/a.wav", "z.m4a"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find.find_audio_files(tmp_path)]
    assert found == ["a.mp3", "b/10.WAV", "b/2.flac", "b/c/d.sph"]
    assert find.find_audio_files(str(tmp_path / "b" / "c")) == [tmp_path / "b" / "c" / "d.sph"]
    (tmp_path / "nothing").mkdir()
    assert find.find_audio_files(tmp_path / "nothing") == []
    with pytest.raises(AudioError, match="nowhere: expected a folder"):
        find.find_audio_files(tmp_path / "nowhere")
    with pytest.raises(AudioError, match=r"a\.mp3: expected a folder"):
        find.find_audio_files(tmp_path / "a.mp3")


def test_find_survives_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find.find_audio_files(tmp_path) == [tmp_path / "a.wav"]
