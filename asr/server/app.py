"""The server's ASGI applications, put together from one module per protocol."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from asr.server.access import AccessMiddleware, AccessRules
from asr.server.health import health_routes
from asr.server.page import page_routes
from asr.server.realtime import realtime_routes
from asr.server.rest import ERROR_HANDLERS, rest_routes
from asr.server.services import Services
from asr.server.vosk import vosk_routes


def build_app(services: Services) -> Starlette:
    """All protocols that share the main port. Whoever runs it starts and stops ``services`` (``running.py``)."""
    routes = [*health_routes(services), *vosk_routes(services), *realtime_routes(services), *rest_routes(services)]
    routes += page_routes(services)
    return _application(services, routes)


def build_vosk_app(services: Services) -> Starlette:
    """The Vosk protocol alone, at ``/`` of its own port."""
    return _application(services, vosk_routes(services, "/"))


def _application(services: Services, routes: list[BaseRoute]) -> Starlette:
    settings = services.settings
    access = Middleware(AccessMiddleware, rules=AccessRules.of(settings), limits=settings.limits)
    app = Starlette(routes=routes, middleware=[access], exception_handlers=ERROR_HANDLERS)
    app.state.services = services
    return app
