"""The pieces that all graphs of an acoustic model have in common: features, convolutions, layers, output.

The convolutions work on ``(B, C, T, D)``, the recurrent layers on ``(T, B, D)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr.config.sections import Config
from asr.export.cell_graphs import CellGraph, bidirectional, scan_nodes
from asr.export.graph_builder import END, GraphBuilder, Weight
from asr.models.description import FeatureStats
from asr.models.mel import MEMORY_S, MIN_STD, mel_filterbank
from asr.models.weight_shapes import KERNEL, LEFT
from asr.text.tokenizer import Tokenizer

LAYER_NORM_EPSILON = 1e-5
"""The default of torch."""


@dataclass(frozen=True)
class AcousticWeights:
    """The contents of a model directory for a graph: configuration, tokens, statistics, card and weights by name.

    ``storage``: type of the stored weights, for the metadata.
    """

    config: Config
    tokenizer: Tokenizer
    stats: FeatureStats
    card: Mapping[str, Any]
    weights: Mapping[str, Weight]
    storage: str = "float32"


@dataclass(frozen=True)
class AcousticParts:
    """The pieces that the graphs have in common."""

    model: AcousticWeights
    builder: GraphBuilder

    def weight(self, name: str) -> Weight:
        return self.model.weights[name]

    def log_mel(self, samples: str) -> str:
        """``(B, S)`` -> normalised log-mel frames ``(B, T, D)``, less the mean of the training data."""
        builder, config = self.builder, self.model.config.features
        bins = fft_size(config.window_samples) // 2 + 1
        with builder.scope("features"):
            spectrum = builder.op("Conv", builder.unsqueeze(samples, 1), builder.unsqueeze(self.fourier_basis(), 1),
                                  strides=[config.hop_samples])  # fmt: skip
            halves = builder.node("Split", spectrum, builder.constant([bins, bins]), outputs=2, axis=1)
            squares = [builder.op("Mul", half, half) for half in halves]
            power = builder.transpose(builder.op("Add", *squares), 0, 2, 1)
            bank = mel_filterbank(config, 2 * (bins - 1))
            energies = builder.op(
                "Max", builder.op("MatMul", power, builder.floats(bank)), builder.floats(config.floor)
            )
            return self.standardised(builder.op("Log", energies))

    def fourier_basis(self) -> str:
        """The windowed discrete Fourier transform of one frame as a matrix ``(2 F, window)``: real parts, then
        imaginary ones. Its length is the next power of two; pre-emphasis is part of it.

        The graph computes it from one period in float64. As a constant it would be the largest part of an int8 graph
        beside the weights. The runtime computes it once, when it loads the graph.
        """
        builder, config = self.builder, self.model.config.features
        window, size = config.window_samples, fft_size(config.window_samples)
        rows, columns = (builder.unsqueeze(self._numbers(count), axis)
                         for count, axis in ((size // 2 + 1, 1), (window, 0)))  # fmt: skip
        turns = builder.op("Mul", rows, columns)
        whole = builder.op("Mul", builder.op("Div", turns, builder.constant(size)), builder.constant(size))
        place = builder.op("Sub", turns, whole)
        period = 2 * np.pi / size * np.arange(size)
        waves = [builder.op("Gather", builder.constant(wave, np.float64), place)
                 for wave in (np.cos(period), -np.sin(period))]  # fmt: skip
        hann = 0.5 - 0.5 * np.cos(2 * np.pi / window * np.arange(window))
        basis = builder.op("Mul", builder.concat(waves, 0), builder.constant(hann, np.float64))
        if config.preemphasis:
            # Each sample is taken off the next one of the window, and of the first one a share of itself.
            own = builder.constant([1 - config.preemphasis] + [1] * (window - 1), np.float64)
            following = builder.op("Pad", builder.slice(basis, 1, END, 1), builder.constant([0, 0, 0, 1]))
            share = builder.constant(config.preemphasis, np.float64)
            basis = builder.op("Sub", builder.op("Mul", basis, own), builder.op("Mul", following, share))
        return builder.op("Cast", basis, to=builder.onnx.TensorProto.FLOAT)

    def _numbers(self, count: int) -> str:
        """``0 .. count - 1``, int64."""
        return self.builder.op("Range", *(self.builder.constant(value) for value in (0, count, 1)))

    def standardised(self, log_energies: str) -> str:
        """Natural logarithms of mel energies ``(…, D)``, normalised by the mean and deviation of the training data."""
        builder, stats = self.builder, self.model.stats
        inverse = 1 / np.maximum(np.asarray(stats.std, np.float32), np.float32(MIN_STD))
        centred = builder.op("Sub", log_energies, builder.floats(stats.mean))
        return builder.op("Mul", centred, builder.floats(inverse))

    def features_of_recordings(self, samples: str, lengths: str) -> tuple[str, str]:
        """Features ``(B, T, D)`` with T of at least 1, and the frames ``(B)`` of each row."""
        builder, config = self.builder, self.model.config.features
        window, hop = config.window_samples, config.hop_samples
        if config.centred:
            features = self.log_mel(self.reflected(samples, lengths))
            frames = self._centred_frames(lengths)
        else:
            short = builder.op("Max", builder.op("Sub", builder.constant([window]), builder.size(samples, 1)),
                               builder.constant([0]))  # fmt: skip
            padded = builder.op("Pad", samples, builder.concat([builder.constant([0, 0, 0]), short], 0))
            features = self.log_mel(padded)
            # Of a negative number the quotient is rounded towards zero, which is what "no frame" needs.
            begun = builder.op("Add", lengths, builder.constant(hop - window))
            frames = builder.op("Max", builder.op("Div", begun, builder.constant(hop)), builder.constant(0))
        if config.adapt_s:
            features, _ = self.adapted(features, "")
        return features, frames

    def _centred_frames(self, lengths: str) -> str:
        """``count_frames`` of recordings of ``lengths`` samples, int64 of any shape."""
        builder, config = self.builder, self.model.config.features
        begun = builder.op("Add", lengths, builder.constant(config.hop_samples // 2))
        frames = builder.op("Div", begun, builder.constant(config.hop_samples))
        least = builder.constant(config.least_samples)
        return builder.op("Where", builder.op("Less", lengths, least), builder.constant(0), frames)

    def reflected(self, samples: str, lengths: str) -> str:
        """The rows of ``samples (B, S)``, each reflected at its start and at the end of its own length, as in
        ``asr.models.framing``. They are at least one window long."""
        builder, config = self.builder, self.model.config.features
        size = builder.size(samples, 1)
        with builder.scope("reflected"):
            windows = builder.op("Max", self._centred_frames(size), builder.constant([1]))
            begin = -config.lead_samples
            end = builder.op("Add", builder.op("Mul", windows, builder.constant([config.hop_samples])),
                             builder.constant([begin + config.window_samples - config.hop_samples]))  # fmt: skip
            index = builder.op("Range", builder.constant(begin), builder.squeeze(end, 0), builder.constant(1))
            mirrored = builder.op("Sub", builder.constant(-1), index)
            index = builder.op("Where", builder.op("Less", index, builder.constant(0)), mirrored, index)
            own = builder.unsqueeze(lengths, 1)
            behind = builder.op("Sub", builder.op("Sub", builder.op("Mul", own, builder.constant(2)),
                                                  builder.constant(1)), index)  # fmt: skip
            index = builder.op("Where", builder.op("Less", index, own), index, behind)
            # What lies beyond the reflection belongs to no frame of the row; of no samples at all it is the padding.
            index = builder.op("Min", builder.op("Max", index, builder.constant(0)), size)
            padded = builder.op("Pad", samples, builder.constant([0, 0, 0, 1]))
            return builder.op("GatherElements", padded, index, axis=1)

    def adapted(self, features: str, level: str) -> tuple[str, str]:
        """Features ``(B, T, D)`` less the recording's own mean so far, and the sums ``(B, D + 1)`` after them."""
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

    def subsampled(
        self, features: str, before: Sequence[str] = (), *, chunk: int | None = None
    ) -> tuple[str, list[str]]:
        """Features ``(B, T, D)`` -> frames ``(T', B, C)``, and the states after them.

        ``before``: the states of the two convolutions, ``(B, C, n, D)``; none at the start, where zeros precede. With
        ``chunk``, the returned states are those after this number of frames of features, with n = 2.
        """
        builder, config = self.builder, self.model.config.model
        x = builder.unsqueeze(features, 1)
        following = []
        for index, stride in enumerate({2: (2, 1), 4: (2, 2)}[config.subsampling]):
            name = f"subsampling.convs.{index}"
            if before:
                x = builder.concat([before[index], x], 2)
            with builder.scope(name):
                weights = [builder.weight(self.weight(f"{name}.{part}")) for part in ("weight", "bias")]
                pads = [0 if before else LEFT, 1, 0, 1]
                y = builder.op("Conv", x, *weights, kernel_shape=[KERNEL, KERNEL], strides=[stride, 2], pads=pads)
                if chunk is not None:
                    following.append(builder.slice(x, chunk, chunk + LEFT, 2))
                    chunk //= stride
                elif before:
                    used = builder.op("Mul", builder.size(y, 2), builder.constant([stride]))
                    following.append(builder.slice(x, used, END, 2))
                x = builder.op("Relu", y)
        rows = builder.transpose(x, 2, 0, 1, 3)
        return builder.op("Reshape", rows, builder.constant([0, 0, -1])), following

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
            lengths = self.at_least_one(counts)
            return bidirectional(self.cell(index, "forward"), self.cell(index, "backward"), x, lengths)

    def at_least_one(self, counts: str) -> str:
        """Frames ``(B)`` for recurrences: a row without a frame gets one frame of padding."""
        return self.builder.op("Max", counts, self.builder.constant(1))

    def subsampled_counts(self, frames: str) -> str:
        """Frames ``(B)`` after subsampling, of frames of features ``(B)``."""
        builder, factor = self.builder, self.model.config.model.subsampling
        return builder.op("Div", builder.op("Add", frames, builder.constant(factor - 1)), builder.constant(factor))

    def output_counts(self, counts: str) -> str:
        """Rows of log-probabilities ``(B)``, of frames after subsampling ``(B)``."""
        return self.builder.op("Mul", counts, self.builder.constant(self.model.config.model.upsampling))

    def behind(self, index: int, x: str, y: str) -> str:
        """The output of layer ``index`` for input ``x`` and recurrent output ``y``: projection, norm, residual."""
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
        """Mix frames ``(T, B, D)`` with those ``lookahead`` later. ``zeros (1)`` frames of zeros follow the last."""
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


def fft_size(window: int) -> int:
    """The length of the Fourier transform of a window of so many samples."""
    return 1 << (window - 1).bit_length()
