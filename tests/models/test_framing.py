"""Centred windows: those of kaldi-native-fbank, whose features sherpa-onnx computes; the same in any blocks."""

import dataclasses

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import loader
from asr.config.sections import FeatureConfig, count_frames, whole_windows
from asr.errors import ConfigError
from asr.models.features import LogMel
from asr.models.framing import FramedSamples, framed

CONFIG = loader.from_dict(
    FeatureConfig,
    {"centred": True, "hop_s": 0.01, "preemphasis": 0.97, "low_hz": 0, "high_hz": 8000, "floor": 1.1920929e-07},
)
"""What docs/export.md says for streams in sherpa-onnx."""
ODD = FeatureConfig(sample_rate_hz=11025, window_s=0.0201, hop_s=0.0097, mel_bins=20, high_hz=5000, centred=True)
"""Its window, hop and lead are odd numbers of samples."""


def noise(samples, seed=0):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(samples) * np.abs(np.sin(np.arange(samples) / 900))).astype(np.float32)


def kaldi_features(waveform):
    """As the runtime sets them for a streaming NeMo model."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.remove_dc_offset = False
    options.frame_opts.window_type = "hann"
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 0
    options.mel_opts.is_librosa = True
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, waveform.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def features(config, *waveforms):
    lengths = torch.tensor([len(w) for w in waveforms])
    padded = torch.full((len(waveforms), int(lengths.max())), 0.5)  # nothing valid may depend on what lies behind
    for row, waveform in enumerate(waveforms):
        padded[row, : len(waveform)] = torch.from_numpy(waveform)
    return LogMel(config)(padded, lengths)


@pytest.mark.parametrize("samples", [280, 281, 399, 400, 559, 560, 879, 880, 4000, 16001])
def test_centred_features_are_those_of_kaldi_native_fbank(samples):
    waveform = noise(samples)
    expected = kaldi_features(waveform)
    found, frames = features(CONFIG, waveform)
    assert frames.tolist() == [len(expected)] == [count_frames(samples, CONFIG)]
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-3)


def test_rows_of_a_batch_are_reflected_at_their_own_ends():
    waveforms = [noise(n, seed=n) for n in (5000, 280, 3001, 279)]
    batch, frames = features(CONFIG, *waveforms)
    assert frames.tolist() == [31, 2, 19, 0]
    for row, waveform in enumerate(waveforms):
        alone, (count,) = features(CONFIG, waveform)
        torch.testing.assert_close(batch[row, :count], alone[0, :count], atol=1e-5, rtol=0)
        assert not batch[row, count:].any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=6), st.sampled_from([CONFIG, ODD]))
def test_any_blocks_give_the_samples_and_windows_of_the_whole(sizes, config):
    waveform = noise(sum(sizes))
    blocks = FramedSamples(config)
    given_blocks = [blocks.accept(part) for part in np.split(waveform, np.cumsum(sizes)[:-1])]
    joined = np.concatenate([*given_blocks, blocks.finish()])
    np.testing.assert_array_equal(joined, framed(waveform, config))
    frames = count_frames(len(waveform), config)
    assert whole_windows(len(joined), config) == frames
    if frames:
        lead = config.lead_samples
        behind = len(joined) - lead - len(waveform)
        np.testing.assert_array_equal(joined, np.pad(waveform, (lead, behind), mode="symmetric"))


def test_windows_of_framed_samples_are_the_frames_of_the_recording():
    waveform = noise(3210)
    whole, _ = features(CONFIG, waveform)
    windows = LogMel(CONFIG).following(torch.from_numpy(framed(waveform, CONFIG))[None])[0]
    torch.testing.assert_close(windows, whole)


@pytest.mark.parametrize("config", [CONFIG, ODD, FeatureConfig()], ids=["sherpa", "odd", "uncentred"])
def test_counts_of_arrays_and_tensors_are_those_of_numbers(config):
    lengths = list(range(0, 1200, 7))
    numbers = [count_frames(n, config) for n in lengths]
    assert count_frames(np.array(lengths), config).tolist() == numbers
    assert count_frames(torch.tensor(lengths), config).tolist() == numbers


@pytest.mark.parametrize("config", [CONFIG, ODD, FeatureConfig()], ids=["sherpa", "odd", "uncentred"])
def test_the_shortest_recording_has_a_frame_and_a_shorter_one_none(config):
    assert count_frames(config.least_samples, config) > 0
    assert count_frames(config.least_samples - 1, config) == 0


def test_without_the_option_samples_stay_as_they_are():
    waveform = noise(1000)
    plain = dataclasses.replace(CONFIG, centred=False)
    np.testing.assert_array_equal(framed(waveform, plain), waveform)


def test_centred_windows_must_overlap_by_half():
    with pytest.raises(ConfigError, match=r"features\.centred: expected hop_s of at most half of window_s"):
        FeatureConfig(hop_s=0.02, centred=True)
