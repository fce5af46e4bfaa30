"""Log-mel features: parity with librosa, batch = single, stream = offline, silence."""

import dataclasses
import json
import math

import librosa
import numpy as np
import pytest
import torch
import where
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config.sections import FeatureConfig, count_frames
from asr.errors import ModelError
from asr.models.description import FeatureStats
from asr.models.features import MEMORY_S, LogMel, measure_stats
from asr.models.mel import mel_filterbank

CONFIG = FeatureConfig()


def noise(samples, seed=0):
    rng = np.random.default_rng(seed)
    envelope = 0.01 + 0.2 * np.abs(np.sin(np.arange(samples) / 3000))
    return (envelope * rng.standard_normal(samples)).astype(np.float32)


def extract(log_mel, *waveforms):
    lengths = torch.tensor([len(w) for w in waveforms])
    padded = torch.zeros(len(waveforms), int(lengths.max()))
    for row, waveform in enumerate(waveforms):
        padded[row, : len(waveform)] = torch.from_numpy(waveform)
    features, frames = log_mel.to(where.DEVICE)(padded.to(where.DEVICE), lengths.to(where.DEVICE))
    return features.cpu(), frames.cpu()


@pytest.mark.parametrize(
    "config",
    [CONFIG, FeatureConfig(sample_rate_hz=8000, mel_bins=40, low_hz=100, high_hz=3800)],
    ids=["16 kHz", "8 kHz"],
)
def test_filterbank_equals_librosa(config):
    fft_size = 512
    expected = librosa.filters.mel(
        sr=config.sample_rate_hz, n_fft=fft_size, n_mels=config.mel_bins, fmin=config.low_hz, fmax=config.high_hz
    )
    np.testing.assert_allclose(mel_filterbank(config, fft_size), expected.T, atol=1e-7)


def test_log_mel_equals_librosa_within_1e_3_nats():
    waveform = noise(16000)
    window, fft_size = CONFIG.window_samples, 512
    # librosa centres the window in its FFT frame; shifting the signal by the same margin lines the frames up, and a
    # shift changes only phases.
    margin = (fft_size - window) // 2
    mel = librosa.feature.melspectrogram(
        y=np.pad(waveform, margin), sr=16000, n_fft=fft_size, hop_length=CONFIG.hop_samples, win_length=window,
        window="hann", center=False, n_mels=80, fmin=CONFIG.low_hz, fmax=CONFIG.high_hz,
    )  # fmt: skip
    expected = np.log(np.maximum(mel, CONFIG.floor)).T
    features, frames = extract(LogMel(CONFIG), waveform)
    assert frames.tolist() == [expected.shape[0]] == [count_frames(16000, CONFIG)] == [98]
    np.testing.assert_allclose(features[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)])
def test_frame_count_is_that_of_whole_windows(samples, frames):
    assert count_frames(samples, CONFIG) == frames
    features, counted = LogMel(CONFIG)(torch.zeros(1, samples), torch.tensor([samples]))
    assert features.shape == (1, frames, 80)
    assert counted.tolist() == [frames]


def test_batch_equals_single_and_padding_is_zero():
    waveforms = [noise(n, seed=n) for n in (16000, 7000, 399, 12345)]
    log_mel = LogMel(CONFIG, FeatureStats((-8.0,) * 80, (2.5,) * 80, 1))
    batch, frames = extract(log_mel, *waveforms)
    for row, waveform in enumerate(waveforms):
        single, _ = extract(log_mel, waveform)
        count = int(frames[row])
        assert count == single.shape[1]
        torch.testing.assert_close(batch[row, :count], single[0], atol=1e-5, rtol=0)
        assert not batch[row, count:].any()


def test_digital_silence_is_finite_and_equals_the_floor():
    features, _ = extract(LogMel(CONFIG), np.zeros(4000, np.float32))
    torch.testing.assert_close(features, torch.full_like(features, float(np.log(CONFIG.floor))))


def test_level_does_not_depend_on_the_rest_of_the_clip():
    quiet = 1e-3 * noise(8000)
    loud = np.concatenate([quiet, noise(8000)])
    log_mel = LogMel(CONFIG)
    alone, frames = extract(log_mel, quiet)
    together, _ = extract(log_mel, loud)
    torch.testing.assert_close(together[:, : int(frames)], alone, atol=1e-5, rtol=0)


STATS = FeatureStats((-8.0,) * 80, (2.5,) * 80, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9000), min_size=1, max_size=8), st.sampled_from([0.0, 0.5]))
def test_stream_equals_offline_for_any_blocks(sizes, adapt_s):
    waveform = torch.from_numpy(noise(sum(sizes), seed=3))[None]
    log_mel = LogMel(dataclasses.replace(CONFIG, adapt_s=adapt_s), STATS)
    state, blocks, first = None, [], 0
    for size in sizes:
        block, state = log_mel.stream(waveform[:, first : first + size], state)
        blocks.append(block)
        first += size
    offline, _ = log_mel(waveform, torch.tensor([first]))
    torch.testing.assert_close(torch.cat(blocks, dim=1), offline, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_an_adapting_mean_is_the_weighted_mean_so_far(seconds):
    config = dataclasses.replace(CONFIG, adapt_s=0.5)
    waveforms = noise(int(seconds * 16000), seed=1), 3 * noise(9000, seed=2)
    plain, frames = extract(LogMel(CONFIG, STATS), *waveforms)
    adapted, same = extract(LogMel(config, STATS), *waveforms)
    assert torch.equal(frames, same)
    decay = math.exp(-0.01 / MEMORY_S)
    for row, count in enumerate(frames):
        total, weight = np.zeros(80), 0.0
        for t in range(count):
            frame = plain[row, t].double().numpy()
            total, weight = decay * total + frame, decay * weight + 1
            np.testing.assert_allclose(adapted[row, t], frame - total / (50 + weight), atol=2e-5)
        assert not adapted[row, count:].any()


def test_an_adapting_mean_takes_away_level_and_colour():
    """A quieter recording, and one through a filter, come to be features like those of the original."""
    config = dataclasses.replace(CONFIG, adapt_s=0.2)
    original = noise(16000 * 8, seed=5)
    coloured = np.convolve(original, [0.05, 0.04, 0.02], mode="same").astype(np.float32)
    for changed in (0.03 * original, coloured):
        plain, _ = extract(LogMel(CONFIG, STATS), original, changed)
        adapted, _ = extract(LogMel(config, STATS), original, changed)
        before, after = ((x[0, -100:] - x[1, -100:]).abs().mean() for x in (plain, adapted))
        assert before > 1
        assert after < 0.05 * before


def test_statistics_are_measured_without_adapting():
    waveforms = [noise(n, seed=n) for n in (20000, 9000)]
    config = dataclasses.replace(CONFIG, adapt_s=0.5)
    assert measure_stats(LogMel(config), waveforms) == measure_stats(LogMel(CONFIG), waveforms)


def test_long_audio_in_blocks_of_frames_changes_nothing(monkeypatch):
    waveform = noise(40000)
    whole, _ = extract(LogMel(CONFIG), waveform)
    monkeypatch.setattr("asr.models.features.BLOCK_FRAMES", 17)
    blocks, _ = extract(LogMel(CONFIG), waveform)
    torch.testing.assert_close(blocks, whole, atol=1e-5, rtol=0)


def test_statistics_normalise_the_data_they_were_measured_on(tmp_path):
    waveforms = [noise(n, seed=n) for n in (20000, 300, 9000)]
    stats = measure_stats(LogMel(CONFIG), waveforms)
    stats.save(tmp_path / "stats.json")
    assert FeatureStats.load(tmp_path / "stats.json") == stats
    log_mel = LogMel(CONFIG, stats)
    frames = torch.cat([extract(log_mel, w)[0][0] for w in waveforms])
    assert len(frames) == stats.frames
    torch.testing.assert_close(frames.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(80), atol=1e-3, rtol=0)


def test_constant_audio_has_a_positive_deviation():
    stats = measure_stats(LogMel(CONFIG), [np.zeros(8000, np.float32)])
    features, _ = extract(LogMel(CONFIG, stats), noise(8000))
    assert features.isfinite().all()


def test_no_frames_to_measure_is_an_error():
    with pytest.raises(ValueError, match="shorter than one window"):
        measure_stats(LogMel(CONFIG), [np.zeros(100, np.float32)])


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        json.dumps({"mean": [0], "std": [0], "frames": 1}),
        json.dumps({"mean": [0, 1], "std": [1], "frames": 1}),
    ],
)
def test_damaged_statistics_name_the_file(tmp_path, content):
    (tmp_path / "stats.json").write_text(content)
    with pytest.raises(ModelError, match=r"stats\.json"):
        FeatureStats.load(tmp_path / "stats.json")


def test_statistics_of_another_size_are_refused():
    with pytest.raises(ModelError, match="40 mel bins"):
        LogMel(CONFIG, FeatureStats((0.0,) * 40, (1.0,) * 40, 1))


def test_preemphasis_equals_windows_filtered_one_by_one():
    config = dataclasses.replace(CONFIG, preemphasis=0.97)
    waveform = noise(4000)
    bank, window = mel_filterbank(config, 512), np.hanning(401)[:400]
    expected = []
    for start in range(0, 4000 - 400 + 1, 160):
        frame = waveform[start : start + 400].astype(np.float64)
        filtered = frame.copy()
        filtered[1:] -= 0.97 * frame[:-1]
        filtered[0] -= 0.97 * frame[0]
        expected.append(np.log(np.maximum(np.abs(np.fft.rfft(filtered * window, 512)) ** 2 @ bank, config.floor)))
    features, _ = extract(LogMel(config), waveform)
    np.testing.assert_allclose(features[0].numpy(), expected, atol=1e-3)


def test_preemphasised_features_of_a_stream_equal_those_of_the_whole():
    log_mel = LogMel(dataclasses.replace(CONFIG, preemphasis=0.97), FeatureStats((-8.0,) * 80, (2.5,) * 80, 1))
    waveform = torch.from_numpy(noise(4000))[None]
    whole, _ = log_mel(waveform, torch.tensor([4000]))
    parts, state = [], None
    for block in torch.split(waveform, 370, dim=1):
        part, state = log_mel.stream(block, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
