"""Sets of shards: which files a name stands for, what is refused, and the alphabet of all texts."""

import dataclasses

import pytest
from corpus import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import make_shards

from asr.config.sections import TextConfig
from asr.data.manifest import Utterance, read_manifest, statistics, write_manifest
from asr.data.shard_members import ShardError
from asr.data.shard_set import ShardSet, draw_utterances, is_shards, shard_paths
from asr.errors import TextError
from asr.text import tokenizer_files
from asr.text.tokenizer import CharTokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=4)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"), corpus / "train.jsonl")


def test_a_range_a_pattern_and_a_folder_name_the_same_files(folder):
    paths = sorted(str(path) for path in folder.glob("*.tar"))
    last = len(paths) - 1
    assert last > 1
    for pattern in (f"{folder}/{{00000..{last:05d}}}.tar", f"{folder}/*.tar", str(folder)):
        assert shard_paths(pattern) == paths
        assert is_shards(pattern)
    assert shard_paths(f"{folder}/{{00001..00001}}.tar") == paths[1:2]
    assert not is_shards(str(folder / "shards.json"))


def test_ranges_may_have_no_zeros_and_stand_twice(tmp_path):
    for folder in ("8", "9", "10"):
        (tmp_path / folder).mkdir()
        for name in ("0", "1"):
            (tmp_path / folder / f"{name}.tar").touch()
    found = shard_paths(f"{tmp_path}/{{8..10}}/{{0..1}}.tar")
    assert found == [f"{tmp_path}/{folder}/{name}.tar" for folder in (8, 9, 10) for name in (0, 1)]


def test_missing_shards_of_a_range_are_counted_and_named(folder):
    with pytest.raises(ShardError, match=r"expected 100 shards, 9\d are missing: .*000\d+\.tar, …"):
        ShardSet([f"{folder}/{{00000..00099}}.tar"])
    with pytest.raises(ShardError, match="found none"):
        ShardSet([f"{folder}/x*.tar"])
    with pytest.raises(ShardError, match="from the smaller number to the larger"):
        ShardSet([f"{folder}/{{3..1}}.tar"])


def test_the_sums_are_those_of_the_manifest(corpus, folder):
    found, expected = ShardSet([str(folder)]).statistics, statistics(read_manifest(corpus / "train.jsonl"))
    assert dataclasses.replace(found, hours=0) == dataclasses.replace(expected, hours=0)
    assert found.hours == pytest.approx(expected.hours)


def test_an_id_in_two_shards_is_refused_with_both_names(corpus, folder, tmp_path):
    items = read_manifest(corpus / "valid.jsonl")
    twice = read_manifest(corpus / "train.jsonl")[5]
    write_manifest(tmp_path / "more.jsonl", [*items, twice])
    more = make_shards(tmp_path / "more", tmp_path / "more.jsonl")
    with pytest.raises(ShardError, match=rf"more/0.*\.tar: id '{twice.id}' is also in {folder}/0"):
        ShardSet([str(folder), str(more)])
    with pytest.raises(ShardError, match="named twice"):
        ShardSet([str(folder), f"{folder}/00000.tar"])


def test_all_shards_that_were_cut_short_are_named_with_what_is_lost(corpus, tmp_path):
    folder = make_shards(tmp_path, corpus / "train.jsonl")
    for name in ("00000.tar", "00001.tar"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError) as error:
        ShardSet([str(folder)])
    for name in ("00000.tar", "00001.tar"):
        assert f"{folder}/{name}: cut short: expected " in str(error.value)
    assert "utterances are lost; copy the shard again, or leave it out of the range" in str(error.value)


@settings(max_examples=10, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("abÉe\u0301ßΣσς z1'"), min_size=1), min_size=1, max_size=5),
    case=st.sampled_from(["upper", "lower", "keep"]),
    replace=st.sampled_from([{}, {"a": "b"}, {"ab": "z"}, {"1": "one"}]),
)
def test_the_alphabet_is_that_of_the_texts(texts, case, replace, tmp_path_factory, corpus):
    audio = read_manifest(corpus / "valid.jsonl")[0].audio
    config = TextConfig(case=case, replace=replace)
    try:
        expected = tokenizer_files.tokenizer_from_texts(texts, config).symbols
    except TextError:
        return
    folder = tmp_path_factory.mktemp("set")
    write_manifest(folder / "m.jsonl", [Utterance(f"u{n}", audio, text, 1.0) for n, text in enumerate(texts)])
    shards = ShardSet([str(make_shards(folder / "out", folder / "m.jsonl"))])
    assert shards.tokenizer(config).symbols == expected


def test_a_character_that_the_alphabet_lacks_is_found_before_training(folder):
    config = TextConfig()
    shards = ShardSet([str(folder)])
    shards.check_spelling(CharTokenizer(["<blank>", " ", "A", "B", "C"], config))
    with pytest.raises(TextError, match=r"0000\d\.tar: utterance train\d+: 'C'"):
        shards.check_spelling(CharTokenizer(["<blank>", " ", "A", "B"], config))


def test_drawn_utterances_are_within_the_limit_and_from_several_shards(folder):
    shards = ShardSet([str(folder)])
    lengths = {
        entry.first + row: float(value)
        for number, entry in enumerate(shards.entries)
        for row, value in enumerate(shards.index(number).places["duration_s"])
    }
    rows = draw_utterances(shards, 1, 6.0)
    assert len(set(rows)) == len(rows)
    firsts = [entry.first for entry in shards.entries]
    assert len({sum(row >= first for first in firsts) for row in rows}) == len(firsts)
    # The one that reaches a shard's share still counts.
    assert sum(lengths[row] for row in rows) <= 6.0 + len(firsts) * max(lengths.values())
    assert draw_utterances(shards, 1, 1e9) == list(range(len(shards)))
    assert draw_utterances(shards, 1, 6.0) == rows
