"""Keys of configurations: comments, types, ranges and defaults as people and editors read them."""

import copy
import dataclasses
import json
import re
import typing
from pathlib import Path

import jsonschema
import pytest
import yaml

from asr.cli import main
from asr.config import keys, loader
from asr.config.language import LanguageConfig
from asr.config.sections import Config

RECIPES = Path(__file__).parents[2] / "recipes"
VERBS = {"train": Config, "train-lm": LanguageConfig}


class Editor(yaml.SafeLoader):
    """YAML 1.2, as editors read it: ``2e-3`` is a number."""

    yaml_implicit_resolvers = copy.deepcopy(yaml.SafeLoader.yaml_implicit_resolvers)


Editor.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+e[-+]?[0-9]+$"), list("-+0123456789"))


def validator(config):
    schema = keys.json_schema(config, "test")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/conf/**/*.yaml")), ids=lambda p: str(p.relative_to(RECIPES)))
def test_the_configurations_of_the_recipes_fit_the_schema(path):
    config = LanguageConfig if path.name == "lm.yaml" else Config
    validator(config).validate(yaml.load(path.read_text(encoding="utf-8"), Editor))


@pytest.mark.parametrize("config", VERBS.values())
def test_the_defaults_and_empty_files_fit_the_schema(config):
    for tree in (loader.to_dict(config()), {}, None, {"model": None}):
        validator(config).validate(tree)


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"modle": {}}, []),
        ({"model": {"layer": 3}}, ["model"]),
        ({"model": {"layers": 0}}, ["model", "layers"]),
        ({"model": {"layers": 2.5}}, ["model", "layers"]),
        ({"model": {"layers": True}}, ["model", "layers"]),
        ({"model": {"cell": "transformer"}}, ["model", "cell"]),
        ({"model": {"subsampling": 3}}, ["model", "subsampling"]),
        ({"model": {"dropout": 1.0}}, ["model", "dropout"]),
        ({"augment": {"noise_prob": 1.1}}, ["augment", "noise_prob"]),
        ({"augment": {"speeds": [1.0, 2.1]}}, ["augment", "speeds", 1]),
        ({"augment": {"reverb_rt60_s": [0.1]}}, ["augment", "reverb_rt60_s"]),
        ({"augment": {"reverb_rt60_s": [0.1, 0.2, 0.3]}}, ["augment", "reverb_rt60_s"]),
        ({"augment": {"reverb_rt60_s": [0.1, 6.0]}}, ["augment", "reverb_rt60_s", 1]),
        ({"text": {"replace": {"a": 1}}}, ["text", "replace", "a"]),
        ({"optim": {"learning_rate": 0}}, ["optim", "learning_rate"]),
    ],
)
def test_a_wrong_key_type_or_value_fails_the_schema(tree, where):
    with pytest.raises(jsonschema.ValidationError) as caught:
        validator(Config).validate(tree)
    assert list(caught.value.absolute_path) == where


@pytest.mark.parametrize("config", VERBS.values())
def test_what_the_schema_says_of_every_key(config):
    for section, cls in typing.get_type_hints(config).items():
        found = validator(config).schema["properties"][section]["properties"]
        assert list(found) == [f.name for f in dataclasses.fields(cls)]
        for name, key in found.items():
            assert key["type"], f"{section}.{name}"
            assert key["default"] == loader.to_dict(cls())[name]
            assert key["description"], f"{section}.{name} has no comment below it"


@pytest.mark.parametrize(("verb", "config"), VERBS.items())
def test_keys_are_printed_without_a_configuration(verb, config, capsys):
    assert main.run_command([verb, "--keys"]) == 0
    printed = capsys.readouterr().out
    for section, cls in typing.get_type_hints(config).items():
        assert all(f"\n  {section}.{field.name}: " in printed for field in dataclasses.fields(cls))
    assert "  model.dropout: float, >= 0 and < 1; default 0.3\n      Dropout of" in printed
    assert '  train.precision: str, one of fp32, tf32, bf16 or fp16; default "fp32"\n' in printed
    assert "  optim.betas: [(float, >= 0 and < 1), (float, >= 0 and < 1)]; default [0.9, 0.98]\n" in printed
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize(("verb", "config"), VERBS.items())
def test_the_schema_is_written(verb, config, tmp_path, capsys):
    path = tmp_path / "schema.json"
    path.write_text("old", encoding="utf-8")
    assert main.run_command([verb, "--schema", str(path), "--keys"]) == 0
    assert json.loads(path.read_text(encoding="utf-8")) == keys.json_schema(config, f"Configuration of asr {verb}")
    assert "train.epochs" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["schema.json"]


def test_a_schema_that_cannot_be_written_is_an_error(tmp_path, capsys):
    assert main.run_command(["train", "--schema", str(tmp_path / "none" / "schema.json")]) == 2
    assert "schema.json: cannot write: no folder" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["conf.yaml"], ["conf.yaml", "a.b=1"], ["--resume"]])
@pytest.mark.parametrize("option", [["--keys"], ["--schema", "schema.json"]])
def test_nothing_is_trained_beside_keys(option, more, capsys):
    for arguments in ([*more, *option], [*option, *more]):
        assert main.run_command(["train", *arguments]) == 2
        assert "--keys, --schema: expected no CONF, key=value or --resume" in capsys.readouterr().err


def test_a_training_still_needs_a_configuration(capsys):
    with pytest.raises(SystemExit):
        main.run_command(["train", "--resume"])
    assert "required: CONF" in capsys.readouterr().err
