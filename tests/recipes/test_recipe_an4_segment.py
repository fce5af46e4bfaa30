"""Cutting AN4's utterances into single words: nothing lost, no word cut."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from asr.data import manifest
from asr.data.manifest import Utterance
from asr.transcript import Transcript, Word

ROOT = Path(__file__).parents[2]


def load_segment():
    """The recipe's script as a module."""
    spec = importlib.util.spec_from_file_location("segment", ROOT / "recipes" / "an4" / "segment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_segments_are_runs_of_words_that_make_up_the_utterance():
    recipe = load_segment()
    words = tuple(Word(f"W{i}", 0.5 * i + 0.1, 0.5 * i + 0.4, 0.9) for i in range(9))
    utterance = Utterance("u", "u.wav", " ".join(w.text for w in words), 4.6, "anna")
    aligned = Transcript(utterance.text, words, 4.6)
    for seed in range(20):
        cut = list(recipe.segments(utterance, aligned, np.random.default_rng(seed)))
        assert " ".join(u.text for u in cut) == utterance.text
        assert all(1 <= len(u.text.split()) <= recipe.MAX_WORDS for u in cut)
        assert (cut[0].start_s, cut[-1].end_s) == (0, 4.6)
        assert [u.end_s for u in cut[:-1]] == [u.start_s for u in cut[1:]]
        for u in cut[:-1]:  # half-way between two words, so that neither is cut
            last = words[int(u.text.split()[-1][1:])]
            assert u.end_s == pytest.approx(last.end_s + 0.1)
        assert {(u.audio, u.speaker) for u in cut} == {("u.wav", "anna")}
        assert len({u.id for u in cut}) == len(cut)


def test_an_utterance_that_is_one_run_is_not_cut_and_short_ones_are_left_out():
    recipe = load_segment()
    one = Utterance("u", "u.wav", "A", 1.0)
    rng = np.random.default_rng(0)
    assert list(recipe.segments(one, Transcript("A", (Word("A", 0.2, 0.6, 1.0),), 1.0), rng)) == []
    words = tuple(Word("A", 0.1 * i, 0.1 * i + 0.05, 1.0) for i in range(12))
    hurried = Utterance("u", "u.wav", " ".join(["A"] * 12), 1.2)
    cut = list(recipe.segments(hurried, Transcript(hurried.text, words, 1.2), rng))
    assert all(u.end_s - u.start_s >= recipe.MIN_S for u in cut)


def test_the_command_keeps_the_utterances_and_adds_their_segments(tmp_path, monkeypatch, capsys):
    recipe = load_segment()
    sample = Path(recipe.__file__).parents[2] / "egs" / "sample.wav"
    text = sample.with_suffix(".txt").read_text().strip()
    path, out = tmp_path / "all.jsonl", tmp_path / "cut.jsonl"
    manifest.write_manifest(
        path, [Utterance("a", str(sample), text, 2.75), Utterance("b", str(sample), "A " * 200, 2.75)]
    )
    monkeypatch.setattr(sys, "argv", ["segment.py", str(path), str(out)])
    assert recipe.main() == 1
    assert "b: not cut" in capsys.readouterr().err
    written = manifest.read_manifest(out)
    assert [u.id for u in written[:2]] == ["a", "b"]
    assert " ".join(u.text for u in written[2:]) == text
