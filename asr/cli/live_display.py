"""Shows growing text: on a terminal, as lines, or as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from asr.audio.sources import WARN_WORDS, Block
from asr.errors import AudioError
from asr.recognize.stream import Stream, Update
from asr.terminal import Terminated, printable
from asr.transcript import Transcript, doubt, unreliable


class Display:
    """Shows updates: lines of text that grow on a terminal, whole utterances elsewhere, or JSON lines."""

    def __init__(self, out: TextIO, *, as_json: bool = False, written: bool = False) -> None:
        self.out = out
        self.as_json = as_json
        self.written = written
        """Show texts with case, punctuation and digits."""
        self.growing = out.isatty() and not as_json
        self._shown: tuple[str, int] = ("", 0)
        self._words, self._sum, self._trust = 0, 0.0, 0.0
        """How many words there were, the sum of their own confidences, and that of their utterances' reliability."""
        self._warned = False

    def update(self, update: Update) -> None:
        """Show what a block has changed."""
        for transcript in update.final:
            self.final(transcript)
        if (update.text, update.stable) == self._shown:
            return
        self._shown = (update.text, update.stable)
        if self.as_json:
            partial = {"type": "partial", "time_s": round(update.time_s, 3), "text": update.text}
            more = {"stable": update.stable, "written": update.written, "written_stable": update.written_stable}
            self._json(partial | more)
        elif self.growing:
            self._line((self.written and update.written) or update.text, end="")

    def final(self, transcript: Transcript, *, last: bool = False, shown: bool = True) -> None:
        """Show an utterance that has ended, unless it is not to be ``shown``; ``last``: nothing comes behind it."""
        self._shown = ("", 0)
        if shown:
            self._show(transcript)
        self._warn(transcript, last=last)

    def _show(self, transcript: Transcript) -> None:
        if self.as_json:
            self._json({"type": "final", **transcript.to_dict()})
        elif transcript.text:
            self._line((self.written and transcript.written) or transcript.text, end="\n")

    def _warn(self, transcript: Transcript, *, last: bool) -> None:
        """Say once on standard error that the model may not know this speech, at the end or before it of many words."""
        # Words that were dropped count as one.
        self._words += (count := len(transcript.words) or int(transcript.reliable is False))
        self._trust += count * (transcript.reliability or 0.0)
        self._sum += sum(word.own for word in transcript.words)
        if self._warned or self._words < (1 if last else WARN_WORDS):
            return
        if transcript.least_reliability is not None:
            mean = self._trust / max(1, self._words)
            low = mean < transcript.least_reliability
            line = unreliable(transcript.source, self._words, mean, transcript.least_reliability) if low else ""
        else:
            line = doubt(transcript.source, self._words, self._sum, transcript.threshold)
        if line:
            print(f"warning: {line}", file=sys.stderr)
            self._warned = True

    def _line(self, text: str, end: str) -> None:
        # Back to the line's start and clear it, on a terminal; the last 200 characters are what one line may show.
        if self.growing:
            getattr(self.out, "control", self.out.write)("\r\x1b[K")
            text = printable(text)
        self.out.write(f"{text if end else text[-200:]}{end}")
        self.out.flush()

    def _json(self, tree: dict[str, Any]) -> None:
        self.out.write(json.dumps(tree, ensure_ascii=False) + "\n")
        self.out.flush()


def run_live(stream: Stream, blocks: Iterator[Block], display: Display) -> None:
    """Feed a stream to its end, or until interrupted, and show its text.

    Shows all text so far, then raises ``AudioError`` for a bad block, or ``Terminated``.
    """
    ended: BaseException | None = None
    try:
        for block in blocks:
            display.update(stream.accept(block))
    except KeyboardInterrupt as interrupt:
        print(file=sys.stderr)  # the end of a microphone, not an error: what was said so far is shown
        ended = interrupt if isinstance(interrupt, Terminated) else None
    except AudioError as error:
        ended = error
    last = stream.finish()
    display.final(last, last=True, shown=bool(last.words) or stream.endpoint is None)
    if ended is not None:
        raise ended
