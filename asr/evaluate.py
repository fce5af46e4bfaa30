"""Scoring a model on a manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr import manifest, scoring, text
from asr.errors import AudioError, ManifestError
from asr.recognizer import Item, Recognizer


@dataclass(frozen=True)
class Evaluation:
    """A scored manifest. ``failures`` maps ids whose audio could not be transcribed, and so are not scored, to why."""

    report: scoring.Report
    failures: dict[str, str]
    audio_s: float
    seconds: float

    def summary(self) -> str:
        """Rates and speed for people, and how many utterances are not in them."""
        factor = self.seconds / self.audio_s
        lines = [
            self.report.summary(),
            f"{self.audio_s:.1f} s of audio in {self.seconds:.2f} s: {factor:.4f} x real time",
        ]
        if self.failures:
            lines.append(f"{len(self.failures)} utterances could not be transcribed and are not in these figures")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report's keys, and ``failures``, ``audio_s``, ``seconds`` and ``real_time_factor``."""
        speed = {
            "audio_s": round(self.audio_s, 3),
            "seconds": round(self.seconds, 3),
            "real_time_factor": round(self.seconds / self.audio_s, 6),
        }
        return self.report.to_dict() | {"failures": self.failures} | speed


def evaluate(path: str | Path, recognizer: Recognizer, root: str | Path | None = None) -> Evaluation:
    """Transcribe every utterance of the manifest ``path`` and score it against its text.

    References go through the model's text normalisation, as in training; a character the model does not know stays
    and counts as an error. Raises ``ManifestError`` when nothing could be transcribed.
    """
    utterances = manifest.read(path, root)
    rules = recognizer.model.config.text
    references = {u.id: text.normalise(u.text, rules) for u in utterances}
    items = [Item(u.audio, u.id, u.start_s, u.end_s) for u in utterances]
    hypotheses: dict[str, str] = {}
    failures: dict[str, str] = {}
    audio_s = 0.0
    started = time.perf_counter()
    results = recognizer.transcribe_many(items)
    for item, result in tqdm(results, total=len(items), desc="evaluating", disable=None, leave=False):
        if isinstance(result, AudioError):
            failures[item.name] = str(result)
        else:
            hypotheses[item.name] = result.text
            audio_s += result.duration_s
    seconds = time.perf_counter() - started
    if not hypotheses:
        raise ManifestError(f"{path}: none of {len(items)} utterances could be transcribed: {failures[items[0].name]}")
    report = scoring.score({name: references[name] for name in hypotheses}, hypotheses)
    return Evaluation(report, failures, audio_s, seconds)
