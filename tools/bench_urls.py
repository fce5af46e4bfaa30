"""Transcribes many short recordings from an S3-compatible server with latency and errors; says how busy the cores were.

    python tools/bench_urls.py --recordings 10000 --latency-s 0.05 --errors 0.02

The server (tests/object_server.py) runs on the same machine, in a process of its own. Run this on a machine that does
nothing else: ``busy`` is the processor time of the transcription over elapsed time, ``machine_busy`` that of all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
RATE_HZ = 16000
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1"}


def make_recordings(folder: Path, count: int, seconds: float) -> None:
    """Write ``count`` FLAC files of noise in bursts, of ``seconds`` on average."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        length = int(rng.uniform(0.5, 1.5) * seconds * RATE_HZ)
        envelope = np.repeat(rng.uniform(0, 0.2, length // 1600 + 1), 1600)[:length]
        soundfile.write(folder / f"{number:06}.flac", envelope * rng.standard_normal(length), RATE_HZ)


def processor_s() -> tuple[float, float]:
    """Seconds that all processors of this machine were busy and idle (Linux)."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    ticks = os.sysconf("SC_CLK_TCK")
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / ticks, idle / ticks


def transcribe(url: str, out: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run asr transcribe on the bucket of the server at ``url``."""
    command = [sys.executable, "-m", "asr.cli", "transcribe", "s3://bench/set", "--output-dir", str(out)]
    command += ["--model", args.model, "--beam", "1", "--jobs", str(args.jobs)]
    environment = os.environ | KEYS | {"AWS_ENDPOINT_URL": url, "PYTHONPATH": str(ROOT)}
    before, busy = resource.getrusage(resource.RUSAGE_CHILDREN), processor_s()
    started = time.perf_counter()
    status = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
    wall_s = time.perf_counter() - started
    after, busy_after = resource.getrusage(resource.RUSAGE_CHILDREN), processor_s()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    worked, idle = (after - before for before, after in zip(busy, busy_after, strict=True))
    return {"status": status, "wall_s": wall_s, "cpu_s": cpu_s, "machine_busy": worked / (worked + idle)}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="mean length of a recording")
    parser.add_argument("--latency-s", type=float, default=0.05)
    parser.add_argument("--errors", type=float, default=0.02, help="share of requests that fail")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--model", default="an4")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_recordings(folder / "bucket" / "bench" / "set", args.recordings, args.seconds)
        serve = [sys.executable, str(ROOT / "tests" / "object_server.py"), str(folder / "bucket")]
        serve += ["--latency-s", str(args.latency_s), "--errors", str(args.errors)]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            found = transcribe(server.stdout.readline().strip(), folder / "out", args)
            server.terminate()
        summary = json.loads((folder / "out" / "summary.json").read_text())
        texts = sum(1 for _ in (folder / "out").rglob("*.txt"))
    lost = args.recordings - texts
    found |= {"busy": found["cpu_s"] / found["wall_s"] / len(os.sched_getaffinity(0)), "lost": lost}
    settings = {name: value for name, value in vars(args).items() if name != "model"}
    print(json.dumps(settings | {name: round(value, 3) for name, value in found.items()} | {"done": summary["done"]}))


if __name__ == "__main__":
    main()
