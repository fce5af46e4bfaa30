"""The mean of the weights of several runs of fine-tuning."""

from __future__ import annotations

import pytest
import torch

from asr.config.sections import ModelConfig
from asr.models.acoustic import AcousticModel
from asr.train.adaptation import Adaptation, Lesson, Strength, averaged_runs, make_lessons, outputs_of

BINS = 16
STRENGTH = Strength(1e-3)


@pytest.fixture(scope="module")
def network() -> AcousticModel:
    torch.manual_seed(1)
    return AcousticModel(ModelConfig(layers=2, hidden=12, channels=3, dropout=0.2), BINS, 5).eval()


@pytest.fixture(scope="module")
def lessons(network: AcousticModel) -> list[Lesson]:
    draws = torch.Generator().manual_seed(1)
    features = [torch.randn(frames, BINS, generator=draws) for frames in (60, 90)]
    return make_lessons(network, features, ["a", "b"], [(2, 3), (3, 2, 3)])


def weights_after(network: AcousticModel, lessons: list[Lesson], seed: int, epochs: int) -> list[torch.Tensor]:
    run = Adaptation(network, STRENGTH, seed)
    for _ in range(epochs):
        run.epoch(lessons)
    return [weight.clone() for weight in run.weights()]


def test_the_weights_are_the_mean_of_those_of_single_runs_after_as_many_epochs(network, lessons):
    found = list(averaged_runs(network, lessons, STRENGTH, (1, 3), runs=2, seed=4))
    assert len(found) == 2
    for epochs, made in zip((1, 3), found, strict=True):
        first, second = (weights_after(network, lessons, seed, epochs) for seed in (8, 9))
        assert epochs == 1 or not torch.equal(first[0], second[0])
        for weight, one, other in zip(made.parameters(), first, second, strict=True):
            torch.testing.assert_close(weight.detach(), (one + other) / 2)


def test_the_start_is_left_as_it_was(network, lessons):
    before = [weight.detach().clone() for weight in network.parameters()]
    (made,) = averaged_runs(network, lessons, STRENGTH, (2,), runs=2)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


def test_learnings_with_other_seeds_share_no_run(network, lessons):
    (first,), (second,) = (averaged_runs(network, lessons, STRENGTH, (3,), runs=3, seed=seed) for seed in (1, 2))
    runs = {seed: weights_after(network, lessons, seed, 3)[0] for seed in range(3, 9)}
    assert not torch.equal(runs[3], runs[6])
    torch.testing.assert_close(next(first.parameters()).detach(), (runs[3] + runs[4] + runs[5]) / 3)
    torch.testing.assert_close(next(second.parameters()).detach(), (runs[6] + runs[7] + runs[8]) / 3)


def test_outputs_of_the_start_are_those_that_the_lessons_hold(network, lessons):
    for lesson, rows in zip(lessons, outputs_of(network, lessons), strict=True):
        torch.testing.assert_close(rows, lesson.start)
