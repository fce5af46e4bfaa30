"""The weight of language models after learning, and what a plan of cross-validation costs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_recognizer

from asr.config.sections import TextConfig
from asr.models import model_directory
from asr.models.model_directory import load_model
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding, load_options, save_options
from asr.text.tokenizer import CharTokenizer
from asr.train.cross_validation import BestSetting, best_of_p_value, plan_grid
from asr.train.learning_gate import judge_learning
from asr.train.learning_report import LearningReport
from asr.train.learnt_model import write_model
from asr.train.search_weights import WEIGHT_SHARES, rank_shares, score_weights, shares_to_try

ARPA = """\\data\\
ngram 1=5

\\1-grams:
-1.0 <unk>
-99 <s>
-1.0 </s>
-0.15 AB
-1.0 AC

\\end\\
"""
TOKENIZER = CharTokenizer(["<blank>", " ", *"ABC"], TextConfig())


def rows_of(text: str, share: float) -> torch.Tensor:
    """Log-probabilities of a text of two letters. The second is B or C: what was said has ``share`` of the two."""
    probabilities = torch.full((2, 5), 1e-9)
    probabilities[0, 2] = 1.0
    probabilities[1, 3:] = torch.tensor([1 - share, share] if text == "AC" else [share, 1 - share])
    return (probabilities / probabilities.sum(dim=1, keepdim=True)).log()


@pytest.fixture
def options(tmp_path: Path) -> Decoding:
    """A language model that is too sure of AB: at a weight of 0.5 it overrules 2 to 1 for AC."""
    (tmp_path / "words.arpa").write_text(ARPA)
    return Decoding(beam=8, lm=str(tmp_path / "words.arpa"), lm_weight=0.5)


def test_a_share_with_two_errors_less_than_the_first_is_chosen(options):
    references = {"a": "AC", "b": "AC", "c": "AB"}
    rows = [rows_of(text, 0.67) for text in references.values()]
    search, report = rank_shares(score_weights(options, TOKENIZER, rows, references))[0]
    assert search.options.lm_weight == 0.5 * 0.5
    assert report.errors == 0


def test_one_error_less_is_no_reason_to_leave_the_first_share(options):
    references = {"a": "AC", "b": "AB"}
    rows = [rows_of(text, 0.67) for text in references.values()]
    search, report = rank_shares(score_weights(options, TOKENIZER, rows, references))[0]
    assert (search.options.lm_weight, report.errors) == (0.75 * 0.5, 1)


def test_greedy_decoding_has_no_weight_to_choose():
    (found,) = score_weights(Decoding(), TOKENIZER, [rows_of("AC", 0.67)], {"a": "AC"})
    assert (found[0].options, found[1].errors) == (Decoding(), 0)


def test_the_new_model_directory_has_the_weight_and_the_language_model(options, tmp_path):
    start, model = tmp_path / "start", make_recognizer(tmp_path).model
    model_directory.save_model_description(start, model.config, model.tokenizer, model.stats)
    model_directory.save_weights(start, model.network, {})
    save_options(start, dataclasses.replace(options, lm_weight=0.5))
    source = load_model(start)
    write_model(source, source.network, dataclasses.replace(options, lm_weight=0.3), tmp_path / "new", [], {}, [])
    found = load_options(tmp_path / "new")
    assert found.lm_weight == 0.3
    assert os.path.isfile(str(found.lm))
    assert load_options(start).lm_weight == 0.5


def judged(options: Decoding, start: list[torch.Tensor], tuned: list[torch.Tensor], gains: tuple[float, ...], p: float):
    """What the gate says of sentences with the text AC: the search, and the report."""
    report, search = LearningReport("m", len(start)), Decoder(options, TOKENIZER)
    references = {str(i): "AC" for i in range(len(start))}
    found = judge_learning(report, BestSetting(2e-4, 4, gains, p, tuned), search, references, start)
    return found, report


UNSURE, SURE, WRONG = rows_of("AC", 0.67), rows_of("AC", 0.99), rows_of("AB", 0.99)


@pytest.mark.parametrize(("row", "learnt"), [(UNSURE, True), (SURE, False), (WRONG, False)])
def test_a_better_weight_alone_is_learnt_where_tuning_shows_no_gain(options, row, learnt):
    found, report = judged(options, [row], [row], (-0.1,), 1.0)
    assert (report.refusal == "", report.epochs) == (learnt, 0)
    assert not learnt or (found.options.lm_weight, report.errors_after) == (0.5 * 0.5, 0)


def test_tuned_weights_with_fewer_errors_are_learnt_though_so_few_sentences_prove_nothing(options):
    _, report = judged(options, [UNSURE], [SURE], (0.1,), 0.5)
    assert (report.refusal, report.epochs, report.errors_before, report.errors_after) == ("", 4, 1, 0)
    assert report.p_errors == 0.5
    report.learnt = True
    assert "do not prove the gain" in report.summary()


def test_tuned_weights_that_make_texts_likelier_and_as_many_errors_are_learnt(options):
    _, report = judged(options, [SURE] * 2, [SURE] * 2, (0.1, 0.1), 0.25)
    assert (report.refusal, report.epochs) == ("", 4)


def test_one_error_more_is_borne_where_texts_became_likelier(options):
    _, report = judged(options, [SURE] * 2, [SURE, WRONG], (0.1, 0.1), 0.2)
    assert (report.refusal, report.errors_before, report.errors_after) == ("", 0, 1)


@pytest.mark.parametrize(("p", "learnt"), [(0.01, True), (0.2, False)])
def test_two_errors_more_by_chance_are_borne_only_where_texts_became_significantly_likelier(options, p, learnt):
    _, report = judged(options, [SURE] * 3, [SURE, WRONG, WRONG], (0.1,) * 3, p)
    assert (report.refusal == "") == learnt
    assert report.p_value == p


def test_significantly_more_errors_are_refused_however_likely_the_texts_became(options):
    _, report = judged(options, [SURE] * 6, [WRONG] * 6, (0.1,) * 6, 0.01)
    assert "no gain" in report.refusal


def test_likelier_texts_with_more_errors_are_learnt_and_the_report_says_so(options):
    _, report = judged(options, [SURE] * 2, [SURE, WRONG], (0.1, 0.1), 0.01)
    report.learnt = True
    assert report.proved
    assert "have more errors, which may be chance" in report.summary()


@pytest.mark.parametrize(("p", "proved"), [(0.02, True), (0.03, False)])
def test_two_tests_share_the_five_per_cent(p, proved):
    report = LearningReport("m", 5, learnt=True, epochs=2, p_value=p)
    assert report.to_dict()["proved"] == proved
    assert ("do not prove the gain" in report.summary()) != proved


def test_the_p_value_of_errors_is_that_of_the_share_that_is_taken():
    """The third share corrects all five; what is compared with chance is what the first one corrects."""
    gains = np.array([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert best_of_p_value(gains) == 1 / 32
    assert best_of_p_value(gains, 0) > 0.5
    assert best_of_p_value(gains, 2) == 1 / 32


def test_a_model_that_has_learnt_before_keeps_its_weight_where_no_other_is_better_by_two_errors(options):
    assert shares_to_try({}) == WEIGHT_SHARES
    assert shares_to_try({"learnt_from": {"used": 10}})[0] == 1.0
    report, search = LearningReport("m", 2), Decoder(options, TOKENIZER)
    choice = BestSetting(2e-4, 4, (0.1, 0.1), 0.25, [SURE] * 2)
    references = {"a": "AC", "b": "AC"}
    found = judge_learning(report, choice, search, references, [SURE] * 2, shares_to_try({"learnt_from": {"used": 10}}))
    assert found.options.lm_weight == options.lm_weight


@pytest.mark.parametrize("speech_s", [5.0, 40.0, 149.0, 151.0, 449.0, 451.0, 1200.0])
def test_a_plan_passes_over_at_most_11_000_seconds_of_speech(speech_s):
    grid = plan_grid(speech_s)
    passes = len(grid.rates) * grid.epochs[-1] * (grid.folds - 1) + grid.epochs[-1]
    assert passes * speech_s <= 11_000
