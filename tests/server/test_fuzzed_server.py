"""A small seeded run of tools/fuzz_server.py, and that it finds what it is there to find."""

from __future__ import annotations

import asyncio
import importlib
import sys

import pytest
from served import ROOT

HELLO = (
    b"GET /vosk HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture(scope="module")
def fuzz():
    """The tool as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("fuzz_server")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def server(fuzz):
    """A server of all protocols, and the lines that it prints."""
    with fuzz.serving("an4") as started:
        yield started


def test_damaged_frames_of_all_protocols_leave_the_server_as_it_was(fuzz, server):
    target, lines = server
    expected = fuzz.transcript(target)
    outcome = asyncio.run(fuzz.fuzz(target, list(range(400)), 7, 400))
    fuzz.examine(target, lines, expected, outcome)
    assert outcome.findings == []
    assert outcome.frames >= 400
    assert set(outcome.conversations) == {"rest", "vosk", "realtime", "wyoming"}
    assert {"rest: status 200", "rest: status 400", "vosk: text partial", "wyoming: event error"} <= set(
        outcome.answers
    )


@pytest.mark.parametrize(
    "frames",
    [
        [b"GET /vosk HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nA\xff: \x00\r\n\r\n"],
        [HELLO.replace(b"-Key: AAAA", b"-Key: ?")],
        [HELLO.replace(b"-Key: AAAA", b"-Key: A\xc3\xa4AA")],
        [HELLO.replace(b"-Version: 13", b"-Version: 1\x99")],
        [HELLO, b"\x81\x82\x00\x00\x00\x00\xff\xfe"],
        [HELLO, b"\xff" * 20],
    ],
    ids=[
        "damaged handshake",
        "damaged key",
        "key that is not ASCII",
        "version that is not ASCII",
        "text that is no UTF-8 before the answer",
        "no frame before the answer",
    ],
)
def test_a_damaged_handshake_is_no_exception_in_the_log(fuzz, server, frames):
    target, lines = server
    talk = fuzz.Conversation("vosk", target.port, frames, fuzz.http_answers)
    answers = list(talk.check(asyncio.run(fuzz.converse(target, talk))))
    assert fuzz.transcript(target)
    assert not fuzz.DEFECTS & set(answers)
    assert "Traceback" not in "".join(lines)


def test_conversations_are_the_same_for_a_seed(fuzz):
    target = fuzz.Target("127.0.0.1", 1, 2)
    made = [[fuzz.conversation(target, seed, n).frames for n in range(50)] for seed in (3, 3, 4)]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("http_answers", b"no HTTP at all"),
        ("http_answers", b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"),
        ("http_answers", b"HTTP/1.1 101 Switching\r\n\r\n" + bytes([0x81, 3]) + b"abc"),
        ("wyoming_answers", b"no JSON\n"),
    ],
)
def test_what_is_no_answer_is_found(fuzz, name, answer):
    with pytest.raises((ValueError, KeyError)):
        list(getattr(fuzz, name)(answer))


def test_defects_are_found(fuzz):
    assert set(fuzz.http_answers(b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n")) & fuzz.DEFECTS
    closed = b"HTTP/1.1 101 Switching\r\n\r\n" + bytes([0x88, 2]) + (1011).to_bytes(2, "big")
    assert set(fuzz.http_answers(closed)) & fuzz.DEFECTS
