"""The training loop: evaluate -> checkpoint -> step -> log, for whatever ``Task`` describes.

A run directory is a model directory (see ``asr.checkpoint``) plus ``log.jsonl`` and ``checkpoint.safetensors``. The
checkpoint holds everything the next step depends on, so that a resumed run continues bit for bit on the CPU with the
same number of threads, in the middle of an epoch as well.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from asr import checkpoint
from asr.config import Config, to_dict
from asr.data import Batch
from asr.errors import TrainingError
from asr.files import atomic, sweep
from asr.train.schedule import learning_rate

CHECKPOINT = "checkpoint.safetensors"
LOG_EVERY_STEPS = 10
# Keys that may differ between the parts of a resumed run: they change neither the data nor the mathematics.
RESUMABLE_KEYS = {
    "train.output",  # a run directory may be moved
    "train.threads",
    "train.device",
    "train.checkpoint_every_s",
    "train.max_bad_steps",
    "data.prefetch",
    "data.cache_s",
}


class Task(Protocol):
    """What is trained: its network, batches, loss, validation and how its model directory is written."""

    network: nn.Module

    def plan(self, epoch: int) -> Sequence[Any]:
        """What each batch of an epoch will hold, in order; cheap, and the same whenever it is asked for."""

    def batches(self, plan: Sequence[Any], epoch: int) -> Iterator[Batch | None]:
        """The batches that part of an epoch's plan describes; ``None`` stands for one that could not be read."""

    def loss(self, batch: Batch) -> Tensor:
        """Scalar loss of ``self.network`` on a batch, with gradients."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures on held-out data; ``wer`` decides which weights are kept. Empty without data: the last are."""

    def save_weights(self, network: nn.Module, figures: dict[str, float], progress: dict[str, float]) -> None:
        """Write the weights with what is known about them to the run directory."""


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already done."""
    seconds: float = 0.0
    audio_s: float = 0.0
    bad_steps: int = 0
    """Steps in a row that were skipped: loss or gradient not finite, or no audio that could be read."""
    best_wer: float = float("inf")
    window: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Sums since the last log line: loss, gradient norm, steps."""


def fit(task: Task, config: Config, folder: Path, *, resume: bool = False) -> Progress:
    """Train ``task`` as ``config`` says, into ``folder``; with ``resume``, go on from its checkpoint if there is one.

    SIGINT and SIGTERM end the run after the current step with a checkpoint, as ``KeyboardInterrupt``.
    Raises ``TrainingError`` as ``check_folder`` does, or after ``train.max_bad_steps`` skipped steps in a row.
    """
    keep_freed_memory()
    check_folder(folder, config, resume=resume)
    sweep(folder)
    run = Run(task, config, folder)
    if run.checkpoint.exists():
        run.load()
    return run.train()


def check_folder(folder: Path, config: Config, *, resume: bool) -> None:
    """Refuse a run directory that ``fit`` must not write to; cheap, so that it can come before any audio is read.

    Raises ``TrainingError`` when ``folder`` holds a run or a model and ``resume`` is false, or when its checkpoint
    belongs to another configuration.
    """
    path = folder / CHECKPOINT
    if not resume and (path.exists() or (folder / "model.safetensors").exists()):
        raise TrainingError(f"{folder}: holds a training run; --resume goes on, another train.output starts anew")
    if not path.exists():
        return
    metadata = checkpoint.load_metadata(path)
    if not isinstance(metadata, dict) or not {"progress", "config"} <= metadata.keys():
        raise TrainingError(f"{path}: not a training checkpoint")
    changed = differences(metadata["config"], to_dict(config))
    if changed:
        raise TrainingError(
            f"{path}: belongs to another configuration ({'; '.join(changed)}); "
            "restore these values or choose another train.output"
        )


class Run:
    """The state of one training: network, its average, optimiser, progress, log."""

    def __init__(self, task: Task, config: Config, folder: Path) -> None:
        self.task = task
        self.config = config
        self.checkpoint = folder / CHECKPOINT
        self.log_path = folder / "log.jsonl"
        self.progress = Progress()
        self.network = task.network
        self.average = copy.deepcopy(self.network).requires_grad_(False) if config.train.ema else None
        # Norms and biases are not shrunk: decay would pull them to 0, which means nothing for them.
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        vectors = [p for p in self.network.parameters() if p.ndim <= 1]
        optim = config.optim
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=optim.learning_rate,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
        )

    def train(self) -> Progress:
        """Run to the last epoch."""
        config, progress = self.config.train, self.progress
        if progress.step == 0:
            self.log_path.unlink(missing_ok=True)
        saved = time.monotonic()
        with stop_request() as stop:
            while progress.epoch < config.epochs:
                plan = self.task.plan(progress.epoch)
                steps = len(plan)
                batches = self.task.batches(plan[progress.batch :], progress.epoch)
                self.network.train()
                started = time.monotonic()
                title = f"epoch {progress.epoch + 1}/{config.epochs}"
                bar = tqdm(total=steps, initial=progress.batch, desc=title, unit="batch", disable=None, leave=False)
                with contextlib.closing(batches), bar:  # type: ignore[type-var]
                    for batch in batches:
                        loss = self.step(batch, steps)
                        bar.update()
                        bar.set_postfix(loss=f"{loss:.3f}")
                        now = time.monotonic()
                        progress.seconds += now - started
                        started = now
                        if stop.requested or now - saved > config.checkpoint_every_s:
                            self.save()
                            saved = now
                        if stop.requested:
                            raise KeyboardInterrupt(f"stopped at step {progress.step}; --resume goes on from there")
                progress.epoch += 1
                progress.batch = 0
                if progress.epoch % config.validate_every_epochs == 0 or progress.epoch == config.epochs:
                    self.validate()
                self.save()
                saved = time.monotonic()
        return progress

    def step(self, batch: Batch | None, steps: int) -> float:
        """One optimiser step; returns the loss. One that cannot be taken is named, counted and skipped."""
        optim, progress = self.config.optim, self.progress
        share = (progress.epoch + progress.batch / steps) / self.config.train.epochs
        rate = learning_rate(share, optim)
        progress.step += 1
        progress.batch += 1
        if batch is None:
            self.skip((), "none of the batch's audio could be read")
            return math.nan
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self.task.loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), optim.clip_norm)
        loss_value, norm_value = loss.item(), norm.item()
        progress.audio_s += batch.total_samples / self.config.features.sample_rate_hz
        if not torch.isfinite(norm + loss.detach()):
            self.skip(batch.ids, f"loss {loss_value}, gradient norm {norm_value}: not finite")
            return loss_value
        progress.bad_steps = 0
        self.optimiser.step()
        if self.average is not None:
            # Early weights are far off: the average starts short-sighted and lengthens to the configured decay.
            decay = min(self.config.train.ema, (1 + progress.step) / (10 + progress.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        window = progress.window
        progress.window = [window[0] + loss_value, window[1] + norm_value, window[2] + 1]
        if progress.step % LOG_EVERY_STEPS == 0:
            loss_sum, norm_sum, count = progress.window
            progress.window = [0.0, 0.0, 0.0]
            self.log(loss=loss_sum / count, grad_norm=norm_sum / count, learning_rate=rate)
        return loss_value

    def skip(self, ids: Sequence[str], reason: str) -> None:
        """Log a step that cannot be taken; stop when too many come in a row."""
        progress = self.progress
        progress.bad_steps += 1
        self.log(skipped=list(ids), reason=reason)
        message = f"step {progress.step}: {reason}{'; batch of ' if ids else ''}{', '.join(ids)}"
        tqdm.write(f"warning: {message}: skipped", file=sys.stderr)
        if progress.bad_steps >= self.config.train.max_bad_steps:
            raise TrainingError(f"{message}; stopped after {progress.bad_steps} such steps in a row")

    def validate(self) -> None:
        """Measure the network (its average, where one is kept) and keep the weights if they are the best so far."""
        network = self.network if self.average is None else self.average
        figures = self.task.validate(network.eval())
        progress = self.progress
        if figures:
            self.log(**{f"valid_{name}": value for name, value in figures.items()})
        speed = progress.audio_s / max(progress.seconds, 1e-9)
        text = "".join(f"  {name} {value:.4f}" for name, value in figures.items())
        tqdm.write(
            f"epoch {progress.epoch}/{self.config.train.epochs}  {f'valid{text}' if text else 'not validated'}  "
            f"{progress.seconds:.0f} s  {speed:.0f} x real time",
            file=sys.stderr,
        )
        if not figures or figures["wer"] <= progress.best_wer:
            progress.best_wer = figures.get("wer", math.inf)
            done = {"epoch": progress.epoch, "step": progress.step, "seconds": round(progress.seconds, 1)}
            self.task.save_weights(network, figures, done)

    def log(self, **values: Any) -> None:
        """Append one line to ``log.jsonl``."""
        progress = self.progress
        head = {"step": progress.step, "epoch": progress.epoch, "seconds": round(progress.seconds, 2)}
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(head | values) + "\n")
        except OSError as error:
            raise TrainingError(f"{self.log_path}: cannot write: {error}") from error

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": value for name, value in state.items()}
        tensors["rng/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng/cuda"] = torch.cuda.get_rng_state()
        metadata = {"progress": vars(self.progress), "config": to_dict(self.config)}
        checkpoint.save_tensors(self.checkpoint, tensors, metadata)

    def load(self) -> None:
        """Restore what ``save`` wrote and drop the log lines written after it."""
        tensors, metadata = checkpoint.load_tensors(self.checkpoint)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}, "rng": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        checkpoint.load_weights(self.network, parts["network"], self.checkpoint)
        if self.average is not None:
            checkpoint.load_weights(self.average, parts["average"], self.checkpoint)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimiser"].items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        torch.set_rng_state(parts["rng"]["cpu"])
        if torch.cuda.is_available() and "cuda" in parts["rng"]:
            torch.cuda.set_rng_state(parts["rng"]["cuda"])
        self.progress = Progress(**metadata["progress"])
        self.trim_log()

    def trim_log(self) -> None:
        """Drop the lines that the checkpoint does not know of: what they tell is about to happen again.

        A validation has the step of the epoch's last batch and the number of the next epoch: a checkpoint taken
        between the two knows the step only.
        """
        if not self.log_path.exists():
            return
        kept = []
        for line in self.log_path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line cut short by a kill
                values = json.loads(line)
                if (values["step"], values["epoch"]) <= (self.progress.step, self.progress.epoch):
                    kept.append(line + "\n")
        try:
            with atomic(self.log_path) as path:
                path.write_text("".join(kept), encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"{self.log_path}: cannot write: {error}") from error


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ in a way that resuming cannot bridge, as ``key: old -> new``."""
    changed = []
    for key in old.keys() | new.keys():
        name, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += differences(before, after, f"{name}.")
        elif before != after and name not in RESUMABLE_KEYS:
            changed.append(f"{name}: {before!r} -> {after!r}")
    return sorted(changed)


@dataclass
class StopRequest:
    """Set when the process was asked to stop."""

    requested: bool = False


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request that is honoured between steps; a second one interrupts."""
    stop = StopRequest()

    def handle(number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are not ours to handle
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for reuse instead of giving each back to the system and asking again.

    Activations of tens of megabytes come and go at every step, and each time their pages would be zeroed and mapped
    anew, in system time. A no-op where the C library is not glibc.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD
        libc.mallopt(ctypes.c_int(-3), ctypes.c_int(2**30))  # M_MMAP_THRESHOLD
    except (OSError, AttributeError):
        return
