"""Curves of training runs: what is read from a log, whole or cut off, and that it is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr import plotting
from asr.cli import main
from asr.errors import PlotError
from asr.train import curves

Capture = pytest.CaptureFixture[str]


def train(step: int, epoch: int, **values: Any) -> dict[str, Any]:
    usual = {"loss": 2.0, "grad_norm": 3.0, "learning_rate": 1e-3}
    return {"step": step, "epoch": epoch, "seconds": 1.0} | (values or usual)


def valid(step: int, epoch: int, wer: float) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "seconds": 1.0, "valid_loss": 1.0, "valid_wer": wer, "valid_cer": wer / 2}


WHOLE = [train(10, 0), train(20, 0), valid(25, 1, 0.5), train(30, 1), train(40, 1), valid(45, 2, 0.25), train(55, 2)]


def make_run(folder: Path, records: list[Any], tail: str = "") -> Path:
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return folder


def test_steps_become_epochs_by_the_validations(tmp_path: Path) -> None:
    log = curves.read_log(make_run(tmp_path / "a", WHOLE))
    assert log.name == "a"
    x, y = log.at("valid_wer", True)
    assert (x.tolist(), y.tolist()) == ([1, 2], [0.5, 0.25])
    assert log.at("loss", True)[0] == pytest.approx([0.4, 0.8, 1.25, 1.75, 2.5])
    assert log.at("loss", False)[0].tolist() == [10, 20, 30, 40, 55]


def test_rare_validations_still_give_epochs(tmp_path: Path) -> None:
    log = curves.read_log(make_run(tmp_path / "a", [train(s, s // 20) for s in range(10, 70, 10)]))
    assert np.abs(log.to_epochs(np.array([10.0, 30, 50])) - [0.5, 1.5, 2.5]).max() <= 0.5


def test_a_log_cut_off_in_a_line_keeps_the_rest(tmp_path: Path) -> None:
    log = curves.read_log(make_run(tmp_path / "a", WHOLE, tail='{"step": 60, "epo'))
    assert log.bad_lines == 1
    assert log.points["loss"][-1].tolist() == [55, 2]


def test_a_log_cut_off_in_a_character_or_of_other_json(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [*WHOLE, 3, [1], {"loss": 1.0}, {"step": None, "epoch": 1}])
    with (run / "log.jsonl").open("ab") as file:
        file.write(b'{"skipped": ["\xc3')
    assert curves.read_log(run).bad_lines == 5


def test_numbers_that_no_run_reaches_are_left_out(tmp_path: Path) -> None:
    huge = 10**400
    bad = [train(huge, 0), train(2**60, 0), train(-1, 0), train(10, huge), {"step": float("nan"), "epoch": 0}]
    log = curves.read_log(make_run(tmp_path / "a", [*WHOLE, *bad, train(56, 2, loss=huge), train(57, 2, loss=1e308)]))
    assert log.bad_lines == len(bad)
    assert log.points["loss"][-1].tolist() == [55, 2]
    curves.draw_curves([tmp_path / "a"], tmp_path / "a.png")


def test_values_that_are_not_finite_and_skipped_steps_leave_gaps(tmp_path: Path) -> None:
    skipped = train(15, 0, skipped=["u1"], reason="loss nan")
    log = curves.read_log(make_run(tmp_path / "a", [train(10, 0), skipped, train(20, 0, loss=float("nan"))]))
    assert log.points["loss"].tolist() == [[10, 2]]


def test_of_a_step_logged_twice_the_last_counts(tmp_path: Path) -> None:
    log = curves.read_log(make_run(tmp_path / "a", [*WHOLE, train(40, 1, loss=1.0)]))
    assert log.at("loss", False)[1].tolist() == [2, 2, 2, 1, 2]


@pytest.mark.parametrize("records", [[], [{"step": 1, "epoch": 0, "skipped": []}]])
def test_a_log_without_figures(tmp_path: Path, records: list[Any]) -> None:
    with pytest.raises(PlotError, match="expected logged figures"):
        curves.read_log(make_run(tmp_path / "a", records))


def test_command_line_draws_into_the_run(tmp_path: Path, capsys: Capture) -> None:
    run = make_run(tmp_path / "a", WHOLE)
    assert main.run_command(["plot", str(run)]) == 0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "a: step 55, best validation WER 25.00 % at step 45" in capsys.readouterr().out
    assert {p.name for p in run.iterdir()} == {"log.jsonl", "curves.png"}


def test_runs_are_laid_over_one_another_however_far_they_are(tmp_path: Path, capsys: Capture) -> None:
    runs = [make_run(tmp_path / "a$", WHOLE), make_run(tmp_path / "b$", [train(10, 0)])]
    (tmp_path / "again").mkdir()
    runs.append(make_run(tmp_path / "again" / "a$", WHOLE[:2]))
    output = tmp_path / "out.png"
    assert main.run_command(["plot", str(runs[0]), "--output", str(output), *map(str, runs[1:])]) == 0
    assert output.stat().st_size > 0
    assert "b$: step 10, no validation yet" in capsys.readouterr().out


def test_what_cannot_be_drawn_says_why(tmp_path: Path, capsys: Capture) -> None:
    assert main.run_command(["plot", str(tmp_path), "--output", str(tmp_path / "o.png")]) == 2
    assert "expected a run directory, which holds log.jsonl" in capsys.readouterr().err
    run = make_run(tmp_path / "a", WHOLE)
    assert main.run_command(["plot", str(run), "--output", str(tmp_path / "no" / "o.png")]) == 2
    assert "no folder" in capsys.readouterr().err
    (tmp_path / "dir.png").mkdir()
    assert main.run_command(["plot", str(run), "--output", str(tmp_path / "dir.png")]) == 2
    assert "dir.png: cannot write: expected a file, got a folder" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_of_equal_evaluations_the_one_that_training_keeps_is_marked(tmp_path: Path, capsys: Capture) -> None:
    """Training saves the latest of equal ones; while the WER says nothing, the lowest CER."""
    ties = [train(10, 0), valid(20, 1, 0.5), valid(40, 2, 0.25), valid(60, 3, 0.25), valid(80, 4, 0.5)]
    run = make_run(tmp_path / "ties", ties)
    assert curves.best_validation(curves.read_log(run)) == 2
    assert main.run_command(["plot", str(run)]) == 0
    assert "best validation WER 25.00 % at step 60" in capsys.readouterr().out
    early = [valid(20, 1, 1.0), valid(40, 2, 1.0) | {"valid_cer": 0.3}, valid(60, 3, 0.95)]
    assert curves.best_validation(curves.read_log(make_run(tmp_path / "early", early))) == 1


def test_legends_cover_no_curve_and_the_page_has_room_for_them(tmp_path: Path) -> None:
    figure, axes = plotting.page(1, 2)
    for index in range(12):
        axes[0].plot([0, 1], [index, 0], label=f"a run with a rather long name {index}")
    axes[1].plot([0, 1], [0, 1])
    plotting.legend_below(axes[0])
    plotting.save_page(figure, tmp_path / "page.png")
    box = axes[0].get_legend().get_window_extent()
    assert not any(box.overlaps(axis.get_window_extent()) for axis in axes)
    assert box.ymax < axes[0].xaxis.get_tightbbox().ymin
    assert 0 <= box.xmin < box.xmax <= figure.bbox.xmax / 2 * 1.05
    assert axes[0].get_window_extent().height > 250
