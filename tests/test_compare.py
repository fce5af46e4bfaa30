"""Paired comparison of two results."""

import itertools
import json

import numpy as np
import pytest

from asr import cli
from asr.compare import compare
from asr.errors import ManifestError
from asr.scoring import score


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
    assert cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "-6.00 points of WER" in capsys.readouterr().out
    (tmp_path / "short.trn").write_text("a b (u000)\n")
    assert cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "short.trn")]) == 2
    assert "have no hypothesis" in capsys.readouterr().err


def test_other_references_are_refused():
    first, _ = reports([0, 0])
    with pytest.raises(ManifestError, match="'v'"):
        compare(first, score({"v": "a"}, {"v": "a"}))
