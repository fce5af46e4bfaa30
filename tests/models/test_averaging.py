"""Averaged models: their weights, what they come with, and which models are refused."""

import json

import pytest
import torch
from test_model_directory import make_model

from asr.cli.main import run_command
from asr.errors import ModelError
from asr.models import description, model_directory
from asr.models.averaging import average_models


@pytest.fixture
def pair(tmp_path):
    """Two model directories of one kind with different weights."""
    first, second = tmp_path / "first", tmp_path / "second"
    make_model(first)
    network, _ = make_model(second)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model_directory.save_weights(second, network, {"format": 1, "training_data": {"hours": 2}, "test": {"wer": 0.5}})
    return first, second


def weights(folder):
    return model_directory.load_model(folder).network.state_dict()


@pytest.mark.parametrize(("shares", "second_share"), [(None, 0.5), ([3, 1], 0.25)])
def test_the_weights_are_the_weighted_mean(pair, tmp_path, shares, second_share):
    average_models(pair, tmp_path / "mean", shares)
    first, second, mean = (weights(folder) for folder in (*pair, tmp_path / "mean"))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (1 - second_share) * first[name] + second_share * second[name])


def test_equal_models_average_to_themselves(pair, tmp_path):
    average_models([pair[1], pair[1], pair[1]], tmp_path / "mean")
    torch.testing.assert_close(dict(weights(tmp_path / "mean")), dict(weights(pair[1])))


def test_the_card_is_the_last_ones_without_its_figures_and_says_of_what_it_is_made(pair, tmp_path):
    average_models(pair, tmp_path / "mean", [1, 3])
    card = json.loads((tmp_path / "mean" / "card.json").read_text())
    assert card["training_data"] == {"hours": 2}
    assert "test" not in card  # measured with other weights
    assert [part["share"] for part in card["average_of"]] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "gru"}, "model.cell is gru, expected lstm"),
        ({"hidden": 7}, "model.hidden is 7"),
    ],
)
def test_other_networks_are_refused(pair, tmp_path, change, message):
    make_model(pair[0], **change)
    with pytest.raises(ModelError, match=message):
        average_models(pair, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("name", ["tokens.txt", "stats.json"])
def test_other_tokens_or_normalisation_are_refused(pair, tmp_path, name):
    path = pair[0] / name
    text = path.read_text()
    path.write_text(text.replace("A", "C") if name == "tokens.txt" else text.replace("0.1", "0.2"))
    with pytest.raises(ModelError, match=f"{pair[0]}: cannot be averaged with .*{name} differs"):
        average_models(pair, tmp_path / "mean")


def test_one_model_wrong_shares_and_a_models_own_folder_are_refused(pair, tmp_path):
    for models, output, shares, message in [
        (pair[:1], "mean", None, "expected two or more models"),
        (pair, "mean", [1], "one weight for each of 2 models, got 1"),
        (pair, "mean", [1, 0], "expected weights above 0, got 1, 0"),
        (pair, "mean", [1, float("nan")], "expected weights above 0"),
        (pair, "first", None, "one of the models"),
    ]:
        with pytest.raises(ModelError, match=message):
            average_models(models, tmp_path / output, shares)


def test_the_command_writes_a_model_and_names_a_missing_one(pair, tmp_path, capsys):
    first, second = map(str, pair)
    assert run_command(["average", first, second, "--output", str(tmp_path / "mean")]) == 0
    assert str(tmp_path / "mean") in capsys.readouterr().out
    assert run_command(["average", first, str(tmp_path / "none"), "--output", str(tmp_path / "mean")]) == 2
    assert "none: neither a model directory nor a bundled model" in capsys.readouterr().err


def set_origin(folder, origin):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"origin": origin}))


def test_models_of_different_beginnings_are_refused(pair, tmp_path):
    for folder, origin in zip(pair, ("aaaa", "bbbb"), strict=True):
        set_origin(folder, origin)
    with pytest.raises(
        ModelError, match=r"first: cannot be averaged with .*second: they started from different random"
    ):
        average_models(pair, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_an_average_begins_where_its_models_did(pair, tmp_path, capsys):
    for folder in pair:
        set_origin(folder, "aaaa")
    average_models(pair, tmp_path / "mean")
    assert description.load_card(tmp_path / "mean")["origin"] == "aaaa"
    assert capsys.readouterr().err == ""


def test_a_card_without_a_beginning_is_warned_of(pair, tmp_path, capsys):
    set_origin(pair[1], "aaaa")
    average_models(pair, tmp_path / "mean")
    assert "warning: " in (text := capsys.readouterr().err)
    assert f"{pair[0]}: its card does not say which weights it began with" in text
    assert "origin" not in description.load_card(tmp_path / "mean")


def test_an_average_that_cannot_be_written_leaves_the_one_before(pair, tmp_path, monkeypatch):
    mean = tmp_path / "mean"
    average_models(pair, mean)
    before = {path.name: path.read_bytes() for path in mean.iterdir()}

    def full(*args, **options):
        raise ModelError("disk full")

    monkeypatch.setattr(model_directory, "save_weights", full)
    with pytest.raises(ModelError, match="disk full"):
        average_models(pair, mean, [3, 1])
    assert {path.name: path.read_bytes() for path in mean.iterdir()} == before


def test_an_average_replaces_one_with_all_that_was_made_for_it(pair, tmp_path):
    mean = tmp_path / "mean"
    average_models(pair, mean)
    (mean / "decoding.yaml").write_text("beam: 3\n")
    average_models(pair, mean, [3, 1], force=True)
    assert not (mean / "decoding.yaml").exists()
    assert not list(mean.glob(".asr-part-*"))
    first, second, new = (weights(folder)["subsampling.convs.0.weight"] for folder in (*pair, mean))
    torch.testing.assert_close(new, 0.75 * first + 0.25 * second)
