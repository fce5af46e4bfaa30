"""Checkpoints that a training resumes from, and the checks before they are used.

Two are kept, ``checkpoint.safetensors`` and the one before it, which is the same file under another name until the next
is written: this costs disk space but no time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.config import loader
from asr.config.language import LanguageConfig
from asr.config.sections import Config
from asr.errors import AsrError, ModelError, TrainingError
from asr.files import PART
from asr.models.tensors import load_metadata, load_tensors
from asr.train.log import LOG
from asr.train.process import LOCK
from asr.train.rehearsal import REHEARSAL_FILE

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
PLATEAU = "checkpoint.plateau.safetensors"
# What a training writes before its first step, and so what one that died early leaves.
WRITTEN_FIRST = {
    "config.yaml",
    "tokens.txt",
    "tokens.model",
    "lexicon.txt",
    "stats.json",
    "readable.json",
    "readable",
    "confidence.json",
    REHEARSAL_FILE,
}
# Keys that may differ between the parts of a resumed run: they change neither the data nor the mathematics.
RESUMABLE_KEYS = {
    "train.output",  # a run directory may be moved
    "train.threads",
    "train.device",
    "train.checkpoint_every_s",
    "train.max_bad_steps",
    "train.validate_every_s",
    "train.patience",
    "train.tensorboard",
    "data.prefetch",
    "data.workers",
    "data.cache_s",
    "data.rehearsal_s",
}


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
    best: float = float("inf")
    """The task's criterion of the weights that are kept."""
    rank: list[float] = field(default_factory=lambda: [math.inf])
    """What they were chosen by: the smallest so far (see ``Task.rank``)."""
    kept: int = 0
    """The step that they are from; 0: what training started from."""
    waited: int = 0
    """Validations since the last one that was better than all before."""
    window: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Sums since the last log line: loss, gradient norm, steps."""
    loss_scale: float = 1.0
    """What the loss is multiplied by before the gradients are taken, and they divided by after (fp16 only)."""
    scaled_steps: int = 0
    """Steps since the loss scale last changed."""
    clock_s: float = 0.0
    """Time that the run has taken, validations and checkpoints included: what a schedule by the clock follows."""
    validated_s: float = 0.0
    """``clock_s`` at the last validation."""
    validation_s: float = 0.0
    """How long it took."""
    span: list[float] = field(default_factory=list)
    """Where in the schedule, 0 to 1, the current epoch began and will end, as its plan was made."""
    finish: dict[str, Any] = field(default_factory=dict)
    """The decay that was asked for by ``asr train --finish``, if any (see ``asr.train.schedule.Schedule.begin``)."""

    @classmethod
    def from_dict(cls, tree: Any) -> Progress:
        """What a checkpoint says. Raises ``ValueError`` naming what no run can have got to."""
        if not isinstance(tree, dict):
            raise ValueError(f"progress: expected an object, got {type(tree).__name__}")
        # Before ranks were written down the criterion alone decided.
        tree = {"rank": [tree.get("best"), math.inf]} | tree
        # Before there were schedules by the clock.
        since = {"clock_s": tree.get("seconds"), "validated_s": 0.0, "validation_s": 0.0, "span": [], "finish": {}}
        # Before trainings could end early.
        since |= {"kept": tree.get("step"), "waited": 0}
        tree = since | tree
        names = [f.name for f in fields(cls)]
        if tree.keys() != set(names):
            raise ValueError(f"progress: expected {', '.join(names)}, got {', '.join(map(str, tree))[:200]}")
        for name in ("step", "epoch", "batch", "kept", "waited", "bad_steps", "scaled_steps"):
            if type(tree[name]) is not int or not 0 <= tree[name] < 2**53:
                raise ValueError(f"progress.{name}: expected a whole number, 0 or more, got {tree[name]!r:.40}")
        for name in ("seconds", "audio_s", "loss_scale", "clock_s", "validated_s", "validation_s"):
            if type(tree[name]) not in (int, float) or not 0 <= tree[name] < math.inf:
                raise ValueError(f"progress.{name}: expected a number, 0 or more, got {tree[name]!r:.40}")
        lists = {name: tree[name] for name in ("rank", "window", "span")} | {"best": [tree["best"]]}
        for name, value in lists.items():
            if not isinstance(value, list) or not all(type(x) in (int, float) and not math.isnan(x) for x in value):
                raise ValueError(f"progress.{name}: expected numbers, got {value!r:.40}")
        if len(tree["window"]) != 3 or not tree["rank"] or not tree["loss_scale"]:
            raise ValueError("progress: expected a window of three sums, a rank, and a loss scale above 0")
        if len(tree["span"]) not in (0, 2):
            raise ValueError(f"progress.span: expected two numbers, got {tree['span']!r:.40}")
        _check_finish(tree["finish"])
        return cls(**tree)


def _check_finish(tree: Any) -> None:
    """Raise ``ValueError`` for what ``asr.train.schedule.Schedule.begin`` cannot have written."""
    if not isinstance(tree, dict) or (tree and tree.keys() != {"unit", "start", "length", "rate", "step"}):
        raise ValueError(f"progress.finish: expected unit, start, length, rate and step, got {tree!r:.80}")
    numbers = [tree[name] for name in ("start", "length", "rate", "step")] if tree else []
    if not all(type(x) in (int, float) and 0 <= x < math.inf for x in numbers) or (
        tree and (tree["unit"] not in ("seconds", "epochs") or not tree["length"])
    ):
        raise ValueError(f"progress.finish: expected seconds or epochs and numbers, got {tree!r:.80}")


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that was read and checked."""

    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[int, dict[str, Tensor]]
    generators: dict[str, Tensor]
    """States of random generators by ``rank/device``."""
    progress: Progress
    data: str | None
    """The task's ``data_key`` when it was written."""
    origin: str
    """Id of the weights that the run began with; empty in checkpoints of old."""


def check_folder(folder: Path, config: Config | LanguageConfig, *, resume: bool) -> None:
    """Refuse a run directory that ``fit`` must not write to; cheap, so that it can come before any audio is read.

    Raises ``TrainingError`` when ``folder`` holds a run or a model and ``resume`` is false, when it holds files and
    none that a training writes, or when its checkpoint belongs to another configuration. Raises ``ModelError`` for a
    damaged checkpoint.
    """
    path = folder / CHECKPOINT
    if not resume and (os.path.exists(path) or os.path.exists(folder / "model.safetensors")):
        raise TrainingError(
            f"{folder}: holds a training run; continue it with --resume, or choose another train.output"
        )
    if not os.path.exists(path):
        if os.path.exists(folder / PREVIOUS):
            raise damaged(path, "no such file")
        _check_is_ours(folder)
        return
    try:
        metadata = load_metadata(path)
    except ModelError as error:
        raise damaged(path, str(error)) from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("config"), dict) or "progress" not in metadata:
        raise damaged(path, "not a training checkpoint")
    # A checkpoint of an older version lacks newer keys: they had no effect, as their defaults have none.
    before = _with_defaults(metadata["config"], loader.to_dict(type(config)()))
    changed = config_differences(before, loader.to_dict(config))
    if changed:
        # A run that was made longer has more than its file says.
        longer = [each.split()[:2] for each in changed if each.startswith(("train.epochs: ", "train.seconds: "))]
        again = "".join(f" (give {key.rstrip(':')}={value} again)" for key, value in longer if float(value))
        raise TrainingError(
            f"{path}: belongs to another configuration ({'; '.join(changed)}); "
            f"restore these values{again} or choose another train.output"
        )


def _check_is_ours(folder: Path) -> None:
    """Refuse a folder with files in it, unless they come from a training that died early."""
    try:
        names = sorted(path.name for path in folder.iterdir()) if os.path.exists(folder) else []
    except OSError as error:
        raise TrainingError(f"{folder}: expected a folder for the run: {error.strerror or error}") from error
    others = [name for name in names if name not in WRITTEN_FIRST and not name.startswith(PART)]
    if others and not {LOCK, LOG} & set(names):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise TrainingError(
            f"{folder}: expected a new or an empty folder, or one of a training run, got one with other files "
            f"({others[0]}{more}); choose another train.output, and write logs of your own (> LOG) elsewhere"
        )


def _with_defaults(tree: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with the keys of the sections that it lacks."""
    filled = {name: section | tree[name] for name, section in defaults.items() if isinstance(tree.get(name), dict)}
    return defaults | tree | filled


def config_differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ in a way that resuming cannot bridge, as ``key: old -> new``."""
    changed = []
    for key in old.keys() | new.keys():
        name, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += config_differences(before, after, f"{name}.")
        elif before != after and name not in RESUMABLE_KEYS and not _is_longer(name, before, after):
            changed.append(f"{name}: {before!r} -> {after!r}")
    return sorted(changed)


def _is_longer(name: str, before: Any, after: Any) -> bool:
    """Whether a run is asked to go on for more epochs, or seconds, than it was begun with."""
    limits = ("train.epochs", "train.seconds")
    return name in limits and isinstance(before, int | float) and bool(before) and after > before


def damaged(path: Path, reason: str) -> ModelError:
    """The error for a checkpoint that cannot be used; it offers the one before, where that is whole."""
    text, previous = f"{path}: cannot continue from it: {reason.removeprefix(f'{path}: ')}", path.with_name(PREVIOUS)
    try:
        progress = Progress.from_dict(load_tensors(previous)[1]["progress"])
    except (AsrError, ValueError, TypeError, KeyError):
        return ModelError(f"{text}; there is no older checkpoint: choose another train.output to start again")
    return ModelError(
        f"{text}. The checkpoint before it is whole (step {progress.step}, in epoch {progress.epoch + 1}): "
        f"mv {previous} {path}, then --resume continues from it"
    )


def read_checkpoint(
    path: Path, network: nn.Module, average: nn.Module | None, optimiser: torch.optim.Optimizer, epochs: int
) -> SavedState:
    """Read a checkpoint for a run of this network and optimiser, which are left as they are.

    ``epochs``: how many the run has at most; 0 where a clock ends it.

    Raises ``ModelError`` that names the file and what is wrong in it: names, shapes or types of tensors that are not
    the run's, values that no run can reach.
    """
    try:
        tensors, metadata = load_tensors(path)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}, "rng": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if part not in parts:
                raise ValueError(f"unexpected {name}")
            parts[part][rest] = tensor
        progress = Progress.from_dict(metadata["progress"])
        if epochs and not progress.finish and progress.epoch > epochs:
            raise ValueError(f"progress.epoch: expected at most {epochs}, got {progress.epoch}")
        _check_same("network", parts["network"], network.state_dict())
        _check_same("average", parts["average"], {} if average is None else average.state_dict())
        moments = _moments(parts["optimiser"], optimiser, progress.step)
        _check_generators(parts["rng"])
        data, origin = metadata.get("data"), metadata.get("origin", "")
        if not isinstance(data, str | None) or not isinstance(origin, str):
            raise ValueError("data, origin: expected text")
    except (ModelError, ValueError, TypeError, KeyError) as error:
        raise damaged(path, str(error)) from error
    return SavedState(parts["network"], parts["average"], moments, parts["rng"], progress, data, origin)


def _check_same(part: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Require the names, shapes and types of ``expected``."""
    for name in expected.keys() | found.keys():
        if name not in found or name not in expected:
            raise ValueError(f"{'missing' if name in expected else 'unexpected'} {part}/{name}")
        got, wanted = found[name], expected[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise ValueError(
                f"{part}/{name}: expected {wanted.dtype} {tuple(wanted.shape)}, got {got.dtype} {tuple(got.shape)}"
            )


def _moments(
    tensors: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, steps: int
) -> dict[int, dict[str, Tensor]]:
    """AdamW's state of each parameter by its index; none of one that has had no step.

    The fused optimiser takes what it is given: a wrong shape ends the process.
    """
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        found.setdefault(int(index), {})[key] = tensor
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, state in found.items():
        if not 0 <= number < len(parameters):
            raise ValueError(f"optimiser/{number}: expected 0 to {len(parameters) - 1}")
        like = {"exp_avg": parameters[number], "exp_avg_sq": parameters[number], "step": torch.tensor(0.0)}
        _check_same(f"optimiser/{number}", state, like)
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()) or bool((state["exp_avg_sq"] < 0).any()):
            raise ValueError(f"optimiser/{number}: expected finite moments, the second not below 0")
        if not 0 <= state["step"].item() <= steps:
            raise ValueError(f"optimiser/{number}/step: expected 0 to {steps}, got {state['step'].item():g}")
    return found


def _check_generators(states: Mapping[str, Tensor]) -> None:
    """Require states that torch's generators take."""
    for name, state in states.items():
        device = name.partition("/")[2]
        if device not in ("cpu", "cuda"):
            raise ValueError(f"unexpected rng/{name}")
        _check_same("rng", {name: state}, {name: torch.get_rng_state() if device == "cpu" else state.byte().flatten()})
        if device == "cpu":
            try:
                torch.Generator().set_state(state)
            except RuntimeError as error:
                raise ValueError(f"rng/{name}: {error}") from error


def state_tensors(
    network: nn.Module,
    average: nn.Module | None,
    optimiser: torch.optim.Optimizer,
    generators: Sequence[Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names there, as ``read_checkpoint`` takes them; no copies.

    ``generators``: the states of each process (``generator_states``).
    """
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value for name, value in state.items()}
    for rank, states in enumerate(generators):
        tensors |= {f"rng/{rank}/{name}": value for name, value in states.items()}
    return tensors


def generator_states() -> dict[str, Tensor]:
    """The states of this process's random generators, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: Mapping[str, Tensor], rank: int) -> None:
    """Go on with the generators of a process; one that was not there before goes on with those of its own seed."""
    if f"{rank}/cpu" in states:
        torch.set_rng_state(states[f"{rank}/cpu"])
    if torch.cuda.is_available() and f"{rank}/cuda" in states:
        torch.cuda.set_rng_state(states[f"{rank}/cuda"])
