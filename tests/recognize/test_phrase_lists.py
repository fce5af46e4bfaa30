"""Searches that are limited to the words of a list."""

import numpy as np
import pytest
import torch

from asr.config.sections import TextConfig
from asr.decode import score_phrases
from asr.decode.phrase_search import Phrase
from asr.errors import DecodeError
from asr.recognize.options import Decoding
from asr.recognize.phrase_lists import PhraseListDecoder
from asr.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(["<blank>", " ", *"ABCD"], TextConfig(case="upper"))
OPEN = ["ab ba", "[unk]"]


def posteriors(text, strength=6.0, seed=0):
    """Log-probabilities ``(T, V)`` in which a text is likeliest."""
    rng = np.random.default_rng(seed)
    path = [label for token in TOKENIZER.encode(text) for label in (token, 0)]
    logits = torch.from_numpy(rng.normal(0, 1, (len(path), TOKENIZER.vocab_size)))
    logits[torch.arange(len(path)), torch.tensor(path)] += strength
    return torch.log_softmax(logits, dim=1)


def decoded(decoder, matrix):
    search = decoder.search()
    search.accept(matrix)
    return decoder.text(decoder.finish(search)[0].tokens)


@pytest.mark.parametrize("said", ["AB BA", "BA", "BA AB AB", "BA BA"])
def test_any_part_of_the_phrases_is_found_in_any_order_and_spelt_as_in_the_list(said):
    assert decoded(PhraseListDecoder(Decoding(), TOKENIZER, ["ab ba", "cd"]), posteriors(said)) == said.lower()


def test_scores_are_those_of_the_sound_and_the_bigram():
    decoder = PhraseListDecoder(Decoding(beam=512), TOKENIZER, ["ab", "b ad", "ba"])
    for seed in range(10):
        matrix = posteriors("A DB C", 1.5, seed)
        search = decoder.search()
        search.accept(matrix)
        for found in search.hypotheses(5):
            sound = score_phrases(matrix, [Phrase("", (found.tokens,))])[0, 0]
            assert found.score == pytest.approx(sound + decoder.options.lm.score(decoder.text(found.tokens).upper()))


def test_a_closed_list_has_no_other_words():
    assert set(decoded(PhraseListDecoder(Decoding(), TOKENIZER, ["ab ba"]), posteriors("AB CD")).split()) <= {
        "ab",
        "ba",
    }


def test_other_words_are_allowed_and_written_as_unk_where_the_list_says_so():
    decoder = PhraseListDecoder(Decoding(unknown_penalty=-4.0), TOKENIZER, OPEN)
    assert decoded(decoder, posteriors("AB CDCD BA")) == "ab [unk] ba"


@pytest.mark.parametrize(
    ("phrases", "said", "shown"), [(["ab ba"], "AB BA AB", "ab ba ab"), (OPEN, "AB DADA BA", "ab [unk] ba")]
)
def test_partial_texts_grow_and_their_stable_part_stays(phrases, said, shown):
    decoder = PhraseListDecoder(Decoding(beam_threshold=8.0, unknown_penalty=-4.0), TOKENIZER, phrases)
    search, kept = decoder.search(), [""]
    for row in posteriors(said, 14.0):
        search.accept(row[None])
        hypothesis, stable = search.partial()
        text, settled = decoder.vocabulary.partial(hypothesis.tokens, stable)
        assert text.startswith(kept[-1])
        kept.append(text[:settled])
    assert set(kept) == {"", *(" ".join(shown.split()[:count]) for count in (1, 2))}
    assert decoder.text(decoder.finish(search)[0].tokens) == shown


def test_a_phrase_is_read_as_it_is_spoken():
    tokenizer = CharTokenizer(["<blank>", " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig(case="upper"))
    decoder = PhraseListDecoder(Decoding(), tokenizer, ["Call Dr. Hill, 42"])
    assert decoder.spelling == {
        "CALL": "Call", "DOCTOR": "DOCTOR", "HILL": "Hill", "FORTY": "FORTY", "TWO": "TWO",
    }  # fmt: skip


def test_a_phrase_that_cannot_be_spelt_is_named():
    with pytest.raises(DecodeError, match="phrase 'ab xyz'"):
        PhraseListDecoder(Decoding(language="none"), TOKENIZER, ["ab", "ab xyz"])


def test_hot_words_must_be_of_the_list():
    decoder = PhraseListDecoder(Decoding(), TOKENIZER, ["ab ba"])
    assert decoder.vocabulary_with({"BA": 2.0}).boosts == {"BA": 2.0}
    with pytest.raises(DecodeError, match="hot word 'CD': expected a word of the list"):
        decoder.vocabulary_with({"cd": 2.0})
