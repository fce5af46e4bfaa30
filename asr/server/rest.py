"""OpenAI's REST API: `/v1/audio/transcriptions` and `/v1/models`."""

from __future__ import annotations

from starlette.routing import BaseRoute

from asr.server.services import Services


def rest_routes(services: Services) -> list[BaseRoute]:
    """The routes of this protocol."""
    return []
