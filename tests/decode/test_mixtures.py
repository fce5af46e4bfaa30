"""Several language models at once: weighted sums, of models over tokens and of word n-grams, exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion import Table, ctc_scores, random_log_probs

from asr.decode import beam_search
from asr.decode.fusion import Fusion, score_sequences
from asr.decode.mixtures import Mixture, mixed_ngrams
from asr.decode.ngram import Ngram
from asr.errors import DecodeError

WORDS = ("A", "B", "C")


@st.composite
def ngrams(draw: st.DrawFn) -> Ngram:
    """Random back-off models over the same words; any longer n-gram may be missing, whatever stands around it."""
    order = draw(st.integers(1, 4))
    score = st.floats(-5, 0)
    entries = {(word,): (draw(score), draw(score)) for word in (*WORDS, "<s>", "</s>", "<unk>")}
    longer = [key for n in range(2, order + 1) for key in itertools.product((*WORDS, "<s>", "</s>"), repeat=n)]
    for key in draw(st.lists(st.sampled_from(longer), max_size=12, unique=True)) if longer else []:
        entries[key] = draw(score), draw(score)
    return Ngram(order, entries)


@settings(max_examples=60, deadline=None)
@given(ngrams(), ngrams(), st.floats(0, 2), st.floats(0, 2))
def test_mixed_ngrams_are_the_weighted_sum_after_every_history(
    first: Ngram, second: Ngram, one: float, two: float
) -> None:
    mixed = mixed_ngrams([first, second], [one, two])
    for length in range(4):
        for history in itertools.product(("<s>", *WORDS), repeat=length):
            for word in (*WORDS, "</s>", "nobody"):
                wanted = one * first.log_prob(history, word) + two * second.log_prob(history, word)
                assert mixed.log_prob(history, word) == pytest.approx(wanted, abs=1e-9)


def test_words_of_one_ngram_alone_are_unknown_to_the_other() -> None:
    first = Ngram(2, {("<unk>",): (-4.0, 0.0), ("A",): (-1.0, -0.5), ("A", "A"): (-0.25, 0.0)})
    second = Ngram(2, {("A",): (-2.0, -0.75), ("B",): (-3.0, -1.0), ("A", "B"): (-0.5, 0.0), ("B", "A"): (-0.125, 0.0)})
    mixed = mixed_ngrams([first, second], [1.0, 2.0])
    assert set(mixed.words) == {"<unk>", "A", "B"}
    assert mixed.log_prob((), "B") == pytest.approx(-4.0 + 2 * -3.0)
    assert mixed.log_prob(("A",), "B") == pytest.approx(-0.5 - 4.0 + 2 * -0.5)
    assert mixed.log_prob(("B",), "A") == pytest.approx(-1.0 + 2 * -0.125)  # B hides what was before it
    assert mixed.log_prob((), "<unk>") == pytest.approx(-4.0 + 2 * -3.0)  # the second has none: its rarest word


def test_a_search_with_several_models_is_exact() -> None:
    log_probs = random_log_probs(4, 3, seed=1)
    models = [(Table(3, seed=2), 0.7), (Table(3, seed=3), 1.3)]
    scores = {
        text: score + sum(weight * model.score(text) for model, weight in models)
        for text, score in ctc_scores(log_probs).items()
    }
    best = sorted(scores.items(), key=lambda item: -item[1])[:5]
    found = beam_search(log_probs, beam=100, lm=Fusion(Mixture(models)), nbest=5)[0]
    assert [h.tokens for h in found] == [text for text, _ in best]
    assert [h.score for h in found] == pytest.approx([score for _, score in best])
    texts = [h.tokens for h in found]
    wanted = sum(weight * np.asarray(score_sequences(model, texts)) for model, weight in models)
    assert score_sequences(Mixture(models), texts) == pytest.approx(wanted)


def test_models_of_different_vocabularies_are_refused() -> None:
    with pytest.raises(DecodeError, match=r"the same vocabulary, got \[3, 4\]"):
        Mixture([(Table(3), 1.0), (Table(4), 1.0)])


def test_an_impossible_word_stays_impossible() -> None:
    one = Ngram(1, {("A",): (-math.inf, 0.0), ("B",): (-1.0, 0.0)})
    assert mixed_ngrams([one, one], [0.5, 0.5]).log_prob((), "A") == -math.inf
