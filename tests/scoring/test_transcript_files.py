"""Files of transcripts for scoring: segments as sclite shares words out, folders, lines without ids."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_transcript import evenly

from asr.cli import main
from asr.errors import ManifestError
from asr.formats import FORMATS
from asr.scoring import wer
from asr.scoring.rules import Rules
from asr.scoring.score_report import Report
from asr.scoring.transcript_files import read
from asr.scoring.wer import score_files

STM = """;; made up
;; LABEL "O" "Overall" "Overall"
talk 1 anna 1.0 3.0 <o,f0> one two three
talk 1 bo 3.0 5.0 four {five / six} (seven)
talk 1 anna 5.0 7.0 ignore_time_segment_in_scoring
talk 1 bo 8.0 9.0 eight
talk 2 cy 0.0 3.0 other channel
void 1 anna 0 5
walk 1 a 1.0 3.0 one
walk 1 b 2.0 4.0 two
walk 1 a 6.0 7.0 three
walk 1 a 12.0 13.0 ignore_time_segment_in_scoring
"""
CTM = """;; made up
talk 1 0.1 0.2 before
talk 1 1.0 0.2 one
talk 1 1.3 0.2 two
talk 1 2.8 0.5 boundary
talk 1 3.4 0.2 four
talk 1 3.7 0.2 six
talk 1 5.1 0.2 dropped
talk 1 6.9 0.1 dropped2
talk 1 7.2 0.2 gapearly
talk 1 7.8 0.1 gaplate
talk 1 8.5 0.2 eight 0.9
talk 1 9.5 0.2 after
talk 2 0.1 0.2 other
talk 2 0.5 0.2 channel
void 1 0.5 0.2 noise
walk 1 2.0 0.2 mid21
walk 1 2.9 0.2 mid30
walk 1 3.9 0.2 mid40
walk 1 5.0 0.2 mid51
walk 1 11.2 0.2 mid113
walk 1 13.2 0.2 mid133
"""
# Correct, substituted, deleted and inserted words of each segment: sclite 2.10 with -s and -D.
COUNTS = {
    "talk_1_1.00-3.00": (2, 0, 1, 1),
    "talk_1_3.00-5.00": (3, 0, 0, 1),
    "talk_1_8.00-9.00": (1, 0, 0, 3),
    "talk_2_0.00-3.00": (2, 0, 0, 0),
    "void_1_0.00-5.00": (0, 0, 0, 1),
    "walk_1_1.00-3.00": (0, 1, 0, 0),
    "walk_1_2.00-4.00": (0, 1, 0, 0),
    "walk_1_6.00-7.00": (0, 1, 0, 1),
}


def write(folder: Path, **files: str) -> list[Path]:
    """Files named by suffix: ``r_stm`` is ``r.stm``."""
    paths = [folder / name.replace("_", ".") for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_text(content, encoding="utf-8")
    return paths


def counts(report: Report) -> dict[str, tuple[int, ...]]:
    parts = {u.id: Report((u,)) for u in report.utterances}
    return {id: (r.hits, r.substitutions, r.deletions, r.insertions) for id, r in parts.items()}


def test_segments_take_the_words_that_sclite_gives_them(tmp_path: Path) -> None:
    report = score_files(*write(tmp_path, r_stm=STM, h_ctm=CTM))
    assert counts(report) == COUNTS
    assert {name: (r.words, r.errors) for name, r in report.by_speaker().items()} == {
        "a": (2, 3), "anna": (3, 3), "b": (1, 1), "bo": (4, 4), "cy": (2, 0),
    }  # fmt: skip


def _sclite() -> str | None:
    return shutil.which("sclite", path=f"{os.environ.get('PATH', '')}:/usr/lib/sctk/bin")


@pytest.mark.skipif(not _sclite(), reason="sclite (Debian's package sctk) is not installed")
def test_segments_are_those_of_the_sclite_that_is_installed(tmp_path: Path) -> None:
    write(tmp_path, r_stm=STM, h_ctm=CTM)
    command = [_sclite(), *"-s -D -r r.stm stm -h h.ctm ctm -o pralign stdout".split()]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", printed)
    assert sorted(tuple(map(int, c)) for c in found) == sorted(COUNTS.values())


def test_segments_take_the_words_of_our_json_and_textgrids(tmp_path: Path) -> None:
    (reference,) = write(tmp_path, r_stm="talk A x 0 0.25 ONE TWO\ntalk A y 0.25 1 THREE\n")
    made = evenly(["ONE", "TWO", "THREE"])
    for name in ("json", "textgrid", "ctm"):
        path = tmp_path / f"talk{FORMATS[name].suffix}"
        path.write_text(FORMATS[name].write(made).replace("a.wav", "x/talk.wav").replace("a 1 ", "talk 1 "))
        report = score_files(reference, path)
        assert (report.errors, report.words, sorted(report.by_speaker())) == (0, 3, ["x", "y"]), name


def test_without_times_a_reference_with_segments_is_one_text_a_recording(tmp_path: Path) -> None:
    files = write(tmp_path, r_stm="b 1 x 2 3 THREE\nb 1 x 0 2 ONE TWO\nc 1 y 0 1 FOUR\n", h="b ONE TWO THREE\nc FIVE\n")
    assert [(u.id, u.reference, u.errors) for u in score_files(*files).utterances] == [
        ("b", "ONE TWO THREE", 0), ("c", "FOUR", 1),
    ]  # fmt: skip
    files[0].write_text("b 1 x 2 3 ignore_time_segment_in_scoring\nb 1 x 0 2 ONE TWO\n")
    with pytest.raises(ManifestError, match="expected words with times"):
        score_files(*files)


def test_recordings_that_the_reference_does_not_have_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected recordings and channels of .*'talk'.*got others: 'walk'"):
        score_files(*write(tmp_path, r_stm="talk 1 x 0 1 A\n", h_ctm="walk 1 0 1 A\n"))


def test_a_recording_without_a_line_in_a_ctm_is_empty(tmp_path: Path) -> None:
    report = score_files(*write(tmp_path, r="b ONE TWO\nc THREE\n", h_ctm="b 1 0 1 ONE\nb 1 1 1 TWO\n"))
    assert (report.errors, report.deletions) == (1, 1)
    with pytest.raises(ManifestError, match="references have no hypothesis"):
        score_files(*write(tmp_path, r="b ONE TWO\nc THREE\n", h_ctm="d 1 0 1 ONE\n"))


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_folder_of_transcripts_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "summary.json").write_text("{}")
    for place in ("b", "sub/c"):
        body = FORMATS[name].write(evenly(["OH", "ONE"]))
        (tmp_path / "out" / f"{place}{FORMATS[name].suffix}").write_text(body)
    assert read(tmp_path / "out").texts == {"b": "OH ONE", "sub/c": "OH ONE"}


def test_two_files_of_one_recording_need_no_common_name(tmp_path: Path) -> None:
    files = write(tmp_path, r_srt=FORMATS["srt"].write(evenly(["A", "B"])), h_vtt=FORMATS["vtt"].write(evenly(["A"])))
    assert (score_files(*files).errors, score_files(*files).words) == (1, 2)


def test_json_transcripts_are_told_by_their_source(tmp_path: Path) -> None:
    lines = [
        {"format": 1, "source": f"in/u.{i}.flac", "text": t, "duration_s": 1, "words": []} for i, t in enumerate("AB")
    ]
    (path,) = write(tmp_path, h_jsonl="\n".join(map(json.dumps, lines)))
    assert read(path).texts == {"u.0": "A", "u.1": "B"}


def test_recordings_of_one_name_in_two_folders_are_called_by_their_paths(tmp_path: Path) -> None:
    sources = ("in/a/x.wav", "in/b/x.wav", "in/y.wav")
    lines = [
        json.dumps({"source": s, "text": t, "duration_s": 1, "words": []}) for s, t in zip(sources, "ABC", strict=True)
    ]
    (path,) = write(tmp_path, h_jsonl="\n".join(lines))
    assert read(path).texts == {"a/x": "A", "b/x": "B", "y": "C"}


@pytest.mark.parametrize("name", ["json", "ctm"])
def test_segments_meet_recordings_of_one_name_by_path_and_drop_none(name: str, tmp_path: Path) -> None:
    for folder, word in (("a", "ONE"), ("b", "TWO")):
        (tmp_path / "out" / folder).mkdir(parents=True)
        made = dataclasses.replace(evenly([word]), source="x.wav")
        (tmp_path / "out" / folder / f"x.{name}").write_text(FORMATS[name].write(made))
    (reference,) = write(tmp_path, r_stm="a/x 1 s 0 1 ONE\nb/x 1 s 0 1 TWO\n")
    assert (score_files(reference, tmp_path / "out").errors, score_files(reference, tmp_path / "out").words) == (0, 2)
    reference.write_text("x 1 s 0 1 ONE\n")
    with pytest.raises(ManifestError, match="got others: 'a/x', 'b/x'"):
        score_files(reference, tmp_path / "out")


def test_a_dot_in_the_name_of_a_recording_is_part_of_it(tmp_path: Path) -> None:
    (ctm,) = write(tmp_path, h_ctm="interview.part1 1 0 1 A\ninterview.part2 1 0 1 B\n")
    assert read(ctm).texts == {"interview.part1": "A", "interview.part2": "B"}
    lines = [
        {"source": f"interview.part{i}{s}", "text": "A", "words": []} for i, s in ((1, ".wav"), (2, ".mp4"), (3, ""))
    ]
    (path,) = write(tmp_path, h_jsonl="\n".join(map(json.dumps, lines)))
    assert list(read(path).texts) == ["interview.part1", "interview.part2", "interview.part3"]


def test_a_trn_may_begin_with_alternatives(tmp_path: Path) -> None:
    (path,) = write(tmp_path, r_trn="{ A / B } C (u1)\nD (u2)\n")
    assert read(path).texts == {"u1": "{ A / B } C", "u2": "D"}


def test_plain_texts_are_scored_line_by_line(tmp_path: Path) -> None:
    files = write(tmp_path, r="THE CAT\n\nTHE DOG SAT\nBYE\n", h="THE CAT\nUH\nTHE DOG SAD\n\n")
    report = score_files(*files, plain=True)
    assert [(u.id, u.errors, u.words) for u in report.utterances] == [
        ("1", 0, 2), ("2", 1, 0), ("3", 1, 3), ("4", 1, 1),
    ]  # fmt: skip
    files[1].write_text("THE CAT\n")
    with pytest.raises(ManifestError, match=r"expected as many lines in both, got 4 in .* and 1 in"):
        score_files(*files, plain=True)


def test_empty_lines_at_the_end_of_plain_texts_are_no_utterances(tmp_path: Path) -> None:
    assert len(score_files(*write(tmp_path, r="A\nB\n\n\n", h="A\nB"), plain=True).utterances) == 2


def test_first_words_that_are_no_ids_get_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, r="THE CAT\nTHE DOG\n", h="A CAT\nTHE DOG\n")
    assert main.run_command(["score", *map(str, files)]) == 2
    assert "expected each id once, got 'THE' again; are these lines without ids? asr score --plain" in (
        capsys.readouterr().err
    )


def test_first_words_that_differ_get_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, r="HELLO CAT\n", h="YELLOW CAT\n")
    assert main.run_command(["score", *map(str, files)]) == 2
    assert "asr score --plain takes line by line" in capsys.readouterr().err


def test_first_words_that_could_be_ids_get_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, r="HELLO CAT\n", h="HELLO CAR\n")
    assert main.run_command(["score", *map(str, files)]) == 0
    printed = capsys.readouterr()
    assert "(1/1;" in printed.out
    assert "the first word of each line is taken for its id" in printed.err


def test_plain_counts_the_first_word_and_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, r="HELLO CAT\n", h="HELLO CAR\n")
    assert main.run_command(["score", *map(str, files), "--plain"]) == 0
    printed = capsys.readouterr()
    assert ("(1/2;" in printed.out, printed.err) == (True, "")


@pytest.mark.parametrize("first", ["Don't", "42", "they’re"])
def test_one_first_word_of_other_signs_leaves_the_note(
    first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, r=f"HELLO CAT\nBYE DOG\n{first} COW\n", h=f"HELLO CAR\nBYE DOG\n{first} COW\n")
    assert main.run_command(["score", *map(str, files)]) == 0
    assert "the first word of each line is taken for its id" in capsys.readouterr().err


def test_lines_with_ids_get_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, r="anna_1 A\nbob-2 B\nu3 C\n", h="anna_1 A\nbob-2 B\nu3 C\n")
    assert main.run_command(["score", *map(str, files)]) == 0
    assert capsys.readouterr().err == ""


def test_files_that_have_ids_get_no_hint_at_plain_lines(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="keep the id with an empty text"):
        score_files(*write(tmp_path, r_trn="A (u1)\n", h_trn="A (u2)\n"))
    with pytest.raises(ManifestError, match="keep the id with an empty text"):
        wer.score({"u1": "A"}, {"u2": "A"})


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("u1 SO (WHAT)\nu2 WELL (WHAT)\n", {"u1": "SO (WHAT)", "u2": "WELL (WHAT)"}),
        ("u1 SO (LAUGHS)\n", {"u1": "SO (LAUGHS)"}),
        (";; made by hand\nSO WHAT (u1)\n", {"u1": "SO WHAT"}),
        ("SO WHAT (anna)\n", {"anna": "SO WHAT"}),
    ],
)
def test_words_in_brackets_at_the_end_are_not_taken_for_ids(
    content: str, texts: dict[str, str], tmp_path: Path
) -> None:
    (path,) = write(tmp_path, r=content)
    assert read(path).texts == texts


def test_speakers_come_from_manifests_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"id": f"u{i}", "text": "A B", "speaker": s, "duration_s": 1} for i, s in enumerate(("bo", "anna", "bo", ""))
    ]
    reference, hypothesis = write(
        tmp_path, r_jsonl="\n".join(map(json.dumps, lines)), h="u0 A B\nu1 A\nu2 A C\nu3 A B\n"
    )
    report = score_files(reference, hypothesis)
    tree = report.to_dict()
    assert [(s["speaker"], s["utterances"], s["errors"], s["words"]) for s in tree["speakers"]] == [
        ("anna", 1, 1, 2), ("bo", 2, 1, 4),
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(tree))
    assert score_files(tmp_path / "a.json", hypothesis) == report
    assert main.run_command(["score", str(reference), str(hypothesis), "--speakers"]) == 0
    assert "bo    2 utterances  WER 25.00 %  (1/4; S 1 D 0 I 0)" in capsys.readouterr().out


def test_utf16_as_praat_writes_it(tmp_path: Path) -> None:
    (tmp_path / "a.TextGrid").write_text(FORMATS["textgrid"].write(evenly(["É"])), encoding="utf-16")
    assert read(tmp_path / "a.TextGrid").texts == {"a": "É"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.stm", "talk 1 x 0\n", ":1: expected recording, channel, speaker"),
        ("r.stm", "talk 1 x 0 1 A\ntalk 1 x 2 1 A\n", ":2: expected start and end"),
        ("r.stm", ";; nothing\n", ": expected transcripts, got an empty file"),
        ("r.ctm", "talk 1 x 0 A\n", ":1: expected seconds"),
        ("r.vtt", "WEBVTT\n\n", ""),
    ],
)
def test_bad_files_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    if not message:
        assert read(tmp_path / name).texts == {"r": ""}
        return
    with pytest.raises(ManifestError, match=re.escape(name) + message):
        read(tmp_path / name)


def test_segments_make_bracketed_words_optional_and_lines_do_not() -> None:
    pair = {"u": "A (B)"}, {"u": "A"}
    assert wer.score(*pair).errors == 1
    assert wer.score(*pair, Rules(optional=True)).errors == 0


def test_no_more_is_read_of_a_file_without_end_than_a_transcript_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.scoring.transcript_files.MOST_BYTES", 1000)
    with pytest.raises(ManifestError, match=r"/dev/zero: cannot read the transcripts: .*expected at most 1,000 bytes"):
        read("/dev/zero")
