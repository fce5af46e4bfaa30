"""``tools/gpu_check.py``: every part runs, on a CPU in small, and one that fails ends no other."""

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[1] / "tools" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", PATH)
    module = sys.modules["gpu_check"] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def read_lines(capsys):
    return {line["part"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}


@pytest.fixture(scope="module")
def lines(gpu_check):
    """What every part prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert gpu_check.main(["--device", "cpu", "--budget", "1000"]) == 0
    return {line["part"]: line for line in map(json.loads, printed.getvalue().splitlines())}


def test_every_part_prints_a_line(lines):
    parts = ["versions", "features", "step", "transcripts", "speeds", "where", "waits", "loader", "transcription"]
    assert list(lines) == parts


def test_the_versions_are_those_that_run(lines):
    assert lines["versions"]["torch"] == torch.__version__


def test_features_differ_by_nothing_from_those_of_the_cpu(lines):
    assert lines["features"]["largest_difference"] == {"fp32": 0.0, "tf32": 0.0}


def test_a_step_of_full_precision_is_that_of_the_cpu(lines):
    found = lines["step"]["relative_to_cpu"]
    assert found["fp32"] == found["tf32"] == {"loss": 0.0, "gradient": 0.0, "cosine": pytest.approx(1, abs=1e-4)}


def test_a_step_of_half_precision_is_close_to_that_of_the_cpu(lines):
    found = lines["step"]["relative_to_cpu"]["bf16"]
    assert 0 < abs(found["loss"]) < 0.05
    assert found["cosine"] > 0.9


def test_all_transcripts_are_compared(lines):
    assert lines["transcripts"]["same"] == lines["transcripts"]["of"] == 6


def test_a_cpu_waits_for_nothing(lines):
    assert lines["waits"]["count"] == 0


def test_speeds_are_above_zero(lines):
    speeds = [*lines["speeds"]["x_real_time"].values(), lines["loader"]["x_real_time"]]
    assert min(speeds) > 0


def test_parts_of_a_step_take_time(lines):
    assert min(lines["where"]["ms"].values()) >= 0


def test_transcription_is_timed_in_both_precisions(lines):
    speeds = lines["transcription"]["x_real_time"]
    assert set(speeds) == {"fp32", "bf16"}
    assert min(x for found in speeds.values() for x in found.values()) > 0


def test_a_part_that_fails_ends_no_other_and_sets_the_status(gpu_check, capsys, monkeypatch):
    def features(check):
        raise ZeroDivisionError

    for part in ("step", "transcripts", "speeds", "where", "loader", "transcription"):
        monkeypatch.setattr(gpu_check.Check, part, gpu_check.Check.versions)
    monkeypatch.setattr(gpu_check.Check, "features", features)
    assert gpu_check.main(["--device", "cpu"]) == 1
    lines = read_lines(capsys)
    assert "ZeroDivisionError" in lines["features"]["error"]
    assert lines["waits"]["count"] == 0


def test_parts_behind_the_budget_are_named_as_skipped(gpu_check, capsys):
    assert gpu_check.main(["--device", "cpu", "--budget", "0"]) == 0
    assert all("skipped" in line for line in read_lines(capsys).values())
