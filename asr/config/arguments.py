"""Values of command-line arguments: numbers within their ranges, and ``none`` to switch an option off."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr.cloud.addresses import is_url, without_secrets

MOST_CHARACTERS = 40
"""Characters of a wrong value that a message shows."""
LARGEST = 2**31 - 1
NEGATIVE = re.compile(r"-((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)$", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """Reads ``-inf`` and ``-1e-1`` as numbers; argparse alone takes them for unknown options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = NEGATIVE


def number(
    low: float = -math.inf, high: float = math.inf, *, above: bool = False, off: float | None = math.nan
) -> Callable[[str], float | None]:
    """A type for argparse: a number from ``low`` to ``high``, or above ``low`` with ``above``; never NaN.

    ``off`` is what ``none`` stands for; NaN, its default, says that the option cannot be switched off. An infinity is
    a number where ``off`` is one.
    """
    switch = off is None or not math.isnan(off)
    expected = f"a number{_range(low, high, above)}{', or none' if switch else ''}"

    def read(text: str) -> float | None:
        if switch and text == "none":
            return off
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if (value > low if above else value >= low) and value <= high and (math.isfinite(value) or value == off):
            return value
        raise _wrong(expected, text)

    return read


def whole(low: int, high: int = LARGEST) -> Callable[[str], int]:
    """A type for argparse: a whole number from ``low`` to ``high``."""
    expected = f"a whole number{_range(low, high, False)}"

    def read(text: str) -> int:
        # More digits than these are no number of ours, and Python refuses to read thousands of them.
        if re.fullmatch(r"[+-]?[0-9]{1,20}", text) and low <= int(text) <= high:
            return int(text)
        raise _wrong(expected, text)

    return read


def whole_or_none(low: int, high: int = LARGEST) -> Callable[[str], int | None]:
    """A type for argparse: as ``whole``, or ``none``."""
    read = whole(low, high)
    return lambda text: None if text == "none" else read(text)


def byte_count(low: int) -> Callable[[str], int]:
    """A type for argparse: bytes from ``low`` on, such as ``1GB``, ``200MB`` (powers of 1000) or ``1000000``."""
    units = {"": 1, "B": 1, "KB": 1000, "MB": 10**6, "GB": 10**9, "TB": 10**12}

    def read(text: str) -> int:
        found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([KMGT]?B|)", text.upper(), re.ASCII)
        if found and low <= (size := round(float(found[1]) * units[found[2]])) <= 10**15:
            return size
        raise _wrong(f"bytes, {low:,} or more, such as 200MB or 1GB", text)

    return read


def numbers(text: str) -> tuple[float, ...]:
    """A type for argparse: numbers with commas between them."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if all(map(math.isfinite, values)):
        return values
    raise _wrong("numbers with commas between them", text)


def local_path(text: str) -> Path:
    """A type for argparse: the path of a file or folder that is written, which is none at a URL."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"expected a path of this machine, got the URL {without_secrets(text)}")
    return Path(text)


def file_or_none(text: str) -> str:
    """A type for argparse: a path, or ``none`` for none (a file of that name is ``./none``)."""
    return "" if text == "none" else text


def shorten(text: str) -> str:
    """``text`` as a message quotes it, its end left out where it is long."""
    return repr(text) if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]!r}… ({len(text)} characters)"


def _range(low: float, high: float, above: bool) -> str:
    if math.isinf(high) or high >= LARGEST:
        return "" if math.isinf(low) else f" above {low:g}" if above else f" of {low:g} or more"
    if math.isinf(low):
        return f" of {high:g} or less"
    return f" above {low:g}, {high:g} at most" if above else f" from {low:g} to {high:g}"


def _wrong(expected: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"expected {expected}, got {shorten(text)}")
