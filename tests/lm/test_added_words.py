"""Words added to an n-gram: what it knew stays as it was."""

from __future__ import annotations

import math

import pytest

from asr.decode.arpa import read_arpa, write_arpa
from asr.decode.ngram import Ngram
from asr.decode.ngram_file import open_ngram, write_ngram
from asr.lm.added_words import add_words_to_file, with_words
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer


@pytest.fixture
def small() -> Ngram:
    entries = {
        (w,): (math.log(p), -0.1) for w, p in (("<s>", 1e-9), ("</s>", 0.2), ("<unk>", 0.1), ("GO", 0.4), ("ON", 0.3))
    }
    return Ngram(2, {**entries, ("GO", "ON"): (math.log(0.7), 0.0), ("<s>", "GO"): (math.log(0.5), 0.0)})


def test_old_sentences_score_as_before(small):
    grown = with_words(small, ["BARISTA", "GO"])
    assert grown.score("GO ON") == pytest.approx(small.score("GO ON"))
    assert grown.words == (*small.words, "BARISTA")


def test_an_added_word_is_likelier_than_as_an_unknown_one(small):
    assert with_words(small, ["BARISTA"]).score("GO BARISTA") > small.score("GO BARISTA")


def test_words_that_are_there_change_nothing(small):
    assert with_words(small, ["GO"]) is small


@pytest.mark.parametrize("suffix", ["arpa", "safetensors"])
def test_a_file_keeps_its_format(small, suffix, tmp_path):
    from asr.config.sections import TextConfig

    path = tmp_path / f"lm.{suffix}"
    (write_arpa if suffix == "arpa" else lambda n, p: write_ngram(p, n))(small, path)
    tokenizer = CharTokenizer([BLANK_SYMBOL, " ", *"ABGINORST"], TextConfig())
    assert add_words_to_file(path, ["BARISTA", "ON"], tokenizer) == ["BARISTA"]
    assert (read_arpa if suffix == "arpa" else open_ngram)(path).knows("BARISTA")
