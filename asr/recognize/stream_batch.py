"""Many live streams of one recognizer, advanced together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy.typing as npt

from asr.decode.endpoint import Endpoint
from asr.errors import AudioError
from asr.recognize.engine import Engine
from asr.recognize.stream import Stream, Update, advance_streams


class StreamBatch:
    """Many streams of one recognizer, advanced together.

    ``endpoint``, ``chunk_s`` and ``right_s`` are those of ``Stream``, for all streams.
    """

    def __init__(
        self,
        recognizer: Engine,
        *,
        endpoint: Endpoint | None = None,
        chunk_s: float | None = None,
        right_s: float | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.endpoint = endpoint
        self.chunk_s, self.right_s = chunk_s, right_s

    def open(
        self,
        *,
        sample_rate_hz: int | None = None,
        source: str = "stream",
        hotwords: Mapping[str, float] | None = None,
        phrases: Sequence[str] = (),
        alternatives: int = 1,
        settle_s: float | None = None,
    ) -> Stream:
        """A new stream; the arguments are those of ``Stream``, and its own."""
        return Stream(
            self.recognizer,
            sample_rate_hz=sample_rate_hz,
            endpoint=self.endpoint,
            chunk_s=self.chunk_s,
            right_s=self.right_s,
            source=source,
            hotwords=hotwords,
            phrases=phrases,
            alternatives=alternatives,
            settle_s=settle_s,
        )

    def accept(self, blocks: Mapping[Stream, npt.ArrayLike]) -> dict[Stream, Update | AudioError]:
        """Give each stream its block and advance all; a block that is no sound gives its error, and harms no other."""
        results: dict[Stream, Update | AudioError] = {}
        good = []
        for stream, samples in blocks.items():
            try:
                stream.push(samples)
            except AudioError as error:
                results[stream] = error
            else:
                good.append(stream)
        results.update(zip(good, advance_streams(good), strict=True))
        return results
