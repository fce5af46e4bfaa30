"""Chromium for tests of the page, with a recording as its microphone; skips where there is none."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "egs" / "sample.wav"
PHONE = {"width": 360, "height": 760}


@contextlib.contextmanager
def chromium(microphone: Path = SAMPLE) -> Iterator[Any]:
    """A headless browser that hears ``microphone``, once, and grants what pages ask for."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium is installed: looked for {', '.join(names)}")
    arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=arguments, chromium_sandbox=False, timeout=300_000)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Any, address: str, faults: bool = False, wait: bool = True, **options: Any) -> Iterator[Any]:
    """The page in a context of its own; errors of its scripts fail the test unless it expects ``faults``."""
    context = browser.new_context(accept_downloads=True, **options)
    errors: list[str] = []
    try:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(address)
        if wait:
            page.wait_for_selector("html[data-ready]")
        yield page
    finally:
        context.close()
    assert faults or errors == []


def upload(page: Any, *files: dict[str, Any] | Path) -> None:
    """Choose files, given as paths or as name, mimeType and buffer."""
    page.set_input_files("#files", list(files))


def wait_true(page: Any, expression: str, timeout_s: float = 120.0) -> None:
    """Evaluate a JavaScript expression until it is true.

    ``page.wait_for_function`` evaluates texts from inside the page when it asks again, which the
    Content-Security-Policy of our pages refuses.
    """
    until = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < until, f"not true within {timeout_s:g} s: {expression}"
        page.wait_for_timeout(50)


def wait_until(page: Any, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Let the page run until a condition of the test is true."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not true within {timeout_s:g} s"
        page.wait_for_timeout(50)


def wait_recorded(page: Any, seconds: int) -> None:
    """Wait until a live recording has so many seconds of sound."""
    clock = "document.getElementById('live-clock').textContent.split(':').map(Number)"
    wait_true(page, f"(([minutes, rest]) => 60 * minutes + rest >= {seconds})({clock})")


STORED = """
async (store) => {
  const base = await new Promise((resolve) => {
    const request = indexedDB.open("asr-transcribe", 1);
    request.onsuccess = () => resolve(request.result);
  });
  try {
    return await new Promise((resolve) => {
      const request = base.transaction(store).objectStore(store).count();
      request.onsuccess = () => resolve(request.result);
    });
  } finally {
    base.close();
  }
}
"""


def stored(page: Any, store: str) -> int:
    """How much is in the browser's database: of ``recordings``, or pieces of their ``audio``."""
    return page.evaluate(STORED, store)


def words(page: Any) -> list[str]:
    """The words of the opened transcript."""
    return page.locator("#transcript .word").all_text_contents()


def downloaded(page: Any, label: str, folder: Path) -> Path:
    """The file that an entry of the download menu gives."""
    page.click("#download summary")
    with page.expect_download() as waiting:
        page.locator("#download-items button", has_text=label).first.click()
    path = folder / os.path.basename(waiting.value.suggested_filename)
    waiting.value.save_as(path)
    return path


def axe_script() -> str:
    """The path of axe-core, which AXE_CORE names; skips where it is not set."""
    path = os.environ.get("AXE_CORE", "")
    if not os.path.isfile(path):
        pytest.skip("AXE_CORE is not set: it names axe.min.js of the npm package axe-core")
    return path


def axe_findings(page: Any) -> list[str]:
    """What axe-core finds in the page as it is now: rule, element, reason."""
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['html'][:120]}: {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
