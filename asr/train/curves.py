"""Curves of training runs, drawn from their logs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.errors import PlotError
from asr.files import LARGEST_NUMBER, read_limited
from asr.plotting import legend_below, page, plain, readable_log_scale, save_page
from asr.scoring.wer import rank
from asr.train.log import LOG

LARGEST_LOG = 1_000_000_000
"""Bytes of a log: 20 million steps."""
LARGEST_STEP = 2**53
"""Steps and epochs beyond are none: a float would not tell them apart."""


@dataclass(frozen=True)
class Curves:
    """The log of a run: ``points[key]`` is ``(N, 2)`` float64 of (step, value) by step, finite values only.

    ``epochs`` is ``(M, 2)`` float64 of (step, epochs done by then), which converts steps to epochs; ``(1, 2)`` for a
    run in its first epoch. ``bad_lines`` counts lines that are not JSON, such as one cut short by a kill.
    """

    name: str
    points: dict[str, np.ndarray]
    epochs: np.ndarray
    bad_lines: int

    def at(self, key: str, in_epochs: bool) -> tuple[np.ndarray, np.ndarray]:
        """x and y of a curve, empty where the log has none."""
        points = self.points.get(key, np.zeros((0, 2)))
        return self.to_epochs(points[:, 0]) if in_epochs else points[:, 0], points[:, 1]

    def to_epochs(self, steps: np.ndarray) -> np.ndarray:
        """Epochs, with fractions, at ``steps``; beyond the last known one as fast as the run went before."""
        known = self.epochs
        slope = (known[-1, 1] - known[-2, 1]) / (known[-1, 0] - known[-2, 0])
        beyond = known[-1, 1] + (steps - known[-1, 0]) * slope
        inside: np.ndarray = np.interp(steps, known[:, 0], known[:, 1])
        return np.where(steps > known[-1, 0], beyond, inside)


def read_log(run: str | Path) -> Curves:
    """The log of a run directory, or a log file itself.

    Lines that are no JSON objects with a step are counted and left out. Of lines with one step the last counts.
    Raises ``PlotError`` for a log that is missing or holds no figure at all.
    """
    path = Path(run)
    path = path / LOG if os.path.isdir(path) else path
    try:
        lines = read_limited(path, LARGEST_LOG).decode("utf-8", errors="replace").split("\n")
    except OSError as error:
        hint = f"; expected a run directory, which holds {LOG}, or such a file"
        raise PlotError(f"{path}: cannot read the log: {error.strerror or error}{hint}") from error
    values: dict[str, dict[float, float]] = {}
    ends: dict[float, float] = {0.0: 0.0}
    epoch, bad = 0.0, 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            step, now = float(record["step"]), float(record["epoch"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            bad += 1
            continue
        if not (0 <= step <= LARGEST_STEP and 0 <= now <= LARGEST_STEP):
            bad += 1
            continue
        validation = any(key.startswith("valid_") for key in record)
        # A validation stands at an epoch's end; else the first line of an epoch comes a few steps after its start.
        if validation or (now > epoch and now not in ends.values()):
            ends[step] = now
        epoch = now
        for key, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER:
                values.setdefault(key, {})[step] = value
    shown = {key: np.array(sorted(curve.items())) for key, curve in values.items() if key not in ("step", "epoch")}
    if not shown:
        raise PlotError(f"{path}: expected logged figures, got none; train for at least 10 steps, then plot again")
    known = np.array(sorted(ends.items()))
    # Epochs only ever grow; anything else (logs put together by hand) cannot be drawn against them.
    growing = np.concatenate([[True], known[1:, 1] > np.maximum.accumulate(known[:, 1])[:-1]])
    return Curves(_name(path), shown, known[growing], bad)


def draw_curves(runs: Sequence[str | Path], path: str | Path) -> list[Curves]:
    """Draw loss, error rates, learning rate and gradient norm of ``runs`` over one another, as PNG at ``path``.

    One run alone shows the gradient norms of the parts of its network as well. The x axis is epochs, or steps as
    long as one of the runs has not finished its first epoch.
    Raises ``PlotError`` as ``read_log`` and ``save_page`` do.
    """
    figure, axes = page(2, 2)
    logs = [read_log(run) for run in runs]
    names = [log.name for log in logs]
    in_epochs = all(len(log.epochs) > 1 for log in logs)
    parts = sorted(key for key in logs[0].points if key.startswith("grad_norm/")) if len(logs) == 1 else []
    norms = [("grad_norm", "whole network" if parts else "", "-")]
    norms += [(key, key.partition("/")[2], ":") for key in parts]
    panels = (
        ("loss per token (nats)", (("loss", "training", "-"), ("valid_loss", "validation", "--"))),
        ("validation error rate (%)", (("valid_wer", "WER", "-"), ("valid_cer", "CER", "--"))),
        ("learning rate", (("learning_rate", "", "-"),)),
        ("gradient norm, before clipping", norms),
    )
    for axis, (title, keys) in zip(axes, panels, strict=True):
        drawn = 0
        for index, log in enumerate(logs):
            label = plain(log.name if names.count(log.name) == 1 else f"{log.name} ({index + 1})")
            for number, (key, meaning, style) in enumerate(keys):
                x, y = log.at(key, in_epochs)
                if not len(x):
                    continue
                # One run has a colour for each curve, several have one for each run.
                colour = f"C{(index if len(logs) > 1 else number) % 10}"
                shown = ": ".join(([label] if len(logs) > 1 else []) + ([meaning] if meaning else []))
                factor = 100 if key in ("valid_wer", "valid_cer") else 1
                marker = "." if len(x) < 3 else ""
                if key == "valid_wer":
                    best = best_validation(log)
                    axis.plot(x[best], factor * y[best], "o", color=colour, markersize=4)
                    shown += f", best {factor * y[best]:.2f} %"
                axis.plot(x, factor * y, style, color=colour, label=shown, linewidth=1.2, marker=marker)
                drawn += 1
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch" if in_epochs else "step")
        axis.grid(alpha=0.3)
        if not drawn:
            axis.text(0.5, 0.5, "nothing logged yet", ha="center", transform=axis.transAxes)
            continue
        if title != "learning rate":
            readable_log_scale(axis)
        if len(logs) > 1 or len(keys) > 1:
            legend_below(axis)
    figure.suptitle(", ".join(map(plain, names)) if len(names) <= 4 else f"{len(names)} runs")
    save_page(figure, path)
    return logs


def best_validation(log: Curves) -> int:
    """Index in ``points["valid_wer"]`` of the evaluation whose weights training keeps: of equal ones the latest."""
    characters = dict(log.points.get("valid_cer", np.zeros((0, 2))).tolist())
    ranks = [rank(wer, characters.get(step, 0.0)) for step, wer in log.points["valid_wer"].tolist()]
    return max(index for index, one in enumerate(ranks) if one == min(ranks))


def _name(path: Path) -> str:
    """The run directory's name; of a log of another name, the file's."""
    path = path.absolute()
    return path.parent.name if path.name == LOG else path.stem


def describe_runs(log: Curves) -> str:
    """One line: how far the run is, its best validation, and what the log could not tell."""
    last = max(points[-1, 0] for points in log.points.values())
    parts = [f"{log.name}: step {last:g}"]
    wer = log.points.get("valid_wer")
    if wer is None:
        parts.append("no validation yet")
    else:
        best = best_validation(log)
        parts.append(f"best validation WER {100 * wer[best, 1]:.2f} % at step {wer[best, 0]:g}")
    if log.bad_lines:
        parts.append(f"{log.bad_lines} unreadable lines left out")
    return ", ".join(parts)
