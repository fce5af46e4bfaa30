"""Vocabularies with other hot words are what a decoder with these hot words has."""

import numpy as np
import pytest

from asr.config.sections import TextConfig
from asr.decode import ngram_cache
from asr.decode.ngram import Ngram
from asr.errors import DecodeError
from asr.recognize import vocabulary
from asr.recognize.vocabulary import Vocabularies, WordModels
from asr.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(["<blank>", " ", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig(case="upper"))
NGRAM = Ngram(1, {("<s>",): (-99.0, 0.0), ("</s>",): (-1.0, 0.0), ("CALL",): (-1.0, 0.0), ("HILL",): (-2.0, 0.0)})


def flat(arrays):
    return [a for part in arrays for a in (flat(part) if isinstance(part, tuple) else [part])]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(flat(one.arrays), flat(other.arrays), strict=True))


@pytest.mark.parametrize(
    "models",
    [
        WordModels(),
        WordModels(word_bonus=1.0),
        WordModels(lexicon=("CALL", "MISTER", "HILL")),
        WordModels(ngram=NGRAM, weight=0.5),
    ],
)
def test_hot_words_put_over_what_there_is_are_those_made_anew(models):
    for hotwords in ({"HILL": 3.0}, {"CALL HILL": 2.0, "HILL": 1.0}, {"NEWCOMER": 4.0}):
        kept = Vocabularies(TOKENIZER, models, "en")
        first = kept.make({"CALL": 9.0})
        assert same(kept.make(hotwords), Vocabularies(TOKENIZER, models, "en").make(hotwords))
        assert not same(kept.make(hotwords), first)
        assert same(kept.make({"CALL": 9.0}), first)


def test_hot_words_are_read_as_they_are_spoken():
    kept = Vocabularies(TOKENIZER, WordModels(), "en")
    assert same(kept.make({"Mr. Hill, 42": 2.0}), kept.make({"MISTER HILL FORTY TWO": 2.0}))
    with pytest.raises(DecodeError, match=r"^hot word '42': '4', '2' cannot be spelt"):
        Vocabularies(TOKENIZER, WordModels(), "none").make({"42": 1.0})


def test_without_hot_words_a_search_for_letters_needs_no_words():
    assert Vocabularies(TOKENIZER, WordModels(), "en").make({}).arrays is None


@pytest.mark.parametrize(
    "models",
    [
        WordModels(lexicon=("CALL", "MISTER", "HILL")),
        WordModels(lexicon=("CALL", "MISTER", "HILL"), ngram=NGRAM),
        WordModels(ngram=NGRAM, weight=0.5),
    ],
    ids=["lexicon", "lexicon and n-gram", "n-gram"],
)
def test_a_kept_tree_gives_the_arrays_of_a_new_one(models, tmp_path, monkeypatch):
    made = Vocabularies(TOKENIZER, models, "en").make({"NEWCOMER": 4.0})
    monkeypatch.setattr(ngram_cache, "MANY_WORDS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stored = Vocabularies(TOKENIZER, models, "en").make({"NEWCOMER": 4.0})
    monkeypatch.setattr(vocabulary, "pack_lexicon", None)  # nothing is arranged any more
    kept = Vocabularies(TOKENIZER, models, "en").make({"NEWCOMER": 4.0})
    assert same(made, stored)
    assert same(made, kept)
