"""The training loop: evaluate -> checkpoint -> step -> log, for whatever ``Task`` describes.

A run directory is a model directory (see ``asr.models.model_directory``) plus ``log.jsonl`` and checkpoints. A
checkpoint holds everything the next step depends on, so that a resumed run continues bit for bit on the CPU with the
same number of threads and processes, in the middle of an epoch as well. Under ``torchrun`` every process runs this
same loop on its share of each batch (see ``asr.train.distributed``); the first writes the files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from asr.cloud.addresses import without_secrets
from asr.config import loader
from asr.config.language import LanguageConfig
from asr.config.sections import Config
from asr.config.training_sections import DataConfig
from asr.errors import TrainingError
from asr.files import sweep
from asr.models import description
from asr.models.device import is_out_of_memory
from asr.train.checkpoint_writer import CheckpointWriter
from asr.train.distributed import World
from asr.train.process import StopRequest, alone, keep_freed_memory, stop_request
from asr.train.resume import (
    CHECKPOINT,
    PLATEAU,
    PREVIOUS,
    Progress,
    check_folder,
    generator_states,
    read_checkpoint,
    set_generators,
    state_tensors,
)
from asr.train.schedule import Finish
from asr.train.steps import Stepper
from asr.train.task import AnyBatch, Task

WORTH_TELLING = 0.05
"""Share of the time waiting for batches that is reported."""


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


def fit(
    task: Task,
    config: Config | LanguageConfig,
    folder: Path,
    world: World | None = None,
    *,
    finish: Finish | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Train ``task`` as ``config`` says, into ``folder``, which must be held; go on from its checkpoint, if any.

    With ``finish``, let the learning rate decay from there and end. ``clock`` tells the seconds.

    SIGINT and SIGTERM end the run after the current step with a checkpoint, as ``KeyboardInterrupt``.
    Raises ``TrainingError`` after ``train.max_bad_steps`` skipped steps in a row and ``ModelError`` for a damaged
    checkpoint.
    """
    keep_freed_memory()
    run = Run(task, config, folder, world, clock)
    if run.world.first:
        sweep(folder)
    if os.path.exists(run.checkpoint):
        run.load()
    if finish:
        run.finish(finish)
    with contextlib.closing(run.log), run.writer:
        return run.train()


class Run(Stepper):
    """One training: its epochs, validations and checkpoints."""

    def __init__(
        self,
        task: Task,
        config: Config | LanguageConfig,
        folder: Path,
        world: World | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(task, config, folder, world, clock)
        self.checkpoint = folder / CHECKPOINT
        self.writer = CheckpointWriter()
        self.saved = self.ticked = clock()
        self.waited_s = 0.0
        """Time spent waiting for batches since the last validation."""
        self.reported_s = 0.0
        """``progress.seconds`` at that validation."""

    def finish(self, request: Finish) -> None:
        """Decay from the checkpoint that was read to the end of the run, and keep that checkpoint.

        Raises ``TrainingError`` without one, ``ConfigError`` where the run is over.
        """
        progress, plateau = self.progress, self.checkpoint.with_name(PLATEAU)
        if not progress.step:
            raise TrainingError(f"{self.checkpoint}: --finish needs the checkpoint of a run, got none; train first")
        begun = bool(progress.finish)
        self.schedule.begin(request, progress, len(self.task.plan(progress.epoch, progress.span)))
        if not begun and self.world.first:
            with contextlib.suppress(OSError):  # a file system without links keeps none
                plateau.unlink(missing_ok=True)
                os.link(self.checkpoint, plateau)

    def train(self) -> Progress:
        """Run to the last epoch."""
        progress = self.progress
        if self.world.first and (bad := self.log.rewind(progress.step, progress.epoch)):
            self.say(f"warning: {self.log.path}: {bad} damaged lines left out")
        with stop_request() as stop:
            if self.schedule.over(progress) and progress.finish:
                self.say(
                    f"{self.checkpoint}: the run was finished (--finish); to train on from before, put {PLATEAU} in "
                    "its place"
                )
            self.ticked = self.clock()
            if self.task.trained and not progress.step:
                self.validate()
            while not self.schedule.over(progress):
                self.epoch(stop)
                self.validate_if_due()
                if self.schedule.over(progress) or self.overdue():
                    self.save()
        if self.schedule.given_up(progress):
            self.say(
                f"train.patience: ended, as {progress.waited} validations in a row were not better; the weights of "
                f"step {progress.kept} are kept (--resume train.patience=0 trains on)"
            )
        return progress

    def validate_if_due(self) -> None:
        """Validate at the end of an epoch or of the run, where that is due."""
        progress, schedule = self.progress, self.schedule
        if schedule.given_up(progress):
            return
        if schedule.over(progress):
            schedule.check_steps(progress)
            self.say_which_is_kept(self.validate())
        elif schedule.by_epoch(progress) or schedule.validation_due(progress):
            self.validate()

    def overdue(self) -> bool:
        """Whether the last checkpoint is older than ``train.checkpoint_every_s``; all processes ask together."""
        due = self.world.first and self.clock() - self.saved > self.config.train.checkpoint_every_s
        return bool(self.world.sum(due)[0])

    def epoch(self, stop: StopRequest) -> None:
        """Run to the end of the epoch, or to where the clock ends it or the run.

        Raises ``KeyboardInterrupt``, with a checkpoint, when asked to stop.
        """
        config, progress, schedule = self.config.train, self.progress, self.schedule
        if not progress.batch or not progress.span:
            progress.span = schedule.span(progress)
        plan = self.task.plan(progress.epoch, progress.span)
        steps = len(plan)
        batches = self.task.batches(plan[progress.batch :], progress.epoch)
        self.network.train()
        started = self.clock()
        title = f"epoch {progress.epoch + 1}" + (
            "" if schedule.by_clock(progress) else f"/{schedule.end(progress):.0f}"
        )
        quiet = None if self.world.first else True
        bar = tqdm(total=steps, initial=progress.batch, desc=title, unit="batch", disable=quiet, leave=False)
        with contextlib.closing(batches), bar:  # type: ignore[type-var]
            for batch in self.fetched(batches):
                loss = self.guarded_step(batch, steps)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                started = self.tick(stop, started)
                if schedule.over(progress):  # by the clock, or given up: an epoch ends behind this loop
                    if config.average_epochs:
                        self.follow(1.0)  # to the weights: no epoch has ended here
                    return
                if schedule.crossed(progress, self.task.changes):
                    break
        progress.epoch += 1
        progress.batch = 0
        if config.average_epochs and self.average is not None:
            # The mean of the weights at the ends of the last epochs, and before them simply the weights.
            last = math.inf if schedule.by_clock(progress) else schedule.end(progress)
            self.follow(1 / max(progress.epoch - (last - config.average_epochs), 1))

    def tick(self, stop: StopRequest, started: float) -> float:
        """Count the time since ``started``, and do what is due by the clock: validate, save, stop.

        Returns the time afterwards. Raises ``KeyboardInterrupt``, with a checkpoint, when asked to stop.
        """
        progress, schedule, now = self.progress, self.schedule, self.clock()
        progress.seconds += now - started
        first = self.world.first
        due = first and now - self.saved > self.config.train.checkpoint_every_s
        # All processes go by the clock of the first: they must agree on what is due.
        asked, overdue, passed = self.world.sum(stop.requested, due, now - self.ticked if first else 0.0)
        progress.clock_s += passed
        self.ticked = now
        over = schedule.by_clock(progress) and schedule.over(progress)
        validating = schedule.validation_due(progress) and not over
        if validating:
            self.validate()
            self.network.train()
        if (asked or overdue) and not over:
            self.save()
        if asked and not over:
            self.writer.wait()  # only a checkpoint that is there may be promised
            raise KeyboardInterrupt(f"stopped at step {progress.step}; continue with --resume")
        return self.clock()

    def fetched(self, batches: Iterator[AnyBatch | None]) -> Iterator[AnyBatch | None]:
        """``batches``. Raises ``TrainingError`` where there is no memory to copy one to the device."""
        asked = time.perf_counter()
        with self.memory_named(lambda: "while the next batch was copied to the device"):
            for batch in batches:
                self.waited_s += time.perf_counter() - asked
                yield batch
                asked = time.perf_counter()

    def guarded_step(self, batch: AnyBatch | None, steps: int) -> float:
        """``step``. Raises ``TrainingError`` naming the batch that there is no memory for."""

        def describe() -> str:
            if batch is None:
                return "in a step without a batch"
            seconds = self.task.audio_s(batch)
            names = f"{', '.join(batch.ids[:5])}{', …' if len(batch.ids) > 5 else ''}"
            speech = f", {seconds:.1f} s of speech" if seconds else ""
            return f"with a batch of {len(batch.ids)} utterances{speech} ({names})"

        with self.memory_named(describe):
            return self.step(batch, steps)

    @contextlib.contextmanager
    def memory_named(self, describe: Callable[[], str]) -> Iterator[None]:
        """Raise ``TrainingError`` where memory runs out: ``describe`` says in what, this adds the key to lower."""
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            data = self.config.data
            key, size = ("data.batch_s", data.batch_s) if isinstance(data, DataConfig) else ("data.batch", data.batch)
            again = "start again"
            if os.path.exists(self.checkpoint):  # the size of a batch belongs to the run
                again = "train into another train.output"
            if os.path.exists(self.folder / "model.safetensors"):
                again += f", with train.init={self.folder} to begin with the weights saved so far"
            raise TrainingError(
                f"step {self.progress.step}: out of memory {describe()}: lower {key} (now {size:g}) and {again}. "
                f"{str(error).partition(chr(10))[0]}"
            ) from error

    def validate(self) -> dict[str, float]:
        """Measure the network (its average, where one is kept) and keep the weights if they are the best so far.

        Returns the figures; none without validation data.
        """
        self.results.flush()
        network = self.network if self.average is None else self.average.network
        progress, started = self.progress, self.clock()
        with self.memory_named(lambda: "in the validation"):
            figures = self.task.validate(network.eval())
        (progress.validation_s,) = self.world.sum(self.clock() - started if self.world.first else 0.0)
        progress.validated_s = progress.clock_s
        if figures:
            self.write(**{f"valid_{name}": value for name, value in figures.items()})
        speed = f"  {progress.audio_s / max(progress.seconds, 1e-9):.0f} x real time" if progress.audio_s else ""
        speed += self.waiting()
        text = "".join(f"  {description.figure(name, value)}" for name, value in figures.items())
        left = self.schedule.left_s(progress)
        remaining = f", about {left / 60:.0f} min left" if left >= 60 else ""
        self.say(
            f"{self.schedule.place(progress)}  {f'valid{text}' if text else 'not validated'}  "
            f"{progress.seconds:.0f} s{remaining}{speed}"
        )
        rank = list(self.task.rank(figures)) if figures else progress.rank
        progress.waited = 0 if rank < progress.rank or not figures else progress.waited + 1
        if rank <= progress.rank:
            progress.kept = progress.step
            progress.rank, progress.best = rank, figures.get(self.task.criterion, math.inf)
            done = {"epoch": progress.epoch, "step": progress.step, "seconds": round(progress.seconds, 1)}
            if self.world.first:
                self.task.save_weights(network, figures, done)
        return figures

    def waiting(self) -> str:
        """How much of the time since the last validation was spent waiting for batches, where that is a lot."""
        seconds = self.progress.seconds - self.reported_s
        share = self.waited_s / seconds if seconds > 0 else 0.0
        self.waited_s, self.reported_s = 0.0, self.progress.seconds
        return f"  {min(share, 1.0):.0%} of the time waiting for batches" if share >= WORTH_TELLING else ""

    def say_which_is_kept(self, figures: dict[str, float]) -> None:
        """Say that the last weights are not the ones that are kept, where an earlier validation was better."""
        name = self.task.criterion
        if figures and list(self.task.rank(figures)) > self.progress.rank:
            self.say(
                f"the weights of an earlier validation are kept: {description.figure(name, self.progress.best)}, "
                f"not the last ones: {description.figure(name, figures[name])}"
            )

    def save(self) -> None:
        """Write the checkpoint, atomically, while training goes on; the one before it is kept.

        Raises ``ModelError`` where the checkpoint before it could not be written.
        """
        self.results.flush()  # progress then stands where the weights do
        generators = self.world.gather(generator_states())
        self.saved = self.clock()
        if not self.world.first:
            return
        average = None if self.average is None else self.average.network
        tensors = state_tensors(self.network, average, self.optimiser, generators)
        metadata = {
            "progress": dataclasses.asdict(self.progress),  # a copy: the run goes on
            "config": loader.to_dict(self.config),
            "data": self.task.data_key,
            "origin": self.task.origin,
        }
        self.writer.write(self.checkpoint, tensors, metadata, keep=self.checkpoint.with_name(PREVIOUS))

    def load(self) -> None:
        """Restore what ``save`` wrote; every process reads the file. Raises ``ModelError`` for a damaged one."""
        self.writer.wait()
        average = None if self.average is None else self.average.network
        state = read_checkpoint(self.checkpoint, self.network, average, self.optimiser, self.config.train.epochs)
        self.network.load_state_dict(state.network)
        if average is not None:
            average.load_state_dict(state.average)
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state.optimiser})
        set_generators(state.generators, self.world.rank)
        self.progress = state.progress
        self.reported_s = self.progress.seconds
        self.scale = self._loss_scale()
        self.task.origin = state.origin
        key = self.task.data_key
        if state.data not in (None, key):
            manifests = ", ".join(map(without_secrets, self.config.data.manifests))
            self.say(
                f"warning: {manifests} has changed since {self.checkpoint} was written: "
                "the current epoch continues with other batches, and the result will differ from an "
                "uninterrupted run"
            )
