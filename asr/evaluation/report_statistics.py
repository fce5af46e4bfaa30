"""The figures of ``asr report``: error rates of groups with their intervals, words, confusions, utterances."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from asr.evaluation.evaluation_file import EvaluationFile, UtteranceDetails
from asr.scoring.bootstrap import bootstrap_ci95
from asr.scoring.comparison import Comparison
from asr.scoring.score_report import Report, Scored

LENGTHS_S = (2.0, 4.0, 6.0, 10.0, 15.0, 30.0)
LENGTHS_WORDS = (3, 6, 11, 21, 41)
NOISE_DB = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0)
"""Limits between groups of utterances: length, or number of words where the length is not known; noise."""
MOST_PAIRS = 5000
"""Confusions of each kind that a page lists."""
CONFUSED_WITH = 3
"""Words that a word is most often taken for, in the table of words."""

_Group = tuple[str, str]
"""Its name, and the filter that selects its utterances (``asr/assets/report/filter.js``)."""


def overall(report: Report) -> dict[str, Any]:
    """Counts and rates of a whole evaluation; rates are fractions. ``low`` and ``high`` as in ``groups``."""
    return {
        "wer": report.wer,
        **_interval([u.errors for u in report.utterances], [u.words for u in report.utterances]),
        "errors": report.errors,
        "words": report.words,
        "substitutions": report.substitutions,
        "deletions": report.deletions,
        "insertions": report.insertions,
        "cer": report.cer,
        "ser": report.ser,
        "utterances": len(report.utterances),
        "wrong": sum(u.errors > 0 for u in report.utterances),
    }


def groups(file: EvaluationFile, second: Report | None = None) -> list[dict[str, Any]]:
    """Tables of groups: by corpus, noise, length and speaker, as far as these are known and there are two groups.

    Each has a ``title`` and ``rows`` with ``name``, ``filter``, ``utterances``, ``errors``, ``words``, ``wer``, and
    ``low`` and ``high``, the bootstrap interval of the group, if it has one; with a ``second`` report of the same
    utterances, its figures in ``second`` too. Utterances of which the property is not known stand in no group.
    """
    others = {u.id: u for u in second.utterances} if second else {}
    tables = []
    for title, group_of in _groupings(file).items():
        members: dict[_Group, list[Scored]] = defaultdict(list)
        for utterance in file.report.utterances:
            group = group_of(utterance)
            if group is not None:
                members[group].append(utterance)
        if len(members) < 2:
            continue
        rows = []
        for (name, condition), found in members.items():
            row = {"name": name, "filter": condition, "utterances": len(found), **_rate(found)}
            if others:
                row["second"] = _rate([others[u.id] for u in found])
            rows.append(row)
        tables.append({"title": title, "rows": _ordered(title, rows)})
    return tables


def _groupings(file: EvaluationFile) -> dict[str, Callable[[Scored], _Group | None]]:
    details = file.details

    def length(u: Scored) -> _Group | None:
        duration_s = details[u.id].duration_s
        return None if duration_s is None else _bin(duration_s, LENGTHS_S, "duration", "s")

    def noise(u: Scored) -> _Group | None:
        snr_db = details[u.id].snr_db
        return None if snr_db is None else _bin(snr_db, NOISE_DB, "snr", "dB")

    def words(u: Scored) -> _Group:
        return _bin(u.words, LENGTHS_WORDS, "words", "words")

    known = any(entry.duration_s is not None for entry in details.values())
    return {
        "Corpus": lambda u: (file.corpora[u.id], f"corpus = {quoted(file.corpora[u.id])}"),
        "Noise (speech above noise)": noise,
        **({"Length": length} if known else {"Words of the reference": words}),
        "Speaker": lambda u: (u.speaker, f"speaker = {quoted(u.speaker)}") if u.speaker else None,
    }


def _bin(value: float, limits: Sequence[float], name: str, unit: str) -> _Group:
    """The group between two limits that a value lies in; the lower limit belongs to it."""
    below = [limit for limit in limits if limit <= value]
    above = [limit for limit in limits if limit > value]
    conditions = [f"{name} >= {below[-1]:g}"] if below else []
    conditions += [f"{name} < {above[0]:g}"] if above else []
    if not below:
        title = f"below {above[0]:g} {unit}"
    elif not above:
        title = f"{below[-1]:g} {unit} and more"
    else:
        title = f"{below[-1]:g} to {above[0]:g} {unit}"
        if isinstance(value, int):
            title = f"{below[-1]:g} to {above[0] - 1:g} {unit}"
    return title, " and ".join(conditions)


def _ordered(title: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speakers and corpora from the worst to the best, other groups by their limits."""
    if title in ("Speaker", "Corpus"):
        return sorted(rows, key=lambda row: (-row["wer"], row["name"]))
    return sorted(rows, key=lambda row: float(row["filter"].split()[2]) if ">=" in row["filter"] else -1e9)


def _rate(utterances: Sequence[Scored]) -> dict[str, Any]:
    errors, words = [u.errors for u in utterances], [u.words for u in utterances]
    found: dict[str, Any] = {
        "errors": sum(errors), "words": sum(words), "wer": sum(errors) / max(1, sum(words)),
    }  # fmt: skip
    return found | _interval(errors, words)


def _interval(errors: Sequence[int], words: Sequence[int]) -> dict[str, float]:
    """``low`` and ``high`` of the bootstrap interval; nothing where utterances do not differ.

    The bootstrap of one utterance, or of utterances without errors, has no width. It would claim certainty.
    """
    low, high = bootstrap_ci95(errors, words)
    return {"low": low, "high": high} if low < high else {}


def word_table(report: Report, outside: frozenset[str] | None) -> list[list[Any]]:
    """Each word of the references and hypotheses: ``[word, spoken, right, substituted, deleted, inserted, others,
    outside]``.

    ``spoken``: how often references have it. ``inserted``: how often it was recognised where nothing, or another word,
    was said. ``others``: what it is most often taken for, ``[word, count]``. ``outside``: whether it is not in the
    lexicon. The most frequent come first.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    taken_for: dict[str, Counter[str]] = defaultdict(Counter)
    for utterance in report.utterances:
        for said, heard in utterance.alignment:
            if said:
                place = 1 if said == heard else 2 if heard else 3
                counts[said][0] += 1
                counts[said][place] += 1
                if place == 2:
                    taken_for[said][heard] += 1
            if heard and said != heard:
                counts[heard][4] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))
    return [
        [word, *row, _most_common(taken_for[word]) if word in taken_for else [], bool(outside and word in outside)]
        for word, row in ranked
    ]


def _most_common(counts: Mapping[str, int]) -> list[list[Any]]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [[word, count] for word, count in ranked[:CONFUSED_WITH]]


def errors_of_words(report: Report, outside: frozenset[str] | None) -> dict[str, Any]:
    """``substitutions`` as ``[reference, hypothesis, count]``, ``deletions`` and ``insertions`` as ``[word, count]``,
    the most frequent first; ``outside``: spoken words that are not in the lexicon, None where there is none.
    """
    found: dict[str, Any] = {"substitutions": [], "deletions": [], "insertions": []}
    for confusion in report.confusions(n=3 * MOST_PAIRS):
        if confusion.reference and confusion.hypothesis:
            found["substitutions"].append([confusion.reference, confusion.hypothesis, confusion.count])
        elif confusion.reference:
            found["deletions"].append([confusion.reference, confusion.count])
        else:
            found["insertions"].append([confusion.hypothesis, confusion.count])
    if outside is None:
        return found | {"outside": None}
    spoken = Counter(said for u in report.utterances for said, _ in u.alignment if said in outside)
    ranked = sorted(spoken.items(), key=lambda item: (-item[1], item[0]))
    return found | {"outside": [[word, count] for word, count in ranked]}


def comparison_figures(found: Comparison) -> dict[str, Any]:
    """The paired tests of two evaluations; differences are second minus first, as fractions."""
    return {
        "difference": found.difference,
        "low": found.ci95[0],
        "high": found.ci95[1],
        "p": found.p_value,
        "significant": found.significant,
        "better": found.better,
        "worse": found.worse,
        "pairs": asdict(found.matched_pairs),
    }


def utterance_rows(file: EvaluationFile, second: EvaluationFile | None = None) -> list[dict[str, Any]]:
    """What the page knows of each utterance, in the order of the file. Short keys: there may be 10,000 of them.

    ``i`` id, ``s`` speaker, ``c`` corpus, ``d`` duration, ``o`` start, ``n`` speech above noise, ``l`` level, ``f``
    confidence, ``r`` reliability, ``a`` acoustic score, ``m`` score of language models, ``e`` errors, ``w`` words,
    ``x`` character errors, ``y`` characters, ``p`` alignment (a text where both sides are equal, else a pair), ``t``
    start, end (in hundredths of a second) and confidence (in per cent) of each hypothesis word, one after the other;
    ``b``: ``e``, ``w``, ``p``, ``t``, ``f``, ``a``, ``m`` of the second evaluation. What is not known is left out.
    """
    others = {u.id: u for u in second.report.utterances} if second else {}
    rows = []
    for utterance in file.report.utterances:
        details = file.details[utterance.id]
        row = {"i": utterance.id, "s": utterance.speaker, "c": file.corpora[utterance.id], **_known(details)}
        row |= {"x": utterance.char_errors, "y": utterance.characters, **_aligned(utterance, details)}
        if second is not None:
            other = second.details[utterance.id]
            found = {key: value for key, value in _known(other).items() if key in "fam"}
            row["b"] = found | _aligned(others[utterance.id], other)
        rows.append(row)
    return rows


def _known(details: UtteranceDetails) -> dict[str, Any]:
    values = {
        "d": details.duration_s, "o": details.start_s or None, "n": details.snr_db, "l": details.level_db,
        "f": details.confidence, "r": details.reliability, "a": details.acoustic_score, "m": details.lm_score,
    }  # fmt: skip
    return {key: value for key, value in values.items() if value is not None}


def _aligned(utterance: Scored, details: UtteranceDetails) -> dict[str, Any]:
    pairs = [said if said == heard else [said, heard] for said, heard in utterance.alignment]
    row: dict[str, Any] = {"e": utterance.errors, "w": utterance.words, "p": pairs}
    # Rules that leave punctuation out may divide words: the times are then those of other words.
    if details.words and len(details.words) == len(utterance.hypothesis.split()):
        row["t"] = [
            number
            for word in details.words
            for number in (round(100 * word.start_s), round(100 * word.end_s), round(100 * word.confidence))
        ]
    return row


def worst(utterances: Iterable[Scored], count: int) -> list[str]:
    """Ids of the ``count`` utterances with most errors, those with the higher rate first among equals."""
    ranked = sorted(utterances, key=lambda u: (-u.errors, -u.errors / max(1, u.words), u.id))
    return [u.id for u in ranked[:count]]


def quoted(text: str) -> str:
    """A text as filters write it: in quotes, with a backslash before quotes and backslashes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
