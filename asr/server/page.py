"""The page at `/`, whose files lie in `page/`."""

from __future__ import annotations

from starlette.routing import BaseRoute

from asr.server.services import Services


def page_routes(services: Services) -> list[BaseRoute]:
    """The routes of this protocol."""
    return []
