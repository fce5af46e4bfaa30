"""Labels recordings without transcripts with a model's own output, to train on (``asr label``).

Training on a model's own confident transcripts (self-training: Scudder 1965; for recognisers Kahn et al. 2020) adapts
it to a speaker, a microphone or a subject. Uncertain transcripts are left out, because a wrong label teaches the wrong
thing; so are those that a second opinion does not agree with, where there is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from asr.cloud.addresses import is_url, real_place, url_name
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, AudioError, ConfigError, ManifestError
from asr.files import atomic, check_output
from asr.recognize import batch_inputs
from asr.recognize.recognizer import Recognizer, TranscribeMany
from asr.recognize.recording import Recording
from asr.recognize.run_identity import describe_run
from asr.train.second_opinions import LabelSpeller, Opinion, compare_opinions, read_opinion

_LEAST_CONFIDENCE = 0.9
Place: TypeAlias = str
"""Real path, start, end and channel of a recording."""


@dataclass
class Labels:
    """The result: utterances with text, uncertain or empty ones, and failures.

    ``disputed``: those that a second opinion does not agree with; ``unjudged``: those that it has no text for.
    ``doubts``: the ``Transcript.doubt`` of recordings whose kind of speech the model may not know.
    """

    kept: list[Utterance] = field(default_factory=list)
    doubtful: list[Utterance] = field(default_factory=list)
    disputed: list[Utterance] = field(default_factory=list)
    unjudged: list[Utterance] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LabelGate:
    """What a label must pass.

    Attributes:
        least_confidence: of the least certain word of a transcript (0 to 1). Posteriors are surer than they should be:
            ``asr calibrate`` mends that where there is speech with text. None: 0.9, or 0 with a second opinion.
        agree_with: second opinions: recognizers, or paths of transcripts by utterance id.
        most_disagreement: share of characters that a second opinion may differ by (``second_opinions.differences``).
        take: whose text becomes the label: ``own``, or ``other``, that of the first second opinion, such as a teacher.
    """

    least_confidence: float | None = None
    agree_with: Sequence[Recognizer | str | os.PathLike[str]] = ()
    most_disagreement: float = 0.1
    take: str = "own"

    def __post_init__(self) -> None:
        for name in ("least_confidence", "most_disagreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected 0 to 1, got {value}")
        if self.take not in ("own", "other"):
            raise ConfigError(f"take: expected own or other, got {self.take!r}")
        if self.take == "other" and not self.agree_with:
            raise ConfigError("take: expected a second opinion (agree_with) to take texts of, got none; give one")

    @property
    def confidence(self) -> float:
        """The least confidence."""
        if self.least_confidence is not None:
            return self.least_confidence
        return 0.0 if self.agree_with else _LEAST_CONFIDENCE


def label_recordings(
    inputs: Sequence[str],
    recognizer: Recognizer,
    output: str | Path,
    *,
    least_confidence: float | None = None,
    speaker: str = "",
    resume: bool = False,
    force: bool = False,
    agree_with: Sequence[Recognizer | str | os.PathLike[str]] = (),
    most_disagreement: float = 0.1,
    take: str = "own",
    transcribe: TranscribeMany | None = None,
) -> Labels:
    """Transcribe recordings and write those that the model is sure of as a manifest to train on.

    Each transcript goes to ``OUTPUT.part`` as soon as it is there, those of a second model to ``OUTPUT.2.part``; the
    manifest is made of them at the end.

    Args:
        inputs: audio files, folders, and manifests, whose texts are not looked at.
        output: the manifest.
        least_confidence, agree_with, most_disagreement, take: see ``LabelGate``.
        speaker: of recordings that name none.
        resume: go on from ``OUTPUT.part``, if there is one.
        force: write over an ``output`` that is there already; a manifest may have been corrected by hand.
        transcribe: another way to transcribe with the same model and options, such as ``RayEngine.transcribe_many``.
            Models of second opinions transcribe here.

    Raises ``OutputError`` for such an output; ``ConfigError`` for a number out of range, what an earlier run has
    left without ``resume`` or of other models, a file that cannot be written, a second opinion on other utterances, or
    where no recording was understood surely enough; ``ManifestError`` for transcripts that cannot be read.
    """
    gate = LabelGate(least_confidence, agree_with, most_disagreement, take)
    same = os.path.exists(output) and any(os.path.exists(name) and Path(name).samefile(output) for name in inputs)
    if same or os.path.isdir(output):
        raise ConfigError(f"{output}: expected a new manifest to write, got one of the inputs or a folder")
    check_output(Path(output), force=force)
    models = [recognizer, *(other for other in agree_with if isinstance(other, Recognizer))]
    _require_others(models)
    parts = [Path(f"{output}{f'.{n}' if n > 1 else ''}.part") for n in range(1, len(models) + 1)]
    for part in parts:
        if os.path.exists(part) and not resume:
            raise ConfigError(
                f"{part}: an interrupted run left this file; continue it with --resume, or remove the file"
            )
    files = iter([read_opinion(os.fspath(other)) for other in agree_with if not isinstance(other, Recognizer)])
    found = Labels()
    recordings = _recordings(inputs, found.failures)
    heard = _transcribed(recognizer, recordings, parts[0], found.failures, transcribe)
    ids = {place: utterance.id for place, utterance in recordings.items()}
    by_model = iter(zip(models[1:], parts[1:], strict=True))
    opinions = []
    for other in agree_with:
        if isinstance(other, Recognizer):
            model, part = next(by_model)
            # What cannot be read has failed already.
            texts = _transcribed(model, {p: u for p, u in recordings.items() if p in heard}, part, [])
            opinions.append(Opinion(str(model.model.path), {ids[p]: r["text"] for p, r in texts.items() if p in ids}))
        else:
            opinions.append(next(files))
    labelled = [_labelled(u, heard[place], speaker) for place, u in recordings.items() if place in heard]
    found.doubts += [str(record["doubt"]) for place, record in heard.items() if place in ids and record.get("doubt")]
    confidences = {ids[place]: record["confidence"] for place, record in heard.items() if place in ids}
    remark = _sort(labelled, confidences, gate, opinions, recognizer, found)
    if not found.kept:
        raise ConfigError(_nothing(output, parts[0], len(recordings), gate, found, remark))
    manifest.write_manifest(output, found.kept)
    for part in parts:
        part.unlink()
    return found


def _require_others(models: Sequence[Recognizer]) -> None:
    """Refuse a second opinion of the model itself, wherever its files lie."""
    first, *others = [{**describe_run(model), "models": ()} for model in models]
    if first in others:
        name = models[1 + others.index(first)].model.path
        raise ConfigError(
            f"{name}: expected a second opinion of another model, got the model that makes the labels, which always "
            "agrees with itself; give another model, or transcripts"
        )


def _transcribed(
    recognizer: Recognizer,
    recordings: Mapping[Place, Utterance],
    part: Path,
    failures: list[str],
    transcribe: TranscribeMany | None = None,
) -> dict[Place, dict[str, Any]]:
    """What a model writes for each recording, from ``part`` where it stands there; new records go there at once."""
    header = describe_run(recognizer)
    heard = _read(part, header)
    waiting = {u.id: place for place, u in recordings.items() if place not in heard}
    items = [Recording.of(recordings[place]) for place in waiting.values()]
    results = (transcribe or recognizer.transcribe_many)(items)
    _write(part, [header, *heard.values()], "w")
    for item, result in tqdm(results, total=len(waiting), desc="labelling", disable=None, leave=False):
        if isinstance(result, AudioError):
            failures.append(batch_inputs.message(item, result))
            continue
        place = waiting[item.name]
        least = min((word.confidence for word in result.words), default=0.0)
        heard[place] = {
            "place": place,
            "text": result.spoken_text,
            "confidence": least,
            "duration_s": result.duration_s,
            "doubt": result.doubt,
        }
        _write(part, [heard[place]], "a")
    return heard


def _labelled(utterance: Utterance, record: Mapping[str, Any], speaker: str) -> Utterance:
    return dataclasses.replace(
        utterance,
        text=record["text"],
        # The exact length of a part of a recording is its manifest's.
        duration_s=utterance.duration_s if utterance.end_s is not None else record["duration_s"],
        speaker=utterance.speaker or speaker,
    )


def _sort(
    labelled: Sequence[Utterance],
    confidences: Mapping[str, float],
    gate: LabelGate,
    opinions: Sequence[Opinion],
    recognizer: Recognizer,
    found: Labels,
) -> str:
    """Put each utterance where it belongs in ``found``; what the second opinions say, in a sentence."""
    sure = {u.id for u in labelled if u.text and confidences[u.id] >= gate.confidence}
    found.doubtful += [u for u in labelled if u.id not in sure]
    candidates = [u for u in labelled if u.id in sure]
    if not opinions:
        found.kept += candidates
        return ""
    speller = LabelSpeller(recognizer.model.tokenizer, recognizer.decoder.options.language)
    agreement = compare_opinions({u.id: u.text for u in candidates}, opinions, speller, gate.most_disagreement)
    for utterance in candidates:
        if utterance.id in agreement.agreed and gate.take == "other":
            utterance = dataclasses.replace(utterance, text=speller.spell(opinions[0].texts[utterance.id]))
        if utterance.id not in agreement.agreed:
            (found.disputed if utterance.id in agreement.disputed else found.unjudged).append(utterance)
        else:
            (found.kept if speller.learnable(utterance.text) else found.disputed).append(utterance)
    return agreement.remark


def _nothing(output: str | Path, part: Path, count: int, gate: LabelGate, found: Labels, remark: str) -> str:
    """Why there is no label at all, and what to do."""
    failed = f"{len(found.failures)} failed{f', the first: {found.failures[0]}' if found.failures else ''}. "
    doubts = f"{len(found.doubts)} are doubtful as a whole: {found.doubts[0]}. " if found.doubts else ""
    kept = f"The transcripts are kept in {part}: use them with --resume and another"
    if found.disputed or found.unjudged:
        return (
            f"{output}: the second opinion agrees with none of {count} recordings: {len(found.disputed)} differ by "
            f"more than {100 * gate.most_disagreement:g} % of their characters, {len(found.unjudged)} have no text "
            f"there, {len(found.doubtful)} were left out as not sure; {failed}{f'{remark}. ' if remark else ''}{doubts}"
            f"{kept} --agree-with or --most-disagreement"
        )
    return (
        f"{output}: none of {count} recordings has a text with a confidence of {gate.confidence:g} or more; "
        f"{failed}{doubts}{kept} --least-confidence"
    )


def _recordings(inputs: Sequence[str], failures: list[str]) -> dict[Place, Utterance]:
    """The recordings behind the inputs, each once and with an id of its own; the length of whole files is not known
    yet."""
    ids: set[str] = set()
    found: dict[Place, Utterance] = {}
    for name in inputs:
        try:
            if url_name(name).endswith(".jsonl") if is_url(name) else name.endswith(".jsonl"):
                group = manifest.read_manifest(name)
            else:
                jobs, failed = batch_inputs.find_jobs([name])
                failures += failed
                if any(not isinstance(job.item.source, str | Path) for job in jobs):
                    raise ConfigError(f"{name}: expected files, since a manifest names the audio of its utterances")
                group = [u for job in jobs if (u := _utterance(job, failures))]
        except AsrError as error:
            failures.append(str(error))
            continue
        for utterance in group:
            if (place := _place(utterance)) in found:
                continue
            numbered = (utterance.id if not n else f"{utterance.id}-{n + 1}" for n in itertools.count())
            id = next(id for id in numbered if id not in ids)
            ids.add(id)
            found[place] = dataclasses.replace(utterance, id=id)
    return found


def _utterance(job: batch_inputs.Job, failures: list[str]) -> Utterance | None:
    name = job.item.source if isinstance(job.item.source, str) else str(job.item.source)
    if batch_inputs.encodable(name) != name:
        failures.append(f"{name!r}: expected a file name in UTF-8, which a manifest can hold")
        return None
    try:
        # An utterance of a shard has an id of its own.
        id = job.id if job.id != job.output.as_posix() else str(job.output.with_suffix(""))
        return Utterance(id, name, "", 1.0)
    except ManifestError as error:
        failures.append(f"{name!r}: {error}")
        return None


def _place(utterance: Utterance) -> Place:
    """The key that identifies a recording."""
    end = "" if utterance.end_s is None else utterance.end_s
    channel = "" if utterance.channel is None else f" {utterance.channel}"
    return f"{real_place(utterance.audio)} {utterance.start_s} {end}{channel}"


def _write(part: Path, records: Iterable[dict[str, Any]], mode: str) -> None:
    """Put records into the file of what has been heard. Raises ``ConfigError``."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        if mode == "a":
            with part.open("a", encoding="utf-8") as file:
                file.write(lines)
        else:
            with atomic(part) as new:
                new.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{part}: cannot write: {error}") from error


def _read(part: Path, header: dict[str, Any]) -> dict[Place, dict[str, Any]]:
    """What an earlier run of the same models has heard; a last line that was cut short is heard again.

    Raises ``ConfigError`` for what other models have heard, and for a file that is none of ours.
    """
    if not os.path.exists(part):
        return {}
    records: list[Any] = []
    try:
        for line in part.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                records.append(json.loads(line))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{part}: cannot read the transcripts of an earlier run: {error}") from error
    if not records or records[0] != header:
        kept = records[0].get("models") if records and isinstance(records[0], dict) else "something else"
        raise ConfigError(
            f"{part}: expected transcripts of {', '.join(header['models'])} with the same options, weights and "
            f"files, got {kept}; remove it to start again"
        )
    return {record["place"]: record for record in records[1:] if _is_heard(record)}


def _is_heard(record: Any) -> bool:
    """Whether a line is one that ``label_recordings`` wrote; what another one was about is heard again."""
    numbers = ("confidence", "duration_s")
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), str) for name in ("place", "text"))
        and all(type(record.get(name)) in (int, float) and 0 <= record[name] < 1e9 for name in numbers)
    )
