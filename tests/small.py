"""Small recognisers with random weights, and sounds that make them talk."""

import numpy as np
import torch
import where

from asr.config import loader
from asr.config.sections import Config, TextConfig
from asr.models.acoustic import AcousticModel
from asr.models.description import FeatureStats
from asr.models.model_directory import Model
from asr.recognize.options import Decoding
from asr.recognize.recognizer import Recognizer
from asr.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(["<blank>", " ", *"ABCD"], TextConfig())


def make_recognizer(
    tmp_path,
    cell="lstm",
    *,
    bidirectional=False,
    upsampling=1,
    subsampling=4,
    lookahead=0,
    blank=3.0,
    adapt_s=0.0,
    centred=False,
    tokenizer=TOKENIZER,
    **decoding,
):
    """A small network with random weights and sharp outputs: hard to follow by chance, and quick."""
    tree = {
        "features": {"mel_bins": 16, "hop_s": 0.0075, "adapt_s": adapt_s, "centred": centred},
        "model": {
            "cell": cell, "bidirectional": bidirectional, "layers": 2, "hidden": 12, "channels": 3,
            "upsampling": upsampling, "subsampling": subsampling, "lookahead": lookahead,
        },
    }  # fmt: skip
    config = loader.from_dict(Config, tree)
    torch.manual_seed(4)
    network = AcousticModel(config.model, 16, tokenizer.vocab_size).eval()
    with torch.no_grad():
        network.output.weight.mul_(8)
        network.output.bias.view(upsampling, -1)[:, 0] = blank
    stats = FeatureStats((-9.0,) * 16, (4.0,) * 16, 100)
    return Recognizer(
        Model(config, tokenizer, stats, network, {}, tmp_path), device=where.DEVICE, decoding=Decoding(**decoding)
    )


def sound(seconds, rate=16000, seed=0):
    """Noise whose colour and level wander, as speech does."""
    rng = np.random.default_rng(seed)
    count = int(seconds * rate)
    noise = rng.normal(0, 1, count)
    envelope = np.repeat(rng.uniform(0, 0.3, count // 800 + 1) ** 2, 800)[:count]
    tone = np.sin(np.cumsum(np.repeat(rng.uniform(0.05, 1.5, count // 1600 + 1), 1600)[:count]))
    return ((noise * 0.3 + tone) * envelope).astype(np.float32)
