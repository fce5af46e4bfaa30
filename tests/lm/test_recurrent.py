"""Recurrent language models: their arithmetic, training, resumption, files and generated text."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import where

from asr.cli import main
from asr.config import loader
from asr.config.language import LM_CELLS, LanguageConfig, NetworkConfig
from asr.config.sections import TextConfig
from asr.errors import ConfigError, ModelError, TextError, TrainingError
from asr.lm import generation, lm_directory, perplexities
from asr.lm.recurrent import LanguageNetwork, RecurrentLM
from asr.text.phones import PhoneTokenizer
from asr.text.tokenizer import CharTokenizer
from asr.text.word_tokens import WordTokenizer
from asr.train import language_task, loop

SENTENCES = ["ONE TWO THREE", "TWO THREE ONE", "THREE ONE TWO", "ONE TWO", "TWO THREE"] * 6


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "train.txt").write_text("\n".join(SENTENCES) + "\n")
    (folder / "valid.txt").write_text("ONE TWO THREE ONE TWO\nTHREE ONE\n")
    return folder


def make_config(texts, output, **sections):
    tree = {
        "model": {"hidden": 24, "embedding": 12, "dropout": 0.1},
        "data": {"train": str(texts / "train.txt"), "valid": str(texts / "valid.txt"), "batch": 8},
        "optim": {"learning_rate": 0.02},
        "train": {"output": str(output), "epochs": 12, "threads": 1, "device": where.DEVICE},
    }
    for name, values in sections.items():
        tree.setdefault(name, {}).update(values)
    return loader.from_dict(LanguageConfig, tree)


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "run"
    language_task.train_language(make_config(texts, folder))
    return folder


# The network


@pytest.mark.parametrize("cell", LM_CELLS)
def test_steps_with_carried_state_equal_the_whole_sequence(cell):
    torch.manual_seed(1)
    network = LanguageNetwork(NetworkConfig(cell=cell, layers=2, hidden=7, embedding=5), 6).eval()
    tokens = np.array([[0, 3, 1, 5], [0, 2, 2, 4]])
    with torch.inference_mode():
        whole, _ = network(torch.from_numpy(tokens), network.empty_state(2))
    model = RecurrentLM(network)
    state = model.start(2)
    for at in range(4):
        log_probs, state = model.advance(state, tokens[:, at])
        np.testing.assert_allclose(log_probs, whole[:, at].numpy(), atol=1e-6)
        np.testing.assert_allclose(model.finish(state), whole[:, at, 0].numpy(), atol=1e-6)
    swapped = model.join([model.select(state, np.array([1])), model.select(state, np.array([0]))])
    after, _ = model.advance(swapped, np.array([1, 1]))
    straight, _ = model.advance(state, np.array([1, 1]))
    np.testing.assert_allclose(after, straight[::-1], atol=1e-6)


def test_perplexity_is_that_of_the_definition():
    torch.manual_seed(2)
    network = LanguageNetwork(NetworkConfig(hidden=7, embedding=5), 4).eval()
    tokenizer = CharTokenizer(["<blank>", " ", "A", "B"], TextConfig())
    total = 0.0
    for ids in ([2, 1, 3, 3], [3]):
        row = torch.tensor([[0, *ids]])
        with torch.inference_mode():
            log_probs, _ = network(row, network.empty_state(1))
        total -= sum(float(log_probs[0, t, token]) for t, token in enumerate([*ids, 0]))
    found = perplexities.network_perplexity(network, tokenizer, ["A BB", "B"])
    assert found.token == pytest.approx(math.exp(total / 7), rel=1e-5)
    assert found.word == pytest.approx(math.exp(total / 5), rel=1e-5)
    assert found.char == pytest.approx(math.exp(total / 5), rel=1e-5)


# Training


@pytest.mark.parametrize("bptt", [0, 7])
def test_it_learns_the_text(texts, tmp_path, capsys, bptt):
    config = make_config(texts, tmp_path / "run", data={"bptt": bptt}, train={"epochs": 25})
    progress = language_task.train_language(config)
    assert progress.best < 2.2  # of 10 symbols
    figures = lm_directory.load_recurrent(tmp_path / "run").card["validation"]
    assert figures["perplexity"] == pytest.approx(progress.best)
    again = perplexities.perplexity(
        lm_directory.load_language_model(tmp_path / "run"), ["ONE TWO THREE ONE TWO", "THREE ONE"]
    )
    assert again.token == pytest.approx(progress.best, rel=1e-5)
    assert "x real time" not in capsys.readouterr().err


@pytest.mark.parametrize("bptt", [0, 5])
def test_a_stopped_training_resumes_bit_for_bit(texts, tmp_path, monkeypatch, bptt):
    def config(name):
        return make_config(texts, tmp_path / name, data={"bptt": bptt}, train={"epochs": 4, "ema": 0.9})

    language_task.train_language(config("whole"))
    plain, steps = loop.Run.step, 0

    def interrupted(self, batch, count):
        nonlocal steps
        steps += 1
        if steps == 6:
            self.save()
            raise KeyboardInterrupt
        return plain(self, batch, count)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            language_task.train_language(config("cut"))
    language_task.train_language(config("cut"), resume=True)
    whole, cut = (lm_directory.load_recurrent(tmp_path / name).network.state_dict() for name in ("whole", "cut"))
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


@pytest.mark.parametrize("bptt", [0, 5])
def test_half_precision_is_used_and_trains(texts, tmp_path, bptt):
    losses = []
    for precision in ("fp32", "bf16"):
        train = {"precision": precision, "epochs": 1}
        config = make_config(texts, tmp_path / precision, data={"bptt": bptt}, train=train)
        torch.manual_seed(1)
        task = language_task.LanguageTask(config)
        plan = task.plan(0)
        losses.append([float(task.loss(batch).detach()) for batch in task.batches(plan, 0)])
        language_task.train_language(config)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_streams_carry_their_state_and_hold_the_whole_text(texts, tmp_path):
    task = language_task.LanguageTask(make_config(texts, tmp_path / "run", data={"bptt": 5, "batch": 3}))
    plan = task.plan(0)
    batches = list(task.batches(plan, 0))
    assert [batch.fresh for batch in batches] == [True] + [False] * (len(plan) - 1)
    for row in range(3):
        inputs = torch.cat([batch.inputs[row] for batch in batches])
        targets = torch.cat([batch.targets[row] for batch in batches])
        assert torch.equal(inputs[1:], targets[:-1])
    task.network.eval()
    task.loss(batches[0])
    carried = task.trainee.state.clone()
    assert carried.abs().sum() > 0
    with torch.inference_mode():
        _, expected = task.trainee.network(batches[0].inputs.to(task.device), task.trainee.network.empty_state(3))
    torch.testing.assert_close(carried, expected)


# Files and commands


def test_the_commands_train_measure_and_write(texts, tmp_path, capsys, monkeypatch):
    (tmp_path / "lm.yaml").write_text(loader.dumps(make_config(texts, tmp_path / "run", train={"epochs": 3})))
    assert main.run_command(["train-lm", str(tmp_path / "lm.yaml"), "train.epochs=2"]) == 0
    assert "best perplexity per token" in capsys.readouterr().out
    assert main.run_command(["perplexity", str(tmp_path / "run"), str(texts / "valid.txt")]) == 0
    assert "perplexity per token" in capsys.readouterr().out
    assert main.run_command(["train-lm", str(tmp_path / "lm.yaml")]) == 2
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main.run_command(["train-lm", str(tmp_path / "lm.yaml"), "--resume"]) == 2
    assert "one process" in capsys.readouterr().err


def test_resuming_keeps_the_token_ids_of_the_run(texts, tmp_path, capsys):
    text = tmp_path / "train.txt"
    text.write_text((texts / "train.txt").read_text())
    config = make_config(texts, tmp_path / "run", data={"train": str(text)}, train={"epochs": 3})
    language_task.train_language(config)
    tokens = (tmp_path / "run" / "tokens.txt").read_bytes()
    before = perplexities.perplexity(lm_directory.load_language_model(tmp_path / "run"), ["ONE TWO", "TWO ONE"]).token
    text.write_text("\n".join(["WHO ENTERTAINS"] * 10) + "\n")  # fewer letters of the old ones, and others
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=4))
    with pytest.raises(TextError, match=r"train\.txt:1: 'A'"):
        language_task.train_language(longer, resume=True)
    text.write_text("\n".join(["ONE TWO", "TWO ONE"] * 15) + "\n")  # R is gone
    language_task.train_language(longer, resume=True)
    assert (tmp_path / "run" / "tokens.txt").read_bytes() == tokens
    assert "has changed since" in capsys.readouterr().err
    assert loader.read_yaml(LanguageConfig, tmp_path / "run" / "config.yaml") == longer
    assert (
        perplexities.perplexity(lm_directory.load_language_model(tmp_path / "run"), ["ONE TWO", "TWO ONE"]).token
        < before
    )


def test_generated_text_is_reproducible_and_follows_the_model(trained, capsys):
    command = ["generate", str(trained), "--prompt", "ONE T", "--length", "30"]
    assert main.run_command([*command, "--temperature", "0"]) == 0
    likeliest = capsys.readouterr().out.strip()
    assert likeliest.startswith("ONE TWO")
    assert set(likeliest.split()) <= {"ONE", "TWO", "THREE"}
    drawn = []
    for seed in ("1", "1", "2"):
        assert main.run_command([*command, "--temperature", "1.5", "--seed", seed, "--count", "3"]) == 0
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0].splitlines()) == 3
    directory = lm_directory.load_recurrent(trained)
    assert len("".join(generation.generate(directory, length=5, temperature=3.0))) <= 5


class Told:
    """A language model that says these tokens and ends; it looks like a ``RecurrentLM``."""

    def __init__(self, *tokens):
        self.tokens = tokens

    def start(self, count):
        return -1

    def advance(self, state, tokens):
        """Everything that is told has the next token as its likeliest; what is heard before is the prompt."""
        said = state + 1 - self.prompt
        row = np.full((1, 9), -9.0)
        row[0, self.tokens[said] if 0 <= said < len(self.tokens) else 0] = 0.0
        return row, state + 1


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "told", "pieces"),
    [
        ("char", "", [3, 1, 2], ["B", " ", "A"]),
        ("word", "", [2, 1], ["TWO", " ONE"]),
        ("word", "ONE", [2, 1], [" TWO", " ONE"]),
        ("word", "ONE ", [2], ["TWO"]),
        ("phone", "TWO", [3, 2, 4, 1, 2], [" TOE", " TWO"]),
        ("phone", "", [1, 2, 4, 3, 2], ["TWO", " TOE"]),
    ],
)
def test_generated_pieces_join_to_the_text(tokenizer, prompt, told, pieces):
    made = {
        "char": CharTokenizer(["<blank>", " ", "A", "B"], TextConfig()),
        "word": WordTokenizer(["<blank>", "ONE", "TWO"], TextConfig(tokenizer="word")),
        "phone": PhoneTokenizer(
            ["<blank>", "T", "UW", "OW", " "],
            {"TWO": [("T", "UW")], "TOE": [("OW", "UW")]},
            TextConfig(tokenizer="phone", lexicon="x", word_boundary=True),
        ),
    }[tokenizer]
    model = Told(*told)
    model.prompt = len(made.encode(prompt)) + (tokenizer == "phone" and prompt != "")  # a boundary behind the words
    found = list(generation.generate(SimpleNamespace(tokenizer=made, model=model), prompt, temperature=0))
    assert found == pieces
    if not prompt.endswith(" "):
        boundary = [4] * (tokenizer == "phone")
        assert prompt + "".join(found) == made.decode([*made.encode(prompt), *boundary, *told])


def test_bad_input_is_named(texts, trained, tmp_path):
    directory = lm_directory.load_recurrent(trained)
    with pytest.raises(ConfigError, match="temperature"):
        generation.generate(directory, temperature=-1.0)
    with pytest.raises(TextError, match="X"):
        generation.generate(directory, "XYZ")
    with pytest.raises(ModelError, match="no-such"):
        lm_directory.load_language_model(tmp_path / "no-such") if (
            tmp_path / "no-such"
        ).is_dir() else lm_directory.load_recurrent(tmp_path / "no-such")
    (tmp_path / "bad.txt").write_text("ONE TWO\nDIGIT 7 HERE\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    tokens = {"tokens": str(trained / "tokens.txt")}
    with pytest.raises(TextError, match=r"bad\.txt:2.*acoustic model"):
        language_task.train_language(
            make_config(texts, tmp_path / "a", data={"train": str(tmp_path / "bad.txt")} | tokens)
        )
    with pytest.raises(TrainingError, match=r"empty\.txt: expected a sentence"):
        language_task.train_language(make_config(texts, tmp_path / "b", data={"train": str(tmp_path / "empty.txt")}))
    with pytest.raises(ConfigError, match=r"data\.train"):
        language_task.train_language(make_config(texts, tmp_path / "c", data={"train": ""}))
    with pytest.raises(ConfigError, match=r"model\.cell"):
        NetworkConfig(cell="min_gru")
    (trained / "model.safetensors").rename(trained / "gone")
    try:
        with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
            lm_directory.load_language_model(trained)
    finally:
        (trained / "gone").rename(trained / "model.safetensors")


def test_every_key_has_a_range(texts):
    for section, key, bad in (
        ("model", "layers", 0), ("model", "hidden", 0), ("model", "embedding", 0), ("model", "dropout", 1.0),
        ("data", "batch", 0), ("data", "bptt", -1),
    ):  # fmt: skip
        values = getattr(make_config(texts, "x"), section)
        with pytest.raises(ConfigError, match=f"{section}.{key}"):
            dataclasses.replace(values, **{key: bad})


def test_a_very_long_sentence_makes_its_batch_small_and_all_sentences_are_seen_once(texts, tmp_path, monkeypatch):
    path = tmp_path / "text"
    lengths = [3, 2, 5, 4, 90, 3, 4, 2, 5, 1, 60]
    path.write_text("".join("A" * length + "\n" for length in lengths))
    data = {"train": str(path), "valid": "", "batch": 4}
    task = language_task.LanguageTask(make_config(texts, tmp_path / "run", data=data))
    whole = task.plan(0)
    assert sorted(map(len, whole)) == [3, 4, 4]
    monkeypatch.setattr(language_task, "MOST_PADDED", 100)
    plan = task.plan(0)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    for batch in plan:
        assert len(batch) == 1 or len(batch) * (max(lengths[index] for index in batch) + 1) <= 100
    assert [4] in plan
    assert max(map(len, plan)) == 4  # batches of short sentences stay whole
