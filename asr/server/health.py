"""`/health`, `/ready` and `/metrics`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from asr.server.services import Services


def health_routes(services: Services) -> list[BaseRoute]:
    """`GET /health` decodes for real; `GET /ready` says whether all models are loaded; `GET /metrics` is for
    Prometheus."""

    async def health(request: Request) -> Response:
        workers = await services.health()
        good = sum(state == "ok" for state in workers.values())
        status = "ok" if good == len(workers) else "degraded" if good else "failing"
        return JSONResponse({"status": status, "workers": workers}, 200 if good else 503)

    async def ready(request: Request) -> Response:
        state = "closing" if services.closing.is_set() else "ready" if services.ready.is_set() else "loading"
        if state == "ready" and not any(worker.ready.is_set() for worker in services.pool.workers):
            state = "restarting"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    async def metrics(request: Request) -> Response:
        text = services.metrics.text(services.gauges())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)]
