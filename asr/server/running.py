"""Runs the server: ports, signals, and an end that finishes what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from asr.errors import AsrError
from asr.server.access import check_certificate
from asr.server.app import build_app, build_vosk_app
from asr.server.services import Services
from asr.server.settings import Settings
from asr.server.web_sockets import BoundedWebSocket
from asr.server.wyoming_service import serving_wyoming


class _Server(uvicorn.Server):
    """A server that leaves signals to ``serve``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends at once.

    Prints the address once requests are answered. Raises ``AsrError`` for a port in use, a missing certificate or a
    model that cannot be loaded.
    """
    check_certificate(settings)
    services = Services(settings)
    apps = [(settings.port, build_app(services))]
    if settings.vosk_port is not None:
        apps.append((settings.vosk_port, build_vosk_app(services)))
    sockets = [listening(settings.host, port) for port, _ in apps]
    servers = [_Server(_configuration(settings, app)) for _, app in apps]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    running = [asyncio.create_task(s.serve([place])) for s, place in zip(servers, sockets, strict=True)]
    async with serving_wyoming(services):
        warming = asyncio.create_task(services.start())
        scheme = "https" if settings.certificate else "http"
        await warming
        port = sockets[0].getsockname()[1]
        print(f"serving on {scheme}://{settings.host}:{port}/ (Ctrl-C ends)", file=sys.stderr, flush=True)
        await stopping.wait()
        await services.stop()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running)


def listening(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises ``AsrError`` where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        place = socket.socket(family, socket.SOCK_STREAM)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
        place.listen(512)
    except OSError as error:
        raise AsrError(
            f"{host}:{port}: cannot listen there: {error.strerror or error}; choose another with --host and --port"
        ) from error
    return place


def _configuration(settings: Settings, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws=BoundedWebSocket,
        ws_max_size=settings.limits.message_bytes,
        ssl_certfile=settings.certificate or None,
        ssl_keyfile=settings.key or None,
    )
