"""Small acoustic models with random weights, and runs of their graphs in onnxruntime."""

import dataclasses
import json

import numpy as np
import onnxruntime
import torch

from asr.config import loader
from asr.config.sections import Config, TextConfig, count_frames
from asr.export.acoustic_parts import AcousticWeights
from asr.export.stored_weights import network_weights
from asr.models.acoustic import AcousticModel
from asr.models.description import FeatureStats
from asr.models.features import LogMel
from asr.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(["<blank>", " ", *"ABCD"], TextConfig())
BINS = 12


class SmallModel:
    """A network with its features, in torch, and what its graphs are made of."""

    def __init__(self, seed=3, features=(), **model):
        tree = {
            "features": {"mel_bins": BINS, "hop_s": 0.0075, **dict(features)},
            "model": {"layers": 3, "hidden": 10, "channels": 3, "bidirectional": False, **model},
        }
        self.config = loader.from_dict(Config, tree)
        torch.manual_seed(seed)
        bins = self.config.features.mel_bins
        self.network = AcousticModel(self.config.model, bins, TOKENIZER.vocab_size).eval()
        with torch.no_grad():
            for parameter in self.network.parameters():  # no bias and no scale is as it began
                parameter.add_(0.1 * torch.randn_like(parameter))
        stats = FeatureStats(tuple(np.linspace(-9, -7, bins).tolist()), tuple(np.linspace(2, 4, bins).tolist()), 100)
        self.log_mel = LogMel(self.config.features, stats)
        weights = network_weights(self.network)
        self.weights = AcousticWeights(self.config, TOKENIZER, stats, {"name": "small"}, weights)

    def again(self):
        """Itself, with graphs of the weights that its network has now."""
        self.weights = dataclasses.replace(self.weights, weights=network_weights(self.network))
        return self

    def torch_log_probs(self, samples, lengths):
        with torch.inference_mode():
            features, frames = self.log_mel(torch.from_numpy(samples), torch.tensor(lengths))
            log_probs, counts = self.network(features, frames)
        return log_probs.numpy(), counts.numpy()


def session(model):
    """A graph, ready to run on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def metadata(session):
    return session.get_modelmeta().custom_metadata_map


def noise(seconds, seed=0, rate=16000):
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    envelope = 0.01 + 0.2 * np.abs(np.sin(np.arange(count) / 3000))
    return (envelope * rng.standard_normal(count)).astype(np.float32)


def batch(*waveforms):
    """Padded with noise, not zeros: nothing valid may depend on it."""
    lengths = [len(w) for w in waveforms]
    padded = np.random.default_rng(99).normal(0, 0.1, (len(waveforms), max(lengths))).astype(np.float32)
    for row, waveform in enumerate(waveforms):
        padded[row, : len(waveform)] = waveform
    return padded, np.array(lengths)


def initial(states, streams=1):
    return {s["name"]: np.zeros([streams if n < 0 else n for n in s["shape"]], np.float32) for s in states}


def stream(session, waveforms, blocks, latency=None):
    """Run the streaming graph over waveforms ``(B, S)`` as docs/export.md says.

    ``blocks``: output frames of each call of a unidirectional model, repeated; a bidirectional one has its ``latency``.
    """
    meta = metadata(session)
    features, frames = json.loads(meta["asr.features"]), json.loads(meta["asr.frames"])
    window, hop, factor = features["window_samples"], features["hop_samples"], frames["subsampling"]
    state = initial(json.loads(meta["asr.states"]), len(waveforms))
    total = max(0, 1 + (waveforms.shape[1] - window) // hop)
    outputs = -(-total // factor)
    given, rows, position, parts, call = 0, 0, 0, [], 0
    wait = json.loads(meta["asr.latency"])["first_wait"]
    while rows < outputs * frames["upsampling"]:
        if latency is None:
            count = blocks[call % len(blocks)] + (0 if call else wait)
        else:
            count = latency.chunk if call else latency.chunk + latency.right
        left = outputs - given
        last = left if left <= count else -1
        count = max(1, left) if last >= 0 else count
        needed = factor * count if call else 1 + factor * (count - 1)
        size = (needed - 1) * hop + window
        piece = waveforms[:, position : position + size]
        piece = np.pad(piece, ((0, 0), (0, size - piece.shape[1])))
        feeds = {"samples": piece, "last": np.array([last]), **state}
        if latency is not None:
            feeds["latency"] = np.array([latency.chunk, latency.right])
        found = session.run(None, feeds)
        state = dict(zip(state, found[1:], strict=True))
        parts.append(found[0])
        rows += found[0].shape[1]
        given += min(count, left)
        position += needed * hop
        call += 1
    return np.concatenate(parts, axis=1)


def torch_stream(small, waveforms, latency=None):
    """Log-probabilities of the same by torch, in one block."""
    assert count_frames(waveforms.shape[1], small.config.features) > 0
    with torch.inference_mode():
        features, _ = small.log_mel.following(torch.from_numpy(waveforms))
        return small.network.stream(features, latency=latency, last=True)[0].numpy()
