"""Admission: what a stream costs, and when one more is refused."""

import math

import pytest

from asr.server.admission import USE, StreamCost, WorkerLoad
from asr.server.wire import StepReport


def steps(load, fixed_s, slope, count=50):
    for number in range(count):
        audio_s = 0.1 * (1 + number % 10)
        load.note_step(StepReport("m", 1, audio_s, fixed_s + slope * audio_s))


def test_the_marginal_cost_leaves_out_what_a_step_costs_anyway():
    cost = StreamCost()
    for number in range(100):
        audio_s = 0.1 * (1 + number % 10)
        cost.note(audio_s, 0.01 + 0.03 * audio_s)
    assert cost.marginal == pytest.approx(0.03)
    assert cost.mean > 0.04


def test_steps_of_one_size_cost_their_mean():
    cost = StreamCost()
    for _ in range(100):
        cost.note(0.1, 0.02)
    assert cost.marginal == pytest.approx(0.2)


def test_a_first_stream_is_always_let_in():
    load = WorkerLoad()
    steps(load, 0, 5.0)
    load.note_lag(99)
    assert load.refusal("m", 0.3) == ""


def test_streams_are_let_in_up_to_the_use_that_they_would_have_and_no_further():
    load = WorkerLoad()
    steps(load, 0.001, 0.01)
    while not load.refusal("m", 0.3):
        load.streams["m"] += 1
    assert load.streams["m"] == pytest.approx(USE / 0.01, abs=1)
    assert "% of the time" in load.refusal("m", 0.3)


def test_a_lag_beyond_the_limit_refuses():
    load = WorkerLoad()
    load.streams["m"] = 1
    load.note_lag(0.5)
    assert load.refusal("m", 0.3) == "its streams lag 0.50 s, expected at most 0.3 s"
    assert load.refusal("m", 0.6) == ""


def test_without_a_limit_none_is_refused():
    load = WorkerLoad()
    load.streams["m"] = 1
    load.note_lag(99)
    assert load.refusal("m", math.inf) == ""


def test_old_lags_are_forgotten(monkeypatch):
    load = WorkerLoad()
    load.streams["m"] = 1
    load.note_lag(0.5)
    now = __import__("time").monotonic()
    monkeypatch.setattr("asr.server.admission.time.monotonic", lambda: now + 60)
    assert load.refusal("m", 0.3) == ""


def test_streams_of_all_models_count():
    load = WorkerLoad()
    steps(load, 0, 0.1)
    load.note_step(StepReport("n", 1, 0.1, 0.03))
    load.streams.update(m=2, n=1)
    assert load.use() == pytest.approx(0.5)
    assert load.use("n") == pytest.approx(0.8)
