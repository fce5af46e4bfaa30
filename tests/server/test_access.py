"""Who may use the server: host, origin and token, on requests and on WebSocket handshakes."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import serving

from asr.cli import main
from asr.errors import ConfigError
from asr.server.access import AccessMiddleware, AccessRules, check_certificate
from asr.server.settings import ServerLimits, Settings

HOST = "127.0.0.1:8000"


def answer(
    settings: Settings,
    *,
    kind: str = "http",
    method: str = "GET",
    path: str = "/v1/models",
    query: str = "",
    body: list[bytes] | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request or handshake to an application that accepts everything.

    The status of a WebSocket that is accepted is 101. Underscores in names of headers stand for hyphens.
    """
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if kind == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"through"})

    parts = [] if body is None else body

    async def receive() -> dict[str, Any]:
        part = parts.pop(0) if parts else b""
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items() if value],
        "extensions": {"websocket.http.response": {}},
    }
    if kind == "http":
        scope["method"] = method
    middleware = AccessMiddleware(app, AccessRules.of(settings), settings.limits)
    asyncio.run(middleware(scope, receive, send))
    first = sent[0]
    status = 101 if first["type"] == "websocket.accept" else first["status"]
    found = {name.decode(): value.decode() for name, value in first.get("headers") or []}
    found["subprotocol"] = first.get("subprotocol", "")
    return status, found, b"".join(message.get("body", b"") for message in sent[1:])


def code(answered: tuple[int, dict[str, str], bytes]) -> str:
    return json.loads(answered[2])["error"]["code"]


TOKENS = pytest.mark.parametrize("token", ["", "secret"])


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:8000", "[::1]:8000", "192.168.1.7"])
def test_own_names_and_addresses_are_hosts(host):
    assert answer(Settings(), host=host)[0] == 200


@TOKENS
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "a b", ""])
def test_a_foreign_host_is_refused(host, kind, token):
    answered = answer(Settings(token=token), kind=kind, host=host, x_api_key=token)
    assert (answered[0], code(answered)) == (403, "host_not_allowed")


def test_a_request_without_a_host_is_told_so():
    assert b"got none" in answer(Settings(), host="")[2]


@pytest.mark.parametrize("token", [" secret", "secret\n", " "])
def test_a_token_that_no_header_can_have_is_refused_at_the_start(token):
    with pytest.raises(ConfigError, match="--token: expected a token without spaces around it"):
        AccessRules.of(Settings(token=token))


def test_a_host_is_allowed_by_option():
    assert answer(Settings(hosts=("asr.example.org",)), host="asr.example.org")[0] == 200
    assert answer(Settings(hosts=("*",)), host="any.example.org")[0] == 200


def test_the_page_itself_is_guarded_against_rebinding():
    assert answer(Settings(), path="/", host="evil.example")[0] == 403


def test_a_program_without_an_origin_passes():
    assert answer(Settings(), method="POST")[0] == 200
    assert answer(Settings(), kind="websocket")[0] == 101


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "https://127.0.0.1:8000"])
def test_the_own_page_may_act(origin):
    assert answer(Settings(), method="POST", origin=origin)[0] == 200
    assert answer(Settings(), kind="websocket", origin=origin)[0] == 101


def test_the_own_page_behind_a_proxy_may_act():
    settings = Settings(hosts=("asr.example.org",))
    assert answer(settings, method="POST", host="asr.example.org", origin="https://asr.example.org")[0] == 200


@TOKENS
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8000", "x"]
)
@pytest.mark.parametrize(("kind", "method"), [("http", "POST"), ("http", "DELETE"), ("websocket", "GET")])
def test_a_foreign_origin_is_refused(kind, method, origin, token):
    answered = answer(Settings(token=token), kind=kind, method=method, origin=origin, x_api_key=token)
    assert (answered[0], code(answered)) == (403, "origin_not_allowed")


def test_a_foreign_page_may_not_read_answers():
    status, headers, _ = answer(Settings(), origin="https://evil.example")
    assert status == 200  # the browser keeps it from the page, since no header allows it
    assert "access-control-allow-origin" not in headers


def test_an_origin_is_allowed_by_option():
    settings = Settings(origins=("https://app.example.org",))
    status, headers, _ = answer(settings, method="POST", origin="https://app.example.org")
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example.org")
    assert answer(settings, method="POST", origin="http://app.example.org")[0] == 403
    assert answer(settings, method="POST", origin="https://app.example.org:444")[0] == 403


def test_a_page_of_an_allowed_origin_can_read_that_its_token_is_wrong():
    settings = Settings(origins=("https://app.example.org",), token="secret")
    status, headers, _ = answer(settings, method="POST", origin="https://app.example.org", x_api_key="wrong")
    assert (status, headers["access-control-allow-origin"]) == (401, "https://app.example.org")


def test_a_token_may_have_any_characters():
    settings = Settings(token="gehéim")
    assert answer(settings, x_api_key="gehéim")[0] == 200
    assert answer(settings, query="token=geh%C3%A9im")[0] == 200


def test_a_preflight_of_an_allowed_origin_needs_no_token():
    settings = Settings(origins=("https://app.example.org",), token="secret")
    status, headers, body = answer(
        settings,
        method="OPTIONS",
        origin="https://app.example.org",
        access_control_request_method="POST",
        access_control_request_headers="authorization,x-stainless-os",
        access_control_request_private_network="true",
    )
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert headers["access-control-allow-private-network"] == "true"


def test_a_preflight_of_a_foreign_origin_allows_nothing():
    settings = Settings(token="secret")
    answered = answer(settings, method="OPTIONS", origin="https://evil.example", access_control_request_method="POST")
    assert answered[0] == 401
    assert "access-control-allow-origin" not in answered[1]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "given",
    [
        {"authorization": "Bearer secret"},
        {"authorization": "bearer  secret"},
        {"x_api_key": "secret"},
        {"query": "model=a&token=secret"},
        {"sec_websocket_protocol": "realtime, openai-insecure-api-key.secret"},
    ],
)
def test_a_token_is_taken_wherever_clients_can_put_it(given, kind):
    assert answer(Settings(token="secret"), kind=kind, **given)[0] in (200, 101)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"authorization": "Bearer secre"},
        {"authorization": "Bearer"},
        {"authorization": "Basic secret"},
        {"x_api_key": "sécret"},
        {"query": "token=Secret"},
        {"sec_websocket_protocol": "realtime, openai-insecure-api-key."},
    ],
)
def test_a_client_without_the_token_is_refused(given, kind):
    answered = answer(Settings(token="secret"), kind=kind, **given)
    assert (answered[0], code(answered)) == (401, "invalid_api_key")
    assert answered[1]["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/page/main.js"])
def test_the_page_and_the_state_of_the_server_need_no_token(path):
    assert answer(Settings(token="secret"), path=path)[0] == 200


def test_a_websocket_at_the_root_needs_the_token():
    assert answer(Settings(token="secret"), kind="websocket", path="/")[0] == 401


def test_metrics_need_the_token():
    assert answer(Settings(token="secret"), path="/metrics")[0] == 401


def test_the_subprotocol_realtime_is_echoed():
    offered = "realtime, openai-insecure-api-key.secret, openai-beta.realtime-v1"
    answered = answer(Settings(token="secret"), kind="websocket", sec_websocket_protocol=offered)
    assert (answered[0], answered[1]["subprotocol"]) == (101, "realtime")


NAMES = st.sampled_from(
    "host origin authorization x_api_key content_length transfer_encoding sec_websocket_protocol".split()
)
LATIN = st.text(st.characters(max_codepoint=255), max_size=30) | st.sampled_from(
    ["[::1", "http://[", "Bearer ", "9" * 99]
)


@given(st.dictionaries(NAMES, LATIN), LATIN)
def test_no_header_passes_without_the_token(headers, query):
    for kind in ("http", "websocket"):
        answered = answer(Settings(token="a very secret token"), kind=kind, query=query, **headers)
        assert answered[0] in (401, 403)


def test_a_body_that_is_announced_too_large_is_refused_before_it_arrives():
    answered = answer(Settings(), method="POST", content_length=str(2 * 10**9))
    assert (answered[0], code(answered)) == (413, "request_too_large")


def test_a_refused_body_is_read_on_so_that_the_answer_arrives():
    arriving = [b"x" * 1000] * 5
    settings = Settings(limits=ServerLimits(file_bytes=1000))
    status, headers, _ = answer(settings, method="POST", content_length=str(2**21), body=arriving)
    assert (status, headers["connection"]) == (413, "close")
    assert arriving == []


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/path", "ftp://example.org", "https://"])
def test_what_is_no_origin_is_refused_at_the_start(origin):
    with pytest.raises(ConfigError, match="--origin: expected an origin such as"):
        AccessRules.of(Settings(origins=(origin,)))


@pytest.mark.parametrize("host", ["https://example.org", "example.org:80", "a/b", ""])
def test_what_is_no_host_is_refused_at_the_start(host):
    with pytest.raises(ConfigError, match="--allow-host: expected a name"):
        AccessRules.of(Settings(hosts=(host,)))


def test_a_certificate_with_its_key_is_taken(certificate):
    check_certificate(Settings(certificate=certificate[0], key=certificate[1]))


@pytest.mark.parametrize("option", ["certificate", "key"])
def test_a_missing_certificate_or_key_is_named(certificate, option):
    given = {"certificate": certificate[0], "key": certificate[1], option: "/nowhere/x.pem"}
    with pytest.raises(ConfigError, match=f"--{option}: /nowhere/x.pem: expected a PEM file"):
        check_certificate(Settings(**given))


def test_a_certificate_without_its_key_is_refused(certificate):
    with pytest.raises(ConfigError, match="with its private key"):
        check_certificate(Settings(certificate=certificate[0]))


def test_a_key_without_a_certificate_is_refused(certificate):
    with pytest.raises(ConfigError, match="--key: expected --certificate as well"):
        check_certificate(Settings(key=certificate[1]))


def test_a_damaged_certificate_is_refused(certificate, tmp_path):
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="expected a certificate in PEM"):
        check_certificate(Settings(certificate=str(tmp_path / "cert.pem"), key=certificate[1]))


def test_https_with_an_own_certificate(certificate):
    """Health is asked by the name of the certificate, with its issuer checked."""
    context = ssl.create_default_context(cafile=certificate[0])
    with serving("--model", "an4", "--certificate", certificate[0], "--key", certificate[1]) as served:
        connection = http.client.HTTPSConnection("localhost", served.port, context=context)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_the_command_names_a_missing_certificate():
    with pytest.raises(ConfigError, match=r"--certificate: /nowhere/cert\.pem: expected a PEM file, got none"):
        main.run_verb(["serve", "--certificate", "/nowhere/cert.pem"])
