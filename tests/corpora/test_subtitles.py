"""Subtitles as they are read: what we write, what the W3C allows, and what people have."""

from __future__ import annotations

import pytest
from hypothesis import given
from test_transcript import evenly, transcripts

from asr.formats import cue_times, group_cues, to_srt, to_vtt
from asr.subtitles import Cue, read_cues
from asr.transcript import Transcript, Word


@given(transcripts())
def test_webvtt_that_we_write_is_read_back(made: Transcript) -> None:
    cues = group_cues(made.words)
    read = read_cues(to_vtt(made))
    assert [cue.text for cue in read] == [" ".join(word.text for word in cue) for cue in cues]
    for cue, times in zip(read, cue_times(cues), strict=True):
        assert (cue.start_s, cue.end_s) == pytest.approx(times, abs=6e-4)


def test_subrip_that_we_write_is_read_back() -> None:
    words = ["R&D", "a<b", "{A", "/", "B}", "1", "-->", "&amp;"]

    assert [cue.text for cue in read_cues(to_srt(evenly(words)))] == [" ".join(words)]


def test_webvtt_tags_voices_and_escapes() -> None:
    content = (
        "\ufeffWEBVTT - a title\r\nKind: captions\r\n\r\nNOTE not shown\r\n\r\nSTYLE\r\n::cue { color: red }\r\n\r\n"
        "first\r\n00:01.500 --> 00:02.000 align:start line:0\r\n<v.loud Anna &amp; Bo>R&amp;D&nbsp;&lt;b&gt;</v>\r\n"
        "<c.yellow>and</c> <00:01.700><i>more</i>\r\n\r\n100:00:00.000 --> 100:00:01.000\r\n<v A>x</v> <v B>y</v>\r\n"
    )
    assert read_cues(content) == [
        Cue(1.5, 2.0, "R&D <b> and more", "Anna & Bo"),
        Cue(360000.0, 360001.0, "x y"),
    ]


def test_subrip_formatting_goes_and_other_brackets_stay() -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\n{\\an8}<i>I <3</i> you {a / b} &amp;\n"
    assert read_cues(content) == [Cue(1.0, 2.0, "I <3 you {a / b} &amp;")]


def test_subrip_without_blank_lines_between_its_cues() -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nONE\n2\n00:00:02,000 --> 00:00:03,000\nTWO\n3"
    assert [cue.text for cue in read_cues(content)] == ["ONE", "TWO 3"]


@pytest.mark.parametrize("line", ["1" * 200_000, "<" * 200_000, "1:" * 100_000, "00:00:01,000 -->" + " " * 200_000])
def test_long_lines_are_read_in_linear_time(line: str) -> None:
    cue = "00:00:01,000 --> 00:00:02,000\n"
    assert len(read_cues(f"WEBVTT\n\n{line}\n\n{cue}{line}\n")) == 1


def test_cues_without_duration_are_not_written() -> None:
    made = Transcript("", tuple(Word(letter * 42, 1.0, 1.0, 0.5) for letter in "ABCDE"), 1.0)
    assert len(read_cues(to_vtt(made))) == len(read_cues(to_srt(made))) == 3
