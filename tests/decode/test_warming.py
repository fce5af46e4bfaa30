"""``asr warm-up``: the search compiled ahead (asr/decode/warming.py)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_without_a_folder_that_can_be_written_it_fails_and_says_how_to_name_another(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    ran = run(tmp_path / "file", "warm-up")
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr
    assert "NUMBA_CACHE_DIR" in ran.stderr.splitlines()[-1]
