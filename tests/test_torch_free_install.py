"""The wheel, installed as users install it into an environment of its own, transcribes AN4 without torch and numba."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asr.decode.kernel_builder import can_build

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.timeout(3600)  # building compiles the search, and pip downloads: minutes where others work too
AN4_ERRORS = [62, 31]
"""Words of AN4's test set that the bundled model `an4` gets wrong with torch, greedily and as it decodes."""
EVALUATE = """
import json, sys
import asr
from asr.evaluation.model_scores import evaluate_model

reports = [evaluate_model(sys.argv[1], model).report for model in (asr.load("an4", beam=1), asr.load("an4"))]
errors = [report.errors for report in reports]
print(json.dumps([errors, reports[0].words, sorted({"torch", "numba"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with the wheel and what it declares, and nothing else."""
    if "ASR_DATA" not in os.environ:
        pytest.skip("set ASR_DATA to install the wheel and transcribe AN4 with it: it takes minutes, and pip downloads")
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77")
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("asr", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel as build; build('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    wheel = next(source.glob("*.whl"))
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], capture_output=True, text=True)
    if done.returncode and any(said in done.stderr for said in ("No matching distribution", "onnection", "timed out")):
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stderr
    return python


def run(python, *command, cwd):
    """What a command prints in that environment, far from the source tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installation_has_no_torch_and_transcribes(python, tmp_path):
    shutil.copy(ROOT / "egs" / "sample.wav", tmp_path)
    assert run(python, "-m", "asr.cli", "transcribe", "sample.wav", cwd=tmp_path) == "ENTER FOUR FIVE NINE TWO\n"
    packages = run(python, "-m", "pip", "list", cwd=tmp_path).lower()
    assert "onnxruntime" in packages
    assert not {"torch", "scipy", "librosa", "onnx"} & set(packages.split())
    assert ("numba" in packages) != can_build()


def test_an_installation_takes_at_most_400_mb(python):
    if not can_build():
        pytest.skip("the search is compiled by numba here, which takes 200 MB")
    site = next((python.parent.parent / "lib").glob("python*/site-packages"))
    own = [path for path in site.iterdir() if not path.name.startswith(("pip", "setuptools", "pkg_resources"))]
    files = (file for path in own for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    assert sum(file.stat().st_size for file in files) < 400e6


def test_an_installation_makes_the_errors_on_an4_that_torch_makes(python, tmp_path):
    prepare = [python, ROOT / "recipes" / "an4" / "prepare.py", tmp_path / "an4", "--source"]
    archive = Path(os.environ["ASR_DATA"]) / "an4_sphere.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is missing")
    run(*prepare, archive, cwd=tmp_path)
    printed = run(python, "-c", EVALUATE, tmp_path / "an4" / "test.jsonl", cwd=tmp_path)
    assert json.loads(printed) == [AN4_ERRORS, 773, [] if can_build() else ["numba"]]
