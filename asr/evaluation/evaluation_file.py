"""The JSON of ``asr evaluate``: what it holds of each utterance beside its score, and how it is read again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from asr.errors import ManifestError
from asr.files import read_json
from asr.scoring import wer
from asr.scoring.rules import DEFAULT_RULES, Rules
from asr.scoring.score_report import Report, Scored
from asr.transcript import Word

EVALUATION_FORMAT = 2
"""Of what ``asr evaluate`` writes. Files of format 1 have no key ``format`` and none of the details."""
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class UtteranceDetails:
    """What an evaluation knows of one utterance beside its score; None and empty values stand for what it does not.

    ``audio``: path; ``start_s``, ``end_s`` and ``channel`` (from 0) as in manifests. ``snr_db`` and ``level_db``: see
    ``asr.audio.noise``. ``words``: the recognised words with times from the start of the utterance, in seconds.
    ``acoustic_score`` and ``lm_score``: natural logarithms, see ``asr.transcript.Transcript``.
    """

    audio: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    duration_s: float | None = None
    snr_db: float | None = None
    level_db: float | None = None
    confidence: float | None = None
    reliability: float | None = None
    acoustic_score: float | None = None
    lm_score: float | None = None
    words: tuple[Word, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded, without those that are not known."""
        tree: dict[str, Any] = {}
        for name, digits in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None and math.isfinite(value):
                tree[name] = round(value, digits)
        if self.audio:
            tree = {"audio": self.audio} | tree
        if self.channel is not None:
            tree["channel"] = self.channel
        words = [
            {"text": w.text, "start_s": round(w.start_s, 3), "end_s": round(w.end_s, 3),
             "confidence": round(w.confidence, 4)}
            for w in self.words
        ]  # fmt: skip
        return tree | {"hypothesis_words": words}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], where: str) -> UtteranceDetails:
        """What ``to_dict`` gave; other keys are ignored. Raises ``ManifestError`` naming ``where`` and the key."""
        known: dict[str, Any] = {name: _number(tree, name, where) for name in _NUMBERS if name in tree}
        known["audio"] = _text(tree, "audio", where) if "audio" in tree else ""
        if tree.get("channel") is not None:
            known["channel"] = int(_number(tree, "channel", where))
        words = tree.get("hypothesis_words", [])
        if not isinstance(words, list) or not all(isinstance(word, dict) for word in words):
            raise ManifestError(f"{where}: hypothesis_words: expected a list of words, got {words!r:.60}")
        return cls(**known, words=tuple(_word(word, f"{where}: hypothesis_words[{i}]") for i, word in enumerate(words)))


_NUMBERS = {
    "start_s": 3,
    "end_s": 3,
    "duration_s": 3,
    "snr_db": 1,
    "level_db": 1,
    "confidence": 4,
    "reliability": 4,
    "acoustic_score": 2,
    "lm_score": 2,
}
"""Fields that are numbers, and their digits in files."""


@dataclass(frozen=True)
class EvaluationFile:
    """An evaluation as it was read: the report, scored again, and ``details`` by id.

    ``outside``: words of the references that are not in the lexicon; None where any word could be written.
    ``decoding``: the options that were in force, as text. ``streamed``: whether the audio was streamed.
    """

    path: str
    report: Report
    details: dict[str, UtteranceDetails]
    corpora: dict[str, str]
    """The name of the corpus of each utterance, by id."""
    manifest: str = ""
    model: str = ""
    streamed: bool = False
    audio_s: float | None = None
    seconds: float | None = None
    outside: frozenset[str] | None = None
    decoding: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def read_evaluation(path: str | Path) -> EvaluationFile:
    """The JSON of ``asr evaluate`` or ``asr score``; older files have no details. The figures are computed anew.

    Raises ``ManifestError`` naming the file and the utterance for anything else.
    """
    try:
        tree = read_json(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot read the evaluation: {error}") from error
    return parse_evaluation(tree, str(path))


def parse_evaluation(tree: Any, path: str) -> EvaluationFile:
    """As ``read_evaluation``, of the JSON's values; ``path`` is for messages and names the corpus where no manifest
    does."""
    if not isinstance(tree, dict) or not isinstance(tree.get("utterances"), list):
        raise ManifestError(f"{path}: expected the JSON of asr evaluate --json or asr score --json, got something else")
    version = tree.get("format", 1)
    if version not in (1, EVALUATION_FORMAT):
        raise ManifestError(
            f"{path}: expected an evaluation of format 1 or {EVALUATION_FORMAT}, got {version!r:.40}; use the asr that "
            "wrote it"
        )
    texts: dict[str, tuple[str, str]] = {}
    speakers, details, corpora = {}, {}, {}
    corpus = PurePath(_optional_text(tree, "manifest", path) or path).stem
    for where, entry in _entries(tree["utterances"], path):
        name = _text(entry, "id", where)
        if name in texts:
            raise ManifestError(f"{where}: expected each id once, got {name!r} again")
        texts[name] = _text(entry, "reference", where), _text(entry, "hypothesis", where)
        speakers[name] = _optional_text(entry, "speaker", where)
        corpora[name] = _optional_text(entry, "corpus", where) or corpus
        details[name] = UtteranceDetails.from_dict(entry, where)
    if not texts:
        raise ManifestError(f"{path}: expected utterances, got none")
    try:
        rules = Rules.from_dict(tree["rules"]) if "rules" in tree else DEFAULT_RULES
        references, hypotheses = ({name: pair[side] for name, pair in texts.items()} for side in (0, 1))
        report = wer.score(references, hypotheses, rules, speakers)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error
    return EvaluationFile(path, report, details, corpora, **_head(tree, path))


def _head(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """What an evaluation says of the whole."""
    outside = tree.get("words_outside_lexicon")
    if outside is not None and not (isinstance(outside, list) and all(isinstance(word, str) for word in outside)):
        raise ManifestError(f"{path}: words_outside_lexicon: expected a list of words or null, got {outside!r:.60}")
    maps = {}
    for name in ("decoding", "failures"):
        maps[name] = tree.get(name, {})
        if not isinstance(maps[name], dict) or not all(isinstance(text, str) for text in maps[name].values()):
            raise ManifestError(f"{path}: {name}: expected names with texts, got {maps[name]!r:.60}")
    return {
        "manifest": _optional_text(tree, "manifest", path),
        "model": _optional_text(tree, "model", path),
        "streamed": tree.get("streamed") is True,
        "audio_s": _number(tree, "audio_s", path) if "audio_s" in tree else None,
        "seconds": _number(tree, "seconds", path) if "seconds" in tree else None,
        "outside": None if outside is None else frozenset(outside),
        **maps,
    }


def _entries(records: list[Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, record in enumerate(records):
        where = f"{path}: utterances[{index}]"
        if not isinstance(record, dict):
            raise ManifestError(f"{where}: expected a JSON object, got {record!r:.60}")
        yield where, record


def _word(tree: Mapping[str, Any], where: str) -> Word:
    return Word(
        _text(tree, "text", where), *(_number(tree, name, where) for name in ("start_s", "end_s", "confidence"))
    )


def _text(tree: Mapping[str, Any], name: str, where: str) -> str:
    value = tree.get(name)
    if not isinstance(value, str):
        raise ManifestError(f"{where}: {name}: expected a text, got {value!r:.60}")
    return value


def _optional_text(tree: Mapping[str, Any], name: str, where: str) -> str:
    return _text(tree, name, where) if tree.get(name) is not None else ""


def _number(tree: Mapping[str, Any], name: str, where: str) -> float:
    value = tree.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"{where}: {name}: expected a number, got {value!r:.60}")
    return value


def join_evaluations(evaluations: Sequence[EvaluationFile]) -> EvaluationFile:
    """Several evaluations of one model as one, each a corpus of its own.

    Corpora with one name are called by their folders as well, and ids that several have by their corpus. ``model`` is
    empty where the evaluations have different ones.

    Raises ``ManifestError`` where they were scored by different rules.
    """
    first = evaluations[0]
    if len(evaluations) == 1:
        return first
    for other in evaluations:
        if other.report.rules != first.report.rules:
            raise ManifestError(
                f"expected evaluations that were scored by the same rules, got {first.path} by {first.report.rules} "
                f"and {other.path} by {other.report.rules}"
            )
    utterances: list[Scored] = []
    details, corpora = {}, {}
    several = {
        name for name, count in Counter(u.id for e in evaluations for u in e.report.utterances).items() if count > 1
    }
    for evaluation, names in zip(evaluations, _corpus_names(evaluations), strict=True):
        for utterance in evaluation.report.utterances:
            corpus = names[evaluation.corpora[utterance.id]]
            name = f"{corpus}/{utterance.id}" if utterance.id in several else utterance.id
            utterances.append(replace(utterance, id=name))
            details[name] = evaluation.details[utterance.id]
            corpora[name] = corpus
    if len(details) < len(utterances):
        raise ManifestError(f"expected evaluations of different corpora, got utterances of {first.path} twice")
    return replace(first, report=Report(tuple(utterances), first.report.rules), details=details, corpora=corpora,
                   **_joined_head(evaluations))  # fmt: skip


def _joined_head(evaluations: Sequence[EvaluationFile]) -> dict[str, Any]:
    """What several evaluations say of the whole."""
    models = {evaluation.model for evaluation in evaluations}
    outside = [evaluation.outside for evaluation in evaluations]
    lengths = [evaluation.audio_s for evaluation in evaluations]
    times = [evaluation.seconds for evaluation in evaluations]
    return {
        "manifest": ", ".join(evaluation.manifest for evaluation in evaluations),
        "model": models.pop() if len(models) == 1 else "",
        "audio_s": None if None in lengths else sum(filter(None, lengths)),
        "seconds": None if None in times else sum(filter(None, times)),
        "outside": None if None in outside else frozenset[str]().union(*(found or () for found in outside)),
        "failures": {name: reason for evaluation in evaluations for name, reason in evaluation.failures.items()},
    }


def _corpus_names(evaluations: Sequence[EvaluationFile]) -> list[dict[str, str]]:
    """For each evaluation new names of its corpora: with the folder in front where others have the same."""
    counts = Counter(name for evaluation in evaluations for name in set(evaluation.corpora.values()))
    named = []
    for evaluation in evaluations:
        folder = PurePath(evaluation.manifest or evaluation.path).parent.name
        names = set(evaluation.corpora.values())
        named.append({name: f"{folder}/{name}" if counts[name] > 1 and folder else name for name in names})
    return named
