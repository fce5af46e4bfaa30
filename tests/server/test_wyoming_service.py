"""The Wyoming protocol with its own client, on sessions without a model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import struct

import numpy as np
import pytest
from scripted import BUSY, final, scripted_services
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, VadSensitivity
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from asr.errors import AsrError
from asr.server.messages import Partial
from asr.server.problems import ClosingError, RequestError
from asr.server.settings import Address, ServerLimits
from asr.server.wyoming_announcement import announced, reachable_address
from asr.server.wyoming_frames import LINE_BYTES
from asr.server.wyoming_service import FRAME_BYTES, WyomingServer, as_floats, serving_wyoming

START = AudioStart(16000, 2, 1).event()
CHUNK = AudioChunk(16000, 2, 1, bytes(3200)).event()
STOP = AudioStop().event()


@pytest.fixture
def services():
    return scripted_services()


@contextlib.asynccontextmanager
async def serving(services):
    server = WyomingServer(services)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=LINE_BYTES)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await server.stop()


def exchange(services, *events):
    """The server's events for a client's, until the server ends the connection or has answered a last ping."""

    async def talk():
        async with serving(services) as port, AsyncTcpClient("127.0.0.1", port, read_timeout=120) as client:
            for event in (*events, Ping("last").event()):
                with contextlib.suppress(ConnectionError):
                    await client.write_event(event)
            answers = []
            while (event := await client.read_event()) is not None and event.data.get("text") != "last":
                answers.append(event)
            return answers

    return asyncio.run(talk())


def raw(services, data):
    """All that the server sends for some bytes, behind which the client sends no more."""

    async def talk():
        async with serving(services) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(120):
                found = await reader.read()
            writer.close()
            return found

    return asyncio.run(talk())


def kinds(answers):
    return [event.type for event in answers]


def test_a_server_describes_itself_with_one_program_and_all_its_models(services):
    (answer,) = exchange(services, Describe().event())
    (program,) = Info.from_event(answer).asr
    assert [(model.name, model.languages, model.installed) for model in program.models] == [("demo", ["en"], True)]
    assert program.supports_transcript_streaming
    assert not program.requires_external_vad


def test_a_description_needs_no_stream(services):
    services.live.refusal = BUSY
    assert Info.is_type(exchange(services, Describe().event())[0].type)


def test_a_ping_is_answered(services):
    assert Pong.from_event(exchange(services, Ping("hello").event())[0]).text == "hello"


def test_a_transcript_comes_behind_the_audio_with_its_chunks_before_it(services):
    services.live.script = [[Partial("one two", 7, 0.1)], [final("one two three"), Partial("four", 0, 0.2)]]
    services.live.endings = [final("four")]
    answers = exchange(services, Transcribe(language="en").event(), START, CHUNK, CHUNK, STOP)
    assert kinds(answers) == [
        "transcript-start", "transcript-chunk", "transcript-chunk", "transcript-chunk", "transcript", "transcript-stop",
    ]  # fmt: skip
    chunks = [TranscriptChunk.from_event(event).text for event in answers[1:4]]
    assert chunks == ["one", " two three", " four"]
    assert Transcript.from_event(answers[4]).text == "one two three four"
    assert answers[4].data["language"] == "en"


def test_a_connection_takes_one_recording_after_the_other(services):
    services.live.endings = [final("one"), final("two")]
    answers = exchange(services, START, CHUNK, STOP, START, CHUNK, STOP)
    assert [event.data["text"] for event in answers if Transcript.is_type(event.type)] == ["one", "two"]
    assert all(session.closed for session in services.live.sessions)


def test_audio_needs_no_start(services):
    services.live.endings = [final("one")]
    answers = exchange(services, CHUNK, STOP)
    assert [event.data["text"] for event in answers if Transcript.is_type(event.type)] == ["one"]


def test_the_end_of_nothing_is_an_empty_transcript(services):
    assert [Transcript.from_event(event).text for event in exchange(services, STOP)] == [""]


def test_without_a_sensitivity_only_the_client_ends_a_command(services):
    services.live.script = [[final("one"), Partial("", 0, 0.1)]]
    services.live.endings = [final("two")]
    answers = exchange(services, Transcribe().event(), START, CHUNK, CHUNK, STOP)
    assert [event.data["text"] for event in answers if Transcript.is_type(event.type)] == ["one two"]
    assert services.live.sessions[0].options.endpoint_s == math.inf


@pytest.mark.parametrize(("asked", "silence_s"), [("default", 0.7), ("relaxed", 1.25), ("aggressive", 0.25)])
def test_with_a_sensitivity_the_server_ends_a_command_once(services, asked, silence_s):
    services.live.script = [[Partial("one", 0, 0.1)], [final("one"), Partial("", 0, 0.2)]]
    asked = Transcribe(vad_sensitivity=VadSensitivity(asked)).event()
    answers = exchange(services, asked, START, CHUNK, CHUNK, CHUNK, CHUNK, STOP, START, CHUNK, STOP)
    assert [event.data["text"] for event in answers if Transcript.is_type(event.type)] == ["one", ""]
    assert [session.received for session in services.live.sessions] == [2 * 6400, 6400]
    assert [session.options.endpoint_s for session in services.live.sessions] == [silence_s, math.inf]


def test_names_and_terms_are_hot_words_and_names_come_first(services):
    asked = Transcribe(transcript_names=["Kitchen lamp", "Ann"], transcript_terms=["dim", "Ann"])
    exchange(services, asked.event(), START, CHUNK, STOP, START, STOP)
    first, second = (session.options.hot_words for session in services.live.sessions)
    assert first.keys() == {"Kitchen lamp", "Ann", "dim"}
    assert first["Kitchen lamp"] == first["Ann"] > first["dim"] > 0
    assert second == {}


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_of_every_width_is_read(width):
    values = np.array([-1.0, -0.5, 0.0, 0.25, 0.5])
    whole = np.round(values * 2 ** (8 * width - 1)).astype(np.int64)
    data = b"".join(struct.pack("<q", value + 128 if width == 1 else value)[:width] for value in whole)
    assert np.array_equal(as_floats(data, width), values.astype(np.float32))


def test_channels_are_mixed_and_samples_may_be_cut_anywhere(services):
    samples = np.array([[8192, 0], [-16384, -16384], [0, 4096]], "<i2").tobytes()
    got = []

    async def feed(session, data):
        got.append(data)
        return []

    type(services.live).feed = feed
    services.live.script = []
    parts = [AudioChunk(8000, 2, 2, samples[a:b]).event() for a, b in ((0, 3), (3, 4), (4, 12))]
    sessions = []
    opened = services.live.open

    async def open_session(options, **others):
        session = await opened(options, **others)
        session.feed = lambda data: feed(session, data)
        sessions.append(session)
        return session

    services.live.open = open_session
    exchange(services, *parts, STOP)
    assert np.array_equal(np.frombuffer(b"".join(got), "<f4"), np.array([0.125, -0.5, 0.0625], np.float32))
    assert (sessions[0].options.rate_hz, sessions[0].options.encoding) == (8000, "f32le")


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([Transcribe(name="other").event()], "unknown-model"),
        ([Transcribe(language="xx").event()], "unsupported-language"),
        ([Event("transcribe", {"transcript_names": "Ann"})], "invalid_value"),
        ([Event("transcribe", {"transcript_terms": ["a" * 999]})], "invalid_value"),
        ([Event("transcribe", {"vad_sensitivity": "none"})], "invalid_value"),
        ([Event("audio-start", {"rate": 16000})], "invalid_value"),
        ([Event("audio-start", {"rate": 1, "width": 2, "channels": 1})], "invalid_value"),
        ([Event("audio-start", {"rate": 16000, "width": 9, "channels": 1})], "invalid_value"),
        ([Event("audio-start", {"rate": "fast", "width": 2, "channels": 1})], "invalid_value"),
        ([Event("audio-chunk", {}, b"\0\0")], "invalid_value"),
        ([START, AudioChunk(8000, 2, 1, b"\0\0").event()], "invalid_value"),
    ],
)  # fmt: skip
def test_a_wrong_event_is_an_error_and_the_end_of_the_connection(services, events, code):
    services.live.endings = [final("one")]
    answers = exchange(services, *events, CHUNK, STOP)
    errors = [Error.from_event(event) for event in answers if Error.is_type(event.type)]
    assert [error.code for error in errors] == [code]
    assert not any(Transcript.is_type(event.type) for event in answers)
    assert all(session.closed for session in services.live.sessions)


def test_unknown_events_are_dropped(services):
    services.live.endings = [final("one")]
    answers = exchange(services, Event("select-program", {"name": "asr"}), Event("x"), START, CHUNK, STOP)
    assert "one" in [event.data.get("text") for event in answers]


def line(**head):
    return json.dumps(head).encode() + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\n", b"hello\n", b"[]\n", b"5\n", b"\xff\xfe\n", b"GET / HTTP/1.1\r\n\r\n", b"[" * 60_000 + b"\n",
        line(type=5), line(data={}), line(type="x" * 999), line(type="ping", data=[]),
        line(type="ping", data_length=-1),
        line(type="ping", data_length="9"), line(type="ping", data_length=1.5), line(type="ping", data_length=True),
        line(type="ping", data_length=2) + b"[]", line(type="ping", data_length=2) + b"{]",
        line(type="audio-chunk", payload_length=FRAME_BYTES + 1), line(type="audio-chunk", payload_length=2 * 10**9),
        b'{"type": "ping", "payload_length": 1e999}\n', b"x" * (LINE_BYTES + 1000), b" " * (3 * LINE_BYTES) + b"\n",
    ],
)  # fmt: skip
def test_what_is_no_frame_is_an_error_and_nothing_of_it_is_waited_for(services, data):
    head, _, rest = raw(services, data).partition(b"\n")
    assert json.loads(head)["type"] == "error"
    assert len(json.loads(head)) == 3
    assert json.loads(rest)["text"]


@pytest.mark.parametrize(
    "data", [b"", b'{"type": "ping"', line(type="ping", data_length=100) + b"{", line(type="x", payload_length=9)]
)
def test_a_connection_that_ends_within_a_frame_is_no_error(services, data):
    assert raw(services, data) == b""


def test_no_room_is_an_error_at_once(services):
    services.live.refusal = BUSY
    (answer,) = exchange(services, START, CHUNK, STOP)
    assert Error.from_event(answer).code == "server-busy"


def test_a_stream_that_cannot_go_on_is_an_error(services):
    services.live.script = [[], RequestError("expected at most 5 s in a stream, got more")]
    services.live.endings = [final("one")]
    answers = exchange(services, START, CHUNK, CHUNK, STOP)
    assert answers[-1].data["text"].startswith("expected at most 5 s")
    assert [event.data["text"] for event in answers if Transcript.is_type(event.type)] == ["one"]


def test_at_shutdown_what_was_said_is_given(services):
    services.live.script = [[], ClosingError("the server is shutting down")]
    services.live.endings = [final("one")]
    answers = exchange(services, START, CHUNK, CHUNK, CHUNK)
    assert kinds(answers)[-3:] == ["transcript", "transcript-stop", "error"]
    assert answers[-3].data["text"] == "one"


def test_at_shutdown_a_client_that_waits_is_given_what_was_said(services):
    services.live.endings = [final("one")]

    async def talk():
        async with serving(services) as port, AsyncTcpClient("127.0.0.1", port, read_timeout=120) as client:
            for event in (START, CHUNK):
                await client.write_event(event)
            answers = [await client.read_event()]
            services.closing.set()
            while (event := await client.read_event()) is not None:
                answers.append(event)
            return answers

    assert kinds(asyncio.run(talk())) == [
        "transcript-start", "transcript-chunk", "transcript", "transcript-stop", "error",
    ]  # fmt: skip


def test_a_client_without_an_event_for_long_is_sent_away():
    services = scripted_services(limits=ServerLimits(idle_s=0.05))

    async def talk():
        async with serving(services) as port, AsyncTcpClient("127.0.0.1", port, read_timeout=120) as client:
            return await client.read_event(), await client.read_event()

    answer, end = asyncio.run(talk())
    assert Error.from_event(answer).code == "idle"
    assert end is None


def test_a_client_that_vanishes_leaves_nothing_open(services):
    raw(services, line(type="audio-start", data={"rate": 16000, "width": 2, "channels": 1}))
    assert [session.closed for session in services.live.sessions] == [True]


def test_a_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        services = scripted_services(wyoming=Address("127.0.0.1", taken.getsockname()[1]))

        async def begin():
            async with serving_wyoming(services):
                pass

        with pytest.raises(AsrError, match=r"^127\.0\.0\.1:\d+: cannot listen there"):
            asyncio.run(begin())


def test_port_0_stands_for_a_free_port_which_is_given():
    services = scripted_services(wyoming=Address("127.0.0.1", 0))

    async def begin():
        async with serving_wyoming(services) as port:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return port

    assert asyncio.run(begin()) > 0


def test_loopback_is_not_announced():
    with pytest.raises(AsrError, match="expected an address that other machines can reach, got 127"):
        reachable_address("127.0.0.1")


def test_an_address_for_all_is_announced_as_this_machine_s_own():
    try:
        found = reachable_address("0.0.0.0")
    except AsrError as error:
        pytest.skip(f"no network: {error}")
    assert found not in ("0.0.0.0", "127.0.0.1")


def test_the_service_is_found_on_the_network():
    found = []

    class Listener:
        def add_service(self, zeroconf, kind, name):
            found.append(name)
            loop.call_soon_threadsafe(arrived.set)

        remove_service = update_service = lambda *_: None

    async def look():
        nonlocal loop
        loop = asyncio.get_running_loop()
        async with announced("0.0.0.0", 10300), asyncio.timeout(120):
            searching = AsyncZeroconf()
            browser = AsyncServiceBrowser(searching.zeroconf, "_wyoming._tcp.local.", listener=Listener())
            await arrived.wait()
            service = await searching.async_get_service_info("_wyoming._tcp.local.", found[0])
            await browser.async_cancel()
            await searching.async_close()
            return service

    loop, arrived = None, asyncio.Event()
    try:
        own = reachable_address("0.0.0.0")
        service = asyncio.run(look())
    except AsrError as error:
        pytest.skip(f"no network: {error}")
    assert (service.parsed_addresses(), service.port) == ([own], 10300)
