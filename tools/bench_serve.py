"""Measures `asr serve` from outside: lag of live streams, overload, vanishing clients, short files (see bench.py).

The server is a process of its own, and so are its clients; all share this machine. Clients speak the Vosk protocol and
send blocks in real time. The lag of a block runs from sending its last byte to receiving the reply that contains it.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
from serve_clients import RATE_HZ, REALTIME_HZ, Result, run_clients, vanish

from asr.audio import read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``bench.py serve``."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="speech that the clients send, over and over")
    parser.add_argument("--model", metavar="NAME[=DIR]", default="stream")
    parser.add_argument("--file-model", metavar="NAME[=DIR]", help="for --short (default: as --model)")
    parser.add_argument("--workers", type=int, help="of the server (default: as asr serve)")
    parser.add_argument("--streams", type=int, default=100, metavar="N")
    parser.add_argument("--block", type=float, default=0.1, metavar="S")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each stream (default: 30)")
    parser.add_argument("--clients", type=int, default=2, help="processes that the clients share (default: 2)")
    parser.add_argument("--ramp", type=float, default=2.0, metavar="S", help="in which the streams begin (default: 2)")
    parser.add_argument("--overload", type=int, metavar="N", help="then so many streams at once")
    parser.add_argument("--vanish", type=int, metavar="N", help="then so many clients that connect, speak and vanish")
    parser.add_argument("--short", type=int, metavar="N", help="then so many 3-second files beside a 2-hour one")
    parser.add_argument("--commits", type=int, metavar="N", help="then so many clients of the Realtime API that commit")
    parser.add_argument(
        "--soak", type=float, metavar="S", help="then half of the streams for so long: growth of memory"
    )
    parser.add_argument("--option", action="append", default=[], metavar="X", help="further options of asr serve")


class Server:
    """`asr serve` as a process."""

    def __init__(self, args: argparse.Namespace, *more: str) -> None:
        models = dict.fromkeys(filter(None, (args.model, args.file_model)))
        options = [x for model in models for x in ("--model", model)]
        options += ["--workers", str(args.workers)] if args.workers else []
        options += ["--port", "0", *args.option, *more]
        beside = os.path.join(os.path.dirname(__file__), "serve_beside.py")  # it ends with this process
        command = [sys.executable, beside, str(os.getpid()), "serve", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.port = 0
        for line in self.process.stderr:
            if found := re.search(r"serving on http://[^:]+:(\d+)/", line):
                self.port = int(found[1])
                break
            print(line, end="", file=sys.stderr)
        if not self.port:
            raise SystemExit("the server did not start")
        threading.Thread(target=self._show_messages, daemon=True).start()

    def _show_messages(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            print(time.strftime("%H:%M:%S"), line, end="", file=sys.stderr, flush=True)

    def processes(self) -> list[int]:
        """Ids of the server and its workers."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
                todo += map(int, file.read().split())
        return found

    def memory_mb(self) -> float:
        """Memory of all its processes, what they share counted once.

        Without pages of files: how many of those there are, and how many of them count here, depends on what else the
        machine runs.
        """
        total = 0
        for pid in self.processes():
            with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        return total / 1024

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds of each of its processes."""
        found = {}
        for pid in self.processes():
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                parts = file.read().rpartition(")")[2].split()
            found[pid] = (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def get(self, path: str) -> str:
        """What a path answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def end(self) -> None:
        """End it as systemd would."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            print("the server does not end", file=sys.stderr)
            self.process.kill()


def quantiles(values: Sequence[float]) -> str:
    """Median, 99 % and largest of seconds, in milliseconds."""
    if not values:
        return "none"
    median, p99, largest = np.quantile(values, [0.5, 0.99, 1.0]) * 1000
    return f"median {median:.0f} ms, p99 {p99:.0f} ms, largest {largest:.0f} ms"


def many(
    server: Server, sound: np.ndarray, count: int, args: argparse.Namespace, ramp_s: float, realtime: bool = False
) -> Result:
    """``count`` clients over all client processes."""
    shares = [count // args.clients + (i < count % args.clients) for i in range(args.clients)]
    total = Result()
    with ProcessPoolExecutor(args.clients, get_context("spawn")) as pool:
        futures = [
            pool.submit(run_clients, server.port, sound, share, args, seed, ramp_s, realtime)
            for seed, share in enumerate(shares)
        ]
        for future in futures:
            total = total.add(future.result())
    return total


def report(name: str, server: Server, result: Result, before: dict[int, float], seconds: float) -> None:
    """Print what clients have seen, and what it has cost."""
    after = server.cpu_s()
    spent = {pid: after[pid] - before.get(pid, 0.0) for pid in after}
    front = spent.pop(server.process.pid, 0.0)
    print(
        f"{name}: {result.served} served, lag {quantiles(result.lags)}; {result.refused.total()} refused "
        f"{dict(result.refused)}, after {quantiles(result.refused_after_s)}; lost {dict(result.lost)}; "
        f"{result.words} words; CPU of the server {front / seconds:.2f}, of its workers "
        f"{sum(spent.values()) / seconds:.2f} of a core; {server.memory_mb():.0f} MB"
    )


def load_sound(files: Sequence[str], rate_hz: int) -> np.ndarray:
    """All files, one behind the other, as 16-bit samples."""
    sound = np.concatenate([read.load_audio(path, rate_hz) for path in files])
    whole: np.ndarray = np.round(np.clip(sound, -1, 1) * 32767).astype("<i2")
    return whole


def run(args: argparse.Namespace) -> int:
    """Print each measurement."""
    sound = load_sound(args.files, RATE_HZ)
    server = Server(args)
    try:
        if args.streams:
            before, started = server.cpu_s(), time.perf_counter()
            result = many(server, sound, args.streams, args, args.ramp)
            report(f"{args.streams} streams", server, result, before, time.perf_counter() - started)
        if args.overload:
            before, started = server.cpu_s(), time.perf_counter()
            result = many(server, sound, args.overload, args, args.ramp)
            report(f"{args.overload} streams at once", server, result, before, time.perf_counter() - started)
        if args.commits:
            before, started = server.cpu_s(), time.perf_counter()
            result = many(server, load_sound(args.files, REALTIME_HZ), args.commits, args, args.ramp, realtime=True)
            report(f"{args.commits} that commit", server, result, before, time.perf_counter() - started)
        if args.soak:
            measure_growth(server, sound, args)
    finally:
        server.end()
    for measure, asked in ((measure_vanishing, args.vanish), (measure_short, args.short)):
        if asked:
            server = Server(args, "--lag-s", "none")
            try:
                measure(server, sound, args)
            finally:
                server.end()
    return 0


def measure_growth(server: Server, sound: np.ndarray, args: argparse.Namespace) -> None:
    """Memory while half of the streams speak for a long time."""
    long = argparse.Namespace(**vars(args) | {"seconds": args.soak})
    samples: list[float] = []
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(many, server, sound, args.streams // 2, long, args.ramp)
        while not future.done():
            time.sleep(min(30.0, args.soak / 20))
            samples.append(server.memory_mb())
        result = future.result()
    start, end = (statistics.median(part) for part in (samples[2:6], samples[-4:]))
    print(
        f"{result.served} streams for {args.soak:g} s, lost {dict(result.lost)}: memory {start:.1f} MB, "
        f"then {end:.1f} MB ({100 * (end / start - 1):+.2f} %); lag {quantiles(result.lags)}"
    )


def measure_vanishing(server: Server, sound: np.ndarray, args: argparse.Namespace) -> None:
    """Memory before and behind many clients that vanish; a first few fill what is filled once."""
    vanish(server.port, sound, 50, 1)
    time.sleep(1)
    before = server.memory_mb()
    served = vanish(server.port, sound, args.vanish, 2)
    time.sleep(3)
    streams = re.search(r"^asr_streams (\S+)", server.get("/metrics"), re.MULTILINE)
    print(
        f"{args.vanish} clients vanish, {served} of them served: memory {before:.1f} MB before, "
        f"{server.memory_mb():.1f} MB behind; {streams[1] if streams else '?'} streams left"
    )


def measure_short(server: Server, sound: np.ndarray, args: argparse.Namespace) -> None:
    """Seconds until short files are answered, alone and beside a file of two hours."""
    import tempfile

    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        short, long = os.path.join(folder, "short.wav"), os.path.join(folder, "long.wav")
        soundfile.write(short, sound[: 3 * RATE_HZ], RATE_HZ)
        with soundfile.SoundFile(long, "w", RATE_HZ, 1) as file:
            for _ in range(-(-7200 * RATE_HZ // len(sound))):
                file.write(sound)
        name = (args.file_model or args.model).partition("=")[0]
        alone = [_post(server.port, short, name) for _ in range(args.short)]
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            future = pool.submit(_post, server.port, long, name)
            time.sleep(3)
            beside = [_post(server.port, short, name) for _ in range(args.short)]
            under_way = not future.done()
            print(
                f"3 s of sound: alone {quantiles(alone)}; beside 2 hours {quantiles(beside)}"
                f"{'' if under_way else ' (the long one was done before)'}; "
                f"the 2 hours took {future.result():.1f} s"
            )
    pieces = re.search(r"^asr_longest_file_piece_seconds (\S+)", server.get("/metrics"), re.MULTILINE)
    print(f"longest piece of computing {pieces[1] if pieces else '?'} s")


def _post(port: int, path: str, model: str) -> float:
    """Seconds until a file is transcribed over REST."""
    import httpx

    started = time.perf_counter()
    with open(path, "rb") as file:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/audio/transcriptions",
            files={"file": file},
            data={"model": model},
            timeout=3600,
        )
    answer.raise_for_status()
    return time.perf_counter() - started
