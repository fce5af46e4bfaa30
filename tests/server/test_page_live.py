"""The page in Chromium with a scripted server: the microphone, growing text, a lost connection, the token."""

from __future__ import annotations

import json
import re
import zipfile
from typing import Any

import numpy as np
import pytest
from page_browser import SAMPLE, downloaded, opened, stored, upload, wait_recorded, wait_true, wait_until, words
from scripted_server import transcript

from asr.audio.read import load_audio


def result(text: str, start_s: float = 0.0) -> dict[str, Any]:
    """A final reply of the Vosk protocol, whose words last 0.2 s each."""
    found = [
        {"word": word, "start": start_s + 0.2 * n, "end": start_s + 0.2 * (n + 1), "conf": 0.9}
        for n, word in enumerate(text.split())
    ]
    return {"text": text, "result": found}


def test_settled_text_is_black_and_the_rest_is_grey(page, script):
    script.replies = [{"partial": "good morning every", "stable": 12}]
    page.click("#record")
    page.wait_for_selector("#live-open:not(:empty)")
    assert page.text_content("#live-settled") == "good morning"
    assert page.text_content("#live-open") == " every"
    colour = "id => getComputedStyle(document.getElementById(id)).color"
    assert page.evaluate(colour, "live-settled") == page.evaluate("getComputedStyle(document.body).color")
    assert page.evaluate(colour, "live-open") != page.evaluate(colour, "live-settled")


def test_final_text_is_announced_and_growing_text_is_not(page, script):
    script.replies = [result("good morning"), {"partial": "every", "stable": 0}]
    page.click("#record")
    page.wait_for_selector("#live-log p")
    assert page.get_attribute("#live-log", "role") == "log"
    assert page.text_content("#live-log") == "good morning"
    assert page.locator("#live-partial").evaluate("element => element.closest('[role=log], [aria-live]')") is None


def test_the_configuration_comes_first_and_blocks_at_most_ten_times_a_second(page, script):
    page.click("#record")
    wait_until(page, lambda: script.recorded_s() >= 2)
    page.click("#stop")
    page.wait_for_selector("#document:not([hidden])")
    (_, configuration), *messages = script.messages
    rate = configuration["config"]["sample_rate"]
    assert configuration["config"]["words"] is True
    blocks = [(at, size) for at, size in messages if isinstance(size, int)]
    assert messages[-1][1] == {"eof": 1}
    seconds = sum(size for _, size in blocks) / 2 / rate
    assert len(blocks) <= 10 * seconds + 2
    assert {size for _, size in blocks[1:-1]} == {2 * -(-rate // 10)}


def test_recordings_wait_until_the_models_are_there(browser, address, script):
    script.ready = False
    with opened(browser, address, faults=True, wait=False) as page:
        page.wait_for_selector("#server-state:text-is('Loading the models…')")
        page.click("#record")
        page.wait_for_selector(".toast:has-text('Loading the models…')")
        script.ready = True
        page.wait_for_selector("html[data-ready]")
        page.click("#record")
        page.wait_for_selector("#live:not([hidden])")


def test_a_recording_becomes_a_text_with_its_sound(page, script):
    script.replies = [{"partial": "", "stable": 0}] * 3 + [result("good morning")] + [{"partial": "", "stable": 0}]
    script.last_reply = result("everybody", 1.5)
    page.click("#record")
    page.wait_for_selector("#live-log p")
    wait_until(page, lambda: script.recorded_s() >= 2)
    page.keyboard.press("Enter")  # the button Stop has the focus
    page.wait_for_selector("#document:not([hidden])")
    assert words(page) == ["good", "morning", "everybody"]
    page.wait_for_selector("#play:not([disabled])")
    page.click("#play")
    wait_true(page, "Number(document.getElementById('waveform').getAttribute('aria-valuenow')) > 0.2")


def test_a_recording_survives_the_end_of_the_page(browser, address, script):
    script.replies = [result("good morning")] + [{"partial": "", "stable": 0}]
    with opened(browser, address) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        page.click("#record")
        page.wait_for_selector("#live-log p")
        wait_until(page, lambda: stored(page, "recordings") > 0 and stored(page, "audio") > 0)  # every 5 s
        page.reload()
        page.wait_for_selector(".item.done")
        assert "good morning" in page.inner_text(".item .about")
        page.click(".item .open")
        page.wait_for_selector("#play:not([disabled])")


def test_a_lost_connection_loses_nothing(browser, address, script):
    script.replies = [{"partial": "", "stable": 0}]
    script.close_after = 3
    recorded: list[bytes] = []
    with opened(browser, address, faults=True) as page:
        page.click("#record")
        page.wait_for_selector("#live-notice:has-text('The recording goes on')")
        wait_recorded(page, 1)
        page.on("request", lambda request: recorded.append(request.url) if "transcriptions" in request.url else None)
        page.click("#stop")
        page.wait_for_selector("#document:not([hidden])")
        assert words(page) == ["oh", "one", "two", "three"]  # what the server says of any file
        assert script.requests[0][0].startswith("Recording ")
        assert len(recorded) == 1


def test_the_microphone_records_what_is_said_to_it(page, script):
    page.click("#record")
    wait_until(page, lambda: script.recorded_s() >= 3)
    page.click("#stop")
    page.wait_for_selector("#document:not([hidden])")
    page.wait_for_selector("#play:not([disabled])")
    found = np.array(page.evaluate(
        """async () => {
            const base = await new Promise((resolve) => {
                const request = indexedDB.open("asr-transcribe", 1);
                request.onsuccess = () => resolve(request.result);
            });
            const pieces = await new Promise((resolve) => {
                const request = base.transaction("audio").objectStore("audio").getAll();
                request.onsuccess = () => resolve(request.result);
            });
            const buffers = await Promise.all(pieces.map((piece) => piece.arrayBuffer()));
            return buffers.flatMap((buffer) => [...new Int16Array(buffer)]);
        }"""
    ))  # fmt: skip
    level = np.sqrt(np.mean(np.square(load_audio(SAMPLE))))
    assert np.sqrt(np.mean(np.square(found / 32768))) == pytest.approx(level, rel=0.5)


@pytest.mark.parametrize(
    ("error", "told"),
    [("NotAllowedError", "does not allow the microphone"), ("NotFoundError", "There is no microphone")],
)
def test_a_microphone_that_cannot_be_used_is_explained(browser, address, script, error, told):
    with opened(browser, address) as page:
        page.evaluate(
            "name => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name)); }", error
        )
        page.click("#record")
        page.wait_for_selector(f".toast:has-text('{told}')")
        assert page.is_visible("#home")


def said(spoken: str, written: str, shown: str, start_s: float = 0.0) -> dict[str, Any]:
    """A final reply with both forms, whose words share 1.2 s; ``shown`` is in the case of the server."""
    tree = {
        form: [
            {
                "word": word,
                "start": start_s + 1.2 * n / len(texts),
                "end": start_s + 1.2 * (n + 1) / len(texts),
                "conf": 0.9,
            }
            for n, word in enumerate(texts)
        ]
        for form, texts in (("spoken", spoken.split()), ("written", written.split()))
    }
    return {"text": shown, "result": tree["written" if shown == written else "spoken"], "forms": tree}


@pytest.mark.parametrize("form", ["written", "spoken"])
def test_a_live_recording_has_both_forms_and_opens_in_the_one_that_was_shown(page, script, form):
    utterances = [("ENTER FOUR FIVE", "Enter 45."), ("STOP NOW PLEASE", "Stop now, please.")]
    first, last = (
        said(*texts, texts[form == "written"], start_s) for start_s, texts in zip((0.0, 1.5), utterances, strict=True)
    )
    script.replies, script.last_reply = [first, {"partial": "", "stable": 0}], last
    page.click("#record")
    page.wait_for_selector("#live-log p")
    wait_until(page, lambda: script.recorded_s() >= 3)
    page.click("#stop")
    page.wait_for_selector("#document:not([hidden])")
    forms = {"spoken": "ENTER FOUR FIVE STOP NOW PLEASE".split(), "written": "Enter 45. Stop now, please.".split()}
    assert script.messages[0][1]["config"]["forms"] is True
    assert words(page) == forms[form]
    page.keyboard.press("w")
    assert words(page) == forms["spoken" if form == "written" else "written"]
    assert page.locator(".part").count() == 2


def test_corrections_of_a_live_recording_in_written_form_are_said_in_words(page, script, tmp_path):
    script.replies = [said("ENTER FOUR FIVE", "Enter 45.", "Enter 45."), {"partial": "", "stable": 0}]
    script.last_reply = said("STOP KNOW", "Stop know.", "Stop know.", 1.5)
    page.click("#record")
    page.wait_for_selector("#live-log p")
    wait_until(page, lambda: script.recorded_s() >= 3)
    page.click("#stop")
    page.wait_for_selector("#play:not([disabled])")
    for word, text in (("Enter", "Center"), ("know.", "now.")):
        page.dblclick(f".word:text-is('{word}')")
        page.keyboard.type(text)
        page.keyboard.press("Enter")
    with zipfile.ZipFile(downloaded(page, "Corrections", tmp_path)) as found:
        assert "left_out.txt" not in found.namelist()
        texts = [json.loads(line)["text"] for line in found.read("manifest.jsonl").splitlines()]
    assert [text.upper() for text in texts] == ["CENTER FOUR FIVE", "STOP NOW"]


def test_text_of_a_live_recording_is_never_markup(page, script):
    script.replies = [result("<img src=x onerror=hurt=1>"), {"partial": "<b onclick=hurt=1>x</b>", "stable": 3}]
    page.click("#record")
    page.wait_for_selector("#live-open:not(:empty)")
    assert page.text_content("#live-log") == "<img src=x onerror=hurt=1>"
    assert page.locator("#live img, #live b").count() == 0
    assert page.evaluate("typeof hurt") == "undefined"


# The token


def test_the_page_asks_once_for_a_token_and_uses_it_everywhere(browser, address, script):
    script.token = "secret-1"
    script.answers["a.wav"] = transcript("let in")
    with opened(browser, address, faults=True, wait=False) as page:
        page.wait_for_selector("#token[open]")
        page.fill("#token-value", script.token)
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]")
        upload(page, SAMPLE)
        page.wait_for_selector("#document:not([hidden])")
        page.click("#back")
        page.click("#record")
        wait_until(page, lambda: script.recorded_s() > 0)
        page.click("#stop")
        page.wait_for_selector("#document:not([hidden])")
        assert any("eof" in str(content) for _, content in script.messages)
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.is_hidden("#token")


def test_a_wrong_token_is_asked_for_again(browser, address, script):
    script.token = "right"
    with opened(browser, address, faults=True, wait=False) as page:
        page.wait_for_selector("#token[open]")
        page.fill("#token-value", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-hint:has-text('does not accept')")
        page.fill("#token-value", "right")
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]")


def test_the_token_is_kept_in_the_session_only(browser, address, script):
    script.token = "right"
    with opened(browser, address, faults=True, wait=False) as page:
        page.wait_for_selector("#token[open]")
        page.fill("#token-value", "right")
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]")
        assert not re.search("right", page.evaluate("JSON.stringify(localStorage)"))
        assert page.evaluate("document.cookie") == ""
