"""The stages of the offline graph give what the whole graph gives, with a call between them."""

import numpy as np
import pytest
from small import make_recognizer, sound

from asr.export.staged_graphs import offline_stages
from asr.export.stored_weights import acoustic_weights
from asr.models import model_directory
from asr.models.description import read_description
from asr.recognize.recognizer import load

pytest.importorskip("onnxruntime")


def saved(folder, *arguments, **options):
    """The directory of a small model."""
    recognizer = make_recognizer(folder, *arguments, **options)
    model = recognizer.model
    model_directory.save_model_description(folder / "model", model.config, model.tokenizer, model.stats)
    model_directory.save_weights(folder / "model", recognizer.backend.network, {"name": "small"})
    return folder / "model"


def take_blocks(monkeypatch, seconds):
    """All blocks have so many seconds of sound."""
    monkeypatch.setattr("asr.models.pace.SHORTEST_S", seconds)
    monkeypatch.setattr("asr.models.pace.LONGEST_S", seconds)


def check_same(parts, whole, lengths_s):
    """Require what the whole graph gives for sounds of these lengths; the number of pieces in which ``parts`` ran."""
    calls = []
    parts.backend.before_layers(lambda: calls.append(1))
    waveforms = [sound(seconds, seed=round(10 * seconds)) for seconds in lengths_s]
    expected, lengths = whole.log_probs(waveforms)
    found, counts = parts.log_probs(waveforms)
    assert counts.tolist() == lengths.tolist()
    for ours, theirs, count in zip(found, expected, counts, strict=True):
        np.testing.assert_allclose(ours[:count], theirs[:count], atol=1e-5)
    return len(calls)


@pytest.mark.parametrize("block_s", [0.2, 100.0])
@pytest.mark.parametrize(
    ("cell", "options"),
    [(cell, {}) for cell in ("lstm", "gru", "rnn", "min_gru", "ssm")]
    + [("lstm", {"adapt_s": 2.0}), ("gru", {"upsampling": 2, "subsampling": 2})],
)
def test_stages_give_what_the_whole_graph_gives(tmp_path, monkeypatch, cell, options, block_s):
    take_blocks(monkeypatch, block_s)
    folder = saved(tmp_path, cell, bidirectional=True, **options)
    whole, staged = (load(folder, runtime="onnxruntime") for _ in range(2))
    once = 2 * staged.model.config.model.layers + 1
    calls = check_same(staged, whole, (0.01, 0.03, 1.3, 0.7))
    assert (calls > once) == (block_s < 1)
    assert (check_same(staged, whole, (1.3,)) > once) == (block_s < 1)


def test_a_unidirectional_model_runs_in_blocks_instead(tmp_path, monkeypatch):
    take_blocks(monkeypatch, 0.4)
    folder = saved(tmp_path, lookahead=2)
    with pytest.raises(ValueError, match="bidirectional"):
        next(offline_stages(acoustic_weights(read_description(folder))))
    whole, blocks = (load(folder, runtime="onnxruntime") for _ in range(2))
    calls = check_same(blocks, whole, (0.01, 0.03, 1.3, 0.81))
    assert calls == 1 + 1 + 4 + 2
