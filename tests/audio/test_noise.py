"""Estimated noise: it follows the noise that is added, and is silent where it can say nothing."""

import numpy as np
import pytest

from asr.audio.noise import noise_level

RATE_HZ = 16000


def speech(seconds: float = 6.0) -> np.ndarray:
    """Tones of 0.2 s with pauses of 0.1 s, mean power known from the samples."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (0.2 * np.sin(2 * np.pi * 300 * time) * (time % 0.3 < 0.2)).astype(np.float32)


def with_noise(samples: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=len(samples))
    power = np.mean(samples.astype(np.float64) ** 2) / 10 ** (snr_db / 10)
    return (samples + noise * np.sqrt(power)).astype(np.float32)


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 10.0, 20.0, 30.0])
def test_noise_that_is_added_is_found_again(snr_db: float) -> None:
    assert noise_level([with_noise(speech(), snr_db)], RATE_HZ).snr_db == pytest.approx(snr_db, abs=1.5)


def test_blocks_of_any_size_give_the_same_as_the_whole() -> None:
    samples = with_noise(speech(), 12.0)
    cut = np.split(samples, [100, 1000, 1001, 50_000])
    whole, pieces = noise_level([samples], RATE_HZ), noise_level(cut, RATE_HZ)
    assert pieces.snr_db == pytest.approx(whole.snr_db)
    assert pieces.level_db == pytest.approx(whole.level_db)


def test_the_level_is_that_of_the_samples() -> None:
    assert noise_level([np.full(RATE_HZ, 0.1, np.float32)], RATE_HZ).level_db == pytest.approx(-20.0, abs=1e-4)


@pytest.mark.parametrize("samples", [np.zeros(RATE_HZ, np.float32), np.zeros(0, np.float32)])
def test_digital_silence_has_neither_level_nor_ratio(samples: np.ndarray) -> None:
    level = noise_level([samples], RATE_HZ)
    assert (level.level_db, level.snr_db) == (None, None)


def test_a_recording_of_less_than_ten_frames_has_no_ratio() -> None:
    assert noise_level([speech(0.15)], RATE_HZ).snr_db is None


def test_frames_of_digital_silence_are_no_background() -> None:
    """As a noise gate leaves them between words."""
    samples = with_noise(speech(), 15.0)
    gated = np.concatenate([samples, np.zeros(RATE_HZ * 3, np.float32)])
    assert noise_level([gated], RATE_HZ).snr_db == pytest.approx(noise_level([samples], RATE_HZ).snr_db, abs=0.2)
