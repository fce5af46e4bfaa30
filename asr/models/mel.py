"""The mel scale and its filterbank.

Slaney's scale, linear below 1 kHz and logarithmic above, and triangles of unit area (Slaney 1998, Auditory Toolbox);
the numerical reference is librosa.
"""

from __future__ import annotations

import numpy as np

from asr.config.sections import FeatureConfig

MEMORY_S = 20.0
"""What an adapting mean forgets: after so many seconds a frame counts for 1/e."""
MIN_STD = 1e-2
"""Least standard deviation of a bin: one that never varied in training would divide by zero."""


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale: 3 mel per 200 Hz up to 1 kHz, then 27 mel per factor 6.4."""
    hz = np.asarray(hz, dtype=np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1000) / 1000) * 27 / np.log(6.4))


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Inverse of ``hz_to_mel``."""
    mel = np.asarray(mel, dtype=np.float64)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def mel_filterbank(config: FeatureConfig, fft_size: int) -> np.ndarray:
    """Triangular filters of unit area, ``(fft_size // 2 + 1, mel_bins)`` float32."""
    edges = mel_to_hz(np.linspace(hz_to_mel(config.low_hz), hz_to_mel(config.high_hz), config.mel_bins + 2))
    freqs = np.arange(fft_size // 2 + 1) * config.sample_rate_hz / fft_size
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (freqs[:, None] - low) / (centre - low)
    falling = (high - freqs[:, None]) / (high - centre)
    bank: np.ndarray = np.maximum(0, np.minimum(rising, falling)) * (2 / (high - low))
    return bank.astype(np.float32)
