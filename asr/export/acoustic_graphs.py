"""The acoustic model as ONNX graphs: whole recordings in batches, and blocks of a stream with explicit states.

Both begin with samples. The convolutions work on ``(B, C, T, D)``, the recurrent layers on ``(T, B, D)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.config import loader
from asr.config.sections import Config
from asr.export.acoustic_parts import AcousticParts, AcousticWeights
from asr.export.cell_graphs import state_parts
from asr.export.graph_builder import END, GraphBuilder, GraphEnd
from asr.export.onnx_writer import ModelBytes
from asr.models.inference import Latency
from asr.models.weight_shapes import LEFT

CONVOLUTIONS = ("conv.0", "conv.1")
"""Names of the states of the convolutions."""


def first_wait(config: Config) -> int:
    """Subsampled frames that a unidirectional model waits for behind each frame."""
    return (config.model.layers - 1) * config.model.lookahead


def offline_graph(model: AcousticWeights, *, plain: bool = False, from_features: bool = False) -> ModelBytes:
    """Whole recordings: ``samples (B, S)`` and ``lengths (B)`` -> ``log_probs (B, T, V)`` and ``frames (B)``.

    ``plain``: see ``GraphBuilder``. ``from_features``: instead of samples take normalised features ``(B, T, D)``, with
    lengths in frames of features: for tests of the network alone.
    """
    parts = AcousticParts(model, GraphBuilder(plain=plain))
    builder, config = parts.builder, model.config.model
    if from_features:
        features, frames = "features", "lengths"
    else:
        features, frames = parts.features_of_recordings("samples", "lengths")
    x, _ = parts.subsampled(features)
    counts = parts.subsampled_counts(frames)
    x = parts.input_norm(x)
    valid = parts.valid_frames(x, counts) if config.lookahead else ""
    for index in range(config.layers):
        x = parts.behind(index, x, parts.recordings_layer(index, x, counts))
        if parts.looks_ahead(index):
            x = builder.op("Mul", x, valid)
            x = parts.look_ahead(index, x, builder.constant([config.lookahead]))
    builder.named("log_probs", parts.log_probs(x))
    builder.named("frames", parts.output_counts(counts))
    first = ("features", np.float32, ("B", "T", model.config.features.mel_bins))
    inputs: list[GraphEnd] = [
        first if from_features else ("samples", np.float32, ("B", "S")),
        ("lengths", np.int64, ("B",)),
    ]
    outputs: list[GraphEnd] = [
        ("log_probs", np.float32, ("B", "T_out", model.tokenizer.vocab_size)),
        ("frames", np.int64, ("B",)),
    ]
    return builder.model("offline", inputs, outputs, metadata(model))


def streaming_graph(
    model: AcousticWeights, latency: Latency | None = None, *, plain: bool = False, from_features: bool = False
) -> ModelBytes:
    """Blocks of a stream: docs/export.md has inputs, outputs and how to call it.

    ``latency``: the default chunks of a bidirectional model, which needs them. ``plain``, ``from_features``: as for
    ``offline_graph``; the block is then ``features (B, F, D)``.
    """
    if model.config.model.bidirectional != (latency is not None):
        raise ValueError("latency: expected chunks for a bidirectional model, and only for one")
    parts = AcousticParts(model, GraphBuilder(plain=plain))
    builder = parts.builder
    states = _States(model.config)
    following: dict[str, str] = {}
    if from_features:
        features = "features"
    else:
        features = parts.log_mel("samples")
        if model.config.features.adapt_s:
            features, following["level"] = parts.adapted(features, "level")
    x, convolved = parts.subsampled(features, CONVOLUTIONS)
    following |= dict(zip(CONVOLUTIONS, convolved, strict=True))
    x = parts.input_norm(x)
    last, count = "last", builder.size(x, 0)
    flush = builder.op("GreaterOrEqual", last, builder.constant([0]))
    valid = builder.op("Where", flush, last, count)
    x = _unidirectional(parts, x, valid, flush, following) if latency is None else _chunk(parts, x, valid, following)
    builder.named("log_probs", parts.log_probs(x))
    for name, _ in states.shapes:
        builder.named(f"next.{name}", following[name])
    first = ("features", np.float32, ("B", "F", model.config.features.mel_bins))
    inputs: list[GraphEnd] = [first if from_features else ("samples", np.float32, ("B", "S")), ("last", np.int64, (1,))]
    inputs += [("latency", np.int64, (2,))] if latency else []
    inputs += [(name, np.float32, states.symbolic(name, shape)) for name, shape in states.shapes]
    outputs: list[GraphEnd] = [("log_probs", np.float32, ("B", "T_out", model.tokenizer.vocab_size))]
    outputs += [(f"next.{name}", np.float32, states.symbolic(f"next.{name}", shape)) for name, shape in states.shapes]
    more = {
        "asr.states": [{"name": name, "shape": [-1, *shape[1:]]} for name, shape in states.shapes],
        "asr.latency": {"bidirectional": latency is not None, "first_wait": first_wait(model.config)}
        | ({"chunk": latency.chunk, "right": latency.right} if latency else {}),
    }
    return builder.model("streaming", inputs, outputs, metadata(model) | more)


def metadata(model: AcousticWeights) -> dict[str, Any]:
    """The metadata of both graphs."""
    return {
        "asr.config": loader.dumps(model.config),
        "asr.tokens": list(model.tokenizer.symbols),
        "asr.card": dict(model.card),
        "asr.weights": model.storage,
        **frames_metadata(model.config),
    }


def frames_metadata(config: Config) -> dict[str, Any]:
    """The metadata that say how samples become frames, and frames rows of log-probabilities."""
    features = config.features
    return {
        "asr.features": {
            "sample_rate_hz": features.sample_rate_hz,
            "window_samples": features.window_samples,
            "hop_samples": features.hop_samples,
            **({"lead_samples": features.lead_samples} if features.centred else {}),
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


def _unidirectional(parts: AcousticParts, x: str, valid: str, flush: str, following: dict[str, str]) -> str:
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


def _chunk(parts: AcousticParts, x: str, valid: str, following: dict[str, str]) -> str:
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
