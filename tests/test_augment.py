"""Augmentation: SpecAugment masks stay in bounds, speed changes length and pitch, draws follow the seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.augment import apply_masks, change_speed, draw_masks, draw_speeds
from asr.config import AugmentConfig


def rng(seed=0):
    return np.random.default_rng(seed)


@given(
    frames=st.integers(0, 500),
    bins=st.integers(1, 80),
    time_masks=st.integers(0, 4),
    freq_masks=st.integers(0, 4),
    widths=st.tuples(st.integers(0, 60), st.integers(0, 100)),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_stay_inside_and_within_their_widths(frames, bins, time_masks, freq_masks, widths, ratio, seed):
    config = AugmentConfig(
        time_masks=time_masks, freq_masks=freq_masks, time_mask_frames=widths[0], freq_mask_bins=widths[1],
        time_mask_ratio=ratio,
    )  # fmt: skip
    masks = draw_masks(frames, bins, config, rng(seed))
    assert masks.shape == (time_masks + freq_masks, 2)
    assert masks.dtype == np.int64
    width = masks[:, 1] - masks[:, 0]
    assert (masks[:, 0] >= 0).all()
    assert (width >= 0).all()
    assert (masks[:time_masks, 1] <= frames).all()
    assert (masks[time_masks:, 1] <= bins).all()
    assert (width[:time_masks] <= min(widths[0], frames * ratio)).all()
    assert (width[time_masks:] <= widths[1]).all()


def test_every_width_and_place_is_drawn():
    config = AugmentConfig(time_masks=1, time_mask_frames=3, time_mask_ratio=1.0, freq_masks=1, freq_mask_bins=2)
    generator = rng()
    masks = np.stack([draw_masks(5, 4, config, generator) for _ in range(2000)])
    times = {tuple(row) for row in masks[:, 0].tolist() if row[0] < row[1]}
    assert times == {(a, a + w) for w in (1, 2, 3) for a in range(5 - w + 1)}
    bins = {tuple(row) for row in masks[:, 1].tolist() if row[0] < row[1]}
    assert bins == {(a, a + w) for w in (1, 2) for a in range(4 - w + 1)}


def test_apply_masks_zeroes_these_cells_of_these_rows_and_no_others():
    features = torch.ones(2, 6, 4)
    masks = torch.tensor([[[1, 3], [5, 6], [0, 1]], [[0, 0], [2, 2], [2, 4]]])
    masked = apply_masks(features, masks, time_masks=2)
    expected = torch.ones(2, 6, 4)
    expected[0, [1, 2, 5]] = 0
    expected[0, :, 0] = 0
    expected[1, :, 2:] = 0
    assert torch.equal(masked, expected)
    assert features.all(), "the input must stay as it was"


def test_no_masks_change_nothing():
    features = torch.randn(2, 5, 3)
    assert torch.equal(apply_masks(features, torch.zeros(2, 0, 2, dtype=torch.int64), 2), features)
    assert torch.equal(apply_masks(features, torch.zeros(2, 3, 2, dtype=torch.int64), 2), features)


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_speed_scales_length_and_pitch(speed):
    rate_hz, tone_hz = 8000, 500.0
    samples = np.sin(2 * np.pi * tone_hz * np.arange(rate_hz) / rate_hz).astype(np.float32)
    fast = change_speed(samples, rate_hz, speed)
    assert fast.dtype == np.float32
    assert abs(len(fast) - rate_hz / speed) <= 1
    spectrum = np.abs(np.fft.rfft(fast * np.hanning(len(fast))))
    peak_hz = spectrum.argmax() * rate_hz / len(fast)
    assert peak_hz == pytest.approx(tone_hz * speed, abs=rate_hz / len(fast))
    middle = fast[len(fast) // 4 : -len(fast) // 4]
    assert np.abs(middle).max() == pytest.approx(1.0, abs=0.02)


def test_speeds_are_drawn_uniformly_from_the_configured_ones():
    config = AugmentConfig(speeds=(0.9, 1.0, 1.1))
    drawn = draw_speeds(3000, config, rng()).tolist()
    for speed in config.speeds:
        assert drawn.count(speed) == pytest.approx(1000, abs=120)


def test_a_seed_fixes_every_draw():
    config = AugmentConfig()
    assert np.array_equal(draw_masks(200, 80, config, rng(5)), draw_masks(200, 80, config, rng(5)))
    assert not np.array_equal(draw_masks(200, 80, config, rng(5)), draw_masks(200, 80, config, rng(6)))
