"""Prefix beam search: exact on small inputs, equal to a slow reference on larger ones, the same in any pieces."""

from __future__ import annotations

import copy
import itertools
import math
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decode import BeamSearch, Hypothesis, beam_search, greedy
from asr.decode import beam as beam_module
from asr.decode.beam import INITIAL_NODES
from asr.errors import DecodeError

Path = tuple[int, ...]


def normalised(weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum(axis=-1, keepdims=True))


def random_log_probs(*shape: int, seed: int, sharpness: float = 2.0, blank: float = 0.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=shape) * sharpness
    logits[..., 0] += blank
    return normalised(np.exp(logits))


@st.composite
def small_matrices(draw: st.DrawFn) -> np.ndarray:
    """Up to 5 frames of 2 or 3 symbols, some of them impossible."""
    frames, columns = draw(st.integers(0, 5)), draw(st.integers(2, 3))
    weight = st.one_of(st.just(0.0), st.floats(1e-6, 1.0))
    row = st.lists(weight, min_size=columns, max_size=columns).filter(any)
    return normalised(np.array(draw(st.lists(row, min_size=frames, max_size=frames))).reshape(frames, columns))


def collapse(path: Iterable[int]) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != 0)


def path_of(hypothesis: Hypothesis, frames: int) -> Path:
    """The path that a hypothesis' times describe."""
    path = [0] * frames
    for token, start, end in zip(hypothesis.tokens, hypothesis.frames, hypothesis.ends, strict=True):
        assert 0 <= start < end <= frames
        assert not any(path[start:])
        path[start:end] = [token] * (end - start)
    return tuple(path)


def log_prob_of(path: Path, log_probs: np.ndarray) -> float:
    return float(sum(log_probs[frame, symbol] for frame, symbol in enumerate(path)))


@dataclass
class Mass:
    """A prefix of the reference search: summed mass and best path, by how the path ends."""

    blank: float = -math.inf
    label: float = -math.inf
    blank_best: tuple[float, Path] = (-math.inf, ())
    label_best: tuple[float, Path] = (-math.inf, ())

    @property
    def total(self) -> float:
        return float(np.logaddexp(self.blank, self.label))

    @property
    def best(self) -> tuple[float, Path]:
        return max(self.blank_best, self.label_best)


def reference_search(
    log_probs: np.ndarray, beam: int, token_threshold: float, blank_threshold: float
) -> list[tuple[tuple[int, ...], float, Path]]:
    """Prefix beam search as the papers write it: dictionaries of whole prefixes, no shortcut of any kind."""
    prefixes = {(): Mass(blank=0.0, blank_best=(0.0, ()))}
    for row in log_probs:
        following: dict[tuple[int, ...], Mass] = defaultdict(Mass)
        certain_blank = blank_threshold < 0 and row[0] > blank_threshold
        for prefix, old in prefixes.items():
            new = following[prefix]
            new.blank = np.logaddexp(new.blank, old.total + row[0])
            score, path = old.best
            new.blank_best = max(new.blank_best, (score + row[0], path + (0,)))
            if certain_blank:
                continue
            for token in range(1, len(row)):
                longer = prefix + (token,)
                score, path = old.label_best
                if prefix and token == prefix[-1]:
                    new.label = np.logaddexp(new.label, old.label + row[token])
                    new.label_best = max(new.label_best, (score + row[token], path + (token,)))
                    mass, (score, path) = old.blank, old.blank_best
                else:
                    mass, (score, path) = old.total, old.best
                if longer in prefixes or row[token] >= token_threshold or row[token] == row.max():
                    new_longer = following[longer]
                    new_longer.label = np.logaddexp(new_longer.label, mass + row[token])
                    new_longer.label_best = max(new_longer.label_best, (score + row[token], path + (token,)))
        ranked = sorted(following.items(), key=lambda item: -item[1].total)[:beam]
        prefixes = {prefix: mass for prefix, mass in ranked if mass.total > -math.inf}
    return [(prefix, mass.total, mass.best[1]) for prefix, mass in prefixes.items()]


@given(small_matrices())
@settings(max_examples=300, deadline=None)  # the first example may have to compile the kernels
def test_exact_against_all_paths_when_nothing_is_pruned(log_probs: np.ndarray) -> None:
    frames, columns = log_probs.shape
    paths: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for path in itertools.product(range(columns), repeat=frames):
        score = log_prob_of(path, log_probs)
        if score > -math.inf:
            paths[collapse(path)].append(score)

    (found,) = beam_search(log_probs, beam=64, nbest=64)
    assert {h.tokens for h in found} == set(paths)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(float(np.logaddexp.reduce(paths[hypothesis.tokens])), abs=1e-9)
        path = path_of(hypothesis, frames)
        assert collapse(path) == hypothesis.tokens
        assert log_prob_of(path, log_probs) == pytest.approx(max(paths[hypothesis.tokens]), abs=1e-9)
    assert math.fsum(math.exp(h.score) for h in found) == pytest.approx(1.0)


@given(small_matrices(), st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=100, deadline=None)
def test_a_blank_penalty_is_taken_from_every_blank_of_every_path(log_probs: np.ndarray, penalty: float) -> None:
    frames, columns = log_probs.shape
    paths: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for path in itertools.product(range(columns), repeat=frames):
        score = log_prob_of(path, log_probs)
        if score > -math.inf:
            paths[collapse(path)].append(score - penalty * path.count(0))
    before = log_probs.copy()
    (found,) = beam_search(log_probs, beam=64, nbest=64, blank_penalty=penalty)
    assert {h.tokens: h.score for h in found} == pytest.approx(
        {tokens: float(np.logaddexp.reduce(scores)) for tokens, scores in paths.items()}, abs=1e-9
    )
    assert np.array_equal(log_probs, before), "the caller's matrix stays as it is"


def test_a_blank_penalty_leaves_confidences_and_the_blank_threshold_as_they_are() -> None:
    log_probs = random_log_probs(80, 6, seed=5, blank=3.0)
    ((plain,),) = beam_search(log_probs, beam=8)
    ((found,),) = beam_search(log_probs, beam=8, blank_penalty=2.0)
    assert len(found.tokens) > len(plain.tokens)
    certain = float(log_probs[:, 0].min()) - 1e-9  # every blank is above it
    ((none,),) = beam_search(log_probs, beam=8, blank_penalty=2.0, blank_threshold=certain)
    assert none.tokens == ()
    expected = [
        math.exp(log_probs[start:end, token].max())
        for token, start, end in zip(found.tokens, found.frames, found.ends, strict=True)
    ]
    assert list(found.confidences) == pytest.approx(expected)


def test_a_blank_penalty_gives_the_same_in_pieces_and_in_batches() -> None:
    log_probs = random_log_probs(3, 60, 6, seed=6, blank=2.0)
    whole = beam_search(log_probs, beam=8, blank_penalty=0.7)
    for matrix, expected in zip(log_probs, whole, strict=True):
        search = BeamSearch(beam=8, blank_penalty=0.7)
        for start in range(0, 60, 7):
            search.accept(matrix[start : start + 7])
        assert search.finish() == expected


@pytest.mark.parametrize("pool", [1, INITIAL_NODES], ids=["crowded pools", "usual pools"])
@pytest.mark.parametrize(
    ("frames", "columns", "beam", "options"),
    [
        (60, 5, 1, {}),
        (200, 4, 3, {}),
        (100, 8, 12, {}),
        (60, 60, 4, {}),
        (100, 8, 12, {"token_threshold": -3.0}),
        (100, 8, 12, {"blank_threshold": -0.1}),
        (100, 8, 12, {"token_threshold": -0.001, "blank_threshold": -0.3}),
    ],
    ids=str,
)
def test_equals_slow_reference(
    frames: int, columns: int, beam: int, options: dict[str, float], pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_module, "INITIAL_NODES", pool)
    blank = 3.0 if "blank_threshold" in options else 1.0
    for seed in range(3):
        assert_equals_reference(random_log_probs(frames, columns, seed=seed, blank=blank), beam, **options)


@pytest.mark.parametrize(("columns", "beam"), [(3, 6), (4, 3), (9, 1)])
def test_prefixes_that_leave_the_beam_and_come_back_meet_their_continuations(columns: int, beam: int) -> None:
    """Happens on flat posteriors, in about one of three such searches with 3 symbols and beam 6."""
    for seed in range(40):
        assert_equals_reference(random_log_probs(30, columns, seed=seed, sharpness=1.0), beam)


def assert_equals_reference(
    log_probs: np.ndarray, beam: int, token_threshold: float = -math.inf, blank_threshold: float = 0.0
) -> None:
    thresholds = {"token_threshold": token_threshold, "blank_threshold": blank_threshold}
    expected = reference_search(log_probs, beam, **thresholds)
    (found,) = beam_search(log_probs, beam=beam, nbest=beam, **thresholds)
    assert [h.tokens for h in found] == [prefix for prefix, _, _ in expected]
    assert [h.score for h in found] == pytest.approx([score for _, score, _ in expected], abs=1e-9)
    assert [path_of(h, len(log_probs)) for h in found] == [path for _, _, path in expected]


@given(st.data())
@settings(deadline=None)
def test_the_same_in_any_pieces(data: st.DataObject) -> None:
    log_probs = random_log_probs(40, 5, seed=data.draw(st.integers(0, 1000)), blank=2.0)
    options = {"beam": data.draw(st.integers(1, 9)), "blank_threshold": data.draw(st.sampled_from([0.0, -0.2]))}
    cuts = sorted(data.draw(st.lists(st.integers(0, 40), max_size=8)))
    search = BeamSearch(**options)
    for first, last in itertools.pairwise([0, *cuts, 40]):
        search.accept(log_probs[first:last])
        assert search.frames == last
        assert search.hypotheses() == beam_search(log_probs[:last], **options)[0]
    assert search.finish(options["beam"]) == beam_search(log_probs, nbest=options["beam"], **options)[0]
    assert (search.frames, search.hypotheses()) == (0, [Hypothesis()])


def test_branches_of_a_copied_search_are_independent() -> None:
    log_probs = random_log_probs(60, 5, seed=1)
    search = BeamSearch(beam=4)
    search.accept(log_probs[:30])
    other = copy.deepcopy(search)
    other.accept(log_probs[:20])
    search.accept(log_probs[30:])
    assert search.finish() == beam_search(log_probs, beam=4)[0]


def test_utterance_does_not_depend_on_its_batch_mates() -> None:
    batch = random_log_probs(3, 50, 6, seed=2)
    alone = [beam_search(matrix[:length], nbest=3)[0] for matrix, length in zip(batch, [50, 0, 31], strict=True)]
    assert beam_search(batch, [50, 0, 31], nbest=3) == alone


def test_finds_the_sequence_that_the_best_path_misses() -> None:
    """Graves 2012: the best path is all blank (0.36), the likeliest sequence is one token (0.16 + 2 x 0.24)."""
    log_probs = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert greedy(log_probs)[0].tokens == ()
    ((best, second),) = beam_search(log_probs, nbest=2)
    assert (best.tokens, second.tokens) == ((1,), ())
    assert (math.exp(best.score), math.exp(second.score)) == pytest.approx((0.64, 0.36))


def test_times_and_confidences_are_those_of_greedy_where_the_text_is() -> None:
    same = 0
    for seed in range(30):
        log_probs = random_log_probs(40, 6, seed=seed, sharpness=4.0)
        (best,), (path,) = beam_search(log_probs)[0], greedy(log_probs)
        if best.tokens == path.tokens:
            same += 1
            assert (best.frames, best.ends) == (path.frames, path.ends)
            assert best.confidences == pytest.approx(path.confidences, rel=1e-6)
            assert best.score >= path.score
    assert same >= 10


def test_probabilities_below_what_a_float_holds() -> None:
    """With a blank and one token, both of 0.5, ``n`` tokens in ``T`` frames have C(T + 1, 2 n) paths of 2 ** -T."""
    frames = 1100
    found = beam_search(np.full((frames, 2), math.log(0.5)), beam=600, nbest=300)[0]
    for hypothesis in found:
        paths = math.comb(frames + 1, 2 * len(hypothesis.tokens))
        assert hypothesis.score == pytest.approx(math.log(paths) - frames * math.log(2), abs=1e-9)
    assert found[0].score == max(hypothesis.score for hypothesis in found)
    assert len({len(hypothesis.tokens) for hypothesis in found}) == 300


def test_token_after_frames_that_all_but_exclude_it() -> None:
    """The best prefix falls by e-600 in a single frame, twice: the other, which was e-200 of it, comes first."""
    log_probs = np.array(
        [[-np.inf, 0.0, -200.0], [0.0, -np.inf, -np.inf], [-600.0, -np.inf, 0.0], [0.0, -np.inf, -600.0]]
    )
    found = beam_search(log_probs, beam=8, nbest=2)[0]
    assert [(h.tokens, round(h.score, 6)) for h in found] == [((1, 2), 0.0), ((2, 2), -200.0)]


def test_batch_with_empty_and_long_utterances_in_threads_equals_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam_module, "BLOCK_VALUES", 60 * 7)  # groups of several, and one that is decoded in blocks
    lengths = [0, 20, 90, 1, 30, 0, 25]
    batch = np.stack([random_log_probs(90, 7, seed=i) for i in range(len(lengths))])
    alone = [beam_search(row[:n], beam=4, nbest=2)[0] for row, n in zip(batch, lengths, strict=True)]
    assert alone[0] == [Hypothesis()]
    for threads in (1, 3):
        assert beam_search(batch, lengths, beam=4, nbest=2, threads=threads) == alone


def test_frame_that_is_wrong_in_a_later_group_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam_module, "BLOCK_VALUES", 60 * 7)
    batch = np.stack([random_log_probs(90, 7, seed=i) for i in range(5)])
    batch[1, 25] = np.nan  # past the length
    beam_search(batch, [30, 20, 30, 30, 90], beam=4)
    batch[3, 11, 2] = np.nan
    with pytest.raises(DecodeError, match="NaN in frame 11 of utterance 3"):
        beam_search(batch, [30, 20, 30, 30, 90], beam=4)
    with pytest.raises(DecodeError, match="NaN in frame 11 of utterance 3"):
        beam_search(batch, [30, 20, 30, 90, 90], beam=4)


def test_start_is_where_the_token_is_likely_not_where_it_entered_the_beam() -> None:
    weights = np.full((20, 3), 0.01)
    weights[:, 0] = 1.0
    weights[12:15, 1] = 50.0
    (best,) = beam_search(normalised(weights))[0]
    assert (best.tokens, best.frames, best.ends) == ((1,), (12,), (15,))


@pytest.mark.parametrize("blank_threshold", [0.0, -0.01])
def test_blank_between_equal_tokens_counts_when_its_frame_is_skipped(blank_threshold: float) -> None:
    log_probs = normalised(np.array([[0.0, 1.0], [1.0, 1e-6], [1e-6, 1.0], [1e-6, 1.0]]))
    (best,) = beam_search(log_probs, blank_threshold=blank_threshold)[0]
    assert (best.tokens, best.frames, best.ends) == ((1, 1), (0, 2), (1, 4))


def test_frame_without_a_token_above_the_threshold_keeps_the_search_alive() -> None:
    log_probs = normalised(np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 1.1], [0.0, 1.1, 1.0]]))
    (found,) = beam_search(log_probs, beam=1, token_threshold=-0.01)
    assert len(found) == 1
    assert math.isfinite(found[0].score)


def test_hundred_thousand_frames_in_little_memory() -> None:
    log_probs = random_log_probs(100_000, 5, seed=3).astype(np.float32)
    BeamSearch(beam=8).accept(log_probs[:10])  # compiling takes memory, too
    search = BeamSearch(beam=8)
    tracemalloc.start()
    search.accept(log_probs)
    (best,) = search.hypotheses()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    assert search.frames == 100_000
    assert collapse(path_of_long(best)) == best.tokens
    assert len(best.tokens) > 30_000


def path_of_long(hypothesis: Hypothesis) -> list[int]:
    """Like ``path_of``, in one pass, without the frames after the last token."""
    path: list[int] = []
    for token, start, end in zip(hypothesis.tokens, hypothesis.frames, hypothesis.ends, strict=True):
        assert len(path) <= start < end
        path += [0] * (start - len(path)) + [token] * (end - start)
    return path


def test_decodes_a_block_larger_than_is_converted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = random_log_probs(50, 7, seed=4)
    expected = beam_search(log_probs)
    monkeypatch.setattr(beam_module, "BLOCK_VALUES", 20)
    assert beam_search(log_probs) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam of at least 1, got 0"),
        ({"beam": -3}, "beam of at least 1, got -3"),
        ({"beam": 2.5}, "beam as a whole number, got 2.5"),
        ({"beam": True}, "beam as a whole number, got True"),
        ({"beam_threshold": "5"}, "beam_threshold as a number, got '5'"),
        ({"token_threshold": None}, "token_threshold as a number, got None"),
        ({"nbest": 0}, "nbest of at least 1, got 0"),
        ({"beam": 4, "nbest": 5}, r"at most the beam \(4\), got 5"),
        ({"token_threshold": 0.01}, "token_threshold .* at most 0"),
        ({"blank_threshold": 0.999}, r"blank_threshold .* at most 0 \(0\.999 is -0\.001\), got 0\.999"),
        ({"blank_threshold": math.nan}, "blank_threshold .* got nan"),
        ({"blank_penalty": -0.5}, r"blank_penalty .* at least 0, got -0\.5"),
        ({"blank_penalty": math.inf}, "blank_penalty .* got inf"),
    ],
)
def test_refuses_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        beam_search(np.log(np.full((4, 3), 1 / 3)), **options)


def test_refused_frames_leave_the_search_as_it_was() -> None:
    log_probs = random_log_probs(30, 5, seed=5)
    bad = log_probs.copy()
    bad[9, 2] = np.nan
    search = BeamSearch(beam=4)
    search.accept(log_probs[:10])
    refused: Sequence[tuple[np.ndarray, str]] = [
        (bad, "NaN in frame 19 of"),
        (log_probs[None], r"one utterance, shape \(T, V\), got shape \(1, 30, 5\)"),
        (random_log_probs(3, 4, seed=0), "expected 5 columns"),
    ]
    for frames, message in refused:
        with pytest.raises(DecodeError, match=message):
            search.accept(frames)
    search.accept(log_probs[10:])
    assert search.finish() == beam_search(log_probs, beam=4)[0]


@pytest.mark.parametrize("frames", [0, 2, 5])
def test_what_is_settled_stays_and_is_what_was_best(frames: int) -> None:
    for seed in range(20):
        search = BeamSearch(beam=8)
        for row in random_log_probs(40, 5, seed=seed, sharpness=1.0):
            before = search.partial()[0]
            search.settle(frames)
            best, stable = search.partial()
            assert (best.tokens, best.score) == (before.tokens, before.score)
            assert stable >= sum(end <= search.frames - frames for end in best.ends)
            search.accept(row[None])
            assert search.partial()[0].tokens[:stable] == best.tokens[:stable]
        assert search.finish()[0].tokens[:stable] == best.tokens[:stable]


def test_settling_drops_nothing_that_begins_as_the_best() -> None:
    log_probs = random_log_probs(30, 4, seed=3, sharpness=1.0)
    settled, free = BeamSearch(beam=64), BeamSearch(beam=64)
    for search in (settled, free):
        search.accept(log_probs)
    settled.settle(8)
    _, depth = settled.partial()
    beginning = settled.hypotheses()[0].tokens[:depth]
    kept = [found for found in free.hypotheses(64) if found.tokens[:depth] == beginning]
    assert 0 < depth < len(settled.hypotheses()[0].tokens)
    assert settled.hypotheses(64) == kept
