"""Scoring: word, character and sentence error rates with a confidence interval, paired by utterance id.

jiwer aligns (Levenshtein distance, all edits cost one). Before that, texts are composed (NFC) and runs of whitespace
become one space; case and punctuation count as they stand, unless ``Rules`` say otherwise. Characters include the
single spaces between words, and are counted without them as well.

References may hold alternatives, ``{ a / b }`` as NIST writes them (``asr.scoring.alternatives``); the reading that
is nearest
to the hypothesis is scored.

An utterance with an empty reference counts: its hypothesis is all insertions, and it adds no reference words. Rates are
errors / max(1, reference length), so that a set without any reference word has as its WER the number of insertions (0
when there are none), as in jiwer; every rate is a finite number.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jiwer
import numpy as np
from numpy.typing import NDArray

from asr.errors import ManifestError
from asr.scoring import transcript_files
from asr.scoring.alternatives import LEVENSHTEIN, SCLITE, Aligned, Costs, Reference, align_words, folded

RESAMPLES = 10_000
"""Bootstrap resamples behind ``Report.ci95``."""
SEED = 1
"""Seed of the bootstrap: the same results give the same interval."""
DRAWN = 2_000_000
"""Numbers drawn at a time, which bounds the memory of a bootstrap: 16 MB."""


@dataclass(frozen=True)
class Rules:
    """What counts as an error, and how words are aligned.

    ``ignore_case``: compare case-folded texts (``ß`` is ``ss``). ``ignore_punctuation``: leave punctuation out (Unicode
    category P), save apostrophes inside words and points inside numbers; dashes and slashes between letters divide
    words. ``alternatives``: ``{ a / b }`` in references are readings and not words. ``optional``: ``(word)`` in
    references may be missing, and then counts as right. ``costs``: the costs that the alignment minimises.
    """

    ignore_case: bool = False
    ignore_punctuation: bool = False
    alternatives: bool = True
    optional: bool = False
    costs: Costs = LEVENSHTEIN

    def text(self, text: str, *, reference: bool = False) -> str:
        """``text`` as it is scored. In a reference the notation stays."""
        if self.ignore_case:
            text = text.casefold()
        text = unicodedata.normalize("NFC", text)
        if self.ignore_punctuation:
            notation = {"alternatives": self.alternatives, "optional": self.optional} if reference else {}
            text = folded(text, **notation)
        return " ".join(text.split())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> Rules:
        """What ``to_dict`` gave. Raises ``ManifestError`` for anything else."""
        expected = DEFAULT.to_dict()
        costs = tree.get("costs") if isinstance(tree, dict) else None
        for found, known in ((tree, expected), (costs, expected["costs"])):
            kinds = {name: type(value) for name, value in found.items()} if isinstance(found, dict) else None
            if kinds != {name: type(value) for name, value in known.items()}:
                raise ManifestError(
                    f"rules: expected {json.dumps(expected)} or other values of these, got {tree!r:.200}"
                )
        return cls(**tree | {"costs": Costs(**tree["costs"])})

    def __str__(self) -> str:
        """As options of the command line."""
        words = [f"--{name.replace('_', '-')}" for name in ("ignore_case", "ignore_punctuation") if getattr(self, name)]
        words += ["--optional"] * self.optional + ["--literal"] * (not self.alternatives)
        known = {LEVENSHTEIN: "levenshtein", SCLITE: "sclite"}
        words += ["--costs " + known.get(self.costs, str(self.costs))] if self.costs != LEVENSHTEIN else []
        return " ".join(words) or "the usual rules"


DEFAULT = Rules()
LITERAL = Rules(alternatives=False)
"""For texts to train and tune on, whose braces are characters like any other."""


@dataclass(frozen=True)
class Scored:
    """One utterance, aligned.

    ``reference`` and ``hypothesis`` are the texts as scored; the reference still has its alternatives. ``alignment``
    pairs reference and hypothesis words in order, of the nearest reading; ``""`` stands opposite a deleted or inserted
    word. ``errors`` and ``words`` count reference words (with ``forgiven``, the optional words that are missing: they
    count as right and stand in no pair), ``char_errors`` and ``characters`` the same for characters with spaces,
    ``bare_errors`` and ``bare`` for characters without them. ``items``: which word or group of the reference each pair
    belongs to, from 0; an insertion to the next one. ``speaker`` is empty where not known.
    """

    id: str
    reference: str
    hypothesis: str
    alignment: tuple[tuple[str, str], ...]
    errors: int
    words: int
    char_errors: int
    characters: int
    bare_errors: int
    bare: int
    items: tuple[int, ...]
    forgiven: int = 0
    speaker: str = ""


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

    ``ci95``: percentile bootstrap interval of the WER over utterances (Bisani & Ney 2004), which assumes that
    utterances are independent; with few speakers the true interval is wider. ``utterances`` are in the order of the
    references; ``rules`` are those that they were scored by.
    """

    utterances: tuple[Scored, ...]
    rules: Rules = DEFAULT

    @cached_property
    def errors(self) -> int:
        return sum(u.errors for u in self.utterances)

    @cached_property
    def words(self) -> int:
        return sum(u.words for u in self.utterances)

    @cached_property
    def deletions(self) -> int:
        return sum(not h for u in self.utterances for _, h in u.alignment)

    @cached_property
    def insertions(self) -> int:
        return sum(not r for u in self.utterances for r, _ in u.alignment)

    @property
    def substitutions(self) -> int:
        return self.errors - self.deletions - self.insertions

    @property
    def hits(self) -> int:
        """Reference words that were recognised."""
        return self.words - self.substitutions - self.deletions

    @cached_property
    def char_errors(self) -> int:
        return sum(u.char_errors for u in self.utterances)

    @cached_property
    def characters(self) -> int:
        return sum(u.characters for u in self.utterances)

    @property
    def wer(self) -> float:
        return self.errors / max(1, self.words)

    @property
    def cer(self) -> float:
        """Characters with the spaces between words."""
        return self.char_errors / max(1, self.characters)

    @property
    def cer_without_spaces(self) -> float:
        return sum(u.bare_errors for u in self.utterances) / max(1, sum(u.bare for u in self.utterances))

    @property
    def ser(self) -> float:
        """Share of the utterances with at least one word error."""
        return sum(u.errors > 0 for u in self.utterances) / len(self.utterances)

    @property
    def mer(self) -> float:
        """Match error rate: errors / (errors + hits), 0 to 1 (Morris et al. 2004)."""
        return self.errors / max(1, self.errors + self.hits)

    @property
    def wil(self) -> float:
        """Word information lost: 1 - hits² / (reference words x hypothesis words), 0 to 1 (Morris et al. 2004)."""
        spoken, heard = self.words, self.hits + self.substitutions + self.insertions
        if not spoken and not heard:
            return 0.0
        return 1 - self.hits**2 / (spoken * heard) if spoken and heard else 1.0

    @cached_property
    def ci95(self) -> tuple[float, float]:
        return bootstrap_ci95([u.errors for u in self.utterances], [u.words for u in self.utterances])

    def by_speaker(self) -> dict[str, Report]:
        """A report for each speaker that is known, by name."""
        groups: dict[str, list[Scored]] = {}
        for utterance in self.utterances:
            groups.setdefault(utterance.speaker, []).append(utterance)
        return {name: Report(tuple(groups[name]), self.rules) for name in sorted(groups) if name}

    def to_dict(self) -> dict[str, Any]:
        """What ``asr evaluate --json`` writes; plain types, and every number finite."""
        tree = {**self._numbers(), "ci95": list(self.ci95), "rules": self.rules.to_dict()}
        speakers = self.by_speaker()
        if speakers:
            tree["speakers"] = [
                {"speaker": name, "utterances": len(report.utterances), **report._numbers()}
                for name, report in speakers.items()
            ]
        keys = ("id", "reference", "hypothesis", "errors", "words")
        utterances = [{name: getattr(u, name) for name in keys} for u in self.utterances]
        for entry, utterance in zip(utterances, self.utterances, strict=True):
            if utterance.speaker:
                entry["speaker"] = utterance.speaker
        return {**tree, "utterances": utterances}

    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _NUMBERS}

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

    def details(self) -> str:
        """One more line: ``CER without spaces …   MER …   WIL …``."""
        return (
            f"CER without spaces {100 * self.cer_without_spaces:.2f} %   MER {100 * self.mer:.2f} %   "
            f"WIL {100 * self.wil:.2f} %"
        )

    def speakers(self) -> str:
        """A line for each speaker that is known: name, utterances, words, WER with its counts."""
        rows = [
            (name, f"{len(r.utterances)} utterances", f"WER {100 * r.wer:.2f} %",
             f"({r.errors}/{r.words}; S {r.substitutions} D {r.deletions} I {r.insertions})")
            for name, r in self.by_speaker().items()
        ]  # fmt: skip
        width = max((_width(row[0]) for row in rows), default=0)
        return "\n".join("  ".join([row[0] + " " * (width - _width(row[0])), *row[1:]]) for row in rows)

    def confusions(self, n: int = 20) -> tuple[Confusion, ...]:
        """The ``n`` most frequent substitutions, deletions and insertions, most frequent first, then by word."""
        counts = Counter(pair for u in self.utterances for pair in u.alignment if pair[0] != pair[1])
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Confusion(*pair, count) for pair, count in ranked[:n])


_NUMBERS = (
    "wer",
    "cer",
    "cer_without_spaces",
    "ser",
    "mer",
    "wil",
    "errors",
    "words",
    "hits",
    "substitutions",
    "deletions",
    "insertions",
    "char_errors",
    "characters",
)


NOTHING_YET = 0.9
"""WER from which on a model recognises next to nothing: its words are right by chance."""


def rank(wer: float, cer: float) -> tuple[float, float]:
    """The figures that rank validations of a training; the smallest is the best.

    The WER decides; while it is still near 100 % it says nothing, and the CER does.
    """
    return (wer, 0.0) if wer < NOTHING_YET else (NOTHING_YET, cer)


def score(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    rules: Rules = DEFAULT,
    speakers: Mapping[str, str] | None = None,
) -> Report:
    """Score the hypothesis of each id against its reference; see the module and ``Rules`` for what counts.

    ``speakers``: by id, of those that are known. Raises ``ManifestError`` naming the ids that only one side has, an
    utterance whose alternatives are malformed, and when there is nothing to score.
    """
    _check_ids(references, hypotheses)
    known = speakers or {}
    said = {id: rules.text(text, reference=True) for id, text in references.items()}
    heard = {id: rules.text(hypotheses[id]) for id in references}
    aligned = _align(said, heard, rules)
    # What is compared by characters is the reading that the words were compared with.
    readings = [" ".join(pair.reference for pair in pairs if _said(pair)) for pairs in aligned.values()]
    spaced = _char_errors(readings, list(heard.values()))
    bare = _char_errors([r.replace(" ", "") for r in readings], [h.replace(" ", "") for h in heard.values()])
    utterances = []
    for id, reading, char_errors, bare_errors in zip(said, readings, spaced, bare, strict=True):
        pairs = [pair for pair in aligned[id] if not pair.forgiven]
        forgiven = len(aligned[id]) - len(pairs)
        utterances.append(
            Scored(
                id=id,
                reference=said[id],
                hypothesis=heard[id],
                alignment=tuple((pair.reference, pair.hypothesis) for pair in pairs),
                errors=sum(pair.wrong for pair in pairs),
                words=sum(bool(pair.reference) for pair in pairs) + forgiven,
                char_errors=char_errors,
                characters=len(reading),
                bare_errors=bare_errors,
                bare=len(reading.replace(" ", "")),
                items=tuple(pair.item for pair in pairs),
                forgiven=forgiven,
                speaker=known.get(id, ""),
            )
        )
    return Report(tuple(utterances), rules)


def check_references(references: Mapping[str, str], rules: Rules = DEFAULT) -> None:
    """Refuse references that cannot be scored, before work is done for them. Raises ``ManifestError`` as ``score``."""
    for id, text in references.items():
        _graph(id, rules.text(text, reference=True), rules)


def agreed(*files: transcript_files.TranscriptFile) -> Rules:
    """The rules that reports among ``files`` were scored by, which hold for what is made of them; ``DEFAULT`` where
    none says any. Raises ``ManifestError`` for files that differ."""
    found = {file.path: Rules.from_dict(file.rules) for file in files if file.rules is not None}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{path} by {rules}" for path, rules in found.items())
        raise ManifestError(
            f"expected results that were scored by the same rules, got {told}; give the options that are to hold "
            "(--costs levenshtein alone: the usual rules)"
        )
    return next(iter(found.values()), DEFAULT)


def score_files(
    reference: str | Path, hypothesis: str | Path, rules: Rules | None = None, *, plain: bool = False
) -> Report:
    """Score one file of transcripts against another: what ``asr score`` does. ``plain``: line by line, without ids.

    ``rules``: by default those of a report (see ``agreed``).

    Segments of an STM reference take the words whose middle they hold, and their ``(word)`` are optional.
    Raises ``ManifestError``; see ``asr.scoring.transcript_files``.
    """
    files = transcript_files.read(reference, "reference", plain=plain), transcript_files.read(hypothesis, plain=plain)
    return score_pair(transcript_files.pair(*files), rules or agreed(*files))


def score_pair(pair: transcript_files.Pair, rules: Rules = DEFAULT) -> Report:
    """Score what ``asr.scoring.transcript_files.pair`` has put together."""
    if pair.segmented and not rules.optional:
        rules = replace(rules, optional=True)
    _check_ids(pair.references, pair.hypotheses, pair.hint)
    return score(pair.references, pair.hypotheses, rules, pair.speakers)


def read_transcripts(path: str | Path, role: Literal["reference", "hypothesis"] = "hypothesis") -> dict[str, str]:
    """Texts by utterance id, in file order, from any file that ``asr.scoring.transcript_files`` reads."""
    return transcript_files.read(path, role).texts


def bootstrap_ci95(errors: Sequence[int], words: Sequence[int]) -> tuple[float, float]:
    """(2.5 %, 97.5 %) quantiles of the WER when as many utterances are drawn again with replacement.

    ``errors``, ``words``: counts of each utterance, in any order; at least one. Bisani & Ney, "Bootstrap estimates
    for confidence intervals in ASR performance evaluation", ICASSP 2004.
    """
    sums = resampled(np.stack([errors, words], axis=1))
    low, high = np.quantile(sums[:, 0] / np.maximum(1, sums[:, 1]), [0.025, 0.975])
    return float(low), float(high)


def resampled(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over as many rows as there are, drawn with replacement, ``RESAMPLES`` times: ``(RESAMPLES, columns)``.

    ``rows``: counts of each utterance, ``(utterances, columns)``. Needs about 8 x ``DRAWN`` bytes, whatever their
    number.
    """
    # Utterances with equal counts are interchangeable: drawing how often each distinct row occurs is the same
    # bootstrap, at a cost that hardly grows with the number of utterances, and blind to their order.
    counts, weights = np.unique(rows, axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    part = max(1, min(RESAMPLES, DRAWN // len(counts)))
    sums = [
        rng.multinomial(len(rows), weights / len(rows), size=min(part, RESAMPLES - at)) @ counts
        for at in range(0, RESAMPLES, part)
    ]
    return np.concatenate(sums)


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


def _check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str], few: str = "") -> None:
    """``few``: what to say where fewer than half of the references have a hypothesis."""
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
        hint = "where nothing was recognised, keep the id with an empty text"
        if few and len(missing) > len(references) / 2:
            hint = few
        raise ManifestError(f"{'; '.join(problems)} ({hint})")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:5])) + (", …" if len(ids) > 5 else "")


def _align(references: Mapping[str, str], hypotheses: Mapping[str, str], rules: Rules) -> dict[str, list[Aligned]]:
    """Words against words, by utterance id, in the order of ``references``."""
    aligned: dict[str, list[Aligned]] = {}
    plain = []
    for id, reference in references.items():
        graph = _graph(id, reference, rules)
        aligned[id] = []
        if graph.plain and rules.costs == LEVENSHTEIN:
            plain.append(id)
            continue
        try:
            aligned[id] = align_words(graph, hypotheses[id].split(), rules.costs)
        except ManifestError as error:
            raise ManifestError(f"utterance {id}: {error}") from error
    if plain:
        # Alike with all costs one, and fast.
        found = jiwer.process_words([references[id] for id in plain], [hypotheses[id] for id in plain])
        aligned |= zip(plain, _pairs(found), strict=True)
    return aligned


def _graph(id: str, reference: str, rules: Rules) -> Reference:
    try:
        return Reference(reference, alternatives=rules.alternatives, optional=rules.optional)
    except ManifestError as error:
        raise ManifestError(f"utterance {id}: {error}, or --literal, if braces are words") from error


def _said(pair: Aligned) -> bool:
    return bool(pair.reference) and not pair.forgiven


def _char_errors(references: list[str], hypotheses: list[str]) -> Iterator[int]:
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        found = jiwer.process_characters(reference, hypothesis)
        yield found.substitutions + found.deletions + found.insertions


def _pairs(output: jiwer.WordOutput) -> Iterator[list[Aligned]]:
    """jiwer's chunks of each utterance word by word: ``""`` opposite deletions and insertions."""
    for references, hypotheses, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        pairs = []
        for chunk in chunks:
            old = references[chunk.ref_start_idx : chunk.ref_end_idx]
            new = hypotheses[chunk.hyp_start_idx : chunk.hyp_end_idx]
            for i, (r, h) in enumerate(zip(old or [""] * len(new), new or [""] * len(old), strict=True)):
                pairs.append(Aligned(r, h, chunk.ref_start_idx + (i if old else 0)))
        yield pairs


def _width(text: str) -> int:
    """Columns in a terminal: combining marks take none, East Asian wide characters two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
