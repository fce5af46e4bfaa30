"""The items of a Realtime session: what is recognised as the events that clients get.

An item is an utterance, or all that was said until the client committed. Its deltas are append-only. They hold whole
words of the stable part, so that joined they are the transcript; the last one comes when the item is complete.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import Any

from asr.server.messages import Event, Final, Partial, SpeechStarted, SpeechStopped
from asr.server.transcription_bodies import word_logprobs

TRANSCRIPTION = "conversation.item.input_audio_transcription"
Message = dict[str, Any]


class RealtimeItems:
    """Makes server events of what a stream recognises. Times are seconds of the stream."""

    def __init__(self) -> None:
        self.detects, self.prefix_s, self.logprobs = True, 0.3, False
        self.old_names = False
        """Whether the client is an older one, which knows other names of events."""
        self.session = secrets.token_hex(6)
        self._count = itertools.count(1)
        self._previous: str | None = None
        self._start_s = 0.0
        """Where the audio of the item begins."""
        self._begin(0.0)

    def _begin(self, start_s: float) -> None:
        self.item = f"item_{self.session}{next(self._count):06x}"
        self._finals: list[Final] = []
        self._parts: list[str] = []
        self._sent = ""
        self._started = self._dropped = False
        self._start_s = start_s

    def message(self, kind: str, **fields: Any) -> Message:
        """A server event."""
        return {"type": kind, "event_id": f"event_{self.session}{next(self._count):08x}", **fields}

    def about(self, kind: str, **fields: Any) -> Message:
        """A server event about the item."""
        return self.message(kind, item_id=self.item, **fields)

    def error(self, text: str, code: str, param: str | None = None, event_id: str | None = None,
              kind: str = "invalid_request_error") -> Message:  # fmt: skip
        """An ``error`` event; ``event_id`` is that of the client's event."""
        tree = {"type": kind, "code": code, "message": text, "param": param, "event_id": event_id}
        return self.message("error", error=tree)

    def use(self, *, detects: bool, prefix_ms: int, logprobs: bool) -> None:
        """From here on: whether the server detects turns, how much earlier it says that speech began, and whether
        completed items have the logarithms of their words' confidences."""
        self.detects, self.prefix_s, self.logprobs = detects, prefix_ms / 1000, logprobs

    def take(self, events: Sequence[Event], time_s: float, shift_s: float = 0.0) -> list[Message]:
        """Server events for those of a stream that has reached ``time_s``; its own times begin at ``shift_s``."""
        found: list[Message] = []
        end_s, ended, under_way = time_s, False, ""
        for event in events:
            if isinstance(event, SpeechStopped):
                end_s = event.time_s + shift_s
            elif isinstance(event, SpeechStarted):
                found += self._start(event.time_s + shift_s) if self.detects else []
            elif isinstance(event, Partial):
                under_way = event.text
                found += self._delta(self._joined(event.text[: event.stable].rpartition(" ")[0]))
            elif not self.detects:
                self._add(event)
                found += self._delta(self._joined())
            elif self._started or event.transcript.words:
                self._add(event)
                found += [self._stop(end_s), *self.complete(end_s)]
                ended = True
        if ended and not under_way:
            self._start_s = time_s  # the buffer is empty
        return found

    def committed(self, final: Final, time_s: float) -> list[Message]:
        """Server events where the client commits: ``final`` is the end of the item."""
        self._add(final)
        return self.complete(time_s)

    def clear(self, time_s: float) -> list[Message]:
        """Server events where the client drops what it has not committed."""
        self._begin(time_s)
        return [self.message("input_audio_buffer.cleared")]

    def holds(self, time_s: float) -> bool:
        """Whether there is audio that could be committed."""
        return time_s > self._start_s

    @property
    def speaking(self) -> bool:
        """Whether the client knows of the item already."""
        return bool(self._started or self._sent)

    def complete(self, end_s: float) -> list[Message]:
        """The item ends here; the next one begins."""
        found = [self.about("input_audio_buffer.committed", previous_item_id=self._previous)]
        content = [{"type": "input_audio", "transcript": None}]
        item: Message = {
            "id": self.item,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
        }
        about: Message = {"previous_item_id": self._previous, "item": item | {"content": content}}
        names = ("created",) if self.old_names else ("added", "done")
        found += [self.message(f"conversation.item.{name}", **about) for name in names]
        if self._dropped and not any(final.transcript.words for final in self._finals):
            found.append(self._failed())
        else:
            found += self._delta(self._joined())
            seconds = round(max(0.0, end_s - self._start_s), 3)
            done: Message = {"transcript": self._joined(), "usage": {"type": "duration", "seconds": seconds}}
            done |= {"logprobs": self._logprobs()} if self.logprobs else {}
            found.append(self.about(f"{TRANSCRIPTION}.completed", content_index=0, **done))
        self._previous = self.item
        self._begin(end_s)
        return found

    def _failed(self) -> Message:
        """Deltas have been sent, and the whole item turned out to be no speech: they cannot be taken back."""
        error = {
            "type": "transcription_error",
            "code": "not_speech",
            "message": "the sound is not like speech that the model knows; drop the deltas of this item",
            "param": None,
        }
        return self.about(f"{TRANSCRIPTION}.failed", content_index=0, error=error)

    def _start(self, time_s: float) -> list[Message]:
        self._started = True
        begin_s = max(self._start_s, time_s - self.prefix_s)
        return [self.about("input_audio_buffer.speech_started", audio_start_ms=round(begin_s * 1000))]

    def _stop(self, time_s: float) -> Message:
        return self.about("input_audio_buffer.speech_stopped", audio_end_ms=round(time_s * 1000))

    def _add(self, final: Final) -> None:
        """Another utterance of the item. What was sent of it stays, also where the model took it for no speech in the
        end."""
        self._finals.append(final)
        self._parts.append(final.transcript.text)
        if not self._joined().startswith(self._sent):
            self._parts, self._dropped = [self._sent], True

    def _joined(self, more: str = "") -> str:
        return " ".join(part for part in [*self._parts, more] if part)

    def _delta(self, text: str) -> list[Message]:
        """What ``text`` adds to the deltas so far."""
        if len(text) <= len(self._sent) or not text.startswith(self._sent):
            return []
        added, self._sent = text[len(self._sent) :], text
        return [self.about(f"{TRANSCRIPTION}.delta", content_index=0, delta=added)]

    def _logprobs(self) -> list[Message]:
        words = [word for final in self._finals for word in final.transcript.words]
        return word_logprobs(words)
