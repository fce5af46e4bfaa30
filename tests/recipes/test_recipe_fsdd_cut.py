"""Cutting digits out of sentences: every run, no neighbour's word, nothing with too little confidence."""

import importlib.util
import sys
from pathlib import Path

import pytest

from asr.data import manifest
from asr.data.manifest import Utterance
from asr.transcript import Transcript, Word

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe():
    """The recipe's script as a module."""
    spec = importlib.util.spec_from_file_location("cut_digits", ROOT / "recipes" / "fsdd" / "cut_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_end_between_words_and_near_the_digits(recipe):
    words = (
        Word("ONE", 0.1, 0.4, 0.9), Word("TWO", 0.4, 0.7, 0.9), Word("DOGS", 0.8, 1.2, 0.9),
        Word("SEVEN", 2.2, 2.5, 0.9), Word("CATS", 2.55, 3.0, 0.9), Word("NINE", 3.1, 3.5, 0.9),
    )  # fmt: skip
    utterance = Utterance("u", "u.wav", " ".join(word.text for word in words), 4.0, "anna")
    cut = list(recipe.runs(utterance, Transcript(utterance.text, words, 4.0), 0.05))
    assert [(u.text, u.speaker, u.audio) for u in cut] == [
        ("ONE TWO", "anna", "u.wav"), ("SEVEN", "anna", "u.wav"), ("NINE", "anna", "u.wav")
    ]  # fmt: skip
    assert [(u.start_s, u.end_s) for u in cut] == [(0.0, 0.75), (2.05, 2.525), (3.05, 3.65)]
    assert len({u.id for u in cut}) == 3


def test_what_was_hardly_heard_or_squeezed_in_is_left_out(recipe):
    words = (
        Word("A", 0.0, 0.9, 1.0),
        Word("ONE", 1.0, 1.4, 0.01),
        Word("B", 2.0, 2.4, 1.0),
        Word("TWO", 2.4, 2.5, 0.9),
    )
    utterance = Utterance("u", "u.wav", "A ONE B TWO", 2.5)
    aligned = Transcript(utterance.text, words, 2.5)
    assert list(recipe.runs(utterance, aligned, 0.05)) == [None, None]
    assert [u.text for u in recipe.runs(utterance, aligned, 0.005) if u] == ["ONE"]


def test_the_command_cuts_what_can_be_aligned_and_names_the_rest(recipe, tmp_path, monkeypatch, capsys):
    sample = ROOT / "egs" / "sample.wav"
    text = sample.with_suffix(".txt").read_text(encoding="utf-8").strip()
    everything = [
        Utterance("a", str(sample), text, 2.75),
        Utterance("b", str(sample), "ONE " * 200, 2.75),
        Utterance("c", str(sample), "NOTHING OF IT", 2.75),
    ]
    manifest.write_manifest(tmp_path / "all.jsonl", everything)
    out = tmp_path / "digits.jsonl"
    monkeypatch.setattr(sys, "argv", ["cut_digits.py", str(tmp_path / "all.jsonl"), str(out)])
    assert recipe.main() == 1
    shown = capsys.readouterr()
    assert "warning: b: not cut" in shown.err
    (cut,) = manifest.read_manifest(out)
    assert cut.text == " ".join(word for word in text.split() if word in recipe.DIGITS)
    assert f"{out}: 1 utterances" in shown.out
    manifest.write_manifest(tmp_path / "all.jsonl", [cut])
    assert recipe.main() == 2
    assert "expected whole recordings" in capsys.readouterr().err
