"""Standard output and errors of the command line: shows control characters harmlessly, as ``\\x1b``."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# What tqdm moves its bars with; no message begins so.
_BAR = re.compile("\r|(\n*(\x1b\\[A)*)$")


def printable(text: str) -> str:
    """``text`` with control characters as escapes such as ``\\x1b``; tabs and line feeds stay.

    Bytes of a file name that are no UTF-8 (lone surrogates) become ``\\udcXX``.
    """
    return _CONTROL.sub(lambda match: (r"\x%02x" if match[0] < "\u0100" else r"\u%04x") % ord(match[0]), text)


class Terminated(KeyboardInterrupt):
    """SIGTERM: the command ends as with Ctrl-C."""


class Shown:
    """A text stream all of whose text is ``printable``; ``control`` writes as it is.

    ``bars`` lets tqdm move its bars.
    """

    def __init__(self, stream: TextIO, *, bars: bool = False) -> None:
        self._stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write ``text``; returns its length."""
        bar = _BAR.match(text) if self._bars else None
        done = bar.end() if bar else 0
        self._stream.write(text[:done] + printable(text[done:]))
        return len(text)

    def control(self, text: str) -> None:
        """Write ``text`` as it is."""
        self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Standard errors of this block are ``Shown``, and standard output where it is a terminal."""
    before = sys.stdout, sys.stderr
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout = cast(TextIO, Shown(sys.stdout))
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, Shown(sys.stderr, bars=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
