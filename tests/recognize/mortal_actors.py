"""Actors that die or wait at a place that a test knows; the processes of Ray import them.

They have no network: such a process starts in a fraction of the time. Their text is a checksum of the samples.
"""

from __future__ import annotations

import os
import signal
import time
import types
import zlib
from pathlib import Path

import asr.recognize
from asr.errors import AudioError
from asr.recognize.ray_stages import RayRecognizer
from asr.transcript import Transcript

LATE = 6
"""Number of the recording that actors die of, and from which they wait."""


def checksum(samples):
    return str(zlib.crc32(samples.tobytes()))


class Checksums:
    """Takes the place of a ``Recognizer``."""

    def transcribe_readings(self, readings, *_):
        for recording, samples in readings:
            if isinstance(samples, AudioError):
                yield recording, samples
            else:
                yield recording, Transcript(checksum(samples), (), len(samples) / 16000)


class QuickRecognizer(RayRecognizer):
    """Loads no model."""

    def __init__(self, *arguments):
        asr.recognize.recognizer = types.SimpleNamespace(load=self._load)  # in this process of Ray only
        super().__init__(*arguments)

    def _load(self, **options):
        return Checksums()


class MortalRecognizer(QuickRecognizer):
    """Dies in the middle of its work, once, and leaves a file that says so."""

    def __call__(self, table):
        place = Path(os.environ["ASR_TEST_FOLDER"], "died")
        if LATE in table.column("number").to_pylist() and not place.exists():
            place.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


class DoomedRecognizer(QuickRecognizer):
    """Dies of one recording, each time."""

    def __call__(self, table):
        if LATE in table.column("number").to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


class StillbornRecognizer(QuickRecognizer):
    """Dies while it loads the model, as when the kernel ends a process because memory runs out."""

    def _load(self, **options):
        os.kill(os.getpid(), signal.SIGKILL)


class FaultyChecksums(Checksums):
    """Has a fault with one recording, in the middle of a block."""

    def transcribe_readings(self, readings, *_):
        for reading in super().transcribe_readings(readings):
            if reading[0].name.endswith(f"{LATE:02}.wav"):
                raise ZeroDivisionError("a fault")
            yield reading


class FaultyRecognizer(QuickRecognizer):
    """Loads no model, and has such a fault."""

    def _load(self, **options):
        return FaultyChecksums()


class GatedRecognizer(QuickRecognizer):
    """Waits with the later recordings until the gate is open."""

    def __call__(self, table):
        while (
            max(table.column("number").to_pylist()) >= LATE and not Path(os.environ["ASR_TEST_FOLDER"], "open").exists()
        ):
            time.sleep(0.05)
        return super().__call__(table)
