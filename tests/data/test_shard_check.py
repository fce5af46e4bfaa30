"""asr check of shards: the findings of the manifest that they were made of, and those that only shards can have."""

from collections import Counter

import numpy as np
import pytest
import soundfile
from corpus import RATE_HZ, make_corpus, make_utterances
from shards import make_shards, read_tar, write_tar

from asr.cli.main import run_command
from asr.data.manifest import Utterance, write_manifest
from asr.data.preflight import check_manifest
from asr.data.shard_check import check_shards


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Utterances of which some are silent, have a wrong duration, or the samples of another."""
    folder = tmp_path_factory.mktemp("faulty")
    items = make_utterances(folder, 12, "u")
    soundfile.write(folder / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    items += [
        Utterance("silent", str(folder / "silent.wav"), "A B", 1.0),
        Utterance("late", items[0].audio, "A", 2.5),
        Utterance("part", items[1].audio, "A", 0.2, start_s=0.1, end_s=0.3),
    ]
    write_manifest(folder / "set.jsonl", items)
    return folder / "set.jsonl"


def test_findings_are_those_of_the_manifest(faulty, tmp_path):
    report = check_shards(str(make_shards(tmp_path / "one", faulty, 10**8)))
    expected = check_manifest(faulty)
    assert Counter(each.kind for each in report.findings) == Counter(each.kind for each in expected.findings)
    assert {each.id for each in report.findings} >= {"silent", "late"}
    assert all("00000.tar: " in each.message for each in report.findings)
    assert report.characters == expected.characters
    assert report.rates_hz == expected.rates_hz
    assert report.audio_s == pytest.approx(expected.audio_s)
    assert sorted(report.series["duration_s"]) == pytest.approx(sorted(expected.series["duration_s"]))


def test_findings_in_a_shard_name_the_place_in_it_and_no_line(faulty, tmp_path, capsys):
    folder = make_shards(tmp_path / "one", faulty, 10**8, seed=None)
    assert run_command(["check", str(folder)]) == 1
    told = capsys.readouterr().out
    assert "utterance 13, silent: 00000.tar: no sample is further" in told
    assert "utterance 14, late: 00000.tar: the same samples as utterance 1, u0" in told
    assert "line" not in told.replace("outlying", "")


def test_every_shard_is_checked(faulty, tmp_path):
    folder = make_shards(tmp_path / "many", faulty, 20_000)
    report = check_shards(str(folder))
    assert len(list(folder.glob("*.tar"))) > 3
    assert report.utterances == 15
    assert {"silent", "late"} <= {each.id for each in report.findings}


def test_members_without_a_text_and_broken_audio_are_errors(faulty, tmp_path, capsys):
    members = read_tar(make_shards(tmp_path / "one", faulty, 10**8) / "00000.tar")
    members.pop("u3.json")
    members["u4.wav"] = members["u4.wav"][:40] + b"no sound"
    path = write_tar(tmp_path / "a.tar", members)
    assert run_command(["check", str(path)]) == 1
    told = capsys.readouterr().out
    assert "members that are no utterances: 1" in told
    assert "\n  u3: a.tar: expected its text in u3.json (key text) or in u3.txt" in told
    assert "unreadable audio: 1" in told
    assert "u4: a.tar: " in told


def test_a_configuration_is_checked_with_its_shards_and_their_alphabet(faulty, tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus", train=8, valid=3)
    folder = make_shards(tmp_path / "shards", corpus / "train.jsonl", 20_000)
    (tmp_path / "train.yaml").write_text(f"data: {{train: {folder}, valid: {corpus / 'valid.jsonl'}}}\n"
                                         "features: {sample_rate_hz: 8000, high_hz: 4000}\n")  # fmt: skip
    run_command(["check", str(tmp_path / "train.yaml")])
    told = capsys.readouterr().out
    assert f"{folder}: 8 utterances" in told
    assert f"{corpus / 'valid.jsonl'}: 3 utterances" in told
    assert "unknown characters" not in told
