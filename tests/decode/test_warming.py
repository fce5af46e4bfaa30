"""``asr warm-up``: the search compiled ahead (asr/decode/warming.py)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asr.decode import warming

ROOT = Path(__file__).parents[2]


def environment(cache):
    return os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache), "ASR_KERNELS": "numba"}


def run(cache, *args):
    command = [sys.executable, "-m", "asr.cli", *args]
    return subprocess.run(command, env=environment(cache), capture_output=True, text=True)


@pytest.fixture(scope="module")
def warmed(tmp_path_factory):
    """A cache folder that ``asr warm-up`` has filled, and what it said."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(cache, "warm-up")


def test_it_says_that_it_compiles_and_where_what_it_has_compiled_lies(warmed):
    cache, ran = warmed
    assert ran.returncode == 0
    assert ran.stderr == "compiling the search for this machine, once: 5 to 10 s\n"
    assert ran.stdout.startswith(str(cache))


def test_it_is_silent_where_all_is_there(warmed):
    ran = run(warmed[0], "warm-up")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_it_compiles_the_search_of_graphs_of_phrases_on_demand(warmed, tmp_path):
    shutil.copytree(warmed[0], tmp_path, dirs_exist_ok=True)
    ran = run(tmp_path, "warm-up", "--phrases")
    assert ran.returncode == 0, ran.stderr
    (tmp_path / "templates").write_text("enter {digits 5}\n")
    heard = run(tmp_path, "transcribe", "--phrases", str(tmp_path / "templates"), str(ROOT / "egs" / "sample.wav"))
    assert heard.returncode == 0, heard.stderr
    assert "compiling" not in heard.stderr


@pytest.mark.parametrize("command", [("transcribe",), ("stream", "--model", "stream")])
def test_the_bundled_models_compile_nothing_after_it(warmed, command):
    before = sorted(warmed[0].rglob("*.nbc"))
    ran = run(warmed[0], *command, str(ROOT / "egs" / "sample.wav"))
    assert ran.returncode == 0, ran.stderr
    assert "compiling" not in ran.stderr
    assert sorted(warmed[0].rglob("*.nbc")) == before


def test_it_compiles_all_by_itself_where_no_other_process_can_be_started(tmp_path):
    code = "import sys; sys.executable = '/no/python'; from asr.decode.warming import warm_up; warm_up()"
    subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), check=True)
    assert len(list(tmp_path.rglob("kernel.search-*.nbc"))) == 2


@pytest.mark.parametrize(("cores", "starts"), [(1, 0), (2, 1)])
def test_another_process_is_started_where_two_cores_may_be_used(tmp_path, cores, starts):
    code = f"""
from asr.decode import warming
started = []
warming.cpus.available = lambda: {cores}
warming._start_python = started.append  # starts nothing
with warming._other_process() as counts:
    assert counts == []
assert len(started) == {starts}, started
"""
    subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), check=True)


@pytest.mark.parametrize(
    ("program", "frozen"), [(None, False), ("", False), ("/usr/bin/blender", False), (sys.executable, True)]
)
def test_a_program_that_has_python_in_it_is_not_started_again(monkeypatch, program, frozen):
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    assert warming._start_python("print(1)") is None


def test_the_other_process_has_the_modules_of_this_one_and_none_of_the_working_directory(monkeypatch, tmp_path):
    for place in ("with a space", "here"):
        (tmp_path / place).mkdir()
    (tmp_path / "with a space" / "known_to_the_parent.py").write_text("print(31)")
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('a module of the working directory')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path), str(tmp_path / "with a space"), tmp_path])
    child = warming._start_python("import known_to_the_parent, json")
    assert child is not None
    assert child.communicate()[0].split() == [b"31"]
    assert child.returncode == 0


def test_without_a_folder_that_can_be_written_it_fails_and_says_how_to_name_another(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    ran = run(tmp_path / "file", "warm-up")
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr
    assert "NUMBA_CACHE_DIR" in ran.stderr.splitlines()[-1]
