"""The Vosk protocol without a model: one reply for each message, and what is in it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scripted import BUSY, final, scripted_services, talk

from asr.server.messages import Final, Partial
from asr.server.problems import ClosingError, RequestError, WorkerLostError
from asr.server.vosk import vosk_routes
from asr.transcript import Transcript, Word

SECOND = bytes(16000)
"""Of audio at 8000 Hz."""


@pytest.fixture
def services():
    return scripted_services()


def vosk(services, *messages, **scope):
    return talk(vosk_routes(services), "/vosk", list(messages), **scope)


def test_each_message_of_audio_has_one_reply_and_a_configuration_has_none(services):
    services.live.script = [[Partial("one tw", 3, 1.0)], [final("one two"), Partial("", 0, 2.0)], []]
    replies = vosk(services, {"config": {"words": False}}, SECOND, SECOND, SECOND)
    assert replies == [{"partial": "one tw", "stable": 3}, {"text": "one two"}, {"partial": "", "stable": 0}]


def test_words_have_times_and_confidences_until_told_otherwise(services):
    services.live.script = [[final("one two")]]
    assert vosk(services, SECOND) == [
        {
            "text": "one two",
            "result": [
                {"conf": 0.5, "start": 0.0, "end": 1.0, "word": "one"},
                {"conf": 0.5, "start": 1.0, "end": 2.0, "word": "two"},
            ],
        }
    ]


def test_utterances_that_end_in_one_message_become_one_result(services):
    services.live.script = [[final("one"), final("two three", start_s=4.0), Partial("fo", 1, 6.0)]]
    (reply,) = vosk(services, SECOND)
    assert reply["text"] == "one two three"
    assert [word["start"] for word in reply["result"]] == [0, 4, 5]


def test_alternatives_of_utterances_are_combined_best_first(services):
    first = dataclasses.replace(final("one", "won"), shares=(0.7, 0.3))
    second = dataclasses.replace(final("two", "too", "to"), shares=(0.5, 0.3, 0.2))
    services.live.script = [[first, second]]
    (reply,) = vosk(services, {"config": {"max_alternatives": 3, "words": False}}, SECOND)
    assert reply == {
        "alternatives": [
            {"confidence": 0.35, "text": "one two"},
            {"confidence": 0.21, "text": "one too"},
            {"confidence": 0.15, "text": "won two"},
        ]
    }


def test_alternatives_are_asked_for_up_to_sixteen(services):
    vosk(services, {"config": {"max_alternatives": 20}}, SECOND)
    assert services.live.sessions[-1].options.alternatives == 16


def test_results_have_the_spoken_and_the_written_words_where_a_client_asks(services):
    shown = Transcript("Two.", (Word("Two.", 0.0, 1.0, 0.5),), 1.0)
    spoken = Transcript(
        "TWO", (Word("TWO", 0.0, 1.0, 0.5),), 1.0, written="Two.", written_words=(Word("Two.", 0.0, 1.0, 0.5),)
    )
    services.live.endings = [final("one")]
    services.live.script = [[], [Final(shown, (shown,), (1.0,), spoken)]]
    configuration = {"config": {"sample_rate": 16000, "forms": True}}
    _, reply = vosk(services, SECOND, configuration, SECOND)
    word = {"conf": 0.5, "start": 1.0, "end": 2.0}  # behind what the configuration has ended
    assert reply["forms"] == {
        "spoken": [{"conf": 0.5, "start": 0.0, "end": 1.0, "word": "one"}, word | {"word": "TWO"}],
        "written": [word | {"word": "Two."}],
    }
    assert reply["result"][1]["word"] == "Two."


def test_an_utterance_of_nothing_has_a_result_without_words(services):
    assert vosk(services, {"reset": 1}, {"eof": 1}) == [{"text": ""}, {"text": ""}]
    options = {"config": {"max_alternatives": 2}}
    assert vosk(services, options, {"eof": 1}) == [{"alternatives": [{"confidence": 1.0, "text": ""}]}]


@pytest.mark.parametrize("end", ['{"eof" : 1}', '{"eof":1}', '{"eof": true}', '\n{\t"eof" :1.0\n}', '{"\\u0065of": 1}'])
def test_the_end_in_any_spelling_gives_the_result_and_closes_the_connection(services, end):
    services.live.endings = [final("one")]
    replies = vosk(services, SECOND, end, SECOND)
    assert replies[1]["text"] == "one"
    assert (len(replies), replies.code) == (2, 1000)


def test_a_reset_gives_the_result_and_times_begin_anew(services):
    services.live.script = [[], [final("two", start_s=1.25)]]
    services.live.endings = [final("one", start_s=0.5)]
    _, one, two = vosk(services, SECOND, '{"reset" : 1}', SECOND)
    assert (one["result"][0]["start"], two["result"][0]["start"]) == (0.5, 0.25)
    assert len(services.live.sessions) == 1


def test_without_a_configuration_audio_has_8000_hz(services):
    vosk(services, SECOND)
    assert services.live.sessions[0].options.rate_hz == 8000


@pytest.mark.parametrize("rate", [16000, 16000.0])
def test_a_configuration_before_the_audio_begins_anew(services, rate):
    vosk(services, {"config": {"sample_rate": rate, "phrase_list": ["one two", "[unk]"]}}, SECOND)
    first, second = services.live.sessions
    assert first.closed
    assert first.received == 0
    assert second.options.rate_hz == 16000
    assert second.options.phrases == ("one two", "[unk]")


def test_a_list_of_phrases_may_be_a_text(services):
    vosk(services, {"config": {"phrase_list": json.dumps(["one", "two"])}}, SECOND)
    assert services.live.sessions[-1].options.phrases == ("one", "two")


def test_what_was_said_before_a_new_configuration_is_not_lost_and_times_go_on(services):
    services.live.endings = [final("one")]
    services.live.script = [[], [final("two", start_s=0.5)]]
    _, reply = vosk(services, SECOND, {"config": {"sample_rate": 16000}}, SECOND)
    assert reply["text"] == "one two"
    assert [word["start"] for word in reply["result"]] == [0.0, 1.5]


def test_the_model_of_a_configuration_is_ignored_and_that_of_the_address_counts(services):
    assert len(vosk(services, {"config": {"model": "/etc"}}, SECOND, query_string=b"model=demo")) == 1
    assert len(services.live.sessions) == 1
    refused = vosk(services, SECOND, query_string=b"model=other")
    assert refused.status == 404


@pytest.mark.parametrize(
    "text", ["", "AAAA", "[]", '"eof"', "{", '{"eof": 0}', '{"speak": 1}', "[" * 100_000, "9" * 9999]
)
def test_text_where_audio_belongs_is_an_error_and_the_connection_goes_on(services, text):
    replies = vosk(services, text, SECOND)
    assert [list(reply) for reply in replies] == [["error"], ["partial", "stable"]]
    assert replies.code is None


@pytest.mark.parametrize(
    "config",
    [
        [], "x", {"sample_rate": 0}, {"sample_rate": "fast"}, {"sample_rate": 1e400}, {"sample_rate": True},
        {"words": "no"}, {"max_alternatives": -1}, {"max_alternatives": 1.5}, {"phrase_list": 5},
        {"phrase_list": "one two"}, {"phrase_list": ["one", 2]}, {"phrase_list": [""]}, {"phrase_list": ["x" * 999]},
        {"phrase_list": ["one"] * 501}, {"settle_s": -1}, {"settle_s": []}, {"forms": 2},
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_an_error_and_the_end(services, config):
    replies = vosk(services, {"config": config}, SECOND)
    assert [list(reply) for reply in replies] == [["error"]]
    assert replies[0]["error"].startswith("config")
    assert replies.code == 1008


def test_no_room_is_said_before_the_handshake(services):
    services.live.refusal = BUSY
    refused = vosk(services, SECOND)
    assert (refused.status, refused.headers["retry-after"]) == (503, "7")


def test_a_refusal_has_the_code_of_the_http_interface(services):
    refused = talk(vosk_routes(services), "/vosk", [], query_string=b"model=none")
    error = json.loads(refused.body)["error"]
    assert (refused.status, error["param"], error["code"]) == (404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("error", "code"), [(RequestError("too long"), 1008), (WorkerLostError("gone"), 1011)], ids=["limit", "crash"]
)
def test_a_stream_that_cannot_go_on_is_told_why(services, error, code):
    services.live.script = [error]
    replies = vosk(services, SECOND, SECOND)
    assert (replies, replies.code) == ([{"error": str(error)}], code)


def test_beyond_the_limit_what_was_said_before_is_given(services):
    services.live.script = [[Partial("on", 0, 1.0)], RequestError("expected at most 1 s in a stream, got more")]
    services.live.endings = [final("one")]
    _, result, error = vosk(services, SECOND, SECOND, SECOND)
    assert (result["text"], error) == ("one", {"error": "expected at most 1 s in a stream, got more"})


def test_at_shutdown_what_was_said_is_given(services):
    services.live.script = [[Partial("on", 0, 1.0)], ClosingError("the server is shutting down")]
    services.live.endings = [final("one")]
    replies = vosk(services, SECOND, SECOND, SECOND)
    assert (replies[1]["text"], replies.code) == ("one", 1012)


def test_at_shutdown_a_client_that_waits_is_given_what_was_said(services):
    services.live.endings = [final("one")]
    replies = vosk(services, SECOND, closing=services.closing)
    assert (replies[1]["text"], replies.code, len(replies)) == ("one", 1012, 2)


def test_at_shutdown_a_client_that_has_said_nothing_gets_no_message(services):
    replies = vosk(services, closing=services.closing)
    assert (replies, replies.code) == ([], 1012)


@pytest.mark.parametrize("messages", [[], [SECOND], [{"config": {"sample_rate": 16000}}], ["no"]])
def test_a_client_that_vanishes_leaves_nothing_open(services, messages):
    vosk(services, *messages)
    assert all(session.closed for session in services.live.sessions)


def test_a_text_of_millions_of_values_is_refused_before_it_is_parsed(services):
    answers = talk(vosk_routes(services), "/vosk", ['{"config": {"x": [' + "[]," * 300_000 + "[]]}}", '{"eof": 1}'])
    assert answers[0] == {"error": "message: expected at most 200000 values, got 300000 commas"}
    assert answers[1]["text"] == ""
