"""Error rates against hand-worked examples and jiwer, the bootstrap against theory, and the transcript formats."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import ManifestError
from asr.scoring.bootstrap import bootstrap_ci95, resampled
from asr.scoring.rules import Rules
from asr.scoring.score_report import Confusion, Report, format_alignment
from asr.scoring.wer import read_transcripts, score

SENTENCES = st.lists(st.sampled_from(["A", "B", "CC", "DÉ"]), max_size=6).map(" ".join)
CASES = st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def worked() -> Report:
    """Three utterances, scored by hand: one insertion, one substitution, one deletion."""
    references = {"1": "THE CAT SAT", "2": "ON THE MAT", "3": "OH"}
    return score(references, {"1": "THE BIG CAT SAD", "2": "ON MAT", "3": "OH"})


def test_errors_of_the_worked_example(worked: Report) -> None:
    assert (worked.substitutions, worked.deletions, worked.insertions) == (1, 1, 1)
    assert (worked.errors, worked.words) == (3, 7)


def test_rates_of_the_worked_example(worked: Report) -> None:
    assert (worked.wer, worked.ser, worked.cer) == pytest.approx((3 / 7, 2 / 3, 9 / 23))


def test_characters_of_the_worked_example(worked: Report) -> None:
    # 11 + 10 + 2 characters with spaces; "BIG " in, T for D, "THE " out.
    assert (worked.char_errors, worked.characters) == (4 + 1 + 4, 11 + 10 + 2)


def test_utterances_of_the_worked_example(worked: Report) -> None:
    assert [(u.id, u.errors, u.words) for u in worked.utterances] == [("1", 2, 3), ("2", 1, 3), ("3", 0, 1)]


def test_alignments_of_the_worked_example(worked: Report) -> None:
    assert worked.utterances[0].alignment == (("THE", "THE"), ("", "BIG"), ("CAT", "CAT"), ("SAT", "SAD"))
    assert worked.utterances[1].alignment == (("ON", "ON"), ("THE", ""), ("MAT", "MAT"))


@settings(max_examples=50)
@given(CASES)
def test_agrees_with_jiwer(cases: dict[str, tuple[str, str]]) -> None:
    references = {id: reference for id, (reference, _) in cases.items()}
    hypotheses = {id: hypothesis for id, (_, hypothesis) in cases.items()}
    report = score(references, hypotheses)
    words = jiwer.process_words(list(references.values()), list(hypotheses.values()))
    assert report.wer == pytest.approx(jiwer.wer(list(references.values()), list(hypotheses.values())))
    assert report.cer == pytest.approx(jiwer.cer(list(references.values()), list(hypotheses.values())))
    assert (report.substitutions, report.deletions, report.insertions) == (
        words.substitutions,
        words.deletions,
        words.insertions,
    )


def _texts(cases: dict[str, tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    return {id: r for id, (r, _) in cases.items()}, {id: h for id, (_, h) in cases.items()}


@settings(max_examples=50)
@given(CASES)
def test_counts_add_up(cases: dict[str, tuple[str, str]]) -> None:
    references, hypotheses = _texts(cases)
    report = score(references, hypotheses)
    hits = sum(r == h for u in report.utterances for r, h in u.alignment)
    assert report.substitutions + report.deletions + hits == report.words
    assert report.substitutions + report.insertions + hits == sum(len(h.split()) for h in hypotheses.values())
    assert report.errors == report.substitutions + report.deletions + report.insertions
    assert report.words == sum(len(r.split()) for r in references.values())


@settings(max_examples=50)
@given(CASES)
def test_alignments_hold_both_texts(cases: dict[str, tuple[str, str]]) -> None:
    for u in score(*_texts(cases)).utterances:
        assert " ".join(r for r, _ in u.alignment if r) == u.reference
        assert " ".join(h for _, h in u.alignment if h) == u.hypothesis


@settings(max_examples=50)
@given(CASES, st.randoms(use_true_random=False))
def test_the_order_of_utterances_changes_no_figure(cases: dict[str, tuple[str, str]], rng: random.Random) -> None:
    references, hypotheses = _texts(cases)
    report = score(references, hypotheses)
    assert report.ci95[0] <= report.ci95[1]
    ids = list(references)
    rng.shuffle(ids)
    shuffled = score({id: references[id] for id in ids}, dict(reversed(hypotheses.items())))
    assert {**shuffled.to_dict(), "utterances": 0} == {**report.to_dict(), "utterances": 0}
    assert set(shuffled.utterances) == set(report.utterances)


@settings(max_examples=30)
@given(CASES)
def test_perfect_and_empty_hypotheses(cases: dict[str, tuple[str, str]]) -> None:
    references = {id: reference for id, (reference, _) in cases.items()}
    perfect = score(references, references)
    assert (perfect.wer, perfect.cer, perfect.ser, perfect.errors, perfect.ci95) == (0, 0, 0, 0, (0, 0))
    empty = score(references, dict.fromkeys(references, ""))
    assert (empty.substitutions, empty.deletions, empty.insertions) == (0, empty.words, 0)
    assert empty.wer == (1 if empty.words else 0)


@settings(max_examples=50)
@given(CASES)
def test_mer_and_wil_are_those_of_jiwer(cases: dict[str, tuple[str, str]]) -> None:
    references, hypotheses = ({id: pair[i] for id, pair in cases.items()} for i in (0, 1))
    report = score(references, hypotheses)
    words = jiwer.process_words(list(references.values()), list(hypotheses.values()))
    assert (report.mer, report.wil, report.hits) == (pytest.approx(words.mer), pytest.approx(words.wil), words.hits)


@settings(max_examples=50)
@given(CASES)
def test_cer_without_spaces_is_that_of_jiwer(cases: dict[str, tuple[str, str]]) -> None:
    bare = [{id: pair[i].replace(" ", "") for id, pair in cases.items()} for i in (0, 1)]
    report = score(*({id: pair[i] for id, pair in cases.items()} for i in (0, 1)))
    assert report.cer_without_spaces == pytest.approx(jiwer.cer(list(bare[0].values()), list(bare[1].values())))


def test_case_and_punctuation_are_folded_where_asked_for() -> None:
    texts = {"1": "Hello, STRASSE: don’t {stop} well-known"}, {"1": "hello straße Don't stop well known."}
    assert score(*texts).errors > 0
    assert score(*texts, Rules(ignore_case=True, ignore_punctuation=True)).errors == 0
    assert score({"1": "A."}, {"1": "a."}, Rules(ignore_case=True)).errors == 0
    assert score({"1": "A."}, {"1": "a"}, Rules(ignore_case=True)).errors == 1
    assert score({"1": "A."}, {"1": "A"}, Rules(ignore_punctuation=True)).errors == 0


def test_case_folding_is_that_of_jiwer_and_punctuation_too_but_for_words() -> None:
    reference, hypothesis = "Oh — (ONE), two; Three? U.S.", "oh one TWO. tree us"
    folds = [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    folded = jiwer.Compose([*folds, jiwer.ReduceToListOfListOfWords()])
    expected = jiwer.wer(reference, hypothesis, folded, folded)
    assert score({"1": reference}, {"1": hypothesis}, Rules(True, True)).wer == expected


def test_the_nearest_reading_is_scored_by_words_and_by_characters() -> None:
    report = score({"1": "I { am / 'm } { @ / so / very } sure"}, {"1": "I 'm surf"})
    (only,) = report.utterances
    assert only.alignment == (("I", "I"), ("'m", "'m"), ("sure", "surf"))
    assert (report.errors, report.words, report.char_errors, report.characters) == (1, 3, 1, 9)
    assert only.reference == "I { am / 'm } { @ / so / very } sure"
    folded = score({"1": "{ Am, / I'm }."}, {"1": "am"}, Rules(True, True))
    assert (folded.errors, folded.utterances[0].reference) == (0, "{ am / i'm }")
    assert score({"1": "{ A / B }"}, {"1": "A"}, Rules(alternatives=False)).errors == 4


def test_missing_optional_words_count_as_right() -> None:
    report = score({"1": "A (UH) (ER) B"}, {"1": "A ER C"}, Rules(optional=True))
    assert (report.errors, report.words, report.hits, report.deletions) == (1, 4, 3, 0)
    assert report.utterances[0].alignment == (("A", "A"), ("ER", "ER"), ("B", "C"))


def test_malformed_alternatives_are_named() -> None:
    with pytest.raises(ManifestError, match=r"utterance u7: alternatives that do not end.*, or --literal"):
        score({"u7": "A { B / C"}, {"u7": "A"})


def test_empty_reference_adds_its_insertions_and_no_words() -> None:
    report = score({"silence": "", "speech": "A B"}, {"silence": "X", "speech": "A B"})
    assert (report.errors, report.words, report.insertions) == (1, 2, 1)
    assert report.wer == 0.5
    assert report.ser == 0.5


@pytest.mark.parametrize(("hypothesis", "wer", "cer"), [("", 0, 0), ("X YZ", 2, 4)])
def test_no_reference_word_at_all(hypothesis: str, wer: float, cer: float) -> None:
    report = score({"silence": ""}, {"silence": hypothesis})
    assert (report.wer, report.cer, report.words, report.characters) == (wer, cer, 0, 0)
    assert report.ci95 == (wer, wer)


def test_spelling_of_spaces_and_accents_is_no_error_but_case_is() -> None:
    assert score({"1": " CAF\u00c9  AU\tLAIT "}, {"1": "CAFE\u0301 AU LAIT"}).char_errors == 0
    assert score({"1": "A"}, {"1": "a"}).errors == 1


def test_ids_that_only_one_side_has_are_named() -> None:
    with pytest.raises(ManifestError, match=r"2 of 3 references have no hypothesis: 'b', 'c'; 1 of 2 .*reference: 'd'"):
        score({"a": "", "b": "", "c": ""}, {"a": "", "d": ""})
    with pytest.raises(ManifestError, match="'u4', …"):
        score({f"u{i}": "A" for i in range(9)}, {})
    with pytest.raises(ManifestError, match="no reference"):
        score({}, {})


def test_bootstrap_matches_the_binomial() -> None:
    # One word an utterance, 40 of 200 wrong: resampled errors are Binomial(200, 0.2), whose standard deviation is
    # 5.66, so the quantiles lie close to 0.2 -+ 1.96 x 0.0283.
    low, high = bootstrap_ci95([1] * 40 + [0] * 160, [1] * 200)
    assert low == pytest.approx(0.2 - 1.96 * 0.0283, abs=0.006)
    assert high == pytest.approx(0.2 + 1.96 * 0.0283, abs=0.006)


def test_bootstrap_matches_plain_resampling_of_utterances() -> None:
    rng = np.random.default_rng(7)
    words = rng.integers(0, 12, 130)
    errors = rng.binomial(words, 0.08)
    drawn = rng.integers(0, 130, (20_000, 130))
    plain = np.quantile(errors[drawn].sum(1) / words[drawn].sum(1), [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_ci95(errors.tolist(), words.tolist()), plain, atol=0.002)


def test_the_bootstrap_draws_the_same_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(3).integers(0, 1000, (300, 2))
    whole = resampled(rows)
    assert whole.shape == (10_000, 2)
    monkeypatch.setattr("asr.scoring.bootstrap.DRAWN", 100_000)
    np.testing.assert_array_equal(resampled(rows), whole)


def test_the_bootstrap_of_many_utterances_needs_little_memory() -> None:
    rows = np.random.default_rng(3).integers(0, 1000, (3000, 2))  # hardly two alike
    tracemalloc.start()
    resampled(rows)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()


def test_bootstrap_is_reproducible_and_narrows_with_data() -> None:
    one = bootstrap_ci95([1, 0, 2, 0], [4, 5, 6, 3])
    assert one == bootstrap_ci95([0, 2, 0, 1], [3, 6, 5, 4])
    many = bootstrap_ci95([1, 0, 2, 0] * 100, [4, 5, 6, 3] * 100)
    assert many[1] - many[0] < (one[1] - one[0]) / 5
    assert bootstrap_ci95([1], [4]) == (0.25, 0.25)


def test_report_as_json_and_as_text() -> None:
    report = score({"1": "A B C D", "2": "E"}, {"1": "A X C", "2": ""})
    tree = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert tree["utterances"] == [
        {"id": "1", "reference": "A B C D", "hypothesis": "A X C", "errors": 2, "words": 4},
        {"id": "2", "reference": "E", "hypothesis": "", "errors": 1, "words": 1},
    ]
    assert {key: tree[key] for key in ("wer", "ser", "errors", "words")} == {
        "wer": 0.6,
        "ser": 1.0,
        "errors": 3,
        "words": 5,
    }
    assert (tree["substitutions"], tree["deletions"], tree["insertions"]) == (1, 2, 0)
    assert tree["ci95"] == [0.5, 1.0]
    assert report.summary() == (
        "WER 60.00 % (3/5; S 1 D 2 I 0; 95 % 50.0 to 100.0)   CER 50.00 % (4/8)   SER 100.00 % (2/2)"
    )


def test_confusions_are_ranked() -> None:
    report = score({"1": "B A B C", "2": "B C"}, {"1": "D A D C X", "2": "D"})
    assert report.confusions() == (Confusion("B", "D", 3), Confusion("", "X", 1), Confusion("C", "", 1))
    assert report.confusions(1) == (Confusion("B", "D", 3),)


def test_format_alignment() -> None:
    report = score({"1": "THE CAT SAT", "2": "OH ONE", "3": ""}, {"1": "THE BIG BAT SAT", "2": "OH", "3": ""})
    first, second, third = map(format_alignment, report.utterances)
    assert second == "REF: OH ONE\nHYP: OH ***\n        D"
    assert first.split("\n")[:2] in (
        ["REF: THE *** CAT SAT", "HYP: THE BIG BAT SAT"],
        ["REF: THE CAT *** SAT", "HYP: THE BIG BAT SAT"],
    )
    assert third == "REF:\nHYP:"
    wide = score({"1": "東京 A"}, {"1": "ab B"}).utterances[0]
    assert format_alignment(wide) == "REF: 東京 A\nHYP: ab   B\n     S    S"


EXPECTED = {"u1": "OH ONE", "u2": "", "u3": "CAFÉ (AU) LAIT"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kaldi", "u1 OH ONE\nu2\nu3\tCAFE\u0301  (AU) LAIT\n"),
        ("crlf", "\ufeffu1 OH ONE\r\nu2 \r\n\r\nu3 CAFÉ (AU) LAIT\r\n"),
        ("hyp.trn", "OH ONE (u1)\n(u2)\nCAFÉ (AU) LAIT (u3)\n"),
        ("trn.txt", "OH ONE (u1)\n (u2)\nCAFÉ (AU) LAIT(u3)"),
        ("m.jsonl", "".join(json.dumps({"id": i, "text": t, "duration_s": 1}) + "\n" for i, t in EXPECTED.items())),
        ("h.jsonl", "\n".join(json.dumps({"id": i, "text": "?", "hypothesis": t}) for i, t in EXPECTED.items())),
        ("e.json", json.dumps({"wer": 0, "utterances": [{"id": i, "hypothesis": t} for i, t in EXPECTED.items()]})),
        ("p.json", json.dumps({"utterances": [{"id": i, "text": t} for i, t in EXPECTED.items()]}, indent=2)),
    ],
)
def test_transcript_formats_are_told_apart(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_transcripts(tmp_path / name) == EXPECTED


def test_one_report_serves_as_reference_and_as_hypothesis(tmp_path: Path) -> None:
    report = score({"1": "A B", "2": "C"}, {"1": "A X", "2": ""})
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.to_dict()))
    again = score(read_transcripts(path, "reference"), read_transcripts(path, "hypothesis"))
    assert again == report


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a", "u1 X\nu2\nu1 Y\n", ":3: expected each id once, got 'u1' again"),
        ("a.trn", "X (u1)\n\nY u2\n", r":3: expected words and \(id\), got 'Y u2'"),
        ("a.trn", "X (u1)\nY ()\n", r":2: expected words and \(id\)"),
        ("a.jsonl", '{"id": "u1", "text": "X"}\n{"id": "u2", "text": \n', ":2: expected a JSON object"),
        ("a.jsonl", '{"id": "u1", "text": "X"}\n[3]\n', ":2: expected a JSON object with id and text"),
        ("a.jsonl", '{"id": "u1", "text": "X"}\n{"text": "X"}\n', ":2: expected the key id, got text"),
        ("a.jsonl", '{"id": "u1", "words": "X"}\n', ":1: expected the key hypothesis or text, got id, words"),
        ("a.jsonl", '{"id": "u1", "text": null}\n', ":1: text: expected a string, got None"),
        ("a.jsonl", '{"id": 4, "text": ""}\n', ":1: id: expected a string, got 4"),
        ("a.json", '{"utterances": {"u1": "X"}}', ": utterances: expected a list, got dict"),
        ("a.json", '{"utterances": [{"id": "u1"}]}', r": utterances\[0\]: expected the key hypothesis or text"),
        ("a.json", '{\n "utterances": [\n', ":1: expected a JSON object"),
        ("a", "", ": expected transcripts, got an empty file"),
        ("a", " \n\n", ": expected transcripts, got an empty file"),
        ("a", b"u1 X\nu2 caf\xe9\n", ":2: expected UTF-8"),
    ],
)
def test_bad_transcripts_are_named(tmp_path: Path, name: str, text: Any, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError, match=f"{name}{message}"):
        read_transcripts(tmp_path / name)


def test_missing_transcripts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="absent: cannot read"):
        read_transcripts(tmp_path / "absent")
