"""Kills actors, machines and drivers of ``asr transcribe --engine ray``, and checks that every result is there once.

    python tools/kill_ray.py WORK [--times 20] [--kinds actor node driver] [--recordings 500] [--model an4]

WORK gets synthetic recordings, the results of an undisturbed run, and ``kills.jsonl`` with a line for each kill. The
command goes on from there if it is started again. Ray runs as two machines of one processor each, on this one. A kill
comes when a random number of parts of the results is there, and a random moment after: from the start of the first
actor to the last part. One that comes after the end is tried again, earlier. Exits with 1 if a result is missing, there
twice or other than in the undisturbed run, or if the command fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from asr.recognize.result_parts import read_results

RATE_HZ = 16000
STORE_BYTES = 200_000_000
KINDS = ("actor", "node", "driver")
FAULTS = ("missing", "twice", "other", "status")
PARTS = 10
"""Parts of a run, at least: else there would be none to keep when the driver dies."""


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--times", type=int, default=20, help="kills of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--recordings", type=int, default=500)
    parser.add_argument("--model", default="an4")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    speech = args.work / "speech"
    write_speech(speech, args.recordings)
    cluster = TwoMachines()
    try:
        trial = Trial(cluster, speech, args.work, args.model, max(1, args.recordings // PARTS))
        trial.expected = trial.undisturbed()
        return run_trials(trial, args)
    finally:
        cluster.close()


def run_trials(trial: Trial, args: argparse.Namespace) -> int:
    """Kill until there are enough of each kind; print what each kind led to."""
    report = args.work / "kills.jsonl"
    lines = report.read_text().splitlines() if report.exists() else []
    known = [json.loads(line) for line in lines]
    rng = random.Random(args.seed + len(known))
    had = Counter(one["kind"] for one in known)
    todo = [kind for number in range(args.times) for kind in args.kinds if number >= had[kind]]
    for kind in tqdm(todo, desc="killing", disable=None):
        parts, moment_s = rng.randrange(PARTS), rng.uniform(0, trial.part_s)
        while (result := trial.run(kind, parts, moment_s)) is None:
            parts, moment_s = max(0, parts - 1), moment_s * 0.7  # it had ended before
        known.append(result)
        with report.open("a") as file:
            file.write(json.dumps(result) + "\n")
    for kind in args.kinds:
        found = [one for one in known if one["kind"] == kind]
        good = sum(not any(one[fault] for fault in FAULTS) for one in found)
        print(f"{kind}: {good} of {len(found)} kills left every one of {len(trial.expected)} results once")
    return int(any(one[fault] for one in known for fault in FAULTS))


class TwoMachines:
    """Ray on two machines of one processor each, on this one."""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        self._folder = tempfile.mkdtemp(prefix="ray")
        size = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
        first = {**size, "include_dashboard": False, "temp_dir": self._folder}
        self._cluster = Cluster(initialize_head=True, head_node_args=first)
        self._size = size
        self._second = self._cluster.add_node(**size)
        self.address = self._cluster.address

    def kill_machine(self) -> None:
        """End the second machine at once."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def replace_machine(self) -> None:
        """Put another in its place."""
        self._second = self._cluster.add_node(**self._size)

    def actors(self) -> list[int]:
        """Processes of actors with a model: descendants of this process by their title."""
        parents, titled = {}, []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if b"RayRecognizer" in (place / "cmdline").read_bytes():
                    titled.append(int(place.name))
            except (OSError, IndexError, ValueError):
                continue  # it has ended

        def ours(process: int) -> bool:
            while process > 1 and process != os.getpid():
                process = parents.get(process, 0)
            return process == os.getpid()

        return [process for process in titled if ours(process)]

    def close(self) -> None:
        """End Ray, and remove its files."""
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


class Trial:
    """Transcribes a folder and kills something meanwhile."""

    def __init__(self, cluster: TwoMachines, speech: Path, work: Path, model: str, part_recordings: int) -> None:
        self.cluster, self.speech, self.work, self.model = cluster, speech, work, model
        self.part_recordings = part_recordings
        self.expected: dict[str, str] = {}
        self.part_s = 0.0
        """Between two parts of the undisturbed run."""

    def undisturbed(self) -> dict[str, str]:
        """Texts by id."""
        out = self.work / "undisturbed"
        shutil.rmtree(out, ignore_errors=True)
        driver = self._start(out)
        self._await(driver, lambda: self._parts(out) > 0)
        begun = time.monotonic()
        if driver.wait() != 0:
            raise SystemExit(f"the undisturbed run failed: see {self.work / 'driver.log'}")
        self.part_s = (time.monotonic() - begun) / PARTS
        return {result["id"]: result["text"] for result in read_results(out)}

    def run(self, kind: str, wanted: int, moment_s: float) -> dict[str, Any] | None:
        """What was wrong after a kill when so many parts were there, and a moment later; None for a kill that came
        after the work."""
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        driver = self._start(out)
        self._await(driver, lambda: bool(self.cluster.actors()) and self._parts(out) >= wanted)
        ends = time.monotonic() + moment_s
        self._await(driver, lambda: time.monotonic() >= ends)
        if driver.poll() is not None:
            return None
        actors = self.cluster.actors()
        if kind == "actor":
            try:
                os.kill(actors[0], signal.SIGKILL)
            except (IndexError, ProcessLookupError):  # none is left: the work ends
                driver.wait()
                return None
        elif kind == "node":
            self.cluster.kill_machine()
        else:
            driver.kill()
        parts = self._parts(out)
        status = driver.wait()
        if kind == "driver":
            status = self._start(out, "--resume").wait()
        if kind == "node":
            self.cluster.replace_machine()
        return {"kind": kind, "parts_then": parts, "status": status} | self._compare(out)

    def _await(self, driver: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        while driver.poll() is None and not condition():
            time.sleep(0.05)

    def _parts(self, out: Path) -> int:
        return len(list(out.glob("part-*")))

    def _compare(self, out: Path) -> dict[str, int]:
        found = list(read_results(out))
        counts = Counter(result["id"] for result in found)
        texts = {result["id"]: result["text"] for result in found}
        return {
            "missing": len(self.expected.keys() - texts.keys()),
            "twice": sum(count > 1 for count in counts.values()),
            "other": sum(texts[id] != self.expected.get(id) for id in texts),
        }

    def _start(self, out: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "asr.cli", "transcribe", str(self.speech), "--output", str(out)]
        command += ["--engine", "ray", "--ray-address", self.cluster.address, "--model", self.model, "--device", "cpu"]
        command += ["--part-recordings", str(self.part_recordings)]
        with open(self.work / "driver.log", "ab") as log:
            return subprocess.Popen([*command, *more], stdout=log, stderr=log)


def write_speech(folder: Path, count: int) -> None:
    """Chords with pauses, 2 to 4 seconds each: enough for a model to spell."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05}.wav"
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        samples = np.zeros(int(rng.uniform(2, 4) * RATE_HZ))
        at = 0
        while at < len(samples):
            time_s = np.arange(min(int(rng.uniform(0.06, 0.25) * RATE_HZ), len(samples) - at)) / RATE_HZ
            for hz in rng.uniform(150, 3500, 3):
                samples[at : at + len(time_s)] += 0.15 * np.sin(2 * np.pi * hz * time_s)
            at += len(time_s) + int(rng.choice([0, 0.03, 0.2]) * RATE_HZ)
        soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    sys.exit(main())
