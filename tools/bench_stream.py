"""Measures streams: time per block of one stream, and how many streams keep up in real time (see bench.py)."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np
import torch

import asr
from asr.audio import read
from asr.decode.endpoint import Endpoint
from asr.recognize.recognizer import Recognizer
from asr.recognize.stream import Stream
from asr.recognize.stream_batch import StreamBatch

WARM_UP = 25
"""Blocks of a stream before its times count."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``bench.py stream``."""
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--model", metavar="DIR|NAME", default="stream")
    parser.add_argument("--beam", type=int, help="default: as the model directory says")
    parser.add_argument("--block", type=float, default=0.04, metavar="S", help="of the one stream (default: 0.04)")
    parser.add_argument("--streams", type=int, default=100, metavar="N")
    parser.add_argument("--stream-block", type=float, default=0.1, metavar="S", help="of the many (default: 0.1)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of sound in each of the many (default: 30)")
    parser.add_argument("--chunk-s", type=float, help="for a bidirectional model")
    parser.add_argument("--right-s", type=float)
    parser.add_argument("--threads", type=int)


def quantiles(values: Sequence[float]) -> str:
    """Median, 99 % and largest of seconds, in milliseconds."""
    median, p99, largest = np.quantile(values, [0.5, 0.99, 1.0]) * 1000
    return f"median {median:.2f} ms, p99 {p99:.2f} ms, largest {largest:.2f} ms"


def one_stream(recognizer: Recognizer, sound: np.ndarray, args: argparse.Namespace) -> list[float]:
    """Seconds of computing for each block."""
    size = round(args.block * recognizer.sample_rate_hz)
    stream = Stream(recognizer, endpoint=Endpoint(), chunk_s=args.chunk_s, right_s=args.right_s)
    times = []
    for at in range(0, len(sound) - size, size):
        started = time.perf_counter()
        stream.accept(sound[at : at + size])
        times.append(time.perf_counter() - started)
    return times[WARM_UP:]


def many_streams(recognizer: Recognizer, sound: np.ndarray, args: argparse.Namespace) -> tuple[list[float], float]:
    """Lags in seconds from the arrival of a block to the text that includes it, and the share of time spent computing.

    Blocks of one stream arrive evenly; streams start at random moments. All blocks that have arrived are advanced
    together. The clock is simulated: computing takes what it takes, waiting takes no time.
    """
    rate = recognizer.sample_rate_hz
    size, blocks = round(args.stream_block * rate), round(args.seconds / args.stream_block)
    rng = np.random.default_rng(1)
    batch = StreamBatch(recognizer, endpoint=Endpoint(), chunk_s=args.chunk_s, right_s=args.right_s)
    streams = [batch.open() for _ in range(args.streams)]
    starts = rng.integers(0, len(sound), args.streams)
    arrivals = rng.uniform(0, args.stream_block, args.streams)[:, None] + args.stream_block * (1 + np.arange(blocks))
    taken = np.zeros(args.streams, dtype=int)
    now, busy, lags = 0.0, 0.0, []
    while (taken < blocks).any():
        nexts = np.where(taken < blocks, arrivals[np.arange(args.streams), np.minimum(taken, blocks - 1)], np.inf)
        now = max(now, float(nexts.min()))
        ready = np.flatnonzero(nexts <= now)
        counts = [int((arrivals[s, taken[s] :] <= now).sum()) for s in ready]
        given = {}
        for s, count in zip(ready, counts, strict=True):
            at = (starts[s] + taken[s] * size + np.arange(count * size)) % len(sound)
            given[streams[s]] = sound[at]
        started = time.perf_counter()
        batch.accept(given)
        spent = time.perf_counter() - started
        busy, now = busy + spent, now + spent
        for s, count in zip(ready, counts, strict=True):
            lags += (now - arrivals[s, taken[s] : taken[s] + count]).tolist()
            taken[s] += count
    return lags, busy / now


def run(args: argparse.Namespace) -> int:
    """Print both."""
    if args.threads:
        torch.set_num_threads(args.threads)
    decoding = {} if args.beam is None else {"beam": args.beam}
    recognizer = asr.load(args.model, device="cpu", **decoding)
    sound = np.concatenate([read.load_audio(path, recognizer.sample_rate_hz) for path in args.files])
    one_stream(recognizer, sound[: 10 * recognizer.sample_rate_hz], args)
    print(f"{torch.get_num_threads()} threads, beam {recognizer.decoder.options.beam}")
    print(f"one stream, blocks of {1000 * args.block:.0f} ms: {quantiles(one_stream(recognizer, sound, args))}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lags, load = many_streams(recognizer, sound, args)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 / args.streams
    print(f"{args.streams} streams, blocks of {1000 * args.stream_block:.0f} ms: lag {quantiles(lags)}")
    print(f"computing {100 * load:.0f} % of the time; {grown:.2f} MiB of peak memory per stream")
    return 0
