"""Confidences: fitted ones are probabilities, the figures are those of their definitions, the command end to end."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
from corpus import make_config, make_corpus

import asr
from asr.audio import read
from asr.cli import main
from asr.data import manifest
from asr.decode import confidence
from asr.decode.confidence import Calibration
from asr.errors import ManifestError, ModelError
from asr.evaluation import calibration
from asr.recognize.options import Decoding
from asr.recognize.recognizer import Recognizer
from asr.recognize.stream import Stream
from asr.train import acoustic_task


def draws(count, truth, seed=0):
    """Posteriors and shares, and whether words with them were right, by a known law."""
    rng = np.random.default_rng(seed)
    p, s = rng.uniform(0.02, 0.999, count), rng.uniform(0.1, 0.999, count)
    probability = np.array([truth.apply(a, b) for a, b in zip(p, s, strict=True)])
    return p, s, (rng.uniform(size=count) < probability).astype(float)


def test_the_fit_finds_the_law_that_made_the_words():
    truth = Calibration(0.6, 0.3, -0.5)
    fitted = confidence.fit_calibration(*draws(40000, truth))
    assert (fitted.posterior, fitted.share, fitted.bias) == pytest.approx((0.6, 0.3, -0.5), abs=0.05)


def test_the_fit_is_where_the_gradient_is_zero():
    p, s, right = draws(200, Calibration(1.0, 0.5, -1.0), seed=3)
    fitted = confidence.fit_calibration(p, s, right)
    x = np.stack([confidence.logit(p), confidence.logit(s), np.ones(200)], axis=1)
    weights = np.array([fitted.posterior, fitted.share, fitted.bias])
    residual = right - 1 / (1 + np.exp(-x @ weights))
    np.testing.assert_allclose(x.T @ residual, confidence.RIDGE * weights, atol=1e-6)


def test_without_rivals_shares_have_no_weight():
    p, _, right = draws(500, Calibration(1.0, 0.0, -1.0))
    fitted = confidence.fit_calibration(p, np.ones(500), right)
    assert fitted.share == 0
    assert fitted.apply(0.5) == pytest.approx(1 / (1 + math.exp(-fitted.bias)))


def test_words_that_can_be_told_apart_without_error_still_have_a_fit():
    p = np.concatenate([np.full(30, 0.2), np.full(30, 0.9)])
    fitted = confidence.fit_calibration(p, np.ones(60), (p > 0.5).astype(float))
    assert 0 < fitted.apply(0.2) < 0.2
    assert 0.8 < fitted.apply(0.9) < 1
    assert fitted.apply(0.0) < fitted.apply(1.0) <= 1


@pytest.mark.parametrize("right", [np.ones(50), np.zeros(50), np.r_[np.ones(9), np.zeros(9)]])
def test_too_little_to_fit(right):
    with pytest.raises(ManifestError, match="at least 20 words, some right and some wrong"):
        confidence.fit_calibration(np.full(len(right), 0.5), np.ones(len(right)), right)


def test_reliability_is_its_definition():
    found = confidence.reliability([0.95, 0.85, 0.87, 0.05, 1.0], [1, 1, 0, 0, 1])
    assert found.counts == (1, 0, 0, 0, 0, 0, 0, 0, 2, 2)
    assert found.accuracies[8] == 0.5
    assert math.isnan(found.confidences[4])
    assert found.ece == pytest.approx((0.05 + 2 * abs(0.86 - 0.5) + 2 * abs(0.975 - 1)) / 5)
    assert found.brier == pytest.approx((0.05**2 + 0.15**2 + 0.87**2 + 0.05**2) / 5)


def test_shares_count_hypotheses_that_say_the_word_at_that_time():
    word = ("TWO", 10, 20)
    rivals = [
        (math.log(0.5), [("ONE", 0, 9), word]),
        (math.log(0.2), [("TWO", 12, 19)]),
        (math.log(0.2), [("TO", 10, 20)]),
        (math.log(0.1), [("TWO", 30, 40)]),
    ]
    assert confidence.agreeing_share(word, rivals) == pytest.approx(0.7)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of tones that still makes mistakes, and speech that it has not heard."""
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=60)
    config = make_config(folder, train={"epochs": 30, "output": str(folder / "run")}, data={"valid": ""})
    acoustic_task.train_acoustic(config)
    return folder


BEAM = ["--beam", "8", "--word-bonus=-2"]
WIDE = {"beam": 8, "word_bonus": -2.0}


@pytest.fixture(scope="module")
def calibrated(run, tmp_path_factory):
    """A copy of the model with confidences fitted by the command, and what the command saved."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(run / "run", folder)
    assert main.run_command(["calibrate", str(run / "valid.jsonl"), "--model", str(folder), *BEAM]) == 0
    return folder, json.loads((folder / confidence.CONFIDENCE_FILE).read_text())


def test_a_dry_run_shows_figures_and_saves_nothing(run, capsys):
    command = ["calibrate", str(run / "valid.jsonl"), "--model", str(run / "run"), *BEAM, "--dry-run"]
    assert main.run_command(command) == 0
    assert not (run / "run" / confidence.CONFIDENCE_FILE).exists()
    printed = capsys.readouterr().out
    assert "greedy: " in printed
    assert "beam: " in printed


def test_the_command_draws_reliability(run, tmp_path):
    plot = tmp_path / "reliability.png"
    command = ["calibrate", str(run / "valid.jsonl"), "--model", str(run / "run"), *BEAM, "--dry-run"]
    assert main.run_command([*command, "--plot", str(plot)]) == 0
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_greedy_decoding_and_the_search_have_a_fit_each(calibrated):
    assert set(calibrated[1]) == {"greedy", "beam"}


def test_greedy_decoding_has_no_rivals_to_weigh(calibrated):
    assert calibrated[1]["greedy"]["share"] == 0


def test_fitted_confidences_are_the_law_of_the_models_own(run, calibrated):
    folder, saved = calibrated
    law = Calibration(**saved["greedy"])
    before, after = (asr.load(place).transcribe(run / "valid1.wav") for place in (run / "run", folder))
    assert [w.text for w in after.words] == [w.text for w in before.words]
    assert [w.confidence for w in after.words] == pytest.approx([law.apply(w.confidence) for w in before.words])


@pytest.mark.parametrize(("options", "depth"), [({}, 1), (WIDE, confidence.NBEST)], ids=["greedy", "beam"])
def test_a_fit_with_rivals_asks_the_search_for_them(calibrated, options, depth):
    assert asr.load(calibrated[0], **options).depth == depth


@pytest.mark.parametrize("options", [{}, WIDE], ids=["greedy", "beam"])
def test_a_stream_has_the_fitted_confidences_of_the_recording(run, calibrated, options):
    recognizer = asr.load(calibrated[0], **options)
    live = Stream(recognizer, chunk_s=60.0)
    live.accept(read.load_audio(run / "valid1.wav", recognizer.sample_rate_hz))
    whole = recognizer.transcribe(run / "valid1.wav")
    assert [w.confidence for w in live.finish().words] == pytest.approx([w.confidence for w in whole.words], abs=1e-3)


def fit(kind="greedy", *, before, present, after):
    law = Calibration(0.5, 0.0, 0.0)
    brier = [confidence.Reliability((), (), (), 0.0, x) for x in (before, present, after)]
    return calibration.Fit(kind, law, 100, 90, *brier)


OLD, NEW = {"greedy": Calibration(2.0, 0.0, 0.0)}, {"greedy": Calibration(0.5, 0.0, 0.0)}


@pytest.mark.parametrize(
    ("present", "fitted", "expected"),
    [
        (OLD, fit(before=0.3, present=0.2, after=0.1), NEW),
        (OLD, fit(before=0.3, present=0.2, after=0.2), OLD),
        ({}, fit(before=0.2, present=0.2, after=0.3), {}),
        (OLD, fit(before=0.1, present=0.2, after=0.15), {}),
        (OLD, fit("beam", before=0.2, present=0.2, after=0.3), OLD),
    ],
    ids=["better", "no better than the earlier one", "worse than none", "the model's own are best", "of another kind"],
)
def test_only_a_better_calibration_replaces_what_is_there(present, fitted, expected):
    assert calibration.improved(present, [fitted]) == expected


def test_calibrating_again_on_the_same_speech_saves_nothing(run, capsys):
    command = ["calibrate", str(run / "valid.jsonl"), "--model", str(run / "run"), "--beam", "1"]
    assert main.run_command(command) == 0
    saved = (run / "run" / confidence.CONFIDENCE_FILE).read_text()
    assert json.loads(saved)["greedy"]["fitted_for"] == {"beam": 1}
    capsys.readouterr()
    assert main.run_command(command) == 0
    printed = capsys.readouterr().out
    assert "with the earlier fit" in printed
    assert "nothing was better" in printed
    assert (run / "run" / confidence.CONFIDENCE_FILE).read_text() == saved
    (run / "run" / confidence.CONFIDENCE_FILE).unlink()


def test_the_fit_of_the_folder_that_is_written_is_measured_and_not_the_models(run, tmp_path, capsys):
    command = ["calibrate", str(run / "valid.jsonl"), "--model", str(run / "run"), "--beam", "1"]
    assert main.run_command([*command, "--save-to", str(tmp_path), "--force"]) == 0
    good = (tmp_path / confidence.CONFIDENCE_FILE).read_text()
    # With this one the model's own confidences would be better, and the other folder's fit would go.
    confidence.save_calibration(run / "run", {"greedy": Calibration(-5.0, 0.0, 0.0)})
    capsys.readouterr()
    try:
        assert main.run_command([*command, "--save-to", str(tmp_path), "--force"]) == 0
    finally:
        (run / "run" / confidence.CONFIDENCE_FILE).unlink()
    assert "nothing was better" in capsys.readouterr().out
    assert (tmp_path / confidence.CONFIDENCE_FILE).read_text() == good


def test_calibrating_takes_malformed_alternatives_for_words(run, tmp_path):
    utterances = manifest.read_manifest(run / "valid.jsonl")
    manifest.write_manifest(
        tmp_path / "m.jsonl", [dataclasses.replace(utterances[0], text="A { B / C"), *utterances[1:]]
    )
    assert calibration.calibrate_model(tmp_path / "m.jsonl", asr.load(run / "run")).words > 40


def test_confidences_agree_better_with_being_right(run):
    recognizer = asr.load(run / "run")
    fit = calibration.calibrate_model(run / "valid.jsonl", recognizer)
    assert fit.words > 40
    assert 0 < fit.right < fit.words
    assert fit.after.ece < fit.before.ece
    assert fit.after.brier < fit.before.brier


@pytest.mark.parametrize("content", ["{", '{"greedy": 3}', '{"greedy": {"posterior": "x", "share": 0, "bias": 0}}',
                                     '{"beam": {"posterior": Infinity, "share": 0, "bias": 0}}', "[]"])  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / confidence.CONFIDENCE_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"confidence\.json"):
        confidence.load_calibration(tmp_path)


def test_a_folder_without_a_file_has_no_calibration(tmp_path):
    assert confidence.load_calibration(tmp_path) == {}


def test_a_manifest_that_cannot_be_read(run, tmp_path):
    recognizer = Recognizer(asr.load(run / "run").model, decoding=Decoding())
    (tmp_path / "lost.jsonl").write_text('{"id": "a", "audio": "lost.wav", "text": "A", "duration_s": 1}\n')
    with pytest.raises(ManifestError, match="none of 1 utterances could be read"):
        calibration.calibrate_model(tmp_path / "lost.jsonl", recognizer)
