"""Scoring a model on a manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr.audio import read
from asr.audio.noise import noise_level
from asr.cloud.addresses import shown_place, without_secrets
from asr.config import cpus
from asr.data.archived_utterances import read_utterances
from asr.data.manifest import Utterance
from asr.errors import AudioError, ConfigError, ManifestError
from asr.evaluation.evaluation_file import EVALUATION_FORMAT, UtteranceDetails
from asr.lm.lm_directory import name_of
from asr.recognize.recognizer import Recognizer, TranscribeMany
from asr.recognize.recording import Recording
from asr.recognize.stream import finish_streams
from asr.recognize.stream_batch import StreamBatch
from asr.scoring import wer
from asr.scoring.rules import DEFAULT_RULES, Rules
from asr.scoring.score_report import Report
from asr.transcript import Transcript

NOISE_RATE_HZ = 16000
"""Rate at which noise is measured."""
STREAMS = 32
"""Utterances streamed side by side."""


@dataclass(frozen=True)
class Evaluation:
    """A scored manifest. ``failures`` maps ids that could not be transcribed, and so are not scored, to the reason."""

    report: Report
    failures: dict[str, str]
    audio_s: float
    seconds: float
    details: dict[str, UtteranceDetails] = field(default_factory=dict)
    """What is known of each utterance beside its score, by id."""
    setting: dict[str, Any] = field(default_factory=dict)
    """``model``, ``manifest``, ``decoding``, ``streamed``, ``words_outside_lexicon``: see ``EvaluationFile``."""

    def summary(self) -> str:
        """Rates and speed for people, and how many utterances are not in them."""
        speed = f": {self.seconds / self.audio_s:.4f} x real time" if self.audio_s > 0 else ""
        lines = [self.report.summary(), f"{self.audio_s:.1f} s of audio in {self.seconds:.2f} s{speed}"]
        if self.failures:
            lines.append(f"{len(self.failures)} utterances could not be transcribed and are not in these figures")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What ``asr evaluate --json`` writes (``asr.evaluation.evaluation_file`` reads it).

        The report's keys, those of ``setting``, ``failures``, ``audio_s``, ``seconds`` and ``real_time_factor``, which
        is null where there is no audio. Each of the ``utterances`` has the keys of its details too.
        """
        speed = {
            "audio_s": round(self.audio_s, 3),
            "seconds": round(self.seconds, 3),
            "real_time_factor": round(self.seconds / self.audio_s, 6) if self.audio_s > 0 else None,
        }
        tree = (
            {"format": EVALUATION_FORMAT} | self.setting | self.report.to_dict() | {"failures": self.failures} | speed
        )
        utterances = tree.pop("utterances")
        for entry in utterances:
            if entry["id"] in self.details:
                entry |= self.details[entry["id"]].to_dict()
        return tree | {"utterances": utterances}


def evaluate_model(
    path: str | Path,
    recognizer: Recognizer,
    root: str | Path | None = None,
    *,
    rules: Rules = DEFAULT_RULES,
    noise: bool = False,
    transcribe: TranscribeMany | None = None,
) -> Evaluation:
    """Transcribe every utterance of the manifest, or archives with texts, ``path`` and score it against its text.

    References go through the model's text normalisation, as in training; a character the model does not know stays
    and counts as an error. ``noise``: measure the noise of each recording, for which it is read once more.
    ``transcribe``: another way to transcribe with the same model and options, such as ``RayEngine.transcribe_many``.
    Raises ``ManifestError`` for malformed alternatives in a reference, before any work, and when nothing could be
    transcribed.
    """
    unread: dict[str, str] = {}
    utterances = read_utterances(path, root, unread)
    items = [Recording.of(u) for u in utterances]
    references = _references(utterances, recognizer, rules)
    result = _scored(path, utterances, references, (transcribe or recognizer.transcribe_many)(items), rules)
    result.failures.update(unread)
    return _with_setting(result, path, utterances, recognizer, streamed=False, noise=noise)


def evaluate_stream(
    path: str | Path,
    recognizer: Recognizer,
    root: str | Path | None = None,
    *,
    block_s: float = 0.1,
    chunk_s: float | None = None,
    right_s: float | None = None,
    rules: Rules = DEFAULT_RULES,
    noise: bool = False,
) -> Evaluation:
    """As ``evaluate_model``, each utterance fed to a stream in blocks of ``block_s`` (see
    ``asr.recognize.stream.Stream``).

    Raises ``ConfigError`` for a block of no or endless length and for impossible chunks.
    """
    if not 0 < block_s < math.inf:
        raise ConfigError(f"block_s: expected a number above 0, got {block_s}")
    unread: dict[str, str] = {}
    utterances = read_utterances(path, root, unread)
    batch = StreamBatch(recognizer, chunk_s=chunk_s, right_s=right_s)
    batch.open()  # a wrong option is refused before any work is done
    references = _references(utterances, recognizer, rules)
    result = _scored(path, utterances, references, _streamed(utterances, batch, block_s), rules)
    result.failures.update(unread)
    return _with_setting(result, path, utterances, recognizer, streamed=True, noise=noise)


def _references(utterances: Sequence[Utterance], recognizer: Recognizer, rules: Rules) -> dict[str, str]:
    """By id. Raises ``ManifestError`` for one that cannot be scored, before anything is transcribed."""
    references = {u.id: recognizer.model.tokenizer.reference(u.text) for u in utterances}
    wer.check_references(references, rules)
    return references


def _streamed(
    utterances: Sequence[Utterance], batch: StreamBatch, block_s: float
) -> Iterator[tuple[Recording, Transcript | AudioError]]:
    """Transcripts of utterances that are streamed side by side."""
    rate_hz = batch.recognizer.sample_rate_hz
    size = max(1, round(block_s * rate_hz))
    for at in range(0, len(utterances), STREAMS):
        results: list[tuple[Recording, Transcript | AudioError]] = []
        sounds = {}
        for utterance in utterances[at : at + STREAMS]:
            item = Recording.of(utterance)
            try:
                samples = read.load_audio(
                    item.source, rate_hz, start_s=item.start_s, end_s=item.end_s, channel=item.channel
                )
            except AudioError as error:
                results.append((item, error))
            else:
                sounds[batch.open(source=item.name)] = item, samples
        longest = max((len(samples) for _, samples in sounds.values()), default=0)
        for start in range(0, longest, size):
            batch.accept({s: x[start : start + size] for s, (_, x) in sounds.items() if start < len(x)})
        finals = finish_streams(list(sounds))
        yield from results
        yield from ((item, final) for (item, _), final in zip(sounds.values(), finals, strict=True))


def _scored(
    path: str | Path,
    utterances: Sequence[Utterance],
    references: dict[str, str],
    results: Iterable[tuple[Recording, Transcript | AudioError]],
    rules: Rules,
) -> Evaluation:
    hypotheses: dict[str, str] = {}
    details: dict[str, UtteranceDetails] = {}
    failures: dict[str, str] = {}
    places = {u.id: u.audio for u in utterances}
    audio_s = 0.0
    started = time.perf_counter()
    for item, result in tqdm(results, total=len(utterances), desc="evaluating", disable=None, leave=False):
        if isinstance(result, AudioError):
            failures[item.name] = str(result)
        else:
            hypotheses[item.name] = result.spoken_text
            details[item.name] = _details(dataclasses.replace(item, source=places[item.name]), result)
            audio_s += result.duration_s
    seconds = time.perf_counter() - started
    if not hypotheses:
        name, reason = next(iter(failures.items()))
        shown = without_secrets(str(path))
        raise ManifestError(f"{shown}: none of {len(utterances)} utterances could be transcribed: {name}: {reason}")
    scored = {name: references[name] for name in references if name in hypotheses}
    speakers = {u.id: u.speaker for u in utterances}
    report = wer.score(scored, hypotheses, rules, speakers)
    return Evaluation(report, failures, audio_s, seconds, details)


def _details(item: Recording, transcript: Transcript) -> UtteranceDetails:
    spoken = transcript.spoken or [word.text for word in transcript.words]
    # Words that a phrase list writes as one (42) share its times.
    words = [
        dataclasses.replace(word, text=part)
        for word, said in zip(transcript.words, spoken, strict=True)
        for part in said.split()
    ]
    return UtteranceDetails(
        shown_place(item.source),
        item.start_s,
        item.end_s,
        item.channel,
        transcript.duration_s,
        confidence=transcript.confidence,
        reliability=transcript.reliability,
        acoustic_score=transcript.acoustic_score,
        lm_score=transcript.lm_score,
        words=tuple(words),
    )


def _with_setting(
    result: Evaluation,
    path: str | Path,
    utterances: Sequence[Utterance],
    recognizer: Recognizer,
    *,
    streamed: bool,
    noise: bool,
) -> Evaluation:
    """The evaluation with what it was made of: model, manifest, options, lexicon, and noise where it is asked for."""
    options = recognizer.decoder.options
    plain = {
        entry.name: _shown(getattr(options, entry.name))
        for entry in dataclasses.fields(options)
        if getattr(options, entry.name) != entry.default
    }
    setting = {
        "model": os.path.abspath(recognizer.model.path),
        "manifest": shown_place(path),
        "streamed": streamed,
        "decoding": {name: text for name, text in plain.items() if text},
        "words_outside_lexicon": _outside(result.report, recognizer.decoder.listed_words()),
    }
    details = _with_noise(result.details, utterances) if noise else result.details
    return dataclasses.replace(result, details=details, setting=setting)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}:{_shown(item)}" for name, item in value.items())
    return str(value) if isinstance(value, str | int | float) else name_of(value)


def _outside(report: Report, listed: set[str] | None) -> list[str] | None:
    """Reference words that are not among those that the search can write, as they are scored."""
    if listed is None:
        return None
    known = {part for word in listed for part in report.rules.text(word).split()}
    return sorted({word for u in report.utterances for word, _ in u.alignment if word and word not in known})


def _with_noise(details: dict[str, UtteranceDetails], utterances: Sequence[Utterance]) -> dict[str, UtteranceDetails]:
    def measured(utterance: Utterance) -> tuple[str, UtteranceDetails]:
        found = details[utterance.id]
        with contextlib.suppress(AudioError):  # it was read a moment ago; without it the noise is not known
            level = noise_level(Recording.of(utterance).blocks(NOISE_RATE_HZ), NOISE_RATE_HZ)
            found = dataclasses.replace(found, snr_db=level.snr_db, level_db=level.level_db)
        return utterance.id, found

    scored = [utterance for utterance in utterances if utterance.id in details]
    with ThreadPoolExecutor(cpus.available()) as pool:
        found = pool.map(measured, scored)
        return dict(tqdm(found, total=len(scored), desc="measuring noise", disable=None, leave=False))
