"""The result of scoring: counts and rates, by utterance and by speaker, and how they are shown."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from asr.scoring.bootstrap import bootstrap_ci95
from asr.scoring.rules import DEFAULT_RULES, Rules


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
"""The figures of ``Report.to_dict``."""


@dataclass(frozen=True)
class Report:
    """Error rates as fractions (0.05 is 5 %) and the counts they come from.

    ``ci95``: percentile bootstrap interval of the WER over utterances (Bisani & Ney 2004), which assumes that
    utterances are independent; with few speakers the true interval is wider. ``utterances`` are in the order of the
    references; ``rules`` are those that they were scored by.
    """

    utterances: tuple[Scored, ...]
    rules: Rules = DEFAULT_RULES

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
        spoken, recognised = self.words, self.hits + self.substitutions + self.insertions
        if not spoken and not recognised:
            return 0.0
        return 1 - self.hits**2 / (spoken * recognised) if spoken and recognised else 1.0

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


def _width(text: str) -> int:
    """Columns in a terminal: combining marks take none, East Asian wide characters two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
