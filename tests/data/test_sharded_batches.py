"""Batches from shards: each utterance once an epoch, over all processes, with the sound that the manifest gives."""

import dataclasses
import itertools

import numpy as np
import pytest
import soundfile
import torch
from corpus import RATE_HZ, make_config, make_corpus, tones
from shards import make_shards, read_tar, write_tar

from asr.audio.read import load_audio
from asr.data.batch_maker import BatchMaker
from asr.data.batches import Dataset
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.sample_cache import SampleCache
from asr.data.shard_set import ShardSet
from asr.data.shard_shares import BUFFER_PIECES
from asr.data.sharded_batches import ShardedDataset
from asr.text.tokenizer import CharTokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), train=60, valid=4)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"), corpus / "train.jsonl", 40_000)


def sharded(folder, config, rank=0, size=1, warn=pytest.fail):
    shards = ShardSet([str(folder)])
    tokenizer = CharTokenizer(["<blank>", " ", "A", "B", "C"], config.text)
    return ShardedDataset(shards, tokenizer, config, warn=warn, cache=SampleCache(RATE_HZ, 0), rank=rank, size=size)


def rows_of(plan):
    return [example.index for part in plan for example in part]


@pytest.fixture
def config(corpus):
    return make_config(corpus, data={"shuffle_s": 8.0, "batch_s": 3.0})


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_an_epoch_has_each_utterance_once_over_all_processes(folder, config, size):
    plans = [sharded(folder, config, rank, size).plan(0) for rank in range(size)]
    assert sorted(itertools.chain(*map(rows_of, plans))) == list(range(60))
    assert len({len(plan) for plan in plans}) == 1
    # Also where there are fewer shards than processes.
    assert all(rows_of(plan) for plan in plans)


def test_batches_hold_no_more_than_their_share_of_padded_seconds(folder, config):
    for size in (1, 2):
        data = sharded(folder, config, 0, size)
        for part in data.plan(0):
            longest = max((data.durations_s[e.index] / e.speed for e in part), default=0)
            assert longest * len(part) <= config.data.seconds_per_batch / size or len(part) == 1


def test_epochs_and_seeds_differ_and_nothing_else_does(folder, config):
    data = sharded(folder, config)
    plans = [list(data.plan(epoch)) for epoch in (0, 1)]
    assert plans[0] != plans[1]
    again = sharded(folder, config)
    assert [list(again.plan(epoch)) for epoch in (1, 0)] == plans[::-1]
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=5))
    assert list(sharded(folder, other).plan(0)) != plans[0]


def test_the_rest_of_a_plan_is_its_end(folder, config):
    data = sharded(folder, config)
    plan = data.plan(2)
    for start in range(len(plan) + 1):
        rest = plan[start:]
        assert len(rest) == len(plan) - start
        assert list(rest) == list(plan)[start:]
        assert rest[1:] == plan[start + 1 :]
    assert plan != data.plan(1)


def test_a_buffer_mixes_pieces_of_several_shards(folder, config):
    data = sharded(folder, config)
    plan = data.plan(0)
    assert len(plan.buffers) > 2
    for buffer in plan.buffers[:-1]:
        assert len(buffer.pieces) >= BUFFER_PIECES
        rows = np.array(rows_of(data.plan_buffer(0, buffer)))
        assert data.shards.entries[-1].first > 0
        seconds = sum(data.durations_s[row] for row in rows)
        assert 0.5 * config.data.shuffle_s < seconds < 1.5 * config.data.shuffle_s


def test_utterances_that_cannot_be_used_are_counted_and_left_out(folder, config):
    limit_s = 0.6
    few = dataclasses.replace(config, data=dataclasses.replace(config.data, max_utterance_s=limit_s))
    data = sharded(folder, few)
    usable = [row for row in range(60) if data.durations_s[row] <= limit_s]
    assert 0 < len(usable) < 60
    assert sorted(rows_of(data.plan(0))) == usable
    assert data.unusable == 60 - len(usable)
    assert "s)" in data.first_unusable
    # Slowing down makes none too long.
    assert all(data.durations_s[e.index] / e.speed <= limit_s for part in data.plan(0) for e in part)


def test_a_batch_has_the_sound_and_the_label_of_the_manifest(corpus, folder, config):
    data = sharded(folder, config)
    items = {item.id: item for item in read_manifest(corpus / "train.jsonl")}
    ids = []
    for part in data.plan(0):
        batch = data.received(data.maker.make(data.order(part, 0, "plain")))
        labels = torch.split(batch.tokens, batch.token_lengths.tolist())
        plain = [e for e in range(len(part)) if part[e].speed == 1]
        for row in plain:
            item = items[batch.ids[row]]
            expected = load_audio(item.audio, RATE_HZ)
            assert torch.equal(batch.samples[row, : len(expected)], torch.from_numpy(expected))
            assert labels[row].tolist() == data.tokenizer.encode(item.text)
        ids += batch.ids
    assert sorted(ids) == sorted(items)


def test_shards_and_manifests_are_distorted_alike(corpus, folder, config):
    """The same row, speed and epoch give the same batch, masks, colours and other voices included."""
    config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, babble_prob=1.0))
    data = sharded(folder, config)
    by_id = {item.id: item for item in read_manifest(corpus / "train.jsonl")}
    in_order = [by_id[item.id] for item in data.shards.texts()]
    plain = Dataset(in_order, data.tokenizer, config, training=True, warn=pytest.fail)
    for part in list(data.plan(3))[:4]:
        found, expected = data.received(data.maker.make(data.order(part, 3))), plain.batch(part, 3)
        assert found.ids == expected.ids
        for name in ("samples", "lengths", "tokens", "colours"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert all(map(torch.equal, found.masks, expected.masks))


def test_audio_that_does_not_decode_is_left_out_of_its_batch(folder, config, tmp_path):
    members = read_tar(folder / "00000.tar")
    bad = next(name for name in members if name.endswith(".wav"))
    write_tar(tmp_path / "a.tar", {**members, bad: members[bad][:40] + b"no sound"})
    told = []
    data = sharded(tmp_path / "a.tar", config, warn=told.append)
    batches = [data.received(data.maker.make(data.order(part, 0))) for part in data.plan(0)]
    ids = [name for batch in batches if batch is not None for name in batch.ids]
    assert len(ids) == len(members) // 2 - 1
    assert len(told) == 1
    assert told[0].startswith(f"{bad.removesuffix('.wav')}: left out of this batch: {tmp_path / 'a.tar'}: {bad}")


def test_a_label_that_only_just_fits_is_not_played_faster(config, tmp_path, monkeypatch):
    # At double speed a letter of 0.1 s has 5 frames, 1.25 after subsampling: "AAABBB" needs a blank between equal ones.
    texts = {"tight": "AAABBB", "fits": "ABCABC"}
    for name, text in texts.items():
        soundfile.write(tmp_path / f"{name}.wav", tones(text), RATE_HZ)
    items = [Utterance(name, str(tmp_path / f"{name}.wav"), text, 0.7) for name, text in texts.items()]
    write_manifest(tmp_path / "set.jsonl", items)
    fast = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, subsampling=4),
        augment=dataclasses.replace(config.augment, speeds=(2.0,)),
    )
    data = sharded(make_shards(tmp_path / "out", tmp_path / "set.jsonl"), fast)
    played, prepared = {}, BatchMaker._prepared

    def play(self, row, order, kept):
        played[row.id] = row.speed
        return prepared(self, row, order, kept)

    monkeypatch.setattr(BatchMaker, "_prepared", play)
    for part in data.plan(0):
        data.received(data.maker.make(data.order(part, 0)))
    assert played == {"tight": 1.0, "fits": 2.0}
