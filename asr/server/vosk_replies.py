"""The Vosk WebSocket protocol as values: configurations in, replies out.

Replies are those of vosk-server: ``partial`` while an utterance goes on, ``result`` with ``text`` where one has ended,
``alternatives`` where several hypotheses were asked for. A partial has one key more: ``stable``, the number of its
characters that will not change any more.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asr.server.client_messages import ClientError, Fields, parse_object
from asr.server.messages import Event, Final, Partial, StreamOptions
from asr.server.settings import ServerLimits
from asr.transcript import Transcript, Word

MOST_ALTERNATIVES = 16
LOWEST_HZ, HIGHEST_HZ = 4000, 192_000


@dataclass(frozen=True)
class VoskConfig:
    """What a client may configure, with the values that hold until it does."""

    rate_hz: int = 8000
    words: bool = True
    max_alternatives: int = 0
    phrases: tuple[str, ...] = ()
    settle_s: float | None = None
    """Not of vosk-server: how long ago a word must have ended to be ``stable``."""
    forms: bool = False
    """Not of vosk-server: whether results have ``forms``, the words as they were ``spoken`` and as they are
    ``written``."""

    def changed(self, message: Fields, limits: ServerLimits) -> VoskConfig:
        """With the fields of a ``config`` message; ``model`` and unknown ones are ignored. Raises ``ClientError``."""
        fields = message.object("config") or Fields({}, "config")
        phrases = self.phrases
        if fields.values.get("phrase_list") is not None:
            if isinstance(text := fields.values["phrase_list"], str):  # some clients send a list within a text
                fields = Fields({**fields.values, "phrase_list": _listed(text)}, fields.path)
            phrases = tuple(fields.texts("phrase_list", limits.hot_words, limits.phrase_characters))
        most = fields.whole("max_alternatives", self.max_alternatives, 0, 1000)
        return VoskConfig(
            fields.whole("sample_rate", self.rate_hz, LOWEST_HZ, HIGHEST_HZ),
            fields.flag("words", self.words),
            min(most, MOST_ALTERNATIVES),
            phrases,
            fields.number("settle_s", 0, 0, 60) if "settle_s" in fields else self.settle_s,
            fields.flag("forms", self.forms),
        )

    def options(self, model: str | None) -> StreamOptions:
        """How the stream is recognised."""
        return StreamOptions(
            model=model,
            rate_hz=self.rate_hz,
            phrases=self.phrases,
            alternatives=max(1, self.max_alternatives),
            settle_s=self.settle_s,
        )


@dataclass(frozen=True)
class VoskCommand:
    """A text message: one of a message with a new ``config``, the end of the audio, the end of an utterance."""

    config: Fields | None = None
    eof: bool = False
    reset: bool = False


def read_command(text: str) -> VoskCommand:
    """A client's text message, in any spelling of the JSON. Raises ``ClientError`` for what is none."""
    fields = Fields(parse_object(text, "message"))
    if "config" in fields:
        return VoskCommand(config=fields)
    if fields.flag("eof", False):
        return VoskCommand(eof=True)
    if fields.flag("reset", False):
        return VoskCommand(reset=True)
    raise ClientError(
        f"message: expected audio as a binary message, or config, eof or reset as text, got {text[:60]!a}",
        "unknown_message",
    )


def vosk_reply(events: Sequence[Event], config: VoskConfig) -> dict[str, Any]:
    """The one reply to a message: the utterances that have ended as one result, else the partial text."""
    finals = [event for event in events if isinstance(event, Final)]
    if finals:
        return _result(finals, config)
    last = next((event for event in reversed(events) if isinstance(event, Partial)), Partial("", 0, 0.0))
    return {"partial": last.text, "stable": last.stable}


def _listed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _result(finals: Sequence[Final], config: VoskConfig) -> dict[str, Any]:
    if not config.max_alternatives:
        tree = _hypothesis([final.transcript for final in finals], config, confidences=True)
        return tree | ({"forms": _forms(finals)} if config.forms else {})
    found = []
    for share, transcripts in _joined(finals, config.max_alternatives):
        found.append({"confidence": round(share, 6)} | _hypothesis(transcripts, config, confidences=False))
    return {"alternatives": found}


def _hypothesis(transcripts: Sequence[Transcript], config: VoskConfig, *, confidences: bool) -> dict[str, Any]:
    words = [word for transcript in transcripts for word in transcript.words]
    tree: dict[str, Any] = {"text": " ".join(t.text for t in transcripts if t.text)}
    if config.words and words:
        tree["result"] = [_plain_word(word, confidences) for word in words]
    return tree


def _plain_word(word: Word, confidences: bool) -> dict[str, Any]:
    tree = {"conf": round(word.confidence, 6)} if confidences else {}
    return tree | {"end": round(word.end_s, 3), "start": round(word.start_s, 3), "word": word.text}


def _forms(finals: Sequence[Final]) -> dict[str, Any]:
    spoken = [final.spoken or final.transcript for final in finals]
    words = [word for transcript in spoken for word in transcript.words]
    written = [word for transcript in spoken for word in transcript.written_words]
    return {
        "spoken": [_plain_word(word, True) for word in words],
        "written": [_plain_word(word, True) for word in written],
    }


def _joined(finals: Sequence[Final], most: int) -> list[tuple[float, list[Transcript]]]:
    """The likeliest combinations of the hypotheses of several utterances, at most ``most``, best first, with their
    shares."""
    found: list[tuple[float, list[Transcript]]] = [(1.0, [])]
    for final in finals:
        choices = list(zip(final.shares, final.alternatives, strict=True)) or [(1.0, final.transcript)]
        pairs = [(share * more, [*before, added]) for share, before in found for more, added in choices]
        found = heapq.nlargest(most, pairs, key=lambda pair: pair[0])
    return found


def moved(events: Sequence[Event], by_s: float) -> list[Event]:
    """Events whose times begin ``by_s`` later, for a stream that goes on behind another."""
    return [
        moved_final(event, by_s) if isinstance(event, Final) else dataclasses.replace(event, time_s=event.time_s + by_s)
        for event in events
    ]


def moved_final(final: Final, by_s: float) -> Final:
    """An utterance whose times begin ``by_s`` later."""
    others = tuple(_later(one, by_s) for one in final.alternatives)
    spoken = None if final.spoken is None else _later(final.spoken, by_s)
    return Final(_later(final.transcript, by_s), others, final.shares, spoken)


def _later(transcript: Transcript, by_s: float) -> Transcript:
    later = [
        tuple(dataclasses.replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s) for word in words)
        for words in (transcript.words, transcript.written_words)
    ]
    return dataclasses.replace(transcript, words=later[0], written_words=later[1])
