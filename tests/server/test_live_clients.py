"""Live clients as people use them, against a server in a process of its own: each gets the transcript."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import importlib
import json
import re
import socket
import struct
import tarfile
from dataclasses import dataclass

import numpy as np
import openai
import pytest
import soundfile
import soxr
import torch
from free_ports import free_port
from served import ROOT, SAMPLE, SAMPLE_TEXT, Served, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, VadSensitivity
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info

import asr
from asr.audio.read import load_audio

torch.set_num_threads(1)
PATIENT = {"open_timeout": 300, "ping_interval": None}
"""A WebSocket's options on a busy machine."""
connect = functools.partial(connect, **PATIENT)


@dataclass(frozen=True)
class LiveServer:
    """A server and the ports of its further protocols."""

    http: Served
    vosk_port: int
    wyoming_port: int

    @property
    def address(self):
        """Host and main port."""
        return f"{self.http.host}:{self.http.port}"


@pytest.fixture(scope="module")
def live_server():
    """A server of the model ``stream``. It prints addresses and nothing else: a client's fault is no exception."""
    vosk_port, wyoming_port = free_port(), free_port()
    options = ["--model", "stream", "--alias", "whisper-1=stream", "--vosk-port", str(vosk_port)]
    with serving(*options, "--wyoming", f"127.0.0.1:{wyoming_port}") as http:
        yield LiveServer(http, vosk_port, wyoming_port)
    addresses = re.compile(r"(Vosk|Wyoming) protocol on |the server ends|ends at once")
    assert [line for line in http.lines if not addresses.search(line)] == []


def pcm(rate_hz, *, silence_s=0.0):
    """The sample as 16 bits at a rate, with silence behind it."""
    samples, own = soundfile.read(SAMPLE, dtype="float32")
    samples = np.concatenate([samples, np.zeros(round(silence_s * own), np.float32)])
    return (soxr.resample(samples, own, rate_hz) * 32767).astype("<i2").tobytes()


def pieces(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


# ---------------------------------------------------------------------------------------------------------- Vosk


def vosk(address, data, rate_hz, *, block=8000, config=None, path="/vosk"):
    """All replies to a recording, sent and answered in turn as Vosk's own clients do."""
    replies = []
    with connect(f"ws://{address}{path}") as client:
        client.send(json.dumps({"config": {"sample_rate": rate_hz} | (config or {})}))
        for piece in pieces(data, block):
            client.send(piece)
            replies.append(json.loads(client.recv(timeout=300)))
        client.send('{"eof" : 1}')
        replies.append(json.loads(client.recv(timeout=300)))
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=300)
    return replies


def texts(replies):
    return " ".join(reply["text"] for reply in replies if reply.get("text"))


def test_a_vosk_client_gets_the_transcript(live_server):
    replies = vosk(live_server.address, pcm(16000), 16000)
    assert texts(replies) == SAMPLE_TEXT
    words = [word for reply in replies for word in reply.get("result", [])]
    assert " ".join(word["word"] for word in words) == SAMPLE_TEXT
    assert all(0 <= word["start"] < word["end"] <= 10 and 0 < word["conf"] <= 1 for word in words)


def test_a_vosk_client_has_a_port_of_its_own(live_server):
    assert texts(vosk(f"127.0.0.1:{live_server.vosk_port}", pcm(16000), 16000, path="/")) == SAMPLE_TEXT


def test_a_telephone_s_8000_hz_need_no_configuration(live_server):
    data = pcm(8000, silence_s=1.5)
    with connect(f"ws://{live_server.address}/vosk") as client:
        replies = []
        for piece in [*pieces(data, 3999), '{"eof" : 1}']:
            client.send(piece)
            replies.append(json.loads(client.recv(timeout=300)))
    stream = asr.load("stream").stream(sample_rate_hz=8000, endpoint=asr.Endpoint(0.8))
    update = stream.accept(np.frombuffer(data, "<i2"))
    assert texts(replies) == " ".join([*(one.text for one in update.final), stream.finish().text]).strip()


def test_partial_texts_grow_and_their_stable_part_stays(live_server):
    kept = ""
    for reply in vosk(live_server.address, pcm(16000), 16000, block=3200):
        if "partial" in reply:
            assert reply["partial"].startswith(kept)
            kept = reply["partial"][: reply["stable"]]
        elif reply["text"]:
            assert reply["text"].startswith(kept)
            kept = ""
    assert SAMPLE_TEXT


def test_utterances_that_end_in_one_message_are_one_result(live_server):
    data = pcm(16000, silence_s=1.5)
    (reply, last) = vosk(live_server.address, 2 * data, 16000, block=10**7)
    assert reply["text"] == f"{SAMPLE_TEXT} {SAMPLE_TEXT}"
    assert last["text"] == ""


def test_alternatives_begin_with_the_transcript(live_server):
    config = {"max_alternatives": 3}
    (_, last) = vosk(live_server.address, pcm(16000), 16000, block=10**7, config=config)
    found = last["alternatives"]
    assert found[0]["text"] == SAMPLE_TEXT
    assert len({one["text"] for one in found}) == len(found) > 1
    shares = [one["confidence"] for one in found]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-5
    assert [word["word"] for word in found[1]["result"]] == found[1]["text"].split()


def test_a_list_of_phrases_limits_the_words_in_any_order(live_server):
    phrases = {"phrase_list": ["two four five six", "nine two", "enter"]}
    replies = vosk(live_server.address, pcm(16000), 16000, config=phrases)
    assert texts(replies) == SAMPLE_TEXT.lower()
    assert any(reply.get("partial") for reply in replies)


def test_a_list_of_phrases_with_unk_lets_other_words_through(live_server):
    phrases = {"phrase_list": ["four five", "[unk]"]}
    found = texts(vosk(live_server.address, pcm(16000), 16000, config=phrases))
    assert set(found.split()) == {"four", "five", "[unk]"}


def test_a_wrong_message_does_not_end_a_vosk_connection(live_server):
    with connect(f"ws://{live_server.address}/vosk") as client:
        for piece in ["hello", '{"config": {"sample_rate": 16000}}', pcm(16000), "[]", '{"eof":1}']:
            client.send(piece)
        assert "error" in json.loads(client.recv(timeout=300))
        found = [json.loads(client.recv(timeout=300)) for _ in range(3)]
    assert "error" in found[1]
    assert texts([found[0], found[2]]) == SAMPLE_TEXT


def test_an_unknown_model_is_refused_before_the_handshake(live_server):
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{live_server.address}/vosk?model=other"):
        pass
    assert refused.value.response.status_code == 404
    assert "expected stream" in refused.value.response.body.decode()


# ------------------------------------------------------------------------------------------------------ Realtime


def realtime_client(live_server):
    return openai.OpenAI(base_url=f"http://{live_server.address}/v1", api_key="none", max_retries=0)


def append(connection, data, size):
    for piece in pieces(data, size):
        connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())


def until(connection, kind):
    """The events up to the first of a kind."""
    found = []
    for event in connection:
        found.append(event)
        if event.type.endswith(kind):
            return found
    raise AssertionError(f"the connection ended before {kind}")


@pytest.mark.parametrize(("kind", "rate_hz"), [("audio/pcm", 24000), ("audio/pcmu", 8000), ("audio/pcma", 8000)])
def test_the_realtime_client_commits_and_gets_the_transcript(live_server, kind, rate_hz):
    data = pcm(rate_hz)
    if kind != "audio/pcm":
        data = companded(data, kind)
    heard = {"format": {"type": kind}, "turn_detection": None, "transcription": {"model": "whisper-1"}}
    session = {"type": "transcription", "audio": {"input": heard}}
    with realtime_client(live_server).realtime.connect(
        extra_query={"intent": "transcription"}, websocket_connection_options=PATIENT
    ) as connection:
        connection.session.update(session=session)
        append(connection, data, 4800)
        connection.input_audio_buffer.commit()
        events = until(connection, ".completed")
    assert [event.type for event in events[:2]] == ["session.created", "session.updated"]
    deltas = [event.delta for event in events if event.type.endswith(".delta")]
    done = events[-1]
    assert done.transcript == SAMPLE_TEXT
    assert "".join(deltas) == done.transcript
    assert len(deltas) > 1
    assert done.usage.type == "duration"
    assert done.usage.seconds == pytest.approx(len(pcm(16000)) / 32000, abs=0.01)


def test_joined_deltas_are_the_transcript_on_an4(live_server, asr_data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    check = importlib.import_module("check_deltas")
    with tarfile.open(asr_data("an4_sphere.tar.gz")) as archive:
        members = [m for m in archive.getmembers() if "/an4test_clstk/" in m.name and m.name.endswith(".sph")]
        chosen = sorted(members, key=lambda member: member.name)[::10]
        archive.extractall(tmp_path, chosen, filter="data")
    samples = [load_audio(tmp_path / member.name, check.RATE_HZ) for member in chosen]
    found = asyncio.run(check.hear(live_server.address, samples))
    assert len(found) == 13
    assert all("".join(heard.deltas) == heard.transcript for heard in found)
    assert sum(heard.early for heard in found) > 13


def test_the_server_detects_turns(live_server):
    with realtime_client(live_server).realtime.connect(
        model="stream", websocket_connection_options=PATIENT
    ) as connection:
        append(connection, 2 * pcm(24000, silence_s=1.5), 48000)
        first, second = until(connection, ".completed"), until(connection, ".completed")
    for events, rest in ((first, ["session.created"]), (second, [])):
        assert [event.type for event in events if ".delta" not in event.type] == [
            *rest, "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
            "conversation.item.input_audio_transcription.completed",
        ]  # fmt: skip
        assert "".join(e.delta for e in events if ".delta" in e.type) == events[-1].transcript == SAMPLE_TEXT
    start, stop = (next(e for e in second if e.type.endswith(kind)) for kind in ("_started", "_stopped"))
    length_ms = len(pcm(16000, silence_s=1.5)) / 32
    assert length_ms - 300 < start.audio_start_ms < length_ms + 700 < stop.audio_end_ms < 2 * length_ms


def test_an_empty_commit_is_an_error_event_and_no_close(live_server):
    with realtime_client(live_server).realtime.connect(
        model="stream", websocket_connection_options=PATIENT
    ) as connection:
        connection.input_audio_buffer.commit(event_id="mine")
        error = until(connection, "error")[-1].error
        assert (error.code, error.event_id) == ("input_audio_buffer_commit_empty", "mine")
        append(connection, pcm(24000), 10**6)
        connection.input_audio_buffer.commit()
        assert until(connection, ".completed")[-1].transcript == SAMPLE_TEXT


def test_logprobs_are_those_of_the_words(live_server):
    session = {"type": "transcription", "include": ["item.input_audio_transcription.logprobs"]}
    with realtime_client(live_server).realtime.connect(
        model="stream", websocket_connection_options=PATIENT
    ) as connection:
        connection.session.update(session=session)
        append(connection, pcm(24000), 10**6)
        connection.input_audio_buffer.commit()
        done = until(connection, ".completed")[-1]
    assert "".join(one.token for one in done.logprobs) == SAMPLE_TEXT
    assert all(bytes(one.bytes).decode() == one.token and one.logprob <= 0 for one in done.logprobs)


def companded(data, kind):
    """Bytes of 16-bit samples as G.711 bytes."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import audioop
    return {"audio/pcmu": audioop.lin2ulaw, "audio/pcma": audioop.lin2alaw}[kind](data, 2)


# ------------------------------------------------------------------------------------------------------- Wyoming


def wyoming(live_server, *events):
    """The server's events up to the end of a transcript."""

    async def talk():
        async with AsyncTcpClient("127.0.0.1", live_server.wyoming_port, read_timeout=300) as client:
            for event in events:
                await client.write_event(event)
            found = []
            while (event := await client.read_event()) is not None:
                found.append(event)
                if event.type in ("transcript-stop", "info"):
                    break
            return found

    return asyncio.run(talk())


def recording(data, rate_hz=16000):
    chunks = [AudioChunk(rate_hz, 2, 1, piece).event() for piece in pieces(data, 2048)]
    return [AudioStart(rate_hz, 2, 1).event(), *chunks]


def test_home_assistant_finds_the_model(live_server):
    (program,) = Info.from_event(wyoming(live_server, Describe().event())[0]).asr
    assert [(model.name, model.languages) for model in program.models] == [("stream", ["en"])]


def test_a_wyoming_client_gets_the_transcript_and_its_parts(live_server):
    asked = Transcribe(language="en", name="stream").event()
    answers = wyoming(live_server, asked, *recording(pcm(16000)), AudioStop().event())
    (text,) = [Transcript.from_event(event).text for event in answers if Transcript.is_type(event.type)]
    parts = [TranscriptChunk.from_event(event).text for event in answers if TranscriptChunk.is_type(event.type)]
    assert "".join(parts) == text == SAMPLE_TEXT
    assert len(parts) > 1


def test_with_a_sensitivity_a_wyoming_client_need_not_end_a_command(live_server):
    asked = Transcribe(vad_sensitivity=VadSensitivity.AGGRESSIVE).event()
    answers = wyoming(live_server, asked, *recording(pcm(16000, silence_s=2)))
    assert Transcript.from_event(answers[-2]).text


# ---------------------------------------------------------------------------------------------- clients that misbehave


def handshake(live_server, path):
    """A WebSocket at the level of bytes, behind its handshake."""
    raw = socket.create_connection((live_server.http.host, live_server.http.port), timeout=300)
    head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + "A" * 22
    raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {live_server.address}\r\n{head}==\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101")
    return raw


def frame(opcode, payload, *, final=True):
    """A client's frame, masked with zeros."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    head += bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + struct.pack(">H", size)
    return head + bytes(4) + payload


def close_code(raw):
    """The code of the close frame that ends what the server sends."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := raw.recv(65536):
            data += more
    found = re.search(rb"\x88[\x02-\x7d](..)", data, re.DOTALL)
    return struct.unpack(">H", found[1])[0] if found else None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"\xff\xfe"), 1007),
        (frame(1, b"\xc3", final=False) + frame(0, b"\x28"), 1007),
        (frame(3, b""), 1002),
        (b"\x82\x05hello", 1002),
        (frame(0, b"x"), 1002),
        (frame(9, b"x" * 126), 1002),
        (b"\xf2\x80" + bytes(4), 1002),
        (b"\x82\xff" + struct.pack(">Q", 2 << 30) + bytes(4), 1009),
        (b"\x82\xff" + struct.pack(">Q", 1 << 63) + bytes(4), 1009),
    ],
    ids=["utf8", "split utf8", "opcode", "unmasked", "continued", "long ping", "reserved", "2 GB", "8 EB"],
)
@pytest.mark.parametrize("path", ["/vosk", "/v1/realtime"])
def test_a_malformed_frame_closes_the_connection_with_its_code(live_server, path, data, code):
    with handshake(live_server, path) as raw:
        raw.sendall(data)
        assert close_code(raw) == code


def test_a_client_that_sends_pings_for_ever_and_never_reads_is_cut_off(live_server):
    with handshake(live_server, "/vosk") as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        block = frame(9, b"x" * 125) * 5000
        with pytest.raises(ConnectionError):
            raw.sendall(block * 40)  # 26 MB


def test_clients_that_vanish_harm_nobody(live_server):
    for path in ("/vosk", "/v1/realtime"):
        for data in (b"", frame(2, bytes(3200)), b"\x82\xfe"):
            raw = handshake(live_server, path)
            raw.sendall(data)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
    assert texts(vosk(live_server.address, pcm(16000), 16000)) == SAMPLE_TEXT
