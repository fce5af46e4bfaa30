"""The offline graph of a bidirectional model in stages, one for each layer and direction.

A runtime computes a graph as a whole. Between stages a server can let others compute.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from asr.export.acoustic_parts import AcousticParts, AcousticWeights
from asr.export.cell_graphs import state_parts
from asr.export.graph_builder import GraphBuilder, GraphEnd
from asr.export.onnx_writer import ModelBytes

_COUNTS: GraphEnd = ("counts", np.int64, ("B",))


def offline_stages(model: AcousticWeights) -> Iterator[ModelBytes]:
    """The stages in the order in which they run, which together are ``acoustic_graphs.offline_graph``.

    First ``samples (B, S)`` and ``lengths (B)`` -> frames ``out (T, B, C)`` and how many of each row are valid,
    ``counts (B)``. Then two stages for each layer: ``in (T, B, C)`` -> the forward direction ``out (T, B, H)``; and
    ``in``, ``ahead`` (the forward direction) and ``counts`` -> the layer's ``out``. Both take the states ``h`` and, of
    an LSTM, ``c (B, H)``, and give them as they are behind the frames, ``h_after`` and ``c_after``: a layer can be
    computed in blocks, whose ``counts`` are the valid frames in them. Last ``in`` and ``counts`` ->
    ``log_probs (B, T, V)`` and ``frames (B)``.

    Only bidirectional models have stages: others go on from block to block by their streaming graph.
    """
    if not model.config.model.bidirectional:
        raise ValueError("stages: expected a bidirectional model")
    yield _first(model)
    for index in range(model.config.model.layers):
        yield _forward(model, index)
        yield _backward(model, index)
    yield _last(model)


def _sequence(name: str) -> GraphEnd:
    return (name, np.float32, ("T", "B", f"{name}.size"))


def _first(model: AcousticWeights) -> ModelBytes:
    parts = AcousticParts(model, GraphBuilder())
    features, frames = parts.features_of_recordings("samples", "lengths")
    x, _ = parts.subsampled(features)
    parts.builder.named("out", parts.input_norm(x))
    parts.builder.named("counts", parts.subsampled_counts(frames))
    inputs: list[GraphEnd] = [("samples", np.float32, ("B", "S")), ("lengths", np.int64, ("B",))]
    return parts.builder.model("first", inputs, [_sequence("out"), _COUNTS], {})


def _states(model: AcousticWeights, after: str = "") -> list[GraphEnd]:
    config = model.config.model
    return [(part + after, np.float32, ("B", config.hidden)) for part in state_parts(config.cell)]


def _forward(model: AcousticWeights, index: int) -> ModelBytes:
    parts = AcousticParts(model, GraphBuilder())
    states = state_parts(model.config.model.cell)
    ahead, after = parts.cell(index, "forward").run("in", states)
    parts.builder.named("out", ahead)
    for name, value in zip(states, after, strict=True):
        parts.builder.named(f"{name}_after", value)
    return parts.builder.model(
        "forward", [_sequence("in"), *_states(model)], [_sequence("out"), *_states(model, "_after")], {}
    )


def _backward(model: AcousticWeights, index: int) -> ModelBytes:
    parts = AcousticParts(model, GraphBuilder())
    states = state_parts(model.config.model.cell)
    behind, after = parts.cell(index, "backward").run_back("in", parts.at_least_one("counts"), states)
    both = parts.builder.concat(["ahead", behind], 2)
    parts.builder.named("out", parts.behind(index, "in", both))
    for name, value in zip(states, after, strict=True):
        parts.builder.named(f"{name}_after", value)
    inputs = [_sequence("in"), _sequence("ahead"), _COUNTS, *_states(model)]
    return parts.builder.model("backward", inputs, [_sequence("out"), *_states(model, "_after")], {})


def _last(model: AcousticWeights) -> ModelBytes:
    parts = AcousticParts(model, GraphBuilder())
    parts.builder.named("log_probs", parts.log_probs("in"))
    parts.builder.named("frames", parts.output_counts("counts"))
    outputs: list[GraphEnd] = [
        ("log_probs", np.float32, ("B", "T_out", model.tokenizer.vocab_size)),
        ("frames", np.int64, ("B",)),
    ]
    return parts.builder.model("last", [_sequence("in"), _COUNTS], outputs, {})
