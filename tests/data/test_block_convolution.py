"""Convolution in blocks: any part of what numpy gives, for any lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.block_convolution import convolve

lengths = st.one_of(st.integers(1, 40), st.integers(1, 4000))


@given(lengths, lengths, st.data())
def test_every_part_is_that_of_numpy(samples, taps, data):
    rng = np.random.default_rng(samples * 5000 + taps)
    sound, response = (rng.standard_normal(size, dtype=np.float32) for size in (samples, taps))
    whole = np.convolve(sound.astype(np.float64), response)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start, len(whole)))
    part = convolve(sound, response, start, stop)
    assert part.dtype == np.float32
    assert part.shape == (stop - start,)
    np.testing.assert_allclose(part, whole[start:stop], atol=1e-6 * np.abs(whole).max() + 1e-6, rtol=0)


@pytest.mark.parametrize("taps", [1, 1601, 8000, 70000])
def test_long_sounds_are_exact_at_every_seam(taps):
    rng = np.random.default_rng(taps)
    sound, response = (rng.standard_normal(size).astype(np.float32) for size in (64001, taps))
    size = 1 << 18
    expected = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size))[: 64001 + taps - 1]
    np.testing.assert_allclose(convolve(sound, response), expected, atol=2e-6 * np.abs(expected).max(), rtol=0)


def test_a_part_beyond_the_end_is_empty():
    assert convolve(np.ones(5, np.float32), np.ones(3, np.float32), 7, 9).shape == (0,)
