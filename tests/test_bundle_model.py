"""What tools/bundle_model.py puts into the package."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from asr.lm.lm_conversion import convert_ngram
from asr.models import bundled
from asr.models.description import describe_model, read_description
from asr.models.tensors import load_storage
from asr.recognize.options import Decoding, load_options, save_options
from asr.recognize.recognizer import load

ROOT = Path(__file__).parents[1]
AN4 = ROOT / "asr" / "assets" / "models" / "an4"
ARPA = """\\data\\
ngram 1=6
ngram 2=1

\\1-grams:
-1 <s> -0.3
-1 </s>
-2 <unk>
-0.5 ENTER -0.2
-0.5 FOUR
-0.5 FIVE

\\2-grams:
-0.1 ENTER FOUR

\\end\\
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_model", ROOT / "tools" / "bundle_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr(bundled, "bundle_folder", lambda: tmp_path / "assets")
    return module


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training's output: the model of AN4 with a word n-gram."""
    folder = tmp_path / "run"
    shutil.copytree(AN4, folder)
    (tmp_path / "words.arpa").write_text(ARPA)
    convert_ngram(tmp_path / "words.arpa", tmp_path / "words.safetensors")
    save_options(folder, Decoding(beam=8, lm=str(tmp_path / "words.safetensors")))
    shutil.rmtree(folder / "lm" / "lm", ignore_errors=True)
    return folder


def bundle(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, run: Path, *more: str) -> int:
    report = {"wer": 0.25, "cer": 0.1, "ser": 0.5, "errors": 1, "words": 4, "substitutions": 1, "deletions": 0,
              "insertions": 0, "ci95": [0.1, 0.4]}  # fmt: skip
    (run.parent / "report.json").write_text(json.dumps(report))
    command = ["bundle_model.py", str(run), "english", "--evaluation", str(run.parent / "report.json"), *more]
    monkeypatch.setattr(sys, "argv", command)
    return int(tool.main())


def test_a_model_with_an_ngram_is_bundled_as_int8_and_becomes_the_default(
    tool: ModuleType, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundle(tool, monkeypatch, run, "--default") == 0
    folder = bundled.locate_model(None)
    assert folder.name == bundled.default_model() == "english"
    assert load_storage(folder / "model.safetensors") == "int8"
    decoding = load_options(folder)
    assert decoding.lm == str(folder / "lm" / "lm.safetensors")
    assert decoding.beam == 8
    assert load(device="cpu").transcribe(ROOT / "egs" / "sample.wav").text.startswith("ENTER FOUR")


def test_the_card_has_results_by_corpus_and_what_the_model_is_not_for(
    tool: ModuleType, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run.parent / "report.json"
    more = ["--not-for", "other languages", "--note", "licence: see NOTICE"]
    more += [part for name in ("readers", "actors") for part in ("--held-out", f"{name}={report}")]
    assert bundle(tool, monkeypatch, run, *more) == 0
    found = read_description("english")
    assert found.card["held_out"]["readers"]["errors"] == 1
    assert found.card["licence"] == "see NOTICE", "a note is newer than what the run's card says"
    text = describe_model(found)
    assert "not_for:        other languages" in text
    assert "held_out:       readers wer 25.00 %, errors 1, words 4, " in text
    assert "\n                actors wer 25.00 %" in text


def test_recurrent_language_models_are_stored_like_the_weights(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(AN4, run)
    assert bundle(tool, monkeypatch, run) == 0
    assert load_storage(tmp_path / "assets" / "english" / "lm" / "lm" / "model.safetensors") == "int8"


def test_a_report_that_is_none_is_refused(
    tool: ModuleType, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "empty.json").write_text("{}")
    assert bundle(tool, monkeypatch, run, "--held-out", f"x={run.parent / 'empty.json'}") == 1
    assert "error: " in capsys.readouterr().err
