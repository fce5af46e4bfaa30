"""Token language models in the beam search: exact against enumeration, one call for all, the same in any pieces."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decode import BeamSearch, Hypothesis, beam_search
from asr.decode.fusion import Fusion, score_sequences
from asr.errors import DecodeError


def random_log_probs(*shape: int, seed: int, sharpness: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=shape) * sharpness
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class Table:
    """A language model whose predictions depend on the last two tokens; it counts calls and keeps what it was asked."""

    def __init__(self, columns: int, seed: int = 0, sharpness: float = 2.0) -> None:
        self.vocab_size = columns
        self.table = random_log_probs(columns, columns, columns, seed=seed, sharpness=sharpness)
        self.calls = 0
        self.asked: list[tuple[int, ...]] = []

    def start(self, n: int) -> list[tuple[int, ...]]:
        return [()] * n

    def advance(self, state: list[tuple[int, ...]], tokens: np.ndarray) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        self.calls += 1
        assert len(state) == len(tokens) > 0
        new = [(*prefix, int(token)) for prefix, token in zip(state, tokens, strict=True)]
        self.asked += new
        return np.array([self.after(prefix) for prefix in new]), new

    def after(self, prefix: Sequence[int]) -> np.ndarray:
        last, before = prefix[-1], prefix[-2] if len(prefix) > 1 else 0
        row: np.ndarray = self.table[before, last]
        return row

    def select(self, state: list[tuple[int, ...]], indices: np.ndarray) -> list[tuple[int, ...]]:
        return [state[i] for i in indices]

    def join(self, states: Sequence[list[tuple[int, ...]]]) -> list[tuple[int, ...]]:
        return [prefix for state in states for prefix in state]

    def finish(self, state: list[tuple[int, ...]]) -> np.ndarray:
        return np.array([self.after(prefix)[0] for prefix in state])

    def score(self, tokens: Sequence[int]) -> float:
        """The definition: each token after those before it, and the end."""
        prefix, total = [0], 0.0
        for token in [*tokens, 0]:
            total += self.after(prefix)[token]
            prefix.append(token)
        return total


def ctc_scores(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """ln P of every token sequence, by listing every path."""
    scores: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = tuple(token for token, _ in itertools.groupby(path) if token)
        score = float(sum(log_probs[t, c] for t, c in enumerate(path)))
        scores[text] = float(np.logaddexp(scores.get(text, -math.inf), score))
    return scores


@settings(max_examples=60)
@given(st.integers(0, 5), st.integers(2, 3), st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 2.5]))
def test_equals_the_sum_over_all_paths_plus_the_model(frames: int, columns: int, seed: int, weight: float) -> None:
    log_probs = random_log_probs(frames, columns, seed=seed)
    lm = Table(columns, seed)
    scores = ctc_scores(log_probs)
    wanted = {text: score + weight * lm.score(text) for text, score in scores.items()}
    (got,) = beam_search(log_probs, beam=100, lm=Fusion(lm, weight), nbest=100)
    assert {h.tokens: h.score for h in got} == pytest.approx(wanted, abs=1e-9)
    assert [h.score for h in got] == sorted((h.score for h in got), reverse=True)
    for h in got:
        assert h.lm_score == pytest.approx(weight * lm.score(h.tokens))


@pytest.mark.parametrize("beam", [1, 3, 8])
@pytest.mark.parametrize("thresholds", [{}, {"token_threshold": -4.0, "blank_threshold": -0.05, "beam_threshold": 9.0}])
def test_any_split_and_any_company_give_the_same(beam: int, thresholds: dict[str, float]) -> None:
    batch = random_log_probs(3, 60, 6, seed=1, sharpness=3.0)
    lengths = [60, 0, 41]
    lm = Fusion(Table(6), 0.7)
    together = beam_search(batch, lengths, beam=beam, lm=lm, nbest=beam, **thresholds)
    for matrix, length, wanted in zip(batch, lengths, together, strict=True):
        alone = beam_search(matrix[:length], beam=beam, lm=lm, nbest=beam, **thresholds)[0]
        assert_close(alone, wanted)
        search = BeamSearch(beam=beam, lm=lm, **thresholds)
        for at in range(0, max(length, 1), 7):
            search.accept(matrix[at : min(at + 7, length)])
            search.hypotheses()  # looking on the way changes nothing
        assert_close(search.finish(beam), wanted)


def assert_close(got: Sequence[Hypothesis], wanted: Sequence[Hypothesis]) -> None:
    assert [(h.tokens, h.frames, h.ends) for h in got] == [(h.tokens, h.frames, h.ends) for h in wanted]
    assert [h.score for h in got] == pytest.approx([h.score for h in wanted])


def test_no_prefix_is_asked_for_twice_while_it_is_held() -> None:
    lm = Table(4)
    beam_search(random_log_probs(30, 4, seed=2, sharpness=5.0), beam=64, beam_threshold=12.0, lm=Fusion(lm))
    assert len(lm.asked) < 1.5 * len(set(lm.asked))


def test_one_call_a_frame_for_all_utterances() -> None:
    lm = Table(5)
    beam_search(random_log_probs(8, 40, 5, seed=3), beam=8, lm=Fusion(lm))
    assert lm.calls <= 41
    assert len(lm.asked) > 8 * 40


def test_weight_zero_is_no_model_to_the_last_bit() -> None:
    batch = random_log_probs(2, 30, 5, seed=4)
    lm = Table(5)
    assert beam_search(batch, beam=6, lm=Fusion(lm, 0.0), nbest=6) == beam_search(batch, beam=6, nbest=6)
    assert not lm.calls


def test_a_strongly_biased_model_forces_its_text() -> None:
    columns, text = 5, (3, 1, 4, 1, 2)
    lm = Table(columns)
    lm.table[:] = -200.0
    for before, last, token in zip((0, 0, *text), (0, *text), (*text, 0), strict=False):
        lm.table[before, last, token] = 0.0
    (best,) = beam_search(random_log_probs(40, columns, seed=5), beam=16, lm=Fusion(lm, 1.0))[0]
    assert best.tokens == text


def test_branches_of_a_copied_search_are_independent() -> None:
    log_probs = random_log_probs(40, 5, seed=6)
    lm = Fusion(Table(5))
    search = BeamSearch(beam=4, lm=lm)
    search.accept(log_probs[:20])
    other = copy.deepcopy(search)
    other.accept(log_probs[:10])
    search.accept(log_probs[20:])
    assert search.finish() == beam_search(log_probs, beam=4, lm=lm)[0]


def test_pools_that_grow_and_are_compacted_keep_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = random_log_probs(400, 5, seed=7)
    lm = Table(5)
    monkeypatch.setattr("asr.decode.beam.INITIAL_NODES", 16)
    (best,) = beam_search(log_probs, beam=4, lm=Fusion(lm))[0]
    assert best.lm_score == pytest.approx(lm.score(best.tokens))
    assert len(best.tokens) > 50


def test_scores_of_whole_sequences() -> None:
    lm = Table(4)
    texts = [(), (1, 2, 3, 1), (2,), (3, 3)]
    assert score_sequences(lm, texts) == pytest.approx([lm.score(text) for text in texts])
    assert lm.calls == 5
    assert score_sequences(lm, []).shape == (0,)
    for wrong in (1.9, True, 0, lm.vocab_size):
        with pytest.raises(DecodeError, match="expected whole token ids from 1"):
            score_sequences(lm, [[1, wrong]])


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_refuses_weights_that_are_none(weight: float) -> None:
    with pytest.raises(DecodeError, match="weight of at least 0"):
        Fusion(Table(3), weight)


def test_refuses_a_model_of_another_vocabulary() -> None:
    with pytest.raises(DecodeError, match="knows 4 tokens, the matrix has 5 columns"):
        beam_search(random_log_probs(3, 5, seed=0), lm=Fusion(Table(4)))


def test_beam_threshold_drops_what_is_far_behind() -> None:
    log_probs = random_log_probs(20, 6, seed=8, sharpness=8.0)
    options: dict[str, Any] = {"beam": 32, "nbest": 32}
    everything, near = beam_search(log_probs, **options)[0], beam_search(log_probs, beam_threshold=1.0, **options)[0]
    assert near[0].tokens == everything[0].tokens
    assert 1 <= len(near) < len(everything)
    assert all(h.score >= near[0].score - 1.0 for h in near)
    with pytest.raises(DecodeError, match=r"beam_threshold .* at least 0, got -1"):
        beam_search(log_probs, beam_threshold=-1.0)
