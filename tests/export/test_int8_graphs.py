"""Int8 graphs: near the model, a quarter of its size, and only for LSTMs."""

import numpy as np
import pytest
from graph_models import SmallModel, batch, metadata, noise, session, stream

from asr.config.sections import CELLS, ModelConfig
from asr.errors import ModelError
from asr.export.acoustic_graphs import offline_graph, streaming_graph
from asr.export.int8_graphs import check_int8, quantized
from asr.models.inference import Latency

NEAR = 0.2
"""Mean difference of log-probabilities over their standard deviation, for these random networks."""
FEATURES = 4 * (514 * 400 + 257 * 12)
"""Bytes of the features, which are not quantised."""


def assert_near(found, expected):
    assert 0 < np.abs(found - expected).mean() < NEAR * expected.std()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_int8_is_near_the_model_and_a_third_of_its_size(bidirectional):
    small = SmallModel(bidirectional=bidirectional, hidden=256, lookahead=0 if bidirectional else 2)
    plain = offline_graph(small.weights, plain=True)
    made = quantized(plain)
    assert made.ByteSize() - FEATURES < 0.35 * (plain.ByteSize() - FEATURES)
    samples, lengths = batch(noise(1.0, 1), noise(0.4, 2))
    expected, counts = small.torch_log_probs(samples, lengths)
    found, _ = session(made).run(None, {"samples": samples, "lengths": lengths})
    for row, count in enumerate(counts):
        assert_near(found[row, :count], expected[row, :count])


def test_int8_chunks_store_the_weights_once():
    small = SmallModel(bidirectional=True, hidden=128)
    offline = quantized(offline_graph(small.weights, plain=True))
    made = quantized(streaming_graph(small.weights, Latency(4, 3), plain=True))
    assert made.ByteSize() - FEATURES < 1.1 * (offline.ByteSize() - FEATURES)
    waveform = noise(0.7)[None]
    expected = stream(session(streaming_graph(small.weights, Latency(4, 3))), waveform, [], Latency(4, 3))
    found = stream(session(made), waveform, [], Latency(4, 3))
    assert_near(found, expected)


def test_metadata_say_that_the_weights_are_int8():
    made = quantized(offline_graph(SmallModel().weights, plain=True))
    assert metadata(session(made))["asr.weights"] == "dynamic int8"
    assert metadata(session(made))["asr.graph"] == "offline"


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "lstm"])
def test_other_cells_are_refused_by_name(cell):
    with pytest.raises(ModelError, match=rf"mine: --int8: expected LSTM.*got {cell}.*without --int8"):
        check_int8(ModelConfig(cell=cell), "mine")
