"""Tar files of other programs: what their members are, what is damaged, and where their index is kept."""

import io
import json

import pytest
import soundfile
from corpus import RATE_HZ, tones
from shards import write_tar

from asr.data.shard_index import find_index, index_path, make_index
from asr.data.shard_members import ShardError, ShardReader, read_shard_texts
from asr.data.shard_set import ShardSet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def wav(text="AB"):
    file = io.BytesIO()
    soundfile.write(file, tones(text), RATE_HZ, format="WAV")
    return file.getvalue()


def foreign(count=3):
    members = {}
    for number in range(count):
        members |= {f"x/{number}.wav": wav(), f"x/{number}.txt": b" AB\n"}
    return members


def test_audio_with_txt_or_json_is_an_utterance_and_its_length_is_measured(tmp_path):
    path = write_tar(tmp_path / "a.tar", {
        "x/one.wav": wav("AB"), "x/one.txt": b"AB\n", "x/one.cls": b"7",
        "two.json": json.dumps({"transcript": "ABC", "speaker": "ann", "id": 7}).encode(), "two.wav": wav("ABC"),
        "three.wav": wav("A"), "three.json": json.dumps({"text": "A", "id": "3", "duration_s": 0.5}).encode(),
    })  # fmt: skip
    index = make_index(str(path))
    found = [(item.id, item.text, item.speaker, item.duration_s) for item in read_shard_texts(index)]
    assert found == [("x/one", "AB", "", 0.3), ("two", "ABC", "ann", 0.4), ("3", "A", "", 0.5)]
    assert index.sums.seconds == pytest.approx(1.2)
    assert index.sums.inventory == {"A": 3, "B": 2, "C": 1}
    assert index.sums.speakers == ["ann"]
    item, sound = ShardReader().read(index.member(1))
    assert sound.getvalue() == wav("ABC")
    assert item.audio == f"{path}: two.wav"


def test_members_that_are_no_utterance_are_named_and_the_others_stay(tmp_path):
    path = write_tar(tmp_path / "a.tar", {
        "silent.txt": b"A", "mute.wav": wav(), "bad.wav": wav(), "bad.json": b"[1]", "good.wav": wav(),
        "good.txt": b"A", "broken.wav": b"RIFF", "broken.txt": b"A", "latin.wav": wav(), "latin.txt": b"\xe9",
    })  # fmt: skip
    index = make_index(str(path))
    assert [item.id for item in read_shard_texts(index)] == ["good"]
    reasons = dict(index.sums.skipped)
    assert "expected an audio member" in reasons["silent"]
    assert "mute.json (key text) or in mute.txt" in reasons["mute"]
    assert "expected a JSON object" in reasons["bad"]
    assert "UTF-8" in reasons["latin"]
    assert "broken.wav" in reasons["broken"]


def test_the_index_is_kept_beside_and_made_anew_for_a_changed_file(tmp_path, capsys):
    path = write_tar(tmp_path / "a.tar", foreign(3))
    assert find_index(str(path)).sums.utterances == 3
    assert "indexed, once" in capsys.readouterr().err
    assert find_index(str(path)).sums.utterances == 3
    assert capsys.readouterr().err == ""
    write_tar(path, foreign(4))
    assert find_index(str(path)).sums.utterances == 4
    assert "indexed, once" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(tmp_path, capsys, monkeypatch):
    path = write_tar(tmp_path / "set" / "a.tar", foreign())
    beside = index_path(str(path))
    (tmp_path / "set" / "a.tar.index").mkdir()  # cannot be replaced by a file, whoever runs the tests
    for told in (True, False):
        assert find_index(str(path)).sums.utterances == 3
        assert (str(tmp_path / "cache") in capsys.readouterr().err) == told
    assert beside not in [str(found) for found in (tmp_path / "cache").rglob("*")]


@pytest.mark.parametrize("keep", [100, 600, 20_000, -1024, -10_241])
def test_a_tar_file_that_was_cut_short_is_named(tmp_path, keep):
    path = write_tar(tmp_path / "a.tar", foreign(20))
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep > 0 else data.rstrip(b"\0")[: keep + 1024])
    with pytest.raises(ShardError, match=r"a\.tar: cut short") as error:
        ShardSet([str(path)])
    assert "copy the shard again" in str(error.value)


def test_what_is_no_tar_file_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(ShardError, match="not an uncompressed tar file"):
        make_index(str(tmp_path / "a.tar"))


def test_an_id_twice_in_a_shard_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {
        "one.wav": wav(), "one.json": b'{"text": "A", "id": "x"}', "two.wav": wav(),
        "two.json": b'{"text": "A", "id": "x"}',
    })  # fmt: skip
    with pytest.raises(ShardError, match="id 'x' comes twice"):
        make_index(str(path))


def test_a_shard_that_was_replaced_under_its_index_is_noticed(tmp_path):
    one = write_tar(tmp_path / "a.tar", {"one.wav": wav(), "one.json": b'{"text": "A", "id": "one"}'})
    index = make_index(str(one))
    write_tar(one, {"two.wav": wav(), "two.json": b'{"text": "A", "id": "two"}'})
    with pytest.raises(ShardError, match="changed since its index was made: expected one, got two"):
        ShardReader().read(index.member(0))


@pytest.mark.parametrize("text", [b"A LONGER TEXT", b"B" * 600], ids=["in its place", "elsewhere"])
def test_a_shard_whose_texts_were_corrected_gives_no_parts_of_the_new_ones(tmp_path, text):
    members = {"one.txt": b"A TEXT", "one.wav": wav(), "two.txt": b"OTHER", "two.wav": wav()}
    shard = write_tar(tmp_path / "a.tar", members)
    index = make_index(str(shard))
    write_tar(shard, members | {"one.txt": text})
    with pytest.raises(ShardError, match=r"a\.tar: changed since its index was made, at one"):
        ShardReader().read(index.member(0))
