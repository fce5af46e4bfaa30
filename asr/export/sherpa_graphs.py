"""The acoustic model as graphs that sherpa-onnx runs as models of other kinds (docs/export.md).

``omnilingual_graph``: whole recordings, with our features inside. ``nemo_graph``: streams, on log-mel features that the
runtime computes as ours. ``lstm_graphs``: streams as a transducer, which has hot words, on Kaldi's features.
The runtime binds inputs and outputs by their position, begins with states of zeros and gives windows of a fixed size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asr.config.sections import Config, FeatureConfig
from asr.errors import ModelError
from asr.export.acoustic_graphs import first_wait
from asr.export.acoustic_parts import AcousticParts, AcousticWeights, fft_size
from asr.export.cell_graphs import state_parts
from asr.export.graph_builder import END, GraphBuilder, GraphEnd
from asr.export.onnx_writer import ModelBytes
from asr.models.inference import Latency
from asr.models.mel import mel_filterbank
from asr.models.weight_shapes import LEFT

RATE_HZ = 16000
OMNILINGUAL_S = 0.02
"""Length of a frame of log-probabilities that the runtime assumes for models of this kind."""
HOP_S, LABEL_S = 0.01, 0.04
"""Lengths of a frame of features and of a frame of log-probabilities that the runtime assumes for streams."""
NEMO_FEATURES = {"sample_rate_hz": RATE_HZ, "window_s": 0.025, "hop_s": HOP_S, "mel_bins": 80, "low_hz": 0.0,
                 "high_hz": 8000.0, "floor": 1.1920929e-07, "adapt_s": 0.0, "preemphasis": 0.97,
                 "centred": True}  # fmt: skip
"""The features that the runtime computes for a streaming NeMo model, as options of ``features``."""
CERTAIN_BLANK = -30.0
"""Logarithm of the other tokens' probability where blank is certain."""


def check_omnilingual(config: Config, name: object) -> None:
    """Raises ``ModelError`` for a model that cannot run as whole recordings."""
    if config.features.sample_rate_hz != RATE_HZ:
        raise ModelError(f"{name}: sherpa-onnx feeds whole recordings at {RATE_HZ} Hz, got a model of "
                         f"{config.features.sample_rate_hz} Hz (features.sample_rate_hz); export it with --to "
                         "onnx")  # fmt: skip
    if config.output_frame_s < OMNILINGUAL_S:
        raise ModelError(f"{name}: sherpa-onnx counts 20 ms a frame of whole recordings, got "
                         f"{1000 * config.output_frame_s:g} ms, so frames would be lost; train with "
                         "model.upsampling=1 or a longer features.hop_s, or export with --to onnx")  # fmt: skip


def nemo_obstacles(config: Config) -> list[str]:
    """Options of a model that keep it from streaming in sherpa-onnx, with the values that it would need."""
    return _obstacles(config, list(NEMO_FEATURES))


def lstm_obstacles(config: Config) -> list[str]:
    """As ``nemo_obstacles``, for streams with hot words: their features are converted, so that few options matter."""
    return _obstacles(config, ["sample_rate_hz", "window_s", "hop_s", "adapt_s", "centred"])


def _obstacles(config: Config, keys: Sequence[str]) -> list[str]:
    found = []
    for key in keys:
        value, expected = getattr(config.features, key), NEMO_FEATURES[key]
        if isinstance(expected, bool):
            if value != expected:
                found.append(f"features.{key}={str(value).lower()} (expected {str(expected).lower()})")
        elif not math.isclose(value, expected, rel_tol=1e-3):
            found.append(f"features.{key}={value:g} (expected {expected:g})")
    if not math.isclose(config.output_frame_s, LABEL_S):
        label = f"{1000 * config.output_frame_s:g} ms a label"
        found.append(f"{label} (expected 40: hop_s=0.01, subsampling=4, upsampling=1)")
    return found


def training_level(model: AcousticWeights) -> float:
    """The root mean square of a recording as in the training data, from the statistics of its features.

    Log energies of speech spread about evenly between pauses and vowels, so each band is taken to have a uniform
    distribution with its mean and deviation (a log-normal one would have far louder frames). The power spectrum is
    taken to be even within a band, and gives the energy of a window (Parseval).
    """
    features = model.config.features
    mean, std = np.asarray(model.stats.mean), np.asarray(model.stats.std)
    size = fft_size(features.window_samples)
    bank = mel_filterbank(features, size).astype(np.float64)
    areas = np.maximum(bank.sum(axis=0), 1e-9)
    reach = np.sqrt(3) * std
    power = np.exp(mean) * np.sinh(reach) / reach / areas
    shares = bank / np.maximum(bank.sum(axis=1, keepdims=True), 1e-9)
    window = np.sum((0.5 - 0.5 * np.cos(2 * np.pi / features.window_samples * np.arange(features.window_samples))) ** 2)
    spectrum = shares @ power / _emphasis(size, features)
    return float(np.sqrt(2 * spectrum.sum() / size / window))


def omnilingual_graph(model: AcousticWeights, *, plain: bool = False) -> ModelBytes:
    """Whole recordings as an omnilingual CTC model: ``samples (1, S)`` of mean 0 and variance 1 -> ``(1, T, V)``.

    The samples get the level of the training data. A frame of ours is written as often as 20 ms begin in it.
    """
    parts = AcousticParts(model, GraphBuilder(plain=plain))
    builder, config = parts.builder, model.config
    with builder.scope("features"):
        samples = builder.op("Mul", "samples", builder.floats(training_level(model)))
    features, frames = parts.features_of_recordings(samples, builder.op("Shape", "samples", start=1, end=2))
    x, _ = parts.subsampled(features)
    x = parts.input_norm(x)
    counts = builder.op("Div", builder.op("Add", frames, builder.constant(config.model.subsampling - 1)),
                        builder.constant(config.model.subsampling))  # fmt: skip
    for index in range(config.model.layers):
        x = parts.behind(index, x, parts.recordings_layer(index, x, counts))
        if parts.looks_ahead(index):
            x = parts.look_ahead(index, x, builder.constant([config.model.lookahead]))
    log_probs = parts.log_probs(x)
    ours = round(config.output_frame_s * RATE_HZ)
    theirs = round(OMNILINGUAL_S * RATE_HZ)
    total = builder.op("Div", builder.op("Add", builder.op("Mul", builder.size(log_probs, 1), builder.constant([ours])),
                                         builder.constant([theirs - 1])), builder.constant([theirs]))  # fmt: skip
    time = builder.op("Range", builder.constant(0), builder.squeeze(total, 0), builder.constant(1))
    ours_at = builder.op("Div", builder.op("Mul", time, builder.constant(theirs)), builder.constant(ours))
    builder.named("logits", builder.op("Gather", log_probs, ours_at, axis=1))
    vocab = model.tokenizer.vocab_size
    outputs = [("logits", np.float32, (1, "T", vocab))]
    return builder.model("omnilingual", [("samples", np.float32, (1, "S"))], outputs, _card(model))


def nemo_graph(model: AcousticWeights, latency: Latency, *, plain: bool = False) -> ModelBytes:
    """Streams as a cache-aware NeMo CTC model: windows ``x (B, 80, T)`` of the runtime's features, with states.

    The states of the recurrent layers are in ``cache_last_channel``, those of the convolutions in ``cache_last_time``.
    """
    window = WindowGraph(model, latency, GraphBuilder(plain=plain))
    builder, config = window.builder, model.config.model
    parts = len(state_parts(config.cell))
    features = window.parts.standardised(builder.transpose("x", 0, 2, 1))
    rows = [builder.squeeze(builder.slice("cache_last_channel", i, i + 1, 1), 1) for i in range(config.layers)]
    recurrent = [builder.squeeze(builder.slice(row, p, p + 1, 1), 1) for row in rows for p in range(parts)]
    flat = builder.op("Reshape", "cache_last_time", builder.constant([0, -1]))
    log_probs, convolved, after = window.run(features, window.unpacked(flat), recurrent)
    builder.named("log_probs", log_probs)
    builder.named("encoded_lengths", builder.op("Identity", "length"))
    stacked = builder.concat([builder.unsqueeze(part, 1) for part in after], 1)
    shape = (config.layers, parts, config.hidden)
    builder.named("cache_last_channel_next", builder.op("Reshape", stacked, builder.constant([0, *shape])))
    builder.named("cache_last_time_next", builder.unsqueeze(builder.unsqueeze(window.packed(convolved), 1), 1))
    builder.named("cache_last_channel_len_next", builder.op("Identity", "cache_last_channel_len"))
    states = [
        ("cache_last_channel", np.float32, ("B", *shape)),
        ("cache_last_time", np.float32, ("B", 1, 1, window.convolution_size)),
        ("cache_last_channel_len", np.int64, ("B",)),
    ]
    inputs = [("x", np.float32, ("B", 80, window.window_frames)), ("length", np.int64, ("B",)), *states]
    vocab = model.tokenizer.vocab_size
    outputs = [("log_probs", np.float32, ("B", latency.chunk, vocab)), ("encoded_lengths", np.int64, ("B",))]
    outputs += [(f"{name}_next", kind, size) for name, kind, size in states]
    sizes = {"window_size": window.window_frames, "chunk_shift": window.shift_frames,
             "subsampling_factor": config.subsampling, "vocab_size": vocab - 1}  # fmt: skip
    sizes |= {f"cache_last_channel_dim{i}": size for i, size in enumerate(shape, 1)}
    sizes |= {f"cache_last_time_dim{i}": size for i, size in enumerate((1, 1, window.convolution_size), 1)}
    return builder.model("nemo", inputs, outputs, _card(model) | _texts(sizes))


def lstm_graphs(model: AcousticWeights, latency: Latency, *, plain: bool = False) -> dict[str, ModelBytes]:
    """Streams as an LSTM transducer, by the names ``encoder``, ``decoder`` and ``joiner``; the last two only pass on.

    A transducer emits a token in every frame that is not blank, so a frame whose best token is that of the frame before
    becomes blank. What a search adds to other tokens, as hot words do, acts on log-probabilities as they are. ``h`` has
    behind the states of the layers those of the convolutions, and in a last row the best token of the last frame.
    """
    window = WindowGraph(model, latency, GraphBuilder(plain=plain))
    builder, config = window.builder, model.config.model
    hidden, layers = config.hidden, config.layers
    rows = -(-window.convolution_size // hidden)
    batch_first = {name: builder.transpose(name, 1, 0, 2) for name in ("h", "c")}
    features = window.parts.standardised(_converted(window.parts, "x"))
    names = ("h", "c") if config.cell == "lstm" else ("h",)
    recurrent = [builder.squeeze(builder.slice(batch_first[name], i, i + 1, 1), 1)
                 for i in range(layers) for name in names]  # fmt: skip
    flat = builder.op("Reshape", builder.slice(batch_first["h"], layers, layers + rows, 1), builder.constant([0, -1]))
    before = builder.slice(builder.squeeze(builder.slice(batch_first["h"], -1, END, 1), 1), 0, 1, 1)
    log_probs, convolved, after = window.run(features, window.unpacked(flat), recurrent)
    log_probs, best = _emitting_once(builder, log_probs, before)
    builder.named("encoder_out", log_probs)
    padding = builder.constant([0, 0, 0, rows * hidden - window.convolution_size])
    packed = builder.op("Pad", window.packed(convolved), padding)
    tail = builder.op("Pad", best, builder.constant([0, 0, 0, hidden - 1]))
    kept = builder.op("Reshape", builder.concat([packed, tail], 1), builder.constant([0, rows + 1, hidden]))
    states = {
        name: builder.concat([builder.unsqueeze(part, 1) for part in after[place :: len(names)]], 1)
        for place, name in enumerate(names)
    }
    builder.named("next_h", builder.transpose(builder.concat([states["h"], kept], 1), 1, 0, 2))
    memory = builder.concat([states.get("c", states["h"]), kept], 1)
    builder.named("next_c", builder.transpose(memory, 1, 0, 2))
    total, vocab = layers + rows + 1, model.tokenizer.vocab_size
    shape: tuple[Any, tuple[int | str, ...]] = (np.float32, (total, "N", hidden))
    sizes = {"model_type": "lstm", "num_encoder_layers": total, "T": window.window_frames,
             "decode_chunk_len": window.shift_frames, "rnn_hidden_size": hidden, "d_model": hidden}  # fmt: skip
    inputs: list[GraphEnd] = [("x", np.float32, ("N", window.window_frames, 80)), ("h", *shape), ("c", *shape)]
    outputs: list[GraphEnd] = [
        ("encoder_out", np.float32, ("N", latency.chunk, vocab)),
        ("next_h", *shape),
        ("next_c", *shape),
    ]
    encoder = builder.model("encoder", inputs, outputs, _card(model) | _texts(sizes))
    return {"encoder": encoder, "decoder": _decoder(vocab), "joiner": _joiner(vocab)}


def window_frames(config: Config, latency: Latency) -> tuple[int, int]:
    """Frames of features of a window, and from one window to the next."""
    factor, shift = config.model.subsampling, config.model.subsampling * latency.chunk
    right = latency.right if config.model.bidirectional else first_wait(config)
    return max(factor * (latency.chunk + right - 1) + 1, shift), shift


class WindowGraph:
    """The network over one window of features: a chunk and its right context.

    Args:
        model: what to build.
        latency: frames after subsampling of the chunk and of its context; a unidirectional model's is what it waits
            for.
        builder: the graph under way.
    """

    def __init__(self, model: AcousticWeights, latency: Latency, builder: GraphBuilder) -> None:
        self.builder = builder
        self.parts = AcousticParts(model, builder)
        config, bins = model.config, model.config.features.mel_bins
        self.chunk = latency.chunk
        self.right = latency.right if config.model.bidirectional else first_wait(config)
        self.window_frames, self.shift_frames = window_frames(config, latency)
        self.convolution_shapes = [(1, LEFT, bins), (config.model.channels, LEFT, (bins + 1) // 2)]
        self.convolution_size = sum(math.prod(shape) for shape in self.convolution_shapes)

    def unpacked(self, flat: str) -> list[str]:
        """The states of the convolutions from one row ``(B, n)`` each."""
        found, at = [], 0
        for shape in self.convolution_shapes:
            part = self.builder.slice(flat, at, at := at + math.prod(shape), 1)
            found.append(self.builder.op("Reshape", part, self.builder.constant([0, *shape])))
        return found

    def packed(self, states: Sequence[str]) -> str:
        """The reverse of ``unpacked``."""
        flat = [self.builder.op("Reshape", state, self.builder.constant([0, -1])) for state in states]
        return self.builder.concat(flat, 1)

    def run(
        self, features: str, convolved: Sequence[str], recurrent: Sequence[str]
    ) -> tuple[str, list[str], list[str]]:
        """Features ``(B, T, D)`` and the states of convolutions and layers -> log-probabilities of the chunk ``(B, T',
        V)`` and the states behind it."""
        x, convolved = self.parts.subsampled(features, convolved, chunk=self.shift_frames)
        # A window without right context has frames of features that no output needs.
        x = self.builder.slice(self.parts.input_norm(x), 0, self.chunk + self.right, 0)
        size, after = self.chunk + self.right, []
        count = len(recurrent) // self.parts.model.config.model.layers
        for index in range(self.parts.model.config.model.layers):
            y, states = self._layer(index, x, recurrent[index * count : (index + 1) * count], size)
            after += states
            x = self.parts.behind(index, x, y)
            if self.parts.looks_ahead(index):
                x = self.parts.look_ahead(index, x, self.builder.constant([0]))
                size -= self.parts.model.config.model.lookahead
        return self.parts.log_probs(self.builder.slice(x, 0, self.chunk, 0)), convolved, after

    def _layer(self, index: int, x: str, before: Sequence[str], size: int) -> tuple[str, list[str]]:
        """A recurrent layer over ``size`` frames; the states are those behind the chunk."""
        builder, cell = self.builder, self.parts.cell(index, "forward")
        with builder.scope(f"layer.{index}"):
            y, after = cell.run(builder.slice(x, 0, self.chunk, 0), before)
            if size > self.chunk:
                context, _ = cell.run(builder.slice(x, self.chunk, END, 0), after)
                y = builder.concat([y, context], 0)
            if self.parts.model.config.model.bidirectional:
                backward, _ = self.parts.cell(index, "backward").run(x, [], reverse=True)
                y = builder.concat([y, backward], 2)
        return y, after


def _emitting_once(builder: GraphBuilder, log_probs: str, before: str) -> tuple[str, str]:
    """Log-probabilities ``(N, T, V)`` with blank in place of frames that repeat a token, and the last best token
    ``(N, 1)``; ``before`` is the one in front of them."""
    best = builder.op("Cast", builder.op("ArgMax", log_probs, axis=2, keepdims=0), to=builder.onnx.TensorProto.FLOAT)
    shifted = builder.concat([before, builder.slice(best, 0, -1, 1)], 1)
    repeated = builder.op("And", builder.op("Equal", best, shifted), builder.op("Greater", best, builder.floats(0)))
    vocab = builder.size(log_probs, 2)
    blank = builder.op("OneHot", builder.constant([0]), vocab, builder.floats([CERTAIN_BLANK, 0]), axis=-1)
    chosen = builder.op("Where", builder.unsqueeze(repeated, 2), builder.unsqueeze(blank, 0), log_probs)
    return chosen, builder.slice(best, -1, END, 1)


def _decoder(vocab: int) -> ModelBytes:
    builder = GraphBuilder()
    zeros = builder.op("Mul", builder.op("Cast", "y", to=builder.onnx.TensorProto.FLOAT), builder.floats(0))
    builder.named("decoder_out", zeros)
    sizes = {"vocab_size": vocab, "context_size": 1}
    return builder.model("decoder", [("y", np.int64, ("N", 1))], [("decoder_out", np.float32, ("N", 1))], _texts(sizes))


def _joiner(vocab: int) -> ModelBytes:
    builder = GraphBuilder()
    builder.named("logit", builder.op("Add", "encoder_out", "decoder_out"))
    inputs = [("encoder_out", np.float32, ("N", vocab)), ("decoder_out", np.float32, ("N", 1))]
    return builder.model("joiner", inputs, [("logit", np.float32, ("N", vocab))], _texts({"joiner_dim": vocab}))


def _converted(parts: AcousticParts, x: str) -> str:
    """Kaldi's log-mel features ``(N, T, 80)`` as ours, nearly: see ``kaldi_to_ours``."""
    builder, config = parts.builder, parts.model.config.features
    with builder.scope("features"):
        energies = builder.op("MatMul", builder.op("Exp", x), builder.floats(kaldi_to_ours(config)))
        return builder.op("Log", builder.op("Max", energies, builder.floats(config.floor)))


def kaldi_to_ours(config: FeatureConfig) -> np.ndarray:
    """A matrix ``(80, D)`` from the mel energies that sherpa-onnx computes by default (Kaldi's: triangles on the HTK
    scale from 20 to 7600 Hz, pre-emphasis of 0.97, Povey's window) to those of our features.

    The energy of a band is spread over the frequencies under its triangle, pre-emphasis and level of the window are
    changed to ours, and our triangles collect it again.
    """
    size = fft_size(config.window_samples)
    bank = kaldi_filterbank(size, config.sample_rate_hz)
    cover = bank.sum(axis=1, keepdims=True)
    frequencies, known = np.arange(size // 2 + 1), np.flatnonzero(cover[:, 0] > 1e-6)
    shares = bank / np.maximum(cover, 1e-6) / np.maximum(bank.sum(axis=0), 1e-6)
    # Below the first triangle and above the last one it is taken to be as at their edges.
    spectrum = shares[known[np.abs(frequencies[:, None] - known).argmin(axis=1)]]
    n = np.arange(config.window_samples)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / config.window_samples * n)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi / (config.window_samples - 1) * n)) ** 0.85
    kaldi = _emphasis(size, config, 0.97)
    gain = _emphasis(size, config) / np.maximum(kaldi, kaldi[1]) * np.sum(hann**2) / np.sum(povey**2)
    found: np.ndarray = (spectrum * gain[:, None]).T @ mel_filterbank(config, size)
    return found


def kaldi_filterbank(size: int, rate_hz: int) -> np.ndarray:
    """Kaldi's 80 triangles from 20 Hz to 400 Hz below Nyquist: ``(size // 2 + 1, 80)``, not normalised."""

    def mel(hz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hz) / 700)

    edges = np.linspace(mel(20.0), mel(rate_hz / 2 - 400.0), 82)
    points = mel(np.arange(size // 2 + 1) * rate_hz / size)[:, None]
    rising, falling = (
        (points - edges[:-2]) / (edges[1:-1] - edges[:-2]),
        (edges[2:] - points) / (edges[2:] - edges[1:-1]),
    )
    bank: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    return bank


def _emphasis(size: int, config: FeatureConfig, share: float | None = None) -> np.ndarray:
    """What pre-emphasis multiplies the power at each frequency by, ``(size // 2 + 1)``."""
    share = config.preemphasis if share is None else share
    angles = 2 * np.pi / size * np.arange(size // 2 + 1)
    power: np.ndarray = 1 - 2 * share * np.cos(angles) + share**2
    return power


def _card(model: AcousticWeights) -> dict[str, Any]:
    return {"asr.card": dict(model.card), "asr.weights": model.storage}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}
