"""What goes to a terminal."""

from __future__ import annotations

import io
import sys

import pytest
from tqdm import tqdm

from asr import terminal
from asr.cli import main


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\rb\x00\x7f\x9b", r"a\x0db\x00\x7f\x9b"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("Zürich 東京 \u202b", "Zürich 東京 \u202b"),
        ("a\udcffb", r"a\udcffb"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert terminal.printable(text) == shown


def test_a_terminal_gets_no_escapes_and_a_file_keeps_the_text(monkeypatch):
    for stream, got in ((Tty(), "a\\x1b]0;b\n"), (io.StringIO(), "a\x1b]0;b\n")):
        monkeypatch.setattr(sys, "stdout", stream)
        with terminal.shown():
            print("a\x1b]0;b")
        assert stream.getvalue() == got


def test_messages_have_no_escapes_and_bars_move_all_the_same(monkeypatch, capsys):
    assert main.run_command(["info", "a\x1b[31mb"]) == 2
    assert capsys.readouterr().err.startswith(r"error: a\x1b[31mb: ")
    stream = Tty()
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal.shown():
        for _ in tqdm(range(2), desc="outer", ncols=60):
            for _ in tqdm(range(2), desc="a\x1bb", ncols=60, leave=False):
                pass
    assert "\router" in stream.getvalue()
    assert "\x1b[A" in stream.getvalue()
    assert r"a\x1bb" in stream.getvalue()
    assert "\x1bb" not in stream.getvalue()
