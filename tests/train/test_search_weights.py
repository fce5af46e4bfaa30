"""The weight of language models after learning, and what a plan of cross-validation costs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from small import make_recognizer

from asr.config.sections import TextConfig
from asr.models import model_directory
from asr.models.model_directory import load_model
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding, load_options, save_options
from asr.text.tokenizer import CharTokenizer
from asr.train.cross_validation import BestSetting, plan_grid
from asr.train.learning_gate import judge_learning
from asr.train.learning_report import LearningReport
from asr.train.learnt_model import write_model
from asr.train.search_weights import choose_weight

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


def test_the_share_with_fewest_errors_is_chosen(options):
    references = {"a": "AC", "b": "AB"}
    search, report = choose_weight(options, TOKENIZER, [rows_of("AC", 0.67), rows_of("AB", 0.67)], references)
    assert search.options.lm_weight == pytest.approx(0.55 * 0.5)
    assert report.errors == 0


def test_the_weight_stays_where_another_is_no_better(options):
    search, report = choose_weight(options, TOKENIZER, [rows_of("AB", 0.67)], {"b": "AB"})
    assert (search.options.lm_weight, report.errors) == (0.5, 0)


def test_greedy_decoding_has_no_weight_to_choose():
    search, report = choose_weight(Decoding(), TOKENIZER, [rows_of("AC", 0.67)], {"a": "AC"})
    assert (search.options, report.errors) == (Decoding(), 0)


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


@pytest.mark.parametrize(("count", "learnt"), [(2, True), (1, False)])
def test_a_better_weight_alone_is_learnt_where_tuning_shows_no_gain_and_it_is_no_chance(options, count, learnt):
    references = {str(i): "AC" for i in range(count)}
    rows = [rows_of("AC", 0.67)] * count
    report, search = LearningReport("m", count), Decoder(options, TOKENIZER)
    choice = BestSetting(1e-4, 4, (-0.1,) * count, 1.0, rows)
    found = judge_learning(report, choice, search, references, rows)
    assert (report.refusal == "", report.epochs == 0) == (learnt, learnt)
    assert not learnt or (found.options.lm_weight, report.errors_after) == (pytest.approx(0.55 * 0.5), 0)


@pytest.mark.parametrize("speech_s", [5.0, 40.0, 149.0, 151.0, 449.0, 451.0, 1200.0])
def test_a_plan_passes_over_at_most_11_000_seconds_of_speech(speech_s):
    grid = plan_grid(speech_s)
    passes = len(grid.rates) * grid.epochs[-1] * (grid.folds - 1) + grid.epochs[-1]
    assert passes * speech_s <= 11_000
