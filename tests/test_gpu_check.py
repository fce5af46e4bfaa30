"""``tools/gpu_check.py``: every part runs, on a CPU in small, and one that fails ends no other."""

import importlib.util
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


def test_every_part_gives_its_figures(gpu_check, capsys):
    assert gpu_check.main(["--device", "cpu", "--budget", "1000"]) == 0
    lines = read_lines(capsys)
    parts = ["versions", "features", "step", "transcripts", "speeds", "where", "waits", "loader", "transcription"]
    assert list(lines) == parts
    assert lines["versions"]["torch"] == torch.__version__
    assert lines["features"]["largest_difference"] == {"fp32": 0.0, "tf32": 0.0}
    found = lines["step"]["relative_to_cpu"]
    assert found["fp32"] == found["tf32"] == {"loss": 0.0, "gradient": 0.0, "cosine": pytest.approx(1, abs=1e-4)}
    assert 0 < abs(found["bf16"]["loss"]) < 0.05
    assert found["bf16"]["cosine"] > 0.9
    assert lines["transcripts"]["same"] == lines["transcripts"]["of"] == 6
    assert lines["waits"]["count"] == 0
    assert all(x > 0 for x in lines["speeds"]["x_real_time"].values())
    assert all(x >= 0 for x in lines["where"]["ms"].values())
    assert lines["loader"]["x_real_time"] > 0
    assert set(lines["transcription"]["x_real_time"]) == {"fp32", "bf16"}
    assert all(x > 0 for speeds in lines["transcription"]["x_real_time"].values() for x in speeds.values())


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
