"""Cutting recordings into utterances: nothing lost, no word cut, pauses preferred; the command on real speech."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr.audio import read
from asr.cli import main
from asr.data import manifest
from asr.errors import ConfigError, TextError
from asr.recognize.segmentation import cut_segments
from asr.transcript import Transcript, Word

ROOT = Path(__file__).parents[2]


@st.composite
def aligned(draw):
    words, at = [], 0.0
    steps = st.tuples(st.floats(0, 3), st.floats(0.05, 1.5), st.floats(0, 1))
    for number, (pause, length, confidence) in enumerate(draw(st.lists(steps, max_size=60))):
        words.append(Word(f"W{number}", at + pause, at + pause + length, confidence))
        at += pause + length
    return Transcript(" ".join(w.text for w in words), tuple(words), at + draw(st.floats(0, 2)) + 0.1, "x.wav")


CUTS = given(aligned(), st.floats(0.1, 4), st.floats(4, 20), st.floats(0, 1))


def cut_all(whole, shortest, longest, least):
    """A recording cut, and all of its utterances in order."""
    cut = cut_segments(whole, "x.wav", "x", shortest_s=shortest, longest_s=longest, least_confidence=least)
    return cut, sorted([*cut.kept, *cut.doubtful, *cut.overlong], key=lambda u: u.start_s)


@CUTS
def test_utterances_are_the_text_of_the_recording(whole, shortest, longest, least):
    _, utterances = cut_all(whole, shortest, longest, least)
    assert " ".join(u.text for u in utterances) == whole.text
    assert len({u.id for u in utterances}) == len(utterances)


@CUTS
def test_utterances_are_the_time_of_the_recording(whole, shortest, longest, least):
    _, utterances = cut_all(whole, shortest, longest, least)
    if not whole.words:
        assert utterances == []
        return
    assert (utterances[0].start_s, utterances[-1].end_s) == (0, pytest.approx(whole.duration_s, abs=1e-3))
    for before, after in itertools.pairwise(utterances):
        assert before.end_s == after.start_s


@CUTS
def test_words_lie_inside_their_utterance(whole, shortest, longest, least):
    _, utterances = cut_all(whole, shortest, longest, least)
    words = {w.text: w for w in whole.words}
    for u in utterances:
        inside = [words[name] for name in u.text.split()]
        assert u.start_s <= inside[0].start_s + 1e-3
        assert inside[-1].end_s <= u.end_s + 1e-3


@CUTS
def test_utterances_are_sorted_by_length_and_confidence(whole, shortest, longest, least):
    cut, utterances = cut_all(whole, shortest, longest, least)
    words = {w.text: w for w in whole.words}
    for u in utterances:
        inside = [words[name] for name in u.text.split()]
        if u in cut.overlong:
            assert len(inside) == 1
            continue
        assert u.end_s - u.start_s <= longest + 1e-3
        assert (u in cut.kept) == (np.mean([w.confidence for w in inside]) >= least)


def test_a_word_longer_than_the_longest_is_left_out():
    times = [("A", 0, 1), ("B", 2, 22), ("C", 23, 24)]
    whole = Transcript("A B C", tuple(Word(t, a, b, 1.0) for t, a, b in times), 24.0)
    cut = cut_segments(whole, "x.wav", "x", longest_s=15.0)
    assert ([u.text for u in cut.overlong], [u.text for u in cut.kept]) == (["B"], ["A", "C"])


def test_utterances_have_the_words_that_the_model_spells():
    words = (Word("42,", 0.0, 1.0, 1.0), Word("yes", 1.2, 2.0, 1.0))
    whole = Transcript("42, yes", words, 2.0, spoken=("FORTY TWO", "YES"))
    assert [u.text for u in cut_segments(whole, "x.wav", "x").kept] == ["FORTY TWO YES"]


def test_an_utterance_that_may_lack_a_word_is_incomplete():
    times = [(0.5, 1), (1.2, 2), (4, 5), (5.1, 6), (8, 9)]
    words = tuple(Word(t, a, b, 1.0) for t, (a, b) in zip("ABCDE", times, strict=True))

    def cut(*gaps):
        whole = Transcript("A B C D E", words, 10.0, gaps=gaps)
        found = cut_segments(whole, "x.wav", "x", shortest_s=1.0, longest_s=5.0)
        return [u.text for u in found.kept], [u.text for u in found.incomplete]

    assert cut() == (["A B", "C D", "E"], [])
    assert cut(3) == (["A B", "E"], ["C D"])  # between C and D
    assert cut(2, 2) == (["E"], ["A B", "C D"])  # between B and C, where the recording is cut
    assert cut(0) == (["C D", "E"], ["A B"])
    assert cut(5) == (["A B", "C D"], ["E"])


def test_an_utterance_whose_text_is_another_is_doubtful():
    times = [(0.5, 1), (1.2, 2), (4, 5), (5.1, 6), (8, 9)]
    words = tuple(Word(t, a, b, 1) for t, (a, b) in zip("ABCDE", times, strict=True))
    losses = ((1.0, 3, 3), (2.0, 1, 2), (9.0, 4, 3), (20.0, 4, 8), (5.0, 1, 3))
    whole = Transcript("A B C D E", words, 10.0, mismatch=0.1, losses=losses)
    cut = cut_segments(whole, "x.wav", "x", shortest_s=1.0, longest_s=5.0)
    assert [u.text for u in cut.doubtful] == ["C D"]  # 29 nats over 11 tokens that were heard
    assert [u.text for u in cut.kept] == ["A B", "E"]
    assert cut_segments(whole, "x.wav", "x", shortest_s=1.0, longest_s=5.0, most_mismatch=2.7).doubtful == []


def test_a_text_of_another_recording_is_refused():
    whole = Transcript("A", (Word("A", 0.0, 1.0, 1.0),), 2.0, "x.wav", mismatch=3.0)
    with pytest.raises(TextError, match=r"x\.wav: the text does not seem to match the recording.*at most 2.5;"):
        cut_segments(whole, "x.wav", "x")
    assert cut_segments(whole, "x.wav", "x", most_mismatch=np.inf).kept


def test_the_longest_pauses_are_cut():
    times = [(0.5, 1), (1.2, 2), (4, 5), (5.1, 6), (8, 9)]
    whole = Transcript("A B C D E", tuple(Word(t, a, b, 1) for t, (a, b) in zip("ABCDE", times, strict=True)), 10.0)
    cut = cut_segments(whole, "x.wav", "x", shortest_s=1.0, longest_s=5.0).kept
    assert [(u.id, u.start_s, u.end_s, u.text) for u in cut] == [
        ("x-1", 0.0, 3.0, "A B"), ("x-2", 3.0, 7.0, "C D"), ("x-3", 7.0, 10.0, "E"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"shortest_s": 0},
        {"shortest_s": 9, "longest_s": 8},
        {"least_confidence": 2},
        {"most_mismatch": -1},
        {"longest_s": "9"},
    ],
)
def test_bounds_that_contradict(options):
    with pytest.raises(ConfigError, match="expected"):
        cut_segments(Transcript("", (), 1.0), "x.wav", "x", **options)


@pytest.fixture(scope="module")
def sample():
    """The bundled sample and its words."""
    words = (ROOT / "egs" / "sample.txt").read_text(encoding="utf-8").split()
    return read.load_audio(ROOT / "egs" / "sample.wav", 16000), words


@pytest.fixture
def segment(tmp_path, sample):
    """``asr segment`` of the sample 25 times over, with the text that is given: its status and the manifest."""
    soundfile.write(tmp_path / "long.wav", np.concatenate([sample[0], np.zeros(8000, np.float32)] * 25), 16000)
    out = tmp_path / "cut.jsonl"

    def run(words, *options):
        (tmp_path / "long.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
        command = ["segment", str(tmp_path / "long.wav"), str(tmp_path / "long.txt"), str(out), *options]
        return main.run_command(command), out

    return run


def test_the_command_cuts_a_long_recording(segment, sample, capsys):
    status, out = segment(sample[1] * 25, "--speaker", "anna")
    assert status == 0
    assert "utterances" in capsys.readouterr().out
    utterances = manifest.read_manifest(out)
    assert len(utterances) > 5
    assert all(u.end_s - u.start_s <= 15.001 and u.speaker == "anna" for u in utterances)
    recognizer = asr.load()
    for u in utterances[:4]:
        samples = read.load_audio(u.audio, 16000, start_s=u.start_s, end_s=u.end_s)
        assert recognizer.transcribe(samples).text == u.text


def test_the_command_names_words_that_nobody_said(segment, sample, capsys):
    text = [*sample[1] * 12, *["ZULU", "QUEBEC"] * 20, *sample[1] * 12]
    assert segment(text, "--least-confidence", "0.5")[0] == 1
    assert "with little confidence" in capsys.readouterr().err


def test_the_command_leaves_out_words_that_cannot_be_spelt(segment, sample, capsys):
    whole = len(manifest.read_manifest(segment(sample[1] * 25)[1]))
    text = [*sample[1] * 12, "5€", *sample[1] * 13, "5€", "...", "5€"]
    status, out = segment(text, "--force", "--language", "none")
    assert status == 1
    printed = capsys.readouterr().err
    assert "warning: " in printed
    assert "long.wav: '5€' left out: '5', '€' cannot be spelt with the model's tokens (3 times)" in printed
    assert printed.count("s a word of the text there cannot be spelt, left out: ") in (2, 3)
    assert 3 < len(manifest.read_manifest(out)) < whole


def test_the_command_refuses_the_text_of_another_recording_and_keeps_the_manifest(segment, sample, capsys):
    _, out = segment(sample[1] * 25)
    before = out.read_bytes()
    assert segment(np.random.default_rng(0).permutation(sample[1] * 25), "--force")[0] == 2
    assert "long.wav: the text does not seem to match the recording" in capsys.readouterr().err
    assert out.read_bytes() == before
