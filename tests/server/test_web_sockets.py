"""WebSockets and TCP connections whose clients never read: nobody waits for them for ever."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
import struct
import threading
import time
import weakref
from typing import ClassVar

import pytest
import uvicorn
from free_ports import free_port
from scripted import ScriptedSession, scripted_services
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from asr.server import http_connections, web_sockets, wyoming_service
from asr.server.http_connections import BoundedHttp
from asr.server.realtime import realtime_routes
from asr.server.settings import Address, ServerLimits
from asr.server.vosk import vosk_routes
from asr.server.web_sockets import BoundedWebSocket
from asr.server.wyoming_service import serving_wyoming

AUDIO = struct.pack(">BBH", 0x82, 0xFE, 1000) + bytes(4 + 1000)


def masked(text):
    """A frame of a short text with a mask of zeros."""
    return struct.pack(">BB", 0x81, 0x80 | len(text)) + bytes(4) + text


@contextlib.contextmanager
def served(services, *more):
    """A server of the live protocols over scripted sessions, in a thread; gives its port."""
    app = Starlette(routes=[*vosk_routes(services), *realtime_routes(services), *more])
    with socket.create_server(("127.0.0.1", 0)) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of connections: soon full of what nobody reads
        options = {"http": BoundedHttp, "ws": BoundedWebSocket, "lifespan": "off", "log_level": "error"}
        server = uvicorn.Server(uvicorn.Config(app, **options))

        async def run():
            async with serving_wyoming(services):
                await server.serve([place])

        thread = threading.Thread(target=asyncio.run, args=[run()])
        thread.start()
        try:
            yield place.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def connected(port):
    """A connection with a small window, as soon as the server listens."""
    for _ in range(1200):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(300)
        with contextlib.suppress(ConnectionRefusedError):
            raw.connect(("127.0.0.1", port))
            return raw
        raw.close()
        time.sleep(0.05)
    raise AssertionError("nothing listens")


def shake_hands(port, path):
    raw = connected(port)
    head = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    raw.sendall(f"GET {path} HTTP/1.1\r\n{head}Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
    assert raw.recv(12) == b"HTTP/1.1 101"
    return raw


def send_without_end(raw, message):
    """Send without reading. Raises ``ConnectionError`` once the server has cut the client off."""
    block = message * 100
    for _ in range(200_000_000 // len(block)):
        raw.sendall(block)


def received(raw):
    """The next bytes; there must be some."""
    more = raw.recv(4096)
    assert more
    return more


def closed(services):
    """Wait until all sessions are closed."""
    for _ in range(1200):
        if services.live.sessions and all(session.closed for session in services.live.sessions):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/vosk", AUDIO),
        ("/vosk", b"\x81\x84" + bytes(4) + b"none"),
        ("/v1/realtime", b"\x81\x84" + bytes(4) + b"none"),
    ],
    ids=["audio", "text", "events"],
)
def test_a_client_that_sends_for_ever_and_never_reads_is_cut_off(monkeypatch, path, message):
    monkeypatch.setattr(web_sockets, "SEND_S", 0.2)
    monkeypatch.setattr(web_sockets, "LINGER_S", 0.2)
    services = scripted_services()
    with served(services) as port, shake_hands(port, path) as raw:
        with pytest.raises(ConnectionError):
            send_without_end(raw, message)
        assert closed(services)


@pytest.mark.parametrize("path", ["/vosk", "/v1/realtime"])
def test_a_flood_of_short_messages_is_taken_in_parts_and_answered_in_order(monkeypatch, path):
    monkeypatch.setattr(web_sockets, "TAKEN_BYTES", 100)
    sizes = []
    taken = WebSocketsSansIOProtocol.data_received
    monkeypatch.setattr(
        WebSocketsSansIOProtocol, "data_received", lambda self, data: (sizes.append(len(data)), taken(self, data))[1]
    )
    with served(scripted_services()) as port, shake_hands(port, path) as raw:
        sender = threading.Thread(
            target=raw.sendall, args=[b"".join(masked(b"no %04d" % n) for n in range(2000))], daemon=True
        )
        sender.start()
        found = b""
        while b"no 1999" not in found and (more := raw.recv(1 << 16)):
            found += more
        sender.join()
    assert re.findall(rb"no (\d{4})", found) == [b"%04d" % n for n in range(2000)]
    assert len(sizes) > 100
    assert max(sizes[1:]) <= 100  # the first is the handshake


def test_a_long_message_is_put_together_from_its_parts(monkeypatch):
    monkeypatch.setattr(web_sockets, "TAKEN_BYTES", 100)
    services = scripted_services()
    with served(services) as port, shake_hands(port, "/vosk") as raw:
        raw.sendall(struct.pack(">BBQ", 0x82, 0xFF, 100_000) + bytes(4 + 100_000) + masked(b'{"eof": 1}'))
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4096):
                pass
    assert [session.received for session in services.live.sessions] == [100_000]


def test_pings_are_answered_while_messages_wait_to_be_recognised(monkeypatch):
    release = threading.Event()

    async def feed(self, data):
        while not release.is_set():
            await asyncio.sleep(0.01)
        return []

    monkeypatch.setattr(ScriptedSession, "feed", feed)
    with served(scripted_services()) as port, shake_hands(port, "/vosk") as raw:
        raw.sendall(AUDIO * 20 + struct.pack(">BB", 0x89, 0x84) + bytes(4) + b"here")
        found = b""
        while b"here" not in found:
            found += received(raw)
        assert b"partial" not in found
        release.set()
        while found.count(b"partial") < 20:
            found += received(raw)


def test_the_messages_that_wait_are_bounded(monkeypatch):
    monkeypatch.setattr(web_sockets, "QUEUED_BYTES", 50_000)
    monkeypatch.setattr(web_sockets, "SEND_S", 0.2)
    monkeypatch.setattr(web_sockets, "LINGER_S", 0.2)
    most = []
    put = asyncio.Queue.put_nowait
    monkeypatch.setattr(asyncio.Queue, "put_nowait", lambda self, item: (put(self, item), most.append(self.qsize()))[0])
    services = scripted_services()
    with served(services) as port, shake_hands(port, "/vosk") as raw:
        with pytest.raises(ConnectionError):
            send_without_end(raw, AUDIO)
        assert closed(services)
    assert max(most) <= (50_000 + web_sockets.TAKEN_BYTES) // 1000 + 2  # what is taken at once comes on top


def test_messages_that_wait_let_others_have_a_turn():
    class Socket:
        scope: ClassVar[dict] = {}

        async def receive(self):
            return {"type": "websocket.receive", "text": "{}"}

    async def run():
        order = []
        client = web_sockets.ClientSocket(Socket(), ServerLimits(), asyncio.Event())

        async def flooding():
            for _ in range(100):
                await client.receive()
                order.append("flood")

        async def another():
            for _ in range(50):
                await asyncio.sleep(0)
                order.append("other")

        await asyncio.gather(flooding(), another())
        return order

    assert asyncio.run(run()).index("other") < 3


def test_a_wyoming_client_that_never_reads_is_cut_off(monkeypatch):
    monkeypatch.setattr(wyoming_service, "WYOMING_SEND_S", 0.2)
    monkeypatch.setattr(wyoming_service, "WYOMING_LINGER_S", 0.2)
    port = free_port()
    services = scripted_services(wyoming=Address("127.0.0.1", port))
    audio = {"rate": 16000, "width": 2, "channels": 1}
    start = json.dumps({"type": "audio-start", "data": audio}).encode() + b"\n"
    with served(services), connected(port) as raw:
        raw.sendall(start)
        with pytest.raises(ConnectionError):
            send_without_end(raw, b'{"type": "describe"}\n')
        assert closed(services)


def test_a_client_without_a_message_for_long_is_sent_away():
    services = scripted_services(limits=ServerLimits(idle_s=0.1))
    with served(services) as port, shake_hands(port, "/vosk") as raw:
        data = b""
        while more := raw.recv(4096):
            data += more
            if b"\x88" in data and len(data.partition(b"\x88")[2]) > 3:
                break
        assert struct.unpack(">H", data.partition(b"\x88")[2][1:3]) == (1008,)
        assert closed(services)


def test_a_client_that_resets_its_connection_leaves_nothing_open():
    services = scripted_services()
    with served(services) as port:
        for _ in range(20):
            raw = shake_hands(port, "/vosk")
            raw.sendall(AUDIO)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
        assert closed(services)


@pytest.mark.parametrize("path", ["/vosk", "/v1/realtime"])
def test_what_is_computed_for_a_client_that_has_gone_ends_at_once(monkeypatch, path):
    begun, cancelled = threading.Event(), threading.Event()

    async def feed(self, data):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    monkeypatch.setattr(ScriptedSession, "feed", feed)
    services = scripted_services()
    message = AUDIO if path == "/vosk" else masked(b'{"type": "input_audio_buffer.append", "audio": "AAAA"}')
    with served(services) as port, shake_hands(port, path) as raw:
        raw.sendall(message)
        assert begun.wait(60)
        raw.close()
        assert cancelled.wait(60)
        assert closed(services)


@pytest.mark.parametrize("begun", [b"", b"GET /v1/mod"], ids=["silent", "slow"])
def test_a_client_that_never_ends_the_head_of_a_request_is_sent_away(monkeypatch, begun):
    monkeypatch.setattr(http_connections, "HEAD_S", 0.3)
    with served(scripted_services()) as port, connected(port) as raw, contextlib.suppress(ConnectionError):
        raw.sendall(begun)
        assert raw.recv(100) == b""


def test_a_slow_head_behind_an_answer_is_cut_off_too(monkeypatch):
    async def answer(request):
        monkeypatch.setattr(http_connections, "HEAD_S", 0.3)  # not before: this request has all the time it needs
        return PlainTextResponse("here")

    with served(scripted_services(), Route("/quick", answer)) as port, connected(port) as raw:
        raw.sendall(b"GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 200"
        with contextlib.suppress(ConnectionError):
            raw.sendall(b"GET /v1/mod")
            while raw.recv(1000):
                pass


def test_a_web_socket_outlives_the_time_for_a_head(monkeypatch):
    monkeypatch.setattr(http_connections, "HEAD_S", 3.0)  # a busy machine needs some time for the handshake
    with served(scripted_services()) as port, shake_hands(port, "/vosk") as raw:
        raw.recv(4096)  # the rest of the handshake
        time.sleep(3.5)
        raw.sendall(AUDIO)
        assert b"partial" in raw.recv(4096)


def test_an_answer_that_nobody_reads_ends(monkeypatch):
    monkeypatch.setattr(http_connections, "READ_S", 0.3)
    ended = threading.Event()

    async def endless(request):
        async def pieces():
            try:
                while True:
                    yield bytes(1 << 16)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    services = scripted_services()
    with served(services, Route("/endless", endless)) as port, connected(port) as raw:
        raw.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 200"
        assert ended.wait(60)


def test_a_client_that_vanished_leaves_no_connection_behind(monkeypatch):
    monkeypatch.setattr(web_sockets, "LINGER_S", 3600.0)
    connections = weakref.WeakSet()
    created = BoundedWebSocket.__init__

    def remembered(connection, *args, **kwargs):
        created(connection, *args, **kwargs)
        connections.add(connection)

    monkeypatch.setattr(BoundedWebSocket, "__init__", remembered)

    def left():
        gc.collect()
        return list(connections)

    services = scripted_services()
    with served(services) as port:
        raw = shake_hands(port, "/vosk")
        raw.sendall(AUDIO)
        raw.recv(100)
        assert left()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset instead of an end
        raw.close()
        for _ in range(1200):
            if not left():
                break
            time.sleep(0.05)
        assert not left()
