"""Benchmarks, each a ratio taken in one run.

    python tools/bench.py transcribe FILE... [--model DIR|NAME] [--threads N] [--repeat N]

``transcribe`` gives seconds of computing per second of audio, model loading apart: one file after the other, as a
user's files come, and all in one batch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

import asr
from asr.recognizer import Item, Recognizer


def transcribe(args: argparse.Namespace) -> int:
    """Print load time and real-time factors."""
    started = time.perf_counter()
    recognizer = asr.load(args.model, device="cpu")
    load_s = time.perf_counter() - started
    audio_s = sum(recognizer.transcribe(path).duration_s for path in args.files)
    single = measure(lambda: [recognizer.transcribe(path) for path in args.files], args.repeat)
    batch = measure(lambda: run_batch(recognizer, args.files), args.repeat)
    print(f"{len(args.files)} files, {audio_s:.1f} s of audio, {torch.get_num_threads()} threads, load {load_s:.2f} s")
    for name, seconds in (("one by one", single), ("batched", batch)):
        print(f"{name:>11}: {seconds:.3f} s = {seconds / audio_s:.4f} x real time")
    return 0


def run_batch(recognizer: Recognizer, files: list[str]) -> None:
    """Transcribe all files, raising the first error."""
    for _, result in recognizer.transcribe_many(Item(path, path) for path in files):
        if isinstance(result, asr.AsrError):
            raise result


def measure(function: Callable[[], object], repeat: int) -> float:
    """Median seconds of ``repeat`` calls."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("transcribe")
    command.add_argument("files", nargs="+")
    command.add_argument("--model")
    command.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    command.add_argument("--repeat", type=int, default=5)
    command.set_defaults(run=transcribe)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
