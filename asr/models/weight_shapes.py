"""Names and shapes of the weights of networks, by their configuration: what a file must hold, without torch."""

from __future__ import annotations

from asr.config.language import NetworkConfig
from asr.config.sections import ModelConfig

Shapes = dict[str, tuple[int, ...]]
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "rnn_relu": 1}
"""Gates of the cells that torch and ONNX have operators for; the others are scans."""
KERNEL = 3
"""Frames and bins that each convolution sees."""
LEFT = KERNEL - 1
"""Frames of silence-like context (zeros, the training mean) in front of the first frame of each convolution."""


def acoustic_shapes(config: ModelConfig, mel_bins: int, vocab_size: int) -> Shapes:
    """Of ``asr.models.acoustic.AcousticModel``."""
    channels, hidden = config.channels, config.hidden
    inputs = channels * (((mel_bins + 1) // 2 + 1) // 2)
    shapes = _linear("subsampling.convs.0", channels, 1, KERNEL, KERNEL)
    shapes |= _linear("subsampling.convs.1", channels, channels, KERNEL, KERNEL)
    shapes |= _linear("input_norm", inputs)
    directions = ("forward", "backward") if config.bidirectional else ("forward",)
    for index in range(config.layers):
        for direction in directions:
            shapes |= _cell(f"encoder.layers.{index}.{direction}_cell", config.cell, inputs, hidden)
        inputs = len(directions) * hidden
        if config.projection:
            shapes |= _linear(f"encoder.projections.{index}", config.projection, inputs)
            inputs = config.projection
        shapes |= _linear(f"encoder.norms.{index}", inputs)
        if config.lookahead and index < config.layers - 1:
            shapes |= _linear(f"encoder.lookaheads.{index}.mix", inputs, 2 * inputs)
    return shapes | _linear("output", config.upsampling * vocab_size, inputs)


def language_shapes(config: NetworkConfig, vocab_size: int) -> Shapes:
    """Of ``asr.lm.recurrent.LanguageNetwork``."""
    shapes: Shapes = {"embedding.weight": (vocab_size, config.embedding), "bias": (vocab_size,)}
    for layer in range(config.layers):
        shapes |= _cell(f"cells.{layer}", config.cell, config.hidden if layer else config.embedding, config.hidden)
    return shapes | _linear("project", config.embedding, config.hidden)


def _linear(name: str, outputs: int, *inputs: int) -> Shapes:
    """A weight with its bias; without ``inputs`` those of a normalisation."""
    return {f"{name}.weight": (outputs, *inputs), f"{name}.bias": (outputs,)}


def _cell(name: str, kind: str, inputs: int, hidden: int) -> Shapes:
    if kind == "min_gru":
        return _linear(f"{name}.gates", 2 * hidden, inputs)
    if kind == "ssm":
        own: Shapes = {f"{name}.log_rate": (hidden,), f"{name}.skip": (hidden,)}
        return own | _linear(f"{name}.projection", 3 * hidden, inputs)
    rows = GATES[kind] * hidden
    return {
        f"{name}.weight_ih_l0": (rows, inputs),
        f"{name}.weight_hh_l0": (rows, hidden),
        f"{name}.bias_ih_l0": (rows,),
        f"{name}.bias_hh_l0": (rows,),
    }
