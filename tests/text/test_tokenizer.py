"""Normalisation and the character tokenizer."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config.sections import TextConfig
from asr.errors import ModelError, TextError
from asr.files import split_fields
from asr.text.normalisation import normalise
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer, lexicon_lines, lexicon_words, min_frames

UPPER = TextConfig()
KEEP = TextConfig(case="keep")
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@pytest.fixture
def letters() -> CharTokenizer:
    return CharTokenizer([BLANK_SYMBOL, " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], UPPER)


@pytest.mark.parametrize(
    ("text", "config", "expected"),
    [
        ("hello World", UPPER, "HELLO WORLD"),
        ("hello World", TextConfig(case="lower"), "hello world"),
        ("hello World", KEEP, "hello World"),
        ("  a \t\n b\u00a0c\u2028d  ", KEEP, "a b c d"),
        ("straße", UPPER, "STRASSE"),
        ("\u0390", UPPER, "\u03aa\u0301"),  # upper case comes out decomposed
        ("", UPPER, ""),
        (" \t ", UPPER, ""),
        ("twenty-one", TextConfig(replace={"-": " "}), "TWENTY ONE"),
        ("cafe\u0301", KEEP, "caf\u00e9"),
        ("cafe\u0301", TextConfig(replace={"\u00e9": "e"}), "CAFE"),
        ("caf\u00e9", TextConfig(replace={"e\u0301": "e"}), "CAFE"),
        ("abc", TextConfig(case="keep", replace={"a": "b", "b": "c"}), "ccc"),
    ],
)
def test_normalise(text: str, config: TextConfig, expected: str) -> None:
    assert normalise(text, config) == expected


@given(TEXTS, st.sampled_from(["upper", "lower", "keep"]))
def test_normalise_is_composed_single_spaced_and_idempotent(text: str, case: str) -> None:
    config = TextConfig(case=case)
    once = normalise(text, config)
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())
    assert normalise(once, config) == once


def test_encode_and_decode(letters: CharTokenizer) -> None:
    assert letters.encode("a  cab") == [2, 1, 4, 2, 3]
    assert letters.decode([2, 1, 4, 2, 3]) == "A CAB"
    assert letters.vocab_size == 28
    assert letters.space_id == 1
    assert letters.symbols[0] == BLANK_SYMBOL
    assert letters.encode("") == []
    assert letters.decode([]) == ""


def test_decode_leaves_blanks_out_and_repeats_in(letters: CharTokenizer) -> None:
    assert letters.decode([0, 2, 2, 0, 2, 0]) == "AAA"


@given(TEXTS)
def test_decode_inverts_encode(text: str) -> None:
    tokenizer = CharTokenizer.from_texts([text, "x"], UPPER)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == normalise(text, UPPER)
    assert all(0 < i < tokenizer.vocab_size for i in ids)


def test_unknown_character_is_an_error_that_names_utterance_and_character(letters: CharTokenizer) -> None:
    with pytest.raises(TextError, match=r"utterance spk-7: 'É' \(U\+00C9 LATIN CAPITAL LETTER E WITH ACUTE\) \(and 1"):
        letters.encode("café 5", "spk-7")
    with pytest.raises(TextError, match=r"text 'A_B': '_' \(U\+005F LOW LINE\) is not in the alphabet .*text\.unknown"):
        letters.encode("a_b")
    with pytest.raises(TextError, match=r"U\+0007 unnamed"):
        letters.encode("a\a")


def test_unknown_character_becomes_a_word_boundary_by_rule() -> None:
    tokenizer = CharTokenizer([BLANK_SYMBOL, " ", "A", "B"], TextConfig(unknown="space"))
    assert tokenizer.decode(tokenizer.encode("#a--b, a!")) == "A B A"
    assert tokenizer.encode("##") == []


def test_space_need_not_be_in_the_alphabet() -> None:
    tokenizer = CharTokenizer([BLANK_SYMBOL, "A"], UPPER)
    assert tokenizer.space_id is None
    with pytest.raises(TextError, match="SPACE"):
        tokenizer.encode("a a")


@pytest.mark.parametrize("ids", [[-1], [1, 28], [2.9], [True], ["1"], [None]])
def test_decode_refuses_what_are_no_ids_of_the_alphabet(letters: CharTokenizer, ids: list[Any]) -> None:
    with pytest.raises(TextError, match=r"token ids from 0 to 27, got"):
        letters.decode(ids)


def test_alphabet_of_texts_is_sorted_and_independent_of_their_order() -> None:
    first = CharTokenizer.from_texts(["cab", "it's"], UPPER)
    second = CharTokenizer.from_texts(["it's", "cab"], UPPER)
    assert first.symbols == second.symbols == (BLANK_SYMBOL, " ", "'", "A", "B", "C", "I", "S", "T")


def test_alphabet_of_the_config_wins_and_is_normalised() -> None:
    tokenizer = CharTokenizer.from_texts(["xyz"], TextConfig(alphabet="cab'"))
    assert tokenizer.symbols == (BLANK_SYMBOL, " ", "'", "A", "B", "C")


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_gives_no_alphabet(texts: list[str]) -> None:
    with pytest.raises(TextError, match="got none"):
        CharTokenizer.from_texts(texts, UPPER)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([], "symbol 0: expected <blank> first, got nothing"),
        (["A", BLANK_SYMBOL], "symbol 0: expected <blank> first, got 'A'"),
        ([BLANK_SYMBOL], "expected characters after the blank"),
        ([BLANK_SYMBOL, "A", "AB"], "symbol 2: expected one character, got 'AB'"),
        ([BLANK_SYMBOL, "A", ""], "symbol 2: expected one character, got ''"),
        ([BLANK_SYMBOL, "A", "B", "A"], r"symbol 3: 'A' \(U\+0041 LATIN CAPITAL LETTER A\) occurs twice"),
        ([BLANK_SYMBOL, "\t"], "symbol 1: .*normalisation turns it into a space"),
        ([BLANK_SYMBOL, "\ud800"], "symbol 1: .*surrogate"),
    ],
)
def test_symbols_that_are_no_alphabet(symbols: list[str], message: str) -> None:
    with pytest.raises(TextError, match=message):
        CharTokenizer(symbols, UPPER)


def test_unknown_as_space_needs_a_space() -> None:
    with pytest.raises(TextError, match="needs a space among the symbols"):
        CharTokenizer([BLANK_SYMBOL, "A"], TextConfig(unknown="space"))


def test_tokens_file_format() -> None:
    written = CharTokenizer([BLANK_SYMBOL, " ", "'", "É"], UPPER).files()
    assert written == {"tokens.txt": "<blank>\n<space>\n'\nÉ\n".encode()}


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_saved_alphabet_loads_again(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    tokenizer = CharTokenizer.from_texts([*texts, "x"], KEEP)
    path.write_bytes(tokenizer.symbol_list())
    assert CharTokenizer.load(path, KEEP).symbols == tokenizer.symbols


def test_tokens_file_with_carriage_returns_loads(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_bytes(b"<blank>\r\n<space>\r\nA\r\n")
    assert CharTokenizer.load(tmp_path / "tokens.txt", UPPER).symbols == (BLANK_SYMBOL, " ", "A")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"tokens\.txt:1: expected <blank> first"),
        (b"A\nB\n", r"tokens\.txt:1: expected <blank> first, got 'A'"),
        (b"<blank>\nA\n\nB\n", r"tokens\.txt:3: expected one character, got ''"),
        (b"<blank>\nA\nA\n", r"tokens\.txt:3: .*occurs twice"),
        (b"<blank>\n\xff\n", r"tokens\.txt: cannot read"),
    ],
)
def test_damaged_tokens_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "tokens.txt").write_bytes(data)
    with pytest.raises(ModelError, match=message):
        CharTokenizer.load(tmp_path / "tokens.txt", UPPER)


def test_missing_tokens_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.txt: cannot read"):
        CharTokenizer.load(tmp_path / "absent.txt", UPPER)


@pytest.mark.parametrize(
    ("ids", "frames"), [([], 0), ([3], 1), ([1, 2, 1], 3), ([1, 1], 3), ([1, 1, 1], 5), ([1, 1, 2, 2], 6)]
)
def test_min_frames(ids: list[int], frames: int) -> None:
    assert min_frames(ids) == frames


@given(st.lists(st.integers(1, 3), max_size=20))
def test_min_frames_is_the_length_of_the_shortest_ctc_path(ids: list[int]) -> None:
    path: list[int] = []
    for i in ids:
        path += [0, i] if path and path[-1] == i else [i]
    assert min_frames(ids) == len(path)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("AB;( )\t\r\n\u2028\u00a0é"), max_size=40))
def test_the_words_of_a_lexicon_are_the_first_fields_of_its_lines(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "lexicon"
    for encoding in ("utf-8-sig", "latin-1"):
        path.write_bytes(text.encode(encoding, "replace"))
        assert lexicon_words(path) == [split_fields(line)[0] for _, line in lexicon_lines(path)]
