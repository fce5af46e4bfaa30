"""The sample of its training sentences that a model directory keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import make_config, make_corpus

from asr.audio import read
from asr.data import manifest
from asr.models import model_directory
from asr.models.features import LogMel
from asr.train.acoustic_task import train_acoustic
from asr.train.rehearsal import REHEARSAL_FILE, load_rehearsal
from asr.train.resume import CHECKPOINT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "run"
    train_acoustic(make_config(corpus, train={"output": str(folder), "epochs": 1}))
    return folder


def test_a_trained_model_keeps_training_sentences_as_they_were_recorded(corpus, trained):
    model = model_directory.load_model(trained)
    stored = load_rehearsal(trained, 16, model.tokenizer.vocab_size)
    log_mel = LogMel(model.config.features, model.stats)
    expected: dict[str, list[np.ndarray]] = {}
    for one in manifest.read_manifest(corpus / "train.jsonl"):
        samples = torch.from_numpy(read.load_audio(one.audio, model.config.features.sample_rate_hz))[None]
        with torch.inference_mode():
            features, _ = log_mel(samples, torch.tensor([samples.shape[1]]))
        expected.setdefault(one.text, []).append(features[0].numpy())
    assert stored
    for one in stored:
        alike = expected[model.tokenizer.decode(one.tokens)]
        assert any(np.allclose(one.features.numpy(), features, atol=2e-2) for features in alike)


def test_the_sample_has_about_as_many_seconds_as_were_asked_for(corpus, tmp_path):
    train_acoustic(make_config(corpus, train={"output": str(tmp_path), "epochs": 1}, data={"rehearsal_s": 0.1}))
    assert len(load_rehearsal(tmp_path, 16, 100)) == 1


def test_nothing_is_kept_where_that_is_switched_off(corpus, tmp_path):
    train_acoustic(make_config(corpus, train={"output": str(tmp_path), "epochs": 1}, data={"rehearsal_s": 0}))
    assert (tmp_path / "model.safetensors").is_file()
    assert not (tmp_path / REHEARSAL_FILE).exists()


def test_switching_it_off_when_a_run_goes_on_removes_what_was_kept(corpus, tmp_path):
    parts = {"train": {"output": str(tmp_path), "epochs": 1}}
    train_acoustic(make_config(corpus, **parts, data={"rehearsal_s": 0.1}))
    assert (tmp_path / REHEARSAL_FILE).is_file()
    train_acoustic(make_config(corpus, **parts, data={"rehearsal_s": 0}), resume=True)
    assert not (tmp_path / REHEARSAL_FILE).exists()


def test_switching_it_off_after_a_start_that_died_removes_what_was_kept(corpus, trained, tmp_path):
    (tmp_path / REHEARSAL_FILE).write_bytes((trained / REHEARSAL_FILE).read_bytes())
    train_acoustic(make_config(corpus, train={"output": str(tmp_path), "epochs": 1}, data={"rehearsal_s": 0}))
    assert not (tmp_path / REHEARSAL_FILE).exists()


def test_a_training_says_that_it_keeps_sentences(corpus, tmp_path, capsys):
    train_acoustic(make_config(corpus, train={"output": str(tmp_path), "epochs": 1}, data={"rehearsal_s": 0.1}))
    assert "keeps features and texts of 1 training sentences" in capsys.readouterr().err


def test_a_folder_with_the_sample_alone_can_be_trained_in(corpus, trained, tmp_path):
    """What a run that died before its first checkpoint leaves."""
    for name in ("config.yaml", "tokens.txt", "stats.json", REHEARSAL_FILE):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    train_acoustic(make_config(corpus, train={"output": str(tmp_path), "epochs": 1}))
    assert (tmp_path / CHECKPOINT).is_file()
