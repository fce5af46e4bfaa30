"""Schedules by epochs and by the clock, and decays on request."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import make_config, make_corpus, make_utterances

from asr.cli import main, training_verbs
from asr.config import loader
from asr.config.sections import Config
from asr.config.training_sections import OptimConfig, TrainConfig
from asr.data.manifest import write_manifest
from asr.errors import ConfigError, TrainingError
from asr.models import model_directory
from asr.models.tensors import load_metadata, load_tensors
from asr.train import acoustic_task, loop, resume
from asr.train.schedule import Finish, Schedule, learning_rate


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=4)
    write_manifest(folder / "made.jsonl", make_utterances(folder, 24, "made", seed=5))
    return folder


class Clock:
    """A clock that goes on by ``step_s`` with each training step and stands still else."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now = step_s, 100.0

    def __call__(self) -> float:
        return self.now


def train(config: Config, clock: Clock, *, finish: Finish | None = None, stop_after: int = 0):
    """``train_acoustic`` with a clock, stopped with a checkpoint after so many steps."""
    torch.manual_seed(config.train.seed)
    folder = Path(config.train.output)
    resuming = finish is not None or (folder / resume.CHECKPOINT).exists()
    with loop.hold(folder, config, resume=resuming):
        task = acoustic_task.AcousticTask(config)
        if not task.resuming:
            model_directory.save_model_description(folder, config, task.tokenizer, task.stats)
        audio_s, count = task.audio_s, 0

        def ticking(batch):
            nonlocal count
            count += 1
            clock.now += clock.step_s
            if stop_after and count == stop_after:
                signal.raise_signal(signal.SIGTERM)
            return audio_s(batch)

        task.audio_s = ticking
        return loop.fit(task, config, folder, finish=finish, clock=clock)


def clock_config(corpus, tmp_path, seconds=100.0, **sections):
    run = {"output": str(tmp_path / "run"), "epochs": 0, "seconds": seconds} | sections.pop("train", {})
    return make_config(corpus, train=run, **sections)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def logged(tmp_path, key):
    return [line[key] for line in lines_of(tmp_path / "run") if key in line]


# The shape


def test_wsd_rises_stays_and_falls_at_the_end():
    config = OptimConfig(learning_rate=1.0, schedule="wsd", warmup_ratio=0.1, decay_ratio=0.2, final_ratio=0.05)
    shares = np.linspace(0, 1, 1001)
    rates = np.array([learning_rate(share, config) for share in shares])
    assert np.allclose(rates[:100], shares[:100] / 0.1)
    assert (rates[100:800] == 1).all()
    assert (np.diff(rates[801:]) < 0).all()
    assert rates[-1] == pytest.approx(0.05)
    assert rates[850] == pytest.approx(0.05 + 0.95 * (1 - math.sqrt(0.25)))


def test_wsd_without_a_decay_stays_at_the_peak_to_the_end():
    config = OptimConfig(learning_rate=1.0, schedule="wsd", warmup_ratio=0.1, decay_ratio=0.0)
    assert learning_rate(1.0, config) == 1.0


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_a_warm_up_in_steps_does_not_depend_on_the_length_of_the_run(schedule):
    config = OptimConfig(learning_rate=1.0, schedule=schedule, warmup_steps=100)
    assert [learning_rate(0.0, config, step) for step in (0, 50, 100, 1000)] == [0, 0.5, 1, 1]
    assert learning_rate(0.001, config, 500) == pytest.approx(1, abs=1e-5)


def test_a_decay_and_a_warm_up_longer_than_the_run_are_refused():
    with pytest.raises(ConfigError, match=r"optim\.decay_ratio: expected at most 1 together"):
        OptimConfig(schedule="wsd", warmup_ratio=0.6, decay_ratio=0.5)


# Seconds or epochs


@pytest.mark.parametrize("epochs", [60, 2])
def test_epochs_and_seconds_are_refused_together(epochs):
    with pytest.raises(ConfigError, match=rf"either train\.seconds or train\.epochs, got 10 and {epochs}"):
        loader.from_dict(Config, {"train": {"epochs": epochs, "seconds": 10}})


def test_seconds_alone_switch_the_default_epochs_off_and_survive_a_file(tmp_path):
    config = loader.from_dict(Config, {"train": {"seconds": 10}})
    assert config.train.epochs == 0
    (tmp_path / "c.yaml").write_text(loader.dumps(config))
    assert loader.read_yaml(Config, tmp_path / "c.yaml") == config


def test_neither_epochs_nor_seconds_is_refused():
    with pytest.raises(ConfigError, match=r"train\.epochs: expected > 0, or train\.seconds instead, got 0"):
        TrainConfig(epochs=0)


def test_a_run_by_the_clock_follows_the_schedule_and_ends_with_it(corpus, tmp_path):
    config = clock_config(corpus, tmp_path, 100.0, optim={"schedule": "wsd"})
    progress = train(config, Clock(1.0))
    assert progress.step == 100
    rates = [(line["step"], line["learning_rate"]) for line in lines_of(tmp_path / "run") if "learning_rate" in line]
    assert [step for step, _ in rates] == list(range(10, 101, 10))
    for step, rate in rates:
        assert rate == pytest.approx(learning_rate((step - 1) / 100, config.optim))


def test_validations_follow_the_clock_and_the_last_step_has_one(corpus, tmp_path):
    train(clock_config(corpus, tmp_path, 50.0, train={"validate_every_s": 20.0}), Clock(1.0))
    assert [line["step"] for line in lines_of(tmp_path / "run") if "valid_wer" in line] == [20, 40, 50]


def test_validations_may_follow_the_clock_in_a_run_by_epochs(corpus, tmp_path):
    config = make_config(corpus, train={"output": str(tmp_path / "run"), "epochs": 4, "validate_every_s": 7.0})
    steps = train(config, Clock(1.0)).step
    assert [line["step"] for line in lines_of(tmp_path / "run") if "valid_wer" in line] == [*range(7, steps, 7), steps]


def test_time_spent_is_carried_through_a_checkpoint(corpus, tmp_path):
    config = clock_config(corpus, tmp_path, 60.0)
    with pytest.raises(KeyboardInterrupt):
        train(config, Clock(1.0), stop_after=25)
    assert load_metadata(tmp_path / "run" / resume.CHECKPOINT)["progress"]["clock_s"] == 25
    assert train(config, Clock(1.0)).step == 60


def test_a_run_by_the_clock_resumes_with_the_same_data_and_weights(corpus, tmp_path):
    train(clock_config(corpus, tmp_path / "whole", 40.0), Clock(1.0))
    config = clock_config(corpus, tmp_path / "parts", 40.0)
    with pytest.raises(KeyboardInterrupt):
        train(config, Clock(1.0), stop_after=13)
    train(config, Clock(1.0))
    losses = [logged(tmp_path / name, "loss") for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_finished_run_by_the_clock_goes_on_when_it_is_made_longer(corpus, tmp_path):
    train(clock_config(corpus, tmp_path, 20.0), Clock(1.0))
    assert train(clock_config(corpus, tmp_path, 30.0), Clock(1.0)).step == 30


def test_too_little_time_for_a_second_step_is_an_error_that_says_how_long_the_first_took(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.seconds: .*got 0\.5 s, and the first step alone took 3 s"):
        train(clock_config(corpus, tmp_path, 0.5), Clock(3.0))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert train(clock_config(corpus, tmp_path, 9.0), Clock(3.0)).step == 3  # in the same folder


# A decay on request


def plateau_config(corpus, tmp_path, **train):
    return clock_config(corpus, tmp_path, 1e6, optim={"schedule": "wsd", "warmup_steps": 5}, train={"ema": 0.9} | train)


def stopped(config, after=33):
    with pytest.raises(KeyboardInterrupt):
        train(config, Clock(1.0), stop_after=after)


def test_finish_decays_from_the_plateau_to_the_end_and_saves_the_average(corpus, tmp_path):
    config = plateau_config(corpus, tmp_path, validate_every_s=1e5)
    stopped(config)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    progress = train(config, Clock(1.0), finish=Finish(20.0, "seconds"))
    assert progress.step == 53
    rates = {line["step"]: line["learning_rate"] for line in lines_of(tmp_path / "run") if "learning_rate" in line}
    assert rates[30] == pytest.approx(0.02)
    lowest = 0.01 * 0.02
    for step in (40, 50):
        gone = (step - 1 - 33) / 20
        assert rates[step] == pytest.approx(lowest + (0.02 - lowest) * (1 - math.sqrt(gone)))
    saved = load_tensors(tmp_path / "run" / "model.safetensors")[0]
    average = load_tensors(tmp_path / "run" / resume.CHECKPOINT)[0]
    assert all(torch.equal(tensor, average[f"average/{name}"]) for name, tensor in saved.items())


def test_finish_works_in_the_warm_up(corpus, tmp_path):
    config = clock_config(corpus, tmp_path, 1000.0)
    stopped(config, after=10)  # a tenth of the warm-up
    train(config, Clock(1.0), finish=Finish(10.0, "seconds"))
    assert max(logged(tmp_path, "learning_rate")) <= 0.02 * 0.1


def test_a_decay_that_was_killed_goes_on_with_the_same_command_or_resume(corpus, tmp_path):
    config = plateau_config(corpus, tmp_path)
    stopped(config)
    with pytest.raises(KeyboardInterrupt):
        train(config, Clock(1.0), finish=Finish(20.0, "seconds"), stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        train(config, Clock(1.0), finish=Finish(20.0, "seconds"), stop_after=5)
    assert train(config, Clock(1.0)).step == 53


def test_the_plateau_is_kept_and_training_goes_on_from_it(corpus, tmp_path):
    config = plateau_config(corpus, tmp_path)
    stopped(config)
    train(config, Clock(1.0), finish=Finish(20.0, "seconds"))
    folder = tmp_path / "run"
    (folder / resume.PLATEAU).replace(folder / resume.CHECKPOINT)
    assert load_metadata(folder / resume.CHECKPOINT)["progress"]["step"] == 33
    with pytest.raises(KeyboardInterrupt):
        train(config, Clock(1.0), stop_after=7)
    progress = load_metadata(folder / resume.CHECKPOINT)["progress"]
    assert (progress["step"], progress["finish"]) == (40, {})


def test_finish_by_epochs_decays_over_whole_epochs(corpus, tmp_path):
    run = {"output": str(tmp_path / "run"), "epochs": 1000}
    config = make_config(corpus, train=run, optim={"schedule": "wsd", "warmup_steps": 1})
    stopped(config, after=17)
    epoch = load_metadata(tmp_path / "run" / resume.CHECKPOINT)["progress"]["epoch"]
    assert train(config, Clock(1.0), finish=Finish(2, "epochs")).epoch == epoch + 3  # the one it was stopped in is left


def test_finish_refuses_a_run_that_has_ended_and_a_folder_without_one(corpus, tmp_path):
    with pytest.raises(TrainingError, match="--finish needs the checkpoint of a run"):
        train(clock_config(corpus, tmp_path, 20.0), Clock(1.0), finish=Finish(5.0, "seconds"))
    train(clock_config(corpus, tmp_path, 20.0), Clock(1.0))
    with pytest.raises(ConfigError, match="has decayed to its end"):
        train(clock_config(corpus, tmp_path, 20.0), Clock(1.0), finish=Finish(5.0, "seconds"))


def test_a_run_that_ended_at_its_peak_is_finished(corpus, tmp_path):
    run = {"output": str(tmp_path / "run"), "epochs": 2}
    config = make_config(corpus, train=run, optim={"schedule": "wsd", "decay_ratio": 0.0, "warmup_steps": 1})
    train(config, Clock(1.0))
    assert train(config, Clock(1.0), finish=Finish(2, "epochs")).epoch == 4
    rates = logged(tmp_path, "learning_rate")
    assert rates[-1] < rates[0] / 2
    with pytest.raises(ConfigError, match="has decayed to its end"):
        train(config, Clock(1.0), finish=Finish(2, "epochs"))


def test_a_decay_too_short_for_two_steps_is_an_error_and_leaves_the_run(corpus, tmp_path):
    config = plateau_config(corpus, tmp_path)
    stopped(config)
    with pytest.raises(ConfigError, match=r"--finish: .*got 0\.5 s, and the first step alone took 1 s"):
        train(config, Clock(1.0), finish=Finish(0.5, "seconds"))
    assert load_metadata(tmp_path / "run" / resume.CHECKPOINT)["progress"]["finish"] == {}


@pytest.mark.parametrize(
    ("text", "finish"),
    [("600", (600, "seconds")), ("0.5s", (0.5, "seconds")), ("2epochs", (2, "epochs")), ("1 epoch", (1, "epochs"))],
)
def test_what_finish_takes(text, finish):
    assert Finish.parse(text) == Finish(*finish)


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5epochs", "soon", "nan", "1e3"])
def test_what_finish_refuses(text, corpus, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(loader.dumps(make_config(corpus, train={"output": str(tmp_path / "run")})))
    assert main.run_command(["train", str(tmp_path / "c.yaml"), f"--finish={text}"]) == 2
    assert "--finish: expected seconds above 0" in capsys.readouterr().err


def test_the_command_line_finishes_a_run(corpus, tmp_path, capsys):
    run = {"output": str(tmp_path / "run"), "epochs": 1}
    (tmp_path / "c.yaml").write_text(
        loader.dumps(make_config(corpus, train=run, optim={"schedule": "wsd", "decay_ratio": 0.0}))
    )
    assert main.run_command(["train", str(tmp_path / "c.yaml")]) == 0
    assert main.run_command(["train", str(tmp_path / "c.yaml"), "train.epochs=9", "--finish", "2epochs"]) == 0
    assert "epoch 3 done" in capsys.readouterr().out


def test_a_run_by_the_clock_says_how_long_it_was_since_it_may_end_in_its_first_epoch():
    assert training_verbs._how_far(resume.Progress(clock_s=8.2), 8.0) == "8 s of training done"
    assert training_verbs._how_far(resume.Progress(epoch=2, clock_s=8.2), 0.0) == "epoch 2 done"


# Sources that end


def test_by_the_clock_a_source_ends_when_its_time_has_come(corpus, tmp_path):
    sources = {"own": {"path": str(corpus / "train.jsonl")}, "made": {"path": str(corpus / "made.jsonl"), "until": 0.5}}
    config = clock_config(corpus, tmp_path, 40.0, data={"train": "", "sources": sources})
    heard = []
    loss = acoustic_task.AcousticTask.loss

    def listening(task, batch):
        heard.append({name.rstrip("0123456789") for name in batch.ids})
        return loss(task, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acoustic_task.AcousticTask, "loss", listening)
        train(config, Clock(1.0))
    assert any("made" in names for names in heard[10:20])
    assert not any("made" in names for names in heard[20:])


# Memory


def test_a_gpu_without_memory_names_the_batch_and_the_key(corpus, tmp_path, monkeypatch):
    def full(task, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")

    monkeypatch.setattr(acoustic_task.AcousticTask, "loss", full)
    config = make_config(corpus, train={"output": str(tmp_path / "run")})
    with pytest.raises(TrainingError) as caught:
        train(config, Clock(1.0))
    message = str(caught.value)
    assert "step 1: out of memory with a batch of " in message
    assert "lower data.batch_s (now 3) and start again. " in message
    assert "train" in message.partition("(")[2].partition(")")[0]
    assert "Tried to allocate 2.00 GiB" in message


def test_memory_that_runs_out_while_a_batch_is_copied_names_the_key(corpus, tmp_path, monkeypatch):
    config = make_config(corpus, train={"output": str(tmp_path / "run"), "epochs": 9, "checkpoint_every_s": 1e-6})
    batches = acoustic_task.AcousticTask.batches

    def full(task, plan, epoch):
        if epoch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        yield from batches(task, plan, epoch)

    monkeypatch.setattr(acoustic_task.AcousticTask, "batches", full)
    with pytest.raises(
        TrainingError, match=r"out of memory while the next batch was copied.*lower data\.batch_s"
    ) as caught:
        train(config, Clock(1.0))
    assert f"train into another train.output, with train.init={tmp_path / 'run'}" in str(caught.value)


def test_memory_that_runs_out_in_a_validation_names_the_key(corpus, tmp_path, monkeypatch):
    def full(task, network):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(acoustic_task.AcousticTask, "validate", full)
    config = make_config(corpus, train={"output": str(tmp_path / "run")})
    with pytest.raises(TrainingError, match=r"out of memory in the validation: lower data\.batch_s \(now 3\)"):
        train(config, Clock(1.0))


def test_the_schedule_of_an_epoch_is_where_its_plan_was_made():
    schedule = Schedule(OptimConfig(), TrainConfig(epochs=4))
    assert schedule.span(resume.Progress(epoch=1)) == [0.25, 0.5]
    clock = Schedule(OptimConfig(), TrainConfig(seconds=50))
    assert clock.span(resume.Progress(epoch=1, clock_s=25)) == [0.5, 0.5]
