"""One table of formats: what is written is read back, and everybody who names formats takes them from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from test_transcript import transcripts

from asr.cli import main
from asr.errors import ManifestError
from asr.formats import FORMATS, of_file
from asr.transcript import Transcript, Word

ROOT = Path(__file__).parent.parent


def read(name: str, content: str) -> list[Transcript]:
    return FORMATS[name].read(content, "a")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "srt"])
@given(transcripts())
def test_texts_are_read_back(name: str, made: Transcript) -> None:
    found = read(name, FORMATS[name].write(made))
    assert [t.text for t in found] == ([made.text] if made.words or name != "ctm" else [])


def test_subrip_is_read_back_but_for_its_formatting() -> None:
    made = Transcript("R&D <3 <i>", tuple(Word(w, i, i + 1.0, 1.0) for i, w in enumerate("R&D <3 <i>".split())), 3.0)
    assert read("srt", FORMATS["srt"].write(made))[0].text == "R&D <3"


@pytest.mark.parametrize("name", ["json", "ctm", "textgrid"])
@given(transcripts())
def test_words_are_read_back_with_their_times(name: str, made: Transcript) -> None:
    for found in read(name, FORMATS[name].write(made)):
        assert [w.text for w in found.words] == [w.text for w in made.words]
        for got, word in zip(found.words, made.words, strict=True):
            assert (got.start_s, got.end_s) == pytest.approx((word.start_s, word.end_s), abs=1.1e-3)


def test_json_is_read_back_whole() -> None:
    made = Transcript("A", (Word("A", 0.25, 0.5, 0.75),), 1.5, "x/b.wav", (Word("A", 0.25, 0.5, 0.75),), 2)
    assert read("json", FORMATS["json"].write(made) * 2) == [made, made]


def test_a_ctm_holds_several_recordings_and_channels() -> None:
    content = ";; made by hand\nb A 1.0 0.5 two 0.9 lex anna\nb A 0.2 0.2 one NA\nb 2 0 1 x\nc 1 0 1 y\n"
    found = read("ctm", content)
    assert [(t.source, t.channel, t.text) for t in found] == [("b", 1, "one two"), ("b", 2, "x"), ("c", 1, "y")]
    assert [w.confidence for w in found[0].words] == [1.0, 0.9]


def test_the_time_of_a_cue_is_shared_out_by_length() -> None:
    (found,) = read("vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\n<v A>abc d</v>\n")
    assert found.words == (Word("abc", 1.0, 1.75, 1.0), Word("d", 1.75, 2.0, 1.0))


SHORT = """"ooTextFile"
"TextGrid"

0
2.5
<exists>
3
"TextTier"
"events"
0
2.5
1
1.0
"click"
"IntervalTier"
"phones"
0
2.5
1
0
2.5
"P"
"IntervalTier"
"Words"
0
2.5
2
0
1
""
1
2.5
"say ""A"" 3"
"""


def test_textgrids_in_short_form_with_other_tiers() -> None:
    (found,) = read("textgrid", 'File type = "ooTextFile"\nObject class = ' + SHORT.partition("\n")[2])
    assert (found.text, found.duration_s, found.words[0].start_s) == ('say "A" 3', 2.5, 1.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ctm", "a 1 0 1 x\na 1 0 1\n", "2: expected recording, channel"),
        ("ctm", "a 1 0 nan x\n", "1: expected seconds"),
        ("ctm", "a left 0 1 x\n", "1: expected a channel"),
        ("ctm", "a 1 * * <ALT_BEGIN>\n", "1: expected no alternatives"),
        ("json", '{"text": "A", "words": [{"text": "A"}]}', "1: expected words with text, start_s"),
        ("json", '{"text": "A"}\n[]\n', "2: expected a transcript"),
        ("json", '{"text": "A"}\n{\n', "2: expected a JSON object"),
        ("textgrid", "A", "1: .*damaged"),
        ("textgrid", '"ooTextFile" "PitchTier" 0 1', "1: expected a TextGrid"),
        ("textgrid", SHORT[:-20], "1: .*damaged: it ends too early"),
        ("textgrid", SHORT.replace("2.5", "1e999"), "1: .*damaged"),
    ],
)
def test_damaged_files_are_named(name: str, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read(name, content)


def test_suffixes_tell_the_format_in_any_case() -> None:
    assert {name: of_file(f"x/a{format.suffix.upper()}") for name, format in FORMATS.items()} == FORMATS
    assert of_file("a.wav") is None


def choices(command: str) -> tuple[str, ...]:
    commands = main.build_parser()._subparsers._group_actions[0].choices[command]
    return tuple(next(a for a in commands._actions if a.dest == "format").choices)


def test_the_command_line_offers_the_table() -> None:
    assert choices("transcribe") == tuple(FORMATS)
    assert choices("align") == tuple(name for name, format in FORMATS.items() if format.timed)


def test_the_docs_name_every_format() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\.\w+)`", (ROOT / "docs" / "scoring.md").read_text(encoding="utf-8"), re.M)
    assert dict(rows) == {name: format.suffix for name, format in FORMATS.items()}
