"""The settings of a Realtime transcription session: as clients send them, as the server shows them.

Two spellings are read: ``session.update`` with ``session.audio.input`` and that of older clients,
``transcription_session.update`` with ``input_audio_format`` and so on.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from asr.server.catalogue import Catalogue
from asr.server.client_messages import ClientError, Fields
from asr.server.messages import HOT_WORD_BOOST, SETTLE_S, StreamOptions
from asr.server.problems import UnknownModelError
from asr.server.settings import ServerLimits

LOGPROBS = "item.input_audio_transcription.logprobs"
ENCODING = {"audio/pcm": "s16le", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
OLD_FORMAT = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
PCM_HZ, TELEPHONE_HZ = 24000, 8000
DELAYS = ("minimal", "low", "medium", "high", "xhigh")
SESSION_FIELDS = (
    "type", "audio", "include", "input_audio_format", "input_audio_transcription", "turn_detection",
    "input_audio_noise_reduction",
    # Fields without a meaning for transcripts, which clients send all the same.
    "id", "object", "expires_at", "client_secret", "modalities", "output_modalities", "instructions", "voice", "tools",
    "tool_choice", "temperature", "tracing", "truncation", "prompt", "model", "output_audio_format", "speed",
    "max_output_tokens", "max_response_output_tokens", "reasoning",
)  # fmt: skip


@dataclass(frozen=True)
class TurnDetection:
    """When the server commits by itself: after so much silence. ``threshold`` has no effect: the model's own blanks
    are the silence."""

    silence_ms: int = 500
    prefix_ms: int = 300
    threshold: float = 0.5


@dataclass(frozen=True)
class RealtimeSettings:
    """The settings of one session. ``prompt``, ``delay`` and ``noise_reduction`` have no effect."""

    format: str = "audio/pcm"
    rate_hz: int = PCM_HZ
    model: str | None = None
    language: str | None = None
    prompt: str = ""
    delay: str | None = None
    keywords: tuple[str, ...] = ()
    turns: TurnDetection | None = TurnDetection()
    noise_reduction: str | None = None
    logprobs: bool = False

    def options(self) -> StreamOptions:
        """How the stream is recognised. Without turn detection it is cut only where it would become too long."""
        return StreamOptions(
            model=self.model,
            rate_hz=self.rate_hz,
            encoding=ENCODING[self.format],
            hot_words=dict.fromkeys(self.keywords, HOT_WORD_BOOST),
            settle_s=SETTLE_S,
            endpoint_s=math.inf if self.turns is None else self.turns.silence_ms / 1000,
        )

    def changed(self, session: Fields, catalogue: Catalogue, limits: ServerLimits) -> RealtimeSettings:
        """With the fields of an update, and the others as they are. Raises ``ClientError`` naming a wrong field."""
        _only(session, SESSION_FIELDS)
        session.choice("type", ("transcription",), None)
        new = self
        if "include" in session:
            for item in session.texts("include", 10, 100):
                if item != LOGPROBS:
                    raise session.wrong("include", f"a list of {LOGPROBS}")
            new = dataclasses.replace(new, logprobs=bool(session.values["include"]))
        if "input_audio_format" in session:
            kind = OLD_FORMAT[session.choice("input_audio_format", tuple(OLD_FORMAT), "pcm16")]
            new = dataclasses.replace(new, format=kind, rate_hz=_own_rate(kind))
        new = new._with_input(session, "input_audio_transcription", "input_audio_noise_reduction", catalogue, limits)
        audio = session.object("audio")
        if audio is not None:
            _only(audio, ("input", "output"))
            heard = audio.object("input") or Fields({})
            _only(heard, ("format", "transcription", "turn_detection", "noise_reduction"))
            new = new._with_format(heard)._with_input(heard, "transcription", "noise_reduction", catalogue, limits)
        return new

    def _with_format(self, heard: Fields) -> RealtimeSettings:
        found = heard.object("format")
        if found is None:
            return self
        _only(found, ("type", "rate"))
        kind = found.choice("type", tuple(ENCODING), "audio/pcm")
        own = _own_rate(kind)
        rate = found.whole("rate", own, 4000 if kind == "audio/pcm" else own, 192_000 if kind == "audio/pcm" else own)
        return dataclasses.replace(self, format=kind, rate_hz=rate)

    def _with_input(
        self, heard: Fields, transcription: str, noise_reduction: str, catalogue: Catalogue, limits: ServerLimits
    ) -> RealtimeSettings:
        new = self
        if transcription in heard:
            found = heard.object(transcription) or Fields({}, heard.name(transcription))
            new = new._with_transcription(found, catalogue, limits)
        if "turn_detection" in heard:
            new = dataclasses.replace(new, turns=_turns(heard.object("turn_detection")))
        if noise_reduction in heard:
            noise = heard.object(noise_reduction) or Fields({})
            kind = noise.choice("type", ("near_field", "far_field"), None)
            new = dataclasses.replace(new, noise_reduction=kind)
        return new

    def _with_transcription(self, found: Fields, catalogue: Catalogue, limits: ServerLimits) -> RealtimeSettings:
        _only(found, ("model", "language", "languages", "prompt", "keywords", "delay"))
        name = found.text("model", self.model, 200)
        try:
            known = catalogue.find(name, live=True).languages
        except UnknownModelError as error:
            raise ClientError(str(error), "model_not_found", found.name("model")) from error
        language = found.text("language", self.language, 35)
        for field, asked in (
            ("language", [language] if language else []),
            ("languages", found.texts("languages", 50, 35)),
        ):
            if asked and known and not {code.lower().partition("-")[0] for code in asked} & set(known):
                raise ClientError(
                    f"{found.name(field)}: expected a language of the model, {', '.join(known)}, got "
                    f"{', '.join(asked)[:60]!a}", "unsupported_language", found.name(field),
                )  # fmt: skip
        keywords = self.keywords
        if "keywords" in found:
            keywords = tuple(found.texts("keywords", limits.hot_words, limits.phrase_characters))
        return dataclasses.replace(
            self,
            model=name,
            language=language,
            prompt=found.text("prompt", self.prompt, 1 << 16),
            delay=found.choice("delay", DELAYS, self.delay),
            keywords=keywords,
        )

    def tree(self, identity: str, model: str) -> dict[str, Any]:
        """The session as ``session.created`` and ``session.updated`` show it."""
        heard: dict[str, Any] = {
            "format": {"type": self.format} | ({"rate": self.rate_hz} if self.format == "audio/pcm" else {}),
            "transcription": self._transcription(model),
            "turn_detection": self._turn_detection(),
            "noise_reduction": self.noise_reduction and {"type": self.noise_reduction},
        }
        return {
            "id": identity,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {"input": heard},
            "include": [LOGPROBS] if self.logprobs else [],
        }

    def old_tree(self, identity: str, model: str) -> dict[str, Any]:
        """The session as ``transcription_session.updated`` shows it to older clients."""
        return {
            "id": identity,
            "object": "realtime.transcription_session",
            "modalities": ["text"],
            "input_audio_format": {new: old for old, new in OLD_FORMAT.items()}[self.format],
            "input_audio_transcription": self._transcription(model),
            "turn_detection": self._turn_detection(),
            "input_audio_noise_reduction": self.noise_reduction and {"type": self.noise_reduction},
            "include": [LOGPROBS] if self.logprobs else [],
        }

    def _transcription(self, model: str) -> dict[str, Any]:
        tree: dict[str, Any] = {"model": model, "language": self.language, "prompt": self.prompt}
        tree |= {"keywords": list(self.keywords)} if self.keywords else {}
        return tree | ({"delay": self.delay} if self.delay else {})

    def _turn_detection(self) -> dict[str, Any] | None:
        if self.turns is None:
            return None
        return {
            "type": "server_vad",
            "threshold": self.turns.threshold,
            "prefix_padding_ms": self.turns.prefix_ms,
            "silence_duration_ms": self.turns.silence_ms,
        }


def _turns(found: Fields | None) -> TurnDetection | None:
    if found is None:
        return None
    _only(
        found,
        ("type", "threshold", "prefix_padding_ms", "silence_duration_ms", "create_response", "interrupt_response",
         "idle_timeout_ms", "eagerness"),
    )  # fmt: skip
    found.choice("type", ("server_vad",), None)
    for field in ("idle_timeout_ms", "eagerness"):
        if found.values.get(field) is not None:
            raise found.wrong(field, "null, as this server knows no such setting", "unsupported_value")
    return TurnDetection(
        found.whole("silence_duration_ms", TurnDetection.silence_ms, 1, 60_000),
        found.whole("prefix_padding_ms", TurnDetection.prefix_ms, 0, 60_000),
        found.number("threshold", TurnDetection.threshold, 0, 1),
    )


def _own_rate(kind: str) -> int:
    return PCM_HZ if kind == "audio/pcm" else TELEPHONE_HZ


def _only(fields: Fields, known: tuple[str, ...]) -> None:
    """Raise ``ClientError`` naming a field that is not ``known``: a misspelt one would have no effect in silence."""
    for field in fields.values:
        if field not in known:
            name = fields.name(field[:60])
            raise ClientError(
                f"unknown parameter {name!a}: expected one of {', '.join(known)}", "unknown_parameter", name
            )
