"""The shapes that a configuration promises are those of the network that torch builds from it."""

import pytest

from asr.config.language import NetworkConfig
from asr.config.sections import ModelConfig
from asr.lm.recurrent import LanguageNetwork
from asr.models.acoustic import AcousticModel
from asr.models.weight_shapes import acoustic_shapes, language_shapes

CELLS = ("lstm", "gru", "rnn", "rnn_relu", "min_gru", "ssm")
OPTIONS = (
    {},
    {"projection": 7},
    {"lookahead": 2, "bidirectional": False},
    {"lookahead": 1, "bidirectional": False, "projection": 5, "upsampling": 2},
    {"residual": True, "subsampling": 2, "layers": 1},
)


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("bins", [13, 80])
def test_shapes_of_acoustic_models(cell, options, bins):
    config = ModelConfig(**{"cell": cell, "channels": 4, "layers": 3, "hidden": 6} | options)
    assert acoustic_shapes(config, bins, 9) == shapes_of(AcousticModel(config, bins, 9))


@pytest.mark.parametrize("cell", CELLS[:4])
@pytest.mark.parametrize("layers", [1, 2])
def test_shapes_of_language_models(cell, layers):
    config = NetworkConfig(cell=cell, layers=layers, hidden=6, embedding=4)
    assert language_shapes(config, 9) == shapes_of(LanguageNetwork(config, 9))
