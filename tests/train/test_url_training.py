"""Training on recordings at URLs: as from a local folder, each fetched once, and without secrets in what is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from archives import make_archive
from corpus import make_config, make_corpus
from object_server import Objects, random_errors, serving
from shards import make_shards

from asr.cloud import filesystems, range_reader, retries
from asr.data import remote_files
from asr.errors import ManifestError, TrainingError
from asr.models.tensors import load_tensors
from asr.train import acoustic_task
from asr.train.resume import CHECKPOINT


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and everything else that a checkpoint holds."""
    return load_tensors(folder / CHECKPOINT)[0]


def full_reads(web: Objects, suffix: str) -> list[str]:
    """Paths of requests for more than the first byte."""
    return sorted(r.path for r in web.requests if r.path.endswith(suffix) and r.span != "bytes=0-0")


def test_urls_train_as_files_do_and_each_is_fetched_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.002)
    monkeypatch.setenv("ASR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ASR_CACHE_GB", raising=False)
    corpus = make_corpus(tmp_path / "corpus")
    setting = {"data": {"workers": 2, "batch_s": 2.0, "cache_s": 0.0}, "train": {"epochs": 3}}
    local = make_config(corpus, **setting | {"train": {"epochs": 3, "output": str(tmp_path / "local")}})
    acoustic_task.train_acoustic(local)
    web = Objects({path.name: path.read_bytes() for path in corpus.iterdir()}, user="alice:geheimnis")
    with serving(web):
        web.fault = random_errors(0.05)
        place = web.url.replace("://", "://alice:geheimnis@")
        data = dataclasses.replace(local.data, train=f"{place}/train.jsonl", valid=f"{place}/valid.jsonl")
        train = dataclasses.replace(local.train, output=str(tmp_path / "remote"))
        remote = dataclasses.replace(local, data=data, train=train)
        acoustic_task.train_acoustic(remote)
        more = dataclasses.replace(remote, train=dataclasses.replace(train, epochs=4))
        acoustic_task.train_acoustic(
            dataclasses.replace(local, train=dataclasses.replace(local.train, epochs=4)), resume=True
        )
        acoustic_task.train_acoustic(more, resume=True)
    filesystems.forget_connections()
    one, other = trained(tmp_path / "local"), trained(tmp_path / "remote")
    assert all(torch.equal(one[name], other[name]) for name in one)
    files = sorted(path.name for path in corpus.glob("*.wav"))
    good = full_reads(web, ".wav")
    assert set(good) == set(files)
    assert len(good) <= 1.5 * len(files)  # 5 % of the requests failed
    printed = capfd.readouterr()
    texts = [path.read_bytes() for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    for text in (*texts, printed.out.encode(), printed.err.encode()):
        assert b"geheimnis" not in text
    assert any(f"{web.url}/train.jsonl".encode() in text for text in texts)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_of_an_archive_at_a_url_train_as_files_do(tmp_path, monkeypatch, capfd, kind):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.002)
    monkeypatch.setenv("ASR_CACHE_DIR", str(tmp_path / "cache"))
    remote_files._member.cache_clear()  # an earlier test's server may have had this port
    corpus = make_corpus(tmp_path / "corpus")
    setting = {"data": {"workers": 2, "batch_s": 2.0, "cache_s": 0.0}}
    local = make_config(corpus, **setting, train={"epochs": 2, "output": str(tmp_path / "local")})
    acoustic_task.train_acoustic(local)
    sounds = {f"day 1/{path.name}": path.read_bytes() for path in sorted(corpus.glob("*.wav"))}
    damaged = sounds | {"day 1/train3.wav": b"no sound"}
    web = Objects({f"calls.{kind}": make_archive(kind, sounds), f"bad.{kind}": make_archive(kind, damaged)},
                  user="alice:geheimnis")  # fmt: skip
    for name in ("train", "valid"):
        lines = (json.loads(line) for line in (corpus / f"{name}.jsonl").read_text().splitlines())
        for archive in ("calls", "bad"):
            records = [line | {"audio": f"{archive}.{kind}/day 1/{Path(line['audio']).name}"} for line in list(lines)]
            lines = iter(records)
            web.files[f"{archive}-{name}.jsonl"] = "\n".join(map(json.dumps, records)).encode()
    with serving(web):
        web.fault = random_errors(0.05)
        place = web.url.replace("://", "://alice:geheimnis@")
        data = dataclasses.replace(local.data, train=f"{place}/calls-train.jsonl", valid=f"{place}/calls-valid.jsonl")
        remote = dataclasses.replace(
            local, data=data, train=dataclasses.replace(local.train, output=str(tmp_path / "remote"))
        )
        acoustic_task.train_acoustic(remote)
        assert "left out" not in capfd.readouterr().err
        data = dataclasses.replace(data, train=f"{place}/bad-train.jsonl")
        train = dataclasses.replace(remote.train, output=str(tmp_path / "bad"), epochs=1)
        acoustic_task.train_acoustic(dataclasses.replace(remote, data=data, train=train))
    filesystems.forget_connections()
    one, other = trained(tmp_path / "local"), trained(tmp_path / "remote")
    assert all(torch.equal(one[name], other[name]) for name in one)
    told = capfd.readouterr().err
    assert f"train3: left out of this batch: {web.url}/bad.{kind}/day 1/train3.wav: " in told.replace("%20", " ")
    assert "geheimnis" not in told


def test_a_recording_that_cannot_be_fetched_is_left_out_and_named(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ASR_CACHE_DIR", str(tmp_path / "cache"))
    corpus = make_corpus(tmp_path / "corpus")
    web = Objects({path.name: path.read_bytes() for path in corpus.iterdir()})
    web.fault = lambda request: 403 if request.path == "train3.wav" else 0
    with serving(web):
        config = make_config(corpus, data={"workers": 0, "train": f"{web.url}/train.jsonl"},
                             train={"output": str(tmp_path / "run"), "epochs": 1})  # fmt: skip
        acoustic_task.train_acoustic(config)
    filesystems.forget_connections()
    assert f"train3: left out: {web.url}/train3.wav: access denied" in capfd.readouterr().err.replace(
        "of this batch", ""
    )


@pytest.mark.parametrize(("shards", "cache_gb"), [(False, "20"), (True, "0")])
def test_a_service_that_goes_down_ends_the_training_which_then_goes_on(tmp_path, monkeypatch, shards, cache_gb):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("ASR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("ASR_CACHE_GB", cache_gb)
    monkeypatch.setattr(range_reader, "FIRST_BYTES", 8192)
    monkeypatch.setattr(range_reader, "BLOCK_BYTES", 8192)
    corpus = make_corpus(tmp_path / "corpus")
    make_shards(tmp_path / "shards", corpus / "train.jsonl", 10**9)
    web = Objects({path.name: path.read_bytes() for each in (corpus, tmp_path / "shards") for path in each.iterdir()})
    with serving(web):
        train = f"{web.url}/00000.tar" if shards else f"{web.url}/train.jsonl"
        config = make_config(
            corpus,
            data={"workers": 0, "cache_s": 0.0, "batch_s": 2.0, "train": train, "valid": str(corpus / "valid.jsonl")},
            train={"output": str(tmp_path / "run"), "epochs": 2},
        )
        web.fault = lambda request: 503 if not request.path.endswith("valid.jsonl") and len(web.requests) > most else 0
        most = 10**9
        acoustic_task.train_acoustic(config)
        most = len(web.requests) + 40
        longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=6))
        with pytest.raises(TrainingError, match=r"503.*continue with --resume when the service is there again"):
            acoustic_task.train_acoustic(longer, resume=True)
        most = 10**9
        acoustic_task.train_acoustic(
            dataclasses.replace(longer, train=dataclasses.replace(longer.train, epochs=3)), resume=True
        )
    filesystems.forget_connections()


@pytest.fixture(autouse=True)
def one_thread():
    """torch with one thread adds in a fixed order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_shards_at_urls_train_as_local_ones_do(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ASR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("ASR_CACHE_GB", raising=False)
    corpus = make_corpus(tmp_path / "corpus")
    folder = Path(make_shards(tmp_path / "shards", corpus / "train.jsonl", 60_000))
    setting = {"workers": 2, "batch_s": 2.0, "valid": str(corpus / "valid.jsonl")}
    web = Objects({f"set/{path.name}": path.read_bytes() for path in folder.iterdir()}, user="alice:geheimnis")
    shards = sorted(name for name in web.files if name.endswith(".tar"))
    assert len(shards) > 1
    with serving(web):
        place = web.url.replace("://", "://alice:geheimnis@")
        names = {"local": folder, "remote": f"{place}/set"}
        for name, source in names.items():
            train = f"{source}/{{00000..{len(shards) - 1:05}}}.tar"
            config = make_config(corpus, data=setting | {"train": train},
                                 train={"output": str(tmp_path / name), "epochs": 2})  # fmt: skip
            acoustic_task.train_acoustic(config)
        assert set(full_reads(web, ".tar")) == set(shards)
        assert len(full_reads(web, ".tar")) == len(shards)
        missing = make_config(corpus, data=setting | {"train": f"{place}/set/{{00000..00099}}.tar"},
                              train={"output": str(tmp_path / "missing")})  # fmt: skip
        with pytest.raises(ManifestError, match=r"/set/00099\.tar: no such object|and \d+ more"):
            acoustic_task.train_acoustic(missing)
    filesystems.forget_connections()
    one, other = trained(tmp_path / "local"), trained(tmp_path / "remote")
    assert all(torch.equal(one[name], other[name]) for name in one)
    printed = capfd.readouterr()
    texts = [path.read_bytes() for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    for text in (*texts, printed.out.encode(), printed.err.encode()):
        assert b"geheimnis" not in text
