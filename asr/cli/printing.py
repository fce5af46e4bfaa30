"""What commands print: results on standard output, warnings and errors on standard error."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from asr.cli.shared_options import OK, SOME_FAILED

MOST_LEFT_OUT = 5
"""Different words of a text that are named as left out."""


def show(text: str) -> None:
    """Print a text; bytes of names and texts that are not UTF-8 come out escaped."""
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def print_warnings(doubts: Sequence[str]) -> None:
    """Print each doubt as a warning on standard error."""
    for doubt in doubts:
        print(f"warning: {doubt}", file=sys.stderr)


def print_notes(notes: Sequence[str]) -> None:
    """Print each note on standard error."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def report_failures(failures: Sequence[str]) -> int:
    """Print each failure as an error on standard error; returns the exit status."""
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return SOME_FAILED if failures else OK


def report_left_out(name: str, left_out: Sequence[str]) -> int:
    """Say which words of a text were left out: each once, the most frequent first, and how many there are in all."""
    counts = Counter(left_out).most_common()
    lines = [f"{name}: {line}{f' ({count} times)' if count > 1 else ''}" for line, count in counts[:MOST_LEFT_OUT]]
    if len(counts) > MOST_LEFT_OUT:
        lines.append(
            f"{name}: {len(left_out)} words left out, {len(counts)} different ones; the most frequent stand above"
        )
    print_warnings(lines)
    return SOME_FAILED if left_out else OK
