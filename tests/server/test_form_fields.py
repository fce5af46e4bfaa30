"""The fields of a transcription request: understood as OpenAI's clients send them, or refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.server.api_errors import ApiError
from asr.server.form_fields import LISTS, SINGLE, TranscriptionFields, check_languages, read_fields
from asr.server.settings import ServerLimits

LIMITS = ServerLimits(hot_words=3, phrase_characters=10)


def read(*pairs):
    return read_fields(pairs, LIMITS)


def refusal(*pairs):
    with pytest.raises(ApiError) as caught:
        read(*pairs)
    assert caught.value.status == 400
    return caught.value


def test_without_fields_the_defaults_hold():
    assert read() == TranscriptionFields()


def test_all_fields_of_the_official_client_are_understood():
    found = read(
        ("model", "an4"), ("language", "en"), ("prompt", "Names: Ann"), ("temperature", "0.2"),
        ("response_format", "verbose_json"), ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"), ("keywords[]", "RUBOUT"), ("keywords[]", " enter  five "),
        ("stream", "false"), ("chunking_strategy[type]", "server_vad"), ("chunking_strategy[threshold]", "0.5"),
        ("chunking_strategy[prefix_padding_ms]", "300"), ("chunking_strategy[silence_duration_ms]", "200"),
    )  # fmt: skip
    assert found == TranscriptionFields(
        model="an4", languages=("en",), response_format="verbose_json", words=True, segments=True,
        keywords=("RUBOUT", "enter five"),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["keywords", "keywords[]", "keywords[0]"])
def test_lists_are_understood_with_and_without_brackets(name):
    assert read((name, "A")).keywords == ("A",)


def test_a_refused_value_is_told_the_choices_as_a_sentence():
    assert "expected json, text, srt, vtt or verbose_json, got 'xml'" in refusal(("response_format", "xml")).message
    assert "expected word or segment, got" in refusal(("timestamp_granularities[]", "letter")).message
    assert "expected logprobs, got" in refusal(("include[]", "words")).message


def test_granularities_choose_the_times():
    found = read(("response_format", "verbose_json"), ("timestamp_granularities[]", "word"))
    assert (found.words, found.segments) == (True, False)


def test_verbose_json_has_segments_by_default():
    found = read(("response_format", "verbose_json"))
    assert (found.words, found.segments) == (False, True)


def test_empty_fields_of_web_forms_count_as_not_given():
    assert read(("language", ""), ("prompt", ""), ("temperature", ""), ("keywords[]", " ")) == TranscriptionFields()


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("True", True), ("1", True), ("false", False)])
def test_stream_is_a_word(value, expected):
    assert read(("stream", value)).stream is expected


@pytest.mark.parametrize("value", ["auto", '{"type": "server_vad", "threshold": 0.4}'])
def test_a_chunking_strategy_is_accepted(value):
    assert read(("chunking_strategy", value)) == TranscriptionFields()


@pytest.mark.parametrize(
    ("pair", "param"),
    [
        (("response_format", "xml"), "response_format"),
        (("response_format", "diarized_json"), "response_format"),
        (("known_speaker_names[]", "agent"), "known_speaker_names"),
        (("known_speaker_references[]", "data:audio/wav;base64,"), "known_speaker_references"),
        (("temperature", "2"), "temperature"),
        (("temperature", "warm"), "temperature"),
        (("temperature", "nan"), "temperature"),
        (("stream", "maybe"), "stream"),
        (("timestamp_granularities[]", "character"), "timestamp_granularities"),
        (("timestamp_granularities[]", "word"), "timestamp_granularities"),  # of json
        (("include[]", "usage"), "include"),
        (("language", "english please"), "language"),
        (("languages[]", "1"), "languages"),
        (("keywords[]", "x" * 11), "keywords"),
        (("chunking_strategy", "manual"), "chunking_strategy"),
        (("chunking_strategy", "{"), "chunking_strategy"),
        (("chunking_strategy", "{}1"), "chunking_strategy"),
        (("chunking_strategy[type]", "none"), "chunking_strategy"),
        (("chunking_strategy[threshold]", "0.5"), "chunking_strategy"),
        (("beam_size", "5"), "beam_size"),
        (("model[]", "an4"), "model[]"),
        (("file", "text"), "file"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(pair, param):
    assert refusal(pair).param == param


def test_a_strategy_with_an_unknown_or_impossible_part_is_refused():
    assert "magic" in refusal(("chunking_strategy", '{"type": "server_vad", "magic": 1}')).message
    assert "threshold" in refusal(("chunking_strategy", '{"type": "server_vad", "threshold": 2}')).message


def test_a_field_given_twice_is_refused():
    assert refusal(("model", "a"), ("model", "b")).param == "model"


def test_language_and_languages_exclude_each_other():
    assert refusal(("language", "en"), ("languages[]", "de")).param == "languages"


def test_too_many_keywords_are_refused():
    assert "at most 3" in refusal(*[("keywords[]", str(n)) for n in range(4)]).message


def test_logprobs_need_json():
    assert read(("include[]", "logprobs")).logprobs
    assert refusal(("include[]", "logprobs"), ("response_format", "text")).param == "include"


def test_subtitles_are_not_streamed():
    assert refusal(("stream", "true"), ("response_format", "srt")).param == "response_format"


@pytest.mark.parametrize("asked", [(), ("en",), ("EN",), ("en-GB",), ("de", "en")])
def test_a_language_of_the_model_is_accepted(asked):
    check_languages(asked, ("en",), "an4")


@pytest.mark.parametrize(("asked", "param"), [(("de",), "language"), (("de", "fr"), "languages")])
def test_another_language_is_refused(asked, param):
    with pytest.raises(ApiError, match="the model an4 knows en, got de") as caught:
        check_languages(asked, ("en",), "an4")
    assert (caught.value.param, caught.value.code) == (param, "unsupported_language")


NAMES = st.sampled_from([*SINGLE, *LISTS, *(f"{name}[]" for name in LISTS), "chunking_strategy[type]"]) | st.text()
VALUES = st.sampled_from(["true", "json", "en", "0", "-1", "1e999", "{}", '{"type": []}', "[" * 5000]) | st.text()


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_any_form_is_understood_or_refused(pairs):
    refused = None
    try:
        found = read(*pairs)
    except ApiError as error:
        refused = error
    if refused:
        assert (refused.status, json.loads(refused.body())["error"]["message"]) == (400, refused.message)
    else:
        assert found.response_format in ("json", "text", "srt", "vtt", "verbose_json")
