"""The graph of a recurrent language model against torch."""

import numpy as np
import pytest
import torch
from graph_models import TOKENIZER, session

from asr.config import loader
from asr.config.language import LM_CELLS, LanguageConfig
from asr.export.lm_graph import language_graph
from asr.export.stored_weights import network_weights
from asr.lm.lm_directory import LanguageDirectory
from asr.lm.recurrent import LanguageNetwork, RecurrentLM


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", LM_CELLS)
def test_language_graph_of_every_cell_equals_torch_token_by_token(cell, layers, tmp_path):
    tree = {"model": {"cell": cell, "layers": layers, "hidden": 9, "embedding": 7}}
    config = loader.from_dict(LanguageConfig, tree)
    torch.manual_seed(5)
    network = LanguageNetwork(config.model, TOKENIZER.vocab_size).eval()
    directory = LanguageDirectory(config, TOKENIZER, network, {}, tmp_path)
    runtime = session(language_graph(directory, network_weights(network)))
    expected, state = RecurrentLM(network), None
    found_state = np.zeros((2, layers, 2 if cell == "lstm" else 1, 9), np.float32)
    for tokens in ([0, 0], [1, 3], [4, 2], [2, 5]):
        state = expected.start(2) if state is None else state
        wanted, state = expected.advance(state, np.array(tokens))
        found, found_state = runtime.run(None, {"tokens": np.array(tokens), "state": found_state})
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(found_state, state.memory.numpy(), atol=1e-5)
