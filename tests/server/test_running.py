"""`asr serve` as a process: addresses, signals, health."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from asr.cli import serve_verb
from asr.cli.main import run_command
from asr.server.running import address_lines, listening
from asr.server.settings import Address, Settings

ROOT = Path(__file__).parents[2]


def start(*options, wait=True):
    """A server and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "asr.cli", "serve", "--port", "0", "--workers", "1", *options],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    port = None
    for line in process.stderr if wait else ():
        if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)/", line):
            port = int(found[1])
            break
    return process, port


def wait_until(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def ended(pid):
    """Whether a process is gone, or nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def server(greedy_model):
    process, port = start("--model", f"greedy={greedy_model}")
    yield process, port
    process.kill()
    process.wait()


def test_health_decodes_ready_is_said_and_metrics_are_counted(server):
    _, port = server
    healthy = 200, {"status": "ok", "workers": {"1": "ok"}}

    def is_healthy():  # on a busy machine the worker may answer too late
        status, body = get(port, "/health")
        return (status, json.loads(body)) == healthy

    wait_until(is_healthy)
    assert get(port, "/ready") == (200, '{"status":"ready"}')
    status, body = get(port, "/metrics")
    assert status == 200
    for name in ("asr_streams 0", "asr_workers_ready 1", 'asr_audio_seconds_total{kind="live"}', "asr_refused_total"):
        assert name in body


def test_a_port_in_use_is_said(server, capsys):
    _, port = server
    assert run_command(["serve", "--port", str(port), "--model", "an4"]) == 2
    taken = f"127.0.0.1:{port}: cannot listen there: Address already in use; choose another "
    assert taken + "with --host and --port" in capsys.readouterr().err
    assert run_command(["serve", "--port", "0", "--vosk-port", str(port), "--model", "an4"]) == 2
    assert taken + "with --vosk-port" in capsys.readouterr().err
    assert run_command(["serve", "--port", "0", "--wyoming", f"127.0.0.1:{port}", "--model", "an4"]) == 2
    assert taken + "address with --wyoming" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--certificate", "none.pem"], "none.pem: expected a PEM file, got none"),
        (["--key", "none.pem"], "expected --certificate as well"),
        (["--wyoming", "10300"], "expected HOST:PORT"),
        (["--model", "a=", "--port", "0"], "expected NAME=VALUE"),
        (["--model", "nowhere"], "nowhere: neither a model directory nor a bundled model"),
        (["--alias", "x=y"], "expected english, an4, english-stream or stream, got 'y'"),
        (["--host", "a..b", "--model", "an4"], "a..b:8000: cannot listen there"),
        (["--host", "203.0.113.1", "--model", "an4"], "203.0.113.1:8000: cannot listen there"),
    ],
)
def test_options_that_cannot_be_are_said(options, message, capsys):
    assert run_command(["serve", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_certificate_that_is_none_is_said(tmp_path, capsys):
    path = tmp_path / "c.pem"
    path.write_text("no certificate")
    assert run_command(["serve", "--certificate", str(path)]) == 2
    assert f"{path}: expected a certificate in PEM" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("0.0.0.0", "", True), ("::", "", True), ("0.0.0.0", "secret", False), ("127.0.0.1", "", False),
     ("localhost", "", False)],
)  # fmt: skip
def test_a_server_without_a_token_warns_where_other_machines_can_reach_it(host, token, warned):
    with listening(host, 0) as place:
        lines = address_lines(Settings(host=host, token=token), [place], 0)
    assert [line for line in lines if "set ASR_TOKEN" in line] == lines[1:]
    assert len(lines) == 1 + warned


@pytest.mark.parametrize(
    ("host", "warned"),
    [("0.0.0.0", True), ("::", True), ("asr.local", True), ("127.0.0.1", False), ("localhost", False)],
)
def test_wyoming_warns_where_other_machines_can_reach_it_also_beside_a_token(host, warned):
    with listening("127.0.0.1", 0) as place:
        lines = address_lines(Settings(token="secret", wyoming=Address(host, 0)), [place], 10300)
    assert lines[1] == f"Wyoming protocol on tcp://{host}:10300"
    assert [line for line in lines if "Wyoming has no tokens" in line] == lines[2:]
    assert len(lines) == 2 + warned


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_its_workers(greedy_model, number):
    process, port = start("--model", f"greedy={greedy_model}")
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert workers
    process.send_signal(number)
    assert process.wait(300) == 0
    assert "running requests are finished" in process.stderr.read()
    wait_until(lambda: all(map(ended, workers)))
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 60)


def test_a_signal_in_the_middle_of_a_stream_gives_what_was_said_and_refuses_what_is_new(greedy_model, sample):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    process, port = start("--model", f"greedy={greedy_model}")
    with connect(f"ws://127.0.0.1:{port}/vosk", open_timeout=120, ping_interval=None) as socket:
        socket.send('{"config": {"sample_rate": 16000}}')
        socket.send(sample.tobytes())
        assert json.loads(socket.recv())["partial"]
        process.terminate()
        assert "running requests are finished" in process.stderr.readline()
        assert get(port, "/ready") == (503, '{"status":"closing"}')
        socket.send(sample[:1600].tobytes())
        assert json.loads(socket.recv())["text"] == "ENTER FOUR FIVE NINE TWO"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == 1012
    assert process.wait(300) == 0


def test_a_signal_while_models_are_loaded_ends_the_server(greedy_model):
    process, _ = start("--model", f"greedy={greedy_model}", wait=False)
    # It obeys signals once it has started a worker.
    while process.poll() is None and subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True).returncode:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(300) in (0, 143)


def test_workers_end_when_the_server_is_killed(greedy_model):
    process, _ = start("--model", f"greedy={greedy_model}")
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.kill()
    process.wait()
    wait_until(lambda: all(map(ended, workers)))


def test_requests_that_are_none_are_not_written_to_the_log(greedy_model):
    process, port = start("--model", f"greedy={greedy_model}")
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), 120) as raw:
            raw.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
    process.terminate()
    assert "HTTP" not in process.stderr.read()


def test_a_server_beside_a_tool_ends_when_the_tool_is_killed(greedy_model, tmp_path):
    tool = tmp_path / "tool.py"
    tool.write_text(
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, sys.argv[1], str(os.getpid()), *sys.argv[2:]])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    command = [
        sys.executable,
        str(tool),
        str(ROOT / "tools" / "serve_beside.py"),
        "serve",
        "--port",
        "0",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(
        [*command, "--model", f"greedy={greedy_model}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    assert "serving on" in process.stderr.readline()
    process.kill()
    process.wait()
    wait_until(lambda: ended(child))


@pytest.mark.parametrize(
    ("processors", "memory", "gpu", "device", "workers"),
    [
        (2, 8e9, False, "auto", 2), (8, 0, False, "cpu", 2), (1, 8e9, False, "auto", 1), (4, 2e9, False, "auto", 1),
        (8, 8e9, True, "auto", 1), (8, 8e9, True, "cpu", 2), (8, 8e9, True, "cuda:0", 1),
    ],
)  # fmt: skip
def test_there_are_two_workers_where_processors_and_memory_allow(monkeypatch, processors, memory, gpu, device, workers):
    monkeypatch.setattr(serve_verb.cpus, "available", lambda: processors)
    monkeypatch.setattr(serve_verb.cpus, "memory_bytes", lambda: memory)
    monkeypatch.setattr(serve_verb.cpus, "sees_gpu", lambda: gpu)
    started = []
    monkeypatch.setattr("asr.server.running.serve", lambda settings: started.append(settings) or asyncio.sleep(0))
    assert run_command(["serve", "--device", device]) == 0
    assert run_command(["serve", "--workers", "3"]) == 0
    assert [settings.workers for settings in started] == [workers, 3]
