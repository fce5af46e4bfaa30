"""Scoring: word, character and sentence error rates with a confidence interval, paired by utterance id.

jiwer aligns (Levenshtein distance, all edits cost one). Before that, texts are composed (NFC) and runs of whitespace
become one space; case and punctuation count as they stand, unless ``Rules`` say otherwise. Characters include the
single spaces between words, and are counted without them as well.

References may hold alternatives, ``{ a / b }`` as NIST writes them (``asr.scoring.alternatives``). The reading nearest
to the hypothesis is scored.

An utterance with an empty reference counts: its hypothesis is all insertions, and it adds no reference words. Rates are
errors / max(1, reference length), so that a set without any reference word has as its WER the number of insertions (0
when there are none), as in jiwer; every rate is a finite number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jiwer

from asr.errors import ManifestError
from asr.scoring import pairing, transcript_files
from asr.scoring.alternatives import LEVENSHTEIN, Aligned, Reference, align_words
from asr.scoring.rules import DEFAULT_RULES, Rules
from asr.scoring.score_report import Report, Scored

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
    rules: Rules = DEFAULT_RULES,
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


def check_references(references: Mapping[str, str], rules: Rules = DEFAULT_RULES) -> None:
    """Refuse references that cannot be scored, before work is done for them. Raises ``ManifestError`` as ``score``."""
    for id, text in references.items():
        _graph(id, rules.text(text, reference=True), rules)


def agreed(*files: transcript_files.TranscriptFile) -> Rules:
    """The rules that the reports among ``files`` were scored by; ``DEFAULT_RULES`` if none of them is a report.

    Raises ``ManifestError`` if two reports differ in their rules.
    """
    found = {file.path: Rules.from_dict(file.rules) for file in files if file.rules is not None}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{path} by {rules}" for path, rules in found.items())
        raise ManifestError(
            f"expected results that were scored by the same rules, got {told}; give the options that are to hold "
            "(--costs levenshtein alone: the usual rules)"
        )
    return next(iter(found.values()), DEFAULT_RULES)


def score_files(
    reference: str | Path, hypothesis: str | Path, rules: Rules | None = None, *, plain: bool = False
) -> Report:
    """Score one file of transcripts against another: what ``asr score`` does. ``plain``: line by line, without ids.

    ``rules``: by default those of a report (see ``agreed``).

    Segments of an STM reference take the words whose middle they hold, and their ``(word)`` are optional.
    Raises ``ManifestError``; see ``asr.scoring.transcript_files``.
    """
    files = transcript_files.read(reference, "reference", plain=plain), transcript_files.read(hypothesis, plain=plain)
    return score_pair(pairing.pair(*files), rules or agreed(*files))


def score_pair(pair: pairing.Pair, rules: Rules = DEFAULT_RULES) -> Report:
    """Score what ``asr.scoring.pairing.pair`` has put together."""
    if pair.segmented and not rules.optional:
        rules = replace(rules, optional=True)
    _check_ids(pair.references, pair.hypotheses, pair.hint)
    return score(pair.references, pair.hypotheses, rules, pair.speakers)


def read_transcripts(path: str | Path, role: Literal["reference", "hypothesis"] = "hypothesis") -> dict[str, str]:
    """Texts by utterance id, in file order, from any file that ``asr.scoring.transcript_files`` reads."""
    return transcript_files.read(path, role).texts


def _check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str], few: str = "") -> None:
    """``few``: what to say where fewer than half of the references have a hypothesis."""
    if not references:
        raise ManifestError("expected utterances to score, got no reference")
    problems = []
    missing = [id for id in references if id not in hypotheses]
    if missing:
        problems.append(
            f"{len(missing)} of {len(references)} references have no hypothesis: {transcript_files.first_few(missing)}"
        )
    extra = [id for id in hypotheses if id not in references]
    if extra:
        problems.append(
            f"{len(extra)} of {len(hypotheses)} hypotheses have no reference: {transcript_files.first_few(extra)}"
        )
    if problems:
        hint = "where nothing was recognised, keep the id with an empty text"
        if few and len(missing) > len(references) / 2:
            hint = few
        raise ManifestError(f"{'; '.join(problems)} ({hint})")


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
