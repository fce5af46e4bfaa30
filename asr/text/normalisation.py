"""Normalises texts by the rules of a text configuration."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set

from asr.config.sections import TextConfig
from asr.errors import TextError

VARIANT = re.compile(r"\(\d+\)$")
"""What CMUdict's format puts behind a word's second pronunciation and those after it."""


def normalise(text: str, config: TextConfig) -> str:
    """``text`` with ``config.replace`` applied in the order written, then the case rule, NFC and single spaces.

    Any run of Unicode whitespace becomes one space; none is left at the ends. Replacements see composed characters
    (NFC), so that ``"é"`` matches however the file spelt it, and they see the case of the source.

    Raises ``TextError`` for what is no text.
    """
    if not isinstance(text, str):
        raise TextError(f"expected a text, got {text!r}"[:200])
    text = unicodedata.normalize("NFC", text)
    for old, new in config.replace.items():
        text = text.replace(unicodedata.normalize("NFC", old), new)
    if config.case == "upper":
        text = text.upper()
    elif config.case == "lower":
        text = text.lower()
    # Once more: changing case and replacing can leave decomposed sequences.
    return " ".join(unicodedata.normalize("NFC", text).split())


def as_space(text: str, unknown: Set[str]) -> str:
    """A normalised text with its unknown characters as word boundaries."""
    return " ".join("".join(" " if c in unknown else c for c in text).split()) if unknown else text
