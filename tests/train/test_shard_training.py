"""Training from shards: the same weights whatever loads them and wherever a run was killed, and faults are named."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import where
from corpus import make_config, make_corpus, make_utterances, start, train_process, train_rank
from free_ports import free_port
from shards import make_shards, read_tar, write_tar

from asr.cli import main
from asr.data.manifest import write_manifest
from asr.errors import ConfigError, ManifestError
from asr.models.description import load_card
from asr.models.tensors import load_metadata, load_tensors
from asr.train import acoustic_task, loop
from asr.train.resume import CHECKPOINT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=6)
    make_shards(folder / "shards", folder / "train.jsonl")
    return folder


def shard_config(corpus, output, workers=0, **train):
    data = {"train": str(corpus / "shards"), "workers": workers, "shuffle_s": 8.0}
    return make_config(corpus, data=data, train={"output": str(output), "epochs": 3} | train)


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    config = shard_config(corpus, tmp_path_factory.mktemp("run") / "run")
    before = torch.get_num_threads()
    acoustic_task.train_acoustic(config)
    torch.set_num_threads(before)
    return config


def assert_same_weights(folder, reference):
    found, expected = (load_tensors(Path(each, CHECKPOINT))[0] for each in (folder, reference))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if where.on_cpu():
            assert torch.equal(tensor, expected[name]), name


def test_the_number_of_loader_processes_changes_no_weight(corpus, uninterrupted, tmp_path):
    acoustic_task.train_acoustic(shard_config(corpus, tmp_path / "run", workers=2))
    assert_same_weights(tmp_path / "run", uninterrupted.train.output)


def test_a_run_that_was_killed_within_an_epoch_ends_with_the_same_weights(corpus, uninterrupted, tmp_path):
    config = shard_config(corpus, tmp_path / "run", checkpoint_every_s=1e-9)
    kills = 0
    for _ in range(3):
        process = start(train_process, config, True, 0.1)
        place = tmp_path / "run" / CHECKPOINT
        before = place.stat().st_mtime_ns if place.exists() else None
        while process.is_alive() and (place.stat().st_mtime_ns if place.exists() else None) == before:
            time.sleep(0.001)
        time.sleep(0.1)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(300)
        kills += load_metadata(place)["progress"]["batch"] > 0
    assert kills
    process = start(train_process, config, True)
    process.join(300)
    assert process.exitcode == 0
    assert_same_weights(tmp_path / "run", uninterrupted.train.output)


def test_two_processes_train_on_the_shards_together(corpus, tmp_path):
    config = shard_config(corpus, tmp_path / "run")
    port = free_port()
    processes = [start(train_rank, config, rank, 2, port) for rank in range(2)]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert load_metadata(tmp_path / "run" / CHECKPOINT)["progress"]["epoch"] == 3


def test_the_card_says_what_was_trained_on(corpus, uninterrupted):
    data = load_card(Path(uninterrupted.train.output))["training_data"]
    assert data["manifest"] == str(corpus / "shards")
    assert (data["utterances"], data["speakers"], data["left_out"]) == (24, 2, 0)


def test_sound_or_text_that_is_damaged_is_left_out_and_training_goes_on(corpus, tmp_path, capsys):
    members = {}
    for path in sorted((corpus / "shards").glob("*.tar")):
        members |= read_tar(path)
    sounds = [name for name in members if name.endswith(".wav")]
    members[sounds[0]] = members[sounds[0]][:40] + b"no sound"
    members.pop(sounds[1].replace(".wav", ".json"))
    write_tar(tmp_path / "a.tar", members)
    config = shard_config(corpus, tmp_path / "run", epochs=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train=str(tmp_path / "a.tar")))
    assert acoustic_task.train_acoustic(config).epoch == 1
    told = capsys.readouterr().err
    assert f"1 members are no utterances and left out, such as {tmp_path / 'a.tar'}: {sounds[1][:-4]}" in told
    assert f"{sounds[0][:-4]}: left out of this batch" in told


@pytest.fixture(scope="module")
def sources(corpus):
    """Two sets of shards, the second one longer, and the configuration of a training on both."""
    write_manifest(corpus / "made.jsonl", make_utterances(corpus, 60, "made", speakers=3, seed=5))
    made = make_shards(corpus / "made", corpus / "made.jsonl", 40_000)
    own = {"path": str(corpus / "shards"), "share": 0.6}
    return {"own": own, "made": {"path": str(made), "share": 0.4, "real": False, "until": 0.6, "speaker_cap_s": 30.0}}


def sources_config(corpus, sources, output, workers=0, **train):
    data = {"train": "", "sources": sources, "workers": workers, "shuffle_s": 8.0}
    return make_config(corpus, data=data, train={"output": str(output), "epochs": 3} | train)


def test_a_training_on_sources_of_shards_resumes_exactly_and_whatever_loads_them(
    corpus, sources, tmp_path, monkeypatch
):
    acoustic_task.train_acoustic(sources_config(corpus, sources, tmp_path / "whole"))
    config = sources_config(corpus, sources, tmp_path / "parts")
    step = loop.Run.step

    def interrupted(run, *args):
        if run.progress.step == 6:
            run.save()
            raise KeyboardInterrupt
        return step(run, *args)

    monkeypatch.setattr(loop.Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        acoustic_task.train_acoustic(config)
    monkeypatch.undo()
    assert load_metadata(tmp_path / "parts" / CHECKPOINT)["progress"]["batch"] > 0
    acoustic_task.train_acoustic(sources_config(corpus, sources, tmp_path / "parts", workers=2), resume=True)
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("span", [(0.25, 0.5), (0.25, 0.25)])  # by epochs, by the clock
def test_with_sources_of_shards_the_next_epoch_is_begun_too(corpus, sources, tmp_path, span):
    task = acoustic_task.AcousticTask(sources_config(corpus, sources, tmp_path / "run", epochs=9))
    with contextlib.closing(task):
        list(task.batches(task.plan(0, span), 0))
        begun = task.feeder._next
        assert begun.plan == task.plan(1, (0.5, 0.75) if span[1] > span[0] else span)
        assert begun.plan != task.plan(1, (0.75, 1.0))  # where the second source has ended


def test_two_processes_train_on_sources_of_shards_together(corpus, sources, tmp_path):
    config = sources_config(corpus, sources, tmp_path / "run", epochs=2)
    port = free_port()
    processes = [start(train_rank, config, rank, 2, port) for rank in range(2)]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_source_of_shards_with_share_0_gives_its_letters_only(corpus, sources, tmp_path):
    write_manifest(tmp_path / "x.jsonl", [dataclasses.replace(u, text="XYZ") for u in make_utterances(corpus, 5, "x")])
    letters = {"path": str(make_shards(tmp_path / "x", tmp_path / "x.jsonl")), "share": 0.0}
    config = sources_config(corpus, {**sources, "letters": letters}, tmp_path / "run")
    with contextlib.closing(acoustic_task.AcousticTask(config)) as task:
        assert task.tokenizer.encode("XYZ", "")
        assert task.train_data.statistics.utterances == 24 + 60


def test_shards_beside_manifests_are_refused(corpus, sources, tmp_path):
    config = shard_config(corpus, tmp_path / "run")
    more = dataclasses.replace(config.data, more=(str(corpus / "valid.jsonl"),))
    with pytest.raises(ConfigError, match=r"asr shard .*valid\.jsonl OUT"):
        acoustic_task.train_acoustic(dataclasses.replace(config, data=more))
    mixed = {**sources, "plain": {"path": str(corpus / "train.jsonl")}}
    with pytest.raises(ConfigError, match=r"data\.sources\.plain\.path: .*asr shard .*train\.jsonl OUT makes shards"):
        acoustic_task.train_acoustic(sources_config(corpus, mixed, tmp_path / "run"))
    wrong = {**sources, "typo": {"path": str(corpus / "shard")}}
    with pytest.raises(ConfigError, match=r"data\.sources\.typo\.path: .*there is no such file or folder"):
        acoustic_task.train_acoustic(sources_config(corpus, wrong, tmp_path / "run"))


def test_a_check_shows_what_sources_of_shards_come_to(corpus, sources, tmp_path, capsys):
    config = {"data": {"valid": str(corpus / "valid.jsonl"), "sources": sources}}
    (tmp_path / "conf.yaml").write_text(json.dumps(config))  # which is YAML
    assert main.run_command(["check", str(tmp_path / "conf.yaml"), "data.sources.made.share=0.6"]) == 0
    shown = capsys.readouterr().out
    assert "one pass over own" in shown
    assert "made: 50.0% of the speech (share 0.6)" in shown
    assert "at most 30 s a speaker, until 0.6 of the training" in shown
    assert "from 0.6 of the training on" in shown
    status = main.run_command(["check", str(tmp_path / "conf.yaml"), f"data.sources.made.path={corpus}/made.jsonl"])
    assert status == 2
    assert "data.sources.made.path: expected shards in all sources, or manifests in all" in capsys.readouterr().err


def test_a_changed_set_is_noticed_on_resume(corpus, tmp_path, capsys):
    shutil.copytree(corpus / "shards", tmp_path / "shards")
    config = shard_config(corpus, tmp_path / "run", epochs=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train=str(tmp_path / "shards")))
    acoustic_task.train_acoustic(config)
    os.unlink(tmp_path / "shards" / "00000.tar")
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=2))
    acoustic_task.train_acoustic(longer, resume=True)
    assert "has changed since" in capsys.readouterr().err


def test_a_missing_shard_ends_the_training_before_it_writes_anything(corpus, tmp_path):
    config = shard_config(corpus, tmp_path / "run")
    data = dataclasses.replace(config.data, train=f"{corpus}/shards/{{00000..00500}}.tar")
    with pytest.raises(ManifestError, match="are missing"):
        acoustic_task.train_acoustic(dataclasses.replace(config, data=data))
    assert not (tmp_path / "run" / "model.safetensors").exists()
