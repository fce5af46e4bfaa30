"""Training with loader processes: the same losses for any number, nothing left behind, exact resume."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from corpus import make_config, make_corpus, start, train_process

from asr.errors import ModelError
from asr.models.tensors import load_tensors
from asr.train import acoustic_task
from asr.train.resume import CHECKPOINT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def config_for(corpus, folder, workers, **train):
    return make_config(
        corpus,
        data={"workers": workers, "batch_s": 2.0},
        augment={"noise_prob": 0.5, "reverb_prob": 0.5, "gain_db": 6.0},
        train={"output": str(folder), **train},
    )


def weights(folder):
    return load_tensors(folder / CHECKPOINT)[0]


def losses(folder):
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if "loss" in key or key == "step"} for line in lines]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_losses_are_the_same_for_any_number_of_workers(corpus, tmp_path, workers):
    for folder, count in ((tmp_path / "thread", 0), (tmp_path / "processes", workers)):
        acoustic_task.train_acoustic(config_for(corpus, folder, count))
    assert losses(tmp_path / "thread") == losses(tmp_path / "processes") != []
    one, other = weights(tmp_path / "thread"), weights(tmp_path / "processes")
    assert all(torch.equal(one[name], other[name]) for name in one)


def children(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_mid_epoch_leaves_no_process_and_resumes_exactly(corpus, tmp_path, number):
    config = config_for(corpus, tmp_path / "killed", 2, epochs=3, checkpoint_every_s=0.01)
    process = start(train_process, config, False, 0.2)
    end = time.monotonic() + 300
    while not (tmp_path / "killed" / CHECKPOINT).exists() and time.monotonic() < end:
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, number)
    process.join(300)
    end = time.monotonic() + 120
    while not all(map(gone, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert all(map(gone, workers))
    acoustic_task.train_acoustic(config, resume=True)
    whole = config_for(corpus, tmp_path / "whole", 0, epochs=3)
    acoustic_task.train_acoustic(whole)
    one, other = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one if name.startswith("network/"))


def test_a_run_keeps_the_batch_that_it_began_with(corpus, tmp_path):
    config = config_for(corpus, tmp_path / "run", 0)
    acoustic_task.train_acoustic(config)
    auto = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_s="auto"))
    for device in ("cpu", "cuda"):
        assert acoustic_task.settle_batch_s(auto, torch.device(device)).data.batch_s == 2.0
    fresh = dataclasses.replace(auto, train=dataclasses.replace(auto.train, output=str(tmp_path / "new")))
    assert acoustic_task.settle_batch_s(fresh, torch.device("cpu")).data.batch_s == 45.0
    assert acoustic_task.settle_batch_s(fresh, torch.device("cuda")).data.batch_s == 800.0


def test_a_task_that_cannot_be_made_leaves_no_process(corpus, tmp_path):
    before = set(children(os.getpid()))
    config = config_for(corpus, tmp_path / "run", 2, init=str(tmp_path / "nothing"))
    with pytest.raises(ModelError) as caught:
        acoustic_task.AcousticTask(config)
    assert caught.traceback  # which holds the task
    assert set(children(os.getpid())) <= before
