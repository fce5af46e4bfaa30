"""The acoustic model as ONNX graphs: whole recordings in batches, and blocks of a stream with explicit states.

Both begin with samples. The convolutions work on ``(B, C, T, D)``, the recurrent layers on ``(T, B, D)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.config import loader
from asr.config.sections import Config
from asr.export.cell_graphs import CellGraph, bidirectional, scan_nodes, state_parts
from asr.export.graph_builder import END, GraphBuilder, Weight
from asr.models.acoustic import Latency
from asr.models.description import FeatureStats
from asr.models.features import MEMORY_S, MIN_STD
from asr.models.mel import mel_filterbank
from asr.models.subsample import KERNEL, LEFT
from asr.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from onnx import ModelProto

LAYER_NORM_EPSILON = 1e-5
"""Torch's."""


@dataclass(frozen=True)
class AcousticWeights:
    """What a graph is made of: a model directory's configuration, tokens, statistics, card and weights by name.

    ``storage``: how the weights are stored, for the metadata.
    """

    config: Config
    tokenizer: Tokenizer
    stats: FeatureStats
    card: Mapping[str, Any]
    weights: Mapping[str, Weight]
    storage: str = "float32"


def first_wait(config: Config) -> int:
    """Subsampled frames that a unidirectional model waits for behind each frame."""
    return (config.model.layers - 1) * config.model.lookahead


def offline_graph(model: AcousticWeights, *, plain: bool = False, from_features: bool = False) -> ModelProto:
    """Whole recordings: ``samples (B, S)`` and ``lengths (B)`` -> ``log_probs (B, T, V)`` and ``frames (B)``.

    ``plain``: see ``GraphBuilder``. ``from_features``: instead of samples take normalised features ``(B, T, D)``, with
    lengths in frames of features: for tests of the network alone.
    """
    parts = _Parts(model, GraphBuilder(plain=plain))
    builder, config = parts.builder, model.config.model
    if from_features:
        features, frames = "features", "lengths"
    else:
        features, frames = parts.features_of_recordings("samples", "lengths")
    x = parts.subsampled(features)
    counts = builder.op("Div", builder.op("Add", frames, builder.constant(config.subsampling - 1)),
                        builder.constant(config.subsampling))  # fmt: skip
    x = parts.input_norm(x)
    valid = parts.valid_frames(x, counts) if config.lookahead else ""
    for index in range(config.layers):
        x = parts.behind(index, x, parts.recordings_layer(index, x, counts))
        if parts.looks_ahead(index):
            x = builder.op("Mul", x, valid)
            x = parts.look_ahead(index, x, builder.constant([config.lookahead]))
    builder.named("log_probs", parts.log_probs(x))
    builder.named("frames", builder.op("Mul", counts, builder.constant(config.upsampling)))
    first = ("features", np.float32, ("B", "T", model.config.features.mel_bins))
    inputs = [first if from_features else ("samples", np.float32, ("B", "S")), ("lengths", np.int64, ("B",))]
    outputs = [("log_probs", np.float32, ("B", "T_out", model.tokenizer.vocab_size)), ("frames", np.int64, ("B",))]
    return builder.model("offline", inputs, outputs, metadata(model))


def streaming_graph(
    model: AcousticWeights, latency: Latency | None = None, *, plain: bool = False, from_features: bool = False
) -> ModelProto:
    """Blocks of a stream: docs/export.md has inputs, outputs and how to call it.

    ``latency``: the default chunks of a bidirectional model, which needs them. ``plain``, ``from_features``: as for
    ``offline_graph``; the block is then ``features (B, F, D)``.
    """
    if model.config.model.bidirectional != (latency is not None):
        raise ValueError("latency: expected chunks for a bidirectional model, and only for one")
    parts = _Parts(model, GraphBuilder(plain=plain))
    builder = parts.builder
    states = _States(model.config)
    following: dict[str, str] = {}
    if from_features:
        features = "features"
    else:
        features = parts.log_mel("samples")
        if model.config.features.adapt_s:
            features, following["level"] = parts.adapted(features, "level")
    x = parts.input_norm(parts.subsampled(features, following))
    last, count = "last", builder.size(x, 0)
    flush = builder.op("GreaterOrEqual", last, builder.constant([0]))
    valid = builder.op("Where", flush, last, count)
    x = _unidirectional(parts, x, valid, flush, following) if latency is None else _chunk(parts, x, valid, following)
    builder.named("log_probs", parts.log_probs(x))
    for name, _ in states.shapes:
        builder.named(f"next.{name}", following[name])
    first = ("features", np.float32, ("B", "F", model.config.features.mel_bins))
    inputs = [first if from_features else ("samples", np.float32, ("B", "S")), ("last", np.int64, (1,))]
    inputs += [("latency", np.int64, (2,))] if latency else []
    inputs += [(name, np.float32, states.symbolic(name, shape)) for name, shape in states.shapes]
    outputs = [("log_probs", np.float32, ("B", "T_out", model.tokenizer.vocab_size))]
    outputs += [(f"next.{name}", np.float32, states.symbolic(f"next.{name}", shape)) for name, shape in states.shapes]
    more = {
        "asr.states": [{"name": name, "shape": [-1, *shape[1:]]} for name, shape in states.shapes],
        "asr.latency": {"bidirectional": latency is not None, "first_wait": first_wait(model.config)}
        | ({"chunk": latency.chunk, "right": latency.right} if latency else {}),
    }
    return builder.model("streaming", inputs, outputs, metadata(model) | more)


def metadata(model: AcousticWeights) -> dict[str, Any]:
    """The metadata of both graphs."""
    config = model.config
    features = config.features
    return {
        "asr.config": loader.dumps(config),
        "asr.tokens": list(model.tokenizer.symbols),
        "asr.card": dict(model.card),
        "asr.weights": model.storage,
        "asr.features": {
            "sample_rate_hz": features.sample_rate_hz,
            "window_samples": features.window_samples,
            "hop_samples": features.hop_samples,
        },
        "asr.frames": {
            "subsampling": config.model.subsampling,
            "upsampling": config.model.upsampling,
            "frame_s": config.output_frame_s,
        },
    }


class _States:
    """The states of a stream by name and initial shape, the batch being 0."""

    def __init__(self, config: Config) -> None:
        model, bins = config.model, config.features.mel_bins
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        if config.features.adapt_s:
            self.shapes.append(("level", (0, bins + 1)))
        inputs = ((1, bins), (model.channels, (bins + 1) // 2))
        self.shapes += [(f"conv.{i}", (0, channels, LEFT, size)) for i, (channels, size) in enumerate(inputs)]
        for index in range(model.layers):
            self.shapes += [(f"layer.{index}.{part}", (0, model.hidden)) for part in state_parts(model.cell)]
        size = model.projection or model.hidden
        if model.lookahead:
            self.shapes += [(f"ahead.{index}", (0, 0, size)) for index in range(model.layers - 1)]
        if model.bidirectional:
            self.shapes.append(("waiting", (0, 0, model.channels * (((bins + 1) // 2 + 1) // 2))))

    @staticmethod
    def symbolic(name: str, shape: tuple[int, ...]) -> tuple[int | str, ...]:
        """The shape with names for the axes that change."""
        if name.rpartition("next.")[2].startswith("conv"):
            return ("B", shape[1], f"{name}.frames", shape[3])
        return ("B", *(f"{name}.frames" if size == 0 else size for size in shape[1:]))


@dataclass(frozen=True)
class _Parts:
    """The pieces that the graphs have in common."""

    model: AcousticWeights
    builder: GraphBuilder

    def weight(self, name: str) -> Weight:
        return self.model.weights[name]

    def log_mel(self, samples: str) -> str:
        """``(B, S)`` -> normalised log-mel frames ``(B, T, D)``, the mean of the training data taken off."""
        builder, config, stats = self.builder, self.model.config.features, self.model.stats
        basis = fourier_basis(config.window_samples, config.preemphasis)
        bins = len(basis) // 2
        with builder.scope("features"):
            spectrum = builder.op("Conv", builder.unsqueeze(samples, 1), builder.floats(basis[:, None]),
                                  strides=[config.hop_samples])  # fmt: skip
            halves = builder.node("Split", spectrum, builder.constant([bins, bins]), outputs=2, axis=1)
            squares = [builder.op("Mul", half, half) for half in halves]
            power = builder.transpose(builder.op("Add", *squares), 0, 2, 1)
            bank = mel_filterbank(config, 2 * (bins - 1))
            energies = builder.op(
                "Max", builder.op("MatMul", power, builder.floats(bank)), builder.floats(config.floor)
            )
            centred = builder.op("Sub", builder.op("Log", energies), builder.floats(stats.mean))
            inverse = 1 / np.maximum(np.asarray(stats.std, np.float32), np.float32(MIN_STD))
            return builder.op("Mul", centred, builder.floats(inverse))

    def features_of_recordings(self, samples: str, lengths: str) -> tuple[str, str]:
        """Features ``(B, T, D)`` with T of at least 1, and the frames ``(B)`` of each row."""
        builder, config = self.builder, self.model.config.features
        window, hop = config.window_samples, config.hop_samples
        short = builder.op("Max", builder.op("Sub", builder.constant([window]), builder.size(samples, 1)),
                           builder.constant([0]))  # fmt: skip
        padded = builder.op("Pad", samples, builder.concat([builder.constant([0, 0, 0]), short], 0))
        features = self.log_mel(padded)
        if config.adapt_s:
            features, _ = self.adapted(features, "")
        # Of a negative number the quotient is rounded towards zero, which is what "no frame" needs.
        frames = builder.op("Div", builder.op("Add", lengths, builder.constant(hop - window)), builder.constant(hop))
        return features, builder.op("Max", frames, builder.constant(0))

    def adapted(self, features: str, level: str) -> tuple[str, str]:
        """Features ``(B, T, D)`` less the recording's own mean so far, and the sums ``(B, D + 1)`` behind them."""
        builder, config = self.builder, self.model.config.features
        with builder.scope("adapt"):
            rows = builder.transpose(features, 1, 0, 2)
            shape = builder.concat([builder.op("Shape", rows, start=0, end=2), builder.constant([1])], 0)
            ones = builder.op("Expand", builder.floats(1), shape)
            fresh = builder.concat([rows, ones], 2)
            if not level:
                zero = builder.onnx.numpy_helper.from_array(np.zeros(1, np.float32))
                level = builder.op("ConstantOfShape", builder.op("Shape", fresh, start=1, end=3), value=zero)
            kept = builder.op("Expand", builder.floats(math.exp(-config.hop_s / MEMORY_S)), builder.op("Shape", fresh))
            totals, last = scan_nodes(builder, kept, fresh, level)
            sums = builder.slice(totals, 0, config.mel_bins, 2)
            weights = builder.op("Add", builder.slice(totals, config.mel_bins, END, 2),
                                 builder.floats(config.adapt_s / config.hop_s))  # fmt: skip
            adapted = builder.op("Sub", rows, builder.op("Div", sums, weights))
            return builder.transpose(adapted, 1, 0, 2), last

    def subsampled(self, features: str, following: dict[str, str] | None = None) -> str:
        """Features ``(B, T, D)`` -> ``(T', B, C)``. With ``following`` the convolutions go on from the states
        ``conv.0`` and ``conv.1``, and what comes behind is put there; without, zeros precede."""
        builder, config = self.builder, self.model.config.model
        x = builder.unsqueeze(features, 1)
        for index, stride in enumerate({2: (2, 1), 4: (2, 2)}[config.subsampling]):
            name = f"subsampling.convs.{index}"
            before = LEFT
            if following is not None:
                x, before = builder.concat([f"conv.{index}", x], 2), 0
            with builder.scope(name):
                weights = [builder.weight(self.weight(f"{name}.{part}")) for part in ("weight", "bias")]
                y = builder.op("Conv", x, *weights, kernel_shape=[KERNEL, KERNEL], strides=[stride, 2],
                               pads=[before, 1, 0, 1])  # fmt: skip
                if following is not None:
                    used = builder.op("Mul", builder.size(y, 2), builder.constant([stride]))
                    following[f"conv.{index}"] = builder.slice(x, used, END, 2)
                x = builder.op("Relu", y)
        rows = builder.transpose(x, 2, 0, 1, 3)
        return builder.op("Reshape", rows, builder.constant([0, 0, -1]))

    def input_norm(self, x: str) -> str:
        return self._normalised(x, "input_norm")

    def _normalised(self, x: str, name: str) -> str:
        scale, shift = (self.builder.weight(self.weight(f"{name}.{part}")) for part in ("weight", "bias"))
        return self.builder.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def cell(self, index: int, direction: str) -> CellGraph:
        """One direction, ``forward`` or ``backward``, of a layer."""
        config = self.model.config.model
        prefix = f"encoder.layers.{index}.{direction}_cell"
        return CellGraph(self.builder, self.model.weights, prefix, config.cell, config.hidden)

    def recordings_layer(self, index: int, x: str, counts: str) -> str:
        """A recurrent layer over padded rows of ``counts (B)`` valid frames each."""
        with self.builder.scope(f"layer.{index}"):
            if not self.model.config.model.bidirectional:
                return self.cell(index, "forward").run(x, [])[0]
            # A row without a frame still has one here, of padding.
            lengths = self.builder.op("Max", counts, self.builder.constant(1))
            return bidirectional(self.cell(index, "forward"), self.cell(index, "backward"), x, lengths)

    def behind(self, index: int, x: str, y: str) -> str:
        """What layer ``index`` with input ``x`` and recurrent output ``y`` passes on."""
        config = self.model.config.model
        with self.builder.scope(f"layer.{index}"):
            if config.projection:
                name = f"encoder.projections.{index}"
                y = self.builder.linear(y, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))
            y = self._normalised(y, f"encoder.norms.{index}")
            return self.builder.op("Add", x, y) if config.residual and self._sizes(index) else y

    def _sizes(self, index: int) -> bool:
        """Whether input and output of a layer have the same size."""
        config = self.model.config.model
        output = config.projection or config.hidden * (2 if config.bidirectional else 1)
        bins = self.model.config.features.mel_bins
        return output == (output if index else config.channels * (((bins + 1) // 2 + 1) // 2))

    def looks_ahead(self, index: int) -> bool:
        config = self.model.config.model
        return bool(config.lookahead) and index < config.layers - 1

    def look_ahead(self, index: int, x: str, zeros: str) -> str:
        """Mix frames ``(T, B, D)`` with those ``lookahead`` later, so many ``zeros (1)`` following the last one."""
        builder, name = self.builder, f"encoder.lookaheads.{index}.mix"
        with builder.scope(f"ahead.{index}"):
            padded = builder.op(
                "Pad", x, builder.concat([builder.constant([0, 0, 0]), zeros, builder.constant([0, 0])], 0)
            )
            later = builder.slice(padded, self.model.config.model.lookahead, END, 0)
            now = builder.slice(x, 0, builder.size(later, 0), 0)
            mixed = builder.linear(
                builder.concat([now, later], 2), self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
            )
            return builder.op("Add", now, builder.op("Relu", mixed))

    def valid_frames(self, x: str, counts: str) -> str:
        """1 for valid frames of ``x (T, B, D)`` and 0 behind them: ``(T, B, 1)``."""
        builder = self.builder
        length = builder.squeeze(builder.size(x, 0), 0)
        time = builder.op("Range", builder.constant(0), length, builder.constant(1))
        valid = builder.op("Less", builder.unsqueeze(time, 1), builder.unsqueeze(counts, 0))
        return builder.unsqueeze(builder.op("Cast", valid, to=builder.onnx.TensorProto.FLOAT), 2)

    def log_probs(self, x: str) -> str:
        """``(T, B, D)`` -> ``(B, T', V)``."""
        builder, config = self.builder, self.model.config.model
        with builder.scope("output"):
            y = builder.linear(x, self.weight("output.weight"), self.weight("output.bias"))
            y = builder.transpose(y, 1, 0, 2)
            if config.upsampling > 1:
                vocab = self.model.tokenizer.vocab_size
                sizes = builder.op(
                    "Mul", builder.op("Shape", y, start=0, end=2), builder.constant([1, config.upsampling])
                )
                y = builder.op("Reshape", y, builder.concat([sizes, builder.constant([vocab])], 0))
            return builder.op("LogSoftmax", y, axis=-1)


def _unidirectional(parts: _Parts, x: str, valid: str, flush: str, following: dict[str, str]) -> str:
    """The layers over the next frames ``(T, B, D)``, of which ``valid (1)`` count; with ``flush (1)`` to the end."""
    builder, config = parts.builder, parts.model.config.model
    zeros = builder.op("Mul", builder.op("Cast", flush, to=builder.onnx.TensorProto.INT64),
                       builder.constant([config.lookahead]))  # fmt: skip
    for index in range(config.layers):
        names = [f"layer.{index}.{part}" for part in state_parts(config.cell)]
        with builder.scope(f"layer.{index}"):
            y, after = parts.cell(index, "forward").run(x, names)
        following.update(zip(names, after, strict=True))
        x = parts.behind(index, x, y)
        if index == 0:
            # Here, and not in front of the layer: a recurrence over no frame at all is not defined everywhere.
            x = builder.slice(x, 0, valid, 0)
        if parts.looks_ahead(index):
            waiting = builder.transpose(f"ahead.{index}", 1, 0, 2)
            x = builder.concat([waiting, x], 0)
            mixed = parts.look_ahead(index, x, zeros)
            following[f"ahead.{index}"] = builder.transpose(builder.slice(x, builder.size(mixed, 0), END, 0), 1, 0, 2)
            x = mixed
    return x


def _chunk(parts: _Parts, x: str, valid: str, following: dict[str, str]) -> str:
    """One chunk of a bidirectional model, from the frames that wait and ``valid (1)`` of the new ones ``(T, B, D)``.

    The forward direction keeps its state behind the chunk; the backward one begins at the end of the right context.
    """
    builder, config = parts.builder, parts.model.config.model
    chunk, right = builder.slice("latency", 0, 1, 0), builder.slice("latency", 1, 2, 0)
    x = builder.concat([builder.transpose("waiting", 1, 0, 2), builder.slice(x, 0, valid, 0)], 0)
    keep = builder.op("Min", chunk, builder.size(x, 0))
    following["waiting"] = builder.transpose(builder.slice(x, keep, END, 0), 1, 0, 2)
    x = builder.slice(x, 0, builder.op("Add", keep, right), 0)
    one_more = builder.constant([0, 0, 0, 1, 0, 0])
    for index in range(config.layers):
        names = [f"layer.{index}.{part}" for part in state_parts(config.cell)]
        with builder.scope(f"layer.{index}"):
            forward, after = parts.cell(index, "forward").run(builder.slice(x, 0, keep, 0), names)
            # The context may be empty, and a recurrence over nothing is not defined everywhere: one frame more.
            context, _ = parts.cell(index, "forward").run(
                builder.op("Pad", builder.slice(x, keep, END, 0), one_more), after
            )
            ahead = builder.concat([forward, builder.slice(context, 0, -1, 0)], 0)
            backward, _ = parts.cell(index, "backward").run(x, [], reverse=True)
            y = builder.concat([ahead, backward], 2)
        following.update(zip(names, after, strict=True))
        x = parts.behind(index, x, y)
    return builder.slice(x, 0, keep, 0)


def fourier_basis(window: int, preemphasis: float = 0.0) -> np.ndarray:
    """The windowed discrete Fourier transform of one frame as a matrix ``(2 F, window)`` float32: real parts, then
    imaginary ones. Its length is the next power of two; pre-emphasis is part of it."""
    size = 1 << (window - 1).bit_length()
    angles = 2 * np.pi / size * np.outer(np.arange(size // 2 + 1), np.arange(window))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / window * np.arange(window))
    basis = np.concatenate([np.cos(angles), -np.sin(angles)]) * hann
    emphasised = basis.copy()
    emphasised[:, :-1] -= preemphasis * basis[:, 1:]
    emphasised[:, 0] -= preemphasis * basis[:, 0]
    return emphasised.astype(np.float32)
