"""A tagger learns from prose; a run that is killed goes on."""

import json
import random

import pytest

from asr.cli.main import run_command
from asr.errors import TrainingError
from asr.models.tensors import load_tensors
from asr.recognize.readable import ReadableWriter
from asr.recognize.readable_model import load_readable
from asr.train.readable_task import read_tagged

NAMES = ("London", "Peter", "McDonald", "Anna")


def prose(sentences: int, seed: int) -> str:
    rng = random.Random(seed)
    lines = []
    for _ in range(sentences):
        name, other = rng.sample(NAMES, 2)
        lines.append(rng.choice((f"Today {name} saw {other}.", f"Did {name} see {other}?", f"If {name} runs, we go.")))
    return "\n\n".join(" ".join(lines[at : at + 4]) for at in range(0, sentences, 4))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prose")
    (folder / "train.txt").write_text(prose(800, 1))
    (folder / "valid.txt").write_text(prose(60, 2))
    return folder


def train(texts, output, *options):
    sizes = ["--hidden", "24", "--layers", "1", "--words", "50", "--lookahead", "2", "--batch", "8", "--threads", "1"]
    return run_command(["train-readable", str(texts / "train.txt"), str(output), *sizes, *options])


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "readable"
    assert train(texts, output, "--valid", str(texts / "valid.txt"), "--epochs", "30") == 0
    return output


def test_it_writes_what_it_has_learnt(trained):
    writer = ReadableWriter(load_readable(trained))
    writer.accept("did anna see mcdonald today london saw peter if peter runs we go".split())
    writer.finish()
    assert writer.text() == "Did Anna see McDonald? Today London saw Peter. If Peter runs, we go."


def test_the_weights_are_stored_as_int8(trained):
    tensors, _ = load_tensors(trained / "model.safetensors")
    assert str(tensors["cells.0.weight_ih_l0"].dtype) == "torch.int8"


def test_validation_figures_stand_in_the_card(trained):
    card = json.loads((trained / "card.json").read_text())
    assert card["validation"]["wrong_marks"] < 0.05


def test_a_stopped_run_goes_on_to_the_same_weights(texts, tmp_path, monkeypatch):
    from asr.train import readable_task

    assert train(texts, tmp_path / "whole", "--epochs", "2") == 0
    plan = readable_task.ReadableTask.batches

    def cut(self, batches, epoch):
        for at, batch in enumerate(plan(self, batches, epoch)):
            if at == 5 and epoch == 1:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(readable_task.ReadableTask, "batches", cut)
        assert train(texts, tmp_path / "cut", "--epochs", "2") != 0
    assert train(texts, tmp_path / "cut", "--epochs", "2", "--resume") == 0
    whole, cut_short = (load_tensors(tmp_path / name / "model.safetensors")[0] for name in ("whole", "cut"))
    assert all(whole[name].equal(cut_short[name]) for name in whole)


def test_text_without_punctuation_is_refused(tmp_path):
    (tmp_path / "bare.txt").write_text("no capitals and no stops\n")
    with pytest.raises(TrainingError, match=r"bare\.txt: expected prose with capitals and punctuation"):
        read_tagged([tmp_path / "bare.txt"])


def test_a_folder_with_other_files_is_refused(texts, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert train(texts, tmp_path) == 2
    assert "notes.txt" in capsys.readouterr().err
