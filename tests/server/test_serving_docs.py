"""The clients of docs/serving.md run against a real server; its unit and image start what exists."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import free_port
from served import ROOT, SAMPLE_TEXT, serving

from asr.cli import main

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
CLIENTS = dict(re.findall(r"^## ([^\n]*)\n+```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
"""The Python client of each protocol, by the heading above it."""


@pytest.fixture(scope="module")
def ports():
    """The ports of a server of all protocols: HTTP, Wyoming."""
    wyoming = free_port()
    with serving("--model", "an4", "--wyoming", f"127.0.0.1:{wyoming}") as served:
        yield served.port, wyoming


def test_each_protocol_has_a_client():
    assert [heading.split()[-1] for heading in CLIENTS] == ["REST", "Realtime", "Vosk", "Assistant"]


@pytest.mark.parametrize("heading", CLIENTS)
def test_the_client_prints_the_transcript(heading, ports, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = CLIENTS[heading].replace("127.0.0.1:8000", f"127.0.0.1:{ports[0]}").replace("10300", str(ports[1]))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, heading, "exec"), {"__name__": "client"})
    assert SAMPLE_TEXT in printed.getvalue()


@pytest.mark.parametrize("options", [["--model", "an4"], ["--live"]])
def test_the_example_prints_the_transcript(options, ports):
    command = [
        sys.executable,
        "egs/serve_client.py",
        "egs/sample.wav",
        "--url",
        f"http://127.0.0.1:{ports[0]}",
        *options,
    ]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].endswith(SAMPLE_TEXT)


def test_the_unit_starts_the_server():
    (line,) = re.findall(r"^ExecStart=\S+/asr (.*)$", PAGE, re.MULTILINE)
    assert main.parse_arguments(shlex.split(line)).wyoming == "127.0.0.1:10300"


def instructions(name: str) -> list[str]:
    return re.findall(rf"^\s*{name}\s+(.*)$", DOCKERFILE, re.MULTILINE)


def test_the_image_starts_the_server_for_its_network():
    (entry,), (command, health) = instructions("ENTRYPOINT"), _commands()
    assert json.loads(entry) == ["asr"]
    assert main.parse_arguments(json.loads(command)).host == "0.0.0.0"
    assert "/health" in json.loads(health)[2]


def _commands() -> tuple[str, str]:
    start = re.search(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    health = re.search(r"^HEALTHCHECK .* CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert start is not None
    assert health is not None
    return start[1], health[1]


def test_what_the_image_copies_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in instructions("COPY"):
        for source in line.split()[:-1]:
            assert Path(ROOT, source).exists(), source
            assert f"!{source.rstrip('/')}" in ignored, source


def test_the_image_asks_the_health_of_a_running_server(ports):
    code = json.loads(_commands()[1])[2]
    exec(code.replace("8000", str(ports[0])))
