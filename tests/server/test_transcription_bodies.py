"""Answers as OpenAI's clients read them."""

from __future__ import annotations

import json
import math

import pytest

from asr.formats import to_srt, to_vtt
from asr.server.form_fields import TranscriptionFields
from asr.server.transcription_bodies import EventWriter, transcription_body
from asr.transcript import Transcript, Word

WORDS = (Word("HELLO", 0.1, 0.5, 0.9), Word("NAÏVE", 0.6, 0.9, 0.5), Word("WORLD", 4.0, 4.4, 0.0))
MADE = Transcript(
    "HELLO NAÏVE WORLD", WORDS, 5.0, "a.wav", reliable=True, reliability=0.75, written="Hello naïve world.",
    written_words=(Word("Hello", 0.1, 0.5, 0.9), Word("naïve", 0.6, 0.9, 0.5), Word("world.", 4.0, 4.4, 0.0)),
)  # fmt: skip


def body(**fields):
    data, kind = transcription_body(MADE, TranscriptionFields(**fields), "en")
    return json.loads(data) if kind == "application/json" else (data.decode(), kind)


def test_json_has_the_text_and_the_seconds():
    assert body() == {"text": MADE.text, "usage": {"type": "duration", "seconds": 5.0}}


def test_text_is_the_text_alone():
    assert body(response_format="text") == (MADE.text + "\n", "text/plain; charset=utf-8")


@pytest.mark.parametrize(("name", "write"), [("srt", to_srt), ("vtt", to_vtt)])
def test_subtitles_are_those_of_asr_transcribe(name, write):
    assert body(response_format=name)[0] == write(MADE)


def test_verbose_json_has_the_times_that_are_asked_for():
    both = body(response_format="verbose_json", words=True)
    assert both["words"][1] == {"word": "NAÏVE", "start": 0.6, "end": 0.9}
    assert [(s["start"], s["end"], s["text"]) for s in both["segments"]] == [
        (0.1, 0.9, "HELLO NAÏVE"),
        (4.0, 4.4, "WORLD"),
    ]
    assert {"words", "segments"} & set(body(response_format="verbose_json")) == {"segments"}
    assert {"words", "segments"} & set(body(response_format="verbose_json", words=True, segments=False)) == {"words"}


def test_segments_state_confidence_and_silence():
    first, last = body(response_format="verbose_json")["segments"]
    assert first["avg_logprob"] == pytest.approx((math.log(0.9) + math.log(0.5)) / 2, abs=1e-4)
    assert math.isfinite(last["avg_logprob"])
    assert first["no_speech_prob"] == 0.25


def test_verbose_json_has_the_whole_transcript_under_a_key_of_its_own():
    extra = body(response_format="verbose_json")["asr"]
    assert extra["reliable"] is True
    assert [word["confidence"] for word in extra["words"]] == [0.9, 0.5, 0.0]
    assert [word["text"] for word in extra["written_words"]] == ["Hello", "naïve", "world."]


def test_logprobs_join_to_the_text():
    entries = body(logprobs=True)["logprobs"]
    assert "".join(entry["token"] for entry in entries) == MADE.text
    assert bytes(b for entry in entries for b in entry["bytes"]).decode() == MADE.text
    assert entries[1]["logprob"] == pytest.approx(math.log(0.5), abs=1e-4)


def events(data: bytes) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in data.decode().split("\n\n") if line]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_joined_deltas_are_the_text_of_the_last_event(cut):
    writer = EventWriter(logprobs=True)
    found = events(writer.delta(WORDS[:cut]) + writer.delta(WORDS[cut:]) + writer.done(MADE))
    deltas = [event["delta"] for event in found if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == found[-1]["text"] == MADE.text
    assert found[-1]["type"] == "transcript.text.done"
    joined = [entry for event in found[:-1] for entry in event["logprobs"]]
    assert joined == found[-1]["logprobs"]


def test_the_last_event_counts_tokens():
    usage = events(EventWriter().done(MADE))[-1]["usage"]
    assert (usage["type"], usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (
        "tokens",
        50,
        3,
        53,
    )


def test_events_of_verbose_json_say_where_they_are_and_end_with_the_whole():
    writer = EventWriter(verbose=lambda made: {"words": len(made.words)})
    first, second, done = events(writer.delta(WORDS[:2]) + writer.delta(WORDS[2:]) + writer.done(MADE))
    assert (first["asr"], second["asr"]) == ({"end_s": 0.9}, {"end_s": 4.4})
    assert done["verbose_json"] == {"words": 3}


def test_a_recording_without_words_has_one_event():
    (only,) = events(EventWriter().done(Transcript("", (), 1.0)))
    assert (only["type"], only["text"]) == ("transcript.text.done", "")
