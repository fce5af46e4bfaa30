"""The training loop: evaluate -> checkpoint -> step -> log, for whatever ``Task`` describes.

A run directory is a model directory (see ``asr.models.model_directory``) plus ``log.jsonl`` and checkpoints. A
checkpoint holds everything the next step depends on, so that a resumed run continues bit for bit on the CPU with the
same number of threads and processes, in the middle of an epoch as well. Under ``torchrun`` every process runs this
same loop on its share of each batch (see ``asr.train.distributed``); the first writes the files.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

import asr
from asr.config import loader
from asr.config.language import LanguageConfig
from asr.config.sections import Config
from asr.errors import TrainingError
from asr.files import sweep
from asr.models import description
from asr.models.tensors import save_tensors
from asr.train.distributed import World
from asr.train.log import RunLog
from asr.train.process import StopRequest, alone, keep_freed_memory, stop_request
from asr.train.resume import (
    CHECKPOINT,
    PREVIOUS,
    Progress,
    check_folder,
    generator_states,
    read_checkpoint,
    set_generators,
)
from asr.train.schedule import learning_rate

LOG_EVERY_STEPS = 10
# Half-precision gradients are scaled so that small ones do not vanish: down when they overflow, up after so many steps.
LARGEST_SCALE = 2.0**16
SCALE_UP_STEPS = 1000


class AnyBatch(Protocol):
    """One batch of a training step."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names for messages."""

    @property
    def total_tokens(self) -> int:
        """Tokens that the loss is summed over."""


class Task(Protocol):
    """A task to train: its network, batches, loss, validation, and how its model directory is written."""

    network: nn.Module
    rate_factors: dict[str, float]
    """What the learning rate of a parameter is multiplied by, by its name; 1 if it is not here, 0 keeps it as it is."""
    criterion: str
    """The validation figure that people are told of."""
    origin: str
    """Id of the weights that training began with, for the model card."""

    @property
    def data_key(self) -> str:
        """A checksum of the training data; a resumed run compares it."""

    def plan(self, epoch: int) -> Sequence[Any]:
        """What each batch of an epoch will hold, in order; cheap, and the same whenever it is asked for."""

    def batches(self, plan: Sequence[Any], epoch: int) -> Iterator[Any]:
        """This process's share of the batches that part of an epoch's plan describes, one for each.

        ``None`` stands for a share that is empty or could not be read.
        """

    def loss(self, batch: Any) -> Tensor:
        """Scalar loss of ``self.network``, summed over the tokens of a batch, with gradients."""

    def audio_s(self, batch: Any) -> float:
        """Seconds of audio in a batch, which the speed of training is told by; 0 for text."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures on held-out data, ``criterion`` among them. Empty without data: the last weights are kept.

        All processes call it, and all get the figures of the whole.
        """

    def rank(self, figures: dict[str, float]) -> Sequence[float]:
        """What decides which weights are kept: the smallest wins, and of equal ones the latest."""

    def save_weights(self, network: nn.Module, figures: dict[str, float], progress: dict[str, float]) -> None:
        """Write the weights with what is known about them to the run directory."""


@contextlib.contextmanager
def hold(folder: Path, config: Config | LanguageConfig, world: World | None = None, *, resume: bool) -> Iterator[None]:
    """Hold a run directory for a training, before its task is built, which writes there.

    Raises ``TrainingError`` where another process trains in ``folder``, and as ``asr.train.resume.check_folder`` does.
    """
    world = world or World()
    check_folder(folder, config, resume=resume)
    with contextlib.ExitStack() as stack:
        refused = ""
        if world.first:
            try:
                stack.enter_context(alone(folder))
            except TrainingError as error:
                refused = str(error)
        if refused := world.gather(refused)[0]:  # all end, none waits for the first
            raise TrainingError(refused)
        check_folder(folder, config, resume=resume)  # again: what another one wrote until it ended
        yield


def fit(task: Task, config: Config | LanguageConfig, folder: Path, world: World | None = None) -> Progress:
    """Train ``task`` as ``config`` says, into ``folder``, which must be held; go on from its checkpoint, if any.

    SIGINT and SIGTERM end the run after the current step with a checkpoint, as ``KeyboardInterrupt``.
    Raises ``TrainingError`` after ``train.max_bad_steps`` skipped steps in a row and ``ModelError`` for a damaged
    checkpoint.
    """
    keep_freed_memory()
    run = Run(task, config, folder, world)
    if run.world.first:
        sweep(folder)
    if os.path.exists(run.checkpoint):
        run.load()
    with contextlib.closing(run.log):
        return run.train()


class Run:
    """The state of one training: network, its average, optimiser, progress, log."""

    def __init__(self, task: Task, config: Config | LanguageConfig, folder: Path, world: World | None = None) -> None:
        self.task = task
        self.config = config
        self.world = world or World()
        self.checkpoint = folder / CHECKPOINT
        self.log = RunLog(folder, tensorboard=config.train.tensorboard and self.world.first)
        self.progress = Progress(loss_scale=LARGEST_SCALE if config.train.precision == "fp16" else 1.0)
        self.network = task.network
        self.world.copy_first(self.network.parameters())
        if self.world.size > 1:  # the weights are the same everywhere, dropout must not be
            torch.manual_seed(config.train.seed + 2**32 * (self.world.rank + 1))
        averaged = config.train.ema or config.train.average_epochs
        self.average = copy.deepcopy(self.network).requires_grad_(False) if averaged else None
        # Norms and biases are not shrunk: decay would pull them to 0, which means nothing for them.
        optim = config.optim
        groups: list[dict[str, Any]] = []
        named = [(task.rate_factors.get(name, 1.0), p) for name, p in self.network.named_parameters()]
        for factor in sorted({factor for factor, _ in named}):
            mine = [parameter for other, parameter in named if other == factor]
            if factor == 0:
                for parameter in mine:
                    parameter.requires_grad_(False)
                continue
            groups.append({"params": [p for p in mine if p.ndim > 1], "factor": factor})
            groups.append({"params": [p for p in mine if p.ndim <= 1], "factor": factor, "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=optim.learning_rate,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=True,  # one pass over the weights instead of a dozen: six times faster on a CPU
        )
        self.saved = time.monotonic()

    def train(self) -> Progress:
        """Run to the last epoch."""
        config, progress = self.config.train, self.progress
        if self.world.first and (bad := self.log.rewind(progress.step, progress.epoch)):
            self.say(f"warning: {self.log.path}: {bad} damaged lines left out")
        with stop_request() as stop:
            while progress.epoch < config.epochs:
                self.epoch(stop)
                if progress.epoch % config.validate_every_epochs == 0 or progress.epoch == config.epochs:
                    self.validate()
                self.save()
        return progress

    def epoch(self, stop: StopRequest) -> None:
        """Run to the end of the epoch. Raises ``KeyboardInterrupt``, with a checkpoint, when asked to stop."""
        config, progress = self.config.train, self.progress
        plan = self.task.plan(progress.epoch)
        steps = len(plan)
        batches = self.task.batches(plan[progress.batch :], progress.epoch)
        self.network.train()
        started = time.monotonic()
        title = f"epoch {progress.epoch + 1}/{config.epochs}"
        quiet = None if self.world.first else True
        bar = tqdm(total=steps, initial=progress.batch, desc=title, unit="batch", disable=quiet, leave=False)
        with contextlib.closing(batches), bar:  # type: ignore[type-var]
            for batch in batches:
                loss = self.step(batch, steps)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                now = time.monotonic()
                progress.seconds += now - started
                started = now
                due = self.world.first and now - self.saved > config.checkpoint_every_s
                asked, overdue = self.world.sum(stop.requested, due)
                if asked or overdue:
                    self.save()
                if asked:
                    raise KeyboardInterrupt(f"stopped at step {progress.step}; continue with --resume")
        progress.epoch += 1
        progress.batch = 0
        if config.average_epochs and self.average is not None:
            # The mean of the weights at the ends of the last epochs, and before them simply the weights.
            kept = progress.epoch - (config.epochs - config.average_epochs)
            self.follow(1 / max(kept, 1))

    def step(self, batch: AnyBatch | None, steps: int) -> float:
        """One optimiser step; returns the loss per token. One that cannot be taken is named, counted and skipped."""
        optim, progress, world = self.config.optim, self.progress, self.world
        share = (progress.epoch + progress.batch / steps) / self.config.train.epochs
        rate = learning_rate(share, optim)
        progress.step += 1
        progress.batch += 1
        seconds = self.task.audio_s(batch) if batch else 0.0
        readable, tokens, audio_s = world.sum(batch is not None, batch.total_tokens if batch else 0, seconds)
        if not readable:
            self.skip((), "none of the batch's audio could be read")
            return math.nan
        progress.audio_s += audio_s
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        loss_value = 0.0
        if batch is not None:
            loss = self.task.loss(batch) / max(tokens, 1)
            (loss * progress.loss_scale).backward()  # type: ignore[no-untyped-call]
            loss_value = loss.item()
        (loss_value,) = world.sum(loss_value)
        world.sum_gradients(self.network.parameters())
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        if progress.loss_scale != 1:
            torch._foreach_div_(gradients, progress.loss_scale)
        logging = progress.step % LOG_EVERY_STEPS == 0
        norms = module_norms(self.network) if logging else {}
        norm_value = nn.utils.clip_grad_norm_(self.network.parameters(), optim.clip_norm).item()
        if not math.isfinite(loss_value + norm_value):
            self.overflow(batch, loss_value, norm_value)
            return loss_value
        progress.bad_steps = 0
        self.optimiser.step()
        if self.config.train.precision == "fp16":
            self.scale_up()
        if self.config.train.ema:
            # Early weights are far off: the average starts short-sighted and lengthens to the configured decay.
            self.follow(1 - min(self.config.train.ema, (1 + progress.step) / (10 + progress.step)))
        window = progress.window
        progress.window = [window[0] + loss_value, window[1] + norm_value, window[2] + 1]
        if logging:
            loss_sum, norm_sum, count = progress.window
            progress.window = [0.0, 0.0, 0.0]
            self.write(loss=loss_sum / count, grad_norm=norm_sum / count, learning_rate=rate, **norms)
        return loss_value

    def follow(self, share: float) -> None:
        """Move the average of the weights by ``share`` of the way to the weights."""
        assert self.average is not None
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), share)

    def overflow(self, batch: AnyBatch | None, loss: float, norm: float) -> None:
        """Leave out a step whose loss or gradient is not finite: the loss scale was too large, or the batch is bad."""
        progress = self.progress
        if progress.loss_scale > 1:
            progress.loss_scale, progress.scaled_steps = progress.loss_scale / 2, 0
            self.write(loss_scale=progress.loss_scale)
            return
        ids = [name for names in self.world.gather(batch.ids if batch else ()) for name in names]
        self.skip(ids, f"loss {loss}, gradient norm {norm}: not finite")

    def scale_up(self) -> None:
        """Count a step that the loss scale allowed, and try a larger one after many."""
        progress = self.progress
        progress.scaled_steps += 1
        if progress.scaled_steps >= SCALE_UP_STEPS and progress.loss_scale < LARGEST_SCALE:
            progress.loss_scale, progress.scaled_steps = progress.loss_scale * 2, 0
            self.write(loss_scale=progress.loss_scale)

    def skip(self, ids: Sequence[str], reason: str) -> None:
        """Log a step that cannot be taken; stop when too many come in a row."""
        progress = self.progress
        progress.bad_steps += 1
        self.write(skipped=list(ids), reason=reason)
        message = f"step {progress.step}: {reason}{'; batch of ' if ids else ''}{', '.join(ids)}"
        self.say(f"warning: {message}: skipped")
        if progress.bad_steps >= self.config.train.max_bad_steps:
            raise TrainingError(f"{message}; stopped after {progress.bad_steps} such steps in a row")

    def validate(self) -> None:
        """Measure the network (its average, where one is kept) and keep the weights if they are the best so far."""
        network = self.network if self.average is None else self.average
        figures = self.task.validate(network.eval())
        progress = self.progress
        if figures:
            self.write(**{f"valid_{name}": value for name, value in figures.items()})
        speed = f"  {progress.audio_s / max(progress.seconds, 1e-9):.0f} x real time" if progress.audio_s else ""
        text = "".join(f"  {description.figure(name, value)}" for name, value in figures.items())
        epochs = self.config.train.epochs
        left = progress.seconds * (epochs / max(progress.epoch, 1) - 1)
        remaining = f", about {left / 60:.0f} min left" if left >= 60 else ""
        self.say(
            f"epoch {progress.epoch}/{epochs}  {f'valid{text}' if text else 'not validated'}  "
            f"{progress.seconds:.0f} s{remaining}{speed}"
        )
        rank = list(self.task.rank(figures)) if figures else progress.rank
        if rank <= progress.rank:
            progress.rank, progress.best = rank, figures.get(self.task.criterion, math.inf)
            done = {"epoch": progress.epoch, "step": progress.step, "seconds": round(progress.seconds, 1)}
            if self.world.first:
                self.task.save_weights(network, figures, done)

    def write(self, **values: Any) -> None:
        """Append one line to the log."""
        if self.world.first:
            self.log.write(self.progress.step, self.progress.epoch, self.progress.seconds, values)

    def say(self, message: str) -> None:
        """Print a line above the progress bar."""
        if self.world.first:
            tqdm.write(message, file=sys.stderr)

    def save(self) -> None:
        """Write the checkpoint, atomically; the one before it is kept."""
        generators = self.world.gather(generator_states())
        self.saved = time.monotonic()
        if not self.world.first:
            return
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": value for name, value in state.items()}
        for rank, states in enumerate(generators):
            tensors |= {f"rng/{rank}/{name}": value for name, value in states.items()}
        metadata = {
            "progress": vars(self.progress),
            "config": loader.to_dict(self.config),
            "data": self.task.data_key,
            "origin": self.task.origin,
        }
        save_tensors(self.checkpoint, tensors, metadata, keep=self.checkpoint.with_name(PREVIOUS))

    def load(self) -> None:
        """Restore what ``save`` wrote; every process reads the file. Raises ``ModelError`` for a damaged one."""
        state = read_checkpoint(self.checkpoint, self.network, self.average, self.optimiser, self.config.train.epochs)
        self.network.load_state_dict(state.network)
        if self.average is not None:
            self.average.load_state_dict(state.average)
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state.optimiser})
        set_generators(state.generators, self.world.rank)
        self.progress = state.progress
        self.task.origin = state.origin
        key = self.task.data_key
        if state.data not in (None, key):
            self.say(
                f"warning: {self.config.data.train} has changed since {self.checkpoint} was written: the "
                "current epoch continues with other batches, and the result will differ from an "
                "uninterrupted run"
            )


def new_origin() -> str:
    """A random id for weights that were just drawn; not from the generators that training draws from."""
    return secrets.token_hex(8)


def card_head(origin: str, network: nn.Module) -> dict[str, Any]:
    """The first keys of every model card; models with the same ``origin`` started from the same weights."""
    head = {
        "format": 1,
        "package": f"asr {asr.__version__}",
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "origin": origin,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    return {name: value for name, value in head.items() if value != ""}


def training_checksum(items: Any) -> str:
    """SHA-256 of plain values: a task's ``data_key``."""
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def module_norms(network: nn.Module) -> dict[str, float]:
    """Gradient norm of each part of a network, as ``grad_norm/<part>``: its layers, where a part is a list of them."""
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            *path, _ = name.split(".")
            depth = next((i + 1 for i, word in enumerate(path) if word.isdigit()), 1)
            groups.setdefault(".".join(path[:depth]), []).append(parameter.grad)
    norms = torch.stack([nn.utils.get_total_norm(gradients) for gradients in groups.values()])
    return {f"grad_norm/{name}": value for name, value in zip(groups, norms.tolist(), strict=True)}
