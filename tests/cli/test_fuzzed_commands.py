"""A seeded run of tools/fuzz_cli.py, that it finds what it is there to find, and what it has found."""

import argparse
import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from asr.cli import main
from asr.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fuzz():
    """The tool as a module that other processes can import."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("fuzz_cli")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_a_thousand_damaged_command_lines_and_files_end_with_a_status_or_a_message(fuzz):
    counts = Counter()
    for number, outcome, message, argv, damage in fuzz.check(range(1000), seed=19):
        counts[outcome] += 1
        assert outcome in ("done", "refused"), f"mutant {number}: {argv} ({damage}): {message}"
    assert counts["done"] > 200
    assert counts["refused"] > 300


def test_every_verb_is_tried(fuzz):
    tried = {line.split()[0] for line in (fuzz.LIGHT_VERBS + fuzz.HEAVY_VERBS).splitlines() if line}
    (verbs,) = (a.choices for a in main.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert tried == set(verbs)


def test_mutants_are_the_same_for_a_seed(fuzz, tmp_path):
    good = tmp_path / "good"
    fuzz.make_good(good)
    made = [[fuzz.Mutant(5, n).prepare(good, tmp_path / f"{run}-{n}") for n in range(20)] for run in range(2)]
    assert made[0] == made[1]
    for n in range(20):
        files = [sorted((tmp_path / f"{run}-{n}").rglob("*")) for run in range(2)]
        kept = [[p.read_bytes() for p in paths if p.is_file()] for paths in files]
        assert kept[0] == kept[1]


def test_an_error_that_is_none_of_ours_is_found(fuzz, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(main, "run_verb", lambda argv: {}["missing"])
    outcome, message = fuzz.execute(["info"], tmp_path)
    assert outcome == "raised"
    assert "KeyError: 'missing'" in message


def test_an_argument_too_many_behind_options_is_refused(capsys):
    with pytest.raises(SystemExit):
        main.parse_arguments(["train-ngram", "text.txt", "out.arpa", "--order", "2", "another.txt"])
    assert "unrecognized arguments: another.txt" in capsys.readouterr().err


def test_a_network_for_which_there_is_no_memory_is_refused():
    from asr.config.language import NetworkConfig
    from asr.lm.recurrent import LanguageNetwork
    from asr.train.process import make_network

    for hidden in (2**40, 2**62):
        with pytest.raises(ConfigError, match="no network of these sizes"):
            make_network(lambda hidden=hidden: LanguageNetwork(NetworkConfig(hidden=hidden), 10))


def test_numbers_of_a_configuration_have_64_bits():
    from asr.config import loader
    from asr.config.language import NetworkConfig

    with pytest.raises(ConfigError, match="hidden: expected int of 64 bits"):
        loader.from_dict(NetworkConfig, {"hidden": int("9" * 400)})


def test_a_key_that_is_needed_is_named():
    from asr.config import loader
    from asr.corpora.recipe import Corpus

    with pytest.raises(ConfigError, match="expected a key title, got none"):
        loader.from_dict(Corpus, {"language": "English"})


def test_a_language_model_without_probabilities_writes_nothing(fuzz, tmp_path):
    import torch

    from asr.errors import ModelError
    from asr.lm import generation, lm_directory

    fuzz.make_good(tmp_path / "good")
    directory = lm_directory.load_recurrent(tmp_path / "good" / "lm")
    with torch.no_grad():
        directory.network.bias.fill_(torch.nan)
    with pytest.raises(ModelError, match="gives no valid probabilities"):
        list(generation.generate(directory, length=3))
