"""How far a run has come, by its epochs or by the clock, and the learning rate there."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from asr.config.training_sections import OptimConfig, TrainConfig
from asr.errors import ConfigError
from asr.train.resume import CHECKPOINT, PLATEAU, Progress

VALIDATIONS = 20
"""Validations of a run by the clock, unless ``train.validate_every_s`` says otherwise."""
VALIDATION_SHARE = 0.1
"""Share of the time that those validations take at most."""
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?(s|epochs?)?")


@dataclass(frozen=True)
class Finish:
    """How long a run is to decay before it ends: ``amount`` in ``unit``, ``seconds`` or ``epochs``."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Finish:
        """``600`` or ``600s`` (seconds), ``2epochs``. Raises ``ConfigError`` for anything else."""
        found = _AMOUNT.fullmatch(text.strip())
        unit = "epochs" if found and (found[2] or "").startswith("epoch") else "seconds"
        amount = float(found[1]) if found else 0.0
        if not 0 < amount < math.inf or (unit == "epochs" and amount != int(amount)):
            raise ConfigError(
                f"--finish: expected seconds above 0, such as 600, or whole epochs, such as 2epochs; got {text!r}"
            )
        return cls(int(amount) if unit == "epochs" else amount, unit)


def learning_rate(share: float, config: OptimConfig, step: int = 0) -> float:
    """Linear warm-up to ``learning_rate``, then the decay of ``config.schedule`` down to ``final_ratio`` of it.

    ``cosine``: half a cosine from the end of the warm-up to the end of training (Loshchilov & Hutter 2017). ``wsd``:
    the peak until the last ``decay_ratio`` of training, then a fall by the square root of the share of it that is
    gone (Hägele et al. 2024).

    Args:
        share: share of the training done, 0 to 1.
        config: peak, schedule and its parts.
        step: steps done, which ``warmup_steps`` counts by.
    """
    warmup = 0.0 if config.warmup_steps else config.warmup_ratio
    if share < warmup:
        return config.learning_rate * share / warmup
    risen = min(step / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
    if config.schedule == "wsd":
        gone = 1 - (1 - share) / config.decay_ratio if config.decay_ratio else 0.0
        left = 1 - math.sqrt(min(max(gone, 0.0), 1.0))
    elif warmup >= 1:
        left = 1.0
    else:
        left = 0.5 * (1 + math.cos(math.pi * min((share - warmup) / (1 - warmup), 1)))
    return config.learning_rate * risen * (config.final_ratio + (1 - config.final_ratio) * left)


class Schedule:
    """What decides when a run validates, changes its learning rate and ends.

    Its unit is epochs, or seconds of ``Progress.clock_s`` with ``train.seconds``; that of ``Progress.finish`` once the
    end was asked for.

    Args:
        optim: the learning rate.
        train: epochs or seconds, and the time between validations.
    """

    def __init__(self, optim: OptimConfig, train: TrainConfig) -> None:
        self.optim = optim
        self.train = train

    def by_clock(self, progress: Progress) -> bool:
        """Whether seconds end the run, not epochs."""
        return progress.finish["unit"] == "seconds" if progress.finish else self.train.seconds > 0

    def end(self, progress: Progress) -> float:
        """Seconds or epochs after which the run is over."""
        if progress.finish:
            length: float = progress.finish["start"] + progress.finish["length"]
            return length
        return self.train.seconds or self.train.epochs

    def done(self, progress: Progress, steps: int = 0) -> float:
        """Seconds or epochs that are done; ``steps`` are those of the current epoch."""
        if self.by_clock(progress):
            return progress.clock_s
        return progress.epoch + progress.batch / steps if steps else progress.epoch

    def share(self, progress: Progress, steps: int = 0) -> float:
        """Share of the run that is done, 0 to 1 and a little more by the clock."""
        return self.done(progress, steps) / self.end(progress)

    def rate(self, progress: Progress, steps: int) -> float:
        """Learning rate of the next step."""
        if not progress.finish:
            return learning_rate(self.share(progress, steps), self.optim, progress.step)
        finish = progress.finish
        gone = (self.done(progress, steps) - finish["start"]) / finish["length"]
        lowest = min(self.optim.final_ratio * self.optim.learning_rate, finish["rate"])
        rate: float = lowest + (finish["rate"] - lowest) * (1 - math.sqrt(min(max(gone, 0.0), 1.0)))
        return rate

    def over(self, progress: Progress) -> bool:
        """Whether the run has come to its end, or has been given up before."""
        return self.done(progress) >= self.end(progress) or self.given_up(progress)

    def given_up(self, progress: Progress) -> bool:
        """Whether so many validations brought nothing (``train.patience``); never while a decay was asked for."""
        return 0 < self.train.patience <= progress.waited and not progress.finish

    def crossed(self, progress: Progress, changes: Sequence[float]) -> bool:
        """Whether the clock has passed one of ``changes``, shares of the run, since the epoch began: its plan is out
        of date. A plan by epochs knows where they lie."""
        return self.by_clock(progress) and any(progress.span[0] < at <= self.share(progress) for at in changes)

    def span(self, progress: Progress) -> list[float]:
        """Where in the schedule an epoch that begins now starts and ends; by the clock the end is not known, and both
        are the start."""
        begin = self.share(progress)
        return [begin, begin if self.by_clock(progress) else (progress.epoch + 1) / self.end(progress)]

    def validation_due(self, progress: Progress) -> bool:
        """Whether a validation is due by the time since the last one; never where they follow epochs."""
        every = self.train.validate_every_s
        if not every and self.by_clock(progress):
            start = progress.finish["start"] if progress.finish else 0.0
            every = max((self.end(progress) - start) / VALIDATIONS, progress.validation_s / VALIDATION_SHARE)
        return bool(every) and progress.clock_s - progress.validated_s >= every

    def by_epoch(self, progress: Progress) -> bool:
        """Whether a validation is due at the end of an epoch that has just ended."""
        if self.train.validate_every_s or self.by_clock(progress):
            return False
        return progress.epoch % self.train.validate_every_epochs == 0

    def begin(self, finish: Finish, progress: Progress, steps: int) -> None:
        """Let the run decay from where it stands, over ``finish``, and end there; ``steps``: those of its epoch.

        By epochs the decay begins with a new one. The same request again goes on with a decay that was interrupted.
        Raises ``ConfigError`` where the run has decayed to its end, so that there is nothing to decay from. One that
        ended at its peak (``optim.decay_ratio=0``) is decayed.
        """
        before = progress.finish
        same = before and (before["length"], before["unit"]) == (finish.amount, finish.unit)
        rate, lowest = self.rate(progress, steps), self.optim.final_ratio * self.optim.learning_rate
        if self.over(progress) and (progress.finish or rate <= lowest * (1 + 1e-9)):
            again = f"; to train on from before the decay, put {PLATEAU} in the place of {CHECKPOINT}"
            raise ConfigError(
                "--finish: expected a run that has not ended, got one that has decayed to its end"
                f"{again if progress.finish else ''}"
            )
        if same:
            return
        progress.waited = 0
        if finish.unit == "epochs" and progress.batch:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        start = progress.clock_s if finish.unit == "seconds" else progress.epoch
        progress.finish = {
            "unit": finish.unit,
            "start": start,
            "length": finish.amount,
            "rate": rate,
            "step": progress.step,
        }

    def check_steps(self, progress: Progress) -> None:
        """Raise ``ConfigError`` where time ended the run before it could learn anything: after its first step."""
        steps = progress.step - (progress.finish["step"] if progress.finish else 0)
        if not self.by_clock(progress) or steps > 1:
            return
        key, least = ("--finish", self.end(progress)) if progress.finish else ("train.seconds", self.train.seconds)
        if progress.finish:
            least = progress.finish["length"]
        took = progress.clock_s - (progress.finish["start"] if progress.finish else 0.0)
        raise ConfigError(
            f"{key}: expected time for several steps, got {least:g} s, and the first step alone took {took:.3g} s; "
            "give more seconds, or make a step shorter (data.batch_s)"
        )

    def place(self, progress: Progress) -> str:
        """Where the run stands, for people."""
        if self.by_clock(progress):
            return f"{progress.clock_s:.0f}/{self.end(progress):.0f} s, epoch {progress.epoch + 1}"
        return f"epoch {progress.epoch}/{self.end(progress):.0f}"

    def left_s(self, progress: Progress) -> float:
        """Seconds to the end, as far as they are known."""
        if self.by_clock(progress):
            return max(self.end(progress) - progress.clock_s, 0.0)
        return progress.seconds * (self.end(progress) / max(progress.epoch, 1) - 1)
