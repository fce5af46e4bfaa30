"""Kills ``asr train`` at random moments, and checks that no process is left and that the result is the same to the bit.

    python tools/kill_training.py WORK [--workers 0 1 2] [--times 10] [--seed 0]

WORK gets synthetic recordings. For each number of loader processes one training runs undisturbed. Another is killed
with SIGKILL so many times, in the middle of its epochs, and resumed each time. Exits with 1 if a process outlives its
training, or if weights or losses differ from those of the undisturbed run. WORK/kills.jsonl counts the kills: the same
command again continues there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from asr.data.manifest import Utterance, write_manifest
from asr.models.tensors import load_metadata, load_tensors

RATE_HZ = 8000
UTTERANCES = 60
EPOCHS = 30
KILLS = "kills.jsonl"
GONE_S = 30.0
"""Seconds in which the processes of a killed training must end."""


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--times", type=int, default=10, help="kills for each number of workers")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args(arguments)
    configuration = write_corpus(args.work)
    rng = random.Random(args.seed)
    faults = []
    for workers in args.workers:
        whole, killed = (args.work / f"{name}{workers}" for name in ("whole", "killed"))
        train(configuration, whole, workers).wait()
        moments = counted(args.work, workers)
        while len(moments) < args.times:
            moments.append(kill(configuration, killed, workers, rng))
            with (args.work / KILLS).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"workers": workers, "moment": moments[-1]}) + "\n")
        status = train(configuration, killed, workers).wait()
        left = sum(outlived for _, outlived in moments)
        same = status == 0 and same_run(whole, killed)
        steps = ", ".join(str(step) for step, _ in moments)
        print(f"{workers} workers: {len(moments)} kills after steps {steps}: {left} processes left, same run: {same}")
        sys.stdout.flush()
        if left or not same:
            faults.append(workers)
    return 1 if faults else 0


def counted(work: Path, workers: int) -> list[tuple[int, int]]:
    """The kills that an earlier command has done with so many workers, as ``kill`` returns them."""
    if not os.path.exists(work / KILLS):
        return []
    lines = map(json.loads, (work / KILLS).read_text(encoding="utf-8").splitlines())
    return [(line["moment"][0], line["moment"][1]) for line in lines if line["workers"] == workers]


def write_corpus(work: Path) -> Path:
    """Tones with texts, and a configuration that distorts them and saves after almost every step."""
    work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    made = []
    for number in range(UTTERANCES):
        text = "".join(rng.choice(list("ABC"), rng.integers(2, 6)))
        hz = np.repeat([300 + 200 * "ABC".index(letter) for letter in text], RATE_HZ // 4)
        path = work / f"{number}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ), RATE_HZ)
        made.append(Utterance(f"u{number}", str(path), text, len(hz) / RATE_HZ, f"s{number % 4}"))
    write_manifest(work / "train.jsonl", made[:-8])
    write_manifest(work / "valid.jsonl", made[-8:])
    tree = {
        "features": {"sample_rate_hz": RATE_HZ, "high_hz": 4000.0, "mel_bins": 16},
        "augment": {"noise_prob": 0.5, "reverb_prob": 0.3, "speeds": [0.9, 1.0, 1.1]},
        "model": {"subsampling": 2, "channels": 2, "layers": 1, "hidden": 12, "dropout": 0.2},
        "data": {"train": str(work / "train.jsonl"), "valid": str(work / "valid.jsonl"), "batch_s": 4.0},
        "train": {"epochs": EPOCHS, "threads": 1, "device": "cpu", "ema": 0.9, "checkpoint_every_s": 0.001},
    }
    configuration = work / "conf.yaml"
    configuration.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return configuration


def train(configuration: Path, folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """Begin a training, or go on with it."""
    keys = [f"train.output={folder}", f"data.workers={workers}"]
    resumed = ["--resume"] if (folder / "checkpoint.safetensors").exists() else []
    arguments = [sys.executable, "-m", "asr.cli", "train", str(configuration), *keys, *resumed]
    with (configuration.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=log)


def kill(configuration: Path, folder: Path, workers: int, rng: random.Random) -> tuple[int, int]:
    """Kill the training at a random moment after its next checkpoint; the step of its last one, and processes left.

    Raises ``RuntimeError`` where the training ends before.
    """
    checkpoint, process = folder / "checkpoint.safetensors", train(configuration, folder, workers)
    before = written(checkpoint)
    while written(checkpoint) == before and process.poll() is None:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.5))
    children = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"{folder}: the training ended with status {process.returncode} before it was killed")
    end = time.monotonic() + GONE_S
    while any(map(alive, children)) and time.monotonic() < end:
        time.sleep(0.05)
    return load_metadata(checkpoint)["progress"]["step"], sum(map(alive, children))


def written(path: Path) -> int | None:
    """When a file was last written."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def status_of(pid: int | str) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name; none for a process that has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether a process runs."""
    fields = status_of(pid)
    return bool(fields) and fields[0] != "Z"


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    parents = {
        int(name): int(fields[1]) for name in os.listdir("/proc") if name.isdigit() and (fields := status_of(name))
    }
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def same_run(one: Path, other: Path) -> bool:
    """Whether two runs have equal weights, averages, moments and random states, and equal logs but for the times."""
    for name in ("model.safetensors", "checkpoint.safetensors"):
        first, second = (load_tensors(folder / name)[0] for folder in (one, other))
        if first.keys() != second.keys() or not all(torch.equal(first[key], second[key]) for key in first):
            return False
    return logged(one) == logged(other)


def logged(folder: Path) -> list[dict[str, object]]:
    """The lines of a log without times."""
    lines = (json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in line.items() if name not in ("seconds", "time")} for line in lines]


if __name__ == "__main__":
    sys.exit(main())
