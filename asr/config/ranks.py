"""Which of several processes this is, as ``torchrun`` says in the environment. Needs no torch."""

from __future__ import annotations

import os

from asr.errors import ConfigError


def processes() -> tuple[int, int]:
    """Which process this is, from 0, and how many there are, as ``torchrun`` says in RANK and WORLD_SIZE; else (0, 1).

    Raises ``ConfigError`` where the two cannot be.
    """
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    size = _number("WORLD_SIZE")
    if "RANK" not in os.environ and size == 1:
        return 0, 1
    if "RANK" not in os.environ or (rank := _number("RANK")) >= size:
        raise ConfigError(
            f"RANK: expected a number below WORLD_SIZE={size}, got {os.environ.get('RANK', 'nothing')}; "
            "start processes with torchrun, which sets both, or unset them"
        )
    return rank, size


def local_rank() -> int:
    """Which process of this machine this is, from 0 (LOCAL_RANK). Raises ``ConfigError``."""
    return _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0


def _number(name: str) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"{name}: expected a number, 0 or more, as torchrun sets it, got {text!r}; or unset it")
    return int(text)
