"""The log of a training run: ``log.jsonl``, and TensorBoard's event files on request."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from asr.errors import TrainingError
from asr.files import atomic

LOG = "log.jsonl"


class RunLog:
    """Lines of figures, each with the step, epoch and seconds of training that it belongs to.

    With ``tensorboard``, every finite number goes to event files under ``folder/tensorboard`` as well; raises
    ``TrainingError`` where tensorboard is not installed. Every method raises it for a folder that cannot be written.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.path = folder / LOG
        self.events = folder / "tensorboard"
        self._writer: Any = None
        self._make_writer = _writer_type() if tensorboard else None

    def write(self, step: int, epoch: int, seconds: float, values: dict[str, Any]) -> None:
        """Append one line."""
        line = {"step": step, "epoch": epoch, "seconds": round(seconds, 2)} | values
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self._make_writer is None:
                return
            if self._writer is None:
                # A resumed run repeats what came after its checkpoint: the events from here on are void.
                self._writer = self._make_writer(str(self.events), purge_step=step)
            for name, value in values.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot write: {error}") from error

    def rewind(self, step: int, epoch: int) -> int:
        """Drop the lines that a checkpoint at (``step``, ``epoch``) does not know of: it is about to happen again.

        A validation has the step of the epoch's last batch and the number of the next epoch: a checkpoint taken
        between the two knows the step only. Lines that are none of a log are dropped too; returns how many there were,
        save for the last, which a kill may have cut short.
        """
        if not os.path.exists(self.path):
            return 0
        kept, bad, lines = [], [], []
        try:
            lines = [line for line in self.path.read_bytes().split(b"\n") if line.strip()]
            for number, line in enumerate(lines, start=1):
                try:
                    values = json.loads(line.decode("utf-8"))
                    place = float(values["step"]), float(values["epoch"])
                except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                    bad.append(number)
                    continue
                if step and place <= (step, epoch):
                    kept.append(line + b"\n")
            with atomic(self.path) as path:
                path.write_bytes(b"".join(kept))
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot write: {error}") from error
        return sum(number < len(lines) for number in bad)

    def close(self) -> None:
        """Close the event files."""
        if self._writer is not None:
            self._writer.close()


def _writer_type() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(f"train.tensorboard: true needs tensorboard ({error}): pip install tensorboard") from error
    return SummaryWriter
