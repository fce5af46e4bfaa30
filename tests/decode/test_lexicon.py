"""Lexicon, n-gram and hot words in the search: exact against enumeration of all paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion import Table, ctc_scores, random_log_probs

from asr.config.sections import TextConfig
from asr.decode import BeamSearch, beam_search
from asr.decode.fusion import Fusion
from asr.decode.lexicon import make_words, parse_hotwords, read_word_list, read_words
from asr.decode.ngram import Ngram
from asr.errors import DecodeError
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer

TOKENS = CharTokenizer([BLANK_SYMBOL, " ", "A", "B"], TextConfig())
BIG = CharTokenizer([BLANK_SYMBOL, " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig())
NGRAM = Ngram(
    2,
    {
        ("<unk>",): (-3.0, -0.1),
        ("<s>",): (-99.0, -0.5),
        ("</s>",): (-1.2, 0.0),
        ("A",): (-1.0, -0.7),
        ("AB",): (-1.5, -0.2),
        ("BA",): (-2.5, 0.0),
        ("<s>", "A"): (-0.3, 0.0),
        ("A", "BA"): (-0.4, 0.0),
        ("AB", "</s>"): (-0.2, 0.0),
        ("A", "<unk>"): (-1.1, 0.0),
    },
)


def words_for(tokenizer: CharTokenizer = TOKENS, **options: Any) -> Any:
    return make_words(tokenizer.spellings, tokenizer.vocab_size, tokenizer.space_id, **options)


def spell(tokens: Sequence[int], tokenizer: CharTokenizer = TOKENS) -> str:
    return tokenizer.decode(tokens)


def definition(
    text: str, lexicon: Sequence[str], ngram: Ngram | None, weight: float, word_bonus: float, penalty: float
) -> float:
    """What the words of a finished text are worth, by the documentation."""
    words = text.split(" ")
    total = word_bonus * sum(bool(word) for word in words)
    unknown = sum(word not in lexicon for word in words if word)
    total += penalty * unknown if unknown else 0.0
    if ngram is not None:
        known = [word if word in lexicon else "<unk>" for word in words if word]
        total += weight * ngram.score(known)
    return total


@settings(max_examples=60)
@given(
    st.integers(0, 5), st.integers(0, 10**6), st.sampled_from([0.5, 2.0]), st.sampled_from([0.0, 1.5, -1.0]),
    st.sampled_from([-math.inf, -2.0]), st.booleans(),
)  # fmt: skip
def test_equals_the_sum_over_all_paths(
    frames: int, seed: int, weight: float, word_bonus: float, penalty: float, with_ngram: bool
) -> None:
    log_probs = random_log_probs(frames, 4, seed=seed)
    lexicon, ngram = ["A", "AB", "BA"], NGRAM if with_ngram else None
    options = {"weight": weight, "word_bonus": word_bonus, "unknown_penalty": penalty}
    words = words_for(lexicon=lexicon, ngram=ngram, **options)
    wanted = {}
    for tokens, score in ctc_scores(log_probs).items():
        added = definition(spell(tokens), lexicon, ngram, weight, word_bonus, penalty)
        if added > -math.inf:
            wanted[tokens] = score + added
    (got,) = beam_search(log_probs, beam=800, words=words, nbest=800)
    assert {h.tokens: h.score for h in got} == pytest.approx(wanted, abs=1e-9)


SOUNDS = {"A": [(2,), (2, 3)], "AB": [(2,)], "BA": [(3, 2)], "B": [(2, 3), (3,)]}
"""Words with several pronunciations, and pronunciations with several words."""


def favourites(tokens: Sequence[int], ngram: Ngram, weight: float) -> float:
    """What the words of a finished prefix are worth: in each place the n-gram's favourite after those before."""
    context, total = ["<s>"], 0.0
    for spoken in "".join(map(str, tokens)).split("1"):
        if spoken:
            words = [word for word, sounds in SOUNDS.items() if tuple(map(int, spoken)) in sounds]
            if not words:
                return -math.inf
            score, word = max((ngram.log_prob(context, word), word) for word in words)
            total += score
            context.append(word)
    return weight * (total + ngram.log_prob(context, "</s>"))


@settings(max_examples=40)
@given(st.integers(0, 5), st.integers(0, 10**6), st.sampled_from([0.5, 2.0]))
def test_words_that_sound_alike_and_words_said_in_several_ways(frames: int, seed: int, weight: float) -> None:
    log_probs = random_log_probs(frames, 4, seed=seed)
    words = make_words(SOUNDS.__getitem__, 4, 1, lexicon=SOUNDS, ngram=NGRAM, weight=weight)
    wanted = {}
    for tokens, score in ctc_scores(log_probs).items():
        added = favourites(tokens, NGRAM, weight)
        if added > -math.inf:
            wanted[tokens] = score + added
    (got,) = beam_search(log_probs, beam=800, words=words, nbest=800)
    assert {h.tokens: h.score for h in got} == pytest.approx(wanted, abs=1e-9)


@given(st.lists(st.lists(st.sampled_from(["A", "AB", "BA", "C"]), min_size=1, max_size=3, unique=True), max_size=5))
def test_the_words_that_are_read_are_the_likeliest_of_all(candidates: list[list[str]]) -> None:
    for order in (NGRAM, Ngram(3, {**NGRAM.entries, ("<s>", "A", "BA"): (-0.1, 0.0), ("A", "BA", "A"): (-0.2, 0.0)})):
        got = read_words(candidates, order)
        assert all(word in words for word, words in zip(got, candidates, strict=True))
        best = max(order.score(sentence) for sentence in itertools.product(*candidates))
        assert order.score(got) == pytest.approx(best, abs=1e-9)
    assert read_words(candidates, None) == [words[0] for words in candidates]


def test_hot_words_that_sound_alike_count_once() -> None:
    spell = {"A": [(2,)], "B": [(2,)]}.__getitem__
    for boosts in ({"A": 5.0, "B": 3.0}, {"B": 3.0, "A": 5.0}):
        words = make_words(spell, 4, 1, hotwords=boosts)
        (got,) = beam_search(random_log_probs(4, 4, seed=1), beam=500, words=words, nbest=500)
        assert {h.tokens: h.lm_score for h in got}[2,] == pytest.approx(5.0)


def test_an_ngram_without_unknown_word_still_lets_one_be_said() -> None:
    bare = Ngram(1, {("<s>",): (-228.0, 0.0), ("</s>",): (-1.0, 0.0), ("A",): (-1.0, 0.0), ("B",): (-4.0, 0.0)})
    assert bare.entry_of("A") == 2
    assert bare.entry_of("NEW") == 3  # as likely as the rarest word, and not as what is never predicted
    assert NGRAM.entry_of("NEW") == NGRAM.unknown
    with pytest.raises(DecodeError, match="expected an n-gram with words"):
        Ngram(1, {("<s>",): (-228.0, 0.0)}).entry_of("NEW")


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_hot_words_count_where_they_stand_as_words(frames: int, seed: int) -> None:
    log_probs = random_log_probs(frames, 4, seed=seed)
    boosts = {"A": 1.0, "A B": 2.5, "BA": -1.5}
    (got,) = beam_search(log_probs, beam=5000, words=words_for(hotwords=boosts), nbest=5000)
    scores = ctc_scores(log_probs)
    assert len(got) == len(scores)
    for h in got:
        text = f" {spell(h.tokens)} "
        found = sum(
            boost for phrase, boost in boosts.items() for at in range(len(text)) if text.startswith(f" {phrase} ", at)
        )
        assert h.lm_score == pytest.approx(found, abs=1e-9)
        assert h.score == pytest.approx(scores[h.tokens] + found, abs=1e-9)


def test_words_and_a_token_model_add_up() -> None:
    log_probs = random_log_probs(5, 4, seed=3)
    lm = Table(4)
    words = words_for(lexicon=["A", "AB"], ngram=NGRAM, weight=0.5, hotwords={"AB": 2.0})
    (got,) = beam_search(log_probs, beam=800, words=words, lm=Fusion(lm, 0.8), nbest=100)
    scores = ctc_scores(log_probs)
    for h in got:
        text = spell(h.tokens).split(" ")
        wanted = 0.5 * NGRAM.score([w for w in text if w]) + 2.0 * text.count("AB") + 0.8 * lm.score(h.tokens)
        assert h.score == pytest.approx(scores[h.tokens] + wanted, abs=1e-9)


def test_the_hot_words_boost_helps_before_the_word_is_complete() -> None:
    """A beam of 2 must keep the first letters of the hot word, though others are likelier."""
    weights = np.full((12, BIG.vocab_size), 1e-4)
    for at, (likely, hot) in enumerate(zip("BORDEN", "GORDON", strict=True)):
        weights[2 * at, BIG.encode(likely)[0]] = 0.7
        weights[2 * at, BIG.encode(hot)[0]] += 0.25
        weights[2 * at + 1, 0] = 1.0
    log_probs = np.log(weights / weights.sum(axis=1, keepdims=True))
    assert spell(beam_search(log_probs, beam=2)[0][0].tokens, BIG) == "BORDEN"
    words = words_for(BIG, hotwords={"GORDON": 5.0})
    assert spell(beam_search(log_probs, beam=2, words=words)[0][0].tokens, BIG) == "GORDON"
    closed = words_for(BIG, lexicon=["HELLO"], hotwords={"GORDON": 0.0})
    assert spell(beam_search(log_probs, beam=2, words=closed)[0][0].tokens, BIG) == "GORDON"


def test_lookahead_keeps_the_word_that_the_ngram_knows() -> None:
    """With a narrow beam the likely word must not be lost to the letters of a rare one."""
    ngram = Ngram(1, {("</s>",): (-1.0, 0.0), ("QUARTZ",): (-12.0, 0.0), ("OVARIES",): (-1.0, 0.0)})
    weights = np.full((14, BIG.vocab_size), 1e-6)
    for at, (rare, common) in enumerate(itertools.zip_longest("QUARTZ", "OVARIES")):
        if rare:
            weights[2 * at, BIG.encode(rare)[0]] = 0.6
        weights[2 * at, BIG.encode(common)[0]] += 0.4
        weights[2 * at + 1, 0] = 1.0
    log_probs = np.log(weights / weights.sum(axis=1, keepdims=True))
    words = words_for(BIG, ngram=ngram)
    assert spell(beam_search(log_probs, beam=1, words=words)[0][0].tokens, BIG) == "OVARIES"


def test_closed_vocabulary_lets_no_other_word_through() -> None:
    lexicon = ["AB", "BA", "ABBA"]
    words = words_for(lexicon=lexicon)
    for seed in range(20):
        log_probs = random_log_probs(30, 4, seed=seed)
        for nbest in beam_search(log_probs, beam=3, words=words, nbest=3):
            for h in nbest:
                assert set(spell(h.tokens).split()) <= set(lexicon)
                assert len(h.tokens) == len(h.frames) == len(h.ends) == len(h.confidences)


@pytest.mark.parametrize("options", [{"hotwords": {"A": 1.0}}, {"lexicon": ["A", "BAB"], "ngram": NGRAM}])
def test_any_split_gives_the_same(options: dict[str, Any]) -> None:
    log_probs = random_log_probs(50, 4, seed=5)
    words = words_for(**options)
    whole = beam_search(log_probs, beam=6, words=words, nbest=6)[0]
    search = BeamSearch(beam=6, words=words)
    for at in range(0, 50, 3):
        search.accept(log_probs[at : at + 3])
        search.hypotheses(2)
    assert search.finish(6) == whole


def test_the_end_of_the_utterance_counts_where_the_pools_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_for(lexicon=["A", "AB", "BA"], ngram=NGRAM, weight=0.8, word_bonus=0.5, unknown_penalty=-3.0)
    log_probs = random_log_probs(150, 4, seed=7)

    def hypotheses_after_each_frame(nodes: int) -> list[Any]:
        monkeypatch.setattr("asr.decode.beam.INITIAL_NODES", nodes)
        search = BeamSearch(beam=4, words=words)
        found = []
        for frame in log_probs:
            search.accept(frame[None])
            found.append(search.hypotheses(4))
        return found

    assert hypotheses_after_each_frame(16) == hypotheses_after_each_frame(1 << 14)


def test_threads_change_nothing() -> None:
    batch = random_log_probs(5, 40, 4, seed=6)
    words = words_for(ngram=NGRAM, unknown_penalty=-3.0)
    assert beam_search(batch, words=words, threads=3) == beam_search(batch, words=words)


def test_nothing_asked_for_changes_nothing() -> None:
    """Weight 0, no bonus, no lexicon: equal to no language model to the last bit."""
    batch = random_log_probs(2, 40, 4, seed=7)
    assert beam_search(batch, words=words_for(ngram=NGRAM, weight=0.0), nbest=5) == beam_search(batch, nbest=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lexicon": ["A", "ACB"]}, r"'ACB': cannot be spelt .*'C' \(U\+0043"),
        ({"lexicon": ["A", ""]}, "'': expected a word"),
        ({"lexicon": ["A B"]}, "expected single words, got 'A B'"),
        ({"hotwords": {"X": 1.0}}, "'X': cannot be spelt"),
        ({"hotwords": {"A": math.nan}}, "hot word A: expected a finite number, got nan"),
        ({"hotwords": {"A": "5"}}, "expected hot word A as a number, got '5'"),
        ({"weight": True}, "expected weight as a number, got True"),
        ({"weight": -1.0}, "weight of at least 0, got -1"),
        ({"word_bonus": math.inf}, "word_bonus: expected a finite"),
        ({"unknown_penalty": 1.0}, "unknown-word penalty of at most 0, got 1"),
        ({"ngram": Ngram(1, {("x y",): (-1.0, 0.0), ("<s>",): (-1.0, 0.0)})}, "none of the n-gram's words"),
    ],
)
def test_refuses_words_it_cannot_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        words_for(**options)


@pytest.mark.parametrize("ids", [[[1.9]], [[True]], [[0]], [[4]], [["2"]]])
def test_refuses_spellings_that_are_no_token_ids(ids: Any) -> None:
    for options in ({"lexicon": ["A"]}, {"hotwords": {"A": 1.0}}, {"ngram": NGRAM}):
        with pytest.raises(DecodeError, match="expected whole token ids from 1 to 3, got"):
            make_words(lambda word: ids, 4, 1, **options)


def test_refuses_what_is_no_space_lexicon_or_list_of_hot_words() -> None:
    for space in (1.0, True, 9, 0):
        with pytest.raises(DecodeError, match="expected whole token ids from 1 to 3, got"):
            make_words(TOKENS.spellings, 4, space, lexicon=["A"])  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match="lexicon: expected words, got the text 'AB'"):
        words_for(lexicon="AB")
    with pytest.raises(DecodeError, match="hot words: expected words with boosts"):
        words_for(hotwords=["A"])
    for options in ({"words": "x"}, {"lm": "x"}):
        with pytest.raises(DecodeError, match=r"expected .*, got 'x'"):
            beam_search(random_log_probs(2, 4, seed=0), **options)  # type: ignore[arg-type]


def test_refuses_a_matrix_of_another_vocabulary() -> None:
    for options in ({"hotwords": {"A": 1.0}}, {"lexicon": ["AB"]}, {"word_bonus": 1.0}, {"ngram": NGRAM}):
        for columns in (3, 7):  # fewer than 4 and more: as a lexicon of 8 columns with a matrix of 16
            with pytest.raises(DecodeError, match=f"expected a matrix of 4 columns.* got {columns}"):
                beam_search(random_log_probs(2, columns, seed=0), words=words_for(**options))
    with pytest.raises(DecodeError, match="space token"):
        make_words(TOKENS.encode, 4, None, lexicon=["A"])


def test_hot_words_from_the_command_line() -> None:
    assert parse_hotwords(["GORDON:5", "NEW  YORK:-2.5", "A:B:1"]) == {"GORDON": 5.0, "NEW YORK": -2.5, "A:B": 1.0}
    for bad in ("GORDON", "GORDON:x", ":5", ""):
        with pytest.raises(DecodeError, match="expected WORD:BOOST"):
            parse_hotwords([bad])


def test_lexicon_files(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("HELLO hh ah l ow\n\nWORLD\nHELLO\n")
    assert read_word_list(path) == ["HELLO", "WORLD"]
    path.write_bytes(";;; a comment\nD\xc9J\xc0  D EY\nTHE  DH AH\nTHE(2)  DH IY\n".encode("latin-1"))
    assert read_word_list(path) == ["DÉJÀ", "THE"]
    path.write_text("\n")
    with pytest.raises(DecodeError, match=r"words\.txt: expected a word on each line"):
        read_word_list(path)
    with pytest.raises(DecodeError, match=r"none\.txt: cannot read the lexicon"):
        read_word_list(tmp_path / "none.txt")
