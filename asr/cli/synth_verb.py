"""The command that speaks texts: asr synth."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from asr.cli.shared_options import OK, SOME_FAILED
from asr.config.arguments import number, whole


def add_synth_command(commands: Any) -> None:
    """Add the command to the parser's subparsers."""
    synth = commands.add_parser(
        "synth",
        help="speak texts in many voices, to train on",
        description="Each line of TEXT becomes an audio file and a line of OUT/manifest.jsonl, which asr train takes. "
        "Voices are Kokoro's and mixtures of them. The same command continues an interrupted run. "
        "Exit status: 0 all lines spoken, 1 some left out, 2 nothing done.",
    )
    synth.add_argument("text", type=Path, metavar="TEXT", help="English, one sentence a line")
    synth.add_argument("output", type=Path, metavar="OUT", help="folder for the audio and the manifest")
    synth.add_argument(
        "--voices", required=True, metavar="PLACE", help="folder of NAME.bin files, or voices-v1.0.bin of kokoro-onnx"
    )
    synth.add_argument("--model", metavar="FILE", help="Kokoro as ONNX (default: the weights of the extra synth)")
    synth.add_argument("--voice", default="", metavar="NAME", help="one voice for all (default: voices and mixtures)")
    synth.add_argument(
        "--spread",
        type=number(1, 1.9),
        default=1.25,
        metavar="F",
        help="largest distance of mixtures from the mean voice (default: 1.25)",
    )
    synth.add_argument("--speed", type=number(0.5, 2), nargs=2, default=(0.8, 1.25), metavar=("LOW", "HIGH"))
    synth.add_argument(
        "--pitch", type=number(0, 6), default=0.0, metavar="SEMITONES", help="largest change, up and down (default: 0)"
    )
    synth.add_argument("--seed", type=whole(0), default=1)
    synth.add_argument("--shard", type=_shard, default=(1, 1), metavar="K/N", help="speak every Nth line, from line K")
    synth.add_argument("--limit", type=whole(1), metavar="N", help="only the first N utterances")
    synth.add_argument(
        "--times",
        type=whole(1, 100_000),
        default=1,
        metavar="N",
        help="speak the text N times, in new voices",
    )
    synth.add_argument("--format", choices=("flac", "wav"), default="flac")
    synth.add_argument("--threads", type=whole(1, 1024), default=1, metavar="N", help="processor threads (default: 1)")
    synth.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="cpu, or with onnxruntime-gpu and a --model of floats cuda or cuda:N (default: cpu)",
    )
    synth.set_defaults(run=_synth)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, such as 2/8, got {text!r}")
    return int(match[1]), int(match[2])


def _synth(args: argparse.Namespace) -> int:
    from asr.data import manifest
    from asr.data.synth import SynthOptions, synthesise

    options = SynthOptions(args.voice, args.spread, tuple(args.speed), args.pitch, args.seed, args.format)
    path, left = synthesise(
        args.text, args.output, args.voices, options,
        model=args.model, shard=args.shard, limit=args.limit, times=args.times, threads=args.threads,
        device=args.device,
    )  # fmt: skip
    if path.stat().st_size:
        print(f"{path}: {manifest.statistics(manifest.read_manifest(path))}")
    return SOME_FAILED if left else OK
