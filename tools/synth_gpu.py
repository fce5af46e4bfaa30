"""Synthetic speech on a GPU: Kokoro's packaged weights as floats, and several processes of ``asr synth`` on one GPU.

    python tools/synth_gpu.py weights kokoro.onnx
    python tools/synth_gpu.py speak TEXT OUT --voices PLACE --model kokoro.onnx [--processes 8] [-- --seed 2 --times 3]

``weights`` writes the network of the extra ``synth`` with floats in place of integers (330 MB). The packaged network
rounds its activations to integers, which onnxruntime does on processors only. It needs the package ``onnx``.

``speak`` starts so many processes of ``asr synth --device cuda``, a shard each: one sentence after the other does not
fill a GPU. It needs ``onnxruntime-gpu``. Options behind ``--`` go to ``asr synth``. A run that was interrupted goes on
where it stopped, with the same number of processes. The exit status is the largest of the processes.

**It has not run on a GPU yet.** The float network was compared with the packaged one on a processor
(docs/synthetic_speech.md), and ``speak --device cpu`` is tested.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr import files
from asr.config.arguments import whole
from asr.data.kokoro import packaged_weights
from asr.errors import AsrError, ConfigError

INTEGER = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
"""Operators on integers, and those on floats that do the same."""


def as_floats(model: Any) -> Any:
    """A dynamically quantised ONNX model with floats in place of integers: activations are no longer rounded.

    The quantiser of activations becomes the identity with scale 1, and the products take the weights minus their zero
    points. The scales of the weights are multiplied behind the products, as before. Changes ``model`` and returns it.

    Raises ``ConfigError`` for an operator on integers that it does not know, or weights that are not stored.
    """
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    added: dict[str, np.ndarray] = {}
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            nodes += _identity(node, added)
        elif node.op_type in INTEGER:
            nodes.append(_product(node, stored, added))
        elif node.op_type == "DynamicQuantizeLSTM":
            nodes.append(_lstm(node, stored, added))
        elif "Integer" in node.op_type or node.op_type.startswith(("QLinear", "DynamicQuantize")):
            raise ConfigError(f"{node.name or node.op_type}: no way is known to compute {node.op_type} with floats")
        else:
            nodes.append(node)
    _free_biases(nodes)
    used = {name for node in nodes for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    new = [numpy_helper.from_array(value, name) for name, value in added.items() if name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *new])
    return model


def _free_biases(nodes: Sequence[Any]) -> None:
    """Biases that are rounded to integers to be added to an integer product stay floats."""
    from onnx import TensorProto

    makers = {name: node for node in nodes for name in node.output}
    products = {node.output[0] for node in nodes if node.op_type in INTEGER.values()}
    for node in nodes:
        if node.op_type != "Add" or not products & set(node.input):
            continue
        for name in node.input:
            while (maker := makers.get(name)) is not None and maker.op_type in ("Reshape", "Cast", "Floor", "Identity"):
                if maker.op_type == "Cast":
                    maker.attribute[0].i = TensorProto.FLOAT
                elif maker.op_type == "Floor":
                    maker.op_type = "Identity"
                name = maker.input[0]


def _identity(node: Any, added: dict[str, np.ndarray]) -> list[Any]:
    """In place of a quantiser, whose outputs are the numbers, their scale and their zero point."""
    from onnx import helper

    added[node.output[1]] = np.array(1, np.float32)
    return [helper.make_node("Identity", [node.input[0]], [node.output[0]], f"{node.name}_as_it_is")]


def _product(node: Any, stored: dict[str, np.ndarray], added: dict[str, np.ndarray]) -> Any:
    """A convolution or a matrix product of floats in place of one of integers."""
    from onnx import helper

    weights = _weights(node, node.input[1], stored)
    zero = stored[node.input[3]] if len(node.input) > 3 and node.input[3] else np.zeros((), weights.dtype)
    zero = zero.astype(np.float32)
    if zero.size > 1 and node.op_type == "ConvInteger":
        zero = zero.reshape(-1, *[1] * (weights.ndim - 1))
    name = f"{node.input[1]}_minus_zero"
    added[name] = weights.astype(np.float32) - zero
    made = helper.make_node(INTEGER[node.op_type], [node.input[0], name], list(node.output), node.name)
    made.attribute.extend(node.attribute)
    return made


def _lstm(node: Any, stored: dict[str, np.ndarray], added: dict[str, np.ndarray]) -> Any:
    """An LSTM in place of onnxruntime's quantised one, whose weights ``(directions, inputs, 4 * units)`` lie
    transposed; scales and zero points are one a direction, or one a column."""
    from onnx import helper

    inputs = list(node.input)
    for place, scale_at in ((1, 8), (2, 10)):
        weights = _weights(node, inputs[place], stored)
        scale, zero = (_by_column(stored[inputs[at]]) for at in (scale_at, scale_at + 1))
        name = f"{inputs[place]}_as_floats"
        added[name] = ((weights.astype(np.float32) - zero) * scale).transpose(0, 2, 1).copy()
        inputs[place] = name
    made = helper.make_node("LSTM", inputs[:8], list(node.output), node.name)
    made.attribute.extend(node.attribute)
    return made


def _by_column(value: np.ndarray) -> np.ndarray:
    """``(directions,)`` or ``(directions, columns)`` as it is multiplied with ``(directions, inputs, columns)``."""
    value = value.astype(np.float32)
    return value[:, None, None] if value.ndim == 1 else value[:, None, :]


def _weights(node: Any, name: str, stored: dict[str, np.ndarray]) -> np.ndarray:
    if name not in stored:
        raise ConfigError(f"{node.name or node.op_type}: expected stored weights, got {name} that is computed")
    return stored[name]


def write_weights(path: Path, *, force: bool = False) -> None:
    """The packaged network with floats as an ONNX file. Raises ``AsrError``."""
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("needs the package onnx: pip install 'recurrent-asr[export]'") from error
    files.check_output(path, force=force)
    model = as_floats(onnx.load_model_from_string(packaged_weights()))
    try:
        with files.atomic(path) as new:
            new.write_bytes(model.SerializeToString())
    except OSError as error:
        raise ConfigError(f"{path}: cannot write: {error}") from error


def speak(args: argparse.Namespace) -> int:
    """Run the shards side by side and wait for all; the largest exit status."""
    command = [sys.executable, "-m", "asr.cli", "synth", args.text, args.output, "--voices", args.voices]
    command += ["--model", args.model, "--device", args.device, *args.options]
    shards = [f"{number}/{args.processes}" for number in range(1, args.processes + 1)]
    # Each process needs its own thread to feed the GPU; only the first shows its progress.
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    running = [
        subprocess.Popen([*command, "--shard", shard], env=quiet if number else None)
        for number, shard in enumerate(shards)
    ]
    previous = signal.signal(signal.SIGTERM, lambda number, frame: [child.terminate() for child in running])
    interrupted = False
    try:
        for child in running:
            child.wait()
    except KeyboardInterrupt:  # the processes have it as well, from the terminal
        interrupted = True
    statuses = [abs(child.wait()) for child in running]
    signal.signal(signal.SIGTERM, previous)
    for shard, status in zip(shards, statuses, strict=True):
        if status:
            print(f"shard {shard} ended with {status}; the same command goes on with it", file=sys.stderr)
    return 130 if interrupted else max(statuses)


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what stands behind ``--`` is for ``asr synth``."""
    own = list(sys.argv[1:] if argv is None else argv)
    own, options = (own[: own.index("--")], own[own.index("--") + 1 :]) if "--" in own else (own, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("weights")
    verb.add_argument("output", type=Path, help="the ONNX file to write")
    verb.add_argument("--force", action="store_true", help="write over it")
    verb = verbs.add_parser("speak")
    verb.add_argument("text", help="English, one sentence a line")
    verb.add_argument("output", help="folder for the audio and the manifests, one a process")
    verb.add_argument("--voices", required=True, help="as for asr synth")
    verb.add_argument("--model", required=True, help="Kokoro as ONNX, with floats")
    verb.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    verb.add_argument("--processes", type=whole(1, 256), default=8, metavar="N", help="on this GPU (default: 8)")
    args = parser.parse_args(own)
    if options and args.verb != "speak":
        parser.error("expected options of asr synth (behind --) with speak alone")
    args.options = options
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the verbs; returns the exit status."""
    args = read_arguments(argv)
    if args.verb == "speak":
        return speak(args)
    write_weights(args.output, force=args.force)
    print(f"{args.output}: {os.path.getsize(args.output) / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
