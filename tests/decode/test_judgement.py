"""Sums of posteriors against their definitions, the fit against its conditions, and what damaged files give."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.decode import confidence
from asr.decode.judgement import ENOUGH_FRAMES, EVIDENCE, PENALTY, FrameSums, Judge, fit_weights, frame_sums
from asr.errors import ModelError


def posteriors(frames: int, tokens: int = 5, seed: int = 0) -> torch.Tensor:
    return (3 * torch.randn(frames, tokens, generator=torch.manual_seed(seed))).log_softmax(dim=-1)


def by_definition(log_probs: torch.Tensor) -> FrameSums:
    spoken, shortfall, mass, rivalry = 0, 0.0, 0.0, 0.0
    for row in log_probs.double().exp().numpy():
        if row.argmax() != 0:
            spoken += 1
            shortfall -= math.log(row.max())
        said = row[1:].sum()
        mass += said
        rivalry -= said * sum(p / said * math.log(p / said) for p in row[1:] if p > 0)
    return FrameSums(spoken, shortfall, mass, rivalry, float(log_probs.max(dim=1).values.sum()))


def close(got: FrameSums, expected: FrameSums) -> bool:
    both = [dataclasses.astuple(one)[:-1] for one in (got, expected)]  # without the gap, which nothing here knows
    return both[0] == pytest.approx(both[1], rel=1e-4, abs=1e-5)


def test_sums_are_those_of_their_definitions() -> None:
    log_probs = posteriors(40)
    assert close(frame_sums(log_probs)[0], by_definition(log_probs))


def test_impossible_tokens_count_nothing() -> None:
    log_probs = torch.tensor([[0.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]]).log()
    assert close(frame_sums(log_probs)[0], FrameSums(1, math.log(2), 1.0, math.log(2), -math.log(2)))


def test_frames_behind_the_length_are_not_read() -> None:
    batch = torch.stack([posteriors(30, seed=1), posteriors(30, seed=2)])
    batch[0, 20:] = math.nan
    short, whole = frame_sums(batch, torch.tensor([20, 30]))
    assert close(short, by_definition(batch[0, :20]))
    assert close(whole, by_definition(batch[1]))


def test_the_sums_of_parts_are_those_of_the_whole() -> None:
    log_probs = posteriors(50)
    parts = [frame_sums(part)[0] for part in log_probs.split([7, 0, 20, 23])]
    assert close(sum(parts, FrameSums()), frame_sums(log_probs)[0])


def test_no_frames_have_finite_features() -> None:
    assert np.isfinite(frame_sums(posteriors(0))[0].features()).all()


def test_more_frames_of_the_same_kind_are_no_more_evidence() -> None:
    few, many = (FrameSums(n, 0.2 * n, n, 0.1 * n) for n in (ENOUGH_FRAMES, 50 * ENOUGH_FRAMES))
    assert many.features() == pytest.approx(few.features(), abs=0.05)


def test_the_fit_is_where_the_penalised_likelihood_has_no_slope() -> None:
    rng = np.random.default_rng(2)
    features, shares = rng.normal(1.0, 2.0, (300, 3)), rng.uniform(0.5, 2.0, 300)
    right = rng.random(300) < 1 / (1 + np.exp(-features @ [0.5, -1.0, 0.0] - 0.3))
    weights, bias = fit_weights(features, right, shares)
    vector = np.array([weights[name] for name in EVIDENCE[:3]])
    residual = shares * (right - 1 / (1 + np.exp(-features @ vector - bias)))
    spread = features.std(axis=0)
    mean = np.average(features, axis=0, weights=shares)
    slope = ((features - mean) / spread).T @ residual - PENALTY * vector * spread
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_a_feature_that_never_varies_has_no_weight() -> None:
    features = np.array([[x, 1.0, 2.0] for x in np.linspace(-1, 1, 40)])
    weights, _ = fit_weights(features, features[:, 0] > 0, np.ones(40))
    assert weights["frame"] > 0
    assert weights["rivals"] == weights["spoken"] == 0


def test_a_judge_comes_back_from_its_file(tmp_path: Path) -> None:
    judge = Judge({"frame": -1.5, "rivals": 0.25, "spoken": 0.0}, 0.5, 0.4, 0.01)
    confidence.save_calibration(tmp_path, {}, judge=judge)
    assert confidence.load_judge(tmp_path) == judge


def test_saving_other_fits_keeps_the_judge(tmp_path: Path) -> None:
    judge = Judge({"frame": -1.5}, 0.5, 0.4)
    confidence.save_calibration(tmp_path, {}, 0.65, judge)
    confidence.save_calibration(tmp_path, {"greedy": confidence.Calibration(1.0, 0.0, 0.0)})
    assert (confidence.load_judge(tmp_path), confidence.load_threshold(tmp_path)) == (judge, 0.65)


def test_a_directory_without_a_judge_has_none(tmp_path: Path) -> None:
    (tmp_path / confidence.CONFIDENCE_FILE).write_text('{"threshold": 0.65}')
    assert confidence.load_judge(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"frames": 1.0}}, {"weights": 3}, {"bias": "x"}, {"bias": True}, {"threshold": 2},
        {"threshold": 0.2, "silence": 0.3}, {"weights": {"frame": None}},
    ],
)  # fmt: skip
def test_a_damaged_judge_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    tree = dataclasses.asdict(Judge({"frame": 1.0}, 0.0, 0.5)) | change
    (tmp_path / confidence.CONFIDENCE_FILE).write_text(json.dumps({"reliability": tree}))
    with pytest.raises(ModelError, match=r"confidence\.json: reliability: expected"):
        confidence.load_judge(tmp_path)


def test_the_best_path_counts_the_penalty_for_blank() -> None:
    log_probs = torch.log(torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.6, 0.1]]))
    plain, penalised = (frame_sums(log_probs, blank_penalty=penalty)[0] for penalty in (0.0, 1.0))
    assert plain.best == pytest.approx(math.log(0.6) + math.log(0.6))
    assert penalised.best == pytest.approx(math.log(0.4) + math.log(0.6))


def test_a_sum_knows_its_gap_only_if_all_parts_do() -> None:
    known, unknown = FrameSums(10, gap=2.0), FrameSums(10)
    assert (known + known).gap == 4.0
    assert (known + unknown).gap is None


DECODED = Judge({"gap": -9.0}, 1.0, 0.5, 0.0, {"beam": 256})


def test_a_text_far_from_the_posteriors_is_less_reliable() -> None:
    near, far = (FrameSums(50, 10.0, 45.0, 9.0, -5.0, gap) for gap in (-1.0, 30.0))
    assert DECODED.apply(far) < DECODED.threshold < DECODED.apply(near)


def test_the_judge_of_texts_is_asked_only_where_the_gap_is_known() -> None:
    judge = Judge({"frame": -1.0}, 0.0, 0.5, decoded=DECODED)
    assert judge.of(FrameSums(50, 10.0)) is judge
    assert judge.of(FrameSums(50, 10.0, gap=1.0)) is DECODED


def test_a_judge_of_texts_comes_back_from_its_file(tmp_path: Path) -> None:
    judge = Judge({"frame": -1.5}, 0.5, 0.4, 0.01, decoded=DECODED)
    confidence.save_calibration(tmp_path, {}, judge=judge)
    assert confidence.load_judge(tmp_path) == judge


@pytest.mark.parametrize("decoded", [5, {"weights": {}, "bias": 0.0}, {"weights": {"gap": "x"}, "fitted_for": {}}])
def test_a_damaged_judge_of_texts_is_named(tmp_path: Path, decoded: object) -> None:
    tree = {"reliability": {"weights": {"frame": -1.0}, "bias": 0.0, "threshold": 0.5, "decoded": decoded}}
    (tmp_path / confidence.CONFIDENCE_FILE).write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=r"confidence\.json: reliability: expected"):
        confidence.load_judge(tmp_path)
