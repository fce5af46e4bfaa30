"""Output formats, read back by small parsers written from the formats' definitions."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr import formats
from asr.formats import FORMATS as TABLE
from asr.transcript import Transcript, Word

FORMATS = {name: format.write for name, format in TABLE.items()}

SRT_TIMES = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d),(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d),(\d{3})")
VTT_TIMES = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})")


@dataclass(frozen=True)
class Cue:
    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def cue(match: re.Match[str] | None, lines: list[str]) -> Cue:
    assert match, lines
    h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
    return Cue(((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2, tuple(lines))


def parse_srt(body: str) -> list[Cue]:
    """Blocks of number, times and lines, divided by one blank line each."""
    if not body:
        return []
    assert body.endswith("\n")
    cues = []
    for number, block in enumerate(body.removesuffix("\n").split("\n\n"), start=1):
        first, times, *lines = block.split("\n")
        assert first == str(number)
        assert lines
        cues.append(cue(SRT_TIMES.fullmatch(times), lines))
    return cues


def parse_vtt(body: str) -> list[Cue]:
    """As the W3C has it: the signature, a blank line, cues divided by blank lines, ``&``, ``<``, ``>`` escaped."""
    assert body.endswith("\n")
    signature, *blocks = body.removesuffix("\n").split("\n\n")
    assert signature == "WEBVTT"
    cues = []
    for block in blocks:
        times, *lines = block.split("\n")
        assert lines
        for line in lines:
            assert "-->" not in line
            assert not re.search(r"<|>|&(?!amp;|lt;|gt;)", line)
        lines = [line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for line in lines]
        cues.append(cue(VTT_TIMES.fullmatch(times), lines))
    return cues


def spoken(*words: tuple[str, float, float]) -> Transcript:
    made = tuple(Word(text, start, end, 0.5) for text, start, end in words)
    return Transcript(" ".join(w.text for w in made), made, made[-1].end_s if made else 1.0, "a.wav")


def evenly(texts: list[str], seconds: float = 0.1, start: float = 0.0) -> Transcript:
    return spoken(*((text, start + i * seconds, start + (i + 1) * seconds) for i, text in enumerate(texts)))


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Words as recognition gives them: in order, of any length, with pauses between them."""
    texts = st.text("ABÉ'&<>-", min_size=1, max_size=50)
    steps = st.tuples(texts, st.integers(0, 1500), st.integers(40, 3000), st.floats(0, 1))
    words, at = [], draw(st.integers(0, 4_000_000))
    for text, pause, length, confidence in draw(st.lists(steps, max_size=30)):
        words.append(Word(text, (at + pause) / 1000, (at + pause + length) / 1000, confidence))
        at += pause + length
    return Transcript(" ".join(w.text for w in words), tuple(words), at / 1000, draw(st.text(max_size=9)))


@given(transcripts())
def test_subtitles_read_back(made: Transcript) -> None:
    cues = parse_srt(FORMATS["srt"](made))
    assert parse_vtt(FORMATS["vtt"](made)) == cues
    assert [word for c in cues for line in c.lines for word in line.split()] == [w.text for w in made.words]
    at = 0
    starts = {round(w.start_s * 1000) for w in made.words}
    last = {round(c[0].start_s * 1000): round(c[-1].end_s * 1000) for c in formats.group_cues(made.words)}
    for c, after in itertools.zip_longest(cues, cues[1:]):
        assert at <= c.start_ms < c.end_ms
        assert c.start_ms in starts
        read_ms = max(1000, 1000 * len("\n".join(c.lines)) / 17)
        assert (
            c.end_ms
            == max(last[c.start_ms], min(round(c.start_ms + min(7000, read_ms)), after.start_ms if after else 10**12))
            or abs(c.end_ms - c.start_ms - read_ms) <= 1
        )
        at = c.end_ms
        words = [word for line in c.lines for word in line.split()]
        assert len(c.lines) <= 2
        assert all(len(line) <= 42 or " " not in line for line in c.lines)
        assert c.end_ms - c.start_ms <= 7000 or len(words) == 1


@given(transcripts())
def test_json_is_one_line_with_these_keys(made: Transcript) -> None:
    body = FORMATS["json"](made)
    assert body.count("\n") == 1
    keys = ["format", "source", "duration_s", "text", "written", "confidence", "reliable", "reliability", "words"]
    assert list(json.loads(body)) == keys


@given(transcripts())
def test_json_reads_back(made: Transcript) -> None:
    tree = json.loads(FORMATS["json"](made))
    assert (tree["format"], tree["source"], tree["text"]) == (3, made.source, made.text)
    assert tree["duration_s"] == pytest.approx(made.duration_s, abs=5e-4)


@given(transcripts())
def test_words_of_json_read_back(made: Transcript) -> None:
    tree = json.loads(FORMATS["json"](made))
    for got, word in zip(tree["words"], made.words, strict=True):
        assert list(got) == ["text", "start_s", "end_s", "confidence"]
        assert got["text"] == word.text
        assert (got["start_s"], got["end_s"]) == pytest.approx((word.start_s, word.end_s), abs=5e-4)
        assert got["confidence"] == pytest.approx(word.confidence, abs=5e-5)


@given(transcripts())
def test_ctm_has_six_fields_a_line(made: Transcript) -> None:
    lines = FORMATS["ctm"](made).splitlines()
    assert len(lines) == len(made.words)
    for line, word in zip(lines, made.words, strict=True):
        name, channel, start, duration, text, confidence = line.split(" ")
        assert name
        assert (channel, text) == ("1", word.text)
        assert float(start) == pytest.approx(word.start_s, abs=5e-4)
        assert float(duration) == pytest.approx(word.end_s - word.start_s, abs=5.1e-4)
        assert float(confidence) == pytest.approx(word.confidence, abs=5e-5)


@pytest.mark.parametrize(
    ("source", "name"),
    [("in/a.wav", "a"), ("my files/a b.wav", "a_b"), ("cen1-fash-b", "cen1-fash-b"), ("", "-"), ("\ta\n", "a")],
)
def test_ctm_names_are_stems_without_blanks(source: str, name: str) -> None:
    made = Transcript("A", (Word("A", 0.04, 0.2, 0.5),), 1.0, source)
    assert FORMATS["ctm"](made) == f"{name} 1 0.040 0.160 A 0.5000\n"


def test_words_that_were_written_together_share_their_time_in_a_ctm() -> None:
    made = Transcript("$5 million", (Word("$5 million", 1.0, 2.0, 0.5),), 3.0, "a.wav")
    assert FORMATS["ctm"](made) == "a 1 1.000 0.500 $5 0.5000\na 1 1.500 0.500 million 0.5000\n"


def test_txt_is_one_line() -> None:
    assert FORMATS["txt"](evenly(["OH", "ONE"])) == "OH ONE\n"


def test_nothing_said() -> None:
    silence = Transcript("", (), 1.5, "a.wav")
    assert str(silence) == ""
    assert silence.confidence is None
    assert json.loads(FORMATS["json"](silence))["confidence"] is None
    assert {name: FORMATS[name](silence) for name in ("txt", "srt", "vtt", "ctm")} == {
        "txt": "\n",
        "srt": "",
        "vtt": "WEBVTT\n",
        "ctm": "",
    }
    assert json.loads(FORMATS["json"](silence))["words"] == []


def test_known_subtitles() -> None:
    made = spoken(("OH", 0.1, 0.35), ("ONE", 0.4, 0.8), ("TWO", 2.5, 3.0))
    # A second at least, though the words take less.
    times = (("00:00:00{}100 --> 00:00:01{}100", "OH ONE"), ("00:00:02{}500 --> 00:00:03{}500", "TWO"))
    assert FORMATS["srt"](made) == "\n".join(
        f"{i}\n{at.format(',', ',')}\n{text}\n" for i, (at, text) in enumerate(times, start=1)
    )
    assert FORMATS["vtt"](made) == "WEBVTT\n" + "".join(f"\n{at.format('.', '.')}\n{text}\n" for at, text in times)


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (0, "00:00:00,000"),
        (0.9994, "00:00:00,999"),
        (0.9996, "00:00:01,000"),
        (59.9999, "00:01:00,000"),
        (3599.9999, "01:00:00,000"),
        (3600, "01:00:00,000"),
        (3661.25, "01:01:01,250"),
        (360000, "100:00:00,000"),
    ],
)
def test_clock(seconds: float, clock: str) -> None:
    body = FORMATS["srt"](spoken(("A", seconds, seconds + 1)))
    assert body.splitlines()[1].split(" --> ")[0] == clock
    assert FORMATS["vtt"](spoken(("A", seconds, seconds + 1))).splitlines()[2].startswith(clock.replace(",", "."))


def test_a_cue_is_two_full_lines() -> None:
    texts = ["A" * 20, "B" * 21] * 2 + ["C"]
    assert [c.lines for c in parse_srt(FORMATS["srt"](evenly(texts)))] == [
        (f"{texts[0]} {texts[1]}", f"{texts[2]} {texts[3]}"),
        ("C",),
    ]


def test_a_line_of_43_characters_is_broken() -> None:
    (only,) = parse_srt(FORMATS["srt"](evenly(["A" * 21, "B" * 21])))
    assert only.lines == ("A" * 21, "B" * 21)


def test_a_word_longer_than_a_line_is_not_cut() -> None:
    long = "A" * 100
    cues = parse_srt(FORMATS["srt"](evenly(["OH", long, "ONE", long, "TWO"])))
    assert [line for c in cues for line in c.lines] == ["OH", long, "ONE", long, "TWO"]
    assert all(len(c.lines) <= 2 for c in cues)


@pytest.mark.parametrize(("pause", "cues"), [(0.0, 1), (formats.PAUSE_S, 1), (formats.PAUSE_S + 0.01, 2)])
def test_a_pause_begins_a_cue(pause: float, cues: int) -> None:
    assert len(formats.group_cues(spoken(("A", 0.0, 1.0), ("B", 1.0 + pause, 3.0)).words)) == cues


def test_a_cue_stays_seven_seconds_at_most() -> None:
    cues = formats.group_cues(evenly(["A"] * 20, seconds=1.0).words)
    assert [len(c) for c in cues] == [7, 7, 6]


def test_a_cue_stays_long_enough_to_be_read_and_never_into_the_next() -> None:
    full = " ".join(["A" * 20] * 4)
    made = spoken((full[:41], 0.0, 1.0), ("B", 10.0, 10.1), ("C", 11.5, 11.6))
    cues = parse_srt(FORMATS["srt"](made))
    assert [(c.start_ms, c.end_ms) for c in cues] == [(0, 2412), (10000, 11000), (11500, 12500)]
    hurried = spoken(("B", 10.0, 10.1), ("C" * 42 + "D", 10.2, 10.3), ("E", 11.31, 11.4))
    assert [(c.start_ms, c.end_ms) for c in parse_srt(FORMATS["srt"](hurried))][-1] == (11310, 12310)
    crowded = evenly(["A" * 42] * 4, seconds=0.2)
    assert [(c.start_ms, c.end_ms) for c in parse_srt(FORMATS["srt"](crowded))] == [(0, 400), (400, 5400)]


def parse_textgrid(body: str) -> dict[str, list[tuple[float, float, str]]]:
    """Tiers of a long TextGrid, as Praat reads it: the numbers and quoted strings in order, everything else ignored."""
    values = [
        text.replace('""', '"') if quoted else float(number)
        for quoted, text, number in re.findall(r'("((?:[^"]|"")*)")|(?<=[=] )(-?[\d.]+)', body)
    ]
    assert values[:2] == ["ooTextFile", "TextGrid"]
    _, end, count, *rest = values[2:]
    tiers = {}
    for _ in range(int(count)):
        kind, name, start, last, size, *rest = rest
        assert (kind, start, last) == ("IntervalTier", 0, end)
        intervals = [tuple(rest[3 * i : 3 * i + 3]) for i in range(int(size))]
        rest = rest[3 * int(size) :]
        # Without gaps or overlaps, from the beginning to the end.
        assert [a[1] for a in intervals[:-1]] == [b[0] for b in intervals[1:]]
        assert (intervals[0][0], intervals[-1][1]) == (0, end)
        tiers[name] = intervals
    assert not rest
    return tiers


@given(transcripts())
def test_textgrids_read_back(made: Transcript) -> None:
    tiers = parse_textgrid(FORMATS["textgrid"](made))
    words = [interval for interval in tiers["words"] if interval[2]]
    assert words == [(pytest.approx(w.start_s), pytest.approx(w.end_s), w.text) for w in made.words]
    assert list(tiers) == ["words"]


@pytest.mark.parametrize(
    "times",
    [
        [(0.1, 0.1), (0.1, 0.1), (0.1, 0.2)],  # without length
        [(0.0, 0.6), (0.2, 0.4), (0.4, 0.7)],  # over one another
        [(0.2, 0.4), (0.2, 0.4), (0.1, 0.3)],
        [(0.8, 1.4), (1.5, 1.5)],  # beyond the end of the recording
        [(0.0000001, 0.0000004), (0.9999999, 1.0000004)],
    ],
)
def test_textgrids_lose_no_word_and_have_no_empty_interval(times: list[tuple[float, float]]) -> None:
    words = tuple(Word(f"w{i}", start_s, end_s, 0.5) for i, (start_s, end_s) in enumerate(times))
    tiers = parse_textgrid(FORMATS["textgrid"](Transcript("", words, 1.0, "a.wav", words)))
    for intervals in tiers.values():
        assert [text for _, _, text in intervals if text] == [word.text for word in words]
        assert all(start < end for start, end, _ in intervals)
    assert tiers["words"][-1][1] >= 1.0


def test_textgrids_have_a_tier_of_tokens_where_they_are_known() -> None:
    tokens = (Word("A", 0.1, 0.2, 0.9), Word('"', 0.3, 0.4, 0.8))
    made = Transcript('A"', (Word('A"', 0.1, 0.4, 0.8),), 0.5, "a.wav", tokens)
    assert parse_textgrid(FORMATS["textgrid"](made))["tokens"] == [
        (0, 0.1, ""), (0.1, 0.2, "A"), (0.2, 0.3, ""), (0.3, 0.4, '"'), (0.4, 0.5, ""),
    ]  # fmt: skip
    assert json.loads(FORMATS["json"](made))["tokens"][1] == {
        "text": '"', "start_s": 0.3, "end_s": 0.4, "confidence": 0.8,
    }  # fmt: skip


@given(transcripts())
def test_json_is_what_its_schema_says(made: Transcript) -> None:
    schema = json.loads((Path(asr.__file__).parent / "assets" / "transcript.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(FORMATS["json"](made)), schema)
    for broken in (
        {"format": 2},
        {"reliability": 1.5},
        {"reliable": 0},
        {"duration_s": -1},
        {"words": [{"text": "A"}]},
        {"confidence": 1.5},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(made.to_dict() | broken, schema)


def test_vtt_escapes_markup_and_arrows() -> None:
    body = FORMATS["vtt"](evenly(["<b>", "R&D", "-->"]))
    assert "&lt;b&gt; R&amp;D --&gt;" in body
    assert parse_vtt(body)[0].lines == ("<b> R&D -->",)


def test_escapes_do_not_count_towards_the_line() -> None:
    (only,) = parse_vtt(FORMATS["vtt"](evenly(["&" * 21, "&" * 20])))
    assert only.lines == (f"{'&' * 21} {'&' * 20}",)


def test_confidence_is_the_mean_of_the_words() -> None:
    made = Transcript("A B", (Word("A", 0, 1, 0.25), Word("B", 1, 2, 0.75)), 2.0)
    assert made.confidence == made.to_dict()["confidence"] == 0.5


def unsure(*confidences: float, threshold: float | None = 0.6) -> str:
    words = tuple(Word("A", i, i + 1, c) for i, c in enumerate(confidences))
    return Transcript(" ".join("A" for _ in words), words, 2.0, "a.wav", threshold=threshold).doubt


def test_a_confidence_below_the_threshold_is_a_doubt() -> None:
    doubt = unsure(0.25, 0.5, 0.75)
    assert doubt.startswith(
        "a.wav: the model may not know this kind of speech (confidence 0.50, expected 0.60 or more)"
    )
    assert "\n" not in doubt
    assert unsure(0.25, 0.5, 0.75, threshold=0.5) == ""
    assert unsure(0.25, 0.5, 0.75, threshold=None) == ""
    assert unsure() == ""


def test_one_or_two_words_have_to_be_less_sure_to_be_a_doubt() -> None:
    assert unsure(0.21) == unsure(0.41, 0.41) == ""
    assert "expected 0.20 or more" in unsure(0.19)
    assert "expected 0.40 or more" in unsure(0.39, 0.39)
