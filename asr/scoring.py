"""Scoring: word, character and sentence error rates with a confidence interval, paired by utterance id.

jiwer aligns (Levenshtein distance, all edits cost one). Before that, texts are composed (NFC) and runs of whitespace
become one space; case and punctuation count as they stand. Characters include the single spaces between words.

An utterance whose reference is empty takes part: everything in its hypothesis is an insertion, and it adds no words.
Rates are errors / max(1, reference length), so that a set without any reference word has as its WER the number of
insertions (0 when there are none), as in jiwer; every rate is a finite number.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jiwer
import numpy as np

from asr.errors import ManifestError
from asr.lines import split_fields, split_lines

RESAMPLES = 10_000
"""Bootstrap resamples behind ``Report.ci95``."""
SEED = 1
"""Seed of the bootstrap: the same results give the same interval."""


@dataclass(frozen=True)
class Scored:
    """One utterance, aligned.

    ``alignment`` pairs reference and hypothesis words in order; ``""`` stands opposite a deleted or inserted word.
    ``errors`` and ``words`` count reference words, ``char_errors`` and ``characters`` the same for characters.
    """

    id: str
    reference: str
    hypothesis: str
    alignment: tuple[tuple[str, str], ...]
    errors: int
    words: int
    char_errors: int
    characters: int


@dataclass(frozen=True)
class Confusion:
    """A word taken for another, ``count`` times; an empty ``hypothesis`` is a deletion, an empty ``reference`` an
    insertion."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class Report:
    """Error rates as fractions (0.05 is 5 %) and the counts they come from.

    ``ci95``: percentile bootstrap interval of the WER over utterances (Bisani & Ney 2004), which takes utterances for
    independent; with few speakers the truth is wider. ``utterances`` are in the order of the references.
    """

    wer: float
    cer: float
    ser: float
    """Share of the utterances with at least one word error."""
    errors: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    char_errors: int
    characters: int
    ci95: tuple[float, float]
    utterances: tuple[Scored, ...]

    def to_dict(self) -> dict[str, Any]:
        """What ``asr evaluate --json`` writes; plain types, and every number finite."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        utterances = [{name: getattr(u, name) for name in _UTTERANCE_KEYS} for u in self.utterances]
        return {**numbers, "ci95": list(self.ci95), "utterances": utterances}

    def summary(self) -> str:
        """One line for people: ``WER 7.63 % (59/773; S 40 D 10 I 9; 95 % 5.8 to 9.6)   CER …   SER …``."""
        low, high = self.ci95
        wrong = sum(u.errors > 0 for u in self.utterances)
        return (
            f"WER {100 * self.wer:.2f} % ({self.errors}/{self.words}; S {self.substitutions} D {self.deletions} "
            f"I {self.insertions}; 95 % {100 * low:.1f} to {100 * high:.1f})   "
            f"CER {100 * self.cer:.2f} % ({self.char_errors}/{self.characters})   "
            f"SER {100 * self.ser:.2f} % ({wrong}/{len(self.utterances)})"
        )

    def confusions(self, n: int = 20) -> tuple[Confusion, ...]:
        """The ``n`` most frequent substitutions, deletions and insertions, most frequent first, then by word."""
        counts = Counter(pair for u in self.utterances for pair in u.alignment if pair[0] != pair[1])
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Confusion(*pair, count) for pair, count in ranked[:n])


_NUMBERS = (
    "wer",
    "cer",
    "ser",
    "errors",
    "words",
    "substitutions",
    "deletions",
    "insertions",
    "char_errors",
    "characters",
)
_UTTERANCE_KEYS = ("id", "reference", "hypothesis", "errors", "words")


NOTHING_YET = 0.9
"""WER from which on a model recognises next to nothing: its words are right by chance."""


def rank(wer: float, cer: float) -> tuple[float, float]:
    """What tells a better validation of a training from a worse one, the smallest being the best.

    The WER decides; while it is still near 100 % it says nothing, and the CER does.
    """
    return (wer, 0.0) if wer < NOTHING_YET else (NOTHING_YET, cer)


def score(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> Report:
    """Score the hypothesis of each id against its reference; see the module for what counts.

    Raises ``ManifestError`` naming the ids that only one side has, and when there is nothing to score.
    """
    _check_ids(references, hypotheses)
    utterances = tuple(_score_one(id, references[id], hypotheses[id]) for id in references)
    pairs = [pair for u in utterances for pair in u.alignment]
    words, errors = sum(u.words for u in utterances), sum(u.errors for u in utterances)
    characters, char_errors = sum(u.characters for u in utterances), sum(u.char_errors for u in utterances)
    deletions, insertions = sum(not h for _, h in pairs), sum(not r for r, _ in pairs)
    return Report(
        wer=errors / max(1, words),
        cer=char_errors / max(1, characters),
        ser=sum(u.errors > 0 for u in utterances) / len(utterances),
        errors=errors,
        words=words,
        substitutions=errors - deletions - insertions,
        deletions=deletions,
        insertions=insertions,
        char_errors=char_errors,
        characters=characters,
        ci95=bootstrap_ci95([u.errors for u in utterances], [u.words for u in utterances]),
        utterances=utterances,
    )


def bootstrap_ci95(errors: Sequence[int], words: Sequence[int]) -> tuple[float, float]:
    """(2.5 %, 97.5 %) quantiles of the WER when as many utterances are drawn again with replacement.

    ``errors``, ``words``: counts of each utterance, in any order; at least one. Bisani & Ney, "Bootstrap estimates
    for confidence intervals in ASR performance evaluation", ICASSP 2004.
    """
    # Utterances with equal counts are interchangeable: drawing how often each distinct pair of counts occurs is the
    # same bootstrap, at a cost that hardly grows with the number of utterances, and blind to their order.
    counts, weights = np.unique(np.stack([errors, words], axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    rates = []
    for _ in range(RESAMPLES // 1000):  # in parts, which bounds memory
        draws = rng.multinomial(len(errors), weights / len(errors), size=1000)  # (1000, distinct pairs)
        sums = draws @ counts  # (1000, 2): errors and words of each resample
        rates.append(sums[:, 0] / np.maximum(1, sums[:, 1]))
    low, high = np.quantile(np.concatenate(rates), [0.025, 0.975])
    return float(low), float(high)


def format_alignment(scored: Scored) -> str:
    """Reference above hypothesis, a column for each word, ``***`` for none; S, D, I below the errors.

    ::

        REF: THE *** CAT SAT
        HYP: THE BIG BAT ***
                 I   S   D
    """
    rows: list[list[str]] = [["REF:"], ["HYP:"], ["    "]]
    for reference, hypothesis in scored.alignment:
        width = max(_width(reference), _width(hypothesis))
        mark = "" if reference == hypothesis else "I" if not reference else "D" if not hypothesis else "S"
        for row, cell in zip(rows, (reference or "*" * width, hypothesis or "*" * width, mark), strict=True):
            row.append(cell + " " * (width - _width(cell)))
    lines = [" ".join(row).rstrip() for row in rows]
    return "\n".join(line for line in lines if line)


def read_transcripts(path: str | Path, role: Literal["reference", "hypothesis"] = "hypothesis") -> dict[str, str]:
    """Texts by utterance id, in file order, from any of these, told apart by content:

    - JSONL: objects with ``id`` and the key named by ``role`` or else ``text`` (manifests; other keys are ignored);
    - the JSON of ``asr evaluate``: an object whose ``utterances`` are such objects;
    - ``.trn``: ``words (id)``, taken when the name ends so or every line does;
    - Kaldi ``text``: ``id words``.

    A line with an id and no words is an empty text and is kept; blank lines are skipped. Texts are composed (NFC).
    Raises ``ManifestError`` naming file and line for anything malformed, and for duplicate ids.
    """
    text = _read(path)
    if text.lstrip().startswith("{"):
        entries = _json_entries(path, text, role)
    else:
        lines = [(number, line) for number, line in enumerate(split_lines(text), start=1) if line.strip()]
        trn = str(path).endswith(".trn") or all(_trn(line) for _, line in lines)
        entries = _line_entries(path, lines, _trn_entry if trn else _kaldi_entry)
    transcripts: dict[str, str] = {}
    for where, id, words in entries:
        if id in transcripts:
            raise ManifestError(f"{where}: expected each id once, got {id!r} again")
        transcripts[id] = _clean(words)
    if not transcripts:
        raise ManifestError(f"{path}: expected transcripts, got an empty file")
    return transcripts


_Entry = tuple[str, str, str]
"""Where it stands (file:line), id, text."""


def _clean(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    if not references:
        raise ManifestError("expected utterances to score, got no reference")
    problems = []
    missing = [id for id in references if id not in hypotheses]
    if missing:
        problems.append(f"{len(missing)} of {len(references)} references have no hypothesis: {_some(missing)}")
    extra = [id for id in hypotheses if id not in references]
    if extra:
        problems.append(f"{len(extra)} of {len(hypotheses)} hypotheses have no reference: {_some(extra)}")
    if problems:
        raise ManifestError(f"{'; '.join(problems)} (where nothing was recognised, keep the id with an empty text)")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:5])) + (", …" if len(ids) > 5 else "")


def _score_one(id: str, reference: str, hypothesis: str) -> Scored:
    reference, hypothesis = _clean(reference), _clean(hypothesis)
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return Scored(
        id=id,
        reference=reference,
        hypothesis=hypothesis,
        alignment=tuple(_pairs(words)),
        errors=words.substitutions + words.deletions + words.insertions,
        words=len(words.references[0]),
        char_errors=characters.substitutions + characters.deletions + characters.insertions,
        characters=len(characters.references[0]),
    )


def _pairs(output: jiwer.WordOutput) -> Iterator[tuple[str, str]]:
    """jiwer's chunks word by word: ``""`` opposite deletions and insertions."""
    references, hypotheses = output.references[0], output.hypotheses[0]
    for chunk in output.alignments[0]:
        old = references[chunk.ref_start_idx : chunk.ref_end_idx]
        new = hypotheses[chunk.hyp_start_idx : chunk.hyp_end_idx]
        yield from zip(old or [""] * len(new), new or [""] * len(old), strict=True)


def _width(text: str) -> int:
    """Columns in a terminal: combining marks take none, East Asian wide characters two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def _read(path: str | Path) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the transcripts: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}:{line}: expected UTF-8, got {error}; convert the file to UTF-8") from error


def _json_entries(path: str | Path, text: str, role: str) -> Iterator[_Entry]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None  # more than one object: a line each, and a malformed one is named below
    if isinstance(document, dict) and "utterances" in document:
        records = document["utterances"]
        if not isinstance(records, list):
            raise ManifestError(f"{path}: utterances: expected a list, got {type(records).__name__}")
        for i, record in enumerate(records):
            yield _json_entry(f"{path}: utterances[{i}]", record, role)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ManifestError(f"{where}: expected a JSON object, got {line.strip()[:60]!r}: {error}") from error
            yield _json_entry(where, record, role)


def _json_entry(where: str, record: Any, role: str) -> _Entry:
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: expected a JSON object with id and text, got {record!r:.60}")
    key = role if role in record else "text"
    for name in ("id", key):
        if name not in record:
            wanted = "id" if name == "id" else f"{role} or text"
            raise ManifestError(f"{where}: expected the key {wanted}, got {', '.join(record) or 'none'}")
        if not isinstance(record[name], str):
            raise ManifestError(f"{where}: {name}: expected a string, got {record[name]!r:.60}")
    return where, record["id"], record[key]


def _line_entries(
    path: str | Path, lines: Iterable[tuple[int, str]], parse: Callable[[str, str], tuple[str, str]]
) -> Iterator[_Entry]:
    for number, line in lines:
        where = f"{path}:{number}"
        yield where, *parse(where, line)


def _trn_entry(where: str, line: str) -> tuple[str, str]:
    entry = _trn(line)
    if not entry:
        raise ManifestError(f"{where}: expected words and (id), got {line.strip()[:60]!r}")
    return entry


def _trn(line: str) -> tuple[str, str] | None:
    """(id, words) of a line that ends in ``(id)``, or None."""
    words, bracket, rest = line.rstrip().rpartition("(")
    id = rest[:-1]
    return (id, words) if bracket and rest.endswith(")") and id and not set(id) & set(") \t") else None


def _kaldi_entry(where: str, line: str) -> tuple[str, str]:
    id, *words = split_fields(line, 1)
    return id, "".join(words)
