"""Fitting what says whether transcripts are reliable: thresholds keep their promise, and the command end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.cli import main
from asr.decode import confidence
from asr.decode.judgement import FrameSums
from asr.errors import ManifestError
from asr.evaluation import judge_fitting
from asr.evaluation.judge_fitting import HeardSound, judge_examples
from asr.models import bundled

SAMPLE = Path(__file__).parents[2] / "egs" / "sample.wav"


def example(kind: str, doubt: float, errors: float | None, fold: int = 0, words: int = 5) -> HeardSound:
    """One whose frames fall short of certainty by ``doubt`` nats each."""
    return HeardSound(kind, fold, 3.0, FrameSums(50, 50 * doubt, 40.0, 20 * doubt), words, errors)


def drawn(count: int = 200, seed: int = 1) -> list[HeardSound]:
    """Good speech, other sound that overlaps with it, and badly recognised speech in between."""
    rng = np.random.default_rng(seed)
    return [
        *(example("speech", x, 0.2, i % 5) for i, x in enumerate(np.exp(rng.normal(-2.0, 0.6, count)))),
        *(example("speech", x, 0.9, i % 5) for i, x in enumerate(np.exp(rng.normal(-1.2, 0.6, count)))),
        *(example("music", x, None, i % 5) for i, x in enumerate(np.exp(rng.normal(-0.3, 0.5, count)))),
        *(example("silence", 0.0, None, words=0) for _ in range(5)),
    ]


def test_at_most_two_percent_of_the_good_are_called_unreliable() -> None:
    fit = judge_examples(drawn())
    assert fit.good == 200
    assert fit.alarms == 4


def test_most_other_sound_is_found_and_kinds_are_counted() -> None:
    kinds = {kind.kind: kind for kind in judge_examples(drawn()).kinds}
    assert kinds["music"].unreliable > 150
    assert (kinds["silence"].examples, kinds["silence"].with_words, kinds["silence"].words_per_h) == (5, 0, 0.0)


def test_no_good_utterance_loses_words() -> None:
    fit = judge_examples(drawn())
    assert 0 < fit.judge.silence < fit.judge.threshold
    good = [e for e in drawn() if e.errors is not None and e.errors <= 0.5]
    assert all(fit.judge.apply(e.sums) > fit.judge.silence for e in good)


def test_the_surest_other_sound_is_dropped_and_the_figures_say_how_much() -> None:
    music = next(kind for kind in judge_examples(drawn()).kinds if kind.kind == "music")
    assert music.left_per_h == pytest.approx(music.words_per_h * (1 - music.dropped / music.examples))


def test_badly_recognised_speech_does_not_move_the_border() -> None:
    without = [e for e in drawn() if e.errors is None or e.errors <= 0.5]
    assert judge_examples(drawn()).judge.weights == pytest.approx(judge_examples(without).judge.weights)


@pytest.mark.parametrize("left_out", ["speech", "music"])
def test_too_little_of_either_is_an_error_that_counts(left_out: str) -> None:
    with pytest.raises(ManifestError, match=r"expected at least 20 utterances .* got (0 and 200|200 and 0)"):
        judge_examples([e for e in drawn() if e.kind != left_out])


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of one sentence in several loudnesses, a folder of tones, and a model without fits."""
    import soundfile

    folder = tmp_path_factory.mktemp("material")
    samples = asr.audio.read.load_audio(SAMPLE, 16000)
    text = asr.load("an4", device="cpu").transcribe(SAMPLE).text
    with (folder / "held_out.jsonl").open("w") as lines:
        for number, gain in enumerate(np.linspace(0.4, 1.0, 8)):
            soundfile.write(folder / f"{number}.wav", samples * gain, 16000)
            row = {"id": f"u{number}", "audio": f"{number}.wav", "text": text, "duration_s": len(samples) / 16000}
            lines.write(json.dumps(row | {"speaker": f"s{number}"}) + "\n")
    rng, t = np.random.default_rng(5), np.arange(8000) / 16000
    (folder / "other" / "tones").mkdir(parents=True)
    for number in range(3):
        chords = [
            sum(
                np.sin(2 * np.pi * f * h * t) / h for f in 110 * 2 ** (rng.integers(0, 36, 3) / 12) for h in range(1, 6)
            )
            * np.exp(-3 * t)
            for _ in range(100)
        ]
        soundfile.write(folder / "other" / "tones" / f"{number}.wav", 0.1 * np.concatenate(chords), 16000)
    shutil.copytree(bundled.locate_model("an4"), folder / "model")
    (folder / "model" / confidence.CONFIDENCE_FILE).unlink()
    return folder


def calibrate(folder: Path, *more: str) -> int:
    command = ["calibrate", str(folder / "held_out.jsonl"), "--model", str(folder / "model"), "--words", "keep"]
    return main.run_command([*command, "--beam", "1", *more])


def test_the_command_fits_a_judge_that_tells_speech_from_tones(material, capsys):
    assert calibrate(material, "--foreign", str(material / "other"), "--json", str(material / "report.json")) == 0
    assert "24 of 24 utterances" in capsys.readouterr().out
    fitted = asr.load(material / "model", device="cpu")
    assert fitted.transcribe(SAMPLE).reliable is True
    assert fitted.transcribe(material / "other" / "tones" / "0.wav").reliable is False
    kinds = {kind["kind"] for kind in json.loads((material / "report.json").read_text())["reliability"]["kinds"]}
    assert kinds == {"speech", "telephone", "clipped", "tones", "noise", "hum", "silence"}


def test_a_search_gets_a_judge_of_its_texts_as_well(material, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(material / "model", folder)
    command = ["calibrate", str(material / "held_out.jsonl"), "--model", str(folder), "--words", "keep"]
    assert main.run_command([*command, "--beam", "4", "--foreign", str(material / "other")]) == 0
    judge = confidence.load_judge(folder)
    assert judge is not None
    assert judge.decoded is not None
    assert "gap" not in judge.weights
    assert judge.decoded.weights["gap"] <= 0
    assert asr.load(folder, device="cpu", beam=4).transcribe(SAMPLE).least_reliability == judge.decoded.threshold
    assert asr.load(folder, device="cpu").transcribe(SAMPLE).least_reliability == judge.threshold


def test_an_empty_folder_of_other_sound_is_named(material, tmp_path, capsys):
    assert calibrate(material, "--foreign", str(tmp_path)) == 2
    assert f"{tmp_path}: no audio file in this folder" in capsys.readouterr().err


def test_keeping_words_without_other_sound_says_what_is_missing(material, capsys):
    assert calibrate(material) == 2
    assert "--words keep: expected --foreign FOLDER" in capsys.readouterr().err


def test_pieces_are_as_long_as_the_utterances(material):
    recognizer = asr.load("an4", device="cpu")
    made = list(judge_fitting.sound_pieces(recognizer, [material / "other"], [2.0, 3.0], np.random.default_rng(1)))
    assert {len(samples) / 16000 for _, _, samples, _ in made[:-1]} <= {2.0, 3.0} | {x / 2 for x in range(2, 7)}
    assert {kind for kind, *_ in made} == {"tones"}
