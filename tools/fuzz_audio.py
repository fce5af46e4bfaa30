"""Fuzz the reader with damaged audio: every file must give a transcript or one clear error, within bounds.

    python tools/fuzz_audio.py --count 1000 --seed 1

Speech-like sounds are written as WAV, FLAC, Ogg, MP3, AIFF and AU and then damaged: cut off, bits flipped, header
fields overwritten, bytes inserted and removed, 64 channels, NaN and infinity, no or one sample, a rate of zero, and a
FLAC of hours of silence in a few kilobytes. A separate process transcribes them. It is a finding if the process
crashes, takes more than ``--limit`` seconds or ``--memory`` MiB of further memory, or raises anything but an
``AudioError``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

RATE_HZ = 16000
FORMATS = (
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "ULAW"), ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"), ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
)  # fmt: skip
MAX_DURATION_S = 600.0


@dataclass(frozen=True)
class Finding:
    """A file that was handled wrongly."""

    path: Path
    reason: str


def speech_like(rng: np.random.Generator, seconds: float, channels: int = 1) -> np.ndarray:
    """Pulses through wandering resonances with pauses, float64 ``(S, C)``."""
    count = max(1, int(seconds * RATE_HZ))
    pitch = np.cumsum(np.repeat(rng.uniform(80, 250, count // 800 + 1), 800)[:count]) / RATE_HZ
    source = np.diff(np.floor(pitch), prepend=0.0) + 0.01 * rng.normal(size=count)
    tone = np.sin(2 * np.pi * np.cumsum(np.repeat(rng.uniform(300, 3000, count // 1600 + 1), 1600)[:count]) / RATE_HZ)
    loudness = np.repeat(rng.choice([0.0, 0.3, 0.6], count // 2400 + 1), 2400)[:count]
    sound = np.convolve(source, np.exp(-np.arange(64) / 9.0), mode="same") * (0.5 + 0.5 * tone) * loudness
    return np.stack([sound] * channels, axis=1)


def mutant(folder: Path, number: int, seed: int) -> Path:
    """Damaged file ``number`` of those of ``seed``, written to ``folder``."""
    rng = np.random.default_rng((seed, number))
    suffix, form, subtype = FORMATS[int(rng.integers(len(FORMATS)))]
    path = folder / f"{number:05}.{suffix}"
    kind = rng.choice(
        ["cut", "flip", "field", "insert", "remove", "odd", "none"], p=[0.2, 0.25, 0.2, 0.1, 0.1, 0.1, 0.05]
    )
    if kind == "odd":
        return _odd(rng, path.with_suffix(".wav"))
    rate = int(rng.choice([8000, 16000, 48000]))
    soundfile.write(
        path, speech_like(rng, float(rng.uniform(0.05, 3)), int(rng.choice([1, 1, 2]))), rate, subtype, format=form
    )
    data = bytearray(path.read_bytes())
    if kind == "cut":
        del data[int(rng.integers(len(data))) :]
    elif kind == "flip":
        for at in rng.integers(len(data), size=int(rng.choice([1, 3, 30, 300]))):
            data[at] ^= 1 << int(rng.integers(8))
    elif kind == "field":  # lengths, rates and counts stand in the first bytes
        at = int(rng.integers(min(200, len(data))))
        width = int(rng.choice([1, 2, 4]))
        data[at : at + width] = rng.choice([b"\0" * width, b"\xff" * width, rng.bytes(width)])
    elif kind == "insert":
        at = int(rng.integers(len(data)))
        data[at:at] = rng.bytes(int(rng.integers(1, 2000)))
    elif kind == "remove":
        at = int(rng.integers(len(data)))
        del data[at : at + int(rng.integers(1, 2000))]
    path.write_bytes(data)
    return path


def _odd(rng: np.random.Generator, path: Path) -> Path:
    """Well-formed files that nobody expects."""
    kind = rng.choice(["channels", "nan", "inf", "empty", "one", "silence", "rate", "loud"])
    sound = speech_like(rng, 1.0)
    if kind == "channels":
        soundfile.write(path, speech_like(rng, 0.5, 64), RATE_HZ)
    elif kind in ("nan", "inf"):
        sound[int(rng.integers(len(sound)))] = np.nan if kind == "nan" else np.inf
        soundfile.write(path, sound, RATE_HZ, "FLOAT")
    elif kind == "loud":
        soundfile.write(path, sound * 1e6, RATE_HZ, "FLOAT")
    elif kind in ("empty", "one"):
        soundfile.write(path, sound[: int(kind == "one")], RATE_HZ)
    elif kind == "rate":
        soundfile.write(path, sound, RATE_HZ)
        data = bytearray(path.read_bytes())
        data[24:28] = b"\0\0\0\0"
        path.write_bytes(data)
    else:
        path = path.with_suffix(".flac")
        with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16", format="FLAC") as file:
            for _ in range(int(rng.integers(2, 60))):
                file.write(np.zeros(8000 * 120, np.int16))
    return path


def work(pipe: Connection, model: str | None) -> None:
    """Transcribe what comes through the pipe; answers are ``(outcome, message, MiB at the peak)``."""
    import torch

    import asr

    torch.set_num_threads(1)
    recognizer = asr.load(model, beam=1, max_duration_s=MAX_DURATION_S)
    recognizer.transcribe(speech_like(np.random.default_rng(0), 2.0))
    pipe.send(("ready", "", peak_mib()))
    while path := pipe.recv():
        try:
            text = recognizer.transcribe(path).text
            answer = ("transcript", text)
        except asr.AsrError as error:
            message = str(error)
            answer = ("error", message) if Path(path).name in message and "\n" not in message else ("unclear", message)
        except BaseException as error:  # anything else is what this tool looks for
            answer = ("raised", f"{type(error).__name__}: {error}")
        pipe.send((*answer, peak_mib()))


def peak_mib() -> float:
    """Peak resident memory of this process.

    Linux passes ``ru_maxrss`` of the process that started this one on to it, so the kernel's own count comes first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Worker:
    """A process that transcribes; replaced when it dies or hangs."""

    def __init__(self, model: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, model), daemon=True)
        self.process.start()
        other.close()
        self.base_mib = float(self.pipe.recv()[2])

    def ask(self, path: Path, limit_s: float) -> tuple[str, str, float]:
        """What became of a file."""
        self.pipe.send(str(path))
        if not self.pipe.poll(limit_s):
            self.process.kill()
            return "hung", f"no answer in {limit_s:g} s", 0.0
        try:
            answer: tuple[str, str, float] = self.pipe.recv()
        except EOFError:
            self.process.join()
            return "crashed", f"the process died with status {self.process.exitcode}", 0.0
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.pipe.send("")
            self.process.join(10)
        self.process.kill()


def check(
    paths: Iterator[Path], model: str | None, limit_s: float, memory_mib: float
) -> tuple[Counter[str], list[Finding]]:
    """Transcribe each file; what became of how many, and the findings."""
    worker = Worker(model)
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    for path in paths:
        outcome, message, mib = worker.ask(path, limit_s)
        counts[outcome] += 1
        if outcome not in ("transcript", "error"):
            findings.append(Finding(path, f"{outcome}: {message}"))
        elif mib > worker.base_mib + memory_mib:
            findings.append(Finding(path, f"memory rose from {worker.base_mib:.0f} to {mib:.0f} MiB"))
        if outcome in ("hung", "crashed") or mib > worker.base_mib + memory_mib:
            worker.close()
            worker = Worker(model)
    worker.close()
    return counts, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", metavar="DIR|NAME", help="default: bundled")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="seconds a file may take (default: 60)")
    parser.add_argument(
        "--memory",
        type=float,
        default=700.0,
        metavar="MIB",
        help="further memory allowed after the start (default: 700)",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the files here and keep them")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = tqdm(range(args.count), desc="files", disable=None, leave=False)
        paths = (mutant(folder, number, args.seed) for number in numbers)
        counts, findings = check(paths, args.model, args.limit, args.memory)
    for finding in findings:
        print(f"{finding.path.name}: {finding.reason}")
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    seconds = time.perf_counter() - started
    print(f"{args.count} files, seed {args.seed}: {told}; {len(findings)} findings in {seconds:.0f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
