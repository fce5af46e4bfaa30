"""The Wyoming protocol (Home Assistant) on a TCP port of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from asr.server.services import Services


@contextlib.asynccontextmanager
async def serving_wyoming(services: Services) -> AsyncIterator[None]:
    """Serve ``settings.wyoming`` until the context ends; nothing where it is None. Raises ``OSError`` for a port in
    use."""
    yield
