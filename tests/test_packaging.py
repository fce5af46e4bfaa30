"""What is installed and under which name: the distribution, its advice, its editable form."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT_KERNELS = {**os.environ, "ASR_KERNELS": "numba"}
"""To build in a second: the search is not compiled (tests/test_torch_free_install.py builds with it)."""


def test_the_distribution_has_a_name_of_its_own_and_the_command_keeps_its_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "recurrent-asr"
    assert project["scripts"] == {"asr": "asr.cli.main:run_command"}


def test_no_advice_installs_the_package_of_somebody_else():
    # The name "asr" on PyPI belongs to another project.
    foreign = re.compile(r"pip install[^\n]*['\" ]asr(\[|['\" ]|$)")
    for folder in ("asr", "docs", "egs", "recipes", "tools"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.yaml")]:
            assert not foreign.search(path.read_text(encoding="utf-8")), path
    assert not foreign.search((ROOT / "README.md").read_text(encoding="utf-8"))


def test_an_editable_install_is_a_path_that_type_checkers_follow(tmp_path):
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for package in packages():
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    build = "from setuptools.build_meta import build_editable as build; build('wheels')"
    (tmp_path / "wheels").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, env=WITHOUT_KERNELS, check=True, capture_output=True)
    with zipfile.ZipFile(next((tmp_path / "wheels").iterdir())) as wheel:
        (pth,) = [name for name in wheel.namelist() if name.endswith(".pth")]
        assert wheel.read(pth).decode().strip() == str(tmp_path)


def packages():
    """The folders of Python packages, as pyproject.toml should name them."""
    return sorted({path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "asr").rglob("*.py")})


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted([*(name.replace("/", ".") for name in packages()), "asr.recipes"])


def test_recipes_are_part_of_what_is_installed_and_run_from_there(tmp_path):
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77")
    source, site, work = tmp_path / "source", tmp_path / "site packages", tmp_path / "work"
    for folder in (source, work):
        folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    unneeded = shutil.ignore_patterns("__pycache__", "assets")
    for name in ("asr", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=unneeded)
    build = "from setuptools.build_meta import build_wheel as build; build('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, env=WITHOUT_KERNELS, check=True, capture_output=True)
    with zipfile.ZipFile(next(source.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=work, env=environment, check=True, capture_output=True, text=True
        ).stdout

    printed = run("-c", "import sys; from asr.cli.main import run_command; sys.exit(run_command(['recipes']))")
    prepare = site / "asr" / "recipes" / "yesno" / "prepare.py"
    assert f"python '{prepare}' data/yesno" in printed.splitlines()
    assert "--source PATH" in run(prepare, "--help")
    assert (site / "asr" / "recipes" / "yesno" / "conf" / "blstm.yaml").is_file()
    assert not list(site.rglob("*.pyc"))
    page = {path.name for path in (ROOT / "asr" / "server" / "page").iterdir()}
    assert {path.name for path in (site / "asr" / "server" / "page").iterdir()} == page
