"""The form fields of ``POST /v1/audio/transcriptions``: checked, and as options.

These are the fields that OpenAI's clients send. Lists carry brackets (``keywords[]``); without brackets, or with a
number in them, they are understood as well. A field that is unknown, has an impossible value, or asks for what the
models cannot do is an ``ApiError`` that names it: no wish is ignored in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asr.server.api_errors import ApiError
from asr.server.problems import one_of
from asr.server.settings import ServerLimits

FILE_FIELD = "file"
SINGLE = ("model", "language", "prompt", "temperature", "response_format", "stream", "chunking_strategy")
LISTS = ("timestamp_granularities", "include", "keywords", "languages")
SPEAKERS = ("known_speaker_names", "known_speaker_references")
"""Fields that need a model of speakers."""
RESPONSE_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
STREAMED_FORMATS = ("json", "text", "verbose_json")
GRANULARITIES = ("word", "segment")
_NAME = re.compile(r"([a-z_]+)(?:\[([a-z_0-9]*)\])?")
_VAD_RANGES = {
    "threshold": (0.0, 1.0),
    "prefix_padding_ms": (0.0, 600_000.0),
    "silence_duration_ms": (0.0, 600_000.0),
}


@dataclass(frozen=True)
class TranscriptionFields:
    """What a client wants: the fields of the form that have an effect.

    ``model``: empty for the default. ``languages``: codes as the client wrote them; empty: any. ``words`` and
    ``segments``: which times ``verbose_json`` has.
    """

    model: str = ""
    languages: tuple[str, ...] = ()
    response_format: str = "json"
    words: bool = False
    segments: bool = True
    stream: bool = False
    logprobs: bool = False
    keywords: tuple[str, ...] = ()


def field_name(name: str) -> tuple[str, str | None]:
    """The base name of a field and what stands in its brackets, None without brackets.

    Raises ``ApiError`` for an unknown field, and for one that needs a model of speakers.
    """
    match = _NAME.fullmatch(name)
    base, inner = (match[1], match[2]) if match else (name, None)
    if base in SPEAKERS:
        raise ApiError(
            400,
            f"{base}: this server does not tell speakers apart; leave the field out",
            param=base,
            code="unsupported_parameter",
        )
    listed = base in LISTS and (inner is None or inner == "" or inner.isdecimal())
    if listed or base == "chunking_strategy" or (base in (*SINGLE, FILE_FIELD) and inner is None):
        return base, inner
    known = ", ".join((FILE_FIELD, *SINGLE, *(f"{listing}[]" for listing in LISTS)))
    shown = name[:60]
    raise ApiError(400, f"{shown!r}: unknown field; expected one of {known}", param=shown, code="unknown_parameter")


def read_fields(pairs: Iterable[tuple[str, str]], limits: ServerLimits) -> TranscriptionFields:
    """The text fields of a form as options.

    Empty values count as not given, which forms on web pages send. Raises ``ApiError`` naming the field.
    """
    single: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    chunking: dict[str, str] = {}
    for name, value in pairs:
        base, inner = field_name(name)
        if base in LISTS:
            lists.setdefault(base, []).append(value)
        elif base == "chunking_strategy" and inner:
            chunking[inner] = value
        elif base in single:
            raise ApiError(400, f"{base}: expected one value, got several", param=base)
        elif base == FILE_FIELD:
            raise ApiError(400, "file: expected a file part with a file name, got a text field", param=base)
        elif value.strip():
            single[base] = value.strip()
    _check_chunking(single.get("chunking_strategy", ""), chunking)
    _check_temperature(single.get("temperature", "0"))
    made = TranscriptionFields(
        model=single.get("model", ""),
        languages=_languages(single.get("language", ""), lists.get("languages", [])),
        response_format=_response_format(single.get("response_format", "json")),
        stream=_truth("stream", single.get("stream", "false")),
        logprobs="logprobs" in _choices("include", lists.get("include", []), ("logprobs",)),
        keywords=_keywords(lists.get("keywords", []), limits),
    )
    return _with_times(made, lists.get("timestamp_granularities", []))


def check_languages(asked: Sequence[str], known: Sequence[str], model: str) -> None:
    """Refuse a transcription in languages none of which a model knows.

    ``known``: codes of ISO 639; a model without any is not asked. Raises ``ApiError``.
    """
    spoken = {_primary(language) for language in known}
    if asked and known and not spoken & {_primary(language) for language in asked}:
        field = "language" if len(asked) == 1 else "languages"
        raise ApiError(
            400,
            f"{field}: the model {model} knows {', '.join(sorted(spoken))}, got {', '.join(asked)}; leave the field "
            "out or choose another model",
            param=field,
            code="unsupported_language",
        )


def _primary(language: str) -> str:
    return re.split("[-_]", language.strip().lower())[0]


def _with_times(made: TranscriptionFields, asked: list[str]) -> TranscriptionFields:
    """The options with the times that are asked for; combinations that the formats do not allow are errors."""
    granularities = _choices("timestamp_granularities", asked, GRANULARITIES)
    verbose = made.response_format == "verbose_json"
    if granularities and not verbose:
        raise ApiError(
            400,
            f"timestamp_granularities: expected response_format verbose_json, got {made.response_format}",
            param="timestamp_granularities",
        )
    if made.logprobs and made.response_format != "json":
        raise ApiError(400, f"include: logprobs need response_format json, got {made.response_format}", param="include")
    if made.stream and made.response_format not in STREAMED_FORMATS:
        raise ApiError(
            400,
            f"response_format: expected {one_of(STREAMED_FORMATS)} with stream, got {made.response_format}; "
            "leave stream out",
            param="response_format",
        )
    chosen = granularities or {"segment"}
    return TranscriptionFields(**{**vars(made), "words": "word" in chosen, "segments": "segment" in chosen})


def _response_format(value: str) -> str:
    if value == "diarized_json":
        raise ApiError(
            400,
            f"response_format: this server does not tell speakers apart; expected {one_of(RESPONSE_FORMATS)}, got "
            "diarized_json",
            param="response_format",
            code="unsupported_value",
        )
    if value not in RESPONSE_FORMATS:
        raise _unexpected("response_format", value, RESPONSE_FORMATS)
    return value


def _languages(language: str, languages: list[str]) -> tuple[str, ...]:
    given = {"language": [language] if language else [], "languages": [x.strip() for x in languages if x.strip()]}
    for name, codes in given.items():
        for code in codes:
            if not re.fullmatch(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*", code):
                raise ApiError(
                    400,
                    f"{name}: expected a code of ISO 639 such as en, got {code[:60]!r}",
                    param=name,
                    code="unsupported_language",
                )
    if given["language"] and given["languages"]:
        raise ApiError(400, "languages: expected language or languages, got both; leave one out", param="languages")
    return tuple(given["language"] + given["languages"])


def _choices(name: str, given: list[str], allowed: Sequence[str]) -> set[str]:
    for value in given:
        if value and value not in allowed:
            raise _unexpected(name, value, allowed)
    return {value for value in given if value}


def _keywords(given: list[str], limits: ServerLimits) -> tuple[str, ...]:
    keywords = tuple(dict.fromkeys(" ".join(value.split()) for value in given if value.strip()))
    if len(keywords) > limits.hot_words:
        raise ApiError(400, f"keywords: expected at most {limits.hot_words}, got {len(keywords)}", param="keywords")
    for keyword in keywords:
        if len(keyword) > limits.phrase_characters:
            raise ApiError(
                400,
                f"keywords: expected at most {limits.phrase_characters} characters each, got {len(keyword)}: "
                f"{keyword[:40]!r}…",
                param="keywords",
            )
    return keywords


def _check_temperature(value: str) -> None:
    """Refuse what is no temperature. It has no effect: no search here draws at random."""
    _number("temperature", value, 0.0, 1.0)


def _check_chunking(value: str, parts: dict[str, str]) -> None:
    """Refuse what is no strategy. It has no effect: long recordings are always cut at pauses."""
    name = "chunking_strategy"
    if value and parts:
        raise ApiError(400, f"{name}: expected auto or an object, got both", param=name)
    tree: dict[str, Any] = dict(parts)
    if value.startswith("{"):
        try:
            tree = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"{name}: expected JSON, got {value[:60]!r}: {error}", param=name) from error
    elif value and value != "auto":
        raise _unexpected(name, value, ("auto", "an object of type server_vad"))
    if not tree:
        return
    if tree.get("type") != "server_vad":
        raise _unexpected(f"{name}[type]", str(tree.get("type")), ("server_vad",))
    for key, part in tree.items():
        if key in _VAD_RANGES:
            _number(f"{name}[{key}]", part, *_VAD_RANGES[key])
        elif key != "type":
            raise _unexpected(name, key, ("type", *_VAD_RANGES))


def _number(name: str, value: Any, least: float, most: float) -> None:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not least <= found <= most:
        raise ApiError(
            400, f"{name}: expected a number from {least:g} to {most:g}, got {str(value)[:60]!r}", param=name
        )


def _truth(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise _unexpected(name, value, ("true", "false"))
    return value.lower() in ("true", "1")


def _unexpected(name: str, value: str, allowed: Sequence[str]) -> ApiError:
    return ApiError(
        400,
        f"{name}: expected {one_of(allowed)}, got {value[:60]!r}",
        param=name.partition("[")[0],
        code="invalid_value",
    )
