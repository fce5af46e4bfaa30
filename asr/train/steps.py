"""Optimiser steps: loss -> gradients -> weights, skipped where they are not finite, and written to the log.

The device decides whether a step counts, and the host reads its figures later (see ``asr.train.step_results``).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from asr.config.language import LanguageConfig
from asr.config.sections import Config
from asr.errors import TrainingError
from asr.train.distributed import GradientBuckets, World
from asr.train.log import RunLog
from asr.train.loss_scale import LARGEST_SCALE, LossScale
from asr.train.optimiser import make_optimiser, module_norms
from asr.train.resume import Progress
from asr.train.schedule import Schedule
from asr.train.step_results import IssuedStep, StepResults
from asr.train.task import AnyBatch, Task
from asr.train.weight_average import WeightAverage

LOG_EVERY_STEPS = 10


class Stepper:
    """Network, its average, optimiser, progress and log of one training, which ``step`` changes."""

    def __init__(
        self,
        task: Task,
        config: Config | LanguageConfig,
        folder: Path,
        world: World | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task = task
        self.config = config
        self.schedule = Schedule(config.optim, config.train)
        self.clock = clock
        self.world = world or World()
        self.folder = folder
        self.log = RunLog(folder, tensorboard=config.train.tensorboard and self.world.first)
        self.progress = Progress(loss_scale=LARGEST_SCALE if config.train.precision == "fp16" else 1.0)
        self.network = task.network
        self.world.copy_first(self.network.parameters())
        if self.world.size > 1:  # the weights are the same everywhere, dropout must not be
            torch.manual_seed(config.train.seed + 2**32 * (self.world.rank + 1))
        averaged = config.train.ema or config.train.average_epochs
        self.average = WeightAverage(self.network) if averaged else None
        self.optimiser = make_optimiser(self.network, task.rate_factors, config.optim)
        self.device = next(self.network.parameters()).device
        self.buckets = GradientBuckets(self.network.parameters(), self.world)
        self.results = StepResults.of(self.device)
        self.scale = self._loss_scale()
        self.loss = math.nan
        """Loss per token of the last step that was read."""

    def _loss_scale(self) -> LossScale | None:
        if self.config.train.precision != "fp16":
            return None
        return LossScale(self.progress.loss_scale, self.progress.scaled_steps, self.device)

    def step(self, batch: AnyBatch | None, steps: int) -> float:
        """One optimiser step; returns the loss per token of the last step that was read.

        The device decides whether a step counts: one whose loss or gradient is not finite changes nothing. On a CPU its
        figures are read at once. On a GPU they are read ``LAG_STEPS`` later, and only then is a bad step named and
        counted: the host never waits for the step that it has just issued.
        """
        optim, progress, world = self.config.optim, self.progress, self.world
        rate = self.schedule.rate(progress, steps)
        progress.step += 1
        progress.batch += 1
        seconds = self.task.audio_s(batch) if batch else 0.0
        readable, tokens, audio_s = world.sum(batch is not None, batch.total_tokens if batch else 0, seconds)
        issued = IssuedStep(progress.step, progress.epoch, progress.seconds, rate, batch.ids if batch else ())
        if not readable:
            self.results.put(None, lambda _: self.skip(issued, (), "none of the batch's audio could be read"))
            return self.loss
        progress.audio_s += audio_s
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        loss = self.backward(batch, max(tokens, 1))
        if progress.step % LOG_EVERY_STEPS == 0:
            issued.norms = module_norms(self.network)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), optim.clip_norm)
        figures = [loss, norm.double()]
        bad = ~torch.stack(figures).sum().isfinite()
        self.optimiser.found_inf = bad.float()  # type: ignore[attr-defined]  # of 1, the fused kernel changes nothing
        self.optimiser.step()
        if self.config.train.ema:
            # Early weights are far off: the average starts short-sighted and lengthens to the configured decay.
            self.follow(1 - min(self.config.train.ema, (1 + progress.step) / (10 + progress.step)), unless=bad)
        if self.scale is not None:
            self.scale.update(bad)
            figures += [self.scale.value.double(), self.scale.steps.double()]
        figures += [value.double() for value in issued.norms.values()]
        self.results.put(torch.stack(figures), lambda values: self.read(issued, values))
        return self.loss

    def backward(self, batch: AnyBatch | None, tokens: float) -> Tensor:
        """Gradients of all processes' loss per token, and that loss, a float64 scalar on the device."""
        self.optimiser.zero_grad(set_to_none=True)
        scale = None if self.scale is None else self.scale.value
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with self.buckets.summing():
            if batch is not None:
                loss = self.task.loss(batch) / tokens
                (loss if scale is None else loss * scale).backward()  # type: ignore[no-untyped-call]
                total = loss.detach().double()
        if scale is not None:
            torch._foreach_div_([p.grad for p in self.network.parameters() if p.grad is not None], scale)
        return self.world.sum_tensor(total)

    def follow(self, share: float, unless: Tensor | None = None) -> None:
        """Move the average of the weights by ``share`` of the way to the weights (see ``WeightAverage.follow``)."""
        assert self.average is not None
        self.average.follow(share, unless)

    def read(self, issued: IssuedStep, values: list[float]) -> None:
        """Count and log a step, whose figures are there: loss, gradient norm, loss scale (fp16), norms of the parts."""
        progress = self.progress
        loss, norm, *rest = values
        finite = math.isfinite(loss + norm)
        self.loss = loss
        scaled = False
        if self.scale is not None:
            value, steps, *rest = rest
            scaled = value != progress.loss_scale
            progress.loss_scale, progress.scaled_steps = value, int(steps)
        if scaled:
            self.write_at(issued, loss_scale=progress.loss_scale)
        if not finite:
            if not scaled:  # else the loss scale was too large, and the batch is not to blame
                ids = [name for names in self.world.gather(issued.ids) for name in names]
                self.skip(issued, ids, f"loss {loss}, gradient norm {norm}: not finite")
            return
        progress.bad_steps = 0
        window = progress.window
        progress.window = [window[0] + loss, window[1] + norm, window[2] + 1]
        if issued.norms:
            loss_sum, norm_sum, count = progress.window
            progress.window = [0.0, 0.0, 0.0]
            norms = dict(zip(issued.norms, rest, strict=True))
            self.write_at(issued, loss=loss_sum / count, grad_norm=norm_sum / count, learning_rate=issued.rate, **norms)

    def skip(self, issued: IssuedStep, ids: Sequence[str], reason: str) -> None:
        """Log a step that was not taken; stop when too many come in a row."""
        progress = self.progress
        progress.bad_steps += 1
        self.write_at(issued, skipped=list(ids), reason=reason)
        message = f"step {issued.step}: {reason}{'; batch of ' if ids else ''}{', '.join(ids)}"
        self.say(f"warning: {message}: skipped")
        if progress.bad_steps >= self.config.train.max_bad_steps:
            raise TrainingError(f"{message}; stopped after {progress.bad_steps} such steps in a row")

    def write(self, **values: Any) -> None:
        """Append one line to the log, at the place that the run has reached."""
        self.write_at(IssuedStep(self.progress.step, self.progress.epoch, self.progress.seconds), **values)

    def write_at(self, issued: IssuedStep, **values: Any) -> None:
        """Append one line to the log, at the place of a step."""
        if self.world.first:
            self.log.write(issued.step, issued.epoch, issued.seconds, values)

    def say(self, message: str) -> None:
        """Print a line above the progress bar."""
        if self.world.first:
            tqdm.write(message, file=sys.stderr)
