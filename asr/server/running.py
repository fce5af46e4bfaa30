"""Runs the server: ports, signals, and an end that finishes what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn

from asr.errors import AsrError
from asr.server.access import check_certificate
from asr.server.app import build_app, build_vosk_app
from asr.server.http_connections import BoundedHttp
from asr.server.services import Services
from asr.server.settings import Settings
from asr.server.web_sockets import BoundedWebSocket
from asr.server.wyoming_service import serving_wyoming

LAST_S = 2.0
"""Seconds that connections get to close, behind ``Settings.grace_s``."""

MOST_FILES = 10_240
"""Open files that the server asks to be allowed: connections, uploads, pipes."""


class _Server(uvicorn.Server):
    """A server that leaves signals to ``serve``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends at once.

    Prints the address once requests are answered. What is under way at the end is finished within
    ``Settings.grace_s``; what is new is refused.

    Raises ``AsrError`` for a port in use, a missing certificate or a model that cannot be loaded.
    """
    if os.name != "posix":
        raise AsrError("asr serve: expected Linux or macOS, whose processes can share connections; use WSL on Windows")
    check_certificate(settings)
    _allow_many_connections()
    services = Services(settings)
    apps = [(settings.port, build_app(services), "--host and --port")]
    if settings.vosk_port is not None:
        apps.append((settings.vosk_port, build_vosk_app(services), "--vosk-port"))
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(listening(settings.host, port, option)) for port, _, option in apps]
        servers = [_Server(_configuration(settings, app)) for _, app, _ in apps]
        with _stop_signals() as stopping:
            try:
                await _run(services, servers, sockets, stopping)
            finally:
                services.end()


def _allow_many_connections() -> None:
    """Each connection is an open file; the usual limit of a process, 1024 or 256, is less than its hard one."""
    import resource  # POSIX only

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    with contextlib.suppress(OSError, ValueError):
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(
    services: Services, servers: list[_Server], sockets: list[socket.socket], stopping: asyncio.Event
) -> None:
    running = [asyncio.create_task(s.serve([place])) for s, place in zip(servers, sockets, strict=True)]
    stopped = asyncio.create_task(stopping.wait())
    try:
        async with serving_wyoming(services) as wyoming_port:
            starting = asyncio.create_task(services.start())
            await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                _keep_for_good()
                lines = address_lines(services.settings, sockets, wyoming_port)
                print("\n".join(lines), file=sys.stderr, flush=True)
                await asyncio.wait([stopped, *running], return_when=asyncio.FIRST_COMPLETED)
                await services.stop()
            else:
                starting.cancel()
            services.closing.set()
    finally:
        for server in servers:
            server.should_exit = True
        stopped.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*running)


def _keep_for_good() -> None:
    """What is loaded by now stays: collections look at what connections leave behind, and so are short and frequent.

    Each connection that has ended is a cycle of references, which waits for a collection.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # Python waits with the next one until there is a quarter more than this one leaves


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set; a second signal ends the process."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()  # first: whoever read the messages may have gone
        with contextlib.suppress(OSError):
            print(
                "ending: running requests are finished first; a second signal ends at once", file=sys.stderr, flush=True
            )

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield stopping
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def address_lines(settings: Settings, sockets: list[socket.socket], wyoming_port: int) -> list[str]:
    """The lines of the start: the address of each protocol, and warnings if other machines need no token."""
    scheme = "https" if settings.certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [f"serving on {scheme}://{host}:{sockets[0].getsockname()[1]}/ (Ctrl-C ends)"]
    if len(sockets) > 1:
        lines.append(
            f"Vosk protocol on {'wss' if settings.certificate else 'ws'}://{host}:{sockets[1].getsockname()[1]}/"
        )
    if settings.wyoming is not None:
        lines.append(f"Wyoming protocol on tcp://{settings.wyoming.host}:{wyoming_port}")
        if not _is_loopback(settings.wyoming.host):
            lines.append(
                "Wyoming has no tokens: everybody who can reach this port can use it; keep it inside your network"
            )
    if not settings.token and not _is_loopback(sockets[0].getsockname()[0]):
        lines.append(
            "no token: everybody who can reach this machine can use the server; set ASR_TOKEN, or listen at 127.0.0.1 "
            "(docs/serving.md: Who can connect)"
        )
    return lines


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; ``localhost`` is one."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name, which may lead anywhere
        return False


def listening(host: str, port: int, option: str = "--host and --port") -> socket.socket:
    """A listening TCP socket. Raises ``AsrError``, which names the ``option``, where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        place = socket.socket(family, socket.SOCK_STREAM)
        try:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind((host, port))
            place.listen(512)
        except BaseException:
            place.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise AsrError(f"{host}:{port}: cannot listen there: {reason}; choose another with {option}") from error
    return place


def _configuration(settings: Settings, app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="error",  # a warning for each request that is none would let clients fill the log
        access_log=False,
        lifespan="off",
        http=BoundedHttp,
        ws=BoundedWebSocket,
        ws_max_size=settings.limits.message_bytes,
        timeout_graceful_shutdown=round(LAST_S),
        ssl_certfile=settings.certificate or None,
        ssl_keyfile=settings.key or None,
    )
