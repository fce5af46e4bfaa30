"""Values on the command line (asr/arguments.py): ranges, negative numbers, none; the same for every verb."""

import argparse
import dataclasses
import math

import pytest

from asr.cli import main, shared_options
from asr.config.arguments import LARGEST, Parser, number, numbers, whole
from asr.decode.endpoint import Endpoint, Endpointer
from asr.recognize.options import Decoding


def refusal(read, text):
    """The message with which a type refuses a text."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    return str(refused.value)


@pytest.mark.parametrize("text", ["-inf", "-1e-1", "-.5", "-2", "-1E+3", "-3."])
def test_negative_numbers_are_values_and_no_options(text):
    parser = Parser()
    parser.add_argument("--penalty", type=float)
    assert parser.parse_args(["--penalty", text]).penalty == float(text)


def test_negative_numbers_behind_every_verb_that_decodes():
    for verb in (["transcribe", "a.wav"], ["stream", "a.wav"], ["evaluate", "m"], ["tune", "m", "--model", "x"]):
        args = main.parse_arguments([*verb, "--unknown-penalty", "-inf", "--word-bonus", "-1e-1"])
        assert (args.unknown_penalty, args.word_bonus) == (-math.inf, -0.1)


def test_a_word_that_begins_like_a_number_is_still_an_unknown_option(capsys):
    with pytest.raises(SystemExit):
        main.parse_arguments(["transcribe", "a.wav", "-information"])
    assert "unrecognized arguments: -information" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "1,5", "x" * 5000, "9" * 5000])
def test_a_number_is_finite(text):
    message = refusal(number(), text)
    assert message.startswith("expected a number, got ")
    assert len(message) < 120


@pytest.mark.parametrize(("text", "value"), [("none", None), ("0.5", 0.5), ("1e-3", 0.001)])
def test_none_switches_off(text, value):
    assert number(0, above=True, off=None)(text) == value


def test_what_none_stands_for_may_be_written_as_a_number_too():
    assert number(high=0, off=-math.inf)("-inf") == number(high=0, off=-math.inf)("none") == -math.inf
    assert "0 or less, or none" in refusal(number(high=0, off=-math.inf), "inf")


def test_a_range_is_named():
    assert refusal(number(0, 1), "2") == "expected a number from 0 to 1, got '2'"
    assert refusal(number(0, above=True), "0") == "expected a number above 0, got '0'"
    assert refusal(whole(1, 5), "6") == "expected a whole number from 1 to 5, got '6'"
    assert refusal(whole(0), "-1") == "expected a whole number of 0 or more, got '-1'"


@pytest.mark.parametrize("text", ["9" * 4301, "9" * 21, str(LARGEST + 1), "1.0", "²", "٣", "1_0", "1e2", ""])
def test_a_whole_number_is_small_and_of_plain_digits(text):
    assert "expected a whole number" in refusal(whole(0), text)


def test_numbers_with_commas():
    assert numbers("0.9,1,1.1") == (0.9, 1.0, 1.1)
    for text in ("", "1,", "1,nan", "1;2"):
        assert "with commas" in refusal(numbers, text)


def test_every_option_that_a_model_directory_may_hold_can_be_switched_off():
    args = main.parse_arguments(
        ["transcribe", "a.wav", "--lm", "none", "--lm-adapt", "none", "--word-bonus", "none", "--lexicon", "none"]
        + ["--unknown-penalty", "none", "--hotword", "none", "--phrases", "none", "--rescore", "none"]
        + ["--token-threshold", "none", "--beam-threshold", "none", "--max-duration", "none"]
    )
    given = {name: value for name, value in shared_options.decoding_options(args).items() if value is not None}
    assert Decoding(**given) == dataclasses.replace(Decoding())
    assert args.max_duration is None


@pytest.mark.parametrize("path", main.build_parser()._subparsers._group_actions[0].choices.items(), ids=lambda p: p[0])
def test_no_verb_takes_numbers_without_a_range(path):
    _, verb = path
    assert not [action.dest for action in verb._actions if action.type in (int, float)]


def test_an_endless_pause_ends_no_utterance():
    import torch

    endless = Endpointer(Endpoint(silence_s=math.inf, longest_s=math.inf), 0.04)
    assert len(endless.cut(torch.eye(3)[[1] + [0] * 5000])) == 1
