"""Training that starts from a trained model: its weights, its statistics, its tokens by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from corpus import make_config, make_corpus

from asr.config import loader
from asr.config.sections import Config
from asr.data import manifest
from asr.decode import confidence
from asr.decode.confidence import Calibration
from asr.decode.judgement import Judge
from asr.errors import ConfigError, ModelError
from asr.models import model_directory
from asr.models.storage import quantize_model
from asr.models.tensors import load_storage
from asr.recognize.options import Decoding, save_options
from asr.train import acoustic_task, finetune, loop
from asr.train.losses import distillation_loss
from asr.train.process import stop_request


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), train=12, valid=4)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    acoustic_task.train_acoustic(make_config(corpus, train={"output": str(folder), "epochs": 30}))
    return folder


def follow(corpus, tmp_path, source, **sections):
    train = {"output": str(tmp_path / "run"), "init": str(source), "epochs": 1} | sections.pop("train", {})
    return make_config(corpus, train=train, **sections)


def test_the_first_weights_and_the_statistics_are_the_models(corpus, trained, tmp_path):
    task = acoustic_task.AcousticTask(follow(corpus, tmp_path, trained, model={"dropout": 0.4}))
    source = model_directory.load_model(trained)
    for name, value in source.network.state_dict().items():
        assert torch.equal(task.network.state_dict()[name], value), name
    assert task.stats == source.stats
    figures = task.validate(task.network.eval())
    assert figures["wer"] == pytest.approx(source.card["validation"]["wer"])


@pytest.mark.parametrize("upsampling", [1, 2])
def test_tokens_keep_their_rows_by_name_and_new_ones_are_named(corpus, tmp_path, capsys, upsampling):
    model = {"upsampling": upsampling}
    acoustic_task.train_acoustic(
        make_config(corpus, model=model, train={"output": str(tmp_path / "source"), "epochs": 1})
    )
    utterances = manifest.read_manifest(corpus / "train.jsonl")
    # "A" becomes "0", which sorts before the letters: every id moves.
    renamed = [dataclasses.replace(u, text=u.text.replace("A", "0")) for u in utterances]
    manifest.write_manifest(tmp_path / "train.jsonl", renamed)
    data = {"train": str(tmp_path / "train.jsonl"), "valid": ""}
    torch.manual_seed(5)
    task = acoustic_task.AcousticTask(follow(corpus, tmp_path, tmp_path / "source", model=model, data=data))
    source = model_directory.load_model(tmp_path / "source")
    assert task.tokenizer.symbols != source.tokenizer.symbols
    assert "has no tokens '0': their weights start at random" in capsys.readouterr().err
    ours, theirs = (
        network.output.weight.detach().view(upsampling, -1, network.encoder.output_dim)
        for network in (task.model, source.network)
    )
    for symbol in ("<blank>", " ", "B", "C"):
        here, there = (tokenizer.symbols.index(symbol) for tokenizer in (task.tokenizer, source.tokenizer))
        assert torch.equal(ours[:, here], theirs[:, there]), symbol
    new = ours[:, task.tokenizer.symbols.index("0")]
    assert not any(torch.equal(new, theirs[:, row]) for row in range(theirs.shape[1]))


def test_it_goes_on_learning_and_resumes_without_the_model(corpus, trained, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in Path(trained).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = follow(corpus, tmp_path, copy, optim={"learning_rate": 2e-3})
    acoustic_task.train_acoustic(config)
    acoustic_task.train_acoustic(make_config(corpus, train={"output": str(tmp_path / "scratch"), "epochs": 1}))
    tuned, scratch = (
        model_directory.load_model(tmp_path / name).card["validation"]["loss"] for name in ("run", "scratch")
    )
    assert tuned < 0.8 * scratch
    for path in copy.iterdir():
        path.unlink()
    assert acoustic_task.train_acoustic(config, resume=True).epoch == 1


def test_training_goes_on_from_int8_weights(corpus, tmp_path):
    model = {"hidden": 64}
    source, small = tmp_path / "source", tmp_path / "small"
    acoustic_task.train_acoustic(make_config(corpus, model=model, train={"output": str(source), "epochs": 8}))
    quantize_model(source, small)
    assert load_storage(small / "model.safetensors") == "int8"
    task = acoustic_task.AcousticTask(follow(corpus, tmp_path, small, model=model))
    before = model_directory.load_model(source).card["validation"]["loss"]
    assert task.validate(task.network.eval())["loss"] == pytest.approx(before, abs=0.05)
    config = follow(corpus, tmp_path, small, model=model, train={"epochs": 8}, optim={"learning_rate": 2e-3})
    acoustic_task.train_acoustic(config)
    assert model_directory.load_model(tmp_path / "run").card["validation"]["loss"] < before
    assert load_storage(tmp_path / "run" / "model.safetensors") == "float32"


def test_another_network_is_refused_by_key(corpus, trained, tmp_path):
    config = follow(corpus, tmp_path, trained, model={"hidden": 13}, features={"mel_bins": 20})
    with pytest.raises(ConfigError, match=r"features\.mel_bins: 16 there, 20 here; model\.hidden: 12 there, 13 here"):
        acoustic_task.train_acoustic(config)
    with pytest.raises(ModelError, match="nowhere"):
        acoustic_task.train_acoustic(follow(corpus, tmp_path, tmp_path / "nowhere"))


def test_a_running_mean_may_begin_with_the_second_training(corpus, trained, tmp_path):
    acoustic_task.train_acoustic(follow(corpus, tmp_path, trained, features={"adapt_s": 0.5}))
    tuned = model_directory.load_model(tmp_path / "run")
    assert tuned.config.features.adapt_s == 0.5
    assert tuned.stats == model_directory.load_model(trained).stats


# Teachers


def test_the_distillation_loss_is_a_delayed_cross_entropy_within_each_utterance():
    torch.manual_seed(3)
    log_probs, taught = torch.randn(2, 2, 7, 4).log_softmax(dim=-1)
    expected = [
        -sum(float(taught[b, t - 2].exp() @ log_probs[b, t]) for t in range(2, length))
        for b, length in enumerate((7, 5))
    ]
    loss = distillation_loss(log_probs, taught, torch.tensor([7, 5]), 2)
    assert loss.tolist() == pytest.approx(expected)
    assert distillation_loss(log_probs, taught, torch.tensor([7, 5]), 9).tolist() == [0, 0]


def test_a_learner_follows_its_teacher_frame_by_frame_later(corpus, trained, tmp_path):
    """Without a share for the labels the teacher is all there is to learn from."""
    delay_s = 2 * make_config(corpus).output_frame_s
    config = make_config(
        corpus,
        model={"bidirectional": False, "hidden": 24, "dropout": 0.0},
        train={
            "output": str(tmp_path / "run"),
            "teacher": str(trained),
            "teacher_share": 1.0,
            "teacher_delay_s": delay_s,
            "epochs": 40,
        },
    )
    acoustic_task.train_acoustic(config)
    task = acoustic_task.AcousticTask(config)
    learner, teacher = (model_directory.load_model(path) for path in (tmp_path / "run", trained))
    assert learner.stats == teacher.stats
    batch = next(task.valid_data.batches(task.valid_data.plan(0), 0))
    assert batch is not None
    with torch.inference_mode():
        features = task.features(batch, training=False)
        ours, lengths = learner.network(*features)
        theirs, _ = teacher.network(*features)
    losses = {d: float(distillation_loss(ours, theirs, lengths, d).sum()) for d in (0, 2, 4)}
    assert losses[2] == min(losses.values()), losses


def test_a_teacher_of_another_kind_is_refused(corpus, trained, tmp_path):
    train = {"output": str(tmp_path / "run"), "teacher": str(trained)}
    for change, message in (
        ({"features": {"mel_bins": 20}}, r"has other features \(features\.mel_bins: .* there, 20 here\)"),
        ({"model": {"subsampling": 4}}, "gives a frame each 0.02 s, expected 0.04 s"),
    ):
        with pytest.raises(ConfigError, match=message):
            acoustic_task.train_acoustic(make_config(corpus, train=train, **change))
    utterances = manifest.read_manifest(corpus / "train.jsonl")
    manifest.write_manifest(
        tmp_path / "train.jsonl", [dataclasses.replace(u, text=u.text.replace("A", "0")) for u in utterances]
    )
    with pytest.raises(ConfigError, match="has the tokens"):
        acoustic_task.train_acoustic(
            make_config(corpus, train=train, data={"train": str(tmp_path / "train.jsonl"), "valid": ""})
        )


# What of a trained model changes


def test_frozen_parts_stay_and_the_rest_learns(corpus, trained, tmp_path):
    acoustic_task.train_acoustic(follow(corpus, tmp_path, trained, train={"freeze": 2}, data={"valid": ""}))
    before, after = (model_directory.load_model(path).network.state_dict() for path in (trained, tmp_path / "run"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"output.weight", "output.bias"}


def test_lower_layers_move_less(corpus, trained, tmp_path):
    def moved(name, decay):
        config = follow(
            corpus, tmp_path, trained, optim={"layer_decay": decay}, data={"valid": ""},
            train={"output": str(tmp_path / name), "epochs": 2},
        )  # fmt: skip
        acoustic_task.train_acoustic(config)
        before, after = (model_directory.load_model(path).network.state_dict() for path in (trained, tmp_path / name))
        parts = {"low": "subsampling.", "middle": "encoder.", "top": "output."}
        return {
            part: sum(float((after[n] - before[n]).abs().sum()) for n in before if n.startswith(prefix))
            for part, prefix in parts.items()
        }

    even, slow = moved("even", 1.0), moved("slow", 0.1)
    # Adam's steps are as long as the rate says: a hundredth, a tenth, and all of it.
    assert slow["low"] / even["low"] < 0.05
    assert 0.05 < slow["middle"] / even["middle"] < 0.2
    assert slow["top"] / even["top"] > 0.5


def test_frozen_training_resumes(corpus, trained, tmp_path):
    sections = {"train": {"freeze": 1, "epochs": 2}, "data": {"valid": ""}, "optim": {"layer_decay": 0.5}}
    acoustic_task.train_acoustic(follow(corpus, tmp_path, trained, **sections))
    whole = model_directory.load_model(tmp_path / "run").network.state_dict()
    (tmp_path / "run").rename(tmp_path / "whole")
    config = follow(corpus, tmp_path, trained, **sections)
    torch.manual_seed(config.train.seed)
    task = acoustic_task.AcousticTask(config)
    run = loop.Run(task, config, tmp_path / "run")
    model_directory.save_model_description(tmp_path / "run", config, task.tokenizer, task.stats)
    with stop_request() as stop:
        run.epoch(stop)
    run.save()
    run.log.close()
    acoustic_task.train_acoustic(config, resume=True)
    again = model_directory.load_model(tmp_path / "run").network.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"freeze": 1}, "init"),
        ({"freeze": 3, "init": "an4"}, "at most 2"),
        ({"freeze": -1, "init": "x"}, "expected 0"),
    ],
)
def test_what_cannot_be_frozen(corpus, train, message):
    with pytest.raises(ConfigError, match=f"train.freeze: .*{message}"):
        make_config(corpus, train=train)


def test_tokens_of_another_kind_are_learnt_anew(corpus, trained, tmp_path, capsys):
    """A letter among words is another thing than the letter."""
    utterances = manifest.read_manifest(corpus / "train.jsonl")
    manifest.write_manifest(tmp_path / "train.jsonl", [dataclasses.replace(u, text="A B") for u in utterances])
    data = {"train": str(tmp_path / "train.jsonl"), "valid": ""}
    acoustic_task.AcousticTask(follow(corpus, tmp_path, trained, data=data, text={"tokenizer": "word"}))
    assert "has no tokens 'A', 'B': their weights start at random" in capsys.readouterr().err


# What a fine-tuning starts with, and keeps


def test_a_training_that_only_harms_keeps_the_model_that_it_started_from(
    corpus, trained, tmp_path, capsys, monkeypatch
):
    wers = iter([0.5, 0.6, 0.7])
    monkeypatch.setattr(acoustic_task.AcousticTask, "validate", lambda *_: {"wer": next(wers), "cer": 0.1})
    assert acoustic_task.train_acoustic(follow(corpus, tmp_path, trained, train={"epochs": 2})).kept == 0
    before, after = (model_directory.load_model(path).network.state_dict() for path in (trained, tmp_path / "run"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    said = capsys.readouterr().err
    assert f"train.init: no validation was better than {trained} itself" in said
    assert "record more" in said


def test_a_training_that_helps_keeps_what_it_has_learnt(corpus, trained, tmp_path, capsys):
    progress = acoustic_task.train_acoustic(follow(corpus, tmp_path, trained, train={"epochs": 20}))
    assert progress.kept > 0
    assert "no validation was better" not in capsys.readouterr().err


def test_the_model_that_training_starts_from_is_the_first_to_be_validated(corpus, trained, tmp_path):
    acoustic_task.train_acoustic(follow(corpus, tmp_path, trained))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    validated = [(line["step"], line["valid_wer"]) for line in lines if "valid_wer" in line]
    source = model_directory.load_model(trained).card["validation"]["wer"]
    assert validated[0] == (0, pytest.approx(source))


def with_tagger(trained, folder):
    shutil.copytree(trained, folder)
    (folder / "readable").mkdir()
    (folder / "readable" / "readable.json").write_text("{}")
    return folder


def test_a_tagger_comes_along(corpus, trained, tmp_path):
    source = with_tagger(trained, tmp_path / "source")
    acoustic_task.train_acoustic(follow(corpus, tmp_path, source))
    assert (tmp_path / "run" / "readable" / "readable.json").read_text() == "{}"


JUDGE = Judge({"frame": -3.0, "rivals": -4.0, "spoken": 0.0}, -6.0, 0.15)


def test_the_judge_of_reliability_comes_along_without_the_confidences_of_words(corpus, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "source")
    confidence.save_calibration(tmp_path / "source", {"greedy": Calibration(1.0, 0.0, 0.0)}, judge=JUDGE)
    acoustic_task.train_acoustic(follow(corpus, tmp_path, tmp_path / "source"))
    assert confidence.load_confidences(tmp_path / "run") == ({}, None, JUDGE)


def test_a_judge_that_a_run_has_been_given_stays_when_it_is_resumed(corpus, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "source")
    confidence.save_calibration(tmp_path / "source", {}, judge=JUDGE)
    acoustic_task.train_acoustic(follow(corpus, tmp_path, tmp_path / "source"))
    own = dataclasses.replace(JUDGE, threshold=0.5)
    confidence.save_calibration(tmp_path / "run", {}, judge=own)
    longer = follow(corpus, tmp_path, tmp_path / "source", train={"epochs": 2})
    acoustic_task.train_acoustic(longer, resume=True)
    assert confidence.load_judge(tmp_path / "run") == own


def test_a_model_with_other_letters_gets_no_tagger(corpus, trained, tmp_path):
    source = with_tagger(trained, tmp_path / "source")
    utterances = manifest.read_manifest(corpus / "train.jsonl")
    manifest.write_manifest(
        tmp_path / "train.jsonl", [dataclasses.replace(u, text=u.text.replace("A", "0")) for u in utterances]
    )
    data = {"train": str(tmp_path / "train.jsonl"), "valid": ""}
    acoustic_task.train_acoustic(follow(corpus, tmp_path, source, data=data))
    assert not (tmp_path / "run" / "readable").exists()


def test_who_starts_from_a_model_with_a_language_model_is_told_how_to_decode_alike():
    config = loader.from_dict(
        Config, {"train": {"init": "english", "output": "exp/mine"}, "data": {"valid": "v.jsonl"}}
    )
    hint = finetune.tuning_hint(config)
    assert hint.startswith("english decodes with a language model, exp/mine greedily so far")
    assert "asr tune v.jsonl --model exp/mine --lm english" in hint


def test_a_model_that_has_been_tuned_needs_no_hint(tmp_path):
    save_options(tmp_path, Decoding(beam=4))
    assert not finetune.tuning_hint(loader.from_dict(Config, {"train": {"init": "english", "output": str(tmp_path)}}))


def test_a_model_without_a_language_model_gives_no_hint(trained, tmp_path):
    config = loader.from_dict(Config, {"train": {"init": str(trained), "output": str(tmp_path / "run")}})
    assert not finetune.tuning_hint(config)
