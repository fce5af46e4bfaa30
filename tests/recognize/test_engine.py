"""What the network computes in, and how much at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.config.sections import Config, ModelConfig
from asr.errors import ConfigError
from asr.models import model_directory
from asr.models.acoustic import AcousticModel
from asr.recognize.recognizer import Recognizer, load
from asr.recognize.recording import Recording

Bursts = Callable[..., np.ndarray]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_changes_the_network_and_not_the_type_of_its_output(
    model_dir: Path, bursts: Bursts, precision: str
) -> None:
    model = model_directory.load_model(model_dir)
    sound = [bursts(3)]
    exact, _ = Recognizer(model, device="cpu").log_probs(sound)
    half, _ = Recognizer(model, device="cpu", precision=precision).log_probs(sound)
    assert half.dtype == np.float32
    assert not np.array_equal(half, exact)
    assert np.abs(np.exp(half) - np.exp(exact)).mean() < 0.003


def test_half_precision_reaches_long_recordings_of_a_unidirectional_model(model_dir: Path, bursts: Bursts) -> None:
    model = model_directory.load_model(model_dir)
    config = ModelConfig(channels=4, layers=1, hidden=24, bidirectional=False)
    torch.manual_seed(1)
    network = AcousticModel(config, Config().features.mel_bins, model.tokenizer.vocab_size).eval()
    model = dataclasses.replace(model, network=network)
    sound = bursts(70)
    exact, half = (
        np.concatenate(list(Recognizer(model, device="cpu", precision=precision).whole_posteriors(Recording(sound))[0]))
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == np.float32
    assert not np.array_equal(half, exact)
    assert np.abs(np.exp(half) - np.exp(exact)).mean() < 0.003


def test_features_are_those_of_fp32_whatever_the_precision(model_dir: Path, bursts: Bursts) -> None:
    model = model_directory.load_model(model_dir)
    seen = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    for precision in ("fp32", "bf16"):
        Recognizer(model, device="cpu", precision=precision).log_probs([bursts(3)])
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision: expected fp32, bf16 or fp16, got 'fp8'"),
        ({"batch_s": 0}, "batch_s: expected > 0"),
        ({"batch_s": float("inf")}, "batch_s: expected > 0"),
    ],
)
def test_wrong_options_are_refused(model_dir: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(model_dir, **options)  # type: ignore[arg-type]
