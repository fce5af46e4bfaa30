"""OpenAI's Realtime API for transcription: the WebSocket `/v1/realtime`."""

from __future__ import annotations

from starlette.routing import BaseRoute

from asr.server.services import Services


def realtime_routes(services: Services) -> list[BaseRoute]:
    """The routes of this protocol."""
    return []
