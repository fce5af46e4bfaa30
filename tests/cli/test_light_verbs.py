"""Commands that need no model and no plot start without torch, numba, librosa and matplotlib."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numba", "librosa", "matplotlib")
COMMANDS = {
    "help": ["--help"],
    "score": ["score", "ref.txt", "hyp.txt"],
    "compare": ["compare", "hyp.txt", "other.txt", "--reference", "ref.txt"],
    "report": ["report", "evaluation.json", "page.html"],
    "recipes": ["recipes", "--folder", str(ROOT / "recipes")],
    "info": ["info", "an4"],
    "check": ["check", "set.jsonl"],
    "shard": ["shard", "set.jsonl", "shards"],
    "init": ["init", "recordings", "--output", "project"],
    "init from a model": ["init", "recordings", "--output", "project", "--init", "an4"],
    "export to kaldi": ["export", "set.jsonl", "out", "--format", "kaldi"],
    "export to onnx": ["export", "stream", "graphs", "--to", "onnx"],
    "export to sherpa": ["export", "stream", "sherpa", "--to", "sherpa", "--utterance", "recordings/sample.wav"],
    "export to nemo": ["export", "set.jsonl", "out.json", "--format", "nemo"],
}
PROGRAM = """
import json, sys
from asr.cli.main import run_command
try:
    status = run_command(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
print(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with small inputs of all these commands."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for suffix in (".wav", ".txt"):
        shutil.copy(ROOT / "egs" / f"sample{suffix}", recordings)
    (tmp_path / "ref.txt").write_text("a GO DO\n")
    (tmp_path / "hyp.txt").write_text("a GO DOG\n")
    (tmp_path / "other.txt").write_text("a GO TO\n")
    utterance = {"id": "a", "reference": "GO DO", "hypothesis": "GO DOG"}
    (tmp_path / "evaluation.json").write_text(json.dumps({"utterances": [utterance]}))
    line = {"id": "a", "audio": "recordings/sample.wav", "text": "ENTER FOUR FIVE NINE TWO", "duration_s": 2.75}
    (tmp_path / "set.jsonl").write_text(json.dumps(line | {"speaker": "s"}) + "\n")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_light_command_imports_no_heavy_library(command: str, inputs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *COMMANDS[command]], cwd=inputs, capture_output=True, text=True, timeout=500
    )
    status, imported = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    assert [name for name in HEAVY if name in imported] == []
