"""Several processes train the model that one would: same batches, same steps, same files."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from corpus import make_config, make_corpus, start, train_process, train_rank
from free_ports import free_port

from asr.config import loader
from asr.errors import ConfigError, TrainingError
from asr.models import tensors
from asr.recognize.batch import transcribe_files
from asr.train import acoustic_task, distributed
from asr.train.distributed import GradientBuckets, World
from asr.train.process import alone as hold_alone
from asr.train.resume import CHECKPOINT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """13 utterances: no batch size divides them."""
    return make_corpus(tmp_path_factory.mktemp("corpus"), train=13, valid=5)


def run_config(corpus, folder, **train):
    # Nothing random but what belongs to an utterance: processes draw their own dropout.
    values = {"output": str(folder), "epochs": 12} | train
    return make_config(corpus, model={"dropout": 0.0}, optim={"learning_rate": 0.01}, train=values)


def together(config, size, resume=False, target=train_rank, delay_s=0.0):
    port = free_port()
    return [start(target, config, rank, size, port, resume, delay_s) for rank in range(size)]


def refused_rank(*args):
    with pytest.raises(TrainingError, match="another process is training in it"):
        train_rank(*args)


def finish(processes):
    for process in processes:
        process.join(500)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish([start(train_process, run_config(corpus, folder))])
    return folder


def assert_same_curves(folder, reference):
    """The loss curve, the validations and the weights, up to the order in which float32 numbers are added."""
    ours, theirs = read_log(folder), read_log(reference)
    assert len(ours) == len(theirs) > 12
    for line, expected in zip(ours, theirs, strict=True):
        assert line.keys() == expected.keys()
        for key in line.keys() - {"seconds"}:
            assert line[key] == pytest.approx(expected[key], rel=2e-3, abs=1e-4), key
    network, expected = (tensors.load_tensors(path / "model.safetensors")[0] for path in (folder, reference))
    for name, value in network.items():
        torch.testing.assert_close(value, expected[name], atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("size", [2, 3])
def test_many_processes_take_the_steps_of_one(corpus, alone, tmp_path, size):
    config = run_config(corpus, tmp_path / "run")
    sizes = {len(batch) for batch in acoustic_task.AcousticTask(config).plan(0)}
    assert any(count % size for count in sizes), "the test needs batches that do not divide evenly"
    finish(together(config, size))
    assert_same_curves(tmp_path / "run", alone)
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["training_data"]["utterances"] == 13


def test_a_batch_smaller_than_the_processes_leaves_some_idle(corpus, tmp_path):
    folders = [tmp_path / "one", tmp_path / "three"]
    for folder, size in zip(folders, (1, 3), strict=True):
        config = run_config(corpus, folder, epochs=3)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_s=1.0))
        finish(together(config, size))
    ours, theirs = (read_log(folder) for folder in reversed(folders))
    losses = [[line["loss"] for line in log if "loss" in line] for log in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert not any("skipped" in line for line in ours)


def test_killed_processes_resume_together_and_with_others(corpus, alone, tmp_path):
    config = run_config(corpus, tmp_path / "run", checkpoint_every_s=1e-6)
    processes = together(config, 2, delay_s=0.3)  # so that they are not done before they are killed
    path = tmp_path / "run" / CHECKPOINT
    deadline = time.monotonic() + 300
    while not path.exists() or tensors.load_metadata(path)["progress"]["step"] < 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)  # the second may have ended by an error: its number is still its own
        process.join(300)
    assert processes[0].exitcode == -signal.SIGKILL
    states = {name for name in tensors.load_tensors(path)[0] if name.startswith("rng/")}
    assert states == {"rng/0/cpu", "rng/1/cpu"}
    # A machine is lost: three processes go on where two were killed.
    finish(together(config, 3, resume=True))
    assert_same_curves(tmp_path / "run", alone)


def test_a_request_to_stop_ends_all_processes_at_the_same_step(corpus, alone, tmp_path):
    config = run_config(corpus, tmp_path / "run", epochs=200, checkpoint_every_s=1e-6)
    processes = together(config, 2)
    path = tmp_path / "run" / CHECKPOINT
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGTERM)  # one process asks, all stop
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [130, 130]
    assert tensors.load_metadata(path)["progress"]["epoch"] < 200


def test_a_bad_batch_of_one_process_is_skipped_by_all(corpus, tmp_path):
    finish(together(run_config(corpus, tmp_path / "run", epochs=2), 2, target=train_spoilt))
    skipped = [line for line in read_log(tmp_path / "run") if "skipped" in line]
    assert len(skipped) == 2
    # The whole batch is named, the shares of the processes that saw nothing wrong included.
    assert all("train3" in line["skipped"] and len(line["skipped"]) > 1 for line in skipped)


def train_spoilt(*args):
    """A process in which one utterance gives no finite loss."""
    loss = acoustic_task.AcousticTask.loss

    def spoilt(task, batch):
        return loss(task, batch) * (float("nan") if "train3" in batch.ids else 1.0)

    acoustic_task.AcousticTask.loss = spoilt
    train_rank(*args)


def test_torchrun_starts_the_command_line(corpus, tmp_path):
    config = run_config(corpus, tmp_path / "run", epochs=1)
    path = tmp_path / "conf.yaml"
    path.write_text(loader.dumps(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "asr.cli"]
    done = subprocess.run([*command, "train", str(path)], capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best validation WER") == 1
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_world_of_one_changes_nothing():
    world = World()
    assert world.first
    assert world.share([1, 2, 3]) == [1, 2, 3]
    assert world.sum(1.5, True) == [1.5, True]
    assert world.gather("x") == ["x"]
    assert world.sum_tensor(torch.tensor([1.5, 2.0])).tolist() == [1.5, 2.0]
    parameter = torch.nn.Parameter(torch.ones(2))
    with GradientBuckets([parameter], world).summing():
        pass
    assert parameter.grad is None


def sum_in_one_message(network, world):
    """What ``GradientBuckets`` must give: all gradients in one message behind the backward pass."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    parts = torch.split(flat, [p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


def compare_buckets(rank, size, port, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(5)
    lstm = torch.nn.LSTM(6, 5, 2, batch_first=True)
    network = torch.nn.ModuleDict({"lstm": lstm, "out": torch.nn.Linear(5, 3), "unused": torch.nn.Linear(2, 2)})
    network["out"].bias.requires_grad_(False)
    torch.manual_seed(rank)
    sent_early = []

    def backward(scale):
        network["out"](lstm(torch.randn(4, 7, 6))[0]).square().sum().mul(scale).backward()

    with distributed.join_world(torch.device("cpu")) as world:
        for bucket_bytes in (1, 200, 10**9):
            buckets = GradientBuckets(network.parameters(), world, bucket_bytes)
            for passes in (2, 1, 0 if rank else 1):  # accumulated, plain, one process without an example
                state = torch.get_rng_state()
                results = []
                for bucketed in (False, True):
                    torch.set_rng_state(state)
                    network.zero_grad(set_to_none=True)
                    for _ in range(passes - 1):
                        backward(0.5)
                    if bucketed:
                        with buckets.summing():
                            if passes:
                                backward(1.0)
                            sent_early.append(buckets._sent)
                        results.append([p.grad.clone() for p in network.parameters() if p.requires_grad])
                    else:
                        if passes:
                            backward(1.0)
                        results.append(sum_in_one_message(network, world))
                assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
                assert any(gradient.any() for gradient in results[0])
    (folder / str(rank)).write_text(json.dumps(sent_early))


def test_gradients_in_buckets_are_those_of_one_message(tmp_path):
    """Bit for bit, with gradients that are accumulated, missing, frozen, and a process without an example."""
    port = free_port()
    finish([start(compare_buckets, rank, 2, port, tmp_path) for rank in range(2)])
    for rank in range(2):
        assert len(json.loads((tmp_path / str(rank)).read_text())) == 9


def send_while_going_back(rank, size, port, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.manual_seed(5)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with distributed.join_world(torch.device("cpu")) as world:
        buckets = GradientBuckets(layers.parameters(), world, 60)
        sent = []
        first = layers(torch.randn(5, 3))
        layers[0].weight.register_hook(lambda gradient: sent.append(buckets._sent))
        with buckets.summing():
            first.sum().backward()
        (folder / str(rank)).write_text(json.dumps([len(buckets._buckets), *sent]))


def test_the_last_layers_are_sent_before_the_first_have_gradients(tmp_path):
    port = free_port()
    finish([start(send_while_going_back, rank, 2, port, tmp_path) for rank in range(2)])
    for rank in range(2):
        count, sent = json.loads((tmp_path / str(rank)).read_text())
        assert 0 < sent < count


def test_shares_are_disjoint_and_complete():
    items = list(range(10))
    shares = [World(rank, 4).share(items) for rank in range(4)]
    assert sorted(item for share in shares for item in share) == items
    assert {len(share) for share in shares} == {2, 3}


def test_a_process_without_a_gpu_of_its_own_is_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"process 1 .* has no GPU of its own: 1 are there"):
        distributed.join_world(torch.device("cuda")).__enter__()


def test_processes_of_a_second_training_all_end_with_the_reason(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    with hold_alone(tmp_path / "run"):
        processes = together(run_config(corpus, tmp_path / "run"), 2, target=refused_rank)
        finish(processes)
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK: expected a number, 0 or more.*got 'x'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK: expected a number, 0 or more.*got '-1'"),
        ({"RANK": "0", "WORLD_SIZE": "²"}, "WORLD_SIZE: expected a number"),
        ({"RANK": "7", "WORLD_SIZE": "2"}, "RANK: expected a number below WORLD_SIZE=2, got 7"),
        ({"WORLD_SIZE": "2"}, "RANK: expected a number below WORLD_SIZE=2, got nothing"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT: expected values"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "MASTER_ADDR: expected"),
    ],
)
def test_variables_that_name_no_process_are_config_errors(corpus, tmp_path, monkeypatch, variables, message):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        acoustic_task.train_acoustic(run_config(corpus, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_transcribing_as_a_process_that_cannot_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="RANK: expected a number below WORLD_SIZE=2, got 7"):
        transcribe_files({}, [str(tmp_path)], output_dir=tmp_path / "out")
