"""Sources with shares: what an epoch takes of each, on resume and at the end of a source."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from corpus import make_config, make_corpus, make_utterances

from asr.cli import main
from asr.config import loader
from asr.config.sections import Config
from asr.config.training_sections import SourceConfig
from asr.data.manifest import Utterance, write_manifest
from asr.data.source_shares import SourceMix
from asr.errors import ConfigError
from asr.models.tensors import load_tensors
from asr.train import acoustic_task, loop


def make_set(**counts):
    """Utterances of 4 to 6 s by source, ten speakers each."""
    rng = np.random.default_rng(0)
    utterances, names = [], []
    for name, count in counts.items():
        for index in range(count):
            seconds = round(float(rng.uniform(4, 6)), 3)
            utterances.append(Utterance(f"{name}{index}", "x.wav", "A", seconds, f"{name}-{index % 10}"))
            names.append(name)
    return utterances, names


def seconds_by_source(parts, utterances, names):
    heard = Counter()
    for position in np.concatenate(parts):
        heard[names[position]] += utterances[position].duration_s
    return heard


def mix(sources, utterances, names, seed=1):
    return SourceMix({name: SourceConfig(path="x", **s) for name, s in sources.items()}, utterances, names, seed)


def test_an_epoch_is_one_pass_over_the_largest_recorded_source_and_keeps_the_shares():
    utterances, names = make_set(real=200, small=50, made=2000)
    mixed = mix(
        {"real": {"share": 0.4}, "small": {"share": 0.2}, "made": {"share": 0.4, "real": False}}, utterances, names
    )
    for number in (0, 3):
        parts = mixed.epoch(number, (0.1, 0.2))
        drawn = Counter(np.concatenate(parts).tolist())
        assert all(drawn[i] == 1 for i, name in enumerate(names) if name == "real")
        heard = seconds_by_source(parts, utterances, names)
        total = sum(heard.values())
        assert heard["small"] / total == pytest.approx(0.2, abs=0.01)
        assert heard["made"] / total == pytest.approx(0.4, abs=0.01)


def test_a_source_goes_on_where_it_stopped_and_repeats_nothing_before_all_was_used():
    utterances, names = make_set(real=100, made=1000)
    mixed = mix({"real": {"share": 0.5}, "made": {"share": 0.5, "real": False}}, utterances, names)
    drawn = Counter()
    for number in range(9):
        drawn.update(i for i in np.concatenate(mixed.epoch(number, (0, 0))).tolist() if names[i] == "made")
    assert 850 < len(drawn) < 950
    assert max(drawn.values()) == 1


def test_the_same_seed_gives_the_same_epochs_and_another_others():
    utterances, names = make_set(real=50, made=200)
    sources = {"real": {"share": 0.5}, "made": {"share": 0.5, "real": False}}
    first, again, other = (np.concatenate(mix(sources, utterances, names, seed).epoch(2, (0, 0))) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_speaker_exceeds_the_cap_by_more_than_an_utterance_and_all_of_it_is_used_in_time():
    utterances, names = make_set(real=100, actors=200)
    mixed = mix({"real": {"share": 0.8}, "actors": {"share": 0.2, "speaker_cap_s": 20}}, utterances, names)
    drawn = set()
    for number in range(12):
        heard = Counter()
        for position in np.concatenate(mixed.epoch(number, (0, 0))):
            if names[position] == "actors":
                heard[utterances[position].speaker] += utterances[position].duration_s
                drawn.add(int(position))
        assert max(heard.values()) < 20 + 6
        assert len(heard) == 10
    assert len(drawn) > 190


def test_a_source_ends_where_it_says_in_the_middle_of_an_epoch():
    utterances, names = make_set(real=200, made=2000)
    mixed = mix({"real": {"share": 0.5}, "made": {"share": 0.5, "real": False, "until": 0.75}}, utterances, names)
    before, after = mixed.epoch(0, (0.0, 1.0))  # the whole training is one epoch
    assert {names[i] for i in before} == {"real", "made"}
    assert {names[i] for i in after} == {"real"}
    both = Counter(np.concatenate([before, after]).tolist())
    assert sorted(i for i in both if names[i] == "real") == [i for i, name in enumerate(names) if name == "real"]
    assert max(both.values()) == 1
    assert len(after) == pytest.approx(50, abs=3)


@pytest.mark.parametrize("at", [0.75, 0.9])
def test_by_the_clock_an_epoch_that_begins_behind_the_end_of_a_source_has_none_of_it(at):
    utterances, names = make_set(real=20, made=20)
    mixed = mix({"real": {}, "made": {"until": 0.75}}, utterances, names)
    assert {names[i] for i in np.concatenate(mixed.epoch(5, (at, at)))} == {"real"}


def test_a_source_with_share_0_is_left_out():
    utterances, names = make_set(real=20, made=20)
    mixed = mix({"real": {}, "made": {"share": 0.0}}, utterances, names)
    assert sorted(np.concatenate(mixed.epoch(0, (0, 0))).tolist()) == list(range(20))


def test_a_share_beyond_what_a_cap_allows_is_refused_with_the_share_that_fits():
    utterances, names = make_set(real=100, actors=100)
    with pytest.raises(ConfigError, match=r"data\.sources\.actors\.share: 50\.0%.*10 speakers.*at most (10|9)\.\d%"):
        mix({"real": {}, "actors": {"speaker_cap_s": 10}}, utterances, names)


def test_a_share_that_fits_only_until_a_source_ends_is_refused():
    utterances, names = make_set(real=100, actors=100, made=1000)
    sources = {"real": {"share": 0.2}, "actors": {"share": 0.05, "speaker_cap_s": 15}}
    mix({**sources, "made": {"share": 0.75, "real": False}}, utterances, names)
    with pytest.raises(ConfigError, match=r"data\.sources\.actors\.share"):
        mix({**sources, "actors": {"share": 0.2, "speaker_cap_s": 15}, "made": {"until": 0.5}}, utterances, names)


def test_a_cap_needs_names_of_speakers():
    utterances, names = make_set(real=3)
    utterances[1] = dataclasses.replace(utterances[1], speaker="")
    with pytest.raises(ConfigError, match=r"speaker_cap_s: x names no speaker of real1"):
        mix({"real": {"speaker_cap_s": 10}}, utterances, names)


def test_a_source_without_utterances_is_named():
    utterances, names = make_set(real=3)
    with pytest.raises(ConfigError, match=r"data\.sources\.none: no usable utterance"):
        mix({"real": {}, "none": {}}, utterances, names)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sources": {"a": {"path": "a"}}, "train": "b"}, "either data.sources or data.train"),
        ({"sources": {"a": {"path": "a"}}, "more": ["b"]}, "either data.sources or data.train"),
        ({"sources": {"a": {}}}, r"data\.sources\.a\.path: expected the path"),
        ({"sources": {"a": {"path": "a", "share": 1.5}}}, r"data\.sources\.a\.share: expected 0 to 1, got 1.5"),
        ({"sources": {"a": {"path": "a", "until": 0.5}}}, "lasts to the end"),
        ({"sources": {"a": {"path": "a", "shares": 0.5}}}, r"unknown key data\.sources\.a\.shares; did you mean"),
    ],
)
def test_sources_that_make_no_sense_are_refused_by_key(data, message):
    with pytest.raises(ConfigError, match=message):
        loader.from_dict(Config, {"data": data})


def test_sources_are_overridden_on_the_command_line_and_survive_a_file(tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text("data: {sources: {queen: {path: q.jsonl}, made: {path: m.jsonl, real: false}}}\n")
    config = loader.read_yaml(Config, path, ["data.sources.queen.share=0.2"])
    assert config.data.sources["queen"].share == 0.2
    path.write_text(loader.dumps(config))
    assert loader.read_yaml(Config, path) == config


@pytest.fixture
def corpus(tmp_path):
    folder = make_corpus(tmp_path, train=16, valid=4)
    write_manifest(folder / "made.jsonl", make_utterances(folder, 40, "made", seed=5))
    return folder


def sources_config(corpus, **train):
    sources = {"own": {"path": str(corpus / "train.jsonl"), "share": 0.6}}
    sources["made"] = {"path": str(corpus / "made.jsonl"), "share": 0.4, "real": False, "until": 0.6}
    return make_config(corpus, data={"train": "", "sources": sources}, train=train)


def test_a_training_with_sources_resumes_exactly_in_the_middle_of_an_epoch(corpus, monkeypatch):
    acoustic_task.train_acoustic(sources_config(corpus, output=str(corpus / "whole"), epochs=3))
    config = sources_config(corpus, output=str(corpus / "parts"), epochs=3)
    step = loop.Run.step

    def interrupted(run, *args):
        if run.progress.step == 6:
            run.save()
            raise KeyboardInterrupt
        return step(run, *args)

    monkeypatch.setattr(loop.Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        acoustic_task.train_acoustic(config)
    monkeypatch.undo()
    acoustic_task.train_acoustic(config, resume=True)
    whole, parts = (load_tensors(corpus / name / "checkpoint.safetensors")[0] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("span", [(0.25, 0.5), (0.25, 0.25)])  # by epochs, by the clock
def test_with_sources_the_next_epoch_is_begun_too(corpus, span):
    task = acoustic_task.AcousticTask(sources_config(corpus, output=str(corpus / "run"), epochs=9))
    list(task.batches(task.plan(0, span), 0))
    begun = task.feeder._next
    assert begun.plan == task.plan(1, (0.5, 0.75) if span[1] > span[0] else span)
    task.close()


def test_a_source_with_share_0_gives_its_letters_only(corpus):
    write_manifest(corpus / "made.jsonl", [dataclasses.replace(u, text="XYZ") for u in make_utterances(corpus, 5, "m")])
    config = sources_config(corpus, output=str(corpus / "run"))
    sources = {**config.data.sources, "made": dataclasses.replace(config.data.sources["made"], share=0.0)}
    task = acoustic_task.AcousticTask(
        dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
    )
    assert len(task.train_data.utterances) == 16
    assert task.tokenizer.encode("XYZ", "")
    task.close()


def test_the_command_line_shows_what_the_sources_come_to(corpus, capsys):
    path = corpus / "conf.yaml"
    path.write_text(loader.dumps(sources_config(corpus)))
    assert main.run_command(["check", str(path), "data.sources.made.share=0.6"]) == 0
    shown = capsys.readouterr().out
    assert "one pass over own" in shown
    assert "made: 50.0% of the speech (share 0.6)" in shown
    assert "from 0.6 of the training on" in shown
    assert f"{corpus / 'valid.jsonl'}: 4 utterances" in shown
