"""Transcripts as the bodies that OpenAI's clients read: JSON, text, subtitles, and server-sent events."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from asr.formats import group_cues, to_srt, to_vtt
from asr.server.form_fields import TranscriptionFields
from asr.transcript import Transcript, Word

LEAST_CONFIDENCE = 1e-10
"""A confidence of 0 has no logarithm."""
EXTRA_KEY = "asr"
"""Key of ``verbose_json`` for what OpenAI's format has no place for; its clients ignore it."""
AUDIO_TOKENS_PER_S = 10
"""Seconds are billed so by the models whose ``usage`` the events copy."""


def transcription_body(transcript: Transcript, fields: TranscriptionFields, language: str) -> tuple[bytes, str]:
    """The body of an answer and its media type; ``language``: code of the model's, which ``verbose_json`` states."""
    if fields.response_format == "text":
        return (transcript.text + "\n").encode(), "text/plain; charset=utf-8"
    if fields.response_format == "srt":
        return to_srt(transcript).encode(), "text/plain; charset=utf-8"
    if fields.response_format == "vtt":
        return to_vtt(transcript).encode(), "text/vtt; charset=utf-8"
    if fields.response_format == "verbose_json":
        tree = verbose_tree(transcript, fields, language)
    else:
        tree = {"text": transcript.text, "usage": _duration(transcript)}
        if fields.logprobs:
            tree["logprobs"] = word_logprobs(transcript.words)
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "backslashreplace"), "application/json"


def verbose_tree(transcript: Transcript, fields: TranscriptionFields, language: str) -> dict[str, Any]:
    """``verbose_json`` as plain values, with ``EXTRA_KEY``: the transcript as ``asr transcribe --format json`` writes
    it, and ``written_words`` with times where the model writes case and punctuation."""
    tree: dict[str, Any] = {
        "task": "transcribe",
        "language": language,
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
    }
    if fields.words:
        tree["words"] = [
            {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for word in transcript.words
        ]
    if fields.segments:
        tree["segments"] = _segments(transcript)
    extra = transcript.to_dict()
    written = None if transcript.written is None else [_timed(word) for word in transcript.written_words]
    extra["written_words"] = written
    return tree | {"usage": _duration(transcript), EXTRA_KEY: extra}


def _segments(transcript: Transcript) -> list[dict[str, Any]]:
    """The cues of subtitles as segments. Their figures are those of Whisper's format, as far as they exist here."""
    silent = 0.0 if transcript.reliability is None else 1.0 - transcript.reliability
    segments = []
    for number, words in enumerate(group_cues(transcript.words)):
        text = " ".join(word.text for word in words)
        encoded = text.encode("utf-8", "backslashreplace")
        segments.append(
            {
                "id": number,
                "seek": round(words[0].start_s * 100),  # frames of 10 ms
                "start": round(words[0].start_s, 3),
                "end": round(words[-1].end_s, 3),
                "text": text,
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": round(sum(map(_logprob, words)) / len(words), 4),
                "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 4),
                "no_speech_prob": round(silent, 4),
            }
        )
    return segments


def word_logprobs(words: Sequence[Word], *, first: bool = True) -> list[dict[str, Any]]:
    """One entry for each word: its text with the space before it, the UTF-8 bytes, the natural logarithm of its
    confidence. ``first``: the first word begins the text, so no space is before it."""
    entries = []
    for number, word in enumerate(words):
        token = word.text if first and number == 0 else f" {word.text}"
        encoded = token.encode("utf-8", "backslashreplace")
        entries.append({"token": token, "bytes": list(encoded), "logprob": round(_logprob(word), 4)})
    return entries


def _logprob(word: Word) -> float:
    return math.log(max(word.confidence, LEAST_CONFIDENCE))


def _duration(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcript.duration_s, 3)}


def _timed(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start_s": round(word.start_s, 3),
        "end_s": round(word.end_s, 3),
        "confidence": round(word.confidence, 4),
    }


class EventWriter:
    """The server-sent events of one transcription. The joined deltas are the text of the last event.

    ``logprobs``: whether events carry the words' logarithms of confidences. ``verbose``: makes ``verbose_json`` of the
    whole transcript, which the last event then carries as well; the others say which second of the file they reach.
    """

    def __init__(self, logprobs: bool = False, verbose: Callable[[Transcript], dict[str, Any]] | None = None) -> None:
        self.logprobs = logprobs
        self.verbose = verbose
        self.sent = ""
        self.words: list[Word] = []

    def delta(self, words: Sequence[Word]) -> bytes:
        """The event of words that follow those before; nothing without words."""
        if not words:
            return b""
        first = not self.sent
        text = ("" if first else " ") + " ".join(word.text for word in words)
        self.sent += text
        self.words += words
        tree: dict[str, Any] = {"type": "transcript.text.delta", "delta": text}
        if self.logprobs:
            tree["logprobs"] = word_logprobs(words, first=first)
        if self.verbose is not None:
            tree[EXTRA_KEY] = {"end_s": round(words[-1].end_s, 3)}
        return event(tree)

    def done(self, transcript: Transcript) -> bytes:
        """The last events: what the deltas have not had yet, then the whole text.

        ``usage`` counts ``AUDIO_TOKENS_PER_S`` and one token for each word. The text is that of the deltas, also where
        the whole would be written otherwise: with case and punctuation each utterance is a text of its own.
        """
        rest = b"" if self.sent else self.delta(transcript.words)
        words = self.words
        audio = math.ceil(transcript.duration_s * AUDIO_TOKENS_PER_S)
        usage = {
            "type": "tokens",
            "input_tokens": audio,
            "input_token_details": {"audio_tokens": audio, "text_tokens": 0},
            "output_tokens": len(words),
            "total_tokens": audio + len(words),
        }
        tree: dict[str, Any] = {"type": "transcript.text.done", "text": self.sent, "usage": usage}
        if self.logprobs:
            tree["logprobs"] = word_logprobs(words)
        if self.verbose is not None:
            tree["verbose_json"] = self.verbose(transcript)
        return rest + event(tree)


def event(tree: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(tree, ensure_ascii=False)}\n\n".encode("utf-8", "backslashreplace")


KEEP_ALIVE = b": waiting\n\n"
"""A comment, which clients skip: proxies keep the connection, and a client that has gone is noticed."""
