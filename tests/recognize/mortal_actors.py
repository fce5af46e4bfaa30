"""Actors that die or wait at a place that a test knows; the processes of Ray import them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from asr.recognize import recognizer
from asr.recognize.ray_stages import RayRecognizer

LATE = 12
"""Number of the recording that actors die of, and from which they wait."""


class MortalRecognizer(RayRecognizer):
    """Dies in the middle of its work, once, and leaves a file that says so."""

    def __call__(self, table):
        place = Path(os.environ["ASR_TEST_FOLDER"], "died")
        if LATE in table.column("number").to_pylist() and not place.exists():
            place.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


class DoomedRecognizer(RayRecognizer):
    """Dies of one recording, each time."""

    def __call__(self, table):
        if LATE in table.column("number").to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


class StillbornRecognizer(RayRecognizer):
    """Dies while it loads the model, as the kernel has it where memory runs out."""

    def __init__(self, *arguments):
        recognizer.load = lambda **options: os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(*arguments)


class GatedRecognizer(RayRecognizer):
    """Waits with the later recordings until the gate is open."""

    def __call__(self, table):
        while (
            max(table.column("number").to_pylist()) >= LATE and not Path(os.environ["ASR_TEST_FOLDER"], "open").exists()
        ):
            time.sleep(0.05)
        return super().__call__(table)
