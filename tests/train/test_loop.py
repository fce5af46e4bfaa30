"""Training: the loss is right and falls, runs resume bit for bit after any death, and bad input is named."""

import dataclasses
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import mutants
import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
import where
from corpus import RATE_HZ, make_config, make_corpus, start, tones, train_process
from torch.utils._python_dispatch import TorchDispatchMode

from asr import errors
from asr.cli import main
from asr.config import loader
from asr.config.sections import load_config
from asr.config.training_sections import OptimConfig
from asr.data import manifest
from asr.data.batch_maker import BatchMaker
from asr.data.batches import Batch
from asr.decode.greedy_search import greedy
from asr.errors import AsrError, ConfigError, ManifestError, ModelError, TextError, TrainingError
from asr.models import description, model_directory, spec_augment
from asr.models.features import LogMel
from asr.models.tensors import load_metadata, load_tensors, save_tensors
from asr.scoring import wer
from asr.train import (
    acoustic_task,
    checkpoint_writer,
    loop,
    loss_scale,
    objective,
    optimiser,
    resume,
    step_results,
    steps,
)
from asr.train import losses as losses_module
from asr.train.loss_scale import LARGEST_SCALE
from asr.train.losses import ctc_loss
from asr.train.process import LOCK, alone, stop_request
from asr.train.schedule import Finish, learning_rate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=6)


def run_config(corpus, tmp_path, **sections):
    train = {"output": str(tmp_path / "run")} | sections.pop("train", {})
    return make_config(corpus, train=train, **sections)


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def final_state(folder):
    """Everything a run ends with, save for the time it took."""
    tensors, metadata = load_tensors(folder / resume.CHECKPOINT)
    model, _ = load_tensors(folder / "model.safetensors")
    for name in ("seconds", "clock_s", "validated_s", "validation_s"):
        metadata["progress"].pop(name)
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder)]
    return tensors | {f"model/{name}": value for name, value in model.items()}, metadata["progress"], log


def assert_same_run(folder, reference):
    tensors, progress, log = final_state(folder)
    expected_tensors, expected_progress, expected_log = final_state(reference)
    assert tensors.keys() == expected_tensors.keys()
    if not where.on_cpu():
        assert_same_curve(tensors, log, expected_tensors, expected_log)
        return
    assert progress == expected_progress
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, expected_tensors[name])]
    assert different == []
    assert log == expected_log


def assert_same_curve(tensors, log, expected_tensors, expected_log):
    """As ``assert_same_run`` where additions have no fixed order: the same steps up to rounding."""
    assert [line.keys() for line in log] == [line.keys() for line in expected_log]
    for line, expected in zip(log, expected_log, strict=True):
        assert line["step"] == expected["step"]
        for key in line.keys() & {"loss", "valid_loss", "learning_rate"}:
            assert line[key] == pytest.approx(expected[key], rel=0.02, abs=1e-3), key
    for name, tensor in tensors.items():
        if name.startswith("rng/"):
            assert torch.equal(tensor, expected_tensors[name]), name
        elif name.startswith("model/"):
            torch.testing.assert_close(tensor, expected_tensors[name], atol=5e-3, rtol=0.05)


# The loss


def all_paths_nll(log_probs, label):
    """CTC by its definition: the sum over every path that collapses to the label."""
    frames, vocab = log_probs.shape
    total = 0.0
    for path in itertools.product(range(vocab), repeat=frames):
        collapsed = [token for token, _ in itertools.groupby(path) if token]
        if collapsed == label:
            total += math.exp(sum(log_probs[t, token].item() for t, token in enumerate(path)))
    return -math.log(total) if total else math.inf


def make_batch(labels):
    return Batch(
        ids=tuple(map(str, range(len(labels)))),
        samples=torch.zeros(len(labels), 1),
        lengths=torch.ones(len(labels), dtype=torch.int64),
        tokens=torch.tensor([token for label in labels for token in label], dtype=torch.int64),
        token_lengths=torch.tensor([len(label) for label in labels]),
        masks=torch.zeros(len(labels), 0, 2, dtype=torch.int64),
        colours=torch.zeros(len(labels), 3),
    )


def test_ctc_loss_is_the_sum_over_all_paths():
    torch.manual_seed(0)
    labels = [[1, 2], [2, 2], [], [1], [1, 1, 2], [1, 2, 1, 2, 1]]
    lengths = torch.tensor([5, 4, 3, 1, 5, 4])
    log_probs = (2 * torch.randn(6, 5, 3)).log_softmax(-1)
    losses = ctc_loss(log_probs, lengths, make_batch(labels))
    expected = [all_paths_nll(row[:n], label) for row, n, label in zip(log_probs, lengths, labels, strict=True)]
    assert expected[-1] == math.inf
    assert losses.dtype == torch.float32
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-5)


def test_ctc_gradient_is_that_of_the_sum_over_all_paths():
    torch.manual_seed(1)
    logits = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    label = [1, 1]
    ctc_loss(logits.log_softmax(-1), torch.tensor([4]), make_batch([label])).sum().backward()
    for index in itertools.product(range(4), range(3)):
        step = torch.zeros_like(logits)
        step[0, index[0], index[1]] = 1e-6
        above, below = ((logits.detach() + sign * step).log_softmax(-1)[0] for sign in (1, -1))
        numeric = (all_paths_nll(above, label) - all_paths_nll(below, label)) / 2e-6
        assert logits.grad[0, index[0], index[1]].item() == pytest.approx(numeric, abs=1e-6)


def test_only_empty_labels_have_a_finite_loss_and_gradient():
    log_probs = torch.randn(2, 5, 3).log_softmax(-1).requires_grad_()
    loss = ctc_loss(log_probs, torch.tensor([5, 3]), make_batch([[], []])).sum()
    loss.backward()
    blank = log_probs.detach()[:, :, 0]
    assert loss.item() == pytest.approx(-(blank[0].sum() + blank[1, :3].sum()).item(), rel=1e-5)
    assert log_probs.grad.isfinite().all()


def test_the_task_loss_is_a_sum_and_blind_to_the_size_of_the_batch(corpus, tmp_path):
    config = run_config(corpus, tmp_path, model={"dropout": 0.0}, augment={"time_masks": 0, "freq_masks": 0})
    task = acoustic_task.AcousticTask(config)
    data = task.train_data
    examples = data.plan(0)[0]
    singles = [data.batch([example], 0) for example in examples]
    with torch.inference_mode():
        whole = task.loss(data.batch(examples, 0)).item()
        parts = [task.loss(single).item() for single in singles]
        outputs = task.network(*task.features(singles[0], training=False))
    assert parts[0] == pytest.approx(ctc_loss(*outputs, singles[0]).item(), rel=where.tolerance(1e-5, 1e-4))
    assert len(examples) > 1
    assert whole == pytest.approx(sum(parts), rel=where.tolerance(1e-5, 1e-4))


def test_masks_reach_the_features_in_training(corpus, tmp_path, monkeypatch):
    task = acoustic_task.AcousticTask(run_config(corpus, tmp_path, augment={"speeds": [1.0]}))
    batch = next(b for b in task.batches(task.plan(0), 0) if (b.masks[0][..., 0] < b.masks[0][..., 1]).any())
    seen = []
    monkeypatch.setattr(
        task.network, "forward", lambda x, frames: seen.append(x) or (x.new_zeros(len(x), 99, 5), frames)
    )
    monkeypatch.setattr(losses_module, "ctc_loss", lambda *args: torch.zeros(1))
    task.loss(batch)
    plain, _ = task.features(batch, training=False)
    changed = (seen[0] != plain).any(-1)
    time_masks = task.config.augment.time_masks
    for row, masks in enumerate(batch.masks[0].tolist()):
        assert all(not seen[0][row, first:last].any() for first, last in masks[:time_masks])
        assert all(not seen[0][row, :, first:last].any() for first, last in masks[time_masks:])
    assert changed.any()


def test_colours_reach_the_features_in_training_only(corpus, tmp_path):
    setting = {"warp": 0.2, "tilt_db": 6.0, "time_masks": 0, "freq_masks": 0}
    task = acoustic_task.AcousticTask(run_config(corpus, tmp_path, augment=setting))
    batch = next(iter(task.batches(task.plan(0), 0)))
    plain, frames = task.features(batch, training=False)
    expected, _ = task.features.log_mel(
        batch.samples.to(task.device),
        batch.lengths.to(task.device),
        lambda x: spec_augment.colour(x, batch.colours.to(task.device), task.config.features),
    )
    torch.testing.assert_close(task.features(batch, training=True)[0], expected)
    assert not torch.allclose(expected, plain, atol=0.1)
    torch.testing.assert_close(task.features(batch, training=False)[0], plain)
    assert torch.equal(task.features(batch, training=True)[1], frames)


def test_the_middle_layer_earns_its_share_of_the_loss(corpus, tmp_path):
    model = {"layers": 2, "dropout": 0.0}
    losses = []
    for share in (0.0, 0.25):
        config = run_config(corpus, tmp_path, model=model | {"intermediate_ctc": share})
        torch.manual_seed(1)
        task = acoustic_task.AcousticTask(config)
        batch = next(iter(task.batches(task.plan(0), 0)))
        losses.append(task.loss(batch).item())
        features, frames = task.features(batch, training=True)
        _, middle, lengths = task.model.forward_deep(features, frames)
        middle_loss = ctc_loss(middle, lengths, batch).sum()
    assert losses[1] == pytest.approx(0.75 * losses[0] + 0.25 * middle_loss.item(), rel=1e-5)


def test_two_views_learn_each_others_posteriors(corpus, tmp_path):
    """The loss is the mean of the views' own and of what each says to the other, whose posteriors are fixed."""
    config = run_config(
        corpus, tmp_path, model={"dropout": 0.0}, train={"consistency": 0.3}, augment={"freq_mask_bins": 8}
    )
    task = acoustic_task.AcousticTask(config)
    batch = next(b for b in task.batches(task.plan(0), 0) if not torch.equal(*b.masks))
    task.network.train()
    loss = task.loss(batch)
    loss.backward()
    features, frames = task.features.distort(batch)
    outputs = []
    for masks in batch.masks:
        log_probs, lengths = task.network(task.features.mask(features, masks), frames)
        outputs.append(log_probs)
    ctc = sum(ctc_loss(x, lengths, batch).sum() for x in outputs)
    a, b = outputs
    cross = 0.0
    for mine, theirs in ((a, b), (b, a)):
        for row, length in enumerate(lengths.tolist()):
            cross = cross - (theirs[row, :length].detach().exp() * mine[row, :length]).sum()
    expected = (ctc + 0.3 * cross) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = [p.grad.clone() for p in task.network.parameters()]
    task.network.zero_grad()
    expected.backward()
    for ours, p in zip(grads, task.network.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=1e-3, atol=1e-5)


def test_consistent_training_learns_and_is_the_same_again(corpus, tmp_path):
    weights = []
    for name in ("a", "b"):
        config = run_config(
            corpus,
            tmp_path,
            train={"consistency": 0.2, "epochs": 3, "output": str(tmp_path / name)},
            data={"workers": 1 + (name == "b")},
        )
        acoustic_task.train_acoustic(config)
        weights.append(model_directory.load_model(tmp_path / name).network.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_label_smoothing_is_the_share_of_a_uniform_target(corpus, tmp_path):
    losses = []
    for share in (0.0, 0.1):
        config = run_config(corpus, tmp_path, model={"dropout": 0.0}, optim={"label_smoothing": share})
        torch.manual_seed(1)
        task = acoustic_task.AcousticTask(config)
        batch = next(iter(task.batches(task.plan(0), 0)))
        losses.append(task.loss(batch).item())
        with torch.inference_mode():
            log_probs, lengths = task.network(*task.features(batch, training=True))
    expected = 0.0
    for row, length in zip(log_probs, lengths.tolist(), strict=True):
        uniform = torch.full_like(row[:length], 1 / row.shape[1])
        expected += float(torch.nn.functional.cross_entropy(row[:length], uniform, reduction="sum"))
    assert losses[1] == pytest.approx(0.9 * losses[0] + 0.1 * expected, rel=1e-5)


# The schedule


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end():
    config = OptimConfig(learning_rate=1.0, warmup_ratio=0.2, final_ratio=0.05)
    shares = np.linspace(0, 1, 501)
    rates = np.array([learning_rate(share, config) for share in shares])
    assert rates[0] == 0
    assert rates[shares == 0.2] == pytest.approx(1.0)
    assert rates[shares == 0.1] == pytest.approx(0.5)
    assert rates[shares == 0.6] == pytest.approx((1 + 0.05) / 2)
    assert rates[-1] == pytest.approx(0.05)
    assert (np.diff(rates[shares <= 0.2]) > 0).all()
    assert (np.diff(rates[shares >= 0.2]) < 0).all()


@pytest.mark.parametrize(("warmup", "first", "last"), [(0.0, 1.0, 0.1), (1.0, 0.0, 1.0)])
def test_the_extremes_of_warm_up(warmup, first, last):
    config = OptimConfig(learning_rate=1.0, warmup_ratio=warmup, final_ratio=0.1)
    assert learning_rate(0.0, config) == pytest.approx(first)
    assert learning_rate(1.0, config) == pytest.approx(last)


# A run


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A run long enough to learn the tones."""
    torch.set_num_threads(1)
    config = make_config(
        corpus,
        model={"hidden": 16, "channels": 4, "dropout": 0.0},
        train={
            "epochs": 14,
            "output": str(tmp_path_factory.mktemp("trained") / "run"),
            "ema": 0.5,
            "checkpoint_every_s": 1e-6,
        },
    )
    acoustic_task.train_acoustic(config)
    return config


def test_training_learns_the_tones(trained, tmp_path_factory):
    log = read_log(Path(trained.train.output))
    losses = [line["loss"] for line in log if "loss" in line]
    valid = [line for line in log if "valid_wer" in line]
    assert len(valid) == 14
    assert losses[-1] < 0.3 * losses[0]
    assert valid[-1]["valid_loss"] < 0.2 * valid[0]["valid_loss"]
    assert min(line["valid_wer"] for line in valid) <= 0.25
    assert all(line["learning_rate"] <= trained.optim.learning_rate for line in log if "learning_rate" in line)


def test_the_saved_model_reaches_the_figures_on_its_card(trained):
    model = model_directory.load_model(trained.train.output)
    assert model.config == trained
    log = read_log(model.path)
    figures = model.card["validation"]
    assert figures["wer"] == min(line["valid_wer"] for line in log if "valid_wer" in line)
    assert model.card["training"]["epoch"] == next(
        line["epoch"] for line in reversed(log) if line.get("valid_wer") == figures["wer"]
    )
    assert model.card["training_data"]["utterances"] == 24
    assert model.card["training_data"]["speakers"] == 2
    # The model directory alone, on the recordings themselves: one utterance at a time.
    log_mel = LogMel(model.config.features, model.stats)
    references, hypotheses = {}, {}
    for utterance in manifest.read_manifest(trained.data.valid):
        samples = torch.from_numpy(soundfile.read(utterance.audio, dtype="float32")[0])[None]
        with torch.inference_mode():
            log_probs, lengths = model.network(*log_mel(samples, torch.tensor([samples.shape[1]])))
        references[utterance.id] = utterance.text
        hypotheses[utterance.id] = model.tokenizer.decode(greedy(log_probs, lengths)[0].tokens)
    report = wer.score(references, hypotheses)
    assert (report.wer, report.cer) == (figures["wer"], figures["cer"])


def test_without_held_out_speakers_the_last_weights_are_kept(corpus, tmp_path, capsys):
    config = run_config(corpus, tmp_path, data={"valid": ""}, train={"epochs": 2, "ema": 0.9})
    progress = acoustic_task.train_acoustic(config)
    assert progress.best == math.inf
    captured = capsys.readouterr().err
    assert "no speakers are held out" in captured
    assert "epoch 2/2  not validated" in captured
    folder = Path(config.train.output)
    assert not any("valid_wer" in line for line in read_log(folder))
    tensors, _ = load_tensors(folder / resume.CHECKPOINT)
    model = model_directory.load_model(folder)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, tensors[f"average/{name}"])
    assert model.card["training"]["epoch"] == 2
    assert model.card["validation"] == {}


def test_the_run_directory_holds_what_the_design_says(trained):
    folder = Path(trained.train.output)
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "tokens.txt", "stats.json", "model.safetensors", "card.json", "log.jsonl",
        "checkpoint.safetensors", "checkpoint.previous.safetensors", "rehearsal.safetensors",
    }  # fmt: skip
    assert load_config(folder / "config.yaml") == trained


def test_resuming_a_finished_run_changes_nothing(trained):
    folder = Path(trained.train.output)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    acoustic_task.train_acoustic(trained, resume=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_seed_fixes_the_run_and_another_changes_it(corpus, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = make_config(corpus, train={"output": str(tmp_path / name), "seed": seed, "epochs": 1})
        acoustic_task.train_acoustic(config)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "a", tmp_path / "c")


def make_run(config):
    """A run with its task, as ``acoustic.train`` makes them."""
    torch.manual_seed(config.train.seed)
    folder = Path(config.train.output)
    task = acoustic_task.AcousticTask(config)
    model_directory.save_model_description(folder, config, task.tokenizer, task.stats)
    return loop.Run(task, config, folder)


def test_the_average_follows_the_weights_without_gradients(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path, train={"ema": 0.3}))
    expected = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.network.train()
    for number, batch in enumerate(run.task.batches(run.task.plan(0), 0), start=1):
        run.step(batch, 10)
        decay = min(0.3, (1 + number) / (10 + number))
        for name, value in run.network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in run.average.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    # A gradient here would chain every step of the run to the next, and keep them all.
    assert not any(parameter.requires_grad or parameter.grad_fn for parameter in run.average.network.parameters())


def test_the_average_is_what_is_validated_and_saved(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"ema": 0.9, "epochs": 1})
    acoustic_task.train_acoustic(config)
    tensors, _ = load_tensors(tmp_path / "run" / resume.CHECKPOINT)
    saved, _ = load_tensors(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(value, tensors[f"average/{name}"]) for name, value in saved.items())
    assert any(not torch.equal(value, tensors[f"network/{name}"]) for name, value in saved.items())


@pytest.mark.parametrize(("every", "epochs"), [(2, 4), (4, 4), (1, 3)])
def test_the_last_epochs_are_averaged(corpus, tmp_path, every, epochs):
    train = {"average_epochs": every, "epochs": epochs, "validate_every_epochs": 9}
    run = make_run(run_config(corpus, tmp_path, train=train))
    ends = []
    with stop_request() as stop:
        for _ in range(epochs):
            run.epoch(stop)
            ends.append({name: value.clone() for name, value in run.network.state_dict().items()})
    for name, value in run.average.network.state_dict().items():
        torch.testing.assert_close(value, torch.stack([end[name] for end in ends[-every:]]).mean(0))
    run.validate()
    saved = load_tensors(run.checkpoint.parent / "model.safetensors")[0]
    name, value = next(iter(run.average.network.state_dict().items()))
    assert torch.equal(saved[name], value.cpu())
    assert not torch.equal(saved[name], ends[-1][name].cpu()) or every == 1


def test_the_log_names_the_gradient_norm_of_every_part(corpus, tmp_path):
    config = run_config(corpus, tmp_path, model={"layers": 2}, train={"epochs": 2}, optim={"clip_norm": 1e9})
    acoustic_task.train_acoustic(config)
    lines = [line for line in read_log(tmp_path / "run") if "grad_norm" in line]
    assert lines
    parts = {key.partition("/")[2] for key in lines[-1] if key.startswith("grad_norm/")}
    assert {"encoder.layers.0", "encoder.layers.1", "output"} <= parts
    assert any(part.startswith("subsampling.") for part in parts)
    run = make_run(moved(config, tmp_path / "norms"))
    batch = next(iter(run.task.batches(run.task.plan(0), 0)))
    run.task.loss(batch).backward()
    norms = optimiser.module_norms(run.network)
    whole = torch.nn.utils.get_total_norm([p.grad for p in run.network.parameters()]).item()
    assert math.hypot(*norms.values()) == pytest.approx(whole, rel=1e-5)
    layer = run.network.encoder.layers[1].parameters()
    assert norms["grad_norm/encoder.layers.1"] == pytest.approx(
        math.sqrt(sum(float(p.grad.square().sum()) for p in layer)), rel=1e-5
    )


def test_tensorboard_gets_the_figures_of_the_log(corpus, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = run_config(corpus, tmp_path, train={"epochs": 2, "tensorboard": True})
    acoustic_task.train_acoustic(config)
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    logged = {line["step"]: line["valid_loss"] for line in read_log(tmp_path / "run") if "valid_loss" in line}
    assert {event.step: event.value for event in found.Scalars("valid_loss")} == pytest.approx(logged)
    assert "grad_norm/output" in found.Tags()["scalars"]


def test_tensorboard_that_is_not_installed_is_named_with_advice(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"train\.tensorboard.*pip install tensorboard"):
        acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"tensorboard": True}))


def test_half_precision_trains_with_losses_in_single(corpus, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        config = run_config(corpus, tmp_path, model={"dropout": 0.0}, train={"precision": precision})
        torch.manual_seed(1)
        task = acoustic_task.AcousticTask(config)
        loss = task.loss(next(iter(task.batches(task.plan(0), 0))))
        assert loss.dtype == torch.float32
        losses.append(loss.item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    run = make_run(run_config(corpus, tmp_path / "trained", train={"precision": "bf16", "epochs": 1}))
    first = run.network.output.weight.clone()
    with stop_request() as stop:
        run.epoch(stop)
    assert run.network.output.weight.dtype == torch.float32
    assert not torch.equal(first, run.network.output.weight)


def test_the_loss_scale_falls_when_gradients_overflow_and_rises_again(corpus, tmp_path, monkeypatch):
    config = run_config(corpus, tmp_path, model={"dropout": 0.0}, train={"precision": "fp16"})
    reference = make_run(run_config(corpus, tmp_path / "reference", model={"dropout": 0.0}))
    # The network computes in single precision here: what is tested is the scaling around it.
    monkeypatch.setattr(objective, "HALF", {})
    monkeypatch.setattr(loss_scale, "SCALE_UP_STEPS", 3)
    read_later(monkeypatch, 0)  # on a GPU, too
    run = make_run(config)
    batches = list(run.task.batches(run.task.plan(0), 0))
    assert run.progress.loss_scale == LARGEST_SCALE
    run.step(batches[0], 10)
    reference.step(batches[0], 10)
    for value, expected in zip(run.network.parameters(), reference.network.parameters(), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-4)
    with monkeypatch.context() as patch:
        spoil(patch, {1, 2}, "loss")
        before = run.network.output.weight.clone()
        run.step(batches[1], 10)
        run.step(batches[1], 10)
    assert run.progress.loss_scale == LARGEST_SCALE / 4
    assert run.progress.bad_steps == 0
    assert torch.equal(before, run.network.output.weight)
    for _ in range(3):
        run.step(batches[1], 10)
    assert run.progress.loss_scale == LARGEST_SCALE / 2
    assert [line["loss_scale"] for line in read_log(run.checkpoint.parent) if "loss_scale" in line] == [
        LARGEST_SCALE * factor for factor in (0.5, 0.25, 0.5)
    ]
    with monkeypatch.context() as patch:
        spoil(patch, set(range(100)), "loss")
        for _ in range(15 + run.config.train.max_bad_steps - 1):
            run.step(batches[1], 10)
        with pytest.raises(TrainingError, match="steps in a row"):
            run.step(batches[1], 10)
    assert run.progress.loss_scale == 1


def test_a_compiled_network_gives_the_same_loss(corpus, tmp_path, monkeypatch):
    # Traced and called, but not made into machine code, which takes a minute and a C++ compiler.
    compiled, compile_module = [], torch.nn.Module.compile

    def trace_only(module, **kwargs):
        compiled.append(module)
        compile_module(module, backend="eager", **kwargs)

    monkeypatch.setattr(torch.nn.Module, "compile", trace_only)
    losses = []
    for enabled in (False, True):
        config = run_config(corpus, tmp_path, model={"dropout": 0.0}, train={"compile": enabled})
        torch.manual_seed(1)
        task = acoustic_task.AcousticTask(config)
        loss = task.loss(next(iter(task.batches(task.plan(0), 0))))
        loss.backward()
        losses.append((loss.item(), task.network.output.weight.grad))
    assert compiled == [task.model.subsampling, task.model.encoder]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-4)
    torch.testing.assert_close(losses[1][1], losses[0][1], atol=1e-4, rtol=1e-3)
    # Neither the names of the weights nor their copies know of it.
    run = loop.Run(task, config, tmp_path)
    run.save()
    run.writer.wait()
    assert load_tensors(tmp_path / resume.CHECKPOINT)[0].keys() >= {
        f"network/{name}" for name in task.network.state_dict()
    }


def test_norms_and_biases_are_not_decayed(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path))
    decayed, spared = run.optimiser.param_groups
    assert decayed["weight_decay"] > 0 == spared["weight_decay"]
    names = {id(parameter): name for name, parameter in run.network.named_parameters()}
    assert all(names[id(p)].split(".")[-1].startswith("weight") for p in decayed["params"])
    assert any("norm" in names[id(p)] for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_time_spent_waiting_for_batches_is_told(corpus, tmp_path, monkeypatch, capsys):
    run = make_run(run_config(corpus, tmp_path))
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def slow():
        for batch in itertools.islice(run.task.batches(run.task.plan(0), 0), 3):
            now[0] += 2.0
            yield batch

    for _ in run.fetched(slow()):
        now[0] += 1.0  # a step
        run.progress.seconds += 3.0
    run.validate()
    assert "67% of the time waiting for batches" in capsys.readouterr().err
    run.progress.seconds += 3.0
    run.validate()
    assert "waiting for batches" not in capsys.readouterr().err


def test_large_gradients_are_clipped(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path, optim={"clip_norm": 1e-3}))
    run.step(next(run.task.batches(run.task.plan(0), 0)), 10)
    norm = torch.sqrt(sum(p.grad.square().sum() for p in run.network.parameters()))
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    run.results.flush()
    assert run.progress.window[1] > 0.1, "the log must tell the norm before clipping"


@pytest.mark.parametrize("every", [1, 2, 5])
def test_validation_comes_when_asked_and_at_the_end(corpus, tmp_path, every):
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 3, "validate_every_epochs": every}))
    epochs = [line["epoch"] for line in read_log(tmp_path / "run") if "valid_wer" in line]
    assert epochs == {1: [1, 2, 3], 2: [2, 3], 5: [3]}[every]


IMPATIENT = {"epochs": 9, "patience": 2}
STILL = {"learning_rate": 1e-12}
"""A rate at which nothing is learnt: no validation is better than the first."""


def test_a_run_ends_after_so_many_validations_that_brought_nothing(corpus, tmp_path, capsys):
    progress = acoustic_task.train_acoustic(run_config(corpus, tmp_path, train=IMPATIENT, optim=STILL))
    assert [line["epoch"] for line in read_log(tmp_path / "run") if "valid_wer" in line] == [1, 2, 3]
    assert progress.epoch == 3
    assert "train.patience: ended, as 2 validations in a row were not better" in capsys.readouterr().err


def test_a_run_that_gets_better_goes_on_to_its_end(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path, train={"epochs": 6, "patience": 2}))
    wers = iter([0.9, 0.8, 0.85, 0.7, 0.75, 0.6])
    run.task.validate = lambda network: {"wer": next(wers), "cer": 0.5}
    assert run.train().epoch == 6


def test_a_run_that_was_given_up_may_be_trained_on(corpus, tmp_path):
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train=IMPATIENT, optim=STILL))
    on = run_config(corpus, tmp_path, train=IMPATIENT | {"patience": 0}, optim=STILL)
    assert acoustic_task.train_acoustic(on, resume=True).epoch == 9


def test_patience_counts_on_in_a_resumed_run(corpus, tmp_path, monkeypatch):
    config = run_config(corpus, tmp_path, train=IMPATIENT, optim=STILL)
    save = loop.Run.save

    def stop_after_two(run):
        save(run)
        if run.progress.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "overdue", lambda run: True)
        patch.setattr(loop.Run, "save", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            acoustic_task.train_acoustic(config)
    assert acoustic_task.train_acoustic(config, resume=True).epoch == 3


def test_a_run_that_was_given_up_can_be_finished(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train=IMPATIENT, optim=STILL)
    acoustic_task.train_acoustic(config)
    assert acoustic_task.train_acoustic(config, finish=Finish(3, "epochs")).epoch == 6


def test_braces_in_texts_are_characters_and_end_no_training(corpus, tmp_path):
    data = {}
    for name in ("train", "valid"):
        utterances = manifest.read_manifest(corpus / f"{name}.jsonl")
        utterances[0] = dataclasses.replace(utterances[0], text="A { B / C")
        data[name] = str(tmp_path / f"{name}.jsonl")
        manifest.write_manifest(data[name], utterances)
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 1}, data=data))
    assert read_log(tmp_path / "run")[-1]["valid_wer"] > 0


def test_a_worse_validation_does_not_replace_the_model(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path))
    figures = iter([{"wer": 0.5, "cer": 0.2}, {"wer": 0.6, "cer": 0.1}, {"wer": 0.4, "cer": 0.3}])
    kept = []
    run.task.validate = lambda network: next(figures)
    run.task.save_weights = lambda network, figures, progress: kept.append(figures["wer"])
    for _ in range(3):
        run.validate()
    assert kept == [0.5, 0.4]
    assert run.progress.best == 0.4


def test_as_long_as_no_word_is_right_the_characters_choose(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path))
    rates = [(1.0, 0.9), (1.0, 0.7), (0.99, 0.8), (1.02, 0.6), (0.8, 0.9), (0.95, 0.1), (0.8, 0.5)]
    kept = []
    for figures in rates:
        run.task.validate = lambda network, figures=figures: dict(zip(("wer", "cer"), figures, strict=True))
        run.task.save_weights = lambda network, figures, progress: kept.append((figures["wer"], figures["cer"]))
        run.validate()
    # Words decide once there are some; of equal ones the latest is kept.
    assert kept == [(1.0, 0.9), (1.0, 0.7), (1.02, 0.6), (0.8, 0.9), (0.8, 0.5)]
    assert run.progress.best == 0.8


def test_a_model_that_recognises_nothing_yet_is_told_with_what_to_do(corpus, tmp_path, capsys):
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 1}, optim={"learning_rate": 1e-9}))
    assert re.search(r"recognises hardly anything yet \(validation WER \d+ %\).*0\.00 h", capsys.readouterr().err)


def test_the_card_names_the_first_weights_and_keeps_the_name(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"epochs": 1})
    acoustic_task.train_acoustic(config)
    origin = description.load_card(tmp_path / "run")["origin"]
    assert re.fullmatch("[0-9a-f]{16}", origin)
    longer = dataclasses.replace(config.train, epochs=2)
    acoustic_task.train_acoustic(dataclasses.replace(config, train=longer), resume=True)
    card = description.load_card(tmp_path / "run")
    assert (card["training"]["epoch"], card["origin"]) in ((1, origin), (2, origin))
    assert load_metadata(tmp_path / "run" / resume.CHECKPOINT)["origin"] == origin
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 1, "output": str(tmp_path / "other")}))
    assert description.load_card(tmp_path / "other")["origin"] != origin
    tuned = run_config(
        corpus, tmp_path, train={"epochs": 1, "output": str(tmp_path / "on"), "init": str(tmp_path / "run")}
    )
    acoustic_task.train_acoustic(tuned)
    assert description.load_card(tmp_path / "on")["origin"] == origin


def test_a_fine_tuned_model_is_for_the_languages_of_its_source(corpus, tmp_path):
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 1}))
    card = description.load_card(tmp_path / "run")
    assert "languages" not in card
    (tmp_path / "run" / "card.json").write_text(json.dumps(card | {"languages": ["de"]}))
    tuned = run_config(
        corpus, tmp_path, train={"epochs": 1, "output": str(tmp_path / "on"), "init": str(tmp_path / "run")}
    )
    acoustic_task.train_acoustic(tuned)
    assert description.load_card(tmp_path / "on")["languages"] == ["de"]
    longer = dataclasses.replace(tuned.train, epochs=2)
    acoustic_task.train_acoustic(dataclasses.replace(tuned, train=longer), resume=True)
    assert description.load_card(tmp_path / "on")["languages"] == ["de"]


# Resuming


@pytest.fixture(scope="module")
def long_config(corpus, tmp_path_factory):
    """Some 40 steps with everything that has a state: dropout, masks, speeds, average, optimiser."""
    folder = tmp_path_factory.mktemp("long") / "run"
    return make_config(
        corpus,
        data={"batch_s": 1.8},
        model={"dropout": 0.3},
        train={"output": str(folder), "epochs": 3, "ema": 0.9, "checkpoint_every_s": 1e-6},
    )


@pytest.fixture(scope="module")
def uninterrupted(long_config):
    process = start(train_process, long_config)
    process.join(300)
    assert process.exitcode == 0
    return Path(long_config.train.output)


def moved(config, folder):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, output=str(folder)))


def interrupt(process, folder, number, delay_s, name=resume.CHECKPOINT):
    """Send a signal ``delay_s`` after the file ``name`` is next written."""
    path = folder / name
    before = path.stat().st_mtime_ns if path.exists() else None
    while process.is_alive() and (path.stat().st_mtime_ns if path.exists() else None) == before:
        time.sleep(0.001)
    time.sleep(delay_s)
    if process.is_alive():
        os.kill(process.pid, number)
    process.join(300)


def test_sigkill_at_random_moments_and_resume_is_bit_identical(long_config, uninterrupted, tmp_path):
    config = moved(long_config, tmp_path / "run")
    rng = random.Random(0)
    kills = 0
    for _ in range(6):
        process = start(train_process, config, True, 0.02)  # so that it is not done before it is killed
        interrupt(process, tmp_path / "run", signal.SIGKILL, rng.uniform(0, 0.08))
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        load_tensors(tmp_path / "run" / resume.CHECKPOINT)
    assert kills >= 3
    process = start(train_process, config, True)
    process.join(300)
    assert process.exitcode == 0
    assert_same_run(tmp_path / "run", uninterrupted)
    assert not list((tmp_path / "run").glob(".*"))


def test_sigterm_ends_after_a_checkpoint_and_resume_is_bit_identical(long_config, uninterrupted, tmp_path):
    # Only the signal makes a checkpoint before the end here.
    train = dataclasses.replace(long_config.train, output=str(tmp_path / "run"), checkpoint_every_s=1e6)
    config = dataclasses.replace(long_config, train=train)
    process = start(train_process, config, False, 0.5)
    interrupt(process, tmp_path / "run", signal.SIGTERM, 0.25, "log.jsonl")
    assert process.exitcode == 130
    metadata = load_metadata(tmp_path / "run" / resume.CHECKPOINT)
    assert metadata["progress"]["batch"] > 0
    process = start(train_process, config, True)
    process.join(300)
    assert process.exitcode == 0
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("at", [1, 7])
def test_a_signal_is_honoured_between_steps(corpus, tmp_path, monkeypatch, at):
    config = run_config(corpus, tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    take = loop.Run.step

    def step(run, *args):
        if run.progress.step + 1 == at:
            os.kill(os.getpid(), signal.SIGINT)
        return take(run, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "step", step)
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {at}; continue with --resume"):
            acoustic_task.train_acoustic(config)
    assert load_metadata(tmp_path / "run" / resume.CHECKPOINT)["progress"]["step"] == at
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    acoustic_task.train_acoustic(config, resume=True)
    acoustic_task.train_acoustic(moved(config, tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_death_between_validation_and_checkpoint_logs_it_once(corpus, tmp_path, monkeypatch):
    config = run_config(corpus, tmp_path, train={"checkpoint_every_s": 1e-6})
    validate = loop.Run.validate

    def die(run):
        validate(run)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "validate", die)
        with pytest.raises(RuntimeError, match="killed"):
            acoustic_task.train_acoustic(config)
    assert [line["epoch"] for line in read_log(tmp_path / "run") if "valid_wer" in line] == [1]
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"step": 9')
    acoustic_task.train_acoustic(config, resume=True)
    acoustic_task.train_acoustic(moved(config, tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("model", {"hidden": 13}, r"model\.hidden: 12 -> 13"),
        ("features", {"mel_bins": 20}, r"features\.mel_bins: 16 -> 20"),
        ("data", {"batch_s": 2.0}, r"data\.batch_s: 3\.0 -> 2\.0"),
        ("optim", {"betas": [0.5, 0.9]}, r"optim\.betas: \[0\.9, 0\.98\] -> \[0\.5, 0\.9\]"),
        ("train", {"seed": 5, "ema": 0.5}, r"train\.ema: 0\.0 -> 0\.5; train\.seed: 1 -> 5"),
        ("data", {"train": "elsewhere.jsonl"}, r"data\.train: .*-> 'elsewhere\.jsonl'"),
    ],
)
def test_resuming_with_another_configuration_is_refused_by_key(corpus, tmp_path, section, changes, named):
    config = run_config(corpus, tmp_path, train={"epochs": 1})
    folder = tmp_path / "run"
    folder.mkdir()
    metadata = {"progress": {}, "config": loader.to_dict(config)}
    save_tensors(folder / resume.CHECKPOINT, {}, metadata)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    })})  # fmt: skip
    with pytest.raises(TrainingError, match=f"another configuration .*{named}"):
        acoustic_task.train_acoustic(other, resume=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_resuming_says_that_the_data_has_changed(corpus, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path / "corpus")
    config = run_config(tmp_path / "corpus", tmp_path, train={"epochs": 2})
    path = tmp_path / "corpus" / "train.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    acoustic_task.train_acoustic(config)
    acoustic_task.train_acoustic(config, resume=True)
    assert "has changed" not in capsys.readouterr().err
    path.write_text("".join(lines[:-2]))
    acoustic_task.train_acoustic(config, resume=True)
    assert f"{path} has changed since {tmp_path / 'run'}" in capsys.readouterr().err


def test_a_run_may_be_moved_and_resumed_with_other_threads(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"epochs": 1})
    acoustic_task.train_acoustic(config)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    changed = dataclasses.replace(
        moved(config, tmp_path / "moved"), data=dataclasses.replace(config.data, prefetch=5, cache_s=1.0)
    )
    assert acoustic_task.train_acoustic(changed, resume=True).epoch == 1


def test_a_folder_with_a_run_or_a_model_is_not_trained_over(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"epochs": 1})
    acoustic_task.train_acoustic(config)
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match="run: holds a training run; continue it with --resume"):
        acoustic_task.train_acoustic(config)
    for name in (resume.CHECKPOINT, resume.PREVIOUS):
        (folder / name).unlink(missing_ok=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TrainingError, match="run: holds a training run"):
        acoustic_task.train_acoustic(config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # A run that died between its first model and its first checkpoint starts again.
    acoustic_task.train_acoustic(config, resume=True)
    acoustic_task.train_acoustic(moved(config, tmp_path / "whole"))
    assert_same_run(folder, tmp_path / "whole")


def test_a_run_goes_on_for_more_epochs_by_the_longer_schedule(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"epochs": 2})
    acoustic_task.train_acoustic(config)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=4))
    progress = acoustic_task.train_acoustic(longer, resume=True)
    assert progress.epoch == 4
    assert load_config(tmp_path / "run" / "config.yaml").train.epochs == 4
    rates = {line["step"]: line["learning_rate"] for line in read_log(tmp_path / "run") if "learning_rate" in line}
    sizes = [len(acoustic_task.AcousticTask(longer).plan(epoch)) for epoch in range(4)]
    assert sum(sizes) == progress.step
    assert max(rates) > sum(sizes[:2])
    done = [epoch + batch / size for epoch, size in enumerate(sizes) for batch in range(size)]
    for step, rate in rates.items():
        epochs = 2 if step <= sum(sizes[:2]) else 4
        assert rate == pytest.approx(learning_rate(done[step - 1] / epochs, config.optim))
    shorter = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=3))
    with pytest.raises(TrainingError, match=r"train\.epochs: 4 -> 3.*give train\.epochs=4 again"):
        acoustic_task.train_acoustic(shorter, resume=True)


def test_the_checkpoint_before_the_last_is_kept_without_being_written_again(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path))
    run.save()
    run.writer.wait()
    first = run.checkpoint.read_bytes()
    inode = run.checkpoint.stat().st_ino
    run.progress.step = 3
    run.save()
    run.writer.wait()
    previous = run.checkpoint.with_name(resume.PREVIOUS)
    assert previous.read_bytes() == first
    assert previous.stat().st_ino == inode
    run.save()
    run.writer.wait()
    assert load_metadata(previous)["progress"]["step"] == 3


def test_a_file_system_without_links_keeps_one_checkpoint(corpus, tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = make_run(run_config(corpus, tmp_path))
    run.save()
    run.save()
    run.load()
    assert not run.checkpoint.with_name(resume.PREVIOUS).exists()


def test_the_older_checkpoint_is_offered_and_goes_on_exactly(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"epochs": 3, "checkpoint_every_s": 1e-6})
    acoustic_task.train_acoustic(config)
    path = tmp_path / "run" / resume.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"whole \(step \d+, in epoch 3\): mv \S+previous\S+ \S+ then") as caught:
        acoustic_task.train_acoustic(config, resume=True)
    _, source, target = re.search(r"mv \S+ \S+", str(caught.value))[0].rstrip(",").split()
    shutil.move(source, target)
    acoustic_task.train_acoustic(config, resume=True)
    acoustic_task.train_acoustic(moved(config, tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_whose_checkpoint_is_gone_is_not_begun_anew_while_there_is_an_older_one(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"epochs": 2, "checkpoint_every_s": 1e-6})
    acoustic_task.train_acoustic(config)
    (tmp_path / "run" / resume.CHECKPOINT).unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors: cannot continue from it: no such file\. .*mv "):
        acoustic_task.train_acoustic(config, resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


DAMAGE = {
    "shape of a moment": lambda t, m: t.update({"optimiser/0/exp_avg": torch.zeros(3)}),
    "type of a moment": lambda t, m: t.update({"optimiser/0/exp_avg": t["optimiser/0/exp_avg"].to(torch.int8)}),
    "missing moment": lambda t, m: t.pop("optimiser/1/exp_avg_sq"),
    "moment below zero": lambda t, m: t["optimiser/1/exp_avg_sq"].sub_(1),
    "moment of no parameter": lambda t, m: t.update({"optimiser/999/step": torch.tensor(1.0)}),
    "index that is none": lambda t, m: t.update({"optimiser/x/step": torch.tensor(1.0)}),
    "steps of the optimiser": lambda t, m: t["optimiser/0/step"].fill_(1e9),
    "steps as a vector": lambda t, m: t.update({"optimiser/0/step": torch.zeros(2)}),
    "type of a weight": lambda t, m: t.update({"network/output.bias": t["network/output.bias"].double()}),
    "missing weight": lambda t, m: t.pop("network/output.bias"),
    "part that is none": lambda t, m: t.update({"what": torch.zeros(1)}),
    "random state": lambda t, m: t.update({"rng/0/cpu": torch.zeros(3, dtype=torch.uint8)}),
    "type of the random state": lambda t, m: t.update({"rng/0/cpu": t["rng/0/cpu"].float()}),
    "no progress": lambda t, m: m.update(progress=None),
    "step as text": lambda t, m: m["progress"].update(step="7"),
    "epoch below zero": lambda t, m: m["progress"].update(epoch=-1),
    "epoch beyond the last": lambda t, m: m["progress"].update(epoch=9),
    "best that is no number": lambda t, m: m["progress"].update(best=math.nan),
    "window": lambda t, m: m["progress"].update(window=[1.0]),
    "unknown progress": lambda t, m: m["progress"].update(more=1),
    "configuration": lambda t, m: m.update(config=[1]),
    "data": lambda t, m: m.update(data=3),
}


@pytest.fixture(scope="module")
def two_epochs(corpus, tmp_path_factory):
    train = {"output": str(tmp_path_factory.mktemp("two") / "run"), "epochs": 2, "checkpoint_every_s": 1e-6}
    config = make_config(corpus, train=train)
    acoustic_task.train_acoustic(config)
    return config


@pytest.mark.parametrize("what", DAMAGE)
def test_whatever_is_wrong_in_a_checkpoint_is_named_before_it_is_used(two_epochs, tmp_path, what):
    shutil.copytree(two_epochs.train.output, tmp_path / "run")
    path = tmp_path / "run" / resume.CHECKPOINT
    tensors, metadata = load_tensors(path)
    DAMAGE[what](tensors, metadata)
    save_tensors(path, tensors, metadata)
    with pytest.raises(ModelError, match=r"run/checkpoint\.safetensors: cannot continue from it: .*previous"):
        acoustic_task.train_acoustic(moved(two_epochs, tmp_path / "run"), resume=True)


def test_no_damage_to_a_checkpoint_or_a_log_ends_in_a_traceback(two_epochs, tmp_path):
    shutil.copytree(two_epochs.train.output, tmp_path / "run")
    config = moved(two_epochs, tmp_path / "run")
    task = acoustic_task.AcousticTask(config)
    batch = next(iter(task.batches(task.plan(0), 0)))
    paths = [tmp_path / "run" / name for name in (resume.CHECKPOINT, "log.jsonl")]
    whole = [path.read_bytes() for path in paths]
    rng, refused = random.Random(3), 0
    for number in range(200):
        which = number % 2
        data = mutants.mutant(whole[1], rng, 10**6) if which else mutants.mutant_tensors(whole[0], rng)
        paths[which].write_bytes(data)
        try:
            resume.check_folder(tmp_path / "run", config, resume=True)
            run = loop.Run(task, config, tmp_path / "run")
            run.load()
            run.log.rewind(run.progress.step, run.progress.epoch)
            run.step(batch, 10)  # what was let through does not end the process
        except AsrError:
            refused += 1
        for path, content in zip(paths, whole, strict=True):
            path.write_bytes(content)
    assert 30 < refused < 150


def test_damaged_lines_of_a_log_are_left_out_with_a_warning(two_epochs, tmp_path, capsys):
    shutil.copytree(two_epochs.train.output, tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    before = log.read_bytes()
    deep = b'{"step": ' + b"[" * 100_000
    bad = [b"\xff\xfe", b'{"epoch": 1}', b"[1]", b'{"step": null, "epoch": 0}', b'{"step": 1e999, "epoch": []}', deep]
    log.write_bytes(b"\n".join(bad) + b"\n" + before)
    acoustic_task.train_acoustic(moved(two_epochs, tmp_path / "run"), resume=True)
    assert log.read_bytes() == before
    assert "log.jsonl: 6 damaged lines left out" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "no checkpoint"])
def test_a_damaged_checkpoint_is_named(corpus, tmp_path, damage):
    config = run_config(corpus, tmp_path, train={"epochs": 1})
    acoustic_task.train_acoustic(config)
    path = tmp_path / "run" / resume.CHECKPOINT
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save_tensors(path, {"x": torch.zeros(1)})
    with pytest.raises((ModelError, TrainingError), match=r"checkpoint\.safetensors"):
        acoustic_task.train_acoustic(config, resume=True)


def test_resuming_keeps_the_token_ids_of_the_run(corpus, tmp_path):
    utterances = manifest.read_manifest(corpus / "train.jsonl")
    path = tmp_path / "train.jsonl"
    manifest.write_manifest(path, utterances)
    config = run_config(corpus, tmp_path, data={"train": str(path)}, train={"epochs": 2})
    run = make_run(config)
    run.save()
    run.writer.wait()
    manifest.write_manifest(path, [dataclasses.replace(u, text=u.text.replace("A", "X")) for u in utterances])
    with pytest.raises(TextError, match=r"utterance train\d+: 'X'"):
        acoustic_task.train_acoustic(config, resume=True)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_keeps_the_last(corpus, tmp_path, monkeypatch):
    config = run_config(corpus, tmp_path, train={"checkpoint_every_s": 1e-6}, data={"rehearsal_s": 0.0})
    save, calls = safetensors.torch.save_file, []

    def full_from_the_fourth_on(*args, **kwargs):
        calls.append(args)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full_from_the_fourth_on)
        with pytest.raises(ModelError, match=r"checkpoint\.safetensors: cannot write: .*No space left"):
            acoustic_task.train_acoustic(config)
    assert load_metadata(tmp_path / "run" / resume.CHECKPOINT)["progress"]["step"] == 3
    acoustic_task.train_acoustic(config, resume=True)
    acoustic_task.train_acoustic(moved(config, tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_stop_whose_checkpoint_cannot_be_written_promises_no_resume(corpus, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    step = loop.Run.step

    def stopped(run, *args):
        signal.raise_signal(signal.SIGTERM)
        return step(run, *args)

    monkeypatch.setattr(loop.Run, "step", stopped)
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors: cannot write: .*No space left"):
        acoustic_task.train_acoustic(run_config(corpus, tmp_path, data={"rehearsal_s": 0.0}))


def test_a_checkpoint_that_fails_beside_another_error_is_told(tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise ModelError("checkpoint.safetensors: cannot write: No space left")

    monkeypatch.setattr(checkpoint_writer, "save_tensors", full)

    def train():
        with checkpoint_writer.CheckpointWriter() as writer:
            writer.write(tmp_path / "c", {}, {}, keep=tmp_path / "p")
            raise TrainingError("the first")

    with pytest.raises(TrainingError, match="the first"):
        train()
    assert "warning: the last checkpoint was not written: checkpoint.safetensors: cannot" in capsys.readouterr().err


def test_a_folder_that_turned_read_only_is_a_clear_error(corpus, tmp_path, monkeypatch):
    run = make_run(run_config(corpus, tmp_path))
    run.progress.step = 1
    run.write(loss=1.0)
    run.save()
    run.writer.wait()
    folder = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("write_text", "write_bytes", "touch", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(TrainingError, match=r"log\.jsonl: cannot write: .*Permission denied"):
        acoustic_task.train_acoustic(run.config, resume=True)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_holds_the_moment_it_was_asked_for(corpus, tmp_path, monkeypatch):
    """The steps that are taken while it is written are not in it."""
    run = make_run(run_config(corpus, tmp_path, train={"ema": 0.9}))
    batches = list(run.task.batches(run.task.plan(0), 0))
    run.step(batches[0], 10)
    weights = {name: value.clone() for name, value in run.network.state_dict().items()}
    average = {name: value.clone() for name, value in run.average.network.state_dict().items()}
    write, go_on = checkpoint_writer.save_tensors, threading.Event()

    def late(*args, **kwargs):
        assert go_on.wait(300)
        write(*args, **kwargs)

    monkeypatch.setattr(checkpoint_writer, "save_tensors", late)
    run.save()
    run.step(batches[1], 10)
    assert not run.checkpoint.exists()
    go_on.set()
    run.writer.wait()
    tensors, metadata = load_tensors(run.checkpoint)
    assert metadata["progress"]["step"] == 1
    assert all(torch.equal(tensors[f"network/{name}"], value) for name, value in weights.items())
    assert all(torch.equal(tensors[f"average/{name}"], value) for name, value in average.items())
    assert all(tensors[name] == 1 for name in tensors if name.endswith("/step"))
    assert not torch.equal(run.network.output.weight, weights["output.weight"])


@pytest.mark.parametrize(("every_s", "steps"), [(1e6, 1), (1e-6, None)])
def test_checkpoints_come_by_time_and_at_the_end(corpus, tmp_path, monkeypatch, every_s, steps):
    saved = []
    save = loop.Run.save
    monkeypatch.setattr(loop.Run, "save", lambda run: saved.append(run.progress.step) or save(run))
    progress = acoustic_task.train_acoustic(
        run_config(corpus, tmp_path, train={"epochs": 3, "checkpoint_every_s": every_s})
    )
    assert saved[-1] == progress.step
    assert len(set(saved)) == (steps or progress.step)


# Waiting for the device

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}
"""Operators for whose result the host waits."""


class Waits(TorchDispatchMode):
    """Counts operators that make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name in WAITING:
            self.seen.append(function._schema.name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("step", [3, 10])
def test_a_step_reads_nothing_from_the_device(corpus, tmp_path, monkeypatch, precision, step):
    """With all that a step can do: colours, two views, smoothing, averages, a log line at step 10."""
    read_later(monkeypatch, 20)
    config = run_config(
        corpus,
        tmp_path,
        augment={"warp": 0.1, "tilt_db": 3.0},
        model={"layers": 2, "intermediate_ctc": 0.0 if precision == "fp16" else 0.3},
        optim={"label_smoothing": 0.05},
        train={"ema": 0.9, "consistency": 0.2, "precision": precision},
    )
    if precision == "fp16":  # not every CPU computes in it
        monkeypatch.setattr(objective, "HALF", {})
    run = make_run(config)
    run.network.train()
    batches = list(run.task.batches(run.task.plan(0), 0))
    run.task.audio_s = lambda batch: 1.0  # adds up lengths, which never leave the CPU
    run.step(batches[0], 10)  # makes the optimiser's state
    run.progress.step = step - 1
    with Waits() as waits:
        run.step(batches[1], 10)
    assert waits.seen == []
    with Waits() as control:
        run.task.loss(batches[1]).item()
    assert control.seen == ["aten::_local_scalar_dense"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which alone can tell that it was waited for")
def test_a_step_on_a_gpu_waits_inside_ctc_only(corpus, tmp_path):
    run = make_run(run_config(corpus, tmp_path, train={"ema": 0.9, "device": "cuda"}))
    batches = list(run.task.batches(run.task.plan(0), 0))
    run.network.train()
    for _ in range(2):
        run.step(batches[0], 10)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run.step(batches[0], 10)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = {f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)}
    assert {place.partition(":")[0] for place in places} <= {"losses.py", "functional.py", "graph.py"}, places


# Steps that cannot be taken


def spoil(monkeypatch, which, how):
    """Make the losses of the steps in ``which`` (from 1) useless."""
    loss, count = acoustic_task.AcousticTask.loss, itertools.count(1)

    def spoilt(task, batch):
        value = loss(task, batch)
        if next(count) not in which:
            return value
        if how == "loss":
            return value * math.nan
        # A finite loss with an infinite gradient.
        weight = next(task.network.parameters()).flatten()[0]
        return value + torch.sqrt((weight - weight.detach()).abs())

    monkeypatch.setattr(acoustic_task.AcousticTask, "loss", spoilt)


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(params=["loss", "gradient"])
def spoilt_run(corpus, tmp_path, monkeypatch, request):
    """A run whose second step is not finite, behind its first step, and its batches."""
    run = make_run(run_config(corpus, tmp_path, train={"ema": 0.9}))
    spoil(monkeypatch, {2}, request.param)
    batches = list(run.task.batches(run.task.plan(0), 0))
    run.step(batches[0], 10)
    return run, batches


def test_a_step_that_is_not_finite_changes_nothing(spoilt_run):
    run, batches = spoilt_run
    before, average = weights(run.network), weights(run.average.network)
    run.step(batches[1], 10)
    assert run.progress.bad_steps == 1
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    assert all(torch.equal(value, average[name]) for name, value in run.average.network.state_dict().items())


def test_training_goes_on_behind_a_step_that_is_not_finite(spoilt_run):
    run, batches = spoilt_run
    before = weights(run.network)
    run.step(batches[1], 10)
    run.step(batches[2], 10)
    assert (run.progress.bad_steps, run.progress.step) == (0, 3)
    assert any(not torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    assert all(value.isfinite().all() for value in run.network.state_dict().values())


def test_a_step_that_is_not_finite_is_named(spoilt_run, capsys):
    run, batches = spoilt_run
    run.step(batches[1], 10)
    run.step(batches[2], 10)
    (line,) = [line for line in read_log(run.checkpoint.parent) if "skipped" in line]
    assert (line["skipped"], line["step"]) == (list(batches[1].ids), 2)
    error = capsys.readouterr().err
    assert "not finite" in error
    assert all(name in error for name in batches[1].ids)


def test_too_many_such_steps_in_a_row_stop_training(corpus, tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 3, 5, 6, 7}, "loss")
    config = run_config(corpus, tmp_path, train={"max_bad_steps": 3})
    with pytest.raises(TrainingError, match=r"step 7: loss nan.*batch of train\d+.*stopped after 3") as caught:
        acoustic_task.train_acoustic(config)
    skipped = [line for line in read_log(tmp_path / "run") if "skipped" in line]
    assert [line["step"] for line in skipped] == [2, 3, 5, 6, 7]
    assert all(name in str(caught.value) for name in skipped[-1]["skipped"])


def read_later(monkeypatch, lag):
    """Have the figures of steps read ``lag`` steps later, as on a GPU."""
    monkeypatch.setattr(step_results.StepResults, "of", classmethod(lambda cls, device: cls(lag)))


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_whose_figures_are_read_later_is_the_same_run(corpus, tmp_path, monkeypatch, how, precision):
    """Weights, averages, logs and checkpoints, with steps that are skipped and a loss scale that falls."""
    monkeypatch.setattr(objective, "HALF", {})  # the scale, not the precision
    monkeypatch.setattr(loss_scale, "LARGEST_SCALE", 4.0)
    monkeypatch.setattr(steps, "LARGEST_SCALE", 4.0)
    for name, lag in (("now", 0), ("later", 5)):
        with monkeypatch.context() as patch:
            read_later(patch, lag)
            spoil(patch, {2, 3, 4, 9, 13}, how)
            train = {"ema": 0.9, "epochs": 3, "precision": precision, "output": str(tmp_path / name)}
            acoustic_task.train_acoustic(run_config(corpus, tmp_path, train=train, data={"batch_s": 1.8}))
    assert_same_run(tmp_path / "later", tmp_path / "now")
    log = read_log(tmp_path / "later")
    skipped = [line["step"] for line in log if "skipped" in line]
    assert skipped == ([2, 3, 4, 9, 13] if precision == "fp32" else [4, 9, 13])
    assert sum("loss_scale" in line for line in log) == (0 if precision == "fp32" else 2)


def test_bad_steps_that_are_read_later_still_stop_training(corpus, tmp_path, monkeypatch):
    read_later(monkeypatch, 3)
    spoil(monkeypatch, {2, 3, 5, 6, 7}, "loss")
    run = make_run(run_config(corpus, tmp_path, train={"max_bad_steps": 3}))
    batches = list(run.task.batches(run.task.plan(0), 0))
    for number in range(7 + 3 - 1):
        run.step(batches[number % len(batches)], 10)
    with pytest.raises(TrainingError, match=r"step 7: loss nan.*batch of train\d+.*stopped after 3"):
        run.step(batches[0], 10)


def test_a_checkpoint_between_late_readings_goes_on_exactly(corpus, tmp_path, monkeypatch):
    read_later(monkeypatch, 4)
    for name in ("whole", "run"):
        run = make_run(run_config(corpus, tmp_path, train={"output": str(tmp_path / name), "ema": 0.9}))
        batches = list(run.task.batches(run.task.plan(0), 0))
        for number in range(13):
            if name == "run" and number == 7:
                run.save()
                run = make_run(run.config)
                run.load()
            run.step(batches[number % len(batches)], 20)
        run.save()
        run.writer.wait()
    ours, theirs = (load_tensors(tmp_path / name / resume.CHECKPOINT) for name in ("run", "whole"))
    assert [n for n, value in ours[0].items() if n[:3] != "rng" and not torch.equal(value, theirs[0][n])] == []
    assert ours[1]["progress"] == theirs[1]["progress"]
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")


def test_audio_that_vanishes_stops_training(corpus, tmp_path, monkeypatch, capsys):
    def unreadable(maker, item, place):
        raise errors.AudioError("the disk is gone")

    config = run_config(corpus, tmp_path, train={"max_bad_steps": 2})
    run = make_run(config)
    monkeypatch.setattr(BatchMaker, "read", unreadable)
    with pytest.raises(TrainingError, match="none of the batch's audio could be read; stopped after 2"):
        run.train()
    assert "the disk is gone" in capsys.readouterr().err


# Bad input


def copy_corpus(corpus, tmp_path, change):
    """Manifests with ``change(utterances)`` applied to the training set; returns the configuration."""
    manifest.write_manifest(tmp_path / "train.jsonl", change(manifest.read_manifest(corpus / "train.jsonl")))
    return run_config(corpus, tmp_path, data={"train": str(tmp_path / "train.jsonl")}, train={"epochs": 1})


def test_unreadable_files_are_named_and_the_rest_is_trained_on(corpus, tmp_path, capsys):
    (tmp_path / "noise.wav").write_bytes(b"RIFF, but not really")
    samples = np.full(RATE_HZ, np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", samples, RATE_HZ, subtype="FLOAT")
    bad = {"train2": "noise.wav", "train5": "nan.wav", "train7": "missing.wav"}

    def change(utterances):
        return [
            dataclasses.replace(u, audio=str(tmp_path / bad[u.id])) if u.id in bad else u for u in utterances
        ]  # fmt: skip

    acoustic_task.train_acoustic(copy_corpus(corpus, tmp_path, change))
    error = capsys.readouterr().err
    for name, file in bad.items():
        assert any(name in line and file in line for line in error.splitlines())
    assert "3 utterances left out, 21 used" in error
    assert description.load_card(tmp_path / "run")["training_data"]["left_out"] == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_only_the_first_audio_is_checked_before_the_first_step(corpus, tmp_path, monkeypatch, capsys, workers):
    monkeypatch.setattr(acoustic_task, "CHECKED_S", 1.0)
    used = manifest.read_manifest(corpus / "train.jsonl")
    first, last = used[0].id, used[-1].id

    def change(utterances):
        return [
            dataclasses.replace(u, audio=str(tmp_path / "missing.wav")) if u.id in (first, last) else u
            for u in utterances
        ]

    config = copy_corpus(corpus, tmp_path, change)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
    acoustic_task.train_acoustic(config)
    error = capsys.readouterr().err
    assert "1 utterances left out, 23 used" in error
    assert f"{last}: left out of this batch" in error
    assert f"{first}: left out of this batch" not in error
    assert description.load_card(tmp_path / "run")["training_data"]["left_out"] == 1


def test_of_many_utterances_left_out_ten_are_named_and_all_counted(corpus, tmp_path, capsys):
    def change(utterances):
        return [*utterances, *(dataclasses.replace(u, id=f"gone{u.id}", audio="gone.wav") for u in utterances[:12])]

    acoustic_task.train_acoustic(copy_corpus(corpus, tmp_path, change))
    error = capsys.readouterr().err
    assert error.count(": left out: ") == 10
    assert "12 utterances left out, 24 used; asr check lists all" in error


def test_labels_that_cannot_fit_are_named_before_training(corpus, tmp_path, capsys):
    def change(utterances):
        (folder := tmp_path / "wav").mkdir()
        soundfile.write(folder / "short.wav", tones("A"), RATE_HZ)
        soundfile.write(folder / "shorter.wav", tones("A")[:100], RATE_HZ)
        return [
            *utterances,
            manifest.Utterance("tight", str(folder / "short.wav"), "ABC" * 20, 0.2),
            manifest.Utterance("liar", str(folder / "short.wav"), "ABC" * 20, 20.0),
            manifest.Utterance("blip", str(folder / "shorter.wav"), "", 100 / RATE_HZ),
        ]

    acoustic_task.train_acoustic(copy_corpus(corpus, tmp_path, change))
    error = capsys.readouterr().err
    assert "tight: left out: its label needs 60 frames" in error
    assert "liar: left out: its label needs 60 frames" in error
    assert "blip: left out: its 0.013 s are shorter than one window" in error
    assert "3 utterances left out, 24 used" in error
    assert error.index("3 utterances left out") < error.index("epoch 1/1")


def test_an_unknown_character_in_validation_names_its_utterance(corpus, tmp_path):
    utterances = manifest.read_manifest(corpus / "valid.jsonl")
    manifest.write_manifest(
        tmp_path / "valid.jsonl", [*utterances[:-1], dataclasses.replace(utterances[-1], text="A É")]
    )
    config = run_config(corpus, tmp_path, data={"valid": str(tmp_path / "valid.jsonl")})
    with pytest.raises(TextError, match=f"utterance {utterances[-1].id}: 'É'"):
        acoustic_task.train_acoustic(config)
    assert not (tmp_path / "run").exists()


def test_what_the_manifest_alone_tells_is_warned_of(corpus, tmp_path, capsys):
    def change(utterances):
        odd = dataclasses.replace(utterances[0], id="odd", text=utterances[0].text + " A")
        rushed = dataclasses.replace(utterances[1], id="rushed", text="ABCABCABCABCABC", start_s=0.1, duration_s=0.8)
        return [*utterances, odd, rushed]

    acoustic_task.train_acoustic(copy_corpus(corpus, tmp_path, change))
    error = capsys.readouterr().err
    assert "same audio, different text: 1, such as odd: the same samples as line 1" in error
    assert "outlying speaking rates: 1, such as rushed: 18.8 characters per second" in error
    assert "asr check" in error


def test_shared_speakers_are_warned_of(corpus, tmp_path, capsys):
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 1}))
    assert "speakers" not in capsys.readouterr().err

    def change(utterances):
        return [dataclasses.replace(u, speaker="valid-1") if u.speaker == "train-1" else u for u in utterances]

    config = copy_corpus(corpus, tmp_path, change)
    acoustic_task.train_acoustic(moved(config, tmp_path / "shared"))
    assert "1 speakers are in both training and validation data, such as valid-1" in capsys.readouterr().err


def test_no_usable_utterance_is_an_error_that_names_manifest_and_reason(corpus, tmp_path):
    def change(utterances):
        return [dataclasses.replace(u, audio=str(tmp_path / "gone.wav")) for u in utterances]

    config = copy_corpus(corpus, tmp_path, change)
    with pytest.raises(TrainingError, match=r"train\.jsonl: no usable utterance.*train0: .*gone\.wav"):
        acoustic_task.train_acoustic(config)
    uncached = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_s=0.0))
    with pytest.raises(TrainingError, match=r"train\.jsonl"):
        acoustic_task.train_acoustic(uncached)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"train": ""}, ConfigError, r"data\.train: expected the path of a manifest"),
        ({"train": "nowhere.jsonl"}, ManifestError, r"nowhere\.jsonl"),
        ({"train": "empty.jsonl"}, ManifestError, r"empty\.jsonl: expected one JSON object a line, got no utterance"),
    ],
)
def test_missing_manifests_are_named(corpus, tmp_path, monkeypatch, data, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(error, match=message):
        acoustic_task.train_acoustic(run_config(corpus, tmp_path, data=data))
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_a_clear_error(corpus, tmp_path):
    for device in ("tpu", "cuda:99", "meta"):
        with pytest.raises(ConfigError, match=device):
            acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"device": device}))


def test_the_command_line_trains_refuses_and_resumes(corpus, tmp_path, capsys):
    path = tmp_path / "conf.yaml"
    path.write_text(loader.dumps(run_config(corpus, tmp_path)))
    assert main.run_command(["train", str(path), "train.epochs=1", "model.hidden=8"]) == 0
    assert model_directory.load_model(tmp_path / "run").config.model.hidden == 8
    assert main.run_command(["train", str(path), "train.epochs=1", "model.hidden=8"]) == 2
    assert "error: " in capsys.readouterr().err
    assert main.run_command(["train", str(path), "--resume", "train.epochs=1"]) == 2
    assert "model.hidden: 8 -> 12" in capsys.readouterr().err
    assert main.run_command(["train", str(path), "--resume", "train.epochs=1", "model.hidden=8"]) == 0


def test_differences_lists_nested_keys_and_skips_those_that_do_not_matter():
    old = {"a": {"b": 1, "c": {"d": 2}}, "train": {"threads": 1, "output": "x"}, "gone": 1}
    new = {"a": {"b": 1, "c": {"d": 3}}, "train": {"threads": 2, "output": "y"}, "added": None, "extra": 5}
    assert resume.config_differences(old, new) == ["a.c.d: 2 -> 3", "extra: None -> 5", "gone: 1 -> None"]


def test_the_errors_are_of_this_package():
    assert issubclass(TrainingError, AsrError)


def test_two_trainings_in_one_run_directory_are_refused(corpus, tmp_path):
    """While one trains; and not for ever: a killed one does not leave a lock behind."""
    config = run_config(corpus, tmp_path, train={"epochs": 30})
    first = start(train_process, config, False, 0.2)
    while not (tmp_path / "run" / "log.jsonl").exists() and first.is_alive():
        time.sleep(0.05)
    assert first.is_alive()
    with pytest.raises(TrainingError, match=r"run: (another process is training in it|holds a training run)"):
        acoustic_task.train_acoustic(config)
    with pytest.raises(TrainingError, match="run: another process is training in it"):
        acoustic_task.train_acoustic(config, resume=True)
    first.kill()
    first.join()
    with alone(tmp_path / "run"):
        pass


def test_a_second_training_changes_nothing_in_the_folder_of_the_first(corpus, tmp_path):
    config = run_config(corpus, tmp_path, train={"epochs": 1})
    other = run_config(corpus, tmp_path, train={"epochs": 1}, features={"mel_bins": 20})
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        model_directory.save_config(tmp_path / "run", config)  # the first has got no further
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        message = rf"run: another process is training in it \(process {os.getpid()} on .*, started 2\d\d\d-"
        for resumed in (False, True):
            with pytest.raises(TrainingError, match=message):
                acoustic_task.train_acoustic(other, resume=resumed)
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_folder_with_files_of_others_is_not_trained_in(corpus, tmp_path, monkeypatch, resumed):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    names = [".notes.tmp", ".tmpnotes", "thesis.txt"]
    for name in names:
        Path(name).write_text("mine")
    config = run_config(corpus, tmp_path, train={"output": "."})
    with pytest.raises(TrainingError, match=r"\.: expected a new or an empty folder.*\.notes\.tmp and 2 more"):
        acoustic_task.train_acoustic(config, resume=resumed)
    assert sorted(os.listdir()) == names


def test_a_model_of_another_program_is_not_trained_over(corpus, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "tokens.txt", "model.onnx"):
        (folder / name).write_text("theirs")
    with pytest.raises(TrainingError, match=r"expected a new or an empty folder.*\(model\.onnx\)"):
        acoustic_task.train_acoustic(run_config(corpus, tmp_path))
    (folder / "model.onnx").unlink()  # what is left is all that a training of ours may have left
    (folder / ".asr-part-x").mkdir()
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 1}))


def test_what_an_early_death_leaves_is_trained_in_and_hidden_files_stay(corpus, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).write_text("process 1 on elsewhere")
    (folder / ".tmpnotes").write_text("mine")
    acoustic_task.train_acoustic(run_config(corpus, tmp_path, train={"epochs": 1}))
    assert (folder / ".tmpnotes").read_text() == "mine"
    assert not (folder / LOCK).exists()


def test_several_manifests_are_one_training_set(corpus, tmp_path):
    lines = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("first", lines[:10]), ("second", lines[10:])):
        (corpus / f"{name}.jsonl").write_text("".join(part))
    acoustic_task.train_acoustic(run_config(corpus, tmp_path / "one", train={"epochs": 1}))
    parts = {"train": str(corpus / "first.jsonl"), "more": [str(corpus / "second.jsonl")]}
    acoustic_task.train_acoustic(run_config(corpus, tmp_path / "two", train={"epochs": 1}, data=parts))
    assert_same_run(tmp_path / "two" / "run", tmp_path / "one" / "run")
    twice = {**parts, "more": [str(corpus / "second.jsonl"), str(corpus / "train.jsonl")]}
    with pytest.raises(ManifestError, match=r"train\.jsonl: id '.*' is also in .*first\.jsonl"):
        acoustic_task.train_acoustic(run_config(corpus, tmp_path / "three", data=twice))


# Memory

SHAPES = """
import ctypes, random, sys
from asr.train import process
try:
    libc = ctypes.CDLL("libc.so.6")
except OSError:  # another C library
    sys.exit(77)
if not hasattr(libc, "mallinfo2"):
    sys.exit(77)
process.keep_freed_memory()
import torch

class Mallinfo(ctypes.Structure):
    _fields_ = [(str(i), ctypes.c_size_t) for i in range(10)]

libc.mallinfo2.restype = Mallinfo
torch.set_num_threads(1)
rng = random.Random(0)
lstm = torch.nn.LSTM(32, 64, 2, batch_first=True)
for step in range(60):
    rows = rng.randrange(4, 64)
    lstm(torch.randn(rows, rng.randrange(3000, 4000) // rows, 32))[0].square().mean().backward()
    if step in (19, 59):
        print(getattr(libc.mallinfo2(), "0"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap of glibc")
def test_the_heap_does_not_grow_with_every_new_shape():
    """With oneDNN's cache of primitives it doubles between the two."""
    environment = {k: v for k, v in os.environ.items() if "PRIMITIVE_CACHE" not in k}
    done = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 77:
        pytest.skip("no glibc, or one before 2.33, which does not tell the size of its heap")
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    assert late < 1.3 * early
