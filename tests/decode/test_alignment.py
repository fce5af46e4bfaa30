"""Forced alignment: the best of all paths, found by trying them all, and the commands around it."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_recognizer, sound

import asr
from asr.cli import main
from asr.config.sections import TextConfig
from asr.decode import Hypothesis, align, alignment, greedy, losses, mismatch
from asr.decode.alignment import MISMATCH, per_token
from asr.errors import DecodeError, TextError
from asr.text.phones import PhoneTokenizer
from asr.text.tokenizer import min_frames

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "egs" / "sample.wav"
WORDS = (ROOT / "egs" / "sample.txt").read_text(encoding="utf-8").strip()


def random_matrix(seed, frames, vocabulary):
    logits = np.random.default_rng(seed).normal(scale=2, size=(frames, vocabulary))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def collapse(path):
    return [token for token, _ in itertools.groupby(path) if token]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 6), vocabulary=st.integers(2, 4), data=st.data())
def test_it_is_the_best_of_all_paths(seed, frames, vocabulary, data):
    matrix = random_matrix(seed, frames, vocabulary)
    tokens = data.draw(st.lists(st.integers(1, vocabulary - 1), max_size=frames))
    paths = [path for path in itertools.product(range(vocabulary), repeat=frames) if collapse(path) == tokens]
    if not paths:
        with pytest.raises(DecodeError, match=r"need .* frames"):
            align(matrix, tokens)
        return
    scores = [sum(matrix[t, token] for t, token in enumerate(path)) for path in paths]
    best = paths[int(np.argmax(scores))]
    found = align(torch.from_numpy(matrix), tokens)
    assert found.score == pytest.approx(max(scores))
    assert list(found.tokens) == tokens
    spans = []
    for token, group in itertools.groupby(enumerate(best), key=lambda pair: pair[1]):
        places = [place for place, _ in group]
        if token:
            spans.append((places[0], places[-1] + 1))
    assert list(zip(found.frames, found.ends, strict=True)) == spans
    for token, start, end, confidence in zip(tokens, found.frames, found.ends, found.confidences, strict=True):
        assert confidence == pytest.approx(np.exp(matrix[start:end, token].max()))


needs_torchaudio = pytest.mark.skipif(alignment._torchaudio() is None, reason="torchaudio does not import here")


@st.composite
def alignable(draw):
    """A matrix and tokens that fit into it: short and long, often without a frame to spare, with and without ties."""
    vocabulary = draw(st.integers(2, 6))
    tokens = draw(st.lists(st.integers(1, vocabulary - 1), max_size=draw(st.sampled_from([1, 4, 60]))))
    frames = max(1, min_frames(tokens) + draw(st.sampled_from([0, 0, 1, 5, 100])))
    matrix = random_matrix(draw(st.integers(0, 10**6)), frames, vocabulary)
    values = draw(st.sampled_from(["float64", "float32", "few", "none", "impossible"]))
    if values == "float32":
        matrix = matrix.astype(np.float32)
    elif values == "few":
        matrix = normalised(np.round(matrix))
    elif values == "none":
        matrix = normalised(np.zeros_like(matrix))
    elif values == "impossible":
        matrix = normalised(np.where(matrix < -4, -np.inf, matrix))
    return matrix, tokens


def normalised(matrix):
    return matrix - np.log(np.exp(matrix).sum(-1, keepdims=True))


def outcome(matrix, tokens):
    try:
        return align(matrix, tokens)
    except DecodeError as error:
        return str(error)


@needs_torchaudio
@settings(max_examples=400, deadline=None)
@given(case=alignable())
def test_torchaudio_and_the_numpy_search_give_the_same(case):
    with pytest.MonkeyPatch.context() as patch:
        found = outcome(*case)
        patch.setattr(alignment, "_torchaudio", lambda: None)
        assert found == outcome(*case)


@needs_torchaudio
def test_torchaudio_aligns_where_one_path_is_the_best(monkeypatch):
    matrix = random_matrix(5, 300, 6)
    tokens = np.random.default_rng(5).integers(1, 6, 100).tolist()
    expected = align(matrix, tokens)
    monkeypatch.setattr(alignment, "_viterbi", None)
    assert align(matrix, tokens) == expected


@needs_torchaudio
def test_of_equally_likely_paths_the_numpy_search_chooses():
    # torchaudio alone finds a path of -7 here: blank and token before the last token are equally likely.
    matrix = normalised(np.array([[-2.0, -2, -2], [-1, -2, -1], [-3, -3, -3]]))
    assert align(matrix, [2, 1]).score == pytest.approx(alignment._viterbi(matrix, np.array([0, 2, 0, 1, 0]))[1])


def test_without_torchaudio_the_numpy_search_aligns(monkeypatch):
    expected = align(random_matrix(5, 30, 6), [1, 2, 2, 3])
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    alignment._torchaudio.cache_clear()
    assert alignment._torchaudio() is None
    assert align(random_matrix(5, 30, 6), [1, 2, 2, 3]) == expected
    alignment._torchaudio.cache_clear()


def test_torchaudio_is_imported_when_something_is_aligned_and_not_before():
    code = "import sys, asr.decode, asr.recognize.recognizer; print('torchaudio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_no_tokens_are_the_path_of_blanks():
    matrix = random_matrix(5, 30, 6)
    found = align(matrix, [])
    assert (found.tokens, found.score) == ((), pytest.approx(matrix[:, 0].sum()))


def test_the_greedy_path_is_its_own_alignment():
    matrix = random_matrix(3, 80, 6)
    best = greedy(matrix)[0]
    found = align(matrix, best.tokens)
    assert (found.frames, found.ends) == (best.frames, best.ends)
    assert found.score == pytest.approx(best.score)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0], "ids from 1 to 3, got 0"),
        ([4], "ids from 1 to 3, got 4"),
        ([1.5], r"whole token ids from 1 to 3, got 1\.5"),
        ([2.0], r"whole token ids from 1 to 3, got 2\.0"),
        ([True], "whole token ids from 1 to 3, got True"),
        ("A", "whole token ids from 1 to 3, got 'A'"),
        ([1, 1, 1], "3 tokens need 5 frames .* got 4"),
    ],
)
def test_tokens_that_cannot_be_aligned(tokens, message):
    with pytest.raises(DecodeError, match=message):
        align(random_matrix(0, 4, 4), tokens)


def test_an_alignment_of_another_vocabulary_is_refused():
    with pytest.raises(DecodeError, match="token ids from 1 to 3, got 9"):
        mismatch(random_matrix(0, 4, 4), Hypothesis((9,), (0,), (1,), (1.0,)))


@pytest.mark.parametrize("words", [3, None, b"FOUR", ["FOUR"]])
def test_words_that_are_no_text_are_refused(words):
    with pytest.raises(TextError, match="expected words as a text, got"):
        asr.load(device="cpu", beam=1).align(SAMPLE, words)


def test_token_ids_of_numpy_and_torch_are_token_ids():
    matrix = random_matrix(0, 6, 4)
    assert align(matrix, np.array([1, 3])) == align(matrix, torch.tensor([1, 3])) == align(matrix, [1, 3])


def test_an_impossible_token_is_an_error():
    matrix = np.log(np.array([[0.5, 0.5, 0.0]] * 5) + 1e-300)
    matrix[:, 2] = -np.inf
    with pytest.raises(DecodeError, match="probability 0"):
        align(matrix, [1, 2])


def test_a_trellis_beyond_the_bound_is_an_error(monkeypatch):
    monkeypatch.setattr(sys.modules["asr.decode.alignment"], "MAX_CELLS", 20)
    with pytest.raises(DecodeError, match="4 frames and 3 tokens are too long"):
        align(random_matrix(0, 4, 5), [1, 2, 3])


def test_known_words_get_the_times_of_their_recognition():
    recognizer = asr.load(device="cpu")
    heard, aligned = recognizer.transcribe(SAMPLE), recognizer.align(SAMPLE, WORDS.lower())
    assert heard.text == WORDS
    assert aligned.text == WORDS.lower()  # as it was given
    assert aligned.mismatch < 0.5
    for ours, theirs in zip(aligned.words, heard.words, strict=True):
        assert ours.start_s == pytest.approx(theirs.start_s, abs=0.1)
        assert ours.end_s == pytest.approx(theirs.end_s, abs=0.1)


def test_a_wrong_word_is_the_least_certain():
    words = asr.load(device="cpu").align(SAMPLE, WORDS.replace("FIVE", "EIGHT")).words
    assert min(words, key=lambda word: word.confidence).text == "EIGHT"


def test_the_command_takes_words_or_a_file_of_them(tmp_path, capsys):
    assert main.run_command(["align", str(SAMPLE), WORDS]) == 0
    ctm = capsys.readouterr().out
    assert [line.split()[4] for line in ctm.splitlines() if not line.startswith(";")] == WORDS.split()
    (tmp_path / "words.txt").write_text(WORDS.lower() + "\n")
    assert main.run_command(["align", str(SAMPLE), str(tmp_path / "words.txt"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == WORDS.lower()


def test_bad_input_is_named(tmp_path, capsys):
    assert main.run_command(["align", str(SAMPLE), "DÉJÀ"]) == 2
    assert "sample.wav" in capsys.readouterr().err
    assert main.run_command(["align", str(SAMPLE), "FOUR " * 100]) == 2
    assert "sample.wav: 499 tokens need 499 frames" in capsys.readouterr().err
    assert main.run_command(["align", str(tmp_path / "gone.wav"), "FOUR"]) == 2
    assert "gone.wav" in capsys.readouterr().err
    for nothing in ("", " \n", "?!", "ДА"):
        with pytest.raises(TextError, match=r"sample\.wav: expected words that the model can spell"):
            asr.load(device="cpu").align(SAMPLE, nothing)


@pytest.mark.usefixtures("compiled_search")
def test_a_text_that_has_nothing_to_do_with_the_recording_gets_a_warning(capsys):
    other = " ".join(reversed(WORDS.split())).replace("FIVE", "RUBOUT")
    assert asr.load(device="cpu").align(SAMPLE, other).mismatch > MISMATCH
    assert main.run_command(["align", str(SAMPLE), other]) == 0
    assert "sample.wav: the text does not seem to match the recording" in capsys.readouterr().err
    assert main.run_command(["align", str(SAMPLE), WORDS]) == 0
    assert capsys.readouterr().err == ""


def test_the_greedy_path_has_no_mismatch():
    matrix = random_matrix(3, 80, 6)
    assert mismatch(matrix, greedy_alignment(matrix)) == 0
    free = greedy(matrix)[0]
    wrong = align(matrix, list(reversed(free.tokens)))
    assert mismatch(matrix, wrong) == pytest.approx((free.score - wrong.score) / len(free.tokens))
    short = align(matrix, free.tokens[:3])  # what was heard and is not in the text counts as well
    assert mismatch(matrix, short) == pytest.approx((free.score - short.score) / len(free.tokens))
    assert mismatch(np.zeros((0, 3)), Hypothesis()) == 0


@pytest.mark.parametrize("bounds", [[], [0], [7, 7, 30], [10, 80]])
def test_the_parts_of_a_mismatch_are_the_whole(bounds):
    matrix = random_matrix(3, 80, 6)
    wrong = align(matrix, list(reversed(greedy(matrix)[0].tokens)))
    parts = losses(torch.from_numpy(matrix), wrong, bounds)
    assert len(parts) == len(bounds) + 1
    assert per_token(*parts) == pytest.approx(mismatch(matrix, wrong))
    assert sum(text for _, text, _ in parts) == len(wrong.tokens)
    assert sum(lost for lost, _, _ in parts) == pytest.approx(greedy(matrix)[0].score - wrong.score)


def test_each_word_has_its_part_of_the_mismatch():
    found = asr.load(device="cpu").align(SAMPLE, WORDS.replace("FIVE", "EIGHT"))
    costs = {word.text: per_token(part) for word, part in zip(found.words, found.losses, strict=True)}
    assert max(costs, key=costs.get) == "EIGHT"


def greedy_alignment(matrix):
    return align(matrix, greedy(matrix)[0].tokens)


def test_written_words_come_back_as_written_with_the_times_of_what_is_spoken(capsys):
    recognizer = asr.load(device="cpu")
    spoken = recognizer.align(SAMPLE, WORDS)
    digits = {"ONE": "1", "TWO": "2", "THREE": "3", "FOUR": "4,", "FIVE": "5", "SIX": "6", "SEVEN": "7", "NINE": "9!"}
    written = " — ".join(digits.get(word, word.title()) for word in WORDS.split())
    found = recognizer.align(SAMPLE, written)
    assert [w.text for w in found.words] == [w for w in written.split() if w != "—"]
    assert [(w.start_s, w.end_s) for w in found.words] == [(w.start_s, w.end_s) for w in spoken.words]
    assert " ".join(found.spoken) == WORDS
    assert found.left_out == ()
    assert main.run_command(["align", str(SAMPLE), written, "--language", "none"]) == 1
    assert "'4,' left out: '4', ',' cannot be spelt" in capsys.readouterr().err


def test_a_word_that_is_several_spoken_ones_lasts_from_the_first_to_the_last():
    recognizer = asr.load(device="cpu")
    first, second, *_ = recognizer.align(SAMPLE, "TWENTY SEVEN").words
    (both,) = recognizer.align(SAMPLE, "27.").words
    assert (both.text, both.start_s, both.end_s) == ("27.", first.start_s, second.end_s)
    assert both.confidence == min(first.confidence, second.confidence)


def test_words_outside_the_alphabet_are_left_out_by_name(capsys):
    assert main.run_command(["align", str(SAMPLE), f"{WORDS} naïve"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: ")
    assert "sample.wav: 'naïve' left out: 'Ï' cannot be spelt" in printed.err
    assert len(printed.out.splitlines()) == len(WORDS.split())


def test_words_that_are_left_out_are_counted(capsys):
    strange = " ".join(["É"] * 4 + [f"É{letter}" for letter in "ABCDEF"])
    assert main.run_command(["align", str(SAMPLE), f"{WORDS} {strange}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0].endswith("'É' left out: 'É' cannot be spelt with the model's tokens (4 times)")
    assert lines[-1].endswith("10 words left out, 7 different ones; the most frequent stand above")


def test_hundreds_of_tokens():
    """More states than a byte can count."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(1, 5, 400).tolist()
    matrix = np.full((1000, 5), np.log(0.01))
    rows = np.sort(rng.choice(500, 400, replace=False)) * 2  # a frame between any two
    matrix[:, 0] = np.log(0.96)
    matrix[rows] = np.log(0.01)
    matrix[rows, tokens] = np.log(0.96)
    assert align(matrix, tokens).frames == tuple(rows.tolist())


def test_aligned_words_are_those_of_the_text_and_not_what_sounds_like_them(tmp_path):
    lexicon = {"TO": [("T", "UW")], "TWO": [("T", "UW")], "TEA": [("T", "IY")]}
    config = TextConfig(tokenizer="phone", lexicon="x", word_boundary=True)
    tokenizer = PhoneTokenizer(["<blank>", "IY", "T", "UW", " "], lexicon, config)
    recognizer = make_recognizer(tmp_path, tokenizer=tokenizer)
    found = recognizer.align(sound(3.0), "two tea to two")
    assert [word.text for word in found.words] == ["two", "tea", "to", "two"]
    assert [token.text for token in found.tokens] == ["T", "UW", "T", "IY", "T", "UW", "T", "UW"]
