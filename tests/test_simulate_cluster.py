"""``tools/simulate_cluster.py``: cases whose answer is known in closed form, and the tables of docs/scaling.md."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


model = load("cluster_model")
simulate_cluster = load("simulate_cluster")
COSTS = model.Costs(decode=[0.0], network=[0.008], search=[0.002], bytes_per_s=1000)
QUIET = model.Bucket(latency_s=0.0)


def machines(count=1, actors=2, readers=4, **options):
    return model.Machines(count, actors, readers, 4, **{"start_s": 0.0, **options})


def seconds(work, shape, bucket=QUIET, engine="ray", costs=COSTS):
    return model.TranscriptionModel(work, costs, shape, bucket, engine).run()


@pytest.mark.parametrize("engine", ["ray", "torchrun"])
def test_a_machine_without_faults_takes_work_over_speed(engine):
    work = model.Work(blocks=60, block_s=100.0)
    found = seconds(work, machines(), engine=engine)
    assert found.seconds == pytest.approx(60 * 100 / (2 * COSTS.speed()))
    assert found.bottlenecks()[0] == ("actors", pytest.approx(1.0))


def test_a_start_comes_before_the_work():
    work = model.Work(blocks=4, block_s=100.0)
    assert seconds(work, machines(start_s=30.0)).seconds == pytest.approx(30 + 2 * 100 / COSTS.speed())


def test_the_bytes_of_a_bucket_bind_where_they_are_computed_to():
    """Eight actors take 80 s for each 8,000 s of audio; the pipe takes twice as long."""
    work = model.Work(blocks=4000, block_s=100.0)
    limit = 1000 * 8 * COSTS.speed() / 2
    found = seconds(work, machines(count=4), model.Bucket(0.0, bytes_per_s=limit))
    assert found.seconds == pytest.approx(4000 * 100 * 1000 / limit, rel=0.01)
    assert found.bottlenecks()[0][0] == "bucket bytes"
    assert dict(found.bottlenecks())["actors"] == pytest.approx(0.5, rel=0.01)


def test_the_requests_of_a_bucket_bind_for_short_recordings():
    work = model.Work(blocks=400, block_s=100.0, recording_s=0.5)
    found = seconds(work, machines(count=4), model.Bucket(0.0, requests_per_s=100.0))
    assert found.seconds == pytest.approx(400 * 200 / 100, rel=0.01)
    assert found.bottlenecks()[0][0] == "bucket requests"


def test_latency_binds_where_too_few_readers_wait_for_it():
    """A reader has one request at a time: 4 readers, 10 recordings in a block, 5 s each."""
    work = model.Work(blocks=80, block_s=100.0, recording_s=10.0)
    found = seconds(work, machines(actors=100), model.Bucket(latency_s=5.0))
    assert found.seconds == pytest.approx(80 * 10 * 5 / 4 + 100 / COSTS.speed(), rel=0.01)
    assert found.bottlenecks()[0][0] == "readers"


def test_a_driver_binds_where_results_are_many():
    work = model.Work(blocks=100, block_s=100.0, recording_s=1.0, driver_s=0.05)
    found = seconds(work, machines(count=10))
    assert found.seconds == pytest.approx(100 * 100 * 0.05, rel=0.02)
    assert found.bottlenecks()[0][0] == "driver"


def test_slow_machines_delay_torchrun_by_their_factor_and_ray_by_their_share():
    work = model.Work(blocks=20_000, block_s=100.0)
    shape = machines(count=10, slow_share=0.1, slow_factor=3.0)
    alone = 20_000 * 100 / (20 * COSTS.speed())
    assert seconds(work, shape, engine="torchrun").seconds == pytest.approx(3 * alone)
    assert seconds(work, shape).seconds == pytest.approx(alone * 10 / (9 + 1 / 3), rel=0.02)


def test_blocks_of_failed_machines_are_done_again():
    work = model.Work(blocks=2000, block_s=100.0)
    found = seconds(work, machines(count=4, failures_per_h=10.0, start_s=5.0))
    assert found.lost > 0
    assert found.seconds > seconds(work, machines(count=4, start_s=5.0)).seconds
    # Every failure loses at most what a machine holds, and its start.
    assert found.audio_s == 2000 * 100


def test_more_machines_do_not_help_beyond_the_limit_of_a_bucket():
    work = model.Work(blocks=2000, block_s=100.0)
    bucket = model.Bucket(0.0, bytes_per_s=1e6)
    speeds = [seconds(work, machines(count=count), bucket).speed for count in (2, 20, 40)]
    assert speeds[1] == pytest.approx(1000.0, rel=0.02)
    assert speeds[2] == pytest.approx(speeds[1], rel=0.02)
    assert speeds[0] < speeds[1] / 2


def test_one_trainer_without_faults_is_as_fast_as_its_device():
    assert model.Training(1, 5000.0).total_speed() == pytest.approx(5000.0)


def test_gradients_cost_what_the_ring_of_messages_takes():
    made = model.Training(4, 1000.0, batch_s=100.0, parameters=1e6, link_bytes_per_s=1e8)
    assert made.step_s() == pytest.approx(0.1 + 2 * 3 / 4 * 4e6 / 1e8)
    assert dataclasses.replace(made, overlap=1.0).total_speed() == pytest.approx(4000.0)


def test_failures_cost_half_an_interval_of_checkpoints_and_a_restart():
    made = model.Training(10, 1000.0, failures_per_h=0.36, checkpoint_s=100.0, restart_s=50.0)
    assert made.kept() == pytest.approx(1 - 0.36 * 10 / 3600 * 100)


def test_the_tables_of_the_page_are_those_of_the_tool():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert simulate_cluster.tables() in page


def test_a_scenario_says_what_binds(capsys):
    arguments = ["run", "--machines", "4", "--hours", "1000", "--gigabytes", "0.001", "--failures", "0"]
    assert simulate_cluster.main(arguments) == 0
    assert "bucket bytes bind; next" in capsys.readouterr().out


def test_measuring_writes_costs_of_each_kind(tmp_path, model_dir, bursts, write_wav):
    write_wav(tmp_path / "a.wav", bursts(2.0, seed=1))
    output = tmp_path / "measured.json"
    simulate_cluster.measure([str(tmp_path / "a.wav")], str(model_dir), output)
    found = json.loads(output.read_text())
    assert all(value > 0 for kind in ("decode", "network", "search") for value in found[kind])
    assert found["bytes_per_s"] == pytest.approx(32000, rel=0.01)


@pytest.mark.parametrize(
    "option", ["--machines 0", "--recording-s 0", "--slow x", "--slow 2,1", "--slow 0.1,0.5", "--gigabytes 0"]
)
def test_impossible_clusters_are_refused_with_what_is_expected(option, capsys):
    with pytest.raises(SystemExit) as ended:
        simulate_cluster.main(["run", *option.split()])
    assert ended.value.code == 2
    assert f"argument {option.split()[0]}: expected" in capsys.readouterr().err
