"""Who may use the server: checks of ``Host``, ``Origin`` and token before anything else happens.

A web page that the user visits can send requests to servers on the user's own machine. Browsers state where a page
comes from, and a page cannot change that:

- ``Origin``: requests that do something (WebSocket handshakes, and all but GET, HEAD and OPTIONS) must come from this
  server's own page or from an allowed origin. Programs send no ``Origin``; they pass.
- ``Host``: a name that is not the server's own is refused. A hostile page can let its own name point to this machine
  (DNS rebinding), and is then its "own page" for the browser. Addresses in figures cannot be used so; they pass.

Both hold with and without a token. A token may stand in ``Authorization: Bearer``, in ``X-API-Key``, in the query as
``token``, or in the WebSocket subprotocol ``openai-insecure-api-key.TOKEN``, since browsers can set no headers there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr.errors import ConfigError
from asr.server.api_errors import ApiError
from asr.server.settings import ServerLimits, Settings
from asr.server.uploads import too_large

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/", "/health", "/ready", "/favicon.ico")
OPEN_FOLDER = "/page/"
"""What needs no token: the page, which asks for one, and what load balancers ask."""
REALTIME = "realtime"
TOKEN_PROTOCOL = "openai-insecure-api-key."
FORM_BYTES = 2**20
"""What a form may have beside its file."""
REST_S = 2.0
REST_BYTES = 2**28
"""How long, and for how many bytes, a refused upload is still read: a client that is cut off while it sends does not
see the answer."""
BODY = "asr.body"
"""Key of the scope under which ``RequestBody`` stands."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ANY_ADDRESS = ("", "0.0.0.0", "::")


@dataclass(frozen=True)
class AccessRules:
    """Names of this server in small letters, origins beyond its own as ``(scheme, host, port)``, and its token.

    ``any_host``, ``any_origin``: the check is switched off by ``*``.
    """

    hosts: frozenset[str]
    origins: frozenset[tuple[str, str, int]] = frozenset()
    token: str = ""
    any_host: bool = False
    any_origin: bool = False

    @classmethod
    def of(cls, settings: Settings) -> AccessRules:
        """The rules of a server's options. Raises ``ConfigError`` for what is no origin or host."""
        own = {"localhost", *({settings.host.lower()} - set(_ANY_ADDRESS))}
        if settings.host in _ANY_ADDRESS:
            name = socket.gethostname().lower()
            own |= {name, f"{name}.local"}
        if settings.token != settings.token.strip():  # a header cannot have them, so that nobody could give it
            raise ConfigError("--token: expected a token without spaces around it; also in ASR_TOKEN")
        given = [host for host in settings.hosts if host != "*"]
        return cls(
            hosts=frozenset(own | {_host_option(host) for host in given}),
            origins=frozenset(_origin_option(origin) for origin in settings.origins if origin != "*"),
            token=settings.token,
            any_host="*" in settings.hosts,
            any_origin="*" in settings.origins,
        )

    def check_host(self, header: str | None) -> None:
        """Refuse a ``Host`` header that names another server. Raises ``ApiError``."""
        if self.any_host:
            return
        name = None if header is None else split_host(header)
        if name is not None and (name[0] in self.hosts or _is_address(name[0])):
            return
        raise ApiError(
            403,
            f"Host: expected a name of this server, got {'none' if header is None else repr(header[:100])}; allow it "
            "with --allow-host",
            code="host_not_allowed",
        )

    def allows_origin(self, origin: str, host: str | None) -> bool:
        """Whether a page from ``origin`` may act: it is this server's own page, or allowed by option.

        The scheme of the own page is not compared: behind a proxy the server does not know it.
        """
        found = split_origin(origin)
        if self.any_origin:
            return True
        if found is None:
            return False
        if found in self.origins:
            return True
        own = None if host is None else split_host(host)
        return own is not None and own[0] == found[1] and (own[1] or _DEFAULT_PORTS[found[0]]) == found[2]

    def check_token(self, given: Iterable[bytes]) -> None:
        """Refuse a client that has not given the token. The time does not depend on how much of it is right.

        Raises ``ApiError``.
        """
        if not self.token:
            return
        tokens = list(given)
        matches = [hmac.compare_digest(token, self.token.encode()) for token in tokens]
        if not any(matches):
            came = "a wrong one" if tokens else "none"
            raise ApiError(401, f"expected the server's token, got {came}; send it as Authorization: Bearer TOKEN")


class AccessMiddleware:
    """ASGI middleware with these checks; refusals have the shape of OpenAI's errors.

    It also answers CORS preflights, refuses bodies that are announced too large, and echoes the subprotocol
    ``realtime`` for every WebSocket that offers it.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, limits: ServerLimits) -> None:
        self.app = app
        self.rules = rules
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _Headers(scope)
        has_body = headers.one("content-length") not in (None, "0") or headers.one("transfer-encoding") is not None
        scope[BODY] = RequestBody(receive, complete=scope["type"] == "websocket" or not has_body)
        try:
            cors = self._check_origin(scope, headers)
        except ApiError as error:
            await refuse(scope, send, error)
            return
        send = _with_headers(send, cors)
        if cors and scope["type"] == "http" and scope["method"] == "OPTIONS":
            await _answer_preflight(send, headers)
            return
        try:
            self._check_rest(scope, headers)
        except ApiError as error:
            await refuse(scope, send, error)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, _echoing(send, headers.protocols))
        else:
            await self.app(scope, scope[BODY].receive, send)

    def _check_origin(self, scope: Scope, headers: _Headers) -> list[tuple[bytes, bytes]]:
        """Check ``Host`` and ``Origin``: the CORS headers of the answer. Raises ``ApiError``."""
        host, origin = headers.one("host"), headers.one("origin")
        self.rules.check_host(host)
        if origin is None:
            return []
        if self.rules.allows_origin(origin, host):
            return [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", b"retry-after"),
                (b"vary", b"Origin"),
            ]
        if scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS:
            raise ApiError(
                403,
                f"Origin: expected this server's own page or an allowed origin, got {origin[:100]!r}; allow it with "
                "--origin",
                code="origin_not_allowed",
            )
        return []

    def _check_rest(self, scope: Scope, headers: _Headers) -> None:
        """Check the token, and the size that is announced. Raises ``ApiError``."""
        if not _is_open(scope):
            self.rules.check_token(headers.tokens())
        length = headers.one("content-length") or "0"
        if length.isdecimal() and int(length) > self.limits.file_bytes + FORM_BYTES:
            raise too_large(self.limits)


class _Headers:
    """The headers of a request or handshake that the checks need."""

    def __init__(self, scope: Scope) -> None:
        self._all: list[tuple[str, str]] = [
            (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        query = scope.get("query_string", b"").decode("latin-1")
        self._query = [value for name, value in parse_qsl(query) if name == "token"]
        self.protocols = [
            part.strip() for value in self.every("sec-websocket-protocol") for part in value.split(",") if part.strip()
        ]

    def every(self, name: str) -> list[str]:
        return [value for key, value in self._all if key == name]

    def one(self, name: str) -> str | None:
        """The header's value; of several, all of them, which no check accepts."""
        found = self.every(name)
        return ", ".join(found) if found else None

    def tokens(self) -> list[bytes]:
        """Everything that the client gave as a token."""
        bearers = [value.split(None, 1) for value in self.every("authorization")]
        found = [parts[1].strip() for parts in bearers if len(parts) == 2 and parts[0].lower() == "bearer"]
        found += self.every("x-api-key")
        found += [name.removeprefix(TOKEN_PROTOCOL) for name in self.protocols if name.startswith(TOKEN_PROTOCOL)]
        return [token.encode("latin-1") for token in found] + [token.encode() for token in self._query]


def split_host(header: str) -> tuple[str, int | None] | None:
    """Name in small letters and port of a ``Host`` header; None where it is none."""
    try:
        parts = urlsplit(f"//{header.strip()}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in header:
        return None
    return parts.hostname.rstrip("."), port


def split_origin(origin: str) -> tuple[str, str, int] | None:
    """Scheme, name and port of an ``Origin`` header; None for ``null`` and for what is none."""
    scheme, separator, rest = origin.strip().lower().partition("://")
    host = split_host(rest)
    if not separator or host is None or scheme not in _DEFAULT_PORTS:
        return None
    return scheme, host[0], host[1] or _DEFAULT_PORTS[scheme]


def check_certificate(settings: Settings) -> None:
    """Refuse a certificate or key that cannot be used, before any port is open. Raises ``ConfigError``."""
    if not settings.certificate:
        if settings.key:
            raise ConfigError("--key: expected --certificate as well, got the key alone")
        return
    for option, path in (("--certificate", settings.certificate), ("--key", settings.key)):
        if path and not os.path.isfile(path):
            raise ConfigError(f"{option}: {path}: expected a PEM file, got none; docs/serving.md shows how to make one")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.certificate, settings.key or None, password=lambda: b"")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"--certificate: {settings.certificate}: expected a certificate in PEM with its private key (--key), "
            f"without a password; got {reason}"
        ) from error


def _host_option(value: str) -> str:
    found = split_host(value)
    if found is None or found[1] is not None:
        raise ConfigError(f"--allow-host: expected a name such as asr.example.org, without a port, got {value[:100]!r}")
    return found[0]


def _origin_option(value: str) -> tuple[str, str, int]:
    found = split_origin(value)
    if found is None:
        raise ConfigError(f"--origin: expected an origin such as https://example.org, got {value[:100]!r}")
    return found


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return scope["type"] == "http" and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER))


class RequestBody:
    """The body of a request as it arrives; ``complete``: nothing of it is to come."""

    def __init__(self, receive: Receive, *, complete: bool) -> None:
        self._receive = receive
        self.complete = complete

    async def receive(self) -> Message:
        """The next ASGI message of the client."""
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.complete = True
        return message

    async def linger(self) -> None:
        """Read the rest for a while, so that a client that is still sending can read the answer."""
        left = REST_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                while left > 0 and not self.complete:
                    left -= len((await self.receive()).get("body", b""))


async def refuse(scope: Scope, send: Send, error: ApiError, more: Mapping[str, str] | None = None) -> None:
    """Answer a request or handshake with an error; ``more``: further headers.

    The connection ends where the rest of a body would come.
    """
    body = error.body()
    headers = [(k.encode(), v.encode("latin-1")) for k, v in (error.headers() | dict(more or {})).items()]
    headers.append((b"content-length", str(len(body)).encode()))
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
            return
        await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
        return
    rest: RequestBody = scope[BODY]
    if not rest.complete:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not rest.complete})
    if not rest.complete:
        await rest.linger()
        await send({"type": "http.response.body", "body": b""})


async def _answer_preflight(send: Send, headers: _Headers) -> None:
    wanted = headers.one("access-control-request-headers") or "authorization, content-type"
    answer = [
        (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
        (b"access-control-allow-headers", wanted.encode("latin-1")),
        (b"access-control-max-age", b"600"),
    ]
    if headers.one("access-control-request-private-network") == "true":
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send, more: list[tuple[bytes, bytes]]) -> Send:
    """``send`` that adds headers to the answer."""
    if not more:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *more]
        await send(message)

    return sending


def _echoing(send: Send, offered: list[str]) -> Send:
    """``send`` that accepts the subprotocol ``realtime`` where it is offered: browsers close the connection without."""
    if REALTIME not in offered:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "websocket.accept" and not message.get("subprotocol"):
            message["subprotocol"] = REALTIME
        await send(message)

    return sending
