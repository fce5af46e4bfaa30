"""The made-up sentences of what is spelled and dictated: in the model's alphabet, repeatable, without held-out ones."""

from __future__ import annotations

import gzip
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from asr.errors import AsrError

SCRIPT = Path(__file__).parents[2] / "recipes" / "english" / "prepare_spelled.py"
NAMES = "CARTER OAKLAND CARTER SMITH\nTHE RIVER IS WIDE O'BRIEN\n"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def drawn(script: dict[str, Any]) -> list[str]:
    phrases = script["Phrases"](["CARTER", "OAKLAND", "SMITH"], [3, 2, 1], 1)
    return [phrases.sentence() for _ in range(3000)]


def write(tmp_path: Path, *options: str, name: str = "out.txt.gz") -> list[str]:
    (tmp_path / "names.txt").write_text(NAMES)
    command = [str(SCRIPT), str(tmp_path / name), "--names", str(tmp_path / "names.txt"), "--count", "500", *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    return gzip.decompress((tmp_path / name).read_bytes()).decode().splitlines()


def test_sentences_are_words_of_the_alphabet_with_single_spaces(drawn: list[str]) -> None:
    assert all(re.fullmatch(r"[A-Z']+( [A-Z']+)*", sentence) for sentence in drawn)


def test_names_are_spelled_letter_by_letter(drawn: list[str]) -> None:
    assert any("C A R T E R" in sentence for sentence in drawn)


def test_every_letter_and_digit_is_said_alone(script: dict[str, Any], drawn: list[str]) -> None:
    said = {word for sentence in drawn for word in sentence.split()}
    assert said >= set(script["LETTERS"]) | set(script["ONES"]) | {"OH", "DOUBLE"}


@pytest.mark.parametrize(("day", "ending"), [(1, "ST"), (2, "ND"), (3, "RD"), (4, "TH"), (11, "TH"), (12, "TH"),
                                             (13, "TH"), (21, "ST"), (31, "ST")])  # fmt: skip
def test_days_have_the_ending_of_their_number(script: dict[str, Any], day: int, ending: str) -> None:
    assert script["_ending"](day) == ending


def test_the_same_seed_gives_the_same_text(tmp_path: Path) -> None:
    assert write(tmp_path, name="a.txt.gz") == write(tmp_path, name="b.txt.gz")


def test_another_seed_gives_another_text(tmp_path: Path) -> None:
    assert write(tmp_path, name="a.txt.gz") != write(tmp_path, "--seed", "2", name="b.txt.gz")


def test_held_out_sentences_are_left_out(tmp_path: Path) -> None:
    held_out = next(sentence for sentence in write(tmp_path) if " " in sentence)
    (tmp_path / "test.txt").write_text(held_out.lower() + "\n")
    assert held_out not in write(tmp_path, "--held-out", str(tmp_path / "test.txt"))


def test_names_come_from_compressed_texts_too(script: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(NAMES)
    (tmp_path / "names.txt.gz").write_bytes(gzip.compress(NAMES.encode()))
    assert script["names_of"](tmp_path / "names.txt.gz") == script["names_of"](tmp_path / "names.txt")


def test_a_text_without_names_is_named(script: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A B C\n")
    with pytest.raises(AsrError, match=r"short\.txt: expected words of 3 to 12 letters, got none"):
        script["names_of"](tmp_path / "short.txt")
