"""A recurrent language model as an ONNX graph: one token of each of many sequences at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from asr.config import loader
from asr.export.cell_graphs import CellGraph, state_parts
from asr.export.graph_builder import GraphBuilder, Weight
from asr.export.onnx_writer import ModelBytes
from asr.lm.lm_directory import LanguageDescription, LanguageDirectory


def language_graph(
    language: LanguageDescription | LanguageDirectory,
    weights: Mapping[str, Weight],
    storage: str = "float32",
    source: str = "",
) -> ModelBytes:
    """``tokens (N)`` and ``state (N, layers, parts, hidden)`` -> ``log_probs (N, V)`` of the tokens that follow, and
    ``next.state``.

    Args:
        language: a directory; its network is not looked at.
        weights: its weights by name.
        storage: how they are stored, for the metadata.
        source: the checksum of their file, for the metadata: an export then counts as the same language model.
    """
    builder, config = GraphBuilder(), language.config.model
    parts = state_parts(config.cell)
    embedding = builder.weight(weights["embedding.weight"])
    x = builder.unsqueeze(builder.op("Gather", embedding, "tokens"), 0)
    after: list[str] = []
    for layer in range(config.layers):
        own = builder.squeeze(builder.slice("state", layer, layer + 1, 1), 1)
        before = [builder.squeeze(builder.slice(own, i, i + 1, 1), 1) for i in range(len(parts))]
        cell = CellGraph(builder, weights, f"cells.{layer}", config.cell, config.hidden)
        x, states = cell.run(x, before)
        after.append(builder.unsqueeze(builder.concat([builder.unsqueeze(s, 1) for s in states], 1), 1))
    x = builder.linear(builder.squeeze(x, 0), weights["project.weight"], weights["project.bias"])
    logits = builder.op("MatMul", x, builder.transpose(embedding, 1, 0))
    logits = builder.op("Add", logits, builder.weight(weights["bias"]))
    builder.named("log_probs", builder.op("LogSoftmax", logits, axis=-1))
    builder.named("next.state", builder.concat(after, 1))
    state = (np.float32, ("N", config.layers, len(parts), config.hidden))
    metadata = {
        "asr.config": loader.dumps(language.config),
        "asr.tokens": list(language.tokenizer.symbols),
        "asr.card": dict(language.card),
        "asr.weights": storage,
        **({"asr.source": source} if source else {}),
        "asr.state": [config.layers, len(parts), config.hidden],
    }
    inputs = [("tokens", np.int64, ("N",)), ("state", *state)]
    outputs = [("log_probs", np.float32, ("N", language.tokenizer.vocab_size)), ("next.state", *state)]
    return builder.model("lm", inputs, outputs, metadata)
