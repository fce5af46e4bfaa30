"""A corpus of tones, one per letter, small enough to train on in a second; and trainings in processes to be killed."""

import multiprocessing
from pathlib import Path

import numpy as np
import soundfile
import torch
import where

from asr.config import loader
from asr.config.sections import Config
from asr.data.manifest import Utterance, write_manifest

RATE_HZ = 8000
LETTER_S = 0.1
TONES_HZ = {"A": 400.0, "B": 900.0, "C": 1700.0, " ": 0.0}


def tones(text: str, seed: int = 0) -> np.ndarray:
    """``text`` as one tone per letter, silence for the space, and a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(LETTER_S * RATE_HZ)) / RATE_HZ
    parts = [0.3 * np.sin(2 * np.pi * TONES_HZ[letter] * time) * np.hanning(len(time)) for letter in text]
    samples = np.concatenate([np.zeros(400), *parts, np.zeros(400)])
    return (samples + 0.003 * rng.standard_normal(len(samples))).astype(np.float32)


def make_utterances(folder: Path, count: int, name: str, speakers: int = 2, seed: int = 0) -> list[Utterance]:
    """Write ``count`` recordings of two random words each."""
    rng = np.random.default_rng((seed, len(name), count))
    utterances = []
    for index in range(count):
        text = " ".join("".join(rng.choice(list("ABC"), rng.integers(1, 4))) for _ in range(2))
        samples = tones(text, index)
        path = folder / f"{name}{index}.wav"
        soundfile.write(path, samples, RATE_HZ)
        speaker = f"{name}-{index % speakers}"
        utterances.append(Utterance(f"{name}{index}", str(path), text, len(samples) / RATE_HZ, speaker))
    return utterances


def make_corpus(folder: Path, train: int = 16, valid: int = 4) -> Path:
    """``train.jsonl`` and ``valid.jsonl`` with their recordings in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "train.jsonl", make_utterances(folder, train, "train"))
    write_manifest(folder / "valid.jsonl", make_utterances(folder, valid, "valid"))
    return folder


def make_config(folder: Path, **sections: dict) -> Config:
    """A tiny configuration for the corpus in ``folder``; ``sections`` update the defaults."""
    tree: dict[str, dict] = {
        "features": {"sample_rate_hz": RATE_HZ, "high_hz": 4000.0, "mel_bins": 16},
        "augment": {"time_mask_frames": 3, "freq_mask_bins": 2},
        "model": {"subsampling": 2, "channels": 2, "layers": 1, "hidden": 12, "dropout": 0.1},
        "data": {
            "train": str(folder / "train.jsonl"),
            "valid": str(folder / "valid.jsonl"),
            "batch_s": 3.0,
            "prefetch": 2,
        },
        "optim": {"learning_rate": 0.02},
        "train": {"output": str(folder / "run"), "epochs": 2, "threads": 1, "device": where.DEVICE},
    }
    for name, values in sections.items():
        tree.setdefault(name, {}).update(values)
    return loader.from_dict(Config, tree)


# Children come from a server that has imported everything and computed nothing: they start in milliseconds, and
# share no thread pool with the process that runs the tests.
_server = multiprocessing.get_context("forkserver")
# torch imports _dynamo, which takes seconds, with the first optimiser.
_server.set_forkserver_preload(["asr.train.acoustic_task", "torch._dynamo"])


def start(target, *args) -> multiprocessing.Process:
    """Run ``target(*args)`` in a process of its own."""
    process = _server.Process(target=target, args=args)
    process.start()
    return process


def train_rank(config: Config, rank: int, size: int, port: int, resume: bool = False, delay_s: float = 0.0) -> None:
    """What ``asr train`` does in one of the processes that ``torchrun`` starts."""
    import os

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train_process(config, resume, delay_s)


def train_process(config: Config, resume: bool = False, delay_s: float = 0.0) -> None:
    """What ``asr train`` does; ``delay_s`` makes every step last at least so long."""
    import time

    from asr.train import acoustic_task, loop

    torch.set_num_threads(1)
    step = loop.Run.step

    def slow(*args):
        time.sleep(delay_s)
        return step(*args)

    loop.Run.step = slow
    try:
        acoustic_task.train_acoustic(config, resume=resume)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
