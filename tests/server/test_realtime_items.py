"""The Realtime API without a model: events of clients, events for clients."""

from __future__ import annotations

import base64
import math

import pytest
from scripted import BUSY, final, scripted_services, talk

from asr.server.messages import Final, Partial, SpeechStarted, SpeechStopped
from asr.server.problems import ClosingError, RequestError
from asr.server.realtime import MOST_AUDIO, realtime_routes
from asr.server.realtime_items import TRANSCRIPTION
from asr.transcript import Transcript

SECOND = {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(48000)).decode()}
COMMIT = {"type": "input_audio_buffer.commit"}
CLEAR = {"type": "input_audio_buffer.clear"}
LOGPROBS = "item.input_audio_transcription.logprobs"


@pytest.fixture
def services():
    return scripted_services()


def realtime(services, *messages, **scope):
    return talk(realtime_routes(services), "/v1/realtime", list(messages), **scope)


def update(**heard):
    return {"type": "session.update", "session": {"type": "transcription", "audio": {"input": heard}}}


MANUAL = update(turn_detection=None)


def kinds(answers, *, since=1):
    return [
        answer["type"].rpartition(".")[2] if "item.input" in answer["type"] else answer["type"]
        for answer in answers[since:]
    ]


def deltas(answers):
    return [answer["delta"] for answer in answers if answer["type"] == f"{TRANSCRIPTION}.delta"]


def completed(answers):
    return [answer for answer in answers if answer["type"] == f"{TRANSCRIPTION}.completed"]


def errors(answers):
    return [answer["error"] for answer in answers if answer["type"] == "error"]


def test_the_session_is_shown_first(services):
    (created,) = realtime(services)
    assert created["type"] == "session.created"
    assert created["session"]["audio"]["input"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "transcription": {"model": "demo", "language": None, "prompt": ""},
        "turn_detection": {
            "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
        },
        "noise_reduction": None,
    }  # fmt: skip


def test_an_utterance_is_an_item_with_its_events_in_order(services):
    ended = [SpeechStopped(1.9), final("one two three", start_s=0.5), Partial("", 0, 2.0)]
    services.live.script = [[SpeechStarted(0.5), Partial("one two", 5, 1.0)], ended]
    answers = realtime(services, SECOND, SECOND)
    assert kinds(answers) == [
        "input_audio_buffer.speech_started", "delta", "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done", "delta", "completed",
    ]  # fmt: skip
    assert answers[1]["audio_start_ms"] == 200
    assert answers[3]["audio_end_ms"] == 1900
    assert len({answer.get("item_id") or answer["item"]["id"] for answer in answers[1:]}) == 1
    assert len({answer["event_id"] for answer in answers}) == len(answers)


def test_deltas_are_whole_words_of_the_stable_part_and_joined_they_are_the_transcript(services):
    services.live.script = [
        [SpeechStarted(0.0), Partial("one tw", 6, 0.3)],
        [Partial("one two th", 9, 0.6)],
        [Partial("one two t", 9, 0.9)],
        [SpeechStopped(3.0), final("one two tree"), Partial("", 0, 4.0)],
    ]
    answers = realtime(services, SECOND, SECOND, SECOND, SECOND)
    assert deltas(answers) == ["one", " two", " tree"]
    assert [done["transcript"] for done in completed(answers)] == ["one two tree"]


def test_items_know_the_one_before_them(services):
    services.live.script = [[SpeechStopped(1.0), final("one"), SpeechStopped(2.0), final("two"), Partial("", 0, 2.0)]]
    committed = [a for a in realtime(services, SECOND) if a["type"] == "input_audio_buffer.committed"]
    assert committed[0]["previous_item_id"] is None
    assert committed[1]["previous_item_id"] == committed[0]["item_id"]


def test_usage_is_the_duration_of_the_audio(services):
    services.live.script = [[], []]
    services.live.endings = [final("one"), final("two")]
    answers = realtime(services, MANUAL, SECOND, SECOND, COMMIT, SECOND, COMMIT)
    assert [done["usage"] for done in completed(answers)] == [
        {"type": "duration", "seconds": 2.0}, {"type": "duration", "seconds": 1.0},
    ]  # fmt: skip


def test_without_turn_detection_an_item_ends_where_the_client_commits(services):
    cut = [SpeechStarted(0.1), SpeechStopped(0.5), final("one two"), SpeechStarted(0.6), Partial("three four", 9, 1.0)]
    services.live.script = [cut]
    services.live.endings = [final("three four")]
    answers = realtime(services, MANUAL, SECOND, COMMIT)
    assert services.live.sessions[-1].options.endpoint_s == math.inf
    assert kinds(answers, since=2)[:3] == ["delta", "delta", "input_audio_buffer.committed"]
    assert deltas(answers) == ["one two", " three", " four"]
    assert completed(answers)[0]["transcript"] == "one two three four"


def test_silence_that_ends_a_turn_is_that_of_the_client(services):
    realtime(services, update(turn_detection={"type": "server_vad", "silence_duration_ms": 900}))
    assert services.live.sessions[-1].options.endpoint_s == 0.9


def test_a_client_may_commit_within_a_turn(services):
    services.live.script = [[SpeechStarted(0.1), Partial("one", 0, 0.9)]]
    services.live.endings = [final("one")]
    assert kinds(realtime(services, SECOND, COMMIT))[1:3] == ["input_audio_buffer.committed", "conversation.item.added"]


@pytest.mark.parametrize("before", [[], [SECOND, CLEAR], [SECOND, COMMIT]])
def test_an_empty_commit_is_an_error_and_no_close(services, before):
    answers = realtime(services, *before, COMMIT | {"event_id": "e1"}, SECOND, COMMIT)
    (error,) = errors(answers)
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "e1")
    assert answers.code is None
    assert answers[-1]["type"] == f"{TRANSCRIPTION}.completed"


def test_the_buffer_is_empty_behind_a_turn(services):
    services.live.script = [[SpeechStopped(0.5), final("one"), Partial("", 0, 1.0)]]
    assert errors(realtime(services, SECOND, COMMIT))[0]["code"] == "input_audio_buffer_commit_empty"


def test_what_is_cleared_has_no_transcript(services):
    services.live.script = [[SpeechStarted(0.0), Partial("one two", 4, 1.0)], [Partial("three four", 6, 2.0)]]
    services.live.endings = [final("three four")]
    answers = realtime(services, SECOND, CLEAR, SECOND, COMMIT)
    assert services.live.sessions[0].forgotten == 1
    assert "input_audio_buffer.cleared" in kinds(answers)
    assert [done["transcript"] for done in completed(answers)] == ["three four"]
    item = completed(answers)[0]["item_id"]
    assert [a["delta"] for a in answers if a.get("item_id") == item and "delta" in a] == ["three", " four"]


def test_logprobs_are_those_of_the_words_where_they_are_asked_for(services):
    services.live.endings = [final("one two"), final("three")]
    asked = {"type": "session.update", "session": {"include": [LOGPROBS]}}
    answers = realtime(services, SECOND, COMMIT, asked, SECOND, COMMIT, asked | {"session": {"include": []}})
    first, second = completed(answers)
    assert "logprobs" not in first
    assert second["logprobs"] == [
        {"token": "three", "bytes": [*b"three"], "logprob": pytest.approx(math.log(0.5), abs=1e-3)}
    ]


def test_deltas_of_what_was_no_speech_in_the_end_are_taken_back(services):
    nothing = Final(Transcript("", (), 2.0), (), ())
    services.live.script = [[SpeechStarted(0.0), Partial("uh huh", 4, 1.0)], [SpeechStopped(2.0), nothing]]
    answers = realtime(services, SECOND, SECOND)
    assert answers[-1]["type"] == f"{TRANSCRIPTION}.failed"
    assert answers[-1]["error"]["code"] == "not_speech"


def test_a_part_of_an_item_that_was_no_speech_does_not_spoil_the_rest(services):
    nothing = Final(Transcript("", (), 2.0), (), ())
    services.live.script = [[Partial("uh huh", 4, 1.0)], [nothing, Partial("one t", 4, 2.0)]]
    services.live.endings = [final("one two")]
    answers = realtime(services, MANUAL, SECOND, SECOND, COMMIT)
    assert "".join(deltas(answers)) == completed(answers)[0]["transcript"] == "uh one two"


def test_silence_without_words_is_no_item(services):
    services.live.script = [[SpeechStopped(20.0), final(""), Partial("", 0, 20.0)]]
    assert kinds(realtime(services, SECOND)) == []


@pytest.mark.parametrize(
    ("kind", "encoding", "rate"),
    [("audio/pcmu", "mulaw", 8000), ("audio/pcma", "alaw", 8000), ("audio/pcm", "s16le", 24000)],
)
def test_formats(services, kind, encoding, rate):
    realtime(services, update(format={"type": kind}, turn_detection=None))
    options = services.live.sessions[-1].options
    assert (options.encoding, options.rate_hz) == (encoding, rate)


def test_keywords_are_hot_words(services):
    realtime(services, update(transcription={"model": "demo", "language": "en-GB", "keywords": ["Ann", "New York"]}))
    assert services.live.sessions[-1].options.hot_words == {"Ann": 5.0, "New York": 5.0}


def test_an_update_changes_what_it_names_and_shows_everything(services):
    answers = realtime(services, update(transcription={"language": "en", "prompt": "p"}), update(turn_detection=None))
    heard = answers[-1]["session"]["audio"]["input"]
    assert answers[-1]["type"] == "session.updated"
    assert heard["transcription"] == {"model": "demo", "language": "en", "prompt": "p"}
    assert heard["turn_detection"] is None


def test_what_was_said_before_an_update_is_committed(services):
    services.live.script = [[Partial("one", 0, 1.0)]]
    services.live.endings = [final("one")]
    answers = realtime(services, MANUAL, SECOND, update(format={"type": "audio/pcmu"}))
    assert [done["transcript"] for done in completed(answers)] == ["one"]
    assert answers[-1]["type"] == "session.updated"


def test_older_clients_have_their_own_names(services):
    session = {
        "input_audio_format": "g711_ulaw", "input_audio_transcription": {"model": "demo", "language": "en"},
        "turn_detection": None, "include": [LOGPROBS],
    }  # fmt: skip
    services.live.endings = [final("one")]
    answers = realtime(services, {"type": "transcription_session.update", "session": session}, SECOND, COMMIT)
    assert answers[1]["type"] == "transcription_session.updated"
    shown = answers[1]["session"]
    assert {name: shown[name] for name in ("input_audio_format", "turn_detection", "include")} == {
        "input_audio_format": "g711_ulaw", "turn_detection": None, "include": [LOGPROBS],
    }  # fmt: skip
    assert "conversation.item.created" in kinds(answers)


@pytest.mark.parametrize(
    ("event", "param"),
    [
        (update(transcription={"model": "gpt-9"}), "session.audio.input.transcription.model"),
        (update(transcription={"language": "xx"}), "session.audio.input.transcription.language"),
        (update(transcription={"keywords": "Ann"}), "session.audio.input.transcription.keywords"),
        (update(transcription={"keywords": ["a" * 999]}), "session.audio.input.transcription.keywords[0]"),
        (update(transcription={"delay": "none"}), "session.audio.input.transcription.delay"),
        (update(transcription=[]), "session.audio.input.transcription"),
        (update(format={"type": "audio/mp3"}), "session.audio.input.format.type"),
        (update(format={"type": "audio/pcmu", "rate": 24000}), "session.audio.input.format.rate"),
        (update(turn_detection={"type": "semantic_vad"}), "session.audio.input.turn_detection.type"),
        (update(turn_detection={"silence_duration_ms": 0}), "session.audio.input.turn_detection.silence_duration_ms"),
        (update(turn_detection={"idle_timeout_ms": 5}), "session.audio.input.turn_detection.idle_timeout_ms"),
        (update(turn_detection={"sensitivity": 5}), "session.audio.input.turn_detection.sensitivity"),
        (update(noise_reduction={"type": "deep"}), "session.audio.input.noise_reduction.type"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "session.type"),
        ({"type": "session.update", "session": {"include": ["all"]}}, "session.include"),
        ({"type": "session.update", "session": {"includes": []}}, "session.includes"),
        ({"type": "session.update", "session": 5}, "session"),
        ({"type": "session.update"}, "session"),
        ({"type": "transcription_session.update", "session": {"turn_detection": 5}}, "session.turn_detection"),
        ({"type": "session.update", "session": {"input_audio_format": "mp3"}}, "session.input_audio_format"),
        ({"type": "input_audio_buffer.append"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AA=A"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "\u00e4\u00e4\u00e4\u00e4"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": [0, 0]}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "A" * (MOST_AUDIO * 4 // 3 + 8)}, "audio"),
        ({"type": "response.create"}, "type"),
        ({"type": "input_audio_buffer.flush"}, "type"),
        ({"type": 5}, "type"),
        ({}, "type"),
    ],
)  # fmt: skip
def test_a_wrong_event_is_an_error_naming_the_field_and_changes_nothing(services, event, param):
    answers = realtime(services, event | {"event_id": "e1"}, SECOND, COMMIT)
    (error,) = errors(answers)
    assert (error["param"], error["event_id"], error["type"]) == (param, "e1", "invalid_request_error")
    assert len(services.live.sessions) == 1
    assert answers[-1]["type"] == f"{TRANSCRIPTION}.completed"


@pytest.mark.parametrize(
    "message", [b"\0" * 4800, b"{}", "", "no", "[]", "5", "[" * 100_000, '{"type": 1e999}', '{"a": "\\ud800"}']
)
def test_what_is_no_event_is_an_error_and_no_close(services, message):
    answers = realtime(services, message, SECOND, COMMIT)
    assert len(errors(answers)) == 1
    assert answers[-1]["type"] == f"{TRANSCRIPTION}.completed"


def test_a_keyword_that_the_model_cannot_spell_leaves_the_session_as_it_was(services):
    opened = services.live.open

    async def refusing(options, **others):
        if options.hot_words:
            raise RequestError("hot word '\u4f60': cannot be spelt", "hot_words")
        return await opened(options, **others)

    services.live.open = refusing
    services.live.endings = [final("one")]
    answers = realtime(services, update(transcription={"keywords": ["\u4f60"]}), SECOND, COMMIT)
    assert errors(answers)[0]["param"] == "session.audio.input.transcription.keywords"
    assert completed(answers)[0]["transcript"] == "one"


@pytest.mark.parametrize("query", [b"", b"intent=transcription", b"model=demo"])
def test_a_model_may_be_named_in_the_address(services, query):
    assert realtime(services, query_string=query)[0]["type"] == "session.created"


def test_an_unknown_model_in_the_address_is_refused_before_the_handshake(services):
    assert realtime(services, query_string=b"model=gpt-9").status == 404


def test_no_room_is_said_before_the_handshake(services):
    services.live.refusal = BUSY
    refused = realtime(services)
    assert (refused.status, refused.headers["retry-after"]) == (503, "7")


def test_beyond_the_limit_what_was_said_before_is_committed(services):
    services.live.script = [[Partial("on", 0, 1.0)], RequestError("expected at most 1 s in a stream, got more")]
    services.live.endings = [final("one")]
    answers = realtime(services, MANUAL, SECOND, SECOND)
    assert completed(answers)[0]["transcript"] == "one"
    assert (answers[-1]["error"]["code"], answers.code) == ("invalid_request", 1008)


def test_at_shutdown_what_was_said_is_committed(services):
    under_way = [SpeechStarted(0.5), Partial("on", 0, 1.0)]
    services.live.script = [under_way, ClosingError("the server is shutting down")]
    services.live.endings = [final("one")]
    answers = realtime(services, SECOND, SECOND)
    assert completed(answers)[0]["transcript"] == "one"
    assert (errors(answers)[0]["type"], answers.code) == ("server_error", 1012)


def test_at_shutdown_a_client_that_waits_gets_the_item_under_way(services):
    services.live.endings = [final("one")]
    answers = realtime(services, MANUAL, SECOND, closing=services.closing)
    assert completed(answers)[0]["transcript"] == "one"
    assert (answers[-1]["type"], answers.code) == ("error", 1012)


def test_at_shutdown_silence_is_no_item(services):
    answers = realtime(services, SECOND, closing=services.closing)
    assert (kinds(answers), answers.code) == (["error"], 1012)


@pytest.mark.parametrize("messages", [[], [SECOND], [MANUAL, SECOND], ["no"]])
def test_a_client_that_vanishes_leaves_nothing_open(services, messages):
    realtime(services, *messages)
    assert all(session.closed for session in services.live.sessions)
