"""Ports for servers that do not choose one themselves."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 12_000, 32_000
"""Below the ports that systems give to connections, any of which may take a free one before its server does."""


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now, and that was not given before."""
    for port in random.SystemRandom().sample(sorted(set(range(FIRST, LAST)) - _given), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError(f"no port of {FIRST} to {LAST} is free")
