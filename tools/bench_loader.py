"""Loading for training: audio seconds per CPU second and per second, by format, distortion and number of workers.

Also the CPU time of the training process itself: a GPU that trains at 10,000 x real time leaves it 100 us for a second
of audio, for steps and loading together.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bench_loader_steps
import soundfile
import torch

from asr.audio import read
from asr.config.sections import Config, load_config
from asr.config.training_sections import AugmentConfig, DataConfig
from asr.data import manifest
from asr.data.batches import Dataset
from asr.data.crew import ProcessCrew
from asr.data.feeding import Feeder, Plan
from asr.data.manifest import Utterance
from asr.data.sample_cache import SampleCache
from asr.text import tokenizer_files
from asr.text.tokenizer import Tokenizer

FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
PLAIN = AugmentConfig(speeds=(1.0,))
DISTORTED = AugmentConfig(speeds=(0.9, 1.0, 1.1), noise_prob=0.4, reverb_prob=0.3, gain_db=6.0)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of ``bench.py loader``."""
    command.add_argument("manifest", help="recordings; they are written anew in each format")
    command.add_argument("--minutes", type=float, default=20.0, help="audio of the manifest that is used")
    command.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    command.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    command.add_argument("--batch-s", type=float, default=45.0, help="seconds of a batch; 800 to 1000 as on a GPU")
    command.add_argument("--threads", type=int, default=0, help="compare with so many threads, as it was before")
    command.add_argument("--repeat", type=int, default=3, help="turns of each setting, after one that is not timed")
    command.add_argument("--epochs", type=int, default=3, help="epochs of a turn, each begun while the last one ends")
    command.add_argument("--conf", help="training configuration whose augment section is measured too")
    command.add_argument("--steps", action="store_true", help="print where the CPU time goes, and no more")


def run(args: argparse.Namespace) -> int:
    """Print a line for each format and distortion. Nothing is cached: every epoch decodes."""
    kinds = {"plain": PLAIN, "noise and rooms": DISTORTED}
    if args.conf:
        kinds[Path(args.conf).name] = load_config(args.conf).augment
    print(
        "audio seconds per CPU second (per second; CPU microseconds of the training process per audio second), median "
        f"of {args.repeat} turns of {args.epochs} epochs"
    )
    with tempfile.TemporaryDirectory() as folder:
        for form in args.formats:
            utterances = convert(args.manifest, args.minutes, Path(folder), form)
            for name, augment in kinds.items():
                print(f"{form:>5}, {name:>15}: {compare(utterances, augment, args)}", flush=True)
    return 0


def convert(path: str, minutes: float, folder: Path, form: str) -> list[Utterance]:
    """The first ``minutes`` of a manifest as files of one format."""
    made: list[Utterance] = []
    for number, item in enumerate(manifest.read_manifest(path)):
        if sum(u.duration_s for u in made) >= 60 * minutes:
            break
        samples = read.load_audio(item.audio, 16000, start_s=item.start_s, end_s=item.end_s, channel=item.channel)
        audio = folder / f"{number}.{form}"
        container, coding = FORMATS[form]
        soundfile.write(audio, samples, 16000, format=container, subtype=coding)
        made.append(Utterance(item.id, str(audio), item.text, len(samples) / 16000, item.speaker))
    return made


def compare(utterances: list[Utterance], augment: AugmentConfig, args: argparse.Namespace) -> str:
    """One turn of each setting after the other, ``--repeat`` times."""
    config = Config(augment=augment, data=DataConfig(cache_s=0.0, batch_s=args.batch_s))
    tokenizer = tokenizer_files.tokenizer_from_texts([u.text for u in utterances], config.text)
    if args.steps:
        print()
        bench_loader_steps.print_steps(utterances, tokenizer, config, args.epochs)
        return ""
    settings: dict[str, Callable[[range], float]] = {}
    feeders: dict[int, Feeder] = {}
    for count in args.workers:
        feeders[count], plan = make_feeder(utterances, tokenizer, config, count, args.epochs)
        settings[f"{count} workers" if count else "one thread"] = functools.partial(fed, feeders[count], plan)
    if args.threads:
        data = feeders[args.workers[0]].train
        assert isinstance(data, Dataset)
        settings[f"{args.threads} threads"] = functools.partial(threaded, data, threads=args.threads)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in settings}
    try:
        for turn in range(args.repeat + 1):
            for name, epochs_of in settings.items():
                before = used_s(feeders), time.perf_counter(), time.process_time()
                audio_s = epochs_of(range(turn * args.epochs, (turn + 1) * args.epochs))
                after = used_s(feeders), time.perf_counter(), time.process_time()
                used, wall, own = (b - a for a, b in zip(before, after, strict=True))
                if turn:  # the first one starts the processes
                    figures[name].append((audio_s / used, audio_s / wall, 1e6 * own / audio_s))
    finally:
        for feeder in feeders.values():
            feeder.close()
    medians = {name: [statistics.median(column) for column in zip(*v, strict=True)] for name, v in figures.items()}
    parts = [f"{name} {cpu:.0f} ({wall:.0f}; {own:.1f} us)" for name, (cpu, wall, own) in medians.items()]
    last = f"{max(args.workers)} workers"
    rivals = [name for name in medians if name != last] if last in medians else []
    ratios = [f"{medians[last][1] / medians[name][1]:.2f} x {name}" for name in rivals]
    return "; ".join(parts) + (f"; {last} by the clock: {', '.join(ratios)}" if ratios else "")


def make_feeder(
    utterances: list[Utterance], tokenizer: Tokenizer, config: Config, count: int, epochs: int = 1
) -> tuple[Feeder, Callable[[int], Plan]]:
    """A feeder of ``count`` processes, or of one thread, and the plans of its epochs. An epoch is begun while the one
    before it ends, but for every ``epochs``-th."""
    cache = SampleCache(config.features.sample_rate_hz, config.data.cache_s, shared=count > 0)
    sets = [
        Dataset(part, tokenizer, config, training=True, warn=print, cache=cache)
        for part in (utterances, utterances[:1])
    ]
    plan = functools.lru_cache(2)(sets[0].plan)

    def following(epoch: int) -> Plan | None:
        return plan(epoch) if epoch % epochs else None

    return Feeder(config, sets[0], sets[1], count, torch.device("cpu"), following=following), plan


def fed(feeder: Feeder, plan: Callable[[int], Plan], epochs: range) -> float:
    """Audio seconds of epochs that a crew makes."""
    batches = (batch for epoch in epochs for batch in feeder.batches(plan(epoch), epoch))
    return sum(batch.total_samples / 16000 for batch in batches if batch is not None)


def threaded(data: Dataset, epochs: range, threads: int) -> float:
    """Audio seconds of epochs that threads of one process make."""
    with ThreadPoolExecutor(threads) as pool:
        parts = ((part, epoch) for epoch in epochs for part in data.plan(epoch))
        batches = pool.map(lambda each: data.batch(*each), parts)
        return sum(batch.total_samples / 16000 for batch in batches if batch is not None)


def used_s(feeders: dict[int, Feeder]) -> float:
    """CPU seconds of this process and of all loader processes so far (Linux)."""
    total = time.process_time()
    for feeder in feeders.values():
        if isinstance(feeder.crew, ProcessCrew):
            for worker in feeder.crew.workers:
                fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
