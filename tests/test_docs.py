"""The documentation runs: Python blocks are executed, command lines are parsed by the real parser, links exist."""

import argparse
import re
import shlex
import shutil
from pathlib import Path

import pytest

from asr.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(page for folder in ("docs", "egs", "recipes") for page in (ROOT / folder).rglob("*.md"))
(VERBS,) = (a.choices for a in main.build_parser()._actions if isinstance(a, argparse._SubParsersAction))


def blocks(page, language):
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page):
    """The arguments of the ``asr`` commands in a page's shell blocks."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
            lexer.whitespace_split = True
            words, found = [*lexer, ";"], []
            for word in words:
                if set(word) <= set("|;&<>()"):
                    while found and (found[0] in ("do", "then", "nice", "time") or re.match(r"[A-Z_]+=", found[0])):
                        found.pop(0)
                    if found[:1] == ["asr"]:
                        yield found[1:]
                    found = []
                else:
                    found.append(word)


def mentions(page):
    """Command lines in running text: they may leave out what does not matter there."""
    for found in re.findall(r"`asr ([^`]+)`", page.read_text(encoding="utf-8")):
        yield re.sub(r"[\[\]]", " ", found).split()


PAGES_WITH_COMMANDS = [page for page in PAGES if any(True for _ in commands(page))]
PAGES_WITH_MENTIONS = [page for page in PAGES if any(True for _ in mentions(page))]
PAGES_WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=name)
def test_command_lines_are_understood(page, capsys):
    for arguments in commands(page):
        # A capital word stands for the user's own; where a number is meant, any will do.
        numbers = ["1" if word.isupper() and word.isalpha() else word for word in arguments]
        understood = []
        for variant in (arguments, numbers):
            try:
                understood.append(main.parse_arguments(variant))
            except SystemExit as stop:
                if stop.code == 0:  # --help and --version
                    understood.append(None)
        assert understood, f"asr {' '.join(arguments)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES_WITH_MENTIONS, ids=name)
def test_verbs_and_options_in_running_text_exist(page):
    for words in mentions(page):
        assert words[0] in VERBS, words
        known = VERBS[words[0]]._option_string_actions
        assert {word for word in words if word.startswith("--")} <= known.keys(), words


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "egs", tmp_path / "egs")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "block", "__file__": str(tmp_path / "block.py")}
    for block in blocks(page, "python"):
        exec(compile(block, name(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"


def anchors(page):
    """The fragments of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_sections_lead_to_headings(page):
    for target, fragment in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert fragment in anchors(page.parent / target if target else page), f"{page}: {target}#{fragment}"
