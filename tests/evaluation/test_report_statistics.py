"""The figures of the report: each is counted again from the alignments."""

import random

import pytest

from asr.evaluation.evaluation_file import parse_evaluation
from asr.evaluation.report_statistics import errors_of_words, groups, overall, utterance_rows, word_table, worst
from asr.scoring.bootstrap import bootstrap_ci95


@pytest.fixture(scope="module")
def evaluation():
    rng = random.Random(3)
    entries = []
    for i in range(80):
        words = [rng.choice("ABCDEFG") for _ in range(rng.randint(1, 9))]
        spoken = [rng.choice("ABCDEFGX") if rng.random() < 0.3 else word for word in words if rng.random() < 0.9]
        times = [{"text": w, "start_s": k, "end_s": k + 0.5, "confidence": 0.5} for k, w in enumerate(spoken)]
        entries.append(
            {"id": f"u{i}", "reference": " ".join(words), "hypothesis": " ".join(spoken), "speaker": rng.choice("xyz"),
             "duration_s": rng.uniform(0.5, 40), "snr_db": rng.uniform(-5, 50), "hypothesis_words": times}
        )  # fmt: skip
    return parse_evaluation({"format": 2, "utterances": entries, "words_outside_lexicon": ["B"]}, "set.json")


def test_each_speaker_has_its_rate_and_the_bootstrap_interval(evaluation):
    (table,) = (table for table in groups(evaluation) if table["title"] == "Speaker")
    assert len(table["rows"]) == 3
    for row in table["rows"]:
        mine = [u for u in evaluation.report.utterances if u.speaker == row["name"]]
        errors, words = [u.errors for u in mine], [u.words for u in mine]
        assert (row["utterances"], row["errors"], row["words"]) == (len(mine), sum(errors), sum(words))
        assert row["wer"] == sum(errors) / sum(words)
        assert (row["low"], row["high"]) == bootstrap_ci95(errors, words)
    assert [row["wer"] for row in table["rows"]] == sorted((row["wer"] for row in table["rows"]), reverse=True)


@pytest.mark.parametrize("title", ["Length", "Noise (speech above noise)", "Speaker"])
def test_every_utterance_is_in_one_group(evaluation, title):
    (table,) = (table for table in groups(evaluation) if table["title"] == title)
    assert sum(row["utterances"] for row in table["rows"]) == 80
    assert sum(row["errors"] for row in table["rows"]) == evaluation.report.errors


def test_groups_stand_in_the_order_of_their_limits(evaluation):
    (table,) = (table for table in groups(evaluation) if table["title"] == "Length")
    assert [row["name"] for row in table["rows"]] == [
        "below 2 s", "2 to 4 s", "4 to 6 s", "6 to 10 s", "10 to 15 s", "15 to 30 s", "30 s and more",
    ]  # fmt: skip


def test_without_lengths_utterances_are_grouped_by_words():
    entries = [{"id": str(n), "reference": "A " * n, "hypothesis": ""} for n in (1, 2, 4, 30)]
    (table,) = groups(parse_evaluation({"utterances": entries}, "x.json"))
    assert (table["title"], [row["name"] for row in table["rows"]]) == (
        "Words of the reference", ["below 3 words", "3 to 5 words", "21 to 40 words"],
    )  # fmt: skip


def test_the_words_add_up_to_the_counts_of_the_report(evaluation):
    table = word_table(evaluation.report, evaluation.outside)
    report = evaluation.report
    assert sum(row[1] for row in table) == report.words
    assert sum(row[2] for row in table) == report.hits
    assert sum(row[3] for row in table) == report.substitutions
    assert sum(row[4] for row in table) == report.deletions
    assert sum(row[5] for row in table) == report.substitutions + report.insertions
    assert [row[0] for row in table if row[7]] == ["B"]


def test_what_a_word_is_taken_for_is_counted(evaluation):
    for word, *_, others, _ in word_table(evaluation.report, None):
        for other, count in others:
            pairs = [pair for u in evaluation.report.utterances for pair in u.alignment]
            assert pairs.count((word, other)) == count


def test_confusions_add_up(evaluation):
    found = errors_of_words(evaluation.report, evaluation.outside)
    assert sum(n for *_, n in found["substitutions"]) == evaluation.report.substitutions
    assert sum(n for _, n in found["deletions"]) == evaluation.report.deletions
    assert sum(n for _, n in found["insertions"]) == evaluation.report.insertions
    spoken = sum(r == "B" for u in evaluation.report.utterances for r, _ in u.alignment)
    assert found["outside"] == [["B", spoken]]


def test_without_a_lexicon_no_word_is_outside(evaluation):
    assert errors_of_words(evaluation.report, None)["outside"] is None


def test_the_worst_have_most_errors_and_then_the_higher_rate(evaluation):
    order = worst(evaluation.report.utterances, 80)
    by_id = {u.id: u for u in evaluation.report.utterances}
    keys = [(by_id[name].errors, by_id[name].errors / by_id[name].words) for name in order]
    assert keys == sorted(keys, reverse=True)
    assert worst(evaluation.report.utterances, 5) == order[:5]


def test_rows_hold_the_alignment_and_the_times(evaluation):
    for row, scored in zip(utterance_rows(evaluation), evaluation.report.utterances, strict=True):
        pairs = [(pair, pair) if isinstance(pair, str) else tuple(pair) for pair in row["p"]]
        assert pairs == list(scored.alignment)
        assert len(row.get("t", [])) == 3 * len(scored.hypothesis.split())


def test_times_of_other_words_are_left_out():
    """Rules that leave punctuation out divide words."""
    words = [{"text": "well-known", "start_s": 0, "end_s": 1, "confidence": 1}]
    entry = {"id": "a", "reference": "well known", "hypothesis": "well known", "hypothesis_words": words}
    (row,) = utterance_rows(parse_evaluation({"format": 2, "utterances": [entry]}, "x.json"))
    assert "t" not in row


def test_one_utterance_and_groups_without_errors_have_no_interval():
    entries = [
        {"id": "one", "reference": "A B", "hypothesis": "A C", "speaker": "alone"},
        {"id": "two", "reference": "A B", "hypothesis": "A B", "speaker": "flawless"},
        {"id": "three", "reference": "A", "hypothesis": "A", "speaker": "flawless"},
    ]
    found = parse_evaluation({"format": 2, "utterances": entries}, "set.json")
    (table,) = (table for table in groups(found) if table["title"] == "Speaker")
    assert [(row["name"], row["wer"]) for row in table["rows"]] == [("alone", 0.5), ("flawless", 0.0)]
    assert not any("low" in row or "high" in row for row in table["rows"])
    assert (overall(found.report)["low"], overall(found.report)["high"]) == found.report.ci95
