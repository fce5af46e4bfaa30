"""Standard streams that are full, closed or of another encoding: a message and a status, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")


@pytest.fixture
def verb(tmp_path):
    """``verb(shell_redirections, arguments, **environment)``: ``asr`` in a shell of its own."""
    for name, words in (("ref", "HI THERE"), ("hyp", "HI \u00e9\u4e2d")):
        lines = (f"u{i} {words}\n" for i in range(500))
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")

    def run(redirections, arguments, **environment):
        command = f'"$0" -m asr.cli {arguments} {redirections}'
        known = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        return subprocess.run(["sh", "-c", command, sys.executable], cwd=tmp_path, env=known, capture_output=True)

    return run


@pytest.mark.parametrize("arguments", ["--help", "score ref hyp", "score ref hyp --errors", "recipes", "info an4"])
@pytest.mark.parametrize("place", [">/dev/full", ">&-"])
def test_a_standard_output_that_takes_nothing_is_an_error(verb, arguments, place):
    if "full" in place and not FULL.exists():
        pytest.skip("no /dev/full")
    ended = verb(place, arguments)
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines()[-1].startswith("error: standard output: ")
    assert b"Traceback" not in ended.stderr


def test_a_report_is_written_though_standard_output_is_closed(verb, tmp_path):
    verb(">&-", "score ref hyp --json report.json")
    assert (tmp_path / "report.json").read_bytes().startswith(b"{")


def test_messages_do_not_go_to_standard_output_where_standard_error_is_closed(verb):
    ended = verb("2>&-", "score ref nowhere")
    assert (ended.returncode, ended.stdout) == (2, b"")


def test_a_reader_that_has_had_enough_is_no_error(verb):
    ended = verb("| head -n 1", "score ref hyp --errors")
    assert ended.stdout == b"u0\n"
    assert ended.stderr == b""


def test_a_closed_standard_input_is_empty(verb):
    ended = verb("<&-", "transcribe -")
    assert ended.returncode != 0
    assert b"Traceback" not in ended.stderr
    assert b"error: " in ended.stderr


def test_texts_that_the_terminal_cannot_show_are_escaped(verb):
    ended = verb("", "score ref hyp --errors", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert rb"\xe9\u4e2d" in ended.stdout
