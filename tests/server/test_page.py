"""The files of the page: how they are served, and that nothing in them comes from elsewhere."""

from __future__ import annotations

import os
import re
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pytest
from scripted_server import ScriptedServer, running

from asr.server.page import PAGE_FOLDER, page_files

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(Path(PAGE_FOLDER).glob("*.js"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(ScriptedServer().app) as address:
        yield address


def get(url: str, **headers: str) -> Any:
    """The answer, whatever its status."""
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers))
    except urllib.error.HTTPError as answer:
        return answer


def test_the_page_itself_is_at_the_root(address):
    answer = get(f"{address}/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b'<script type="module" src="page/main.js">' in answer.read()


@pytest.mark.parametrize("name", sorted(page_files()))
def test_each_file_has_the_media_type_of_its_suffix(address, name):
    answer = get(f"{address}/page/{name}")
    suffix = os.path.splitext(name)[1]
    expected = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}[suffix]
    assert answer.headers["content-type"].split(";")[0] == expected
    assert answer.read() == Path(PAGE_FOLDER, name).read_bytes()


def test_the_policy_allows_nothing_from_elsewhere_and_no_text_as_html(address):
    policy = get(f"{address}/").headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == directives["style-src"] == "'self'"
    assert directives["require-trusted-types-for"] == "'script'"
    assert directives["frame-ancestors"] == "'none'"


def test_a_copy_that_is_still_right_is_not_sent_again(address):
    tag = get(f"{address}/page/main.js").headers["etag"]
    again = get(f"{address}/page/main.js", **{"if-none-match": f'"other", {tag}'})
    assert (again.status, again.read()) == (304, b"")
    assert get(f"{address}/page/main.js", **{"if-none-match": '"other"'}).status == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py", "../page.py", "page.py", ""])
def test_only_files_of_the_page_are_served(address, name):
    assert get(f"{address}/page/{name}").status == 404


def test_no_file_names_another_server():
    for path in Path(PAGE_FOLDER).iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://[a-z]", text), path


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_turns_text_into_html(path):
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
    assert not re.search(forbidden, path.read_text(encoding="utf-8"))


def test_all_imports_of_the_scripts_are_files_of_the_page():
    for path in SCRIPTS:
        for name in re.findall(r'from "(.*?)"', path.read_text(encoding="utf-8")):
            assert name.startswith("./")
            assert Path(PAGE_FOLDER, name).is_file(), f"{path.name}: {name}"


def test_every_id_that_a_script_looks_up_is_in_the_page():
    html = Path(PAGE_FOLDER, "index.html").read_text(encoding="utf-8")
    there = set(re.findall(r'\bid="([\w-]+)"', html))
    for path in SCRIPTS:
        assert set(re.findall(r'\$\("([\w-]+)"\)', path.read_text(encoding="utf-8"))) <= there, path


def test_the_files_of_the_page_are_part_of_what_is_installed():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    found = {
        name
        for pattern in data["asr.server"]
        for name in glob(pattern, root_dir=Path(PAGE_FOLDER).parent, recursive=True)
    }
    assert {f"page/{path.name}" for path in Path(PAGE_FOLDER).iterdir()} <= found
