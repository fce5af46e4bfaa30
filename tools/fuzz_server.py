"""Fuzz a server with damaged requests and frames of all protocols: each must get an answer or a protocol error.

    python tools/fuzz_server.py --count 100000 --seed 1
    python tools/fuzz_server.py --seed 1 --only 4711                # one conversation once more, shown

It starts ``asr serve`` with the model ``--model``. A conversation is one connection of OpenAI REST, OpenAI Realtime,
Vosk or Wyoming: frames drawn from valid ones, most of them damaged (bytes changed, cut out, repeated; numbers replaced;
brackets nested; other opcodes and lengths of WebSocket frames), in any order, with an end at any place.

A finding is a status of 500, a WebSocket that is closed with 1011, an answer that is none in its protocol, a traceback
in the log, or a server that no longer answers ``/health`` or transcribes as before. The exit status is then 1.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import io
import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

SAMPLE = Path(__file__).parents[1] / "egs" / "sample.wav"
TOGETHER = 32
"""Conversations at the same time."""
FRAMES = 12
"""Most frames of a conversation."""
QUIET_S = 1.0
"""Pause after which a server that waits for more is left alone."""
HEALTHY_S = 300.0
"""How long a server on a busy machine may need to decode a short sound in time for ``/health``."""
DEFECTS = {"status 500", "close 1011"}
"""Answers that no client should cause."""
NUMBERS = ("-1", "0", "1e999", "99999999999999999999", "4294967296", "0.5", "null", '"1"', "[]", "true", "9" * 5000)


@dataclass(frozen=True)
class Target:
    """Where the server listens."""

    host: str
    port: int
    wyoming_port: int


@dataclass
class Outcome:
    """What a run has found: kinds of conversations, frames sent, and findings by conversation."""

    conversations: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    findings: list[str] = field(default_factory=list)


# Frames


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three faults."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.choice([1, 2, 4, 30, 1000]))
        kind = rng.randrange(7)
        if kind == 0:
            found[at:end] = rng.randbytes(end - at)
        elif kind == 1:
            del found[at:end]
        elif kind == 2:
            found[at:at] = found[at:end] * rng.choice([1, 2, 50])
        elif kind == 3:
            found[at:at] = rng.choice([b"\x00", b"\xff\xfe", b'"', b"\r\n", b"\n", b"{", b"\\ud800", "😀".encode()])
        elif kind == 4:
            found[at:at] = rng.choice([b"[", b"{", b'{"a":']) * rng.choice([1, 100, 20_000])
        elif numbers := list(re.finditer(rb"\d+(?:\.\d+)?", bytes(found[:4000]))):
            chosen = rng.choice(numbers)
            found[chosen.start() : chosen.end()] = rng.choice(NUMBERS).encode()
    return bytes(found)


@functools.cache
def tone(rate_hz: int) -> bytes:
    """A short sound, 16 bits."""
    time = np.arange(rate_hz // 5) / rate_hz
    return (8000 * np.sin(2 * np.pi * 440 * time)).astype("<i2").tobytes()


@functools.cache
def tone_file() -> bytes:
    """The same as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(tone(16000), "<i2"), 16000, format="WAV")
    return file.getvalue()


def rest_frame(rng: random.Random) -> bytes:
    """A request of the REST interface."""
    if rng.random() < 0.2:
        path = rng.choice(["/v1/models", "/v1/models/an4", "/health", "/metrics", "/", "/page/main.js", "/v1/%2e%2e/x"])
        method = rng.choice(["GET", "OPTIONS", "POST", "DELETE"])
        return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n".encode()
    if rng.random() < 0.25:
        return page_frame(rng)
    fields = [("model", "an4"), ("response_format", rng.choice(["json", "srt", "verbose_json"]))]
    extra = [("stream", "true"), ("temperature", "0.2"), ("language", "en"), ("keywords[]", "ENTER"), ("x", "y")]
    extra += [("include[]", "logprobs"), ("timestamp_granularities[]", "word")]
    extra += [("chunking_strategy", '{"type":"server_vad"}')]
    fields += rng.sample(extra, rng.randrange(4))
    parts = [f'--e\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    head = '--e\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    file = tone_file() if rng.random() < 0.7 else damaged(tone_file(), rng)
    body = "".join(parts).encode() + head.encode() + file + b"\r\n--e--\r\n"
    if rng.random() < 0.5:
        body = damaged(body, rng)
    kind = "Content-Type: multipart/form-data; boundary=e"
    start = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return start.encode() + body


def page_frame(rng: random.Random) -> bytes:
    """A request of the page for its own data."""
    kind = rng.choice(["info", "peaks", "audio", "corrections", "corrections"])
    file = tone_file() if rng.random() < 0.7 else damaged(tone_file(), rng)
    body = file
    if kind == "corrections":
        texts = rng.choices(["ONE", "It's $25.", "", "☃", "see www.example.org"], k=2)
        segments = [{"start_s": n * 0.1, "end_s": n * 0.1 + 0.1, "text": text} for n, text in enumerate(texts)]
        head = {"name": rng.choice(["a.wav", "../b", ""]), "bytes": len(file), "segments": segments}
        body = (json.dumps(head).encode() + b"\n" + file) * rng.choice([1, 1, 3])
    if rng.random() < 0.5:
        body = damaged(body, rng)
    method = "GET" if kind == "info" else "POST"
    head_lines = f"{method} /page-data/{kind}?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head_lines.encode() + body


def vosk_message(rng: random.Random) -> tuple[int, bytes]:
    """Opcode and content of a message of the Vosk protocol."""
    if rng.random() < 0.5:
        return 2, tone(8000)[: rng.choice([0, 1, 2, 333, 3200])]
    config = {
        "sample_rate": rng.choice([8000, 16000, 48000, 1]),
        "words": rng.choice([True, 0, "yes"]),
        "max_alternatives": rng.choice([0, 3, 100]),
        "phrase_list": rng.choice([[], ["ONE TWO", "[unk]"], ["☃"], "ONE"]),
    }
    chosen = dict(rng.sample(sorted(config.items()), rng.randint(1, 4)))
    return 1, json.dumps(rng.choice([{"config": chosen}, {"config": chosen}, {"eof": 1}, {"reset": 1}, {}])).encode()


def realtime_message(rng: random.Random) -> tuple[int, bytes]:
    """Opcode and content of an event of the Realtime interface."""
    audio = {
        "format": rng.choice([{"type": "audio/pcm", "rate": 24000}, {"type": "audio/pcmu"}, {"type": "audio/x"}]),
        "transcription": rng.choice([{"model": "an4"}, {"model": "none"}, {"keywords": ["ENTER"]}, None]),
        "turn_detection": rng.choice([None, {"type": "server_vad", "silence_duration_ms": 200}, {"type": "x"}]),
    }
    session = {"type": "transcription", "audio": {"input": dict(rng.sample(sorted(audio.items()), rng.randint(1, 3)))}}
    sound = base64.b64encode(tone(24000)[: rng.choice([0, 1, 480, 9600])]).decode()
    tree = rng.choice(
        [{"type": "session.update", "session": session},
         {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}},
         *[{"type": "input_audio_buffer.append", "audio": sound}] * 4,
         {"type": "input_audio_buffer.append", "audio": "no base64"},
         {"type": "input_audio_buffer.commit"}, {"type": "input_audio_buffer.clear"}, {"type": "response.create"}]
    )  # fmt: skip
    return (1 if rng.random() < 0.9 else 2), json.dumps(tree).encode()


def wyoming_frame(rng: random.Random) -> bytes:
    """A frame of the Wyoming protocol."""
    form = {"rate": rng.choice([16000, 8000, 0]), "width": rng.choice([2, 1, 9]), "channels": rng.choice([1, 2, 0])}
    good = {"rate": 16000, "width": 2, "channels": 1}
    kind, data = rng.choice(
        [("describe", {}), ("transcribe", {"language": "en"}), ("transcribe", {"transcript_names": ["ANN", 1]}),
         ("audio-start", good), ("audio-start", form), ("audio-chunk", good), ("audio-chunk", form), ("audio-stop", {}),
         ("ping", {"text": "x"}), ("none", {})]
    )  # fmt: skip
    payload = tone(16000)[: rng.choice([1, 640, 6400])] if kind == "audio-chunk" else b""
    head = {"type": kind, "data": data, "data_length": 0, "payload_length": len(payload)}
    return json.dumps(head).encode() + b"\n" + payload


def socket_frame(opcode: int, data: bytes, rng: random.Random) -> bytes:
    """A WebSocket frame of a client; some have another opcode, no mask, reserved bits, or another frame's length."""
    first = 0x80 | opcode
    mask, length = 0x80, len(data)
    fault = rng.randrange(120)
    if fault == 0:
        first = rng.randrange(256)
    elif fault == 1:
        mask = 0
    elif fault == 2:
        first &= 0x7F
    elif fault == 3:
        length = rng.choice([0, 2**16, 2**31, 2**63])
    if length < 126:
        head = bytes([first, mask | length])
    elif length < 2**16:
        head = bytes([first, mask | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, mask | 127]) + length.to_bytes(8, "big")
    if not mask:
        return head + data
    key = rng.randbytes(4)
    repeated = (key * (len(data) // 4 + 1))[: len(data)]
    return head + key + bytes(a ^ b for a, b in zip(data, repeated, strict=True))


# Conversations


@dataclass
class Conversation:
    """One connection: the bytes to send one after the other, and the check of all that comes back."""

    kind: str
    port: int
    frames: list[bytes]
    check: Callable[[bytes], Iterator[str]]
    waits: bool = False
    """Whether the first frame is a handshake, whose answer is awaited."""


def conversation(target: Target, seed: int, number: int) -> Conversation:
    """The conversation of a number; the same for the same seed."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choice(["rest", "vosk", "realtime", "wyoming"])
    count = rng.randint(1, FRAMES)
    if kind == "rest":
        requests = [rest_frame(rng) for _ in range(rng.randint(1, 2))]
        frames = [damaged(request, rng) if rng.random() < 0.4 else request for request in requests]
        return Conversation(kind, target.port, frames, http_answers)
    if kind == "wyoming":
        frames = [wyoming_frame(rng) for _ in range(count)]
        frames = [damaged(frame, rng) if rng.random() < 0.3 else frame for frame in frames]
        return Conversation(kind, target.wyoming_port, frames, wyoming_answers)
    path = "/vosk" if kind == "vosk" else "/v1/realtime?intent=transcription"
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    hello = f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    frames = [damaged(hello, rng) if rng.random() < 0.1 else hello]
    draw = vosk_message if kind == "vosk" else realtime_message
    for _ in range(count):
        opcode, data = draw(rng)
        frames.append(socket_frame(opcode, damaged(data, rng) if rng.random() < 0.4 else data, rng))
    return Conversation(kind, target.port, frames, http_answers, waits=rng.random() < 0.95)


def http_answers(data: bytes) -> Iterator[str]:
    """The statuses of answers. Raises ``ValueError`` for what is no answer."""
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        if not separator or not status:
            raise ValueError(f"expected an HTTP answer, got {head[:80]!r}")
        yield f"status {status[1].decode()}"
        if status[1] == b"101":
            yield from socket_frames(data)
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None:  # events: the rest
            return
        body, data = data[: int(length[1])], data[int(length[1]) :]
        if status[1][:1] in b"45" and b"application/json" in head.lower() and body:
            error = json.loads(body)["error"]
            if set(error) != {"message", "type", "param", "code"}:
                raise ValueError(f"expected an error in OpenAI's shape, got {body[:200]!r}")


def socket_frames(data: bytes) -> Iterator[str]:
    """The kinds of a server's WebSocket frames. Raises ``ValueError`` for what is no frame, or no JSON."""
    while len(data) >= 2:
        opcode, length, start = data[0] & 15, data[1] & 127, 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:  # the connection was cut
            return
        body, data = data[start : start + length], data[start + length :]
        if opcode == 1:
            tree = json.loads(body)
            yield f"text {tree.get('type') or next(iter(tree))}"
        elif opcode == 8:
            yield f"close {int.from_bytes(body[:2], 'big')}"
        else:
            yield f"opcode {opcode}"


def wyoming_answers(data: bytes) -> Iterator[str]:
    """The types of Wyoming frames. Raises ``ValueError`` for what is no frame."""
    while b"\n" in data:
        line, _, data = data.partition(b"\n")
        head = json.loads(line)
        yield f"event {head['type']}"
        data = data[head.get("data_length", 0) + head.get("payload_length", 0) :]


async def converse(target: Target, talk: Conversation) -> bytes:
    """Send a conversation, and what came back until the server closed it or was quiet."""
    reader, writer = await asyncio.open_connection(target.host, talk.port)
    found = bytearray()
    try:
        for number, frame in enumerate(talk.frames):
            writer.write(frame)
            if talk.waits and number == 0:
                found += await asyncio.wait_for(reader.read(2**16), 20)
        await asyncio.wait_for(writer.drain(), 20)
        while data := await asyncio.wait_for(reader.read(2**16), 20 if not found else QUIET_S):
            found += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return bytes(found)


async def fuzz(target: Target, numbers: list[int], seed: int, most_frames: int) -> Outcome:
    """Have conversations with a server until so many frames are sent."""
    outcome = Outcome()
    waiting = iter(numbers)
    with tqdm(total=most_frames, unit="frame", disable=not sys.stderr.isatty()) as bar:

        async def work() -> None:
            for number in waiting:
                if outcome.frames >= most_frames:
                    return
                talk = conversation(target, seed, number)
                outcome.conversations[talk.kind] += 1
                outcome.frames += len(talk.frames)
                try:
                    answers = list(talk.check(await converse(target, talk)))
                except (ValueError, KeyError, TypeError, StopIteration, OSError, AttributeError) as error:
                    outcome.findings.append(f"conversation {number} ({talk.kind}): {type(error).__name__}: {error}")
                    answers = []
                outcome.answers.update(f"{talk.kind}: {answer}" for answer in answers)
                outcome.findings += [f"conversation {number} ({talk.kind}): {bad}" for bad in DEFECTS & set(answers)]
                bar.update(len(talk.frames))

        await asyncio.gather(*(work() for _ in range(TOGETHER)))
    return outcome


# The server


def ask(target: Target, request: bytes) -> bytes:
    """The answer to a request that asks for the connection's end."""
    with socket.create_connection((target.host, target.port), timeout=300) as connection:
        connection.sendall(request)
        with contextlib.suppress(TimeoutError):
            return b"".join(iter(lambda: connection.recv(2**16), b""))
    return b""


def transcript(target: Target) -> str:
    """What the server makes of the sample; or what is wrong with it."""
    head = '--e\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = head.encode() + SAMPLE.read_bytes() + b"\r\n--e--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=e\r\nConnection: close"
    start = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = ask(target, start.encode() + body)
    found = re.search(rb'"text": ?"([^"]*)"', answer)
    return found[1].decode() if found else f"no text: {answer[:200]!r}"


def examine(target: Target, lines: list[str], expected: str, outcome: Outcome) -> None:
    """Add what the log says, and whether the server still works, to the findings."""
    printed = "".join(lines)
    outcome.findings += [f"log: {found}" for found in re.findall(r"Traceback(?:.|\n){0,3000}?\n\S.*", printed)]
    until = time.monotonic() + HEALTHY_S
    while True:
        health = ask(target, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        if health.startswith(b"HTTP/1.1 200"):
            break
        if time.monotonic() > until:
            outcome.findings.append(f"health: {health[:200]!r}")
            break
    if (now := transcript(target)) != expected:
        outcome.findings.append(f"the sample: expected {expected!r}, got {now!r}")


@contextlib.contextmanager
def serving(model: str) -> Iterator[tuple[Target, list[str]]]:
    """A server with all protocols, and the lines that it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        wyoming = free.getsockname()[1]
    beside = str(Path(__file__).with_name("serve_beside.py"))  # it ends with this process
    command = [
        sys.executable,
        beside,
        str(os.getpid()),
        "serve",
        "--port",
        "0",
        "--workers",
        "1",
        "--model",
        f"an4={model}",
    ]
    command += ["--wyoming", f"127.0.0.1:{wyoming}", "--lag-s", "none"]  # nobody is refused for the load
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            if found := re.search(r"serving on http://(\S+):(\d+)/", line):
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=lines.extend, args=[process.stderr], daemon=True).start()
        yield Target(found[1], int(found[2]), wyoming), lines
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def show(target: Target, talk: Conversation) -> None:
    """Print a conversation and what comes back."""
    for frame in talk.frames:
        print(f"> {frame[:500]!r}{'…' if len(frame) > 500 else ''} ({len(frame)} bytes)")
    print(f"< {asyncio.run(converse(target, talk))!r}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="frames to send")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="conversation N alone, shown")
    parser.add_argument("--model", default="an4")
    args = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it notes that connections are closed
    with serving(args.model) as (target, lines):
        if args.only is not None:
            show(target, conversation(target, args.seed, args.only))
            print("".join(lines))
            return 0
        expected = transcript(target)
        outcome = asyncio.run(fuzz(target, list(range(args.count)), args.seed, args.count))
        examine(target, lines, expected, outcome)
    print(
        f"{outcome.frames} frames in {sum(outcome.conversations.values())} conversations: {dict(outcome.conversations)}"
    )
    for answer, count in sorted(outcome.answers.items()):
        print(f"{count:8} {answer}")
    for finding in outcome.findings:
        print(f"FINDING {finding}")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
