"""References with alternatives and optional words: against all readings one by one, and against sclite."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import ManifestError
from asr.scoring.alternatives import SCLITE, Aligned, Costs, Reference, align_words, folded

WORDS = st.sampled_from("ABC")
HYPOTHESES = st.lists(WORDS, max_size=6)


@st.composite
def trees(draw: st.DrawFn, depth: int = 0) -> list[str | list[list]]:
    """A sequence of words and groups; a group is a list of sequences, an empty one standing for nothing."""
    sequence: list = []
    for _ in range(draw(st.integers(0 if depth == 0 else 1, 4 - depth))):
        if depth < 2 and draw(st.booleans()):
            sequence.append([draw(st.one_of(st.just([]), trees(depth + 1))) for _ in range(draw(st.integers(2, 3)))])
        else:
            sequence.append(draw(WORDS))
    return sequence


def written(sequence: list) -> str:
    return " ".join(
        item if isinstance(item, str) else "{ " + " / ".join(written(s) or "@" for s in item) + " }"
        for item in sequence
    )


def readings(sequence: list) -> set[tuple[str, ...]]:
    choices = [{(item,)} if isinstance(item, str) else set().union(*(readings(s) for s in item)) for item in sequence]
    return {tuple(itertools.chain(*parts)) for parts in itertools.product(*choices)}


def errors(pairs: list[Aligned]) -> tuple[int, int, int, int]:
    """Correct (with what is forgiven), substituted, deleted and inserted words, as sclite prints them."""
    correct = sum(not pair.wrong for pair in pairs)
    deleted, inserted = sum(pair.wrong and not pair.hypothesis for pair in pairs), sum(not p.reference for p in pairs)
    return correct, len(pairs) - correct - deleted - inserted, deleted, inserted


@settings(max_examples=150, deadline=None)
@given(trees(), HYPOTHESES)
def test_the_nearest_of_all_readings_is_taken(tree: list, hypothesis: list[str]) -> None:
    pairs = align_words(Reference(written(tree)), hypothesis)
    taken = tuple(pair.reference for pair in pairs if pair.reference)
    assert taken in readings(tree)
    distances = [
        sum(getattr(jiwer.process_words(" ".join(r), " ".join(hypothesis)), kind) for kind in KINDS)
        for r in readings(tree)
    ]
    assert sum(pair.wrong for pair in pairs) == min(distances)
    assert [pair.hypothesis for pair in pairs if pair.hypothesis] == hypothesis
    assert [pair.item for pair in pairs] == sorted(pair.item for pair in pairs)


KINDS = ("substitutions", "deletions", "insertions")


@given(st.lists(WORDS, max_size=8), HYPOTHESES)
def test_without_alternatives_it_is_the_edit_distance_of_jiwer(words: list[str], hypothesis: list[str]) -> None:
    found = jiwer.process_words(" ".join(words), " ".join(hypothesis))
    pairs = align_words(Reference(" ".join(words)), hypothesis)
    assert sum(pair.wrong for pair in pairs) == sum(getattr(found, kind) for kind in KINDS)


# Counts of sclite 2.10, its options -s and, for optional words, -D.
SCLITE_CASES = [
    ("a {b / c} d", "a c d", (3, 0, 0, 0)),
    ("a {b/c} d", "a b d", (3, 0, 0, 0)),
    ("a { b / @ } d", "a d", (2, 0, 0, 0)),
    ("a { b x / { c / @ } } d", "a c d", (3, 0, 0, 0)),
    ("a { b x / y } d", "a x d", (3, 0, 1, 0)),
    ("a { b / c / d } d", "a d", (2, 0, 1, 0)),
    ("{ a / b }", "c", (0, 1, 0, 0)),
    ("a (uh) d", "a d", (3, 0, 0, 0)),
    ("a (uh) d", "a uh d", (3, 0, 0, 0)),
    ("a (b) c", "a x c", (2, 1, 0, 0)),
    ("(x) (y)", "z", (1, 1, 0, 0)),
    ("(x) (y) c", "c x", (3, 0, 0, 1)),
    ("e { (x) (y) / a } e", "e e", (2, 0, 1, 0)),
    ("e { @ / (x) } e", "e e", (2, 0, 0, 0)),
    ("a b c d", "d e f g", (0, 4, 0, 0)),
    ("c d c a d b b d a", "b b a c b d c a b", (4, 3, 2, 2)),
]


@pytest.mark.parametrize(("reference", "hypothesis", "counts"), SCLITE_CASES)
def test_counts_are_those_of_sclite(reference: str, hypothesis: str, counts: tuple[int, ...]) -> None:
    assert errors(align_words(Reference(reference, optional=True), hypothesis.split(), SCLITE)) == counts


def _sclite() -> str | None:
    return shutil.which("sclite", path=f"{os.environ.get('PATH', '')}:/usr/lib/sctk/bin")


@pytest.mark.skipif(not _sclite(), reason="sclite (Debian's package sctk) is not installed")
def test_counts_are_those_of_the_sclite_that_is_installed(tmp_path: Path) -> None:
    for name, column in (("r.trn", 0), ("h.trn", 1)):
        (tmp_path / name).write_text("".join(f"{case[column]} (s-{i})\n" for i, case in enumerate(SCLITE_CASES)))
    command = [
        _sclite(),
        "-s",
        "-D",
        "-r",
        "r.trn",
        "trn",
        "-h",
        "h.trn",
        "trn",
        "-i",
        "spu_id",
        "-o",
        "pralign",
        "stdout",
    ]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    counts = re.findall(r"id: \(s-(\d+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", printed)
    assert {int(i): tuple(map(int, c)) for i, *c in counts} == {i: case[2] for i, case in enumerate(SCLITE_CASES)}


def test_a_missing_optional_word_is_forgiven_only_where_asked_for() -> None:
    assert align_words(Reference("A (UH)", optional=True), ["A"])[1] == Aligned("UH", "", 1, forgiven=True)
    assert align_words(Reference("A (UH)"), ["A"])[1] == Aligned("(UH)", "", 1)


@pytest.mark.parametrize("text", ["A { B", "{ }", "A } B", "{ A B }", "and/or / B", "x{A/B}"])
def test_braces_and_slashes_that_are_no_alternatives_are_words(text: str) -> None:
    assert [pair.reference for pair in align_words(Reference(text), text.split())] == text.split()


def test_alternatives_can_be_words() -> None:
    assert len(align_words(Reference("{ A / B }", alternatives=False), [])) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A { B / C", "do not end"),
        ("{ A / " * 5000, "at most 50 levels"),
        ("{ B / } C", "without a word"),
        ("{ / B }", "without a word"),
    ],
)
def test_malformed_alternatives_are_refused(text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        Reference(text)


def test_too_many_words_are_refused_before_memory_is_taken() -> None:
    with pytest.raises(ManifestError, match="score shorter segments"):
        align_words(Reference("{ A / B } " + "A " * 30_000), ["A"] * 30_000)


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("Hello, «world»! (Well…)", "Hello world Well"),
        ("don’t 'quote' it's ‘so’", "don't quote it's so"),
        ("well-known, and/or – U.S.", "well known and or US"),
        ("3.5 1,000 R&D 5% $2 …", "3.5 1000 RD 5 $2"),
        ("。日本、語？", "日本語"),
    ],
)
def test_punctuation_goes(text: str, without: str) -> None:
    assert folded(text) == without


def test_punctuation_goes_from_words_and_the_notation_stays() -> None:
    text = "a, { b. / well-known / — } (uh,) c!"
    assert folded(text, alternatives=True, optional=True) == "a { b / well known / @ } (uh) c"
    assert folded(text) == "a b well known uh c"


def test_costs_choose_the_alignment() -> None:
    assert errors(align_words(Reference("a b c d e"), "c d e f g".split(), Costs(4, 3, 3))) == (3, 0, 2, 2)
    hypothesis = "d e f g a".split()
    assert sum(pair.wrong for pair in align_words(Reference("a b c"), hypothesis)) == 5
    assert errors(align_words(Reference("a b c"), hypothesis, Costs(9, 3, 3))) == (1, 0, 2, 4)
