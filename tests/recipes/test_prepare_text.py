"""The English language model's texts: held-out sentences and excluded books stay out."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELD_OUT = "THE CAT SAT ON THE OLD RED MAT BESIDE THE DOOR"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "books" / "A Writer").mkdir(parents=True)
    for name, text in {
        "Kept": "# Title\n\nIt rained; he paid £5.\nWe *left*. Hold on!\n\n"
        "Then the cat sat on the old red mat and slept. The cat sat on the mat.\n",
        "Excluded": "Nobody may read this.\n",
    }.items():
        (tmp_path / "books" / "A Writer" / f"{name}.md").write_text(text, encoding="utf-8")
    (tmp_path / "exclude.json").write_text(json.dumps(["A Writer/Excluded.md"]))
    (tmp_path / "held_out.txt").write_text(f"Hold on!\n{HELD_OUT}\n")
    return tmp_path


def prepare(folder: Path) -> tuple[list[str], str]:
    """The sentences of the books, and what was said on standard error."""
    script = ROOT / "recipes/english/prepare_text.py"
    options = {"--books": "books", "--exclude": "exclude.json", "--held-out": "held_out.txt"}
    command = [sys.executable, str(script), str(folder / "out")]
    command += [part for name, value in options.items() for part in (name, str(folder / value))]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return gzip.decompress((folder / "out" / "books.txt.gz").read_bytes()).decode().splitlines(), done.stderr


def test_held_out_sentences_and_excluded_books_stay_out(folder: Path) -> None:
    # "Hold on!" equals a held-out sentence, "Then the cat sat on the old red mat" shares eight words with one.
    assert prepare(folder)[0] == ["IT RAINED HE PAID FIVE POUNDS", "WE LEFT", "THE CAT SAT ON THE MAT"]


def test_an_excluded_book_that_does_not_exist_is_named(folder: Path) -> None:
    (folder / "exclude.json").write_text(json.dumps(["A Writer/Excluded.md", "A Writer/Exluded.md"]))
    said = prepare(folder)[1]
    assert "A Writer/Exluded.md: excluded, but" in said
    assert "A Writer/Excluded.md" not in said


def test_a_summary_counts_what_was_left_out(folder: Path) -> None:
    prepare(folder)
    figures = json.loads((folder / "out" / "summary.json").read_text())["books"]
    assert figures == {"sentences": 3, "words": 14, "held_out": 2, "left_out": ""}
