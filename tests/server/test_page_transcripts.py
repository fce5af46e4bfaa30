"""The page in Chromium with the real server and its bundled models: what is said is what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_browser import ROOT, SAMPLE, chromium, downloaded, opened, upload, wait_recorded, wait_true, words

from asr.audio.read import load_audio
from asr.cli.main import run_command
from asr.data.manifest import read_manifest

TOKEN = "let/me in=ß"
"""Not all of its characters can stand in a subprotocol or, as they are, in a header."""
TEXT = (ROOT / "egs" / "sample.txt").read_text(encoding="utf-8").split()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`asr serve` with a token, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "asr.cli",
        "serve",
        "--port",
        "0",
        "--workers",
        "1",
        "--model",
        "an4",
        "--model",
        "stream",
    ]
    command += ["--live-model", "stream", "--token", TOKEN]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving on (http://[\w.:]+)", line):
                yield found[1]
                break
        else:
            pytest.fail(f"the server ended: {''.join(lines)}")
    finally:
        process.terminate()
        process.communicate(timeout=300)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, let in."""
    with opened(browser, address, faults=True, wait=False) as page:
        page.wait_for_selector("#token[open]")
        page.fill("#token-value", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        yield page


def wait_for_text(page: Any) -> None:
    """Wait for the text of a file, and show it as it was spoken."""
    page.wait_for_selector("#document:not([hidden])", timeout=120_000)
    page.keyboard.press("w")


def test_a_recording_of_the_microphone_becomes_its_text(page):
    page.click("#record")
    page.wait_for_selector("#live-settled:not(:empty), #live-open:not(:empty), #live-log p", timeout=120_000)
    wait_recorded(page, 4)  # what is said to the microphone lasts 2.75 s
    page.click("#stop")
    page.wait_for_selector("#document:not([hidden])", timeout=120_000)
    assert words(page) == TEXT
    assert page.text_content("#facts").split(" · ")[1] == "stream"


def test_a_file_becomes_its_text(page):
    upload(page, SAMPLE)
    page.wait_for_selector("#document:not([hidden])", timeout=120_000)
    assert words(page) == ["Enter", "4592."]
    page.keyboard.press("w")
    assert words(page) == TEXT
    assert page.is_hidden("#unreliable")


def film(path: Path, form: str, codec: str) -> Path:
    """The sample in a container for films."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    samples = load_audio(SAMPLE, 48000)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=48000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", 48000, stream.codec_context.frame_size or None
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "form", "codec"), [(".webm", "webm", "libopus"), (".m4a", "ipod", "aac"), (".mp4", "mp4", "aac")]
)
def test_films_and_phone_recordings_become_their_text_and_are_played(page, tmp_path, suffix, form, codec):
    upload(page, film(tmp_path / f"sample{suffix}", form, codec))
    wait_for_text(page)
    assert words(page) == TEXT
    page.wait_for_selector("#play:not([disabled])")
    page.click("#play")
    wait_true(page, "Number(document.getElementById('waveform').getAttribute('aria-valuenow')) > 0.2")


def test_a_text_among_the_files_is_an_error_that_names_it(page, tmp_path):
    (tmp_path / "notes.wav").write_text("no audio")
    upload(page, tmp_path / "notes.wav")
    page.wait_for_selector(".item.failed", timeout=120_000)
    assert page.inner_text(".item.failed .name") == "notes.wav"
    assert "not audio" in page.inner_text(".item.failed .about")


def test_a_correction_becomes_an_utterance_to_train_on(page, tmp_path):
    upload(page, SAMPLE)
    wait_for_text(page)
    page.dblclick(".word:text-is('FOUR')")
    page.keyboard.type("FOR")
    page.keyboard.press("Enter")
    page.wait_for_selector("#play:not([disabled])")
    with zipfile.ZipFile(downloaded(page, "Corrections", tmp_path)) as found:
        found.extractall(tmp_path / "zip")
    manifest = tmp_path / "zip" / "manifest.jsonl"
    assert run_command(["check", str(manifest)]) == 0
    [utterance] = read_manifest(manifest, root=tmp_path / "zip")
    assert utterance.text.split() == [TEXT[0], "FOR", *TEXT[2:]]
    heard, whole = load_audio(utterance.audio), load_audio(SAMPLE)
    offset = int(np.argmax(np.correlate(whole, heard[4000:8000], "valid"))) - 4000
    np.testing.assert_allclose(heard, whole[offset : offset + len(heard)], atol=2 / 32768)
