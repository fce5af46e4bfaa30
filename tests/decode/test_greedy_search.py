"""Greedy decoding against a frame-by-frame reference, and what every decoder refuses."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decode import GreedySearch, Hypothesis, beam_search, greedy, greedy_search
from asr.decode.greedy_search import best_path
from asr.decode.posteriors import as_batch
from asr.errors import DecodeError

DECODERS = [pytest.param(greedy, id="greedy"), pytest.param(beam_search, id="beam")]


def random_log_probs(*shape: int, seed: int = 0, sharpness: float = 3.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=shape) * sharpness
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def one_hot(path: list[int], columns: int) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.eye(columns)[path])


def reference(log_probs: np.ndarray) -> Hypothesis:
    tokens, frames, ends, confidences = [], [], [], []
    for token, run in itertools.groupby(range(len(log_probs)), key=lambda frame: int(log_probs[frame].argmax())):
        where = list(run)
        if token != 0:
            tokens.append(token)
            frames.append(where[0])
            ends.append(where[-1] + 1)
            confidences.append(math.exp(max(log_probs[frame, token] for frame in where)))
    score = float(log_probs.max(axis=-1).sum()) if len(log_probs) else 0.0
    return Hypothesis(tuple(tokens), tuple(frames), tuple(ends), tuple(confidences), score)


def assert_same(got: Hypothesis, expected: Hypothesis) -> None:
    assert (got.tokens, got.frames, got.ends) == (expected.tokens, expected.frames, expected.ends)
    assert got.confidences == pytest.approx(expected.confidences, rel=1e-6)
    assert got.score == pytest.approx(expected.score, rel=1e-6)


def only(result: Hypothesis | list[Hypothesis]) -> Hypothesis:
    """The hypothesis of one utterance, whichever decoder gave it."""
    return result if isinstance(result, Hypothesis) else result[0]


def test_merges_repeats_and_drops_blanks() -> None:
    (got,) = greedy(one_hot([0, 2, 2, 0, 2, 1, 1, 1], columns=3))
    assert got == Hypothesis((2, 2, 1), (1, 4, 5), (3, 5, 8), (1.0, 1.0, 1.0), 0.0)


def test_confidence_is_the_largest_posterior_of_the_emission() -> None:
    (got,) = greedy(np.log([[0.4, 0.6], [0.1, 0.9], [0.3, 0.7], [0.95, 0.05], [0.2, 0.8]]))
    assert got.confidences == pytest.approx((0.9, 0.8))
    assert got.score == pytest.approx(math.log(0.6 * 0.9 * 0.7 * 0.95 * 0.8))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), min_size=1, max_size=5))
@settings(deadline=None)
def test_equals_reference_whatever_stands_in_the_padding(seed: int, lengths: list[int]) -> None:
    batch = random_log_probs(len(lengths), 9, 4, seed=seed)
    expected = [reference(matrix[:length]) for matrix, length in zip(batch, lengths, strict=True)]
    for utterance, length in enumerate(lengths):
        batch[utterance, length:] = np.nan
    for got, wanted in zip(greedy(batch, lengths), expected, strict=True):
        assert_same(got, wanted)


def test_token_at_the_end_of_one_utterance_does_not_reach_the_next() -> None:
    batch = np.stack([one_hot([0, 1], columns=2), one_hot([1, 0], columns=2)])
    assert [(h.tokens, h.frames, h.ends) for h in greedy(batch)] == [((1,), (1,), (2,)), ((1,), (0,), (1,))]


@pytest.mark.parametrize("decode", DECODERS)
class TestWhatDecodersAccept:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_tensor_like_array(self, decode: Any, dtype: torch.dtype) -> None:
        tensor = torch.tensor(random_log_probs(3, 20, 5)).to(dtype).requires_grad_()
        lengths = torch.tensor([20, 7, 0])
        expected = decode(tensor.detach().double().numpy(), [20, 7, 0])
        for got, wanted in zip(decode(tensor, lengths), expected, strict=True):
            assert_same(only(got), only(wanted))

    def test_matrix_is_a_batch_of_one(self, decode: Any) -> None:
        matrix = random_log_probs(20, 5)
        assert decode(matrix) == decode(matrix[None]) == decode(matrix, 20) == decode(matrix, [20])

    def test_any_memory_layout(self, decode: Any) -> None:
        batch = random_log_probs(20, 3, 5)
        assert decode(batch.transpose(1, 0, 2)) == decode(np.ascontiguousarray(batch.transpose(1, 0, 2)))
        assert decode(np.asfortranarray(batch[:, 0])) == decode(batch[:, 0])

    @pytest.mark.parametrize("shape", [(0, 3), (1, 0, 3)])
    def test_no_frames_are_an_empty_hypothesis(self, decode: Any, shape: tuple[int, ...]) -> None:
        (got,) = decode(np.zeros(shape))
        assert only(got) == Hypothesis()

    def test_no_utterances(self, decode: Any) -> None:
        assert decode(np.zeros((0, 7, 3)), []) == []

    def test_impossible_symbols(self, decode: Any) -> None:
        (got,) = decode(one_hot([1, 0, 2], columns=3))
        assert (only(got).tokens, only(got).score) == ((1, 2), 0.0)

    def test_padding_is_not_looked_at(self, decode: Any) -> None:
        batch = random_log_probs(2, 6, 3)
        expected = decode(batch, [6, 2])
        batch[1, 2:] = 1e30
        assert decode(batch, [6, 2]) == expected


@pytest.mark.parametrize("decode", DECODERS)
class TestWhatDecodersRefuse:
    @pytest.mark.parametrize("shape", [(5,), (1, 2, 3, 4), ()])
    def test_wrong_number_of_axes(self, decode: Any, shape: tuple[int, ...]) -> None:
        with pytest.raises(DecodeError, match=r"\(T, V\) or \(B, T, V\), got shape"):
            decode(np.zeros(shape))

    def test_blank_alone(self, decode: Any) -> None:
        with pytest.raises(DecodeError, match="at least 2 columns"):
            decode(np.zeros((5, 1)))

    def test_integers(self, decode: Any) -> None:
        with pytest.raises(DecodeError, match="got values of type int"):
            decode(np.zeros((5, 3), dtype=np.int64))

    @pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, r"\+inf")])
    def test_not_numbers(self, decode: Any, value: float, name: str) -> None:
        batch = random_log_probs(3, 9, 4)
        batch[1, 6, 2] = value
        with pytest.raises(DecodeError, match=f"got {name} in frame 6 of utterance 1"):
            decode(batch, [9, 7, 9])

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ([3.0, 1.0, 0.0, 0.0], r"log_softmax.*got logsumexp 3\.211 in frame 6 of utterance 1"),
            ([2000.0, 1.0, 0.0, 0.0], r"got logsumexp 2000 in frame 6 of utterance 1"),
            ([0.1, 0.2, 0.3, 0.4], "looks like probabilities in frame 6 of utterance 1; take their logarithm"),
            ([-np.inf] * 4, "got logsumexp -inf in frame 6 of utterance 1"),
            (np.log([0.25, 0.25, 0.25, 0.28]), r"got logsumexp 0\.02956"),
        ],
    )
    def test_not_normalised(self, decode: Any, row: list[float], message: str) -> None:
        batch = random_log_probs(3, 9, 4)
        batch[1, 6] = row
        with pytest.raises(DecodeError, match=message):
            decode(batch)

    def test_bad_frame_of_a_long_recording_has_its_number(self, decode: Any) -> None:
        matrix = np.tile(random_log_probs(1, 300), (8000, 1))
        matrix[7654, 3] = np.nan
        with pytest.raises(DecodeError, match="frame 7654 of utterance 0"):
            decode(matrix)

    @pytest.mark.parametrize(
        ("lengths", "message"),
        [
            ([9, 10], "0 to 9 frames, got 10 for utterance 1"),
            ([-1, 9], "0 to 9 frames, got -1 for utterance 0"),
            ([9], "each of 2 utterances"),
            (9, "each of 2 utterances"),
            ([0.5, 1.0], "whole frames"),
        ],
    )
    def test_lengths_that_do_not_fit(self, decode: Any, lengths: Any, message: str) -> None:
        with pytest.raises(DecodeError, match=message):
            decode(random_log_probs(2, 9, 4), lengths)


def test_import_costs_neither_numba_nor_torch() -> None:
    code = "import sys, asr.decode.greedy_search; print(sorted({'numba', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(ImportError):
        from asr.decode import bean_search  # type: ignore[attr-defined]  # noqa: F401


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    vocabulary=st.integers(2, 4),
)
def test_frames_in_any_pieces_give_the_whole(seed: int, sizes: list[int], vocabulary: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=3, size=(sum(sizes), vocabulary))
    matrix = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    search = GreedySearch()
    at = 0
    for size in sizes:
        search.accept(matrix[at : at + size])
        at += size
        whole = greedy(matrix[:at])[0]
        partial, stable = search.partial()
        assert (partial.tokens, partial.frames, partial.ends) == (whole.tokens, whole.frames, whole.ends)
        assert partial.confidences == pytest.approx(whole.confidences)
        assert partial.score == pytest.approx(whole.score)
        assert stable == len(whole.tokens)
        assert search.frames == at
    assert search.finish()[0].tokens == greedy(matrix)[0].tokens
    assert search.finish()[0].tokens == ()


# Log-probabilities on a GPU are searched there; the same code runs on a CPU.


def test_the_best_path_is_the_same_where_the_tensor_lies(monkeypatch):
    log_probs = torch.from_numpy(random_log_probs(4, 30, 6, seed=5)).float()
    lengths = torch.tensor([30, 0, 17, 1])
    expected = greedy(log_probs, lengths)
    best, peaks, frames = best_path(log_probs, lengths)
    assert (best == log_probs.argmax(-1).numpy()).all()
    assert (peaks == log_probs.amax(-1).numpy()).all()
    assert frames.tolist() == lengths.tolist()
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    calls = []
    monkeypatch.setattr(greedy_search, "as_batch", lambda *args: calls.append(args[0].shape) or as_batch(*args))
    assert greedy(log_probs, lengths) == expected
    assert calls == [(4, 30, 2)], "the whole matrix was copied"


def test_a_best_path_of_no_probabilities_is_refused_as_ever(monkeypatch):
    log_probs = torch.from_numpy(random_log_probs(2, 8, 4, seed=6))
    log_probs[1, 5] = math.nan
    assert best_path(log_probs) is None
    assert best_path(log_probs, [8, 5]) is not None
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    with pytest.raises(DecodeError, match="frame 5"):
        greedy(log_probs)
    with pytest.raises(DecodeError, match="lengths"):
        greedy(log_probs, [9, 2])
