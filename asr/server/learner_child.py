"""The process of ``asr serve --learn`` that runs ``asr learn``, at low priority."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from asr.config.child_processes import end_with
from asr.errors import AsrError

NICENESS = 10


@dataclass(frozen=True)
class LearnerSetup:
    """What the process is to learn: ``asr learn MODEL ZIPS --output OUTPUT --no-store``."""

    model: str
    zips: Sequence[str]
    output: str


def run_learner(descriptor: int, parent: int) -> None:
    """Learn what the other end of the connection says, and answer with the report as plain values, or an error."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        connection.send(_learnt(connection.recv()))
    os._exit(0)


def _learnt(setup: LearnerSetup) -> dict[str, Any] | AsrError:
    try:
        import torch

        from asr.train.learning import LearnOptions, learn

        torch.set_num_threads(1)
        report = learn(setup.model, setup.zips, setup.output, LearnOptions(store=False))
    except AsrError as error:
        return error
    except Exception as error:  # a fault of ours, or memory
        traceback.print_exc()
        return AsrError(f"learning has failed ({type(error).__name__}: {error})"[:300])
    return {**report.to_dict(), "summary": report.summary()}
