"""The bigram of a list of phrases."""

import math

import pytest

from asr.decode.phrase_bigram import NEVER, phrase_bigram
from asr.errors import DecodeError

PHRASES = [["ONE", "TWO"], ["ONE", "THREE"], ["<unk>"], ["TURN", "<unk>", "OFF"]]


def test_the_probabilities_behind_every_word_sum_to_one():
    bigram = phrase_bigram(PHRASES)
    for context in ("<s>", "ONE", "TWO", "THREE", "TURN", "OFF", "<unk>"):
        total = sum(math.exp(bigram.log_prob([context], word)) for word in bigram.words if word != "<s>")
        assert total == pytest.approx(1)


def test_words_may_follow_each_other_in_any_order_but_pairs_of_the_list_are_likelier():
    bigram = phrase_bigram(PHRASES)
    assert bigram.log_prob(["ONE"], "TWO") > bigram.log_prob(["ONE"], "OFF") > -5


def test_a_sentence_never_begins_anew_within():
    assert phrase_bigram(PHRASES).log_prob(["ONE"], "<s>") < NEVER


@pytest.mark.parametrize("phrases", [[], [[]], [["ONE", "</s>"]], [["<s>"]]])
def test_phrases_without_words_are_refused(phrases):
    with pytest.raises(DecodeError, match=r"^phrases: expected words"):
        phrase_bigram(phrases)
