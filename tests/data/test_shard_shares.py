"""Sources of shards with shares: what an epoch reads of each, over all processes."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from corpus import RATE_HZ, make_config
from shards import make_shards

from asr.config.training_sections import SourceConfig
from asr.data.manifest import Utterance, write_manifest
from asr.data.sample_cache import SampleCache
from asr.data.shard_index import find_index, index_path, write_index
from asr.data.shard_set import ShardSet
from asr.data.shard_shares import describe_sources, shares_of_shards
from asr.data.sharded_batches import ShardedDataset
from asr.errors import ConfigError
from asr.text.tokenizer import CharTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of ``real`` and ``small``, with ten speakers each, and of ``nameless``; all name one short recording."""
    import soundfile

    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "noise.wav", 0.1 * rng.standard_normal(int(1.5 * RATE_HZ)), RATE_HZ)
    for name, count in {"real": 160, "small": 40, "nameless": 12}.items():
        utterances = []
        for number in range(count):
            speaker = "" if name == "nameless" else f"{name}-{number % 10}"
            seconds = round(float(rng.uniform(0.4, 1.4)), 3)
            utterances.append(Utterance(f"{name}{number}", str(folder / "noise.wav"), "A", seconds, speaker,
                                        start_s=0.0, end_s=seconds))  # fmt: skip
        write_manifest(folder / f"{name}.jsonl", utterances)
        make_shards(folder / name, folder / f"{name}.jsonl", 200_000)
    return folder


def make_set(folder, rank=0, size=1, seed=1, shuffle_s=20.0, **sources):
    config = make_config(folder, data={"train": "", "shuffle_s": shuffle_s, "batch_s": 4.0, "sources": sources},
                         train={"seed": seed})  # fmt: skip
    tokenizer = CharTokenizer(["<blank>", " ", "A"], config.text)
    cache = SampleCache(RATE_HZ, 0)
    shards = shares_of_shards(config)
    return ShardedDataset(shards, tokenizer, config, warn=pytest.fail, cache=cache, rank=rank, size=size)


def source(folder, name, **options):
    return {"path": str(folder / name), **options}


def names_of(data):
    """The id of each utterance, by its number."""
    return [index.id(row) for index in map(data.shards.index, range(len(data.shards.entries)))
            for row in range(len(index.places))]  # fmt: skip


def rows_of(plan):
    return [example.index for batch in plan for example in batch]


def seconds_by_source(data, rows, names):
    heard = Counter()
    for row in rows:
        heard[names[row].rstrip("0123456789")] += data.durations_s[row]
    return heard


@pytest.mark.parametrize("size", [1, 3])
def test_an_epoch_is_one_pass_over_the_largest_recorded_source_and_keeps_the_shares(folder, size):
    sources = {"real": source(folder, "real", share=0.7), "small": source(folder, "small", share=0.3)}
    sets = [make_set(folder, rank, size, **sources) for rank in range(size)]
    names = names_of(sets[0])
    for epoch in (0, 3):
        plans = [data.plan(epoch, (0.1, 0.2)) for data in sets]
        assert len({len(plan) for plan in plans}) == 1
        rows = list(itertools.chain(*map(rows_of, plans)))
        drawn = Counter(names[row] for row in rows)
        assert all(drawn[f"real{number}"] == 1 for number in range(160))
        heard = seconds_by_source(sets[0], rows, names)
        assert heard["small"] / sum(heard.values()) == pytest.approx(0.3, abs=0.01)


def test_a_pass_over_a_source_loses_no_utterance_in_any_of_many_epochs(folder):
    data = make_set(folder, real=source(folder, "real"))
    for epoch in range(60):
        assert sorted(rows_of(data.plan(epoch))) == list(range(160))


def test_several_processes_get_about_as_much_of_each_source_even_if_an_epoch_has_few_pieces(folder):
    sources = {"real": source(folder, "real", real=False), "small": source(folder, "small")}
    sets = [make_set(folder, rank, 2, shuffle_s=2000.0, **sources) for rank in range(2)]
    names = names_of(sets[0])
    for epoch in range(4):
        plans = [data.plan(epoch) for data in sets]
        heard = [seconds_by_source(sets[0], rows_of(plan), names) for plan in plans]
        for name in sources:
            first, second = (each[name] for each in heard)
            assert first / (first + second) == pytest.approx(0.5, abs=0.15)
        assert sum(not batch for plan in plans for batch in plan) <= 0.2 * len(plans[0])


def test_each_buffer_has_speech_of_all_sources(folder):
    data = make_set(folder, real=source(folder, "real", share=0.7), small=source(folder, "small", share=0.3))
    names = names_of(data)
    plan = data.plan(0)
    assert len(plan.buffers) > 5
    for buffer in plan.buffers[:-1]:
        heard = seconds_by_source(data, rows_of(data.plan_buffer(0, buffer)), names)
        assert heard["small"] / sum(heard.values()) == pytest.approx(0.3, abs=0.15)


def test_a_source_goes_on_where_it_stopped_to_the_utterance_and_repeats_nothing_before_all_was_used(folder):
    sources = {"real": source(folder, "real", share=0.3, real=False), "small": source(folder, "small", share=0.7)}
    data = make_set(folder, shuffle_s=400.0, **sources)  # pieces are much longer than what an epoch takes
    names = names_of(data)
    drawn = Counter()
    for epoch in range(40):
        drawn.update(names[row] for row in rows_of(data.plan(epoch)) if names[row].startswith("real"))
        assert max(drawn.values()) <= min([drawn[f"real{number}"] for number in range(160)]) + 1
    assert min(drawn.values()) >= 2


def test_a_source_that_is_repeated_in_an_epoch_is_distorted_anew(folder):
    data = make_set(folder, real=source(folder, "real", share=0.2), small=source(folder, "small", share=0.8))
    names = names_of(data)
    repeats = Counter((names[e.index], e.repeat) for batch in data.plan(0) for e in batch)
    assert set(repeats.values()) == {1}
    assert max(repeat for _, repeat in repeats) >= 8


def test_the_same_seed_gives_the_same_epochs_and_another_others(folder):
    sources = {"real": source(folder, "real"), "small": source(folder, "small", speaker_cap_s=2.0, share=0.05)}
    first, again, other = (list(make_set(folder, seed=seed, **sources).plan(2)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_rest_of_a_plan_is_its_end(folder):
    sources = {"real": source(folder, "real"), "small": source(folder, "small", until=0.5)}
    data = make_set(folder, **sources)
    plan = data.plan(2, (0.4, 0.6))
    for start in range(0, len(plan) + 1, 7):
        assert list(plan[start:]) == list(plan)[start:]
    assert plan != data.plan(2, (0.5, 0.7))


@pytest.mark.parametrize("size", [1, 2])
def test_no_speaker_exceeds_the_cap_by_more_than_an_utterance_and_all_of_it_is_used_in_time(folder, size):
    sources = {"small": source(folder, "small", share=0.6), "real": source(folder, "real", share=0.4,
                                                                          speaker_cap_s=3.0)}  # fmt: skip
    sets = [make_set(folder, rank, size, **sources) for rank in range(size)]
    names = names_of(sets[0])
    drawn = Counter()
    for epoch in range(12):
        heard = Counter()
        for row in itertools.chain(*(rows_of(data.plan(epoch)) for data in sets)):
            if names[row].startswith("real"):
                heard[int(names[row][4:]) % 10] += sets[0].durations_s[row]
                drawn[names[row]] += 1
        assert max(heard.values()) < 3.0 + 1.4
        assert len(heard) == 10
    assert len(drawn) == 160
    for speaker in range(10):
        counts = [drawn[f"real{number}"] for number in range(speaker, 160, 10)]
        assert max(counts) - min(counts) <= 1


def test_the_first_epochs_have_the_share_of_a_source_of_which_they_take_less_than_an_utterance_a_speaker(folder):
    sources = {"real": source(folder, "real", share=0.98), "small": source(folder, "small", share=0.02,
                                                                          speaker_cap_s=3.0)}  # fmt: skip
    data = make_set(folder, **sources)
    names = names_of(data)
    drawn = [seconds_by_source(data, rows_of(data.plan(epoch)), names)["small"] for epoch in range(10)]
    needed_s = data.mix.seconds(0.0)["small"]
    assert max(drawn) < 2.5 * needed_s
    assert sum(drawn) == pytest.approx(10 * needed_s, rel=0.15)


def test_a_cap_that_nobody_reaches_changes_nothing_of_what_is_used(folder):
    data = make_set(folder, real=source(folder, "real", speaker_cap_s=1000.0))
    for epoch in (0, 7):
        assert sorted(rows_of(data.plan(epoch))) == list(range(160))


def test_a_source_ends_where_it_says_in_the_middle_of_an_epoch(folder):
    sources = {"real": source(folder, "real"), "small": source(folder, "small", real=False, until=0.75)}
    data = make_set(folder, **sources)
    names = names_of(data)
    plan = data.plan(0, (0.0, 1.0))  # the whole training is one epoch
    rows = rows_of(plan)
    last = max(at for at, row in enumerate(rows) if names[row].startswith("small"))
    heard = seconds_by_source(data, rows[:last], names)
    assert heard["real"] / sum(heard.values()) == pytest.approx(0.5, abs=0.05)
    assert sum(data.durations_s[row] for row in rows[last:]) == pytest.approx(
        0.25 * sum(data.durations_s[row] for row in range(160)), abs=8.0
    )
    assert Counter(names[row] for row in rows if names[row].startswith("real")) == {f"real{n}": 1 for n in range(160)}


def test_an_utterance_that_comes_before_and_after_the_end_of_another_source_is_distorted_anew(folder):
    sources = {
        "real": source(folder, "real", share=0.3, real=False, until=0.5),
        "small": source(folder, "small", share=0.1),
        "nameless": source(folder, "nameless", share=0.6),
    }
    data = make_set(folder, **sources)
    examples = Counter((example.index, example.repeat) for batch in data.plan(0, (0.0, 1.0)) for example in batch)
    assert len({index for index, _ in examples}) < len(examples)
    assert set(examples.values()) == {1}


def test_a_share_beyond_what_a_cap_allows_is_refused_with_the_share_that_fits(folder):
    sources = {"real": source(folder, "real"), "small": source(folder, "small", speaker_cap_s=1.0)}
    with pytest.raises(ConfigError, match=r"data\.sources\.small\.share: 50\.0%.*10 speakers.*at most \d\.\d%"):
        make_set(folder, **sources)


def test_a_cap_needs_names_of_speakers(folder):
    with pytest.raises(ConfigError, match=r"nameless\.speaker_cap_s: .*nameless names no speaker of nameless\d+"):
        make_set(folder, nameless=source(folder, "nameless", speaker_cap_s=10.0))


def test_a_source_without_usable_utterances_is_named(folder):
    config = make_config(folder, data={"train": "", "max_utterance_s": 0.1,
                                       "sources": {"real": source(folder, "real")}})  # fmt: skip
    with pytest.raises(ConfigError, match=r"data\.sources\.real: no usable utterance in .*real"):
        describe_sources(config)


def test_an_index_of_an_earlier_version_is_made_anew_where_a_cap_needs_the_speakers(folder, capsys):
    paths = sorted(map(str, (folder / "small").glob("*.tar")))
    for path in paths:
        write_index(index_path(path), dataclasses.replace(find_index(path), speakers=None))
    before = find_index(paths[0])
    assert before.speakers is None
    make_set(folder, real=source(folder, "real"), small=source(folder, "small", share=0.01, speaker_cap_s=3.0))
    assert capsys.readouterr().err.count("indexed, once") == len(paths)
    after = find_index(paths[0])
    assert [after.sums.speakers[at] for at in after.speakers] == [f"small-{int(after.id(row)[5:]) % 10}"
                                                                  for row in range(len(after.places))]  # fmt: skip
    assert after.sums == before.sums  # asr shard goes on where it stopped


def test_sources_of_shards_say_what_they_come_to(folder):
    sources = {"real": source(folder, "real", share=0.8), "small": source(folder, "small", share=0.2, until=0.5)}
    config = make_config(folder, data={"train": "", "sources": sources})
    shown = describe_sources(config)
    assert "one pass over real" in shown
    assert "small: 20.0% of the speech: " in shown
    assert ShardSet([SourceConfig(**sources["real"]).path]).entries[0].pattern == sources["real"]["path"]
