"""Warnings of a training about its data and its result."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from asr.config.sections import Config
from asr.data import findings, preflight
from asr.data.batches import Dataset
from asr.data.manifest import Utterance
from asr.data.manifest_table import ManifestTable
from asr.data.shard_set import ShardSet

MOST_NAMED = 10
"""Utterances left out that are named."""


def nothing_learnt(wer: float, hours: float) -> str:
    """What to do about a model that has learnt next to nothing from so many hours of speech."""
    return (
        f"the model recognises hardly anything yet (validation WER {100 * wer:.0f} %). It was trained on {hours:.2f} h "
        "of speech. From random weights, 0.7 h of letters, digits and names (the recipe an4) give a WER of 6 %; free "
        "speech needs far more. Record more, train for more epochs (--resume train.epochs=N), or start from a trained "
        "model, which needs only minutes of speech (train.init=english)"
    )


def shared_speakers(training: Sequence[Utterance] | ShardSet, held_out: Sequence[Utterance]) -> Iterator[str]:
    """Validation on speakers that were trained on flatters the model."""
    if isinstance(training, ShardSet):
        shared = set(training.shared_speakers(held_out))
    elif isinstance(training, ManifestTable):
        shared = training.speakers & {u.speaker for u in held_out}
    else:
        shared = {u.speaker for u in training if u.speaker} & {u.speaker for u in held_out}
    if shared:
        yield f"{len(shared)} speakers are in both training and validation data, such as {min(shared)}"


def visible_faults(data: Dataset, path: str, config: Config) -> Iterator[str]:
    """Faults that the training manifests at ``path`` show without reading audio; ``asr check`` finds all of them."""
    if isinstance(data.utterances, ManifestTable):  # too many lines to compare each with all
        return
    report = preflight.glance(path, data.utterances, data.labels, config)
    for kind, count in Counter(finding.kind for finding in report.findings).items():
        first = next(finding for finding in report.findings if finding.kind == kind)
        title = findings.FAULT_KINDS[kind][1]
        yield f"{path}: {title}: {count}, such as {first.id}: {first.message}; asr check lists them"


def left_out(data: Dataset, path: str) -> Iterator[str]:
    """The first utterances that are not used, with their reasons, and the count of all."""
    for name, reason in itertools.islice(data.left_out.items(), MOST_NAMED):
        yield f"{path}: {name}: left out: {reason}"
    if data.left_out:
        more = "; asr check lists all" if len(data.left_out) > MOST_NAMED else ""
        yield f"{path}: {len(data.left_out)} utterances left out, {len(data.utterances)} used{more}"
