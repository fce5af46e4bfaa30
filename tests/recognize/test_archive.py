"""Archives in parts, without Ray: the command and the call, shares of processes, ids."""

from __future__ import annotations

import json
import shutil

import pytest

from asr.cli.main import run_command
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, AudioError, ConfigError
from asr.recognize import archive, batch_inputs
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording
from asr.recognize.result_parts import read_results

COUNT = 9


@pytest.fixture(scope="module")
def speech(tmp_path_factory, bursts, write_wav):
    folder = tmp_path_factory.mktemp("speech")
    for index in range(1, COUNT):
        write_wav(folder / "deep" / f"{index}.wav", bursts(0.5 + 0.1 * (index % 7), seed=index))
    (folder / "deep" / "bad.wav").write_text("no audio")
    return folder


@pytest.fixture(scope="module")
def expected(speech, recognizer):
    return {f"deep/{index}.wav": recognizer.transcribe(speech / f"deep/{index}.wav").text for index in range(1, COUNT)}


def run(*arguments):
    return run_command([str(argument) for argument in ("transcribe", *arguments)])


def texts(folder):
    found = list(read_results(folder))
    assert len({result["id"] for result in found}) == len(found)
    return {result["id"]: result["text"] for result in found}


def test_a_folder_becomes_parts_and_failures_are_listed(speech, expected, model_dir, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(speech, "--output", out, "--model", model_dir) == 1
    assert texts(out) == expected
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failure["id"] == "deep/bad.wav"
    assert "cannot be decoded" in failure["error"]
    counts = json.loads((out / "summary.json").read_text())
    assert (counts["done"], counts["skipped"], counts["failed"]) == (COUNT - 1, 0, 1)
    assert f"{COUNT - 1} recordings transcribed, 0 were there, 1 failed" in capsys.readouterr().out


def test_a_run_is_resumed_with_what_is_missing(speech, expected, model_dir, tmp_path):
    out = tmp_path / "out"
    some = tmp_path / "some"
    shutil.copytree(speech, some, ignore=shutil.ignore_patterns("[1-4].wav", "bad.wav"))
    first = archive.transcribe_archive([str(some)], out, model=str(model_dir))
    second = archive.transcribe_archive([str(speech)], out, model=str(model_dir), resume=True)
    assert (first.done, second.done, second.skipped) == (4, 4, 4)
    assert texts(out) == expected


def test_processes_of_torchrun_write_every_recording_once(speech, expected, model_dir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "2")
    statuses = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        statuses.append(run(speech, "--output", out, "--model", model_dir))
    assert sorted(statuses) == [0, 1]
    assert texts(out) == expected
    counts = [json.loads((out / f"summary.{n}-of-2.json").read_text())["done"] for n in (1, 2)]
    assert sum(counts) == COUNT - 1
    assert min(counts) > 0


def test_a_file_that_appears_moves_no_other_to_another_process(speech, tmp_path):
    """Each process lists the folder at a moment of its own."""
    other = tmp_path / "copy"
    shutil.copytree(speech, other)
    before = {job.id: job.place for job in batch_inputs.find_jobs([str(other)])[0]}
    shutil.copy(speech / "deep" / "1.wav", other / "deep" / "0.wav")
    after = {job.id: job.place for job in batch_inputs.find_jobs([str(other)])[0]}
    assert {id: after[id] for id in before} == before
    assert len(after) == len(before) + 1


def test_utterances_of_a_manifest_are_shared_evenly(tmp_path):
    path = tmp_path / "all.jsonl"
    manifest.write_manifest(path, [Utterance(f"u{n}", f"/{n}.wav", "", 1.0) for n in range(6)])
    assert [job.place % 3 for job in batch_inputs.find_jobs([str(path)])[0]] == [0, 1, 2, 0, 1, 2]


def test_an_id_that_two_recordings_have_is_refused_before_any_work(speech, tmp_path):
    path = tmp_path / "one.jsonl"
    manifest.write_manifest(path, [Utterance("deep/1.wav", "/elsewhere.wav", "", 1.0)])
    with pytest.raises(ConfigError, match=r"expected each id once, got 'deep/1\.wav' for .*1\.wav and for /elsewhere"):
        archive.transcribe_archive([str(speech), str(path)], tmp_path / "out", model="no such model")
    assert not (tmp_path / "out").exists()


def test_an_id_that_is_no_utf8_is_refused_for_parquet_before_any_work(speech, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: ray)")
    shutil.copy(speech / "deep" / "1.wav", tmp_path / "caf\udce9.wav")
    with pytest.raises(ConfigError, match=r"parts parquet: expected ids in UTF-8, got 'caf\\udce9.wav'; rename"):
        archive.transcribe_archive([str(tmp_path)], tmp_path / "out", model="no such model", parts="parquet")


def test_force_is_refused_for_one_of_several_processes(speech, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"force: expected one process, got 2 \(WORLD_SIZE\)"):
        archive.transcribe_archive([str(speech)], tmp_path / "out", model="no such model", force=True)


def faulty(recordings):
    """Results of recordings in order; the code fails at those whose name is ``bad``."""
    for recording in recordings:
        if recording.name == "bad":
            raise ZeroDivisionError("a fault")
        yield recording, recording.name


def test_many_faults_in_a_row_end_the_run():
    items = [Recording(None, "good"), *(Recording(None, "bad") for _ in range(100))]
    done = []
    with pytest.raises(AsrError, match=r"20 recordings in a row failed; the last, .*ZeroDivisionError: a fault"):
        done.extend(archive._surviving(items, faulty, lambda one: next(faulty([one]))))
    assert len(done) == 1 + 19


def test_faults_with_results_between_them_do_not_end_the_run():
    items = [Recording(None, name) for name in ("bad", "good") * 50]
    results = [result for _, result in archive._surviving(items, faulty, lambda one: next(faulty([one])))]
    assert [isinstance(result, AudioError) for result in results] == [True, False] * 50


def test_channels_have_ids_of_their_own(tmp_path, bursts, write_wav, model_dir):
    import numpy as np

    write_wav(tmp_path / "two.wav", np.stack([bursts(1.0, seed=1), bursts(1.0, seed=2)], axis=1))
    archive.transcribe_archive([str(tmp_path / "two.wav")], tmp_path / "out", model=str(model_dir), split_channels=True)
    assert {(r["id"], r["channel"]) for r in read_results(tmp_path / "out")} == {("two.wav.ch1", 1), ("two.wav.ch2", 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ray"], "--engine ray: expected --output DIR"),
        (["--parts", "parquet"], "--parts: expected --output DIR as well"),
        (["--ray-address", "auto", "--output", "out"], "--ray-address: expected --engine ray as well"),
        (["--output", "out", "--format", "srt"], "--output: expected no --format"),
        (["--output", "out", "--output-dir", "other"], "--output: expected no --output-dir"),
    ],
)
def test_options_that_do_not_go_together(speech, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert run(speech, *options) == 2
    assert message in capsys.readouterr().err


def test_ray_under_torchrun_is_refused(speech, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="engine ray: expected one process, got several"):
        archive.transcribe_archive([str(speech)], tmp_path / "out", engine="ray")


def test_a_fault_of_ours_fails_one_recording_alone_with_its_place(speech, expected, model_dir, tmp_path, monkeypatch):
    decode = Recognizer._decode

    def faulty(self, waveforms, names, *rest):
        if any(name.endswith("3.wav") for name in names):
            raise ZeroDivisionError("a fault")
        return decode(self, waveforms, names, *rest)

    monkeypatch.setattr(Recognizer, "_decode", faulty)
    archive.transcribe_archive([str(speech)], tmp_path / "out", model=str(model_dir), device="cpu")
    assert texts(tmp_path / "out") == {id: text for id, text in expected.items() if id != "deep/3.wav"}
    failures = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    (reason,) = (failure["error"] for failure in failures if failure["id"] == "deep/3.wav")
    assert "a fault of this program" in reason
    assert "ZeroDivisionError: a fault (test_archive.py, line" in reason
