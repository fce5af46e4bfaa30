"""The bigram of a list of phrases."""

import math

import pytest

from asr.decode.phrase_bigram import IMPOSSIBLE, bigram_of_phrases
from asr.errors import DecodeError

PHRASES = [["ONE", "TWO"], ["ONE", "THREE"], ["<unk>"], ["TURN", "<unk>", "OFF"]]


def test_the_probabilities_behind_every_word_sum_to_one():
    bigram = bigram_of_phrases(PHRASES)
    for context in ("<s>", "ONE", "TWO", "THREE", "TURN", "OFF", "<unk>"):
        total = sum(math.exp(bigram.log_prob([context], word)) for word in bigram.words if word != "<s>")
        assert total == pytest.approx(1)


def test_words_may_follow_each_other_in_any_order_but_pairs_of_the_list_are_likelier():
    bigram = bigram_of_phrases(PHRASES)
    assert bigram.log_prob(["ONE"], "TWO") > bigram.log_prob(["ONE"], "OFF") > -5


def test_a_sentence_never_begins_anew_within():
    assert bigram_of_phrases(PHRASES).log_prob(["ONE"], "<s>") < IMPOSSIBLE


@pytest.mark.parametrize("phrases", [[], [[]], [["ONE", "</s>"]], [["<s>"]]])
def test_phrases_without_words_are_refused(phrases):
    with pytest.raises(DecodeError, match=r"^phrases: expected words"):
        bigram_of_phrases(phrases)
