"""A small model of tones that is trained in seconds, and users who speak in tones, at any pitch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from asr.config.sections import Config, FeatureConfig, ModelConfig, TextConfig
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.models import model_directory
from asr.models.acoustic import AcousticModel
from asr.models.features import LogMel, measure_stats
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer
from asr.train.adaptation import ctc_losses

RATE_HZ = 8000
LETTERS = "ABCDEFGH"
HZ = {letter: 300 * 1.3**i for i, letter in enumerate(LETTERS)}


def speak(text: str, pitch: float, seed: int) -> np.ndarray:
    """Each letter as a tone of 80 ms, words apart, in some noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(0.08 * RATE_HZ)) / RATE_HZ
    window = np.hanning(len(time)) ** 0.3
    parts = [np.zeros(800)]
    for letter in text:
        tone = np.zeros(len(time)) if letter == " " else 0.3 * window * np.sin(2 * np.pi * pitch * HZ[letter] * time)
        parts += [tone, np.zeros(int(0.02 * RATE_HZ))]
    samples = np.concatenate([*parts, np.zeros(800)])
    return (samples + 0.002 * rng.standard_normal(len(samples))).astype(np.float32)


def make_texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join("".join(rng.choice(list(LETTERS), 3)) for _ in range(3)) for _ in range(count)]


def make_tones_model(folder: Path) -> None:
    """A model directory that spells tones at their own pitch."""
    torch.manual_seed(1)
    config = Config(
        text=TextConfig(alphabet=LETTERS),
        features=FeatureConfig(sample_rate_hz=RATE_HZ, mel_bins=40, high_hz=4000.0),
        model=ModelConfig(channels=4, layers=2, hidden=24, subsampling=2, dropout=0.0),
    )
    tokenizer = CharTokenizer([BLANK_SYMBOL, " ", *LETTERS], config.text)
    texts = make_texts(64, 1)
    sounds = [speak(text, 1.0, i) for i, text in enumerate(texts)]
    stats = measure_stats(LogMel(config.features), sounds)
    log_mel = LogMel(config.features, stats)
    network = AcousticModel(config.model, 40, tokenizer.vocab_size)
    samples = torch.from_numpy(np.stack(sounds))
    with torch.no_grad():
        features, frames = log_mel(samples, torch.full((len(sounds),), samples.shape[1]))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(110):
        rows = np.random.default_rng(step).choice(len(texts), 8)
        log_probs, lengths = network(features[rows], frames[rows])
        loss = ctc_losses(log_probs, lengths, [tokenizer.encode(texts[i]) for i in rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    assert loss.item() < 8, "the model of the tests has not learnt the tones"
    model_directory.save_model_description(folder, config, tokenizer, stats)
    model_directory.save_weights(folder, network.eval(), {"name": "tones"})


def write_set(folder: Path, texts: list[str], pitch: float, said: list[str] | None = None) -> Path:
    """A manifest of recordings of ``said``, by default of the texts themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for i, (text, words) in enumerate(zip(texts, said or texts, strict=True)):
        samples = speak(words, pitch, 100 + i)
        soundfile.write(folder / f"u{i}.wav", samples, RATE_HZ)
        utterances.append(Utterance(f"u{i}", str(folder / f"u{i}.wav"), text, len(samples) / RATE_HZ))
    manifest.write_manifest(folder / "set.jsonl", utterances)
    return folder / "set.jsonl"
