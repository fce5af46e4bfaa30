"""Processors by affinity and control group, memory, threads by OMP_NUM_THREADS, waiting that leaves room for others."""

import os
import subprocess
import sys

import pytest

from asr.cli import main
from asr.config import cpus


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
          "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n"}, 1),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/docker/1\n2:memory:/x\n",
          "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"proc/self/cgroup": "nonsense\n0::/../..\n", "sys/fs/cgroup/cpu.max": "²\n"}, None),
    ],
)  # fmt: skip
def test_the_quota_of_control_groups(tmp_path, files, quota):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpus._quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("group", "file", "content", "memory"),
    [
        ("0::/a\n", "a/memory.max", "2000000\n", 2_000_000),
        ("0::/\n", "memory.max", "max\n", None),
        ("4:memory:/\n", "memory/memory.limit_in_bytes", "3000000\n", 3_000_000),
        ("4:memory:/\n", "memory/memory.limit_in_bytes", f"{2**63 - 4096}\n", None),
    ],
)
def test_memory_is_that_of_the_control_group_where_that_is_less(tmp_path, group, file, content, memory):
    place = tmp_path / "sys/fs/cgroup" / file
    place.parent.mkdir(parents=True)
    place.write_text(content)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    assert cpus.memory_bytes(tmp_path) == (memory or cpus.memory_bytes(tmp_path / "nothing"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_that_is_bound_to_one_processor_has_one():
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from asr.config import cpus; print(cpus.available())"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "1"


def test_the_quota_limits_what_there_is(monkeypatch):
    monkeypatch.setattr(cpus, "_quota", lambda root: 1)
    assert cpus.available() == 1


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("3,2", 3), ("x", 4), ("", 4), ("0", 4), (None, 4)])
def test_threads_are_the_users_or_a_part_of_the_processors(monkeypatch, value, threads):
    monkeypatch.setattr(cpus, "available", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cpus.threads(2) == threads


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(cpus, "_quota", lambda root: 1)
    for name, value in (("OMP_NUM_THREADS", "7"), ("OMP_WAIT_POLICY", "ACTIVE")):
        monkeypatch.setenv(name, value)
    cpus.settle()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("7", "ACTIVE")


def test_several_processes_share_what_was_settled_for_one(monkeypatch):
    monkeypatch.setattr(cpus, "_settled", None)
    monkeypatch.setattr(cpus, "_quota", lambda root: 4)
    monkeypatch.setattr(cpus, "available", lambda: 4)
    # Set before it is deleted, so that what settle() puts there goes at the end.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.delenv("OMP_NUM_THREADS")
    cpus.settle()
    assert (os.environ["OMP_NUM_THREADS"], cpus.threads(2)) == ("4", 2)


@pytest.mark.parametrize(("awake", "policy"), [(False, "PASSIVE"), (True, None)])
def test_waiting_threads_sleep_save_in_training(monkeypatch, awake, policy):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    cpus.settle(awake=awake)
    assert os.environ.pop("OMP_WAIT_POLICY", None) == policy


def test_only_the_training_commands_keep_threads_awake():
    verbs = ["train", "train-lm", "transcribe", "label --output o", "align a"]
    assert [verb for verb in verbs if main.parse_arguments([*verb.split(), "x"]).awake] == ["train", "train-lm"]


def test_the_command_line_limits_threads_before_torch_loads():
    program = (
        "import os, sys; from asr.config import cpus; from asr.cli import main;"
        "cpus._quota = lambda root: 1; cpus.available = lambda: 1;"
        "main.run_command(['recipes']); assert 'torch' not in sys.modules; import torch; print(torch.get_num_threads())"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-1] == "1"
