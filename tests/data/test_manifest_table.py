"""Large manifests by columns: the same utterances, errors, labels, batches and weights as a list gives."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from corpus import RATE_HZ, make_config, make_corpus, make_utterances
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config.sections import TextConfig
from asr.data import manifest_lines, manifest_table
from asr.data.batches import Dataset
from asr.data.manifest import Utterance, read_manifest, statistics, write_manifest
from asr.data.manifest_table import ManifestTable
from asr.data.sample_cache import SampleCache
from asr.errors import ManifestError, TextError
from asr.models.tensors import load_tensors
from asr.text import tokenizer_files
from asr.text.tokenizer import CharTokenizer, min_frames
from asr.train import acoustic_task


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of few lines, read by this process: what is joined is tested, and no process is started."""
    monkeypatch.setattr(manifest_table, "LINES_PART_BYTES", 300)
    monkeypatch.setattr(manifest_table, "MOST_PROCESSES", 1)


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def record(name, text="AB", **more):
    return {"id": name, "audio": f"wav/{name}.wav", "text": text, "duration_s": 1.5} | more


def test_utterances_and_sums_are_those_of_the_list(tmp_path, small_parts):
    records = [
        record("a", speaker="ann"), record("b", "", speaker="bo"), record("c", " A  B\t", start_s=1.0, end_s=2.5),
        record("d", "É a\u0301", channel=1), record("e", audio="/abs/é.wav"), record("f", duration_s=2),
    ]  # fmt: skip
    path = write(tmp_path / "set.jsonl", records * 1)
    path.write_text("\ufeff" + path.read_text(encoding="utf-8").replace("\n", "\r\n\n"), encoding="utf-8")
    table, expected = ManifestTable(path), read_manifest(path)
    assert list(table) == expected
    assert table[2:4] == expected[2:4]
    assert table.statistics == statistics(expected)
    assert table.speakers == {"ann", "bo"}
    kept = table.keep(np.array([0, 3, 5])).keep(np.array([1, 2]))
    assert list(kept) == [expected[3], expected[5]]
    assert kept.durations_s.tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    "bad", ["{", '{"id": "x"}', '["x"]', '{"id": "x", "audio": "a", "text": "A", "duration_s": -1.0}',
            '{"id": "x", "audio": "a", "text": "A", "duration_s": 1.0, "speeker": "s"}',
            '{"id": "x\\u0007", "audio": "a", "text": "A", "duration_s": 1.0}', '{"id": "x"} {}', "\udcff"],
)  # fmt: skip
def test_errors_name_file_and_line_as_those_of_the_list_do(tmp_path, small_parts, bad):
    lines = [json.dumps(record(f"u{n}")) for n in range(20)]
    lines[13] = bad
    path = tmp_path / "set.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError) as expected:
        read_manifest(path)
    with pytest.raises(ManifestError) as found:
        ManifestTable(path)
    assert str(found.value) == str(expected.value)
    assert f"{path}:14: " in str(found.value)
    assert not (tmp_path / "set.jsonl.index").exists()


def test_an_id_that_comes_twice_is_named_with_both_lines(tmp_path, small_parts, monkeypatch):
    path = write(tmp_path / "set.jsonl", [record(f"u{n % 17}") for n in range(20)])
    with pytest.raises(ManifestError, match=rf"{path}:18: id 'u0' is already used in line 1;"):
        ManifestTable(path)
    # Ids that only have the same checksum are good.
    monkeypatch.setattr(manifest_lines.zlib, "crc32", lambda data: 7)
    assert len(ManifestTable(write(tmp_path / "good.jsonl", [record(f"u{n}") for n in range(20)]))) == 20


def test_the_index_is_kept_and_made_anew_for_a_changed_manifest(tmp_path, small_parts, capsys):
    path = write(tmp_path / "set.jsonl", [record(f"u{n}") for n in range(20)])
    for told in (True, False):
        table = ManifestTable(path)
        assert ("indexed, once" in capsys.readouterr().err) == told
    assert isinstance(table.column("at"), np.memmap)
    write(path, [record(f"v{n}") for n in range(21)])
    assert [item.id for item in ManifestTable(path)][-1] == "v20"
    (tmp_path / "set.jsonl.index").write_bytes(b"x" * 1000)
    assert len(ManifestTable(path)) == 21


def test_a_line_that_changes_after_it_was_read_is_named(tmp_path, small_parts):
    write_manifest(tmp_path / "set.jsonl", make_utterances(tmp_path, 3, "u"))
    table = ManifestTable(tmp_path / "set.jsonl")
    assert table[0].id != table[1].id
    content = (tmp_path / "set.jsonl").read_bytes()
    place = content.index(b'"text": "') + 9
    (tmp_path / "set.jsonl").write_bytes(content[:place] + b"Z" + content[place + 1 :])
    with pytest.raises(ManifestError, match=r"set.jsonl: expected the line at byte 0 as it was .* start again"):
        table[0]


def test_several_processes_give_the_same_columns(tmp_path, monkeypatch):
    path = write(tmp_path / "set.jsonl", [record(f"u{n}", "AB " * (n % 5) + "C") for n in range(200)])
    monkeypatch.setattr(manifest_table, "LINES_PART_BYTES", 4000)
    monkeypatch.setattr(manifest_table.cpus, "available", lambda: 2)
    many = ManifestTable(path)
    (tmp_path / "set.jsonl.index").unlink()
    monkeypatch.setattr(manifest_table, "MOST_PROCESSES", 1)
    one = ManifestTable(path)
    for name in manifest_lines.LINE_COLUMNS:
        np.testing.assert_array_equal(many.column(name), one.column(name))
    assert many.sums == one.sums


_TEXTS = st.lists(st.text(st.sampled_from("aabBB ÉÉe\u0301ßΣσς1'ǰ語語 \u00a0")), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    texts=_TEXTS,
    case=st.sampled_from(["upper", "lower", "keep"]),
    replace=st.sampled_from([{}, {"a": "bb"}, {"ab": "z"}, {"1": " one "}]),
    unknown=st.sampled_from(["error", "space"]),
)
def test_alphabet_and_needed_frames_are_those_of_the_list(tmp_path_factory, texts, case, replace, unknown):
    config = TextConfig(case=case, replace=replace, unknown=unknown)
    path = write(tmp_path_factory.mktemp("set") / "set.jsonl", [record(f"u{n}", text) for n, text in enumerate(texts)])
    table = ManifestTable(path)
    try:
        expected = tokenizer_files.tokenizer_from_texts(texts, config)
    except TextError:
        with pytest.raises(TextError):
            table.tokenizer(config)
        return
    assert table.tokenizer(config).symbols == expected.symbols
    fewer = CharTokenizer([symbol for symbol in expected.symbols if symbol != "B"], config)
    for tokenizer in (expected, fewer):
        message = ""
        try:
            labels = [tokenizer.encode(text, f"u{n}") for n, text in enumerate(texts)]
        except TextError as error:
            message = str(error)
        if message:
            with pytest.raises(TextError) as refused:
                table.labels(tokenizer)
            assert str(refused.value) == message
            continue
        found = table.labels(tokenizer)
        assert list(found) == labels
        assert found.needed_frames.tolist() == list(map(min_frames, labels))


def test_a_set_and_its_plan_are_those_of_the_list(tmp_path, small_parts):
    items = make_utterances(tmp_path, 40, "u")
    items += [dataclasses.replace(items[n], id=f"short{n}", duration_s=0.1) for n in range(5)]
    items += [Utterance("long", items[30].audio, "A", 50.0)]
    write_manifest(tmp_path / "set.jsonl", items)
    config = make_config(tmp_path)
    tokenizer = CharTokenizer(["<blank>", " ", "A", "B", "C"], config.text)
    sets = []
    for utterances in (read_manifest(tmp_path / "set.jsonl"), ManifestTable(tmp_path / "set.jsonl")):
        for training in (True, False):
            cache = SampleCache(RATE_HZ, 5.0)
            sets.append(Dataset(utterances, tokenizer, config, training=training, warn=pytest.fail, cache=cache))
    for one, other in zip(sets[:2], sets[2:], strict=True):
        assert one.left_out == other.left_out
        assert one.left_out
        np.testing.assert_array_equal(one.places, other.places)
        chosen = np.random.default_rng(0).integers(0, len(one.utterances), 30)
        for epoch in (0, 1):
            assert one.plan(epoch) == other.plan(epoch)
            assert one.plan(epoch, chosen) == other.plan(epoch, chosen)
        for part in one.plan(1):
            assert torch.equal(one.batch(part, 1).samples, other.batch(part, 1).samples)
        failures = {one.utterances[int(np.flatnonzero(one.places >= 0)[1])].id: "bad"}
        one.exclude(failures)
        other.exclude(failures)
        assert [item.id for item in one.utterances] == [item.id for item in other.utterances]
        assert one.plan(0) == other.plan(0)


def test_training_from_a_table_gives_the_weights_of_the_list(tmp_path, monkeypatch, capsys):
    corpus = make_corpus(tmp_path / "corpus", train=16, valid=4)
    before = torch.get_num_threads()
    for name, large in (("list", 10**9), ("table", 0)):
        monkeypatch.setattr(manifest_table, "LARGE_MANIFEST", large)
        config = make_config(corpus, train={"output": str(tmp_path / name)})
        acoustic_task.train_acoustic(config)
        assert ("indexed, once" in capsys.readouterr().err) == (name == "table")
    torch.set_num_threads(before)
    found, expected = (load_tensors(tmp_path / name / "model.safetensors")[0] for name in ("table", "list"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    cards = [json.loads((tmp_path / name / "card.json").read_text())["training_data"] for name in ("list", "table")]
    assert cards[0] == cards[1]
