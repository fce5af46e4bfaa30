"""Copies of model directories with smaller weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from test_model_directory import make_model

from asr.cli.main import run_command
from asr.errors import ModelError, OutputError
from asr.models import bundled, model_directory
from asr.models.averaging import average_models
from asr.models.description import read_description
from asr.models.storage import quantize_model
from asr.recognize.recognizer import load

SAMPLE = Path(__file__).parents[2] / "egs" / "sample.wav"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as int8."""
    folder = tmp_path_factory.mktemp("models") / "an4"
    quantize_model("an4", folder)
    return folder


def test_the_copy_recognises_what_the_model_does(small: Path) -> None:
    ours, theirs = load(small, device="cpu").transcribe(SAMPLE), load("an4", device="cpu").transcribe(SAMPLE)
    assert ours.text == theirs.text
    assert [w.confidence for w in ours.words] == pytest.approx([w.confidence for w in theirs.words], abs=0.02)


def test_the_log_probabilities_are_close(small: Path) -> None:
    torch.manual_seed(0)
    models = [model_directory.load_model(folder) for folder in (small, "an4")]
    features = torch.randn(1, 200, 80)
    with torch.no_grad():
        ours, theirs = (m.network(features, torch.tensor([200]))[0].exp() for m in models)
    assert (ours - theirs).abs().max() < 0.05


def test_everything_but_the_weights_is_copied_and_they_are_smaller(small: Path) -> None:
    original = bundled.locate_model("an4")
    files = {p.relative_to(original) for p in original.rglob("*") if p.is_file()}
    assert {p.relative_to(small) for p in small.rglob("*") if p.is_file()} == files
    for name in files - {Path("model.safetensors"), Path("card.json")}:
        assert (small / name).read_bytes() == (original / name).read_bytes(), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (small, original)]
    assert sizes[0] < 0.55 * sizes[1]
    assert read_description(small).card == read_description("an4").card


def test_a_runs_checkpoints_log_and_stored_speech_stay_behind(tmp_path: Path) -> None:
    make_model(tmp_path / "run", hidden=128)
    left = {"checkpoint.safetensors", "log.jsonl", "rehearsal.safetensors"}
    for name in left:
        (tmp_path / "run" / name).write_text("{}")
    quantize_model(tmp_path / "run", tmp_path / "small")
    assert not left & {p.name for p in (tmp_path / "small").iterdir()}


def test_int8_models_are_averaged_in_float32(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        network, _ = make_model(tmp_path / name, hidden=128)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(seed * 0.1)
        model_directory.save_weights(tmp_path / name, network, {"origin": "x"})
        quantize_model(tmp_path / name, tmp_path / f"{name}8")
    average_models([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    average_models([tmp_path / "a8", tmp_path / "b8"], tmp_path / "mean8")
    ours, theirs = (model_directory.load_model(tmp_path / n).network.state_dict() for n in ("mean8", "mean"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-3)
    assert read_description(tmp_path / "mean8").storage == "float32"


def test_an_int8_language_model_is_loaded(small: Path, tmp_path: Path) -> None:
    from asr.lm.lm_directory import load_recurrent

    folder = tmp_path / "lm"
    shutil.copytree(bundled.locate_model("an4") / "lm" / "lm", folder)
    original = load_recurrent(folder)
    model_directory.save_weights(folder, original.network, original.card, storage="int8")
    loaded = load_recurrent(folder).network.state_dict()
    for name, value in original.network.state_dict().items():
        largest = value.flatten(1).abs().amax(1, keepdim=True) if value.ndim > 1 else value.abs().max()
        assert ((loaded[name] - value).abs() <= largest / 250 + 1e-6).all(), name


def test_half_precision_and_single_precision_are_written_on_demand(small: Path, tmp_path: Path) -> None:
    for storage in ("float16", "float32"):
        assert run_command(["quantize", str(small), "--output", str(tmp_path / storage), "--storage", storage]) == 0
        assert read_description(tmp_path / storage).storage == storage


def test_the_command_refuses_a_folder_in_use_and_the_models_own(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="expected a new output"):
        quantize_model(small, tmp_path)
    with pytest.raises(ModelError, match="a directory of its own for the copy"):
        quantize_model(small, small, force=True)
    assert run_command(["quantize", str(small), "--output", str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_model_with_folders_of_its_own_replaces_its_copy(tmp_path: Path) -> None:
    make_model(tmp_path / "a", hidden=128)
    (tmp_path / "a" / "report").mkdir()
    (tmp_path / "a" / "report" / "index.html").write_text("old")
    quantize_model(tmp_path / "a", tmp_path / "out")
    (tmp_path / "a" / "report" / "index.html").write_text("new")
    quantize_model(tmp_path / "a", tmp_path / "out", force=True)
    assert read_description(tmp_path / "out").storage == "int8"
    assert (tmp_path / "out" / "report" / "index.html").read_text() == "new"
    assert not [part for part in (tmp_path / "out").iterdir() if part.name.startswith(".")]


def test_a_folder_inside_the_model_is_no_place_for_its_copy(tmp_path: Path) -> None:
    make_model(tmp_path / "a")
    with pytest.raises(ModelError, match="one inside it"):
        quantize_model(tmp_path / "a", tmp_path / "a" / "small")
    assert not (tmp_path / "a" / "small").exists()


def test_a_copy_that_cannot_be_written_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "a")
    make_model(tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def full(*args: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ModelError, match="no space left"):
        quantize_model(tmp_path / "a", tmp_path / "out", force=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
