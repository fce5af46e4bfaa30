"""Labelling recordings with what a model hears in them, so that it can learn from speech that nobody wrote down.

Training on a model's own sure transcripts (self-training, Scudder 1965; of whole recognisers Kahn et al. 2020) adapts
it to a speaker, a microphone or a subject. What it was not sure of is left out: a wrong label teaches the wrong thing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr import batch, manifest, settings
from asr.errors import AsrError, AudioError, ConfigError
from asr.files import atomic
from asr.manifest import Utterance
from asr.recognizer import Item, Recognizer


@dataclass
class Labels:
    """What became of the recordings: utterances with text, those that were not sure or empty, and failures."""

    kept: list[Utterance] = field(default_factory=list)
    doubtful: list[Utterance] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def label(
    inputs: Sequence[str],
    recognizer: Recognizer,
    output: str | Path,
    *,
    least_confidence: float = 0.9,
    speaker: str = "",
    resume: bool = False,
) -> Labels:
    """Transcribe recordings and write those that the model is sure of as a manifest to train on.

    Each transcript goes to ``OUTPUT.part`` as soon as it is there; the manifest is made of it at the end.

    Args:
        inputs: audio files, folders, and manifests, whose texts are not looked at.
        output: the manifest.
        least_confidence: of the least certain word of a transcript (0 to 1). Posteriors are surer than they should
            be: ``asr calibrate`` mends that where there is speech with text.
        speaker: of recordings that name none.
        resume: go on from ``OUTPUT.part``, if there is one.

    Raises ``ConfigError`` for a confidence out of range, what an earlier run has left without ``resume`` or of another
    model, a file that cannot be written, or where no recording was understood surely enough.
    """
    if not 0 <= least_confidence <= 1:
        raise ConfigError(f"least_confidence: expected 0 to 1, got {least_confidence}")
    found = Labels()
    utterances = list(_utterances(inputs, found.failures))
    part = Path(f"{output}.part")
    try:
        models = [str(r.model.path.absolute()) for r in (recognizer, *recognizer.also)]
        header = {"models": models, "decoding": settings.to_dict(recognizer.decoder.options)}
        if part.exists() and not resume:
            raise ConfigError(f"{part}: an earlier run left this; --resume goes on from it, or remove it")
        heard = _read(part, header)
        part.parent.mkdir(parents=True, exist_ok=True)
        with atomic(part) as rewritten:
            rewritten.write_text("".join(_lines([header, *heard.values()])), encoding="utf-8")
        waiting = {u.id: u for u in utterances if u.id not in heard}
        items = [Item(u.audio, u.id, u.start_s, u.end_s) for u in waiting.values()]
        with part.open("a", encoding="utf-8") as file:
            results = recognizer.transcribe_many(items)
            for item, result in tqdm(results, total=len(items), desc="labelling", disable=None, leave=False):
                if isinstance(result, AudioError):
                    found.failures.append(batch.message(item, result))
                    continue
                least = min((word.confidence for word in result.words), default=0.0)
                said: dict[str, Any] = {
                    "id": item.name,
                    "text": result.text,
                    "confidence": least,
                    "duration_s": result.duration_s,
                }
                heard[item.name] = said
                file.writelines(_lines([said]))
                file.flush()
    except OSError as error:
        raise ConfigError(f"{part}: cannot write: {error}") from error
    for utterance in utterances:
        if utterance.id not in heard:
            continue
        record = heard[utterance.id]
        labelled = dataclasses.replace(
            utterance,
            text=record["text"],
            # The exact length of a part of a recording is its manifest's.
            duration_s=utterance.duration_s if utterance.end_s is not None else record["duration_s"],
            speaker=utterance.speaker or speaker,
        )
        sure = bool(labelled.text) and record["confidence"] >= least_confidence
        (found.kept if sure else found.doubtful).append(labelled)
    if not found.kept:
        raise ConfigError(
            f"{output}: of {len(utterances)} recordings none has a text that is sure to {least_confidence:g}; "
            f"{len(found.failures)} failed{f', the first: {found.failures[0]}' if found.failures else ''}"
        )
    manifest.write(output, found.kept)
    part.unlink()
    return found


def _utterances(inputs: Sequence[str], failures: list[str]) -> Iterator[Utterance]:
    """The recordings behind the inputs, each with an id of its own; the length of whole files is not known yet."""
    taken: set[str] = set()
    for name in inputs:
        try:
            if name.endswith(".jsonl"):
                group = manifest.read(name)
            else:
                jobs, failed = batch.find_jobs([name])
                failures += failed
                if any(not isinstance(job.item.source, str | Path) for job in jobs):
                    raise ConfigError(f"{name}: expected files, since a manifest names the audio of its utterances")
                group = [Utterance(str(job.output.with_suffix("")), str(job.item.source), "", 1.0) for job in jobs]
        except AsrError as error:
            failures.append(str(error))
            continue
        for utterance in group:
            id = utterance.id if utterance.id not in taken else utterance.audio
            if id in taken:
                failures.append(f"{name}: {utterance.id} is there twice")
                continue
            taken.add(id)
            yield dataclasses.replace(utterance, id=id)


def _lines(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(record) + "\n" for record in records)


def _read(part: Path, header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an earlier run of the same models has heard, by id; a last line that was cut short is heard again."""
    records = []
    for line in part.read_text(encoding="utf-8").splitlines() if part.exists() else ():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    # Numbers and tuples as JSON gives them back.
    if records and records[0] != json.loads(json.dumps(header)):
        raise ConfigError(f"{part}: expected what {header['models']} heard, got {records[0]}; remove it to begin anew")
    return {record["id"]: record for record in records[1:]}
