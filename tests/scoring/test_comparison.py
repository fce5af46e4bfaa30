"""Paired comparison of two results."""

import itertools
import json
import random
import tracemalloc

import numpy as np
import pytest

from asr.cli import main
from asr.errors import ManifestError
from asr.scoring.alternatives import SCLITE
from asr.scoring.comparison import compare, compare_files, matched_pairs
from asr.scoring.rules import Rules
from asr.scoring.wer import score, score_files


def reports(changes):
    """Two reports whose second has ``changes[i]`` errors more than the first in utterance ``i`` of ten words."""
    reference = {f"u{i:03}": " ".join("abcdefghij") for i in range(len(changes))}

    def spoil(count):
        return " ".join(["x"] * count + list("abcdefghij")[count:])

    first = {name: spoil(3) for name in reference}
    second = {name: spoil(3 + change) for name, change in zip(reference, changes, strict=True)}
    return score(reference, first), score(reference, second)


def test_the_p_value_is_that_of_all_sign_changes():
    changes = [-1, -2, 1, -3, 0, 0, -1, 2, -2]
    result = compare(*reports(changes))
    moved = [c for c in changes if c]
    totals = [abs(np.dot(signs, moved)) for signs in itertools.product((-1, 1), repeat=len(moved))]
    exact = np.mean([total >= abs(sum(moved)) for total in totals])
    assert result.p_value == pytest.approx(exact, abs=0.02)
    assert result.difference == pytest.approx(sum(changes) / 90)
    assert result.ci95[0] < result.difference < result.ci95[1]
    assert (result.better, result.worse) == (5, 2)


def test_equal_results_do_not_differ_and_clear_ones_do():
    same = compare(*reports([0] * 20))
    assert (same.p_value, same.difference, same.ci95) == (1.0, 0.0, (0.0, 0.0))
    clear = compare(*reports([-1] * 40))
    assert clear.p_value < 0.001
    assert "significant at 5 %" in clear.summary()
    assert "not significant" in same.summary()
    swapped = compare(*reversed(reports([-1] * 40)))
    assert swapped.difference == -clear.difference


def test_the_command_reads_what_evaluate_and_score_write(tmp_path, capsys):
    for name, report in zip("ab", reports([-1, -1, 0, 1, -2]), strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(report.to_dict()))
    assert main.run_command(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "-6.00 points of WER" in capsys.readouterr().out
    (tmp_path / "short.trn").write_text("a b (u000)\n")
    assert main.run_command(["compare", str(tmp_path / "a.json"), str(tmp_path / "short.trn")]) == 2
    assert "have no hypothesis" in capsys.readouterr().err


def test_other_references_are_refused():
    first, _ = reports([0, 0])
    with pytest.raises(ManifestError, match="'v'"):
        compare(first, score({"v": "a"}, {"v": "a"}))


def test_the_interval_is_that_of_plain_paired_resampling():
    rng = np.random.default_rng(5)
    changes = rng.integers(-2, 3, 90)
    result = compare(*reports(changes))
    drawn = rng.integers(0, 90, (20_000, 90))
    np.testing.assert_allclose(result.ci95, np.quantile(changes[drawn].sum(1) / 900, [0.025, 0.975]), atol=0.002)


def test_sixteen_thousand_utterances_need_little_memory():
    count = 16_000
    rng = np.random.default_rng(0)
    reference = {f"u{i}": "a b c d" for i in range(count)}
    heard = [{name: " ".join("abcdxy"[: rng.integers(1, 7)]) for name in reference} for _ in range(2)]
    first, second = (score(reference, texts) for texts in heard)
    tracemalloc.start()
    compare(first, second)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def write(path, references, hypotheses):
    path.write_text(json.dumps(score(references, hypotheses).to_dict()))
    return str(path)


def test_results_with_other_references_are_refused_unless_they_are_folded_alike(tmp_path, capsys):
    heard = {"u1": "OH ONE", "u2": "TWO"}
    a = write(tmp_path / "a.json", heard, heard)
    b = write(tmp_path / "b.json", {"u1": "oh  one", "u2": "TWO"}, heard)
    assert main.run_command(["compare", a, b]) == 2
    assert "1 with other texts: 'u1'; 'u1' has 'OH ONE' and 'oh one' (--reference" in capsys.readouterr().err
    assert main.run_command(["compare", a, b, "--ignore-case"]) == 0
    (tmp_path / "r").write_text("u1 OH ONE\nu2 FOUR\n")
    assert compare_files(a, b, tmp_path / "r").first.errors == 1
    (tmp_path / "c.json").write_text(json.dumps(score(heard, heard).to_dict()).replace("OH ONE", "OH\\tONE "))
    assert compare_files(a, tmp_path / "c.json").difference == 0


def test_references_that_one_result_lacks_are_named():
    with pytest.raises(
        ManifestError, match="1 only in the first: 'a'; 1 only in the second: 'b'; 1 with other texts: 'c'"
    ):
        compare(score({"a": "X", "c": "X"}, {"a": "", "c": ""}), score({"b": "X", "c": "Y"}, {"b": "", "c": ""}))


@pytest.mark.parametrize("options", [["--optional"], ["--literal"], ["--costs", "sclite"], ["--ignore-case"]])
def test_a_report_is_read_by_the_rules_that_it_was_scored_by(tmp_path, capsys, options):
    (tmp_path / "r").write_text("u1 A (UH) { B / C } D E F\nu2 a b c d\n")
    (tmp_path / "h").write_text("u1 A B B X D F G\nu2 A b d\n")
    out, again = tmp_path / "out.json", tmp_path / "again.json"
    assert main.run_command(["score", str(tmp_path / "r"), str(tmp_path / "h"), *options, "--json", str(out)]) == 0
    expected = json.loads(out.read_text())
    assert main.run_command(["score", str(out), str(out), "--json", str(again)]) == 0
    assert json.loads(again.read_text()) == expected
    assert main.run_command(["compare", str(out), str(out), "--json", str(again)]) == 0
    assert (again_first := json.loads(again.read_text())["first"])["errors"] == expected["errors"]
    assert again_first["words"] == expected["words"]


def test_the_brackets_of_segments_stay_optional_in_a_report(tmp_path):
    (tmp_path / "r.stm").write_text("x 1 s 0 9 A (UH) B\n")
    (tmp_path / "h.ctm").write_text("x 1 0 1 A\nx 1 1 1 C\n")
    report = score_files(tmp_path / "r.stm", tmp_path / "h.ctm")
    (tmp_path / "s.json").write_text(json.dumps(report.to_dict()))
    assert compare_files(tmp_path / "s.json", tmp_path / "s.json").first.errors == report.errors == 1


def test_results_by_other_rules_are_refused_unless_options_or_a_reference_settle_them(tmp_path, capsys):
    for name, rules in (("a", Rules()), ("b", Rules(alternatives=False))):
        report = score({"u": "A / B"}, {"u": "A"}, rules)
        (tmp_path / f"{name}.json").write_text(json.dumps(report.to_dict()))
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    assert main.run_command(["compare", a, b]) == 2
    message = capsys.readouterr().err
    assert "a.json by the usual rules" in message
    assert "b.json by --literal; give the options" in message
    assert main.run_command(["compare", a, b, "--costs", "levenshtein"]) == 0
    assert main.run_command(["compare", a, b, "--reference", a]) == 0
    tree = json.loads((tmp_path / "a.json").read_text())
    for damaged in (3, {}, tree["rules"] | {"costs": {"substitution": "4"}}, tree["rules"] | {"optional": 1}):
        (tmp_path / "a.json").write_text(json.dumps(tree | {"rules": damaged}))
        with pytest.raises(ManifestError, match="rules: expected"):
            compare_files(a, a)
    del tree["rules"]
    (tmp_path / "a.json").write_text(json.dumps(tree))
    assert compare_files(a, a).first.rules == Rules()


def test_the_references_may_come_from_either_result_but_from_one(tmp_path):
    heard = {"u1": "OH ONE", "u2": "TWO"}
    a = write(tmp_path / "a.json", heard, heard)
    (tmp_path / "b").write_text("u1 OH\nu2 TWO\n")
    assert compare_files(a, tmp_path / "b").second.errors == 1
    assert compare_files(tmp_path / "b", a).first.errors == 1
    with pytest.raises(ManifestError, match="expected references in one of them, got none; give --reference REF"):
        compare_files(tmp_path / "b", tmp_path / "b")


def test_compare_writes_json_and_reads_plain_texts(tmp_path, capsys):
    for name, text in (("r", "A B\nC D\n"), ("a", "A X\nC D\n"), ("b", "A B\nC D\n")):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in "ab"]
    out = tmp_path / "out.json"
    assert main.run_command(["compare", *files, "--reference", str(tmp_path / "r"), "--plain", "--json", str(out)]) == 0
    tree = json.loads(out.read_text())
    assert (tree["difference"], tree["better"], tree["utterances"]) == (-0.25, 1, 2)
    assert (tree["first"]["errors"], tree["second"]["errors"], tree["matched_pairs"]["segments"]) == (1, 0, 1)
    assert tree["significant"] is False
    assert "matched pairs (MAPSSWE): 1 segments" in capsys.readouterr().out


def test_plain_texts_need_references(tmp_path):
    (tmp_path / "a").write_text("A B\n")
    with pytest.raises(ManifestError, match="--reference REF"):
        compare_files(tmp_path / "a", tmp_path / "a", plain=True)


def test_alternatives_may_be_read_in_two_ways(tmp_path):
    reference = {"u": "{ A / B C } D"}
    result = compare(score(reference, {"u": "A X"}), score(reference, {"u": "B C D"}))
    assert (result.first.words, result.second.words, result.difference) == (2, 3, -0.5)


def corrupted(seed, share):
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(30)]
    references, hypotheses = {}, {}
    said = random.Random(0)
    for number in range(120):
        text = [said.choice(words) for _ in range(said.randint(1, 14))]
        heard = []
        for word in text:
            draw = rng.random()
            if draw < share / 2:
                heard.append(rng.choice(words))
            elif draw > 0.8 * share:
                heard += [word] if draw > share else [word, rng.choice(words)]
        references[f"s-{number:03}"], hypotheses[f"s-{number:03}"] = " ".join(text), " ".join(heard)
    return references, hypotheses


def test_matched_pairs_are_those_of_nist():
    """Figures of ``sc_stats -t mapsswe`` (SCTK 1.3) on the alignments of sclite."""
    rules = Rules(costs=SCLITE)
    first, second = (score(*corrupted(seed, share), rules) for seed, share in ((1, 0.2), (2, 0.14)))
    found = matched_pairs(second, first)
    assert (found.segments, round(found.mean, 3), round(found.deviation, 3), round(found.z, 3)) == (
        155,
        0.2,
        1.245,
        2.0,
    )


def test_segments_end_where_both_have_two_words_right():
    reference = {"u": "a b c d e f g h"}
    pairs = {
        "x b c x e f g h": "a b c d e f g h",  # two right words between: two segments
        "x b x d e f g h": "a b c d e f g h",  # one right word: one segment
        "x b c d e f g x": "a b y d e f g h",  # the other result joins them: one, then one
        "a z b c d e f z g h": "a b c d e f g h",
    }
    counts = [matched_pairs(score(reference, {"u": a}), score(reference, {"u": b})).segments for a, b in pairs.items()]
    assert counts == [2, 1, 2, 2]


def test_equal_results_have_no_segments_that_differ():
    reference = {"u": "a b c"}
    same = matched_pairs(score(reference, reference), score(reference, reference))
    assert (same.segments, same.z, same.p_value) == (0, 0.0, 1.0)
