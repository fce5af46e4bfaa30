"""Augmentation: SpecAugment masks stay in bounds, speed changes length and pitch, draws follow the seed."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.audio import pyav
from asr.audio.read import load_audio
from asr.audio.samples import resample
from asr.config.sections import FeatureConfig
from asr.config.training_sections import AugmentConfig
from asr.data import distort
from asr.data.distort import (
    Distorter,
    add_noise,
    babble,
    change_speed,
    clip,
    coloured_noise,
    draw_colour,
    draw_masks,
    draw_speeds,
    gsm,
    limit_band,
    lose_packets,
    mu_law,
    opus,
    reverberate,
    simulate_room,
    trim,
)
from asr.errors import AudioError, ConfigError
from asr.models.features import LogMel
from asr.models.spec_augment import apply_masks, colour


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


# Rooms, noise, lines

RATE_HZ = 16000
EVERYTHING = AugmentConfig(
    silence_s=0.2,
    reverb_prob=1.0,
    noise_prob=1.0,
    telephone_prob=1.0,
    codec_prob=1.0,
    opus_prob=1.0,
    gsm_prob=1.0,
    packet_loss_prob=1.0,
    clip_prob=1.0,
    gain_db=10.0,
)


def speech_like(seconds=1.0, seed=3):
    """A modulated harmonic sound with noise: broad, and different at every moment."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 40))
    sound = sound * (1 + np.sin(2 * np.pi * 4 * time)) + 0.05 * rng(seed).standard_normal(len(time))
    return (0.1 * sound).astype(np.float32)


def power_db(samples, low_hz, high_hz):
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    return 10 * np.log10(power[(hz >= low_hz) & (hz < high_hz)].mean())


def test_nothing_is_distorted_unless_asked():
    samples = speech_like()
    assert Distorter(AugmentConfig(), RATE_HZ)(samples, rng()) is samples


def test_distortions_follow_the_seed_and_stay_finite():
    samples = speech_like()
    distort = Distorter(EVERYTHING, RATE_HZ)
    outputs = [distort(samples, rng(seed)) for seed in (1, 1, 2)]
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in outputs)
    assert all(len(samples) <= len(x) <= len(samples) + 2 * round(0.2 * RATE_HZ) for x in outputs)
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert len(outputs[0]) != len(outputs[2]) or not np.array_equal(outputs[0], outputs[2])


@pytest.mark.parametrize("length", [1, 2, 399, 16001])
def test_silence_and_the_shortest_sounds_survive_everything(length):
    distort = Distorter(EVERYTHING, RATE_HZ)
    assert np.abs(distort(np.zeros(length, dtype=np.float32), rng())).max() < 2e-3  # GSM has a hum of 5e-4
    assert np.isfinite(distort(np.full(length, 0.5, dtype=np.float32), rng())).all()


@pytest.mark.parametrize(
    "name",
    [
        "reverb_prob",
        "noise_prob",
        "telephone_prob",
        "codec_prob",
        "opus_prob",
        "gsm_prob",
        "clip_prob",
        "babble_prob",
    ],
)
def test_a_probability_is_the_share_that_changes(name):
    samples = speech_like(0.1)
    distort = Distorter(AugmentConfig(**{name: 0.3}), RATE_HZ)
    voices = lambda count, _: [speech_like(0.1, seed=9)] * count  # noqa: E731
    changed = sum(not np.array_equal(distort(samples, rng(seed), voices), samples) for seed in range(300))
    assert 60 < changed < 120  # 90 expected, standard deviation 8


def test_one_distortion_does_not_change_the_draws_of_another():
    samples = speech_like(0.2)
    alone = Distorter(AugmentConfig(gain_db=10.0), RATE_HZ)
    both = Distorter(AugmentConfig(gain_db=10.0, noise_prob=0.5), RATE_HZ)
    same = [np.array_equal(alone(samples, rng(seed)), both(samples, rng(seed))) for seed in range(40)]
    assert 8 < sum(same) < 32


@pytest.fixture(params=["pyav", "libsndfile"])
def opus_encoder(request, monkeypatch):
    """Each encoder of Opus that there may be."""
    if request.param == "pyav" and not pyav.pyav_writes_opus():
        pytest.skip("needs PyAV with libopus")
    monkeypatch.setattr(pyav, "pyav_writes_opus", lambda: request.param == "pyav")


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 96000])
def test_opus_keeps_speech_and_its_place_and_loses_more_at_fewer_bits(rate_hz, opus_encoder):
    samples = resample(speech_like(1.0), RATE_HZ, rate_hz)
    poor, good = (opus(samples, rate_hz, bits) for bits in (8e3, 64e3))
    assert len(poor) == len(good) == len(samples)
    assert poor.dtype == np.float32
    # Codecs keep the spectrum, not the wave: levels of 20 ms blocks, silence and onset where they were.
    size = rate_hz // 50
    levels = [np.square(x[: len(x) // size * size].reshape(-1, size)).mean(axis=1) for x in (samples, good)]
    assert np.corrcoef(*np.log(np.array(levels) + 1e-6))[0, 1] > 0.9
    assert np.abs(poor - samples).mean() > np.abs(good - samples).mean()


@pytest.mark.parametrize("bits", [8e3, 16e3, 32e3])
def test_both_encoders_of_opus_are_equally_good(bits, monkeypatch):
    pytest.importorskip("av")
    samples = speech_like(2.0)
    quick = opus(samples, RATE_HZ, bits)
    monkeypatch.setattr(pyav, "pyav_writes_opus", lambda: False)
    errors = [np.square(heard - samples).sum() for heard in (quick, opus(samples, RATE_HZ, bits))]
    assert 10 * np.log10(errors[0] / errors[1]) == pytest.approx(0, abs=2)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_gsm_keeps_speech_in_its_place_and_nothing_above_4_khz(rate_hz):
    samples = resample(speech_like(1.0), RATE_HZ, rate_hz)
    heard = gsm(samples, rate_hz)
    assert len(heard) == len(samples)
    assert heard.dtype == np.float32
    size = rate_hz // 50
    levels = [np.square(x[: len(x) // size * size].reshape(-1, size)).mean(axis=1) for x in (samples, heard)]
    assert np.corrcoef(*np.log(np.array(levels) + 1e-6))[0, 1] > 0.9
    back = [resample(x, rate_hz, RATE_HZ) for x in (samples, heard)]
    assert power_db(back[1], 4300, 8000) < power_db(back[1], 300, 3400) - 40
    assert not np.allclose(*back, atol=1e-3)


def test_trimming_leaves_the_sound_and_no_silence_around_it():
    sound = speech_like(0.5)
    quiet = 1e-4 * rng().standard_normal(RATE_HZ).astype(np.float32)
    cut = trim(np.concatenate([quiet[:4000], sound, quiet[:7000]]), RATE_HZ)
    # To the block of 10 ms: the sound itself starts and ends softly.
    assert len(sound) - 3200 <= len(cut) <= len(sound) + 320
    assert not trim(np.zeros(1000, dtype=np.float32), RATE_HZ).any()
    assert len(trim(sound[:100], RATE_HZ)) == 100


def test_an_utterance_is_trimmed_or_padded():
    samples = np.pad(speech_like(0.3), 8000)
    distort = Distorter(AugmentConfig(trim_prob=0.5, silence_s=0.2), RATE_HZ)
    lengths = [len(distort(samples, rng(seed))) for seed in range(200)]
    assert 70 < sum(length < 8000 for length in lengths) < 130
    assert all(length < 8000 or length >= len(samples) for length in lengths)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_the_ratio_asked_for(snr_db, slope):
    samples = speech_like()
    noise = coloured_noise(len(samples), slope, rng())
    rest = add_noise(samples, noise, snr_db) - samples
    measured = 10 * np.log10(np.square(samples).mean() / np.square(rest).mean())
    assert measured == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_falls_by_its_slope(slope):
    noise = coloured_noise(1 << 17, slope, rng())
    fall = power_db(noise, 200, 400) - power_db(noise, 1600, 3200)
    assert fall == pytest.approx(slope * 10 * np.log10(8), abs=0.6)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("length", [16001, 64000])
def test_noise_is_gaussian_in_each_frame(slope, length):
    noise = np.concatenate([coloured_noise(length, slope, rng(seed)) for seed in range(640000 // length)])
    windows = noise[: len(noise) // 400 * 400].reshape(-1, 400) * np.hanning(400)
    bins = np.fft.rfft(windows)[:, 5:150]
    values = (bins / np.sqrt(np.square(np.abs(bins)).mean(axis=0))).real.ravel() * np.sqrt(2)
    for power, moment in ((2, 1), (4, 3), (6, 15)):
        assert np.mean(values**power) == pytest.approx(moment, rel=0.05)


def test_noise_without_a_slope_has_power_1():
    assert np.square(coloured_noise(100_003, 0.0, rng())).mean() == pytest.approx(1, rel=0.02)


def test_a_room_decays_as_asked_and_keeps_level_and_place():
    response = simulate_room(0.5, 6.0, RATE_HZ, rng())
    assert response[0] == 1
    assert -10 * np.log10(np.square(response[1:]).sum()) == pytest.approx(6.0, abs=0.01)
    early, late = (np.square(response[a : a + 800]).sum() for a in (400, 4400))  # a quarter of a second apart
    assert 10 * np.log10(early / late) == pytest.approx(30.0, abs=2.0)
    samples = np.zeros(8000, dtype=np.float32)
    samples[1000] = 0.5
    delayed = np.concatenate([np.zeros(300), response]).astype(np.float32)
    wet = reverberate(samples, delayed)
    assert np.abs(wet).argmax() == 1000
    assert len(wet) == len(samples)
    assert np.square(wet).sum() == pytest.approx(np.square(samples).sum(), rel=1e-4)


def test_the_telephone_keeps_its_band():
    samples = rng().standard_normal(RATE_HZ).astype(np.float32)
    narrow = limit_band(samples, RATE_HZ, telephone=True)
    assert power_db(narrow, 500, 3000) == pytest.approx(power_db(samples, 500, 3000), abs=0.5)
    assert power_db(narrow, 20, 150) < power_db(samples, 20, 150) - 30
    assert power_db(narrow, 5000, 8000) < power_db(samples, 5000, 8000) - 30
    sampled = limit_band(samples, RATE_HZ, telephone=False)
    assert len(sampled) == len(samples)
    assert power_db(sampled, 100, 3000) == pytest.approx(power_db(samples, 100, 3000), abs=0.5)
    assert power_db(sampled, 4500, 8000) < power_db(samples, 4500, 8000) - 30


def test_the_telephone_has_flanks_of_sixth_order_and_no_delay():
    samples = np.zeros(8192, np.float32)
    samples[4096] = 1
    found = np.fft.rfft(np.roll(limit_band(samples, RATE_HZ, telephone=True), -4096))
    hz = np.fft.rfftfreq(8192, 1 / RATE_HZ)
    gain = 1 / np.sqrt((1 + (300 / np.maximum(hz, 1)) ** 12) * (1 + (hz / 3400) ** 24))
    np.testing.assert_allclose(found, gain, atol=1e-5)


def test_mu_law_is_the_standards_curve():
    samples = np.linspace(-1, 1, 20001, dtype=np.float32)
    coded = mu_law(samples)
    assert len(np.unique(coded)) == 255
    # Steps grow with the level: about 38 dB of signal to noise from loud to quiet.
    for level in (1.0, 0.1):
        part = np.abs(samples) < level
        ratio = np.square(samples[part]).sum() / np.square(samples[part] - coded[part]).sum()
        assert 30 < 10 * np.log10(ratio) < 42
    np.testing.assert_array_equal(mu_law(np.array([0.0, 2.0, -2.0], dtype=np.float32)), [0, 1, -1])


def test_clipping_cuts_the_share_asked_for():
    samples = speech_like()
    clipped = clip(samples, 0.05)
    changed = clipped != samples
    assert changed.mean() == pytest.approx(0.05, abs=0.002)
    assert np.abs(clipped[changed]).max() == np.abs(clipped).max()
    assert np.unique(np.abs(clipped[changed])).size == 1


def test_rooms_and_noises_come_from_folders(tmp_path):
    samples = speech_like(0.5)
    soundfile.write(tmp_path / "room.wav", np.eye(1, 100, 7)[0], RATE_HZ, subtype="FLOAT")
    dry = Distorter(AugmentConfig(reverb_prob=1.0, reverb_dir=str(tmp_path)), RATE_HZ)(samples, rng())
    np.testing.assert_allclose(dry, samples, atol=1e-6)  # a room that is one impulse changes nothing
    hum = np.sin(2 * np.pi * 1000 * np.arange(2000) / RATE_HZ)
    noises = tmp_path / "noises"
    noises.mkdir()
    soundfile.write(noises / "hum.flac", 0.5 * hum, RATE_HZ)
    config = AugmentConfig(noise_prob=1.0, noise_dir=str(noises), noise_snr_db=(0.0, 0.0))
    rest = Distorter(config, RATE_HZ)(samples, rng()) - samples
    assert power_db(rest, 950, 1050) > power_db(rest, 2000, 4000) + 40


def test_of_a_long_noise_only_a_random_part_is_read(tmp_path, monkeypatch):
    ramp = np.linspace(-0.9, 0.9, 60 * RATE_HZ)
    soundfile.write(tmp_path / "ramp.wav", ramp, RATE_HZ, subtype="FLOAT")
    read = []
    load = load_audio
    monkeypatch.setattr(
        "asr.audio.read.load_audio", lambda *args, **options: read.append(load(*args, **options)) or read[-1]
    )
    distort = Distorter(AugmentConfig(noise_prob=1.0, noise_dir=str(tmp_path)), RATE_HZ)
    for seed in range(20):
        assert len(distort(speech_like(0.5), rng(seed))) == RATE_HZ // 2
    assert max(map(len, read)) < RATE_HZ
    starts = [sound[0] for sound in read]
    assert min(starts) < -0.5
    assert max(starts) > 0.5


@pytest.mark.parametrize("key", ["reverb", "noise", "babble"])
def test_a_folder_without_audio_is_named(tmp_path, key):
    for folder, message in ((tmp_path, "no audio file"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(ConfigError, match=rf"augment\.{key}_dir: .*{message}"):
            Distorter(AugmentConfig(**{f"{key}_prob": 0.5, f"{key}_dir": str(folder)}), RATE_HZ)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    distort = Distorter(AugmentConfig(**{f"{key}_prob": 1.0, f"{key}_dir": str(tmp_path)}), RATE_HZ)
    with pytest.raises(AudioError, match="broken"):
        distort(speech_like(0.1), rng())


# Vocal tract and microphone

FEATURES = FeatureConfig()


def log_energies(samples):
    features, _ = LogMel(FEATURES)(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    return features


def test_colours_are_drawn_within_their_bounds():
    config = AugmentConfig(warp=0.1, tilt_db=4.0)
    draws = np.stack([draw_colour(config, rng(seed)) for seed in range(500)])
    assert draws.shape == (500, 3)
    assert 0.9 <= draws[:, 0].min() < 0.91 < 1.09 < draws[:, 0].max() <= 1.1
    assert -4 <= draws[:, 1:].min() < -3.9
    assert 3.9 < draws[:, 1:].max() <= 4
    np.testing.assert_array_equal(draw_colour(AugmentConfig(), rng()), [1, 0, 0])


def test_no_colour_changes_nothing():
    features = torch.randn(3, 5, FEATURES.mel_bins)
    same = colour(features, torch.tensor([[1.0, 0.0, 0.0]] * 3), FEATURES)
    torch.testing.assert_close(same, features, atol=1e-4, rtol=0)


@pytest.mark.parametrize("factor", [0.9, 1.12])
def test_a_longer_vocal_tract_is_a_stretched_spectrum(factor):
    time = np.arange(RATE_HZ) / RATE_HZ
    for hz in (500.0, 1500.0, 3500.0):
        tone, moved = (log_energies((0.3 * np.sin(2 * np.pi * f * time)).astype(np.float32)) for f in (hz, hz / factor))
        warped = colour(tone, torch.tensor([[factor, 0.0, 0.0]]), FEATURES)
        assert abs(int(warped[0, 50].argmax()) - int(moved[0, 50].argmax())) <= 1
    # Which bin each bin is taken from: rising, by each row's own factor, and the end of the axis stays the end.
    bins = torch.arange(80.0).expand(2, 3, -1)
    both = colour(bins, torch.tensor([[factor, 0.0, 0.0], [1.0, 0.0, 0.0]]), FEATURES)
    torch.testing.assert_close(both[1], bins[1], atol=1e-4, rtol=0)
    assert (both[0].diff() > 0).all()
    assert (both[0, :, -1] - 79).abs().max() < 0.5
    assert (both[0, :, 40] - 40).abs().min() > 1


def test_tilt_and_bow_are_decibels_over_the_bins():
    flat = torch.zeros(1, 2, FEATURES.mel_bins)
    db = 10 / np.log(10) * colour(flat, torch.tensor([[1.0, 3.0, 2.0]]), FEATURES)[0, 0]
    assert db[0] == pytest.approx(-3 - 2, abs=1e-4)
    assert db[-1] == pytest.approx(3 - 2, abs=1e-4)
    assert db[39:41].mean() == pytest.approx(2, abs=0.01)


# Babble and lost packets


def tones(count, seconds=0.5):
    """Sines of 300, 400, … Hz, each at its own level."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return [(0.1 * n * np.sin(2 * np.pi * (200 + 100 * n) * time)).astype(np.float32) for n in range(1, count + 1)]


def test_all_voices_of_babble_are_equally_loud():
    found = babble(tones(4), RATE_HZ, rng())
    assert len(found) == RATE_HZ
    levels = [power_db(found, hz - 20, hz + 20) for hz in (300, 400, 500, 600)]
    assert max(levels) - min(levels) < 0.1
    assert power_db(found, 800, 4000) < min(levels) - 40


def test_babble_of_nobody_and_of_silence_is_silence():
    for voices in ([], [np.zeros(100, np.float32)], [np.zeros(0, np.float32)]):
        assert not babble(voices, 50, rng()).any()
    samples = speech_like(0.1)
    assert np.array_equal(Distorter(AugmentConfig(babble_prob=1.0), RATE_HZ)(samples, rng()), samples)


def test_babble_has_the_voices_and_the_ratio_asked_for():
    samples, asked = speech_like(0.5), []

    def voices(count, generator):
        asked.append(count)
        return tones(count)

    config = AugmentConfig(babble_prob=1.0, babble_voices=(2, 4), babble_snr_db=(3.0, 3.0))
    for seed in range(40):
        rest = Distorter(config, RATE_HZ)(samples, rng(seed), voices) - samples
        measured = 10 * np.log10(np.square(samples).mean() / np.square(rest).mean())
        assert measured == pytest.approx(3.0, abs=0.01)
    assert set(asked) == {2, 3, 4}


def test_babble_comes_from_a_folder(tmp_path):
    for number, tone in enumerate(tones(3)):
        soundfile.write(tmp_path / f"{number}.flac", tone, RATE_HZ)
    samples = speech_like(0.5)
    config = AugmentConfig(babble_prob=1.0, babble_voices=(5, 5), babble_dir=str(tmp_path), babble_snr_db=(0.0, 0.0))
    rest = Distorter(config, RATE_HZ)(samples, rng(4)) - samples
    assert power_db(rest, 280, 520) > power_db(rest, 1000, 4000) + 30


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 0.8, 1.0])
def test_the_share_of_packets_asked_for_is_lost(rate):
    samples = np.ones(20 * RATE_HZ, np.float32)
    size, shares, runs = RATE_HZ // 50, [], []
    for seed in range(20):
        kept = lose_packets(samples, RATE_HZ, rate, rng(seed)).reshape(-1, size)
        assert (kept == kept[:, :1]).all()  # whole packets
        lost = kept[:, 0] < 1
        shares.append(lost.mean())
        edges = np.flatnonzero(np.diff(np.pad(lost.astype(int), 1)))
        runs += (edges[1::2] - edges[::2]).tolist()
    assert np.mean(shares) == pytest.approx(rate, abs=0.02)
    if 0 < rate < 0.6:
        assert np.mean(runs) == pytest.approx(2.0, abs=0.25)


def test_a_gap_is_silent_or_the_last_packet_fading():
    size = RATE_HZ // 50
    samples = np.repeat(np.arange(1, 501), size).astype(np.float32)[: 500 * size - 7]  # the last packet is short
    kinds = set()
    for seed in range(12):
        packets = [np.unique(part) for part in np.split(lose_packets(samples, RATE_HZ, 0.2, rng(seed)),
                                                        range(size, len(samples), size))]  # fmt: skip
        assert all(len(values) == 1 for values in packets)
        heard, last, gain, silent, filled = [float(v[0]) for v in packets], 0.0, 1.0, 0, 0
        for number, value in enumerate(heard, start=1):
            if value == number:
                last, gain = value, 1.0
                continue
            gain /= 2
            silent += value == 0
            filled += value == pytest.approx(last * gain, rel=1e-5)
            assert value == 0 or value == pytest.approx(last * gain, rel=1e-5)
        kinds.add("silent" if silent > filled else "filled")
    assert kinds == {"silent", "filled"}


def test_new_distortions_leave_the_draws_of_the_old_ones():
    samples = speech_like(0.3)
    old = AugmentConfig(reverb_prob=0.5, noise_prob=0.5, telephone_prob=0.5, gain_db=6.0)
    new = dataclasses.replace(old, babble_prob=1.0, packet_loss_prob=1.0, packet_loss_rate=(0.0, 0.0))
    for seed in range(10):
        before = Distorter(old, RATE_HZ)(samples, rng(seed))
        np.testing.assert_array_equal(Distorter(new, RATE_HZ)(samples, rng(seed)), before)


def test_generators_made_when_needed_are_those_of_spawn():
    lazy = distort._Streams(np.random.default_rng([1, 2, 3]))
    eager = np.random.default_rng([1, 2, 3]).spawn(10)
    for number in (7, 0, 9):
        assert lazy[number].random(5).tolist() == eager[number].random(5).tolist()
    assert lazy[0] is lazy[0]


def test_generators_of_a_generator_that_has_spawned_are_new_ones():
    parent, twin = np.random.default_rng(4).spawn(1)[0], np.random.default_rng(4).spawn(1)[0]
    parent.spawn(3), twin.spawn(3)
    assert distort._Streams(parent)[1].random() == twin.spawn(2)[1].random()
