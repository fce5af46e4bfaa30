"""Where utterances end in a stream of log-probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.config import loader
from asr.decode.posteriors import BLANK
from asr.errors import ConfigError


@dataclass(frozen=True)
class Endpoint:
    """Rules for the end of an utterance in a stream.

    Frames in which the model gives blanks count as silence. The text before an endpoint is final, and a new search
    starts after it; the network keeps its state.
    """

    silence_s: float = 0.8
    """Silence behind speech that ends an utterance; infinite where none does."""
    longest_s: float = 20.0
    """Length beyond which the next blank frame does, and half as much again beyond which any frame does."""

    def __post_init__(self) -> None:
        for name in ("silence_s", "longest_s"):
            loader.as_number(getattr(self, name), f"endpoint.{name}")
            if not getattr(self, name) > 0:
                raise ConfigError(f"endpoint.{name}: expected > 0, got {getattr(self, name)}")


class Endpointer:
    """Applies an ``Endpoint`` to log-probabilities that come in any pieces; ``frame_s`` seconds from row to row."""

    def __init__(self, rules: Endpoint, frame_s: float) -> None:
        # An endless pause or utterance is one that no recording reaches.
        self.silence, self.longest = (math.ceil(min(x / frame_s, 1e15)) for x in (rules.silence_s, rules.longest_s))
        self._length = self._silent = 0
        self._spoken = False

    def cut(self, log_probs: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], bool]]:
        """The next rows ``(T, V)`` cut at endpoints: parts, and whether an utterance ends behind each.

        All but the last part end one; the last, perhaps empty, goes on with the next call.
        """
        parts = []
        start = 0
        for at, blank in enumerate((np.asarray(log_probs).argmax(axis=1) == BLANK).tolist()):
            self._length += 1
            self._silent = self._silent + 1 if blank else 0
            self._spoken = self._spoken or not blank
            ended = self._spoken and self._silent >= self.silence
            if ended or (self._length >= self.longest and blank) or self._length >= 1.5 * self.longest:
                parts.append((log_probs[start : at + 1], True))
                start, self._length, self._silent, self._spoken = at + 1, 0, 0, False
        parts.append((log_probs[start:], False))
        return parts
