"""``moved.txt`` says where each test of the first layout is now: a test that it names cannot be lost or renamed in
silence."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LINES = [line for line in (HERE / "moved.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
PLACES = [line.partition(" -> ")[2] for line in LINES]


@functools.cache
def names_in(file: str) -> set[str]:
    """The tests that a file defines; those of a class with its name before them."""
    names = set()
    for node in ast.parse((HERE.parent / file).read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        names |= {prefix + each.name for each in inside if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return names


@pytest.mark.parametrize("file", sorted({place.partition("::")[0] for place in PLACES}))
def test_the_tests_that_moved_to_a_file_are_in_it(file):
    named = {place.partition("::")[2] for place in PLACES if place.startswith(f"{file}::")}
    assert named - names_in(file) == set()
