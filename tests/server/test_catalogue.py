"""Models by name, aliases and defaults."""

import json
import shutil

import pytest

from asr.errors import ConfigError, ModelError
from asr.models.bundled import bundle_folder
from asr.server.catalogue import Catalogue
from asr.server.problems import UnknownModelError
from asr.server.settings import Settings


def test_without_models_the_bundled_ones_are_served_the_default_first():
    found = Catalogue(Settings())
    assert list(found.models) == ["english", "an4", "english-stream", "stream"]
    assert found.find(None).name == "english"
    assert found.find("", live=True).name == "english-stream"


def test_a_stream_gets_the_first_model_that_streams_and_a_file_the_first():
    found = Catalogue(Settings(models={"a": "an4", "b": "stream"}))
    assert found.find(None).name == "a"
    assert found.find(None, live=True).name == "b"
    assert found.models["b"].streams
    assert not found.models["a"].streams


def test_defaults_can_be_named():
    found = Catalogue(Settings(models={"a": "an4", "b": "stream"}, file_model="b", live_model="a"))
    assert (found.find(None).name, found.find(None, live=True).name) == ("b", "a")


def test_an_alias_is_its_model():
    found = Catalogue(Settings(models={"a": "an4"}, aliases={"whisper-1": "a"}))
    assert found.find("whisper-1") is found.find("a")


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(UnknownModelError, match="expected a or whisper-1, got 'b'") as caught:
        Catalogue(Settings(models={"a": "an4"}, aliases={"whisper-1": "a"})).find("b")
    assert caught.value.param == "model"
    assert caught.value.names == ("a", "whisper-1")


@pytest.mark.parametrize("options", [{"aliases": {"x": "no"}}, {"file_model": "no"}, {"live_model": "no"}])
def test_an_alias_or_default_without_a_model_is_refused(options):
    with pytest.raises(ConfigError, match="expected a, got 'no'"):
        Catalogue(Settings(models={"a": "an4"}, **options))


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(ModelError):
        Catalogue(Settings(models={"a": str(tmp_path)}))


def with_languages(folder, languages):
    """A copy of a bundled model whose card has these languages; None: none."""
    shutil.copytree(bundle_folder() / "stream", folder, ignore=shutil.ignore_patterns("lm", "decoding.yaml"))
    card = json.loads((folder / "card.json").read_text())
    del card["languages"]
    (folder / "card.json").write_text(json.dumps(card if languages is None else card | {"languages": languages}))
    return str(folder)


@pytest.mark.parametrize(("languages", "expected"), [(["de", "nds"], ("de", "nds")), (None, ())])
def test_the_languages_of_a_model_are_those_of_its_card(tmp_path, languages, expected):
    found = Catalogue(Settings(models={"a": with_languages(tmp_path / "a", languages)}))
    assert found.find("a").languages == expected


@pytest.mark.parametrize("languages", ["de", ["german"], [1]])
def test_a_card_with_wrong_languages_is_refused(tmp_path, languages):
    with pytest.raises(ModelError, match="languages: expected codes of ISO 639"):
        Catalogue(Settings(models={"a": with_languages(tmp_path / "a", languages)}))


def test_the_bundled_models_are_english():
    assert {model.languages for model in Catalogue(Settings()).models.values()} == {("en",)}


def test_an_alias_does_not_hide_a_model():
    with pytest.raises(ConfigError, match="expected a name that no model has, got 'a'"):
        Catalogue(Settings(models={"a": "an4", "b": "stream"}, aliases={"a": "b"}))
