"""Recurrent layers as ONNX nodes: LSTM, GRU and RNN operators, and scans for cells without recurrent weights.

All sequences here are time-major, ``(T, B, D)``, as the operators want them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asr.export.graph_builder import GraphBuilder, Weight, join_weights
from asr.models.weight_shapes import GATES

CELL_OPERATORS = {cell: cell.partition("_")[0].upper() for cell in GATES}
_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Torch's order of the gates, by the place that ONNX has them in: i o f g of i f g o, z r n of r z n."""


def state_parts(cell: str) -> tuple[str, ...]:
    """The names of the tensors of a cell's state."""
    return ("h", "c") if cell == "lstm" else ("h",)


@dataclass(frozen=True)
class CellGraph:
    """One direction of one recurrent layer. ``prefix``: of its weights in the model directory."""

    builder: GraphBuilder
    weights: Mapping[str, Weight]
    prefix: str
    cell: str
    hidden: int

    def run(self, x: str, state: Sequence[str], *, reverse: bool = False) -> tuple[str, list[str]]:
        """``x (T, B, D)`` and states ``(B, H)``, none at the start -> ``(T, B, H)`` and the states behind.

        ``reverse``: from the last frame to the first.
        """
        if self.cell not in CELL_OPERATORS:
            return self._scanned(x, state, reverse=reverse)
        builder = self.builder
        before = [builder.unsqueeze(part, 0) for part in state]
        direction = "reverse" if reverse else "forward"
        output, after = _operator(builder, self.cell, self.hidden, [self], x, before, direction=direction)
        return builder.squeeze(output, 1), [builder.squeeze(part, 0) for part in after]

    def run_back(self, x: str, lengths: str, state: Sequence[str] = ()) -> tuple[str, list[str]]:
        """Over padded rows ``x (T, B, D)``, each from its last frame, by ``lengths (B)`` int64 of at least 1, to its
        first -> ``(T, B, H)`` and the states behind."""
        builder = self.builder
        if self.cell in CELL_OPERATORS:
            short = builder.op("Cast", lengths, to=builder.onnx.TensorProto.INT32)
            before = [builder.unsqueeze(part, 0) for part in state]
            output, after = _operator(
                builder, self.cell, self.hidden, [self], x, before, direction="reverse", lengths=short
            )
            return builder.squeeze(output, 1), [builder.squeeze(part, 0) for part in after]
        turned = builder.op("ReverseSequence", x, lengths, time_axis=0, batch_axis=1)
        behind, after = self._scanned(turned, state, lengths=lengths if state else "")
        return builder.op("ReverseSequence", behind, lengths, time_axis=0, batch_axis=1), after

    def matrices(self) -> tuple[Weight, Weight, Weight]:
        """``W (1, G H, D)``, ``R (1, G H, H)`` and the biases ``(1, 2 G H)`` in ONNX's order of gates."""
        gates = _ORDER[CELL_OPERATORS[self.cell]]
        rows = np.concatenate([np.arange(self.hidden) + gate * self.hidden for gate in gates])
        parts = [self.weights[f"{self.prefix}.{name}_l0"].rows(rows) for name in ("weight_ih", "weight_hh")]
        biases = [self.weights[f"{self.prefix}.{name}_l0"].rows(rows) for name in ("bias_ih", "bias_hh")]
        bias = join_weights(biases, 0)
        inputs, recurrent = (part.reshaped(1, *part.values.shape) for part in parts)
        return inputs, recurrent, bias.reshaped(1, len(bias.values))

    def _scanned(
        self, x: str, state: Sequence[str], *, reverse: bool = False, lengths: str = ""
    ) -> tuple[str, list[str]]:
        """``lengths (B)``: behind so many frames, the state of a row stays as it is."""
        builder = self.builder
        if self.cell == "min_gru":
            gates = builder.linear(
                x, self.weights[f"{self.prefix}.gates.weight"], self.weights[f"{self.prefix}.gates.bias"]
            )
            update, candidate = self._split(gates, 2)
            update = builder.op("Sigmoid", update)
            decay = builder.op("Sub", builder.floats(1), update)
            states, last = self._scan(decay, builder.op("Mul", update, candidate), state, reverse, lengths)
            return states, [last]
        linear = builder.linear(
            x, self.weights[f"{self.prefix}.projection.weight"], self.weights[f"{self.prefix}.projection.bias"]
        )
        drive, step, gate = self._split(linear, 3)
        rate = builder.floats(-np.exp(self.weights[f"{self.prefix}.log_rate"].floats))
        decay = builder.op("Exp", builder.op("Mul", builder.op("Softplus", step), rate))
        fresh = builder.op("Mul", builder.op("Sub", builder.floats(1), decay), drive)
        states, last = self._scan(decay, fresh, state, reverse, lengths)
        through = builder.op("Mul", builder.weight(self.weights[f"{self.prefix}.skip"]), drive)
        opened = builder.op("Mul", gate, builder.op("Sigmoid", gate))
        return builder.op("Mul", builder.op("Add", states, through), opened), [last]

    def _split(self, value: str, count: int) -> list[str]:
        sizes = self.builder.constant([self.hidden] * count)
        return self.builder.node("Split", value, sizes, outputs=count, axis=2)

    def _scan(self, decay: str, fresh: str, state: Sequence[str], reverse: bool, lengths: str) -> tuple[str, str]:
        builder = self.builder
        if lengths:
            frames = builder.squeeze(builder.size(decay, 0), 0)
            time = builder.op("Range", builder.constant(0), frames, builder.constant(1))
            valid = builder.op("Less", builder.unsqueeze(time, 1), builder.unsqueeze(lengths, 0))
            valid = builder.unsqueeze(valid, 2)
            decay = builder.op("Where", valid, decay, builder.floats(1))
            fresh = builder.op("Where", valid, fresh, builder.floats(0))
        start = state[0] if state else zeros_like_frame(builder, fresh)
        return scan_nodes(builder, decay, fresh, start, reverse=reverse)


def bidirectional(forward: CellGraph, backward: CellGraph, x: str, lengths: str) -> str:
    """Both directions over padded rows: ``x (T, B, D)``, ``lengths (B)`` int64 of at least 1 -> ``(T, B, 2 H)``.

    The backward direction runs over each row within its own length.
    """
    builder = forward.builder
    if forward.cell in CELL_OPERATORS:
        short = builder.op("Cast", lengths, to=builder.onnx.TensorProto.INT32)
        cells = [forward, backward]
        output, _ = _operator(
            builder, forward.cell, forward.hidden, cells, x, [], direction="bidirectional", lengths=short
        )
        rows = builder.transpose(output, 0, 2, 1, 3)
        return builder.op("Reshape", rows, builder.constant([0, 0, 2 * forward.hidden]))
    ahead, _ = forward.run(x, [])
    return builder.concat([ahead, backward.run_back(x, lengths)[0]], 2)


def scan_nodes(builder: GraphBuilder, decay: str, fresh: str, start: str, *, reverse: bool = False) -> tuple[str, str]:
    """``h_t = a_t h_(t-1) + b_t`` for ``a, b (T, B, D)`` from ``start (B, D)`` -> all states, and the last one."""
    helper = builder.onnx.helper
    nodes = [
        helper.make_node("Mul", ["a", "before"], ["kept"]),
        helper.make_node("Add", ["kept", "b"], ["after"]),
        helper.make_node("Identity", ["after"], ["state"]),
    ]
    body = builder.subgraph("recurrence", nodes, ["before", "a", "b"], ["after", "state"])
    way = [1 if reverse else 0]
    last, states = builder.node(
        "Scan", start, decay, fresh, outputs=2, body=body, num_scan_inputs=2,
        scan_input_directions=way * 2, scan_output_directions=way,
    )  # fmt: skip
    return states, last


def zeros_like_frame(builder: GraphBuilder, x: str) -> str:
    """Zeros ``(B, D)`` for ``x (T, B, D)``."""
    zero = builder.onnx.numpy_helper.from_array(np.zeros(1, np.float32))
    return builder.op("ConstantOfShape", builder.op("Shape", x, start=1, end=3), value=zero)


def _operator(
    builder: GraphBuilder,
    cell: str,
    hidden: int,
    cells: Sequence[CellGraph],
    x: str,
    state: Sequence[str],
    *,
    direction: str,
    lengths: str = "",
) -> tuple[str, list[str]]:
    """The operator of a cell: output ``(T, directions, B, H)`` and the states ``(directions, B, H)``."""
    kind = CELL_OPERATORS[cell]
    inputs = [builder.weight(join_weights(parts, 0)) for parts in zip(*(c.matrices() for c in cells), strict=True)]
    attributes: dict[str, object] = {"hidden_size": hidden, "direction": direction}
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    if kind == "RNN":
        attributes["activations"] = ["Relu" if cell == "rnn_relu" else "Tanh"] * len(cells)
    # The states come behind the lengths; what is left out at the end is not written.
    tail = [lengths, *state] if lengths or state else []
    outputs = builder.node(kind, x, *inputs, *tail, outputs=1 + len(state_parts(cell)), **attributes)
    return outputs[0], outputs[1:]
