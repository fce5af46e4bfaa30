"""Recognition on Ray: the same texts, every recording once, whatever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from archives import make_archive
from hypothesis import given, settings
from hypothesis import strategies as st
from mortal_actors import (
    LATE,
    DoomedRecognizer,
    FaultyRecognizer,
    GatedRecognizer,
    MortalRecognizer,
    QuickRecognizer,
    StillbornRecognizer,
    checksum,
)

from asr.errors import AsrError, AudioError, ConfigError
from asr.recognize import archive, batch_inputs, ray_cluster, ray_engine, ray_stages
from asr.recognize.ray_cluster import Capacity
from asr.recognize.ray_engine import RayEngine
from asr.recognize.ray_stages import NamedRecording
from asr.recognize.recording import Recording
from asr.recognize.result_parts import read_results

ray = pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)  # Ray starts a dozen processes of Python
COUNT = 12
STORE_BYTES = 100_000_000
KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 600_000}
"""Processes that have read stay for the next test."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Ray with two machines of one processor each, on this one."""
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("ray")
    patch = pytest.MonkeyPatch()
    patch.setenv("ASR_TEST_FOLDER", str(folder))
    patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # for mortal_actors
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    place = tempfile.mkdtemp(prefix="ray")  # not of pytest: names of sockets have at most 107 bytes
    size = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    first = {**size, "include_dashboard": False, "temp_dir": place, "_system_config": KEEP_WORKERS}
    made = Cluster(initialize_head=True, head_node_args=first)
    try:
        made.asr_folder = folder
        made.asr_second = made.add_node(**size)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        shutil.rmtree(place, ignore_errors=True)
        patch.undo()


@pytest.fixture(scope="module")
def speech(tmp_path_factory, bursts, write_wav):
    """A folder with recordings, the first of which is none."""
    folder = tmp_path_factory.mktemp("speech")
    for index in range(1, COUNT):
        write_wav(folder / f"{index:02}.wav", bursts(0.5 + 0.1 * (index % 7), seed=index))
    (folder / "00.wav").write_text("no audio")
    return folder


@pytest.fixture(scope="module")
def expected(speech, recognizer):
    """By id: what actors without a network give."""
    found = {}
    for index in range(1, COUNT):
        recording = Recording.of(speech / f"{index:02}.wav")
        found[f"{index:02}.wav"] = checksum(recognizer.reader.samples(recording).astype("float32"))
    return found


def texts(folder):
    """By id; every id must be there once."""
    found = list(read_results(folder))
    assert len({result["id"] for result in found}) == len(found)
    return {result["id"]: result["text"] for result in found}


def failures(folder):
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def archived(speech, model_dir, output, **options):
    return archive.transcribe_archive(
        [str(speech)], output, engine="ray", model=str(model_dir), device="cpu", part_recordings=5, **options
    )


@pytest.fixture
def rows_of_one(monkeypatch):
    """Blocks of one recording each, so that a few recordings are many tasks."""
    monkeypatch.setattr(ray_engine, "BLOCK_ROWS", 1)


def test_texts_are_those_of_one_process_and_a_bad_file_fails_alone(cluster, speech, recognizer, model_dir, tmp_path):
    outcome = archived(speech, model_dir, tmp_path / "out")
    good = [f"{index:02}.wav" for index in range(1, COUNT)]
    assert texts(tmp_path / "out") == {name: recognizer.transcribe(speech / name).text for name in good}
    assert outcome.done == COUNT - 1
    assert [failure["id"] for failure in failures(tmp_path / "out")] == ["00.wav"]
    assert "cannot be decoded" in outcome.failures[0]


def test_an_actor_that_dies_loses_nothing(cluster, speech, expected, model_dir, tmp_path, monkeypatch, rows_of_one):
    monkeypatch.setattr(ray_engine, "RayRecognizer", MortalRecognizer)
    outcome = archived(speech, model_dir, tmp_path / "out")
    assert (cluster.asr_folder / "died").exists()
    assert texts(tmp_path / "out") == expected
    assert len(outcome.failures) == 1


def test_a_recording_that_kills_every_actor_fails_alone(
    cluster, speech, expected, model_dir, tmp_path, monkeypatch, rows_of_one
):
    monkeypatch.setattr(ray_engine, "RayRecognizer", DoomedRecognizer)
    outcome = archived(speech, model_dir, tmp_path / "out")
    assert texts(tmp_path / "out") == {id: text for id, text in expected.items() if id != f"{LATE:02}.wav"}
    assert sorted(failure["id"] for failure in failures(tmp_path / "out")) == ["00.wav", f"{LATE:02}.wav"]
    assert any("died, 3 times (out of memory?)" in failure for failure in outcome.failures)


def test_a_fault_of_ours_fails_one_recording_alone(cluster, speech, expected, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "RayRecognizer", FaultyRecognizer)
    archived(speech, model_dir, tmp_path / "out")
    assert texts(tmp_path / "out") == {id: text for id, text in expected.items() if id != f"{LATE:02}.wav"}
    reasons = {failure["id"]: failure["error"] for failure in failures(tmp_path / "out")}
    assert reasons.keys() == {"00.wav", f"{LATE:02}.wav"}
    assert "a fault of this program ended its recognition: ZeroDivisionError: a fault" in reasons[f"{LATE:02}.wav"]


def test_a_fault_in_every_recording_ends_the_work_after_one_round(monkeypatch):
    monkeypatch.setattr(ray_engine, "ALONE", 3)
    fault = ray_stages.pickle_error(ZeroDivisionError("a fault"))
    rounds = []

    def one_round(waiting, *_, **options):
        rounds.append(len(waiting))
        return [ray_stages.RayResult(number, ray_stages.ERROR, fault, 0.0, "") for number in waiting]

    engine = object.__new__(RayEngine)
    monkeypatch.setattr(engine, "_round", one_round)
    work = {number: NamedRecording(str(number), Recording(None, str(number))) for number in range(4)}
    with pytest.raises(AsrError, match="ended the recognition of all 4 recordings: ZeroDivisionError: a fault"):
        list(engine._window(work, None, True))
    assert rounds == [4]


def test_actors_that_cannot_load_the_model_end_the_work_with_advice(
    cluster, speech, model_dir, tmp_path, monkeypatch, rows_of_one
):
    monkeypatch.setattr(ray_engine, "RayRecognizer", StillbornRecognizer)
    with pytest.raises(AsrError, match=r"ended 3 times while it loaded the model.*; if memory ran out, use"):
        archived(speech, model_dir, tmp_path / "out", jobs=1)


DRIVER = """
import sys
import ray
sys.path.insert(0, sys.argv[1])
import mortal_actors
from asr.recognize import archive, ray_engine
ray_engine.BLOCK_ROWS = 1
ray_engine.RayRecognizer = mortal_actors.GatedRecognizer
_, _, address, speech, model, output = sys.argv
archive.transcribe_archive([speech], output, engine="ray", ray_address=address, model=model, device="cpu",
                           part_recordings=3)
"""


def test_a_killed_driver_is_resumed_with_every_id_once(
    cluster, speech, expected, model_dir, tmp_path, monkeypatch, rows_of_one
):
    gate = cluster.asr_folder / "open"
    gate.unlink(missing_ok=True)
    out = tmp_path / "out"
    arguments = [Path(__file__).parent, cluster.address, speech, model_dir, out]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, arguments)])
    while not list(out.glob("part-*.jsonl")):
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    before = {path: path.read_bytes() for path in out.glob("part-*.jsonl")}
    gate.touch()
    monkeypatch.setattr(ray_engine, "RayRecognizer", QuickRecognizer)
    kept = texts(out)
    assert 0 < len(kept) <= LATE
    outcome = archived(speech, model_dir, out, resume=True)
    assert outcome.skipped == len(kept)
    assert texts(out) == expected
    assert all(path.read_bytes() == content for path, content in before.items())


def test_label_and_evaluate_give_the_same_on_ray(cluster, speech, model_dir, recognizer, tmp_path):
    from asr.data import manifest
    from asr.evaluation.model_scores import evaluate_model
    from asr.train.pseudo_labels import label_recordings

    engine = RayEngine({"model": str(model_dir), "device": "cpu"}, actors=1)
    options = {"least_confidence": 0.0}
    alone = label_recordings([str(speech)], recognizer, tmp_path / "alone.jsonl", **options)
    on_ray = label_recordings(
        [str(speech)], recognizer, tmp_path / "ray.jsonl", transcribe=engine.transcribe_many, **options
    )
    assert manifest.read_manifest(tmp_path / "ray.jsonl") == manifest.read_manifest(tmp_path / "alone.jsonl")
    assert on_ray.failures == alone.failures
    first = evaluate_model(tmp_path / "alone.jsonl", recognizer)
    second = evaluate_model(tmp_path / "alone.jsonl", recognizer, transcribe=engine.transcribe_many)
    assert second.report == first.report


def test_recordings_of_archives_are_read_by_tasks(
    cluster, speech, expected, model_dir, tmp_path, monkeypatch, rows_of_one
):
    monkeypatch.setattr(ray_engine, "RayRecognizer", QuickRecognizer)
    monkeypatch.chdir(tmp_path)
    files = {path.name: path.read_bytes() for path in sorted(speech.iterdir())}
    for kind in ("zip", "tar", "tar.gz"):
        (tmp_path / f"calls.{kind}").write_bytes(make_archive(kind, {f"{kind}/{name}": d for name, d in files.items()}))
    jobs, problems = batch_inputs.find_jobs(["calls.zip", "calls.tar", "calls.tar.gz"])
    assert problems == []
    cut = list(ray_engine._cut(enumerate(NamedRecording(job.id, job.item) for job in jobs), 1))
    assert [len(part) for part in cut] == [1] * (2 * COUNT) + [COUNT]  # a compressed archive is one task's
    engine = RayEngine({"model": str(model_dir), "device": "cpu"}, actors=1)
    found = {item.name: result for item, result in engine.transcribe_many([job.item for job in jobs])}
    for kind in ("zip", "tar", "tar.gz"):
        for name in files:
            result = found[f"calls.{kind}/{kind}/{name}"]
            assert str(result) == expected[name] if name in expected else isinstance(result, AudioError)


def test_inputs_that_a_machine_does_not_see_are_named_with_it(cluster, speech, model_dir, monkeypatch):
    def blind(paths):
        return {"version": "0.1.0", "missing": [path for path in paths if path.endswith("01.wav")]}

    monkeypatch.setattr(ray_stages, "inspect_node", blind)
    with pytest.raises(ConfigError, match=r"machine .* of the cluster does not see .*01\.wav; put files where every"):
        ray_cluster.check_nodes([str(speech / "01.wav")])


def test_a_machine_that_dies_during_the_check_is_left_out(cluster, monkeypatch):
    real, gone = ray_cluster.alive_nodes, [{"NodeID": "ab" * 28, "NodeManagerAddress": "gone", "Alive": True}]
    monkeypatch.setattr(ray_cluster, "alive_nodes", lambda: real() + [gone.pop()] if gone else real())
    ray_cluster.check_nodes([])
    assert not gone


def test_a_machine_that_stays_and_cannot_run_the_check_is_named(cluster, monkeypatch):
    real, sick = ray_cluster.alive_nodes, {"NodeID": "ab" * 28, "NodeManagerAddress": "sick", "Alive": True}
    monkeypatch.setattr(ray_cluster, "GONE_S", 0.0)
    monkeypatch.setattr(ray_cluster, "alive_nodes", lambda: [*real(), sick])
    with pytest.raises(ConfigError, match=r"machine sick .* of the cluster cannot run this package"):
        ray_cluster.check_nodes([])


def test_a_cluster_without_the_memory_of_a_model_is_refused(cluster, model_dir):
    with pytest.raises(ConfigError, match=r"needs about 10000\.0 GB of memory, and no machine of the cluster has that"):
        ray_cluster.capacity("cpu", 10**13, None)


def test_a_gpu_is_refused_where_the_cluster_has_none(cluster):
    with pytest.raises(ConfigError, match="--device cuda: expected a cluster with GPUs, got none"):
        ray_cluster.capacity("cuda", 1, None)


def test_a_recording_in_memory_is_refused(cluster, model_dir):
    engine = RayEngine({"model": str(model_dir), "device": "cpu"})
    with pytest.raises(ConfigError, match="tone: expected a file, which other machines can open, got bytes"):
        list(engine.results([NamedRecording("tone", Recording(b"", "tone"))], lines=True))


def test_a_machine_that_dies_loses_nothing(cluster, speech, expected, model_dir, monkeypatch, rows_of_one):
    """Last, since the cluster has one machine less afterwards."""
    gate = cluster.asr_folder / "open"
    gate.unlink(missing_ok=True)
    monkeypatch.setattr(ray_engine, "RayRecognizer", GatedRecognizer)
    jobs, _ = batch_inputs.find_jobs([str(speech)])
    engine = RayEngine({"model": str(model_dir), "device": "cpu"})
    found = []
    for recording, result in engine.transcribe_many([job.item for job in jobs]):
        if not found:
            cluster.remove_node(cluster.asr_second, allow_graceful=False)
            gate.touch()
        found.append((Path(recording.source).name, result))
    assert len(found) == len({name for name, _ in found}) == COUNT
    assert {name: str(result) for name, result in found if not isinstance(result, AudioError)} == expected


def test_each_round_has_the_room_that_is_left(model_dir, monkeypatch):
    rooms = [Capacity(2, False), ConfigError("expected a machine with room, got none"), Capacity(1, False)]
    seen = []

    def room(*_):
        found = rooms.pop(0)
        if isinstance(found, ConfigError):
            raise found
        return found

    def lost(waiting, room, lines, *, alone):
        seen.append(room.actors)
        waiting.popitem()
        raise ray.exceptions.RayError("a machine has gone")

    monkeypatch.setattr(ray_cluster, "capacity", room)
    engine = RayEngine({"model": str(model_dir), "device": "cpu"})
    monkeypatch.setattr(engine, "_round", lost)
    waiting = {number: NamedRecording(str(number), Recording(b"", str(number))) for number in range(4)}
    assert [result.number for result in engine._window(waiting, engine._room(), lines=True)] == [0]
    assert seen == [2, 2, 1]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"expected Ray Data, got no package ray; .*recurrent-asr\[ray\]"):
        ray_cluster.require_ray()


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999", "ray://host:10001"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match=r"--ray-address.*expected HOST:PORT"):
        ray_cluster._check_address(address)


def test_no_cluster_at_the_address():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"--ray-address {address}: no cluster answers"):
            ray_cluster._check_address(address)


@settings(max_examples=30)
@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_blocks_hold_every_recording_in_order(items, size):
    parts = list(ray_engine._cut(enumerate(items), size, together=False))
    assert [pair for part in parts for pair in part] == list(enumerate(items))
    assert all(0 < len(part) <= size for part in parts)
