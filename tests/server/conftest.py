"""A server's services in a loop of their own, with a small greedy model; one for all tests of a module."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_browser import chromium, opened
from scripted_server import Script, ScriptedServer, running

from asr.audio import read
from asr.models.bundled import bundle_folder

ROOT = Path(__file__).parents[2]
RATE_HZ = 16000


class Loop:
    """An event loop in a thread: ``loop(coroutine)`` gives its result."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def __call__(self, coroutine, timeout=500):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def end(self) -> None:
        self(asyncio.sleep(0.1))  # what is being cancelled ends
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes and clients get more time than a busy machine needs."""
    monkeypatch.setattr("asr.server.services.PROBE_S", 300.0)
    monkeypatch.setattr("asr.server.wyoming_service.WYOMING_LINGER_S", 60.0)


@pytest.fixture(scope="module")
def loop():
    made = Loop()
    yield made
    made.end()


@pytest.fixture(scope="session")
def greedy_model(tmp_path_factory) -> Path:
    """The bundled streaming model without its language model: it needs no compiled search, and is quick."""
    folder = tmp_path_factory.mktemp("models") / "greedy"
    shutil.copytree(bundle_folder() / "stream", folder, ignore=shutil.ignore_patterns("lm", "decoding.yaml"))
    return folder


@pytest.fixture(scope="module")
def services(loop, greedy_model):
    """Services with the models ``greedy`` and ``stream``."""
    from asr.server.services import Services
    from asr.server.settings import Settings

    settings = Settings(
        models={"greedy": str(greedy_model), "stream": "stream"}, aliases={"whisper-1": "greedy"}, lag_s=math.inf
    )

    async def start():
        made = Services(settings)
        await made.start()
        return made

    made = loop(start())
    yield made
    loop.loop.call_soon_threadsafe(made.end)


@pytest.fixture(scope="session")
def sample() -> np.ndarray:
    """The bundled sample, 16-bit."""
    return np.round(read.load_audio(ROOT / "egs" / "sample.wav", RATE_HZ) * 32767).astype("<i2")


def blocks(samples: np.ndarray, size: int) -> list[bytes]:
    """Samples as messages of ``size`` samples."""
    return [samples[at : at + size].tobytes() for at in range(0, len(samples), size)]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate of this machine and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    names = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run([*command, "-out", names[0], "-keyout", names[1]], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return names


# A scripted server and Chromium for the tests of the page.


@pytest.fixture(scope="module")
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture(scope="module")
def address(server: ScriptedServer) -> Iterator[str]:
    with running(server.app) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def script(server: ScriptedServer) -> Script:
    """A fresh script of the server."""
    server.script = Script()
    return server.script


@pytest.fixture
def page(browser: Any, address: str, script: Script) -> Iterator[Any]:
    with opened(browser, address) as page:
        yield page
