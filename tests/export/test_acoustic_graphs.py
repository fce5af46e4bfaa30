"""Graphs of the acoustic model against torch, for every cell, in onnxruntime."""

import numpy as np
import pytest
import torch
from graph_models import BINS, SmallModel, batch, noise, session, stream, torch_stream

from asr.config.sections import CELLS
from asr.export.acoustic_graphs import offline_graph, streaming_graph
from asr.models.inference import Latency

SAMPLES, FEATURES = 1e-3, 1e-4
"""Largest differences of log-probabilities that docs/export.md promises, from samples and from features on."""


def assert_offline_equals_torch(small):
    runtime = session(offline_graph(small.weights))
    samples, lengths = batch(noise(1.0, 1), noise(0.2, 2), noise(0.43, 3))
    expected, counts = small.torch_log_probs(samples, lengths)
    found, frames = runtime.run(None, {"samples": samples, "lengths": lengths})
    assert frames.tolist() == counts.tolist()
    for row, count in enumerate(counts):
        np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=SAMPLES)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_offline_graph_of_every_cell_equals_torch(cell, bidirectional):
    assert_offline_equals_torch(SmallModel(cell=cell, bidirectional=bidirectional))


@pytest.mark.parametrize(
    ("features", "model"),
    [
        ({}, {"lookahead": 2}),
        ({}, {"projection": 7, "bidirectional": True}),
        ({}, {"residual": True, "lookahead": 1, "upsampling": 2}),
        ({}, {"residual": True, "bidirectional": True, "subsampling": 2, "upsampling": 3}),
        ({"adapt_s": 1.0}, {}),
        ({"preemphasis": 0.97, "low_hz": 0, "hop_s": 0.01}, {}),
        ({"centred": True, "preemphasis": 0.97, "hop_s": 0.01}, {"bidirectional": True}),
        ({"centred": True, "adapt_s": 1.0}, {}),
        ({"sample_rate_hz": 8000, "high_hz": 4000}, {"layers": 1}),
    ],
    ids=str,
)
def test_offline_graph_of_every_option_equals_torch(features, model):
    assert_offline_equals_torch(SmallModel(features=features, **model))


@pytest.mark.parametrize("centred", [False, True])
def test_offline_graph_gives_no_frames_for_a_batch_without_samples(centred):
    small = SmallModel(features={"centred": centred})
    feeds = {"samples": np.zeros((2, 0), np.float32), "lengths": np.zeros(2, np.int64)}
    assert session(offline_graph(small.weights)).run(["frames"], feeds)[0].tolist() == [0, 0]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_from_features_on_the_difference_is_smaller(bidirectional):
    small = SmallModel(bidirectional=bidirectional, lookahead=0 if bidirectional else 2)
    features = np.random.default_rng(0).normal(size=(2, 57, BINS)).astype(np.float32)
    lengths = np.array([57, 31])
    found, frames = session(offline_graph(small.weights, from_features=True)).run(
        None, {"features": features, "lengths": lengths}
    )
    with torch.inference_mode():
        masked = torch.from_numpy(features)
        expected, counts = small.network(masked, torch.from_numpy(lengths))
    assert frames.tolist() == counts.tolist()
    for row, count in enumerate(counts):
        np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=FEATURES)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("samples", [1, 259, 260, 399, 400, 519, 520])
def test_recordings_of_no_frame_and_of_one_give_what_torch_counts(samples, centred):
    small = SmallModel(bidirectional=True, features={"centred": centred})
    waveform = noise(samples / 16000)[None]
    expected, counts = small.torch_log_probs(waveform, [samples])
    found, frames = session(offline_graph(small.weights)).run(
        None, {"samples": waveform, "lengths": np.array([samples])}
    )
    assert frames.tolist() == counts.tolist()
    np.testing.assert_allclose(found[0, : counts[0]], expected[0, : counts[0]], atol=SAMPLES)


@pytest.mark.parametrize("blocks", [[1], [3, 1, 5], [100]], ids=str)
@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_streaming_graph_equals_torch_in_blocks_of_any_size(cell, lookahead, blocks):
    small = SmallModel(cell=cell, lookahead=lookahead)
    waveforms = np.stack([noise(0.7, 1), noise(0.7, 2)])
    found = stream(session(streaming_graph(small.weights)), waveforms, blocks)
    np.testing.assert_allclose(found, torch_stream(small, waveforms), atol=SAMPLES)


@pytest.mark.parametrize(
    ("features", "model"),
    [
        ({"adapt_s": 1.0}, {"lookahead": 1, "residual": True}),
        ({}, {"subsampling": 2, "upsampling": 2, "projection": 6}),
        ({"preemphasis": 0.97}, {"layers": 1}),
    ],
    ids=str,
)
def test_streaming_graph_of_every_option_equals_torch(features, model):
    small = SmallModel(features=features, **model)
    waveform = noise(0.7)[None]
    found = stream(session(streaming_graph(small.weights)), waveform, [2, 1])
    np.testing.assert_allclose(found, torch_stream(small, waveform), atol=SAMPLES)


@pytest.mark.parametrize("latency", [Latency(4, 3), Latency(1, 0), Latency(3, 8)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_bidirectional_streaming_graph_equals_torch_in_chunks(cell, latency):
    small = SmallModel(cell=cell, bidirectional=True)
    waveforms = np.stack([noise(0.7, 1), noise(0.7, 2)])
    found = stream(session(streaming_graph(small.weights, Latency(9, 9))), waveforms, [], latency)
    np.testing.assert_allclose(found, torch_stream(small, waveforms, latency), atol=SAMPLES)


@pytest.mark.parametrize("samples", range(400, 2500, 120))
def test_streams_of_every_short_length_end_as_in_torch(samples):
    for small, latency in ((SmallModel(lookahead=2), None), (SmallModel(bidirectional=True), Latency(2, 2))):
        waveform = noise(samples / 16000)[None]
        found = stream(session(streaming_graph(small.weights, latency)), waveform, [1], latency)
        np.testing.assert_allclose(found, torch_stream(small, waveform, latency), atol=SAMPLES)
