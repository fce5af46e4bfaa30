"""Options of decoding: what is given goes over what a model directory holds; fitted confidences hold for their own."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import pytest

import asr
from asr.cli import main
from asr.decode import confidence
from asr.decode.confidence import Calibration
from asr.errors import ModelError
from asr.lm import lm_directory
from asr.models import bundled
from asr.recognize import option_sources, options
from asr.recognize.option_sources import choose, conditions, merge
from asr.recognize.options import Decoding

SAMPLE = Path(__file__).parents[2] / "egs" / "sample.wav"
ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-99\t<s>\n-1\t</s>\n-1\tENTER\n-0.5\tFOUR\n\n\\end\\\n"


@pytest.fixture
def tuned(tmp_path):
    """A model directory with tuned options, and an n-gram and a lexicon of another subject."""
    (tmp_path / "own.arpa").write_text(ARPA)
    (tmp_path / "own.txt").write_text("ENTER\n")
    (tmp_path / "other.arpa").write_text(ARPA)
    (tmp_path / "other.txt").write_text("FOUR\n")
    options.save_options(
        tmp_path,
        Decoding(
            beam=8, lm=str(tmp_path / "own.arpa"), lm_weight=0.8, word_bonus=1.5, lexicon=str(tmp_path / "own.txt"),
            unknown_penalty=-6.0, rescore=str(tmp_path / "own.arpa"), rescore_weight=0.9, hotwords={"ENTER": 2.0},
            token_threshold=-7.0,
        ),
    )  # fmt: skip
    return tmp_path


def test_what_is_given_goes_over_what_is_saved(tuned):
    assert choose(tuned, beam=None, lm=None).lm_weight == 0.8
    assert choose(tuned, beam=1) == Decoding()
    assert choose(tuned, lm_weight=0.1).beam == 8
    assert choose(tuned / "none", hotwords={"A": 1.0}).beam == options.DEFAULT_BEAM
    assert choose(tuned / "none") == Decoding()


def test_naming_a_language_model_drops_what_was_tuned_for_another(tuned):
    other = str(tuned / "other.arpa")
    saved, found = options.load_options(tuned), choose(tuned, lm=other)
    fresh = {name: getattr(Decoding(), name) for name in option_sources.RESETS["lm"]}
    assert fresh["lexicon"] == ""
    assert fresh["unknown_penalty"] == -math.inf
    assert found == dataclasses.replace(saved, lm=other, **fresh)
    assert choose(tuned, lm=other, lm_weight=0.3, lexicon=saved.lexicon) == dataclasses.replace(
        saved, **fresh | {"lm": other, "lm_weight": 0.3, "lexicon": saved.lexicon}
    )


def test_naming_a_lexicon_alone_closes_the_vocabulary(tuned):
    other = str(tuned / "other.txt")
    expected = dataclasses.replace(options.load_options(tuned), lexicon=other, unknown_penalty=-math.inf)
    assert choose(tuned, lexicon=other) == expected
    assert choose(tuned, lexicon=other, unknown_penalty=-2.0).unknown_penalty == -2.0


def test_a_blank_penalty_belongs_to_the_language_model_that_it_was_chosen_with(tuned):
    saved = dataclasses.replace(options.load_options(tuned), blank_penalty=0.7)
    options.save_options(tuned, saved)
    assert choose(tuned, hotwords={"B": 1.0}).blank_penalty == 0.7
    assert choose(tuned, lm=str(tuned / "other.arpa")).blank_penalty == 0.0
    assert choose(tuned, beam=1).blank_penalty == 0.0


def test_naming_a_rescoring_model_drops_its_weight_alone(tuned):
    expected = dataclasses.replace(options.load_options(tuned), rescore="new", rescore_weight=0.5)
    assert choose(tuned, rescore="new") == expected


@pytest.mark.parametrize(
    "given",
    [{"beam": 4}, {"lm_weight": 0.1}, {"word_bonus": 0.0}, {"unknown_penalty": -1.0}, {"hotwords": {"FOUR": 3.0}},
     {"nbest": 4}, {"token_threshold": -9.0}, {"rescore_weight": 0.1}, {"blank_penalty": 1.0}],
)  # fmt: skip
def test_numbers_hot_words_and_beam_change_only_themselves(tuned, given):
    assert choose(tuned, **given) == dataclasses.replace(options.load_options(tuned), **given)


def test_the_bundled_model_with_another_language_model_is_not_held_to_its_own_words(tmp_path):
    (tmp_path / "other.arpa").write_text(ARPA.replace("FOUR", "FORE"))
    found = asr.load("an4", device="cpu", lm=str(tmp_path / "other.arpa")).decoder
    assert found.options == Decoding(beam=16, lm=str(tmp_path / "other.arpa"), token_threshold=-7.0)


def test_each_option_says_where_it_comes_from(tuned):
    origins = merge(tuned, lm=str(tuned / "other.arpa"), beam=None).origins
    assert origins["lm"] == option_sources.GIVEN
    assert (origins["beam"], origins["hotwords"], origins["token_threshold"]) == (option_sources.DIRECTORY,) * 3
    assert (origins["lm_weight"], origins["lexicon"], origins["blank_threshold"]) == (option_sources.DEFAULT,) * 3
    assert set(origins) == {field.name for field in dataclasses.fields(Decoding)}


def test_info_shows_the_options_in_force(capsys):
    assert main.run_command(["info", "an4"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert {"lm_weight 0.3 (model directory)", "nbest 16 (default)"} <= set(lines)


def test_verbose_shows_the_options_in_force_beside_the_text(capsys):
    command = ["transcribe", str(SAMPLE), "--model", "an4", "--hotword", "FOUR:2", "--verbose"]
    assert main.run_command(command) == 0
    shown = capsys.readouterr()
    lines = {" ".join(line.split()) for line in shown.err.splitlines()}
    expected = {"hotwords FOUR:2 (command line)", "unknown_penalty -6 (model directory)", "rescore none (default)"}
    assert expected <= lines
    assert shown.out == SAMPLE.with_suffix(".txt").read_text()


# What confidences were fitted for


def test_pruning_and_idle_options_do_not_count_for_confidences(tuned):
    saved = options.load_options(tuned)
    assert conditions(Decoding(lm_weight=0.3)) == conditions(Decoding()) == {"beam": 1}
    assert conditions(dataclasses.replace(saved, token_threshold=-9.0)) == conditions(saved)
    plain = Decoding(beam=8, hotwords={"A": 1.0})
    assert conditions(dataclasses.replace(plain, lm_weight=0.1, rescore_weight=0.1, nbest=3)) == conditions(plain)
    for given in ({"beam": 16}, {"lm_weight": 0.7}, {"hotwords": {}}, {"rescore_weight": 0.2}, {"word_bonus": 0.0}):
        assert conditions(dataclasses.replace(saved, **given)) != conditions(saved), given
    assert json.loads(json.dumps(conditions(saved), allow_nan=False)) == conditions(saved)


def test_a_language_model_is_known_by_its_content(tuned, tmp_path):
    assert lm_directory.fingerprint(tuned / "own.arpa") == lm_directory.fingerprint(tuned / "other.arpa")
    assert lm_directory.fingerprint(tuned / "own.txt") != lm_directory.fingerprint(tuned / "other.txt")
    own = bundled.locate_model("an4") / "lm" / "lm"
    lm_directory.copy(own, tmp_path / "copy")
    (tmp_path / "copy" / "card.json").unlink()
    assert lm_directory.fingerprint(tmp_path / "copy") == lm_directory.fingerprint(own)
    (tmp_path / "copy" / "tokens.txt").write_text("<blank>\n")
    assert lm_directory.fingerprint(tmp_path / "copy") != lm_directory.fingerprint(own)
    with pytest.raises(ModelError, match="nowhere"):
        lm_directory.fingerprint(tmp_path / "nowhere")


@pytest.fixture
def calibrated(tmp_path):
    """The bundled model with confidences that were fitted for its own options."""
    folder = tmp_path / "model"
    shutil.copytree(bundled.locate_model("an4"), folder)
    law = Calibration(0.5, 0.0, -1.0, conditions(options.load_options(folder)))
    confidence.save_calibration(folder, {"beam": law})
    return folder, law


def test_fitted_confidences_are_saved_and_loaded(calibrated):
    folder, law = calibrated
    assert confidence.load_calibration(folder) == {"beam": law}


def test_fitted_confidences_are_used_for_their_options(calibrated):
    folder, law = calibrated
    fitted = asr.load(folder, device="cpu")
    assert (fitted.calibration, fitted.remark) == (law, "")
    raw = asr.load("an4", device="cpu")
    assert fitted.transcribe(SAMPLE).confidence < raw.transcribe(SAMPLE).confidence


@pytest.mark.usefixtures("compiled_search")
def test_fitted_confidences_are_left_out_for_other_options_with_one_line(calibrated, capsys):
    folder, _ = calibrated
    other = asr.load(folder, device="cpu", word_bonus=0.0)
    assert other.calibration is None
    assert main.run_command(["transcribe", str(SAMPLE), "--model", str(folder), "--word-bonus", "0"]) == 0
    assert capsys.readouterr().err == f"note: {other.remark}\n"
    assert all(part in other.remark for part in ("confidence.json: not used", "word_bonus"))


@pytest.mark.usefixtures("compiled_search")
def test_fitted_confidences_in_use_are_not_mentioned(calibrated, capsys):
    assert main.run_command(["transcribe", str(SAMPLE), "--model", str(calibrated[0])]) == 0
    assert capsys.readouterr().err == ""


def test_the_file_of_confidences_is_read_once(calibrated, monkeypatch):
    read = []
    one = confidence.read_object
    monkeypatch.setattr(confidence, "read_object", lambda path, what: read.append(path) or one(path, what))
    option_sources.confidences(calibrated[0], options.load_options(calibrated[0]))
    assert len(read) == 1


def test_fitted_confidences_that_do_not_say_for_what_are_used(tmp_path):
    confidence.save_calibration(tmp_path, {"beam": Calibration(1.0, 0.0, 0.0)})
    assert option_sources.confidences(tmp_path, Decoding(beam=4)) == (Calibration(1.0, 0.0, 0.0), None, "", None)


def test_no_file_is_opened_where_no_fit_says_what_it_is_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lm_directory, "fingerprint", None)
    (tmp_path / "words").write_text("A\n")
    plain = Decoding(beam=4, lexicon=str(tmp_path / "words"))
    assert option_sources.confidences(tmp_path, plain).calibration is None
    confidence.save_calibration(tmp_path, {"beam": Calibration(1.0, 0.0, 0.0)})
    assert option_sources.confidences(tmp_path, plain).calibration is not None


def test_pipes_and_missing_files_are_never_what_confidences_were_fitted_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    confidence.save_calibration(tmp_path, {"beam": Calibration(1.0, 0.0, 0.0, {"beam": 4})})
    for name in ("pipe", "missing"):
        found = option_sources.confidences(tmp_path, Decoding(beam=4, lexicon=str(tmp_path / name)))
        assert (found.calibration, "lexicon" in found.remark) == (None, True)


def test_info_of_a_directory_whose_language_model_is_missing(tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(bundled.locate_model("an4"), folder)
    confidence.save_calibration(folder, {"beam": Calibration(1.0, 0.0, 0.0, {"beam": 4})})
    shutil.rmtree(folder / "lm")
    assert main.run_command(["info", str(folder)]) == 0
    assert "the model's own" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["lm", "rescore"])
def test_the_language_model_of_a_bundled_model_goes_by_its_name(tmp_path, option):
    expected = options.load_options(bundled.locate_model("english")).lm
    assert getattr(option_sources.choose(tmp_path, **{option: "english"}), option) == expected


def test_one_of_several_language_models_may_be_that_of_a_bundled_model(tmp_path):
    own = str(tmp_path / "own.arpa")
    chosen = option_sources.choose(tmp_path, lm=(own, "english"), lm_weight=(0.3, 0.4)).lm
    assert chosen == (own, options.load_options(bundled.locate_model("english")).lm)


def test_a_file_with_the_name_of_a_bundled_model_is_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "english").write_text("")
    assert option_sources.choose(tmp_path, lm="english").lm == "english"
