"""Manifests: reading, writing, splitting, and what a bad line says."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.cloud.inputs import write_whole
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import ManifestError

GOOD: dict[str, Any] = {"id": "u1", "audio": "wav/u1.wav", "text": "OH ONE", "duration_s": 1.5}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def utterance(id: str = "u1", **changes: Any) -> Utterance:
    return Utterance(**{**GOOD, "id": id, **changes})


def test_read_resolves_audio_against_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    path = lines(
        tmp_path / "sub" / "train.jsonl",
        {**GOOD, "speaker": "ann"},
        {**GOOD, "id": "u2", "audio": "../b.wav", "text": ""},
        {**GOOD, "id": "u3", "audio": str(tmp_path / "c.wav"), "start_s": 2, "end_s": 3.5},
    )
    expected = [
        Utterance("u1", str(tmp_path / "sub/wav/u1.wav"), "OH ONE", 1.5, "ann"),
        Utterance("u2", str(tmp_path / "b.wav"), "", 1.5),
        Utterance("u3", str(tmp_path / "c.wav"), "OH ONE", 1.5, "", 2, 3.5),
    ]
    assert manifest.read_manifest(path) == expected
    monkeypatch.chdir(tmp_path / "sub")
    assert manifest.read_manifest("train.jsonl") == expected


def test_read_takes_byte_order_mark_blank_lines_and_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    record = json.dumps({**GOOD, "text": "\u2028É"}, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf\r\n" + record + b"\r\n\r\n  \n")
    assert [u.text for u in manifest.read_manifest(path)] == ["\u2028É"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected one JSON object, got '{'"),
        ("[1]", "expected one JSON object"),
        ("u1 OH ONE", "expected one JSON object, got 'u1 OH ONE'"),
        ("[" * 100_000, "expected one JSON object"),
        ({**GOOD, "id": "x", "durations": 1}, "unknown key 'durations' .did you mean 'duration_s'"),
        ({**GOOD, "zzz": 1}, "unknown key 'zzz'; known keys: id, audio, text"),
        ({"id": "x", "audio": "a"}, "missing key text, duration_s"),
        ({**GOOD, "id": ""}, "id: expected a string that is not empty"),
        ({**GOOD, "id": 7}, "id: expected a string, got 7"),
        ({**GOOD, "id": "x", "audio": ""}, "utterance 'x': audio: expected a string that is not empty"),
        ({**GOOD, "id": "x", "audio": None}, "utterance 'x': audio: expected a string, got None"),
        ({**GOOD, "id": "x", "audio": "a\0b"}, "utterance 'x': audio: .*zero byte"),
        ({**GOOD, "id": "x", "text": None}, "utterance 'x': text: expected a string, got None"),
        ({**GOOD, "id": "x", "speaker": 3}, "utterance 'x': speaker: expected a string, got 3"),
        ({**GOOD, "id": "x", "duration_s": 0}, "utterance 'x': duration_s: expected seconds > 0, got 0"),
        ({**GOOD, "id": "x", "duration_s": -1.0}, "duration_s: expected seconds > 0"),
        ({**GOOD, "id": "x", "duration_s": "1.5"}, "duration_s: expected seconds > 0, got '1.5'"),
        ({**GOOD, "id": "x", "duration_s": True}, "duration_s: expected seconds > 0, got True"),
        ({**GOOD, "id": "x", "duration_s": math.nan}, "duration_s: expected seconds > 0, got nan"),
        ({**GOOD, "id": "x", "duration_s": math.inf}, "duration_s: expected seconds > 0, got inf"),
        ({**GOOD, "id": "x", "duration_s": 10**400}, "duration_s: expected seconds > 0"),
        ({**GOOD, "id": "x", "start_s": -0.1}, "start_s: expected seconds >= 0, got -0.1"),
        ({**GOOD, "id": "x", "start_s": 3, "end_s": 2}, "end_s: expected seconds > start_s = 3, got 2"),
        ({**GOOD, "id": "x", "end_s": "2"}, "end_s: expected seconds > start_s = 0, got '2'"),
        ({**GOOD, "id": "x", "start_s": 3, "end_s": 4}, "duration_s: expected end_s - start_s = 1, got 1.5"),
        ({**GOOD}, "id 'u1' is already used in line 1"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = lines(tmp_path / "bad.jsonl", GOOD, "", line)
    with pytest.raises(ManifestError, match=r"bad\.jsonl:3: .*" + message):
        manifest.read_manifest(path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "caf\xe9"}\n')
    with pytest.raises(ManifestError, match=r"latin\.jsonl:2: expected UTF-8"):
        manifest.read_manifest(path)


def test_missing_folder_and_empty_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"absent\.jsonl: cannot read"):
        manifest.read_manifest(tmp_path / "absent.jsonl")
    with pytest.raises(ManifestError, match="cannot read"):
        manifest.read_manifest(tmp_path)
    with pytest.raises(ManifestError, match=r"empty\.jsonl: .*got no utterance"):
        manifest.read_manifest(lines(tmp_path / "empty.jsonl", ""))


@pytest.mark.parametrize(
    "audio", ["../outside.wav", "wav/../../outside.wav", "/etc/hostname", "link/a.wav", "link.wav"]
)
def test_audio_must_stay_inside_the_root(tmp_path: Path, audio: str) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "link.wav").symlink_to(tmp_path / "elsewhere" / "b.wav")
    path = lines(root / "m.jsonl", {**GOOD, "audio": audio})
    with pytest.raises(ManifestError, match=r"m\.jsonl:1: audio .* lies outside the root"):
        manifest.read_manifest(path, root=root)
    assert len(manifest.read_manifest(path)) == 1


def test_a_neighbour_whose_name_starts_like_the_root_is_outside(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    path = lines(tmp_path / "corpus" / "m.jsonl", {**GOOD, "audio": "../corpus2/a.wav"})
    with pytest.raises(ManifestError, match="outside the root"):
        manifest.read_manifest(path, root=tmp_path / "corpus")


def test_links_inside_the_root_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    (root / "real").mkdir(parents=True)
    (root / "link").symlink_to(root / "real")
    (tmp_path / "way-in").symlink_to(root)
    path = lines(root / "m.jsonl", {**GOOD, "audio": "link/a.wav"})
    expected = os.path.realpath(root / "real" / "a.wav")
    assert manifest.read_manifest(path, root=root)[0].audio == expected
    assert manifest.read_manifest(tmp_path / "way-in" / "m.jsonl", root=tmp_path / "way-in")[0].audio == expected


names = st.text("abcXYZ é/._-", min_size=1, max_size=12).filter(lambda s: s.strip("./ "))
seconds = st.floats(0.01, 1e4)
utterances = st.lists(
    st.builds(
        lambda id, audio, text, duration, speaker, start: Utterance(
            id, f"/data/{audio}", text, duration, speaker, *((start, start + duration) if start else ())
        ),
        st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=8),
        names.map(lambda s: os.path.normpath(s).strip("./") or "x"),
        st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20),
        seconds,
        names,
        st.floats(0, 1e3),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda u: u.id,
)


@given(utterances)
def test_read_gives_back_what_write_took(tmp_path_factory: pytest.TempPathFactory, utts: list[Utterance]) -> None:
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    manifest.write_manifest(path, utts)
    assert manifest.read_manifest(path) == utts
    manifest.write_manifest(path, utts, relative_to="/data")
    assert manifest.read_manifest(path) == utts
    assert all(not json.loads(line)["audio"].startswith("/") for line in path.read_text("utf-8").split("\n") if line)


def test_write_makes_audio_relative_where_it_moves_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "out" / "lists" / "m.jsonl"
    utts = [
        utterance("below", audio=str(path.parent / "wav" / "a.wav")),
        utterance("beside", audio="out/wav/a.wav"),
        utterance("outside", audio="elsewhere/a.wav"),
    ]

    def audio() -> list[str]:
        return [json.loads(line)["audio"] for line in path.read_text().splitlines()]

    manifest.write_manifest(path, utts)
    assert audio() == ["wav/a.wav", str(tmp_path / "out/wav/a.wav"), str(tmp_path / "elsewhere/a.wav")]
    manifest.write_manifest(path, utts, relative_to="out")
    assert audio() == ["wav/a.wav", "../wav/a.wav", str(tmp_path / "elsewhere/a.wav")]
    os.rename(tmp_path / "out", tmp_path / "moved")
    assert manifest.read_manifest(tmp_path / "moved/lists/m.jsonl")[1].audio == str(tmp_path / "moved/wav/a.wav")


def test_write_leaves_defaults_out(tmp_path: Path) -> None:
    manifest.write_manifest(tmp_path / "m.jsonl", [utterance(audio=str(tmp_path / "é.wav"))])
    assert (tmp_path / "m.jsonl").read_text("utf-8") == (
        '{"id": "u1", "audio": "é.wav", "text": "OH ONE", "duration_s": 1.5}\n'
    )


def test_interrupted_write_keeps_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    manifest.write_manifest(path, [utterance()])
    before = path.read_bytes()

    def interrupted() -> Iterator[Utterance]:
        yield utterance("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manifest.write_manifest(path, interrupted())
    for bad in ([], [utterance(), utterance()], [utterance(text="\ud800")]):
        with pytest.raises(ManifestError, match=r"m\.jsonl: "):
            manifest.write_manifest(path, bad)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_write_names_a_place_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match=r"file/m\.jsonl: cannot write"):
        manifest.write_manifest(tmp_path / "file" / "m.jsonl", [utterance()])


def test_impossible_utterance_cannot_be_made() -> None:
    with pytest.raises(ManifestError, match="utterance 'u1': duration_s"):
        utterance(duration_s=0.0)
    with pytest.raises(ManifestError, match="utterance 'u1': start_s"):
        replace(utterance(), start_s=math.nan)


def test_split_by_name_and_by_count() -> None:
    utts = [utterance(f"{speaker}{i}", speaker=speaker) for i in range(3) for speaker in "abcde"]
    train, valid = manifest.split_by_speaker(utts, ["b", "d"])
    assert [u.id for u in valid] == ["b0", "d0", "b1", "d1", "b2", "d2"]
    assert [u for u in utts if u not in valid] == train
    train, valid = manifest.split_by_speaker(utts, 2, seed=1)
    assert len({u.speaker for u in valid}) == 2
    assert manifest.split_by_speaker(utts, 2, seed=1) == (train, valid)
    held_out = {tuple(sorted({u.speaker for u in manifest.split_by_speaker(utts, 2, s)[1]})) for s in range(20)}
    assert len(held_out) > 3


@given(st.lists(st.sampled_from("abcdef"), min_size=2).filter(lambda s: len(set(s)) > 1), st.integers(), st.data())
def test_split_is_a_partition_that_shares_no_speaker(speakers: list[str], seed: int, data: st.DataObject) -> None:
    utts = [utterance(f"u{i}", speaker=speaker) for i, speaker in enumerate(speakers)]
    count = data.draw(st.integers(1, len(set(speakers)) - 1))
    train, valid = manifest.split_by_speaker(utts, count, seed)
    assert sorted(u.id for u in train + valid) == sorted(u.id for u in utts)
    assert not {u.speaker for u in train} & {u.speaker for u in valid}
    assert len({u.speaker for u in valid}) == count
    again = manifest.split_by_speaker(utts[::-1], count, seed)
    assert {u.speaker for u in again[1]} == {u.speaker for u in valid}


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (0, "expected 1 to 2 of 3, got 0"),
        (3, "expected 1 to 2 of 3, got 3"),
        ([], "got 0"),
        (["ann", "bob", "cleo"], "got 3"),
        (["anne"], r"'anne' is not in the manifest \(did you mean 'ann'"),
    ],
)
def test_split_that_cannot_be(held_out: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        manifest.split_by_speaker([utterance(s, speaker=s) for s in ("ann", "bob", "cleo")], held_out)


def test_split_needs_speakers() -> None:
    with pytest.raises(ManifestError, match="1 of 2 utterances have no speaker, the first is 'u2'"):
        manifest.split_by_speaker([utterance("u1", speaker="a"), utterance("u2")], 1)


def test_statistics() -> None:
    utts = [
        utterance("a", duration_s=1800.0, speaker="x", text="OH  ONE"),
        utterance("b", duration_s=5400.0, speaker="x", text=""),
        utterance("c", duration_s=1800.0),
    ]
    assert manifest.statistics(utts) == manifest.Statistics(3, 2.5, 1, 4, 12)
    assert manifest.statistics([]) == manifest.Statistics(0, 0.0, 0, 0, 0)


@pytest.mark.parametrize("key", ["id", "audio", "speaker"])
@pytest.mark.parametrize("char", ["\n", "\t", "\x1b", "\x85", "\u2028", "\u2029", "\ud800"])
def test_names_have_no_control_characters(tmp_path: Path, key: str, char: str) -> None:
    """A newline in a path would be a line of its own in Kaldi's wav.scp, where lines can be commands."""
    path = lines(tmp_path / "m.jsonl", {**GOOD, key: f"a{char}touch x |"})
    with pytest.raises(ManifestError, match=rf"m.jsonl:1: .*{key}: expected no control character"):
        manifest.read_manifest(path)


def test_tabs_and_newlines_in_texts_become_spaces(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", {**GOOD, "text": "A\tB\nC\u200dD"})
    assert manifest.read_manifest(path)[0].text == "A B C\u200dD"


def test_a_channel_is_kept(tmp_path: Path) -> None:
    manifest.write_manifest(tmp_path / "m.jsonl", [utterance("a", channel=1), utterance("b")])
    assert [u.channel for u in manifest.read_manifest(tmp_path / "m.jsonl")] == [1, None]


@pytest.mark.parametrize("channel", [-1, 1.0, True, "1", 10**6])
def test_a_channel_is_a_whole_number(tmp_path: Path, channel: Any) -> None:
    path = lines(tmp_path / "m.jsonl", {**GOOD, "channel": channel})
    with pytest.raises(ManifestError, match="channel: expected a whole number from 0"):
        manifest.read_manifest(path)


@pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x7f", "\x9b"])
def test_texts_have_no_other_control_characters(tmp_path: Path, char: str) -> None:
    path = lines(tmp_path / "m.jsonl", {**GOOD, "text": f"A{char}B"})
    with pytest.raises(ManifestError, match="text: expected no control character but tab and newline"):
        manifest.read_manifest(path)


def test_a_manifest_at_a_url_names_no_file_of_this_machine():
    line = json.dumps({"id": "a", "audio": "/home/me/a.wav", "text": "A", "duration_s": 1.0})
    write_whole("memory://strangers/set.jsonl", line.encode())
    with pytest.raises(ManifestError, match=r"set.jsonl:1: audio '/home/me/a.wav': expected a URL or a relative path"):
        manifest.read_manifest("memory://strangers/set.jsonl")
