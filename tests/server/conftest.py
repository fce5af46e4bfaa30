"""One server with the bundled streaming model for all tests of live clients."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from served import Served, serving


@dataclass(frozen=True)
class LiveServer:
    """A server and the ports of its further protocols."""

    http: Served
    vosk_port: int
    wyoming_port: int

    @property
    def address(self) -> str:
        """Host and main port."""
        return f"{self.http.host}:{self.http.port}"


@pytest.fixture(scope="session")
def live_server() -> Iterator[LiveServer]:
    """A server of the model ``stream``. It prints nothing: a client's fault is no exception."""
    vosk_port, wyoming_port = free_ports(2)
    options = ["--model", "stream", "--alias", "whisper-1=stream", "--vosk-port", str(vosk_port)]
    with serving(*options, "--wyoming", f"127.0.0.1:{wyoming_port}") as http:
        yield LiveServer(http, vosk_port, wyoming_port)
    assert http.lines == []


def free_ports(count: int) -> list[int]:
    """TCP ports that nothing listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
