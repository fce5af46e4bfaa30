"""``asr init``: folders of many layouts, what is made of them, and that it trains; export to other toolkits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus import tones

from asr.cli import main
from asr.config import sections
from asr.corpora import detection, kaldi_nemo, layouts, tabular, turns
from asr.corpora.project import Project, choose_model_size, fitting_model, speech_advice, start_project
from asr.corpora.turns import Turn
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, ManifestError
from asr.models import bundled, model_directory
from asr.models.description import read_description

WORDS = ("AB C", "CA", "B AC", "ABC", "C B A", "BA CA", "AC", "CB B", "A", "BB C")


def record(path: Path, text: str = "AB C", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tones(text, seed), 8000)


def speak(folder: Path, speakers: int = 6, each: int = 3) -> list[tuple[Path, str, str]]:
    """Recordings in a folder for each speaker: path, text, speaker."""
    made = []
    for s in range(speakers):
        for n in range(each):
            text = WORDS[(s * each + n) % len(WORDS)]
            path = folder / f"spk{s}" / f"s{s}-{n}.wav"
            record(path, text, s)
            made.append((path, text, f"spk{s}"))
    return made


def by_id(found: detection.Detection) -> dict[str, tuple[str, str]]:
    return {item.id: (item.text, item.speaker) for item in found.items}


def test_transcripts_beside_recordings(tmp_path: Path) -> None:
    for index, (path, text, _) in enumerate(speak(tmp_path)):
        path.with_suffix(".lab" if index % 2 else ".txt").write_text(f"{text}\n")
    record(tmp_path / "spk0" / "alone.wav")
    (tmp_path / "spk0" / "s0-1.lab").write_text(" \n")
    found = detection.detect_layout(tmp_path)
    assert "6 folders are taken for speakers" in found.remarks
    assert by_id(found)["spk1-s1-0"] == (WORDS[3], "spk1")
    assert found.left_out == {
        str(tmp_path / "spk0" / "alone.wav"): "no transcript",
        "spk0-s0-1": "its transcript is empty",
    }
    assert len(found.items) == 17


def test_transcripts_in_another_folder(tmp_path: Path) -> None:
    """As in VCTK; a name that is there twice is not guessed at."""
    for name in ("a", "b", "c"):
        record(tmp_path / "wav" / f"{name}.wav")
        (tmp_path / "txt").mkdir(exist_ok=True)
        (tmp_path / "txt" / f"{name}.txt").write_text("AB")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "c.txt").write_text("CC")
    found = detection.detect_layout(tmp_path)
    assert sorted(by_id(found)) == ["wav-a", "wav-b"]
    assert found.left_out == {str(tmp_path / "wav" / "c.wav"): "no transcript"}


def test_folders_that_name_the_sets(tmp_path: Path) -> None:
    for name in ("train", "dev", "test-clean"):
        for path, text, _ in speak(tmp_path / name, speakers=2):
            path.with_suffix(".txt").write_text(text)
    found = detection.detect_layout(tmp_path)
    assert {name: len(items) for name, items in found.sets.items()} == {"train": 6, "valid": 6, "test": 6}
    assert {item.speaker for item in found.sets["valid"]} == {"spk0", "spk1"}


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize(
    "columns",
    [("path", "sentence", "client_id"), ("wav_filename", "transcript", "speaker"), ("Audio File", "Text", "spk")],
)
def test_tables_with_any_sensible_columns(tmp_path: Path, separator: str, columns: tuple[str, str, str]) -> None:
    rows = [separator.join(("number", *columns))]
    for index, (path, text, speaker) in enumerate(speak(tmp_path)):
        rows.append(separator.join((str(index), str(path.relative_to(tmp_path)), text, speaker)))
    suffix = ".tsv" if separator == "\t" else ".csv"
    (tmp_path / f"data{suffix}").write_text("\n".join(rows) + "\n")
    found = detection.detect_layout(tmp_path)
    assert len(found.items) == 18
    assert by_id(found)["spk1-s1-0"] == (WORDS[3], "spk1")
    assert columns[1] in found.remarks[0]


def test_a_table_with_segments_and_sets(tmp_path: Path) -> None:
    record(tmp_path / "long.wav", "ABC ABC")
    rows = [{"audio": "long.wav", "text": "ABC", "start": at, "end": at + 0.3, "split": s, "speaker": "x"}
            for at, s in ((0.0, "train"), (0.4, "validation"))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = detection.detect_layout(tmp_path)
    (first,), (second,) = found.sets["train"], found.sets["valid"]
    assert (first.start_s, first.end_s, second.start_s) == (0.0, 0.3, 0.4)
    assert first.id != second.id


def voices(folder: Path, table: str, *clips: str, sentence: str = 'AB "C') -> None:
    """A table of Common Voice."""
    rows = "".join(f"me{Path(clip).stem}\t{clip}\t{sentence}\t\n" for clip in clips)
    (folder / table).write_text(f"client_id\tpath\tsentence\tage\n{rows}")
    for clip in clips:
        record(folder / "clips" / clip)


def test_common_voice(tmp_path: Path) -> None:
    """Train, dev and test; ``validated`` has the same clips again, and those of no set were not agreed on."""
    for name in ("train", "dev", "test"):
        voices(tmp_path, f"{name}.tsv", f"{name}.wav")
    voices(tmp_path, "validated.tsv", "train.wav", "dev.wav", "test.wav", "more.wav")
    voices(tmp_path, "invalidated.tsv", "bad.wav")
    voices(tmp_path, "other.tsv", "unheard.wav")
    (tmp_path / "reported.tsv").write_text("sentence\treason\nx\ty\n")
    found = detection.detect_layout(tmp_path)
    assert {name: [(item.id, item.speaker) for item in items] for name, items in found.sets.items()} == {
        "train": [("train", "metrain")], "valid": [("dev", "medev")], "test": [("test", "metest")],
    }  # fmt: skip
    assert found.items[0].text == 'AB "C'
    (remark,) = found.remarks
    assert "train.tsv, dev.tsv, test.tsv is used, invalidated.tsv, other.tsv, reported.tsv, validated.tsv" in remark
    assert remark.endswith(" not (3 more clips)")
    assert found.left_out == {}


def test_common_voice_names_clips_of_no_table(tmp_path: Path) -> None:
    voices(tmp_path, "train.tsv", "a.wav")
    voices(tmp_path, "other.tsv", "b.wav")
    record(tmp_path / "clips" / "c.wav")
    assert detection.detect_layout(tmp_path).left_out == {str(tmp_path / "clips" / "c.wav"): "no transcript"}


def test_common_voice_whose_training_table_is_broken(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        voices(tmp_path, f"{name}.tsv", f"{name}.wav")
    (tmp_path / "train.tsv").write_bytes(b"client_id\tpath\tsentence\n\xff")
    with pytest.raises(ManifestError, match=r"got only test, valid; of \d left out the first, .*train\.tsv: .*0xff"):
        start_project(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_broken_row_is_left_out_by_line_and_the_others_are_used(tmp_path: Path, name: str) -> None:
    record(tmp_path / "a.wav")
    table = "path,text\na.wav,AB\na.wav,A, B\na.wav\na.wav,CA\n"
    (tmp_path / name).write_text(table.replace(",", "\t") if name == "t.tsv" else table)
    found = detection.detect_layout(tmp_path)
    assert [item.text for item in found.items] == ["AB", "CA"]
    path = tmp_path / name
    assert found.left_out[f"{path}:4"].startswith("expected 2 columns, as the first line has, got 1")
    assert found.left_out[f"{path}:3"].startswith("expected 2 columns, as the first line has, got 3")
    assert ("quotation marks" in found.left_out[f"{path}:3"]) == (name == "t.csv")


def test_common_voice_without_sets(tmp_path: Path) -> None:
    """A clip that is there twice is one utterance."""
    voices(tmp_path, "validated.tsv", "a.wav", "b.wav", "a.wav")
    voices(tmp_path, "invalidated.tsv", "bad.wav")
    found = detection.detect_layout(tmp_path)
    assert [item.id for item in found.items] == ["a", "b"]
    assert "is there twice with the same words" in found.left_out["a (again)"]


def test_common_voice_of_what_was_voted_down_only(tmp_path: Path) -> None:
    voices(tmp_path, "invalidated.tsv", "bad.wav")
    with pytest.raises(ManifestError, match=r"invalidated\.tsv: clips of Common Voice that listeners did not agree on"):
        detection.detect_layout(tmp_path)


def test_rows_that_are_there_twice(tmp_path: Path) -> None:
    """The same words again are left out by name; other words of the same audio are another utterance."""
    record(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text("path,text\na.wav,AB\na.wav,AB\na.wav,CA\n")
    found = detection.detect_layout(tmp_path)
    assert [(item.id, item.text) for item in found.items] == [("a", "AB"), ("a-2", "CA")]
    assert list(found.left_out) == ["a (again)"]


def test_recordings_whose_names_differ_by_a_space(tmp_path: Path) -> None:
    for name in ("a b", "a_b"):
        record(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text(name.upper())
    assert sorted(by_id(detection.detect_layout(tmp_path))) == ["a_b", "a_b-2"]


def test_nemo_audio_filename(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    row = {"audio_filename": "a.wav", "duration": 1.0, "text": "ab"}
    (tmp_path / "manifest.json").write_text(json.dumps(row) + "\n")
    assert by_id(detection.detect_layout(tmp_path)) == {"a": ("ab", "")}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_transcripts_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes("schöne\r\nGrüße\r\n".encode(encoding))
    assert by_id(detection.detect_layout(tmp_path)) == {"a": ("schöne Grüße", "")}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_tables_with_a_byte_order_mark(tmp_path: Path, encoding: str, name: str) -> None:
    record(tmp_path / "a.wav")
    body = "path,text\na.wav,Grüße\n" if name == "t.csv" else '{"path": "a.wav", "text": "Grüße"}\n'
    (tmp_path / name).write_bytes(body.encode(encoding))
    assert by_id(detection.detect_layout(tmp_path)) == {"a": ("Grüße", "")}


def test_transcripts_that_are_not_read_are_named(tmp_path: Path) -> None:
    """Latin-1 in a text file, RTF under either ending."""
    for name in ("a", "b", "c", "d"):
        record(tmp_path / f"{name}.wav")
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "b.txt").write_bytes(b"A\nsch\xf6n")
    (tmp_path / "c.txt").write_bytes(rb"{\rtf1\ansi A}")
    (tmp_path / "d.rtf").write_bytes(rb"{\rtf1\ansi A}")
    found = detection.detect_layout(tmp_path)
    assert list(by_id(found)) == ["a"]
    reasons = {Path(name).name: reason for name, reason in found.left_out.items()}
    assert "b.txt:2: expected UTF-8, got the byte 0xf6; convert" in reasons["b.wav"]
    assert "expected plain text, got RTF" in reasons["c.wav"]
    assert reasons["d.wav"] == "no transcript; d.rtf is not read, save it as plain text in UTF-8"


def test_where_nothing_can_be_used_the_first_reason_is_given(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(b"sch\xf6n")
    with pytest.raises(ManifestError, match=r"could not be used, the first: .*a\.wav: .*expected UTF-8"):
        detection.detect_layout(tmp_path)


def test_pipes_and_names_that_are_no_text_are_left_out_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(tmp_path / f"{name}.wav")
    (tmp_path / "a.txt").write_text("A")
    os.mkfifo(tmp_path / "b.txt")
    os.mkfifo(tmp_path / "c.csv")
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    Path(bad).write_bytes((tmp_path / "a.wav").read_bytes())
    project = start_project(tmp_path, tmp_path / "out")
    assert "expected a file, got a pipe" in project.left_out[str(tmp_path / "b.txt")]
    assert "expected a file, got a pipe" in project.left_out[str(tmp_path / "c.csv")]
    assert "expected a file name in UTF-8" in project.left_out[bad]
    assert "caf\\udce9.wav" in (tmp_path / "out" / "left_out.txt").read_text()


def test_a_newline_in_a_name_is_left_out_by_name_on_one_line(tmp_path: Path) -> None:
    for name in ("a", "b\nc"):
        record(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text("A")
    start_project(tmp_path, tmp_path / "out")
    (line,) = (tmp_path / "out" / "left_out.txt").read_text().splitlines()
    assert line.startswith("b\\nc: ")
    assert "expected no control character" in line


def test_a_folder_that_cannot_be_read_is_left_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as lost+found at the top of a disk."""
    record(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "lost+found").mkdir()
    listed = os.scandir

    def scandir(path: object) -> object:
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    found = detection.detect_layout(tmp_path)
    assert list(by_id(found)) == ["a"]
    assert found.left_out == {str(tmp_path / "lost+found"): "a folder that cannot be read: Permission denied"}


@pytest.mark.parametrize("suffix", [".avi", ".wmv", ".m4v", ".flv"])
def test_films_are_looked_at_and_without_pyav_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("asr.audio.pyav.pyav_is_installed", lambda: False)
    record(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("A")
    for name in ("b", "c"):
        (tmp_path / f"{name}{suffix}").write_bytes(b"RIFF\x24\0\0\0AVI LIST" + bytes(100))
    (tmp_path / "b.txt").write_text("B")
    project = start_project(tmp_path, tmp_path / "out")
    assert set(project.left_out) == {"b", str(tmp_path / f"c{suffix}")}


RTTM = """;; a comment
SPEAKER talk 1 0.00 0.45 <NA> <NA> anna <NA> <NA>
SPEAKER talk 1 0.45 9.00 <NA> <NA> bob <NA> <NA>
SPKR-INFO talk 1 <NA> <NA> <NA> unknown anna <NA> <NA>
"""


def test_speakers_from_rttm(tmp_path: Path) -> None:
    record(tmp_path / "talk.wav", "ABC ABC ABC ABC")
    (tmp_path / "talk.srt").write_text(SRT)
    (tmp_path / "all.rttm").write_text(RTTM)
    found = detection.detect_layout(tmp_path)
    assert by_id(found) == {"talk-0001": ("AB C", "anna"), "talk-0002": ("CA", "bob")}
    assert "2 utterances have their speakers from RTTM" in found.remarks


def test_rttm_that_is_broken_is_named(tmp_path: Path) -> None:
    record(tmp_path / "talk.wav", "ABC ABC ABC ABC")
    (tmp_path / "talk.srt").write_text(SRT)
    (tmp_path / "talk.rttm").write_text("SPEAKER talk 1 zero 0.45 <NA> <NA> anna <NA> <NA>\n")
    found = detection.detect_layout(tmp_path)
    assert {item.speaker for item in found.items} == {"talk"}
    assert "talk.rttm:1: expected SPEAKER, recording" in found.left_out[str(tmp_path / "talk.rttm")]


@pytest.mark.parametrize(
    ("turns_", "times", "speaker"),
    [
        ([(0, 1, "a"), (1, 3, "b")], (0.5, 2.0), "b"),
        ([(0, 1, "a"), (2, 3, "a"), (1, 2, "b")], (0, 3), "a"),
        ([(0, 1, "a")], (0, 4), ""),
        ([(0, 1, "a"), (3, 4, "a")], (0, None), "a"),
        ([(0, 1, "a"), (3, 4, "b")], (0, None), ""),
        ([], (0, 1), ""),
        ([(0, 2, "a"), (2, 4, "b")], (0, 4), ""),
        ([(0, 4, "a"), (1, 4, "b")], (0, 4), ""),
        ([(0, 1, "a"), (0, 1, "a")], (0, 3), ""),
    ],
)
def test_whose_turn_it_is(
    turns_: list[tuple[float, float, str]], times: tuple[float, float | None], speaker: str
) -> None:
    assert turns.speaker([Turn(*turn) for turn in turns_], *times) == speaker


def test_speakers_of_one_channel_are_those_of_that_channel(tmp_path: Path) -> None:
    """Both sides of a telephone call talk at the same time, and Kaldi's name of the recording is not the file's."""
    segments = "s1-a rec1 0.0 0.4 A\ns2-b rec1 0.0 0.4 B\n"
    kaldi_segments(tmp_path, segments, "s1-a ABC\ns2-b CBA\n", channels=2)
    rows = [f"SPEAKER rec1 {n} 0.0 0.4 <NA> <NA> {name} <NA> <NA>" for n, name in ((2, "bob"), (1, "anna"))]
    (tmp_path / "call.rttm").write_text("\n".join(rows))
    assert by_id(detection.detect_layout(tmp_path)) == {"s1-a": ("ABC", "anna"), "s2-b": ("CBA", "bob")}


def test_rttm_of_recordings_of_one_name_is_that_of_their_folder(tmp_path: Path) -> None:
    for folder in ("one", "two", "three"):
        record(tmp_path / folder / "talk.wav", "ABC ABC ABC ABC")
        (tmp_path / folder / "talk.srt").write_text(SRT)
    for folder, name in (("one", "anna"), ("two", "bob")):
        row = f"SPEAKER talk 1 0.0 9.0 <NA> <NA> {name} <NA> <NA>"
        (tmp_path / folder / "talk.rttm").write_text(row)
    speakers = {item.audio.parent.name: item.speaker for item in detection.detect_layout(tmp_path).items}
    assert speakers == {"one": "anna", "two": "bob", "three": "three-talk"}


def test_voices_of_webvtt_are_speakers(tmp_path: Path) -> None:
    record(tmp_path / "talk.wav", "ABC ABC ABC ABC")
    (tmp_path / "talk.vtt").write_text(
        "WEBVTT\n\n00:00.100 --> 00:00.300\n<v Ann &amp; Co>A &lt;B\n\n00:00.400 --> 00:00.600\nC\n"
    )
    assert by_id(detection.detect_layout(tmp_path)) == {"talk-0001": ("A <B", "Ann & Co"), "talk-0002": ("C", "talk")}


def kaldi_segments(folder: Path, segments: str, text: str = "s1-a ABC\n", channels: int = 1) -> list[layouts.Clip]:
    record(folder / "long.wav", "ABC ABC")
    soundfile.write(folder / "long.wav", np.stack([tones("ABC ABC", 0)] * channels, axis=1), 8000)
    (folder / "wav.scp").write_text("rec1 long.wav\n")
    (folder / "text").write_text(text)
    (folder / "segments").write_text(segments)
    return layouts.kaldi(folder)


def test_a_kaldi_segment_to_the_end(tmp_path: Path) -> None:
    items = kaldi_segments(tmp_path, "s1-a rec1 0.2 -1\n")
    (utterance,), failures = layouts.measure_durations(items)
    whole_s = soundfile.info(tmp_path / "long.wav").duration
    assert not failures
    assert (utterance.start_s, utterance.end_s) == (0.2, None)
    assert utterance.duration_s == pytest.approx(whole_s - 0.2)


@pytest.mark.parametrize("value", ["nan", "-inf", "1e308", "9" * 400])
def test_times_that_no_recording_has_are_named(tmp_path: Path, value: str) -> None:
    (tmp_path / "kaldi").mkdir()
    with pytest.raises(ManifestError, match=r"segments: s1-a: expected seconds, got"):
        kaldi_segments(tmp_path / "kaldi", f"s1-a rec1 {value} -1\n")
    (tmp_path / "nemo").mkdir()
    number = value if value.isdigit() or value == "1e308" else {"nan": "NaN", "-inf": "-Infinity"}[value]
    row = f'{{"audio_filepath": "a.wav", "text": "A", "offset": {number}, "duration": 1}}\n'
    (tmp_path / "nemo" / "a.jsonl").write_text(row)
    left_out: dict[str, str] = {}
    tabular.items(tmp_path / "nemo" / "a.jsonl", left_out)
    assert "a.jsonl:1: offset and duration: expected seconds" in left_out.popitem()[1]
    (tmp_path / "nemo" / "a.csv").write_text(f"audio,text,start\na.wav,A,{value}\n")
    tabular.items(tmp_path / "nemo" / "a.csv", left_out)
    assert [reason[:27] for reason in left_out.values()] == ["times that are no seconds: "]


@pytest.mark.parametrize("channel", ["0", "A"])
def test_a_kaldi_segment_with_the_one_channel_there_is(tmp_path: Path, channel: str) -> None:
    (utterance,), failures = layouts.measure_durations(kaldi_segments(tmp_path, f"s1-a rec1 0.0 0.4 {channel}\n"))
    assert not failures
    assert utterance.end_s == 0.4


def test_a_kaldi_segment_of_a_channel_that_is_not_there(tmp_path: Path) -> None:
    items = kaldi_segments(tmp_path, "s1-a rec1 0.0 0.4 1\n")
    assert "channel 1, counted from 0, and it has 1" in layouts.measure_durations(items)[1]["s1-a"]
    with pytest.raises(ManifestError, match="expected a channel"):
        kaldi_segments(tmp_path, "s1-a rec1 0.0 0.4 x\n")


def test_a_kaldi_segment_of_one_of_two_channels(tmp_path: Path) -> None:
    """Both sides of a telephone call, there and back."""
    segments = "s1-a rec1 0.0 0.4 A\ns2-b rec1 0.0 0.4 B\n"
    items = kaldi_segments(tmp_path / "in", segments, "s1-a ABC\ns2-b CBA\n", channels=2)
    utterances, failures = layouts.measure_durations(items)
    assert not failures
    assert [u.channel for u in utterances] == [0, 1]
    kaldi_nemo.to_kaldi(utterances, tmp_path / "out")
    assert all(len(line.split()) == 4 for line in lines_of(tmp_path / "out", "segments"))
    assert lines_of(tmp_path / "out", "wav.scp")[1].endswith("-af 'pan=mono|c0=c1' -f wav - |")
    assert [item.channel for item in layouts.kaldi(tmp_path / "out")] == [0, 1]
    with pytest.raises(ManifestError, match="NeMo's manifests have no channel"):
        kaldi_nemo.to_nemo(utterances, tmp_path / "nemo.json")


def test_channels_of_our_own_manifests_are_kept(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    soundfile.write(sound, np.stack([tones("AB C", 0)] * 2, axis=1), 8000)
    whole_s = soundfile.info(sound).duration
    cut = [Utterance(f"u{n}", str(sound), "AB", whole_s, "s", channel=n) for n in range(2)]
    manifest.write_manifest(tmp_path / "m.jsonl", cut)
    assert {item.id: item.channel for item in detection.detect_layout(tmp_path).items} == {"u0": 0, "u1": 1}


def test_kaldi_words_are_split_at_spaces_and_tabs_only(tmp_path: Path) -> None:
    """White space that is part of a word for Kaldi stays in it; a byte order mark is no part of the first id."""
    (item,) = kaldi_segments(tmp_path, "s1-a\trec1  0.0 0.4\n", "\ufeffs1-a\tA\u00a0B\u2028C D\n")
    assert item.text == "A\u00a0B\u2028C D"


def test_ljspeech_without_the_normalised_text_of_some(tmp_path: Path) -> None:
    for name in ("LJ1", "LJ2"):
        record(tmp_path / "wavs" / f"{name}.wav")
    (tmp_path / "metadata.csv").write_text("LJ1|A one|\nLJ2|A 2|A two\n")
    assert by_id(detection.detect_layout(tmp_path)) == {"LJ1": ("A one", ""), "LJ2": ("A two", "")}


def test_ljspeech_and_librispeech(tmp_path: Path) -> None:
    record(tmp_path / "lj" / "wavs" / "LJ1.wav")
    (tmp_path / "lj" / "metadata.csv").write_text("LJ1|A 1|A one\n")
    assert by_id(detection.detect_layout(tmp_path / "lj")) == {"LJ1": ("A one", "")}
    record(tmp_path / "ls" / "dev-clean" / "7" / "1" / "7-1-0000.flac")
    (tmp_path / "ls" / "dev-clean" / "7" / "1" / "7-1.trans.txt").write_text("7-1-0000 A ONE\n")
    found = detection.detect_layout(tmp_path / "ls")
    assert by_id(found) == {"7-1-0000": ("A ONE", "7")}
    assert list(found.sets) == ["valid"]


@pytest.mark.parametrize("inside", ["7", "7/1"])
def test_one_speaker_or_chapter_of_librispeech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    """What lies beside the folder is not read, whether its name is long or ``.``."""
    for speaker in "78":
        record(tmp_path / "train-clean-100" / speaker / "1" / f"{speaker}-1-0000.flac")
        (tmp_path / "train-clean-100" / speaker / "1" / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0000 A\n")
    folder = tmp_path / "train-clean-100" / inside
    monkeypatch.chdir(folder)
    for given in (folder, Path(".")):
        found = detection.detect_layout(given)
        assert {name: [item.id for item in items] for name, items in found.sets.items()} == {"": ["7-1-0000"]}


def test_kaldi_data(tmp_path: Path) -> None:
    """Sets by folder, segments, speakers, and audio relative to a folder above, as corpora on disk have it."""
    record(tmp_path / "audio" / "long.wav", "ABC ABC ABC")
    for name in ("train", "dev_clean"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "wav.scp").write_text("rec1 audio/long.wav\n")
        (folder / "segments").write_text("s1-a rec1 0.0 0.4\ns1-b rec1 0.5 0.9\n")
        (folder / "text").write_text("s1-a ABC\ns1-b BA C\n")
        (folder / "utt2spk").write_text("s1-a s1\ns1-b s1\n")
    found = detection.detect_layout(tmp_path)
    assert {name: len(items) for name, items in found.sets.items()} == {"train": 2, "valid": 2}
    assert by_id(found)["s1-b"] == ("BA C", "s1")
    utterances, failures = layouts.measure_durations(found.sets["train"])
    assert not failures
    assert [(u.start_s, u.end_s) for u in utterances] == [(0.0, 0.4), (0.5, 0.9)]
    assert found.left_out == {}


@pytest.mark.parametrize(
    ("name", "line", "match"),
    [
        ("segments", "s1-a rec2 0 1", "s1-a: expected a recording of wav.scp and two times"),
        ("segments", "s1-a rec1 0 x", "s1-a: expected seconds, got 'x'"),
        ("segments", "s1-z rec1 0 1", "text: nothing for 's1-z'"),
    ],
)
def test_kaldi_data_that_is_broken(tmp_path: Path, name: str, line: str, match: str) -> None:
    record(tmp_path / "long.wav")
    (tmp_path / "wav.scp").write_text("rec1 long.wav\n")
    (tmp_path / "text").write_text("s1-a ABC\n")
    (tmp_path / name).write_text(f"{line}\n")
    with pytest.raises(ManifestError, match=match):
        detection.detect_layout(tmp_path)


SRT = """\ufeff1
00:00:00,100 --> 00:00:00,400
<i>AB</i>
C

2
00:00:00,500 --> 00:00:00,800
{\\an8}CA

3
00:00:01,000 --> 00:00:01,200

"""


def test_subtitles(tmp_path: Path) -> None:
    record(tmp_path / "talk.wav", "ABC ABC ABC ABC")
    (tmp_path / "talk.srt").write_text(SRT)
    record(tmp_path / "show.wav", "ABC ABC ABC ABC")
    (tmp_path / "show.vtt").write_text("WEBVTT\n\nNOTE x\n\n00:00.100 --> 00:00.300 align:start\nBB\n")
    found = detection.detect_layout(tmp_path)
    assert by_id(found) == {
        "show-0001": ("BB", "show"), "talk-0001": ("AB C", "talk"), "talk-0002": ("CA", "talk"),
    }  # fmt: skip
    assert (found.items[1].start_s, found.items[1].end_s) == (0.1, 0.4)


def test_what_is_not_understood(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    with pytest.raises(ManifestError, match="1 audio files, but no transcripts in a known layout"):
        detection.detect_layout(tmp_path)
    with pytest.raises(ManifestError, match="expected a folder"):
        detection.detect_layout(tmp_path / "gone")
    (tmp_path / "wav.scp").write_text("a sox x.wav |\n")
    (tmp_path / "text").write_text("a A\n")
    with pytest.raises(ManifestError, match="is the output of a command, and commands are not run"):
        detection.detect_layout(tmp_path)


# What is made of it


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for path, text, _ in speak(tmp_path / "own", speakers=10, each=3):
        path.with_suffix(".txt").write_text(text.lower())
    return tmp_path / "own"


Begun = tuple[Path, str, str]


@pytest.fixture
def begun(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Begun:
    """The folder that ``asr init`` writes for recordings of which two cannot be used, and what it prints."""
    (own / "spk3" / "broken.wav").write_bytes(b"RIFF")
    (own / "spk3" / "broken.txt").write_text("A")
    record(own / "spk4" / "short.wav", "A")
    (own / "spk4" / "short.txt").write_text("ABCABCABCABCABCABC")
    out = tmp_path / "out"
    assert main.run_command(["init", str(own), "--output", str(out), "--init", "none"]) == 1
    return out, *capsys.readouterr()


def test_init_says_what_it_found_and_what_is_next(begun: Begun) -> None:
    out, printed, _ = begun
    assert "10 folders are taken for speakers" in printed
    assert "sets by speaker: 10 speakers, none in two sets" in printed
    assert "audio of 8000 Hz: so are the features" in printed
    assert f"next: asr train {out / 'train.yaml'}" in printed


def test_init_names_recordings_that_cannot_be_used(begun: Begun) -> None:
    assert "spk3-broken: " in begun[2]
    assert "spk4-short: " in begun[2]


def test_init_gives_each_speaker_to_one_set(begun: Begun) -> None:
    sets = {name: manifest.read_manifest(begun[0] / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert {name: len({u.speaker for u in s}) for name, s in sets.items()} == {"train": 8, "valid": 1, "test": 1}
    assert sum(map(len, sets.values())) == 30


def test_init_writes_what_trains(begun: Begun) -> None:
    small = ["model.layers=1", "model.hidden=8", "model.channels=2", "train.epochs=1", "train.device=cpu"]
    assert main.run_command(["train", str(begun[0] / "train.yaml"), *small]) == 0
    assert model_directory.load_model(begun[0] / "model").config.features.sample_rate_hz == 8000


def test_init_replaces_a_project_with_force_only(begun: Begun, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["init", str(own), "--output", str(begun[0])]
    assert main.run_command(command) == 2
    assert "holds a project already; replace it with --force" in capsys.readouterr().err
    assert main.run_command([*command, "--force"]) == 1


def test_texts_that_are_not_understood_are_left_out_and_the_others_shown_before_and_after(
    own: Path, tmp_path: Path
) -> None:
    (own / "spk0" / "s0-0.txt").write_text("a, 1st b!")
    (own / "spk0" / "s0-1.txt").write_text("[laughs] a b")
    out = tmp_path / "out"
    project = start_project(own, out)
    assert "cannot tell how '[laughs]' is said" in project.left_out["spk0-s0-1"]
    rows = (out / "spoken.tsv").read_text().splitlines()
    assert rows == ["id\tas written\tas spoken", "spk0-s0-0\ta, 1st b!\ta first b"]
    (own / "spk0" / "s0-0.txt").write_text("a b")
    (own / "spk0" / "s0-1.txt").write_text("a b")
    start_project(own, out)
    assert not (out / "spoken.tsv").exists()
    assert not (out / "left_out.txt").exists()


def test_nothing_is_written_before_everything_can_be(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the last file: what was there before is whole."""
    out = tmp_path / "out"
    start_project(own, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (own / "spk0" / "s0-0.txt").write_text("c c c")
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "train.yaml":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AsrError, match=r"train\.yaml: cannot write: No space left on device"):
        start_project(own, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_earlier_project_in_the_folder_is_not_taken_for_its_recordings(own: Path) -> None:
    start_project(own, own / "data" / "own")
    record(own / "spk0" / "new.wav", "CBACBA", 9)
    (own / "spk0" / "new.txt").write_text("cbacba")
    project = start_project(own, own / "data" / "own")
    assert sum(map(len, project.sets.values())) == 31


@pytest.mark.parametrize("name", ["train.jsonl", "spoken.tsv", "left_out.txt", "train.yaml"])
def test_files_that_init_did_not_write_are_not_replaced(own: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine\n")
    with pytest.raises(AsrError, match=f"got {name}, which asr init did not write.*--force"):
        start_project(own, out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine\n")]
    start_project(own, out, force=True)
    assert detection.is_project(out)


@pytest.mark.parametrize("force", [False, True])
def test_the_only_transcripts_are_never_replaced(tmp_path: Path, force: bool) -> None:
    """NeMo's train.jsonl beside its recordings, and the project in the same folder."""
    record(tmp_path / "a.wav")
    row = json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "text": "ab"})
    (tmp_path / "train.jsonl").write_text(row)
    command = ["init", str(tmp_path), "--output", str(tmp_path)]
    assert main.run_command([*command, "--force"] if force else command) == 2
    assert (tmp_path / "train.jsonl").read_text() == row
    assert not (tmp_path / "train.yaml").exists()


def test_another_project_in_the_folder_is_not_taken_for_a_table(own: Path) -> None:
    start_project(own, own / "first")
    project = start_project(own, own / "second")
    assert sum(map(len, project.sets.values())) == 30
    assert start_project(own, own).sets.keys() == project.sets.keys()
    assert sum(map(len, start_project(own, own).sets.values())) == 30


def test_a_training_set_of_which_nothing_can_be_used(tmp_path: Path) -> None:
    for name, text in (("train", "[noise]"), ("valid", "AB"), ("test", "AB")):
        record(tmp_path / name / "a.wav")
        (tmp_path / name / "a.txt").write_text(text)
    with pytest.raises(
        ManifestError, match=r"training data, got only test, valid; of 1 left out the first, .*'\[noise\]'"
    ):
        start_project(tmp_path, tmp_path / "out")


def test_subtitles_of_few_recordings_say_that_sets_are_drawn_by_utterance(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cues = [f"00:00:0{n}.000 --> 00:00:0{n}.400\nAB" for n in range(10)]
    soundfile.write(tmp_path / "in" / "talk.wav", np.tile(tones("ABC ABC", 0), 30), 8000)
    (tmp_path / "in" / "talk.vtt").write_text("\n\n".join(["WEBVTT", *cues]))
    said = "\n".join(start_project(tmp_path / "in", tmp_path / "out").lines)
    assert "no recording is in two sets" not in said
    assert "sets by utterance" in said


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text("path,text,x,x\na.wav,AB,1,2\n")
    assert by_id(detection.detect_layout(tmp_path)) == {"a": ("AB", "")}


def test_a_quotation_mark_that_is_not_closed_swallows_no_rows_in_silence(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        record(tmp_path / f"{name}.wav")
    (tmp_path / "t.csv").write_text('path,text\na.wav,"A, B"\nb.wav,"B\nc.wav,C\n')
    found = detection.detect_layout(tmp_path)
    assert by_id(found) == {"a": ("A, B", "")}
    message = found.left_out[f"{tmp_path / 't.csv'}:3"]
    assert message.startswith("cannot read the row: unexpected end of data; write a text with")


def test_a_project_that_cannot_be_made_leaves_no_folder(tmp_path: Path) -> None:
    record(tmp_path / "own" / "a.wav")
    (tmp_path / "own" / "a.txt").write_text("[noise]")
    with pytest.raises(ManifestError, match="no utterance can be used"):
        start_project(tmp_path / "own", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_default_folder_is_below_data(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run_command(["init", "own"]) == 0
    assert {p.name for p in (tmp_path / "data" / "own").iterdir()} == {
        "train.jsonl", "valid.jsonl", "test.jsonl", "train.yaml",
    }  # fmt: skip


def test_sets_of_few_speakers_are_drawn_by_utterance(tmp_path: Path) -> None:
    for path, text, _ in speak(tmp_path / "own", speakers=2, each=10):
        path.with_suffix(".txt").write_text(text)
    project = start_project(tmp_path / "own", tmp_path / "out")
    assert {name: len(s) for name, s in project.sets.items()} == {"train": 16, "valid": 2, "test": 2}
    assert any("speakers who are in the training set" in line for line in project.lines)
    again = start_project(tmp_path / "own", tmp_path / "out2")
    assert again.sets == project.sets


def test_a_language_that_is_none_is_refused_before_any_work(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run_command(["init", str(own), "--output", str(tmp_path / "out"), "--language", "german"]) == 2
    assert "got 'german'; did you mean de?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_very_few_utterances_are_all_for_training(tmp_path: Path) -> None:
    for path, text, _ in speak(tmp_path / "own", speakers=1, each=4):
        path.with_suffix(".txt").write_text(text)
    project = start_project(tmp_path / "own", tmp_path / "out")
    assert list(project.sets) == ["train"]
    assert sections.load_config(project.config).data.valid == ""


def make(hours: float, texts: list[str], seconds: float = 4.0) -> list[Utterance]:
    count = round(hours * 3600 / seconds)
    return [Utterance(f"u{i}", "/none.wav", texts[i % len(texts)], seconds, f"s{i % 9}") for i in range(count)]


@pytest.mark.parametrize(
    ("hours", "texts", "tokenizer", "hidden"),
    [
        (0.1, ["yes", "no", "yes please"], "word", 128),
        (1.0, [f"sentence number {chr(97 + i)}" for i in range(26)], "char", 256),
        (10.0, [f"sentence number {chr(97 + i)}" for i in range(26)], "char", 320),
        (150.0, [f"sentence number {chr(97 + i)}" for i in range(26)], "bpe", 640),
        (150.0, ["".join(chr(0x4E00 + 40 * i + j) for j in range(20)) for i in range(100)], "char", 640),
    ],
)
def test_what_is_chosen(tmp_path: Path, hours: float, texts: list[str], tokenizer: str, hidden: int) -> None:
    lines: list[str] = []
    chosen = choose_model_size(make(hours, texts), tmp_path, lines=lines)
    assert (chosen.text.tokenizer, chosen.model.hidden) == (tokenizer, hidden)
    assert lines


def test_fast_speech_gets_shorter_frames(tmp_path: Path) -> None:
    slow, fast = (choose_model_size(make(0.5, ["some words here"], s), tmp_path, lines=[]) for s in (4.0, 1.0))
    assert (slow.features.hop_s, fast.features.hop_s) == (0.010, 0.0075)


def test_from_a_trained_model(own: Path, tmp_path: Path, model_dir: Path) -> None:
    project = start_project(own, tmp_path / "out", init=str(model_dir))
    chosen, source = sections.load_config(project.config), model_directory.load_model(model_dir).config
    assert chosen.train.init == str(model_dir)
    assert (chosen.model, chosen.features) == (source.model, source.features)
    assert chosen.optim.layer_decay < 1


@pytest.mark.parametrize(("hours", "epochs"), [(0.1, 20), (1.0, 15), (2.5, 10), (30.0, 4)])
def test_the_more_speech_there_is_the_fewer_epochs_it_is_fine_tuned_for(
    hours: float, epochs: int, tmp_path: Path
) -> None:
    utterances = english(100, seconds=36 * hours)
    assert choose_model_size(utterances, tmp_path, init="english", lines=[]).train.epochs == epochs


def test_a_fine_tuning_ends_early_where_speakers_are_held_out(tmp_path: Path) -> None:
    with_valid = choose_model_size(english(), tmp_path, init="english", lines=[])
    without = choose_model_size(english(), tmp_path, init="english", valid=False, lines=[])
    assert with_valid.train.patience > 0
    assert without.train.patience == 0


def test_a_fine_tuning_uses_each_utterance_once_in_an_epoch(tmp_path: Path) -> None:
    """Two views cost twice the time."""
    assert choose_model_size(english(), tmp_path, init="english", lines=[]).train.consistency == 0


def english(count: int = 100, text: str = "It's a sentence", seconds: float = 4.0) -> list[Utterance]:
    return [Utterance(f"u{i}", "/none.wav", text, seconds) for i in range(count)]


def test_english_starts_from_the_bundled_model_unless_told_otherwise(own: Path, tmp_path: Path) -> None:
    project = start_project(own, tmp_path / "out")
    chosen = sections.load_config(project.config)
    assert project.init == chosen.train.init == bundled.default_model()
    assert chosen.model == read_description(None).config.model
    assert any("from random weights" in line for line in project.lines)
    plain = start_project(own, tmp_path / "random", init="")
    assert plain.init == sections.load_config(plain.config).train.init == ""


@pytest.mark.parametrize(
    ("utterances", "language"),
    [
        (english(), "de"),
        (english(), ""),
        (english(98) + english(2, "déjà vu"), "en"),
        (english(100, "Привет"), "en"),
        (english(100, seconds=3600.0), "en"),
    ],
)
def test_what_the_bundled_model_does_not_fit_starts_from_random_weights(
    utterances: list[Utterance], language: str
) -> None:
    assert fitting_model(utterances, language, []) == ""


def test_a_rare_foreign_word_does_not_keep_a_training_from_the_bundled_model() -> None:
    assert fitting_model(english(199) + english(1, "déjà vu"), "en", []) == bundled.default_model()


# Export


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    for name in ("b", "a"):
        record(tmp_path / f"{name}.wav", "ABC ABC")
    return [
        Utterance("x1", str(tmp_path / "b.wav"), "AB C", 0.8, "tom"),
        Utterance("ann-1", str(tmp_path / "a.wav"), "CA É", 0.8, "ann"),
    ]


def test_kaldi_there_and_back(utterances: list[Utterance], tmp_path: Path) -> None:
    kaldi_nemo.to_kaldi(utterances, tmp_path / "kaldi")
    lines = {p.name: p.read_text().splitlines() for p in (tmp_path / "kaldi").iterdir()}
    assert lines["text"] == ["ann-1 CA É", "tom-x1 AB C"]
    assert lines["spk2utt"] == ["ann ann-1", "tom tom-x1"]
    assert "segments" not in lines
    assert all(lines[name] == sorted(lines[name]) for name in lines)
    back = {item.id: (item.audio, item.text, item.speaker) for item in layouts.kaldi(tmp_path / "kaldi")}
    assert back["tom-x1"] == (Path(utterances[0].audio), "AB C", "tom")


def test_kaldi_segments_there_and_back(tmp_path: Path) -> None:
    record(tmp_path / "long.wav", "ABC ABC")
    cut = [Utterance(f"s-{i}", str(tmp_path / "long.wav"), "A", 0.2, "s", 0.3 * i, 0.3 * i + 0.2) for i in range(2)]
    kaldi_nemo.to_kaldi(cut, tmp_path / "kaldi")
    back, failures = layouts.measure_durations(layouts.kaldi(tmp_path / "kaldi"))
    assert not failures
    assert [(u.id, u.audio, u.start_s, u.end_s) for u in back] == [(u.id, u.audio, u.start_s, u.end_s) for u in cut]


def test_kaldi_reads_other_audio_through_ffmpeg(tmp_path: Path) -> None:
    kaldi_nemo.to_kaldi([Utterance("a", "/data/it's a.flac", "A", 1.0)], tmp_path)
    assert (tmp_path / "wav.scp").read_text() == "a ffmpeg -v error -nostdin -i '/data/it'\"'\"'s a.flac' -f wav - |\n"


def test_kaldi_refuses_names_with_spaces(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="utterance a: expected a name without spaces for Kaldi, got 'tom b'"):
        kaldi_nemo.to_kaldi([Utterance("a", "/a.wav", "A", 1.0, "tom b")], tmp_path)


def lines_of(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text(encoding="utf-8").splitlines()


def test_kaldi_speakers_sort_by_speaker_and_by_id_alike(tmp_path: Path) -> None:
    """``anna-2-x`` sorts before ``anna-x1``, but ``anna`` before ``anna-2``: validate_data_dir.sh refuses that."""
    cut = [Utterance(f"x{i}", f"/{i}.wav", "A", 1.0, speaker) for i, speaker in enumerate(("anna", "anna-2", "ann"))]
    kaldi_nemo.to_kaldi(cut, tmp_path)
    rows = lines_of(tmp_path, "utt2spk")
    assert rows == sorted(rows, key=lambda row: (row.split()[1].encode(), row.encode()))
    assert rows == sorted(rows, key=str.encode)
    assert len({row.split()[1] for row in rows}) == 3


def test_kaldi_speakers_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    cut = [Utterance(f"x{i}", f"/{i}.wav", "A", 1.0, s) for i, s in enumerate(("anna", "anna-2", "anna_2"))]
    with pytest.raises(ManifestError, match=r"speakers 'anna-2' and 'anna_2': .*rename one of them"):
        kaldi_nemo.to_kaldi(cut, tmp_path)


def test_kaldi_recordings_have_ids_of_their_own(tmp_path: Path) -> None:
    """The last parts of two paths may be equal, or become so, and each segment needs the audio that is its own."""
    paths = ["/q/1/a b/c.wav", "/q/1/a_b/c.wav", "/r/1/a_b/c.wav", "/q/1/a_b/z.wav", "/q/1/a_b/z.flac", "/q/one.wav"]
    kaldi_nemo.to_kaldi([Utterance(f"s-{i}", path, "A", 1.0, "s", 0.0, 1.0) for i, path in enumerate(paths)], tmp_path)
    back = layouts.kaldi(tmp_path)
    assert [str(item.audio) for item in back] == paths
    assert len(lines_of(tmp_path, "wav.scp")) == len(paths)


@pytest.mark.parametrize("text", ["A </s> B", "<s>", "say #0, now"])
def test_kaldi_refuses_its_own_symbols_in_texts(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=r"utterance a: (</s>|<s>|#0) is reserved by Kaldi"):
        kaldi_nemo.to_kaldi([Utterance("a", "/a.wav", text, 1.0)], tmp_path)


def test_kaldi_texts_have_plain_spaces(tmp_path: Path) -> None:
    kaldi_nemo.to_kaldi([Utterance("a", "/a.wav", "A\u00a0B \u2028C", 1.0)], tmp_path)
    assert lines_of(tmp_path, "text") == ["a A B C"]


def test_the_command_that_export_writes_is_read_back_and_no_other(tmp_path: Path) -> None:
    path = "/data/it's a; rm.flac"
    kaldi_nemo.to_kaldi([Utterance("a", path, "A", 1.0)], tmp_path)
    assert [item.audio for item in layouts.kaldi(tmp_path)] == [Path(path)]
    line = (tmp_path / "wav.scp").read_text()
    for changed in (line.replace("-nostdin", "-y"), line.replace("'", ""), line.replace("-f wav", "-f wav;")):
        (tmp_path / "wav.scp").write_text(changed)
        with pytest.raises(ManifestError, match="is the output of a command, and commands are not run"):
            layouts.kaldi(tmp_path)


def test_nemo_there_and_back(utterances: list[Utterance], tmp_path: Path) -> None:
    cut = [*utterances, Utterance("c", utterances[0].audio, "C", 0.2, "tom", 0.1, 0.3)]
    kaldi_nemo.to_nemo(cut, tmp_path / "nemo.json")
    back = detection.detect_layout(tmp_path).items
    assert [(str(i.audio), i.text, i.speaker) for i in back] == [(u.audio, u.text.lower(), u.speaker) for u in cut]
    assert (back[2].start_s, back[2].end_s) == (0.1, pytest.approx(0.3))
    assert len(detection.detect_layout(tmp_path).items) == 3


@pytest.mark.parametrize("format", ["kaldi", "nemo"])
def test_export_by_command(
    utterances: list[Utterance], tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    manifest.write_manifest(tmp_path / "m.jsonl", utterances)
    assert main.run_command(["export", str(tmp_path / "m.jsonl"), str(tmp_path / "to"), "--format", format]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'to'}: 2 utterances\n"
    (tmp_path / "file").touch()
    assert (
        main.run_command(["export", str(tmp_path / "m.jsonl"), str(tmp_path / "file" / "x"), "--format", format]) == 2
    )
    assert "cannot write" in capsys.readouterr().err


def test_recipes_by_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in (Path(__file__).parents[2], tmp_path):  # in a checkout, and elsewhere with the checkout installed
        monkeypatch.chdir(folder)
        assert main.run_command(["recipes"]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert head.split() == ["recipe", "corpus", "hours", "download", "status", "licence"]
        assert next(row for row in rows if row.startswith("an4")).endswith("BSD style")
        assert any(row.startswith("asr train ") and row.endswith("recipes/an4/conf/blstm.yaml") for row in rows)
    assert main.run_command(["recipes", "--folder", str(tmp_path)]) == 2
    assert "expected recipes" in capsys.readouterr().err


def test_real_speech(asr_data: Callable[[str], Path], tmp_path: Path) -> None:
    project = start_project(asr_data("VCTK-Corpus"), tmp_path / "out")
    assert sum(map(len, project.sets.values())) == 503
    assert not project.left_out
    assert np.isclose(sum(u.duration_s for s in project.sets.values() for u in s) / 3600, 0.43, atol=0.01)


@pytest.mark.parametrize(
    ("hours", "trained", "words"),
    [
        (0.1, "", "a few different words at most"),
        (0.7, "", "free speech takes 100 h"),
        (120, "", None),
        (0.1, "an4", None),
    ],
)
def test_advice_says_how_far_the_speech_goes(hours: float, trained: str, words: str | None) -> None:
    utterances = [Utterance("u", "u.wav", "HI", hours * 3600)]
    project = Project(Path("train.yaml"), {"train": utterances}, detection.Detection("", {}), {}, (), trained)
    advice = speech_advice(project)
    assert words in advice if words else advice == ""
