"""Manifests to shards: nothing is lost or changed, and a run that was killed gives the same files."""

import dataclasses
import hashlib
import io
import json
import os
import signal

import numpy as np
import pytest
import soundfile
from corpus import RATE_HZ, make_corpus, start, tones
from object_server import Objects, serving
from shards import make_shards, read_tar

from asr.audio.read import load_audio
from asr.cli.main import run_command
from asr.cloud import retries
from asr.cloud.inputs import write_whole
from asr.data import shard_writer
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.shard_set import ShardSet
from asr.data.shard_writer import member_name, write_shards
from asr.errors import AudioError, ManifestError, OutputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=1)


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_utterance_is_in_one_shard_with_the_bytes_of_its_file(corpus, tmp_path):
    written = write_shards(str(corpus / "train.jsonl"), str(tmp_path / "out"), 60_000)
    members = {}
    for path in written.paths:
        assert os.path.getsize(path) < 120_000
        members |= read_tar(path)
    utterances = read_manifest(corpus / "train.jsonl")
    assert len(written.paths) > 2
    assert len(members) == 2 * len(utterances)
    for item in utterances:
        with open(item.audio, "rb") as file:
            assert members[f"{item.id}.wav"] == file.read()
        tree = json.loads(members[f"{item.id}.json"])
        expected = {"id": item.id, "text": item.text, "duration_s": item.duration_s, "speaker": item.speaker}
        assert tree == expected | {"audio": os.path.basename(item.audio)}


def test_utterances_are_mixed_unless_the_order_is_to_stay(corpus, tmp_path):
    ids = [item.id for item in read_manifest(corpus / "train.jsonl")]
    for seed in (1, None):
        folder = make_shards(tmp_path / str(seed), corpus / "train.jsonl", seed=seed)
        found = [item.id for item in ShardSet([str(folder)]).texts()]
        assert sorted(found) == sorted(ids)
        assert (found == ids) == (seed is None)


def test_parts_and_channels_become_flac_with_the_samples_of_the_manifest(tmp_path):
    left, right = tones("ABC CBA", 1), tones("CAB ABC", 2)
    soundfile.write(tmp_path / "long.wav", np.stack([left, right], axis=1), RATE_HZ, "PCM_16")
    soundfile.write(tmp_path / "one.flac", left, RATE_HZ, "PCM_16")
    soundfile.write(tmp_path / "float.wav", left, RATE_HZ, "FLOAT")
    items = [
        Utterance("part", str(tmp_path / "one.flac"), "A", 0.25, start_s=0.1, end_s=0.35),
        Utterance("channel", str(tmp_path / "long.wav"), "B", len(right) / RATE_HZ, channel=1),
        Utterance("mean", str(tmp_path / "long.wav"), "C", 0.3, start_s=0.2, end_s=0.5),
        Utterance("float", str(tmp_path / "float.wav"), "C", 0.3, start_s=0.2, end_s=0.5),
    ]
    write_manifest(tmp_path / "set.jsonl", items)
    members = read_tar(make_shards(tmp_path / "out", tmp_path / "set.jsonl") / "00000.tar")
    for item in items:
        samples, rate_hz = soundfile.read(io.BytesIO(members[f"{item.id}.flac"]), dtype="float32")
        expected = load_audio(item.audio, RATE_HZ, start_s=item.start_s, end_s=item.end_s, channel=item.channel)
        assert rate_hz == RATE_HZ
        # 24 bits hold the mean of two channels exactly, and floats to their last bit.
        np.testing.assert_allclose(samples, expected, rtol=0, atol=2**-23 if item.id == "float" else 0)
    assert json.loads(members["part.json"])["start_s"] == 0.1


def _write(manifest, folder):
    """Die in the third shard, after its tar file was written and before it had its name."""
    written = []
    index = shard_writer.make_index

    def make(path):
        written.append(path)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return index(path)

    shard_writer.make_index = make
    write_shards(manifest, folder, 60_000)


def test_a_run_that_was_killed_goes_on_and_gives_the_same_files(corpus, tmp_path):
    manifest = str(corpus / "train.jsonl")
    process = start(_write, manifest, str(tmp_path / "killed"))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    tars = sorted((tmp_path / "killed").glob("*.tar"))
    assert [path.name for path in tars] == ["00000.tar", "00001.tar"]
    before = [path.stat().st_mtime_ns for path in tars]
    resumed = write_shards(manifest, str(tmp_path / "killed"), 60_000)
    whole = write_shards(manifest, str(tmp_path / "whole"), 60_000)
    assert [path.stat().st_mtime_ns for path in tars] == before
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert (resumed.utterances, len(resumed.paths)) == (whole.utterances, len(whole.paths))


def test_shards_of_other_options_are_not_mixed(corpus, tmp_path):
    make_shards(tmp_path / "out", corpus / "train.jsonl")
    with pytest.raises(OutputError, match="another --size"):
        write_shards(str(corpus / "train.jsonl"), str(tmp_path / "out"), 70_000)
    again = write_shards(str(corpus / "train.jsonl"), str(tmp_path / "out"), 200_000, force=True)
    assert len(list((tmp_path / "out").glob("*.tar"))) == len(again.paths)


def test_a_folder_of_something_else_is_refused(corpus, tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match="not empty"):
        make_shards(tmp_path, corpus / "train.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.txt"]


def test_ids_with_dots_and_slashes_come_back(tmp_path):
    soundfile.write(tmp_path / "a.wav", tones("A"), RATE_HZ)
    ids = ["a.mp3", "a.ogg", "speaker/one", "50%", "50%25", "é", ".", "x" * 200]
    write_manifest(tmp_path / "set.jsonl", [Utterance(name, str(tmp_path / "a.wav"), "A", 0.2) for name in ids])
    folder = make_shards(tmp_path / "out", tmp_path / "set.jsonl")
    assert sorted(item.id for item in ShardSet([str(folder)]).texts()) == sorted(ids)
    names = list(read_tar(folder / "00000.tar"))
    assert len(set(names)) == 2 * len(ids)
    assert all("/" not in name and name.count(".") == 1 for name in names)


def test_an_id_that_is_too_long_is_refused_before_anything_is_written(tmp_path):
    soundfile.write(tmp_path / "a.wav", tones("A"), RATE_HZ)
    write_manifest(tmp_path / "set.jsonl", [Utterance("é" * 101, str(tmp_path / "a.wav"), "A", 0.2)])
    with pytest.raises(ManifestError, match="at most 200 bytes"):
        make_shards(tmp_path / "out", tmp_path / "set.jsonl")
    assert not (tmp_path / "out").exists()
    assert member_name("a.b") == "a%2Eb"


def test_asr_shard_leaves_out_what_cannot_be_read_and_says_so_again_after_a_resume(corpus, tmp_path, capsys):
    items = read_manifest(corpus / "train.jsonl")
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    bad = [Utterance("bad", str(tmp_path / "bad.wav"), "A", 1.0), Utterance("gone", "/nowhere.wav", "A", 1.0)]
    write_manifest(tmp_path / "set.jsonl", items + bad)
    for _ in range(2):
        command = ["shard", str(tmp_path / "set.jsonl"), str(tmp_path / "out"), "--size", "0.06MB", "--seed", "3"]
        assert run_command(command) == 1
        told = capsys.readouterr()
        assert f"{len(items)} utterances" in told.out
        assert "bad: left out: " in told.err
        assert "gone: left out: /nowhere.wav" in told.err


def test_no_utterance_that_can_be_read_is_an_error(tmp_path):
    write_manifest(tmp_path / "set.jsonl", [Utterance("gone", "/nowhere.wav", "A", 1.0)])
    with pytest.raises(ManifestError, match=r"no utterance can be read.*gone.*/nowhere\.wav"):
        make_shards(tmp_path / "out", tmp_path / "set.jsonl")
    assert not list((tmp_path / "out").glob("*.tar*"))


def test_a_manifest_at_a_url_gives_the_shards_of_its_copy_here(corpus, tmp_path):
    utterances = read_manifest(corpus / "train.jsonl")
    lines = [{"id": u.id, "audio": f"wav/{u.id}.wav", "text": u.text, "duration_s": u.duration_s} for u in utterances]
    part = {"id": "part", "audio": lines[0]["audio"], "text": "A", "duration_s": 0.1, "start_s": 0.0, "end_s": 0.1}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, part])
    (tmp_path / "wav").mkdir()
    (tmp_path / "set.jsonl").write_text(text)
    write_whole("memory://set/set.jsonl", text.encode())
    for item in utterances:
        with open(item.audio, "rb") as file:
            content = file.read()
        write_whole(f"memory://set/wav/{item.id}.wav", content)
        (tmp_path / "wav" / f"{item.id}.wav").write_bytes(content)
    write_shards(str(tmp_path / "set.jsonl"), str(tmp_path / "here"), 60_000)
    write_shards("memory://set/set.jsonl", str(tmp_path / "there"), 60_000)
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert {name: here[name] for name in here if name.endswith(".tar")} == {
        name: there[name] for name in there if name.endswith(".tar")
    }


def test_secrets_of_urls_are_not_written_into_shards(tmp_path, monkeypatch):
    with serving(Objects()) as web:
        item = tones("A", RATE_HZ)
        buffer = io.BytesIO()
        soundfile.write(buffer, item, RATE_HZ, format="WAV")
        web.files["a.wav"] = buffer.getvalue()
        audio = web.url.replace("//", "//user:password@") + "/a.wav?sig=signature"
        line = {"id": "a", "audio": audio, "text": "A", "duration_s": len(item) / RATE_HZ}
        (tmp_path / "set.jsonl").write_text(json.dumps(line))
        monkeypatch.chdir(tmp_path)
        write_shards("set.jsonl", "out", 60_000)
    tree = json.loads(read_tar(tmp_path / "out" / "00000.tar")["a.json"])
    assert tree["audio"] == f"{web.url}/a.wav"


def test_a_service_that_is_down_stops_the_writing_and_the_next_run_goes_on(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    with serving(Objects()) as web:
        utterances = read_manifest(corpus / "train.jsonl")
        for item in utterances:
            with open(item.audio, "rb") as file:
                web.files[f"{item.id}.wav"] = file.read()
        here = [dataclasses.replace(u, audio=f"{web.url}/{u.id}.wav") for u in utterances]
        write_manifest(tmp_path / "set.jsonl", here)
        web.fault = lambda request: 503 if len(web.requests) > 12 else 0
        with pytest.raises(AudioError, match=r"503.*\(6 tries\)"):
            write_shards(str(tmp_path / "set.jsonl"), str(tmp_path / "out"), 60_000)
        web.fault = lambda request: 0
        written = write_shards(str(tmp_path / "set.jsonl"), str(tmp_path / "out"), 60_000)
    assert (written.utterances, written.failures) == (len(utterances), {})


def test_force_removes_shards_alone(corpus, tmp_path):
    (tmp_path / "photos.tar").write_bytes(b"mine")
    (tmp_path / "00009.tar").write_bytes(b"a shard of before")
    write_shards(str(corpus / "train.jsonl"), str(tmp_path), 10**9, force=True)
    assert {"photos.tar", "00000.tar"} <= set(os.listdir(tmp_path))
    assert not (tmp_path / "00009.tar").exists()
