"""Tests whether one result is better than another on the same utterances: paired tests of word errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.errors import ManifestError
from asr.scoring import pairing, transcript_files
from asr.scoring.bootstrap import RESAMPLES, SEED, resampled
from asr.scoring.rules import Rules
from asr.scoring.score_report import Report, Scored
from asr.scoring.transcript_files import TranscriptFile
from asr.scoring.wer import agreed, score_pair

BOUNDARY = 2
"""Words that both results must have right, one after the other, between two segments of the matched pairs test."""


@dataclass(frozen=True)
class MatchedPairs:
    """Matched pairs sentence segment word error test, as NIST's ``sc_stats -t mapsswe`` has it (Gillick & Cox 1989).

    Utterances are cut into segments between ``BOUNDARY`` words that both results have right; errors in one segment
    then say nothing about the next. ``segments``: those with an error. ``mean`` and ``deviation`` of the difference
    in errors of a segment, second minus first; ``z``: mean / (deviation / √segments); ``p_value``: two-sided, normal.
    """

    segments: int
    mean: float
    deviation: float
    z: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same references. Differences are second minus first: below 0 the second is better.

    ``p_value``: probability of a difference at least as large, either way, if the two were exchangeable utterance by
    utterance (approximate randomisation, Noreen 1989). ``ci95``: paired bootstrap interval of the difference in WER
    (Bisani & Ney 2004). Both assume that utterances are independent; ``matched_pairs`` assumes it for segments.
    """

    first: Report
    second: Report
    difference: float
    ci95: tuple[float, float]
    p_value: float
    better: int
    """Utterances in which the second has fewer errors."""
    worse: int
    matched_pairs: MatchedPairs

    @property
    def significant(self) -> bool:
        """At 5 %, by the randomisation test."""
        return self.p_value < 0.05

    def to_dict(self) -> dict[str, Any]:
        """What ``asr compare --json`` writes: plain types, every number finite; the reports without utterances."""
        reports = {
            name: {key: value for key, value in report.to_dict().items() if key != "utterances"}
            for name, report in (("first", self.first), ("second", self.second))
        }
        return reports | {
            "utterances": len(self.first.utterances),
            "difference": self.difference,
            "ci95": list(self.ci95),
            "p_value": self.p_value,
            "significant": self.significant,
            "better": self.better,
            "worse": self.worse,
            "matched_pairs": asdict(self.matched_pairs),
        }

    def summary(self) -> str:
        """Four lines for people."""
        low, high = (100 * x for x in self.ci95)
        count = len(self.first.utterances)
        pairs = self.matched_pairs
        return "\n".join(
            [
                f"first   {self.first.summary()}",
                f"second  {self.second.summary()}",
                f"second - first: {100 * self.difference:+.2f} points of WER (95 % {low:+.2f} to {high:+.2f}), "
                f"p = {self.p_value:.4f}, {_verdict(self.p_value)}; "
                f"better in {self.better}, worse in {self.worse} of {count} utterances",
                f"matched pairs (MAPSSWE): {pairs.segments} segments, {pairs.mean:+.3f} errors a segment, "
                f"z = {pairs.z:.2f}, p = {pairs.p_value:.4f}, {_verdict(pairs.p_value)}",
            ]
        )


def _verdict(p_value: float) -> str:
    return "significant at 5 %" if p_value < 0.05 else "not significant at 5 %"


def compare(first: Report, second: Report) -> Comparison:
    """Compare two reports. Raises ``ManifestError`` when they are not of the same utterances and references."""
    _same(*({u.id: u.reference for u in report.utterances} for report in (first, second)))
    others = {u.id: u for u in second.utterances}
    pairs = [(ours, others[ours.id]) for ours in first.utterances]
    counts = np.array([(a.errors, a.words, b.errors, b.words) for a, b in pairs])
    changes = counts[:, 2] - counts[:, 0]
    low, high = np.quantile(_differences(counts), [0.025, 0.975])
    return Comparison(
        first=first,
        second=second,
        difference=second.wer - first.wer,
        ci95=(float(low), float(high)),
        p_value=_randomised(changes),
        better=int((changes < 0).sum()),
        worse=int((changes > 0).sum()),
        matched_pairs=matched_pairs(first, second),
    )


def compare_files(
    first: str | Path,
    second: str | Path,
    reference: str | Path | None = None,
    rules: Rules | None = None,
    *,
    plain: bool = False,
) -> Comparison:
    """Compare two files of results: what ``asr compare`` does.

    ``reference``: what both are scored against; by default the references in the files themselves (the JSON of
    ``asr evaluate`` and ``asr score``), which must be the same as scored. ``plain``: line by line, without ids.
    ``rules``: by default those that the files were scored by, which must be the same unless there is a ``reference``.

    Raises ``ManifestError``, also when no file has references.
    """
    if plain and reference is None:
        raise ManifestError("expected a file of references beside plain texts (--reference REF)")
    heard = [transcript_files.read(path, plain=plain) for path in (first, second)]
    if reference is None:
        rules = rules or agreed(*heard)
        said = _references(first, second, rules)
    else:
        said = transcript_files.read(reference, "reference", plain=plain)
        same = heard[0].rules == heard[1].rules or None in (heard[0].rules, heard[1].rules)
        rules = rules or agreed(*([said] if said.rules or not same else heard))
    return compare(*(score_pair(pairing.pair(said, file), rules) for file in heard))


def _references(first: str | Path, second: str | Path, rules: Rules) -> TranscriptFile:
    carried = [file for file in (transcript_files.read(path, "reference") for path in (first, second)) if file.named]
    if not carried:
        raise ManifestError(f"{first}, {second}: expected references in one of them, got none; give --reference REF")
    if len(carried) == 2:
        texts = ({id: rules.text(text, reference=True) for id, text in file.texts.items()} for file in carried)
        _same(*texts)
    return carried[0]


def _same(ours: dict[str, str], theirs: dict[str, str]) -> None:
    other = sorted(id for id in ours.keys() & theirs.keys() if ours[id] != theirs[id])
    told = [
        f"{len(ids)} {what}: {', '.join(map(repr, ids[:5]))}{', …' if len(ids) > 5 else ''}"
        for what, ids in (
            ("only in the first", sorted(ours.keys() - theirs.keys())),
            ("only in the second", sorted(theirs.keys() - ours.keys())),
            ("with other texts", other),
        )
        if ids
    ]
    if other:
        told[-1] += f"; {other[0]!r} has {ours[other[0]][:60]!r} and {theirs[other[0]][:60]!r}"
    if told:
        raise ManifestError(
            f"expected results on the same references, got {'; '.join(told)} "
            "(--reference scores both against one file, --ignore-case and --ignore-punctuation leave those out)"
        )


def _differences(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Second minus first WER of each resample. ``counts``: errors, words, errors, words of each utterance."""
    if (counts[:, 1] == counts[:, 3]).all():
        # The usual case, in which fewer utterances differ; with alternatives the words depend on the reading.
        sums = resampled(np.stack([counts[:, 2] - counts[:, 0], counts[:, 1]], axis=1))
        return sums[:, 0] / np.maximum(1, sums[:, 1])
    sums = resampled(counts)
    return sums[:, 2] / np.maximum(1, sums[:, 3]) - sums[:, 0] / np.maximum(1, sums[:, 1])


def _randomised(changes: NDArray[np.int64]) -> float:
    """Two-sided p-value of the sum of ``changes`` when each keeps or turns its sign by chance."""
    sizes, counts = np.unique(np.abs(changes[changes != 0]), return_counts=True)
    rng = np.random.default_rng(SEED)
    totals = np.zeros(RESAMPLES, dtype=np.int64)
    for size, count in zip(sizes, counts, strict=True):  # changes of one size are interchangeable
        totals += size * (2 * rng.binomial(count, 0.5, RESAMPLES) - count)
    extreme = int((np.abs(totals) >= abs(changes.sum())).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def matched_pairs(first: Report, second: Report) -> MatchedPairs:
    """The test on two reports of the same references. Without any difference, or with one segment only, p is 1."""
    others = {u.id: u for u in second.utterances}
    differences = np.array([b - a for u in first.utterances for a, b in _segments(u, others[u.id])], dtype=np.int64)
    count = len(differences)
    mean = float(differences.mean()) if count else 0.0
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    z = mean / (deviation / math.sqrt(count)) if deviation else 0.0
    return MatchedPairs(count, mean, deviation, z, math.erfc(abs(z) / math.sqrt(2)))


def _segments(first: Scored, second: Scored) -> Iterator[tuple[int, int]]:
    """Errors of both in each segment with an error."""
    inserted, wrong, right = zip(*(_by_item(scored) for scored in (first, second)), strict=True)
    errors = [0, 0]
    good = BOUNDARY  # the utterance's beginning bounds a segment
    for item in range(max(max(table, default=-1) for table in (*inserted, *wrong, *right)) + 1):
        for place in (inserted, wrong):
            found = [table.get(item, 0) for table in place]
            if any(found):
                if good >= BOUNDARY and any(errors):
                    yield errors[0], errors[1]
                    errors = [0, 0]
                errors = [a + b for a, b in zip(errors, found, strict=True)]
                good = 0
        if not any(table.get(item, 0) for table in wrong):
            good += min(table.get(item, 0) for table in right)
    if any(errors):
        yield errors[0], errors[1]


def _by_item(scored: Scored) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Insertions before each word or group of the reference, errors in it, and words of it that are right."""
    inserted: dict[int, int] = {}
    wrong: dict[int, int] = {}
    right: dict[int, int] = {}
    for item, (reference, hypothesis) in zip(scored.items, scored.alignment, strict=True):
        table = inserted if not reference else right if reference == hypothesis else wrong
        table[item] = table.get(item, 0) + 1
    return inserted, wrong, right
