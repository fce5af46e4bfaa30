"""Where the compiled kernels of the search are kept (asr/decode/compiled.py)."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = """
from asr.decode.compiled import keep
import numba

@keep
@numba.njit
def double(x):
    return 2 * x

print(double(21), sum(double.stats.cache_hits.values()))
"""


@pytest.fixture
def run(tmp_path):
    """``run(**environment)`` runs a kernel of its own in a new process, with a cache folder of its own."""
    module = tmp_path / "module" / "kernels.py"
    module.parent.mkdir()
    module.write_text(MODULE)

    def start(path=module, **environment):
        known = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
        known |= {
            "ASR_KERNELS": "numba",
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            **environment,
        }
        return subprocess.run([sys.executable, path], env=known, capture_output=True, text=True, check=True)

    return start


def test_compiled_kernels_go_to_the_users_cache_folder_and_not_beside_the_module(run, tmp_path):
    assert run().stdout == "42 0\n"
    assert list((tmp_path / "cache").rglob("*.nbc"))
    assert not list((tmp_path / "module").rglob("*.nb?"))
    assert run().stdout == "42 1\n"


def test_the_user_may_name_another_folder(run, tmp_path):
    run(NUMBA_CACHE_DIR=str(tmp_path / "named"))
    assert list((tmp_path / "named").rglob("*.nbc"))
    assert not (tmp_path / "cache").exists()


def test_two_installs_keep_their_kernels_apart(run, tmp_path):
    other = tmp_path / "other" / "kernels.py"
    other.parent.mkdir()
    other.write_text(MODULE.replace("2 * x", "x + x  # another source, another stamp"))
    for path in (tmp_path / "module" / "kernels.py", other):
        assert run(path).stdout == "42 0\n"
    for path in (tmp_path / "module" / "kernels.py", other):
        assert run(path).stdout == "42 1\n"


def test_without_a_folder_that_can_be_written_the_search_runs_and_a_note_says_why_it_starts_slowly(run, tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    ran = run(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert ran.stdout == "42 0\n"
    assert ran.stderr.count("note: ") == 1
    assert "NUMBA_CACHE_DIR" in ran.stderr


@pytest.mark.parametrize("name", ["_SourceFileBackedLocatorMixin", "CompileResultCacheImpl"])
def test_a_numba_that_keeps_kernels_otherwise_compiles_anew_and_a_note_says_so(run, tmp_path, name):
    path = tmp_path / "newer" / "kernels.py"
    path.parent.mkdir()
    path.write_text(f"import numba, numba.core.caching\ndel numba.core.caching.{name}\n{MODULE}")
    ran = run(path)
    assert ran.stdout == "42 0\n"
    assert ran.stderr.count("note: ") == 1
    assert f"note: numba {version('numba')} is not one of" in ran.stderr


def test_kernels_are_compiled_anew_when_another_module_of_the_search_has_changed(run, tmp_path):
    path = tmp_path / "module" / "kernels.py"
    path.write_text(
        f"import os\nfrom asr.decode import compiled\ncompiled._sources = lambda: os.environ['SOURCES']\n{MODULE}"
    )
    assert [run(SOURCES=sources).stdout for sources in ("one", "one", "another")] == ["42 0\n", "42 1\n", "42 0\n"]


SLOW = """
from asr.decode.compiled import keep
import numba
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def double(x):
    return 2 * x

double = keep(numba.njit(double), slow=True)

if __name__ == "__main__":
    WORK
"""


def test_a_line_says_when_a_slow_kernel_is_compiled_and_none_when_it_is_there(run, tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(SLOW.replace("WORK", "print(double(21))"))
    assert run(path).stderr == "compiling the search for this machine, once: 5 to 10 s\n"
    assert run(path).stderr == ""


def test_of_several_workers_the_first_alone_says_that_it_compiles(run, tmp_path):
    path = tmp_path / "slow.py"
    pools = "; ".join(
        f"p{i} = ProcessPoolExecutor(1, get_context('spawn')); f{i} = p{i}.submit(work, 21)" for i in range(3)
    )
    ends = "; ".join(f"print(f{i}.result()); p{i}.shutdown()" for i in range(3))
    work = "def work(x):\n    return double(x)\n\nif __name__"
    path.write_text(SLOW.replace("if __name__", work).replace("WORK", f"{pools}; {ends}"))
    ran = run(path)
    assert ran.stdout == "42\n42\n42\n"
    assert ran.stderr.count("compiling") <= 1  # none where another worker was the first to compile


@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_is_compiled_anew(run, tmp_path, kind):
    run()
    for path in (tmp_path / "cache").rglob(kind):
        path.write_bytes(path.read_bytes()[:40])
    assert run().stdout == "42 0\n"
    assert run().stdout == "42 1\n"


OVERLOADS = 5
RIVALS = """
import sys
import numpy as np

for power in range(int(sys.argv[1]), OVERLOADS, 2):
    double(np.zeros((1,) * power))
print(sum(double.stats.cache_misses.values()))
"""


def test_processes_that_compile_at_once_lose_nothing_of_one_another(run, tmp_path):
    path = tmp_path / "module" / "rivals.py"
    path.write_text(MODULE.rpartition("print")[0] + RIVALS.replace("OVERLOADS", str(OVERLOADS)))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    rivals = [subprocess.Popen([sys.executable, path, start], env=environment) for start in "12"]
    assert [rival.wait() for rival in rivals] == [0, 0]
    for start in "12":
        again = subprocess.run([sys.executable, path, start], env=environment, capture_output=True, text=True)
        assert again.stdout == "0\n", again.stderr


def test_the_kernels_of_the_search_are_kept_so():
    pytest.importorskip("numba")
    from asr.decode import kernel
    from asr.decode.built_kernels import find_library
    from asr.decode.compiled import _cache_class

    if find_library() is not None:
        pytest.skip("this tree has the library of the kernels")

    assert isinstance(kernel.search._cache, _cache_class())
