"""The Vosk protocol over WebSockets: `/vosk`, and `/` of a port of its own."""

from __future__ import annotations

from starlette.routing import BaseRoute

from asr.server.services import Services


def vosk_routes(services: Services, path: str = "/vosk") -> list[BaseRoute]:
    """The routes of this protocol."""
    return []
