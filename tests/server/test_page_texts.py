"""The page in Chromium with a scripted server: files, playback, corrections, doubt, search, downloads, keys."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from page_browser import downloaded, opened, stored, upload, wait_true, wait_until, words
from scripted_server import Script, transcript

from asr.audio.read import load_audio
from asr.data.manifest import read_manifest
from asr.formats import FORMATS, read_transcript_json

RATE_HZ = 16000


def sound(seconds: float = 3.0, seed: int = 0, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE_HZ))
    soundfile.write(file, samples, RATE_HZ, format=form)
    return file.getvalue()


def named(name: str, content: bytes | None = None) -> dict[str, Any]:
    return {"name": name, "mimeType": "audio/wav", "buffer": sound() if content is None else content}


def open_text(page: Any, script: Script, answer: dict[str, Any], name: str = "talk.wav") -> None:
    """Upload a recording whose transcript is ``answer``; the page opens it."""
    script.answers[name] = answer
    upload(page, named(name, sound(answer["duration"] + 0.5)))
    page.wait_for_selector("#document:not([hidden])")


def position(page: Any) -> float:
    return float(page.get_attribute("#waveform", "aria-valuenow"))


def correct(page: Any, word: str, text: str) -> None:
    page.dblclick(f".word:text-is('{word}')")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def wait_saved(page: Any) -> None:
    page.wait_for_selector("#saved:text-is('Saved in this browser')")


# Files


def test_a_file_becomes_a_text_and_opens(page, script):
    open_text(page, script, transcript("good morning | everybody"))
    assert page.inner_text("#title") == "talk.wav"
    assert words(page) == ["good", "morning", "everybody"]
    assert page.locator(".part").count() == 2  # a paragraph ends at a pause
    assert script.requests == [("talk.wav", "sure")]


def test_one_bad_file_does_not_lose_the_others(browser, address, script):
    script.answers["bad.mp3"] = {"status": 400, "error": {"message": "bad.mp3: expected audio, got a text"}}
    with opened(browser, address, faults=True) as page:
        upload(page, named("a.wav"), named("bad.mp3"), named("c.wav"))
        page.wait_for_selector(".item.failed")
        page.wait_for_selector(".item.done >> nth=1")
        assert page.locator(".item .name").all_inner_texts() == ["a.wav", "bad.mp3", "c.wav"]
        assert page.inner_text(".item.failed .about") == "expected audio, got a text"  # its name stands above


def test_empty_and_too_large_files_are_refused_without_an_upload(page, script):
    upload(page, named("empty.wav", b""), named("large.wav", bytes(2**20 + 1)))
    page.wait_for_selector(".item.failed >> nth=1")
    assert page.locator(".item .about").all_inner_texts() == [
        "The file is empty.",
        "The file has 1.0 MB; this server takes at most 1.0 MB.",
    ]
    assert script.requests == []


def test_files_stand_in_the_order_in_which_they_were_chosen(page, script):
    page.evaluate("{ const now = Date.now; let calls = 0; Date.now = () => now() + 5 * (calls += 1); }")  # a slow page
    upload(page, *(named(f"{letter}.wav", b"") for letter in "badc"))
    assert page.locator(".item .name").all_inner_texts() == ["b.wav", "a.wav", "d.wav", "c.wav"]


def test_a_busy_server_is_asked_again(browser, address, script):
    busy = {"status": 503, "error": {"message": "busy"}, "headers": {"retry-after": "1"}}
    script.answers["talk.wav"] = [busy, transcript("at last")]
    with opened(browser, address, faults=True) as page:
        page.evaluate(
            """() => {
                window.told = [];
                new MutationObserver(() => {
                    told.push(...[...document.querySelectorAll(".item .about")].map((about) => about.textContent));
                }).observe(document.body, {subtree: true, childList: true, characterData: true});
            }"""
        )
        upload(page, named("talk.wav"))
        page.wait_for_selector("#document:not([hidden])")
        assert any("the server is busy" in text for text in page.evaluate("told"))
        assert words(page) == ["at", "last"]


def test_text_grows_while_a_file_is_transcribed(page, script):
    whole = threading.Event()
    script.answers["talk.wav"] = transcript("one two three four") | {"early": 2, "held": whole}
    upload(page, named("talk.wav", sound(2.0)))
    page.wait_for_selector(".item .about:has-text('50 % · …one two')")
    assert page.evaluate("document.querySelector('.item progress').value") == 0.5
    whole.set()
    page.wait_for_selector("#document:not([hidden])")
    assert words(page) == ["one", "two", "three", "four"]


def test_a_transcription_that_fails_in_the_middle_is_an_error(page, script):
    script.answers["talk.wav"] = transcript("one two") | {"early": 1, "broken": "the server failed"}
    upload(page, named("talk.wav"))
    page.wait_for_selector(".item.failed")
    assert page.inner_text(".item .about") == "the server failed"


def test_a_file_that_waits_for_its_text_is_sent_again_after_a_reload(page, script):
    script.answers["talk.wav"] = transcript("one two") | {"held": threading.Event()}
    upload(page, named("talk.wav"))
    page.wait_for_selector(".item.waiting")
    wait_until(page, lambda: stored(page, "recordings") == stored(page, "audio") == 1)
    wait_until(page, lambda: len(script.requests) == 1)
    script.answers["talk.wav"] = transcript("three four")
    page.reload()
    page.click(".item.done .open")
    assert words(page) == ["three", "four"]


def test_files_are_dropped_anywhere(page, script):
    script.answers["dropped.wav"] = transcript("dropped in")
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.wav"));
            for (const kind of ["dragenter", "drop"]) {
                document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true}));
            }
        }""",
        list(sound(0.5)),
    )
    page.wait_for_selector("#document:not([hidden])")
    assert words(page) == ["dropped", "in"]


def test_names_and_texts_are_never_markup(page, script):
    name = "<img src=x onerror=hurt=1>.wav"
    open_text(page, script, transcript("<script>hurt=1</script> <b>bold</b>"), name)
    correct(page, "<b>bold</b>", "<i/onclick=hurt=1>")
    page.click("#download summary")
    page.click("#back")
    page.wait_for_selector(".item .name")
    assert page.inner_text(".item .name") == name
    assert "<script>hurt=1</script> <i/onclick=hurt=1>" in page.inner_text(".item .about")
    assert page.locator("main img, main script, main b, main i").count() == 0
    assert page.evaluate("typeof hurt") == "undefined"


def test_an_unreliable_text_has_a_notice(page, script):
    open_text(page, script, transcript("mill foot on so", reliable=False, reliability=0.01))
    assert page.inner_text("#unreliable").startswith("This text may have little to do with what was said")


def test_a_reliable_text_has_none(page, script):
    open_text(page, script, transcript("good morning"))
    assert page.is_hidden("#unreliable")


def test_a_recording_without_speech_says_so(page, script):
    open_text(page, script, transcript("") | {"duration": 3.0})
    assert page.inner_text("#doc-notice") == "No speech was recognised in this recording."


# Playback


def test_a_click_on_a_word_seeks(page, script):
    open_text(page, script, transcript("one two three four"))
    page.click(".word:text-is('three')")
    assert position(page) == 1.0
    assert page.text_content(".word.lit") == "three"


def test_words_are_lit_while_they_are_played(page, script):
    open_text(page, script, transcript("one two three four", seconds=1.0))
    page.evaluate(
        """() => {
            window.seen = [document.querySelector(".word.lit").textContent];
            new MutationObserver(() => {
                const lit = document.querySelector(".word.lit")?.textContent;
                if (lit && lit !== seen.at(-1)) seen.push(lit);
            }).observe(document.getElementById("transcript"), {subtree: true, attributes: true});
        }"""
    )
    page.click("#play")
    wait_true(page, "seen.includes('four')")
    seen = page.evaluate("seen")
    assert seen == [word for word in ("one", "two", "three", "four") if word in seen]  # a busy browser may miss one
    assert len(seen) > 2


def test_the_waveform_is_a_slider_for_mouse_and_keys(page, script):
    open_text(page, script, transcript("one two three four five six"))
    page.focus("#waveform")
    page.keyboard.press("End")
    assert position(page) == 3.0
    page.keyboard.press("ArrowLeft")
    assert position(page) == 2.0
    box = page.locator("#waveform").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 10)
    assert position(page) == pytest.approx(1.5, abs=0.05)


def test_what_the_browser_cannot_play_is_decoded_by_the_server(browser, address, script):
    script.answers["talk.au"] = transcript("one two three four")
    with opened(browser, address, faults=True) as page:
        upload(page, named("talk.au", sound(form="AU")))
        page.click("#play")  # at once: it begins when the sound is there
        wait_true(page, "Number(document.getElementById('waveform').getAttribute('aria-valuenow')) > 0.2")


def test_the_waveform_shows_the_peaks_of_the_server(page, script):
    loud = sound(3.0)
    quiet = io.BytesIO()
    samples = np.zeros(3 * RATE_HZ)
    soundfile.write(quiet, samples, RATE_HZ, format="WAV")
    ink = """() => {
        const canvas = document.getElementById("waveform");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return data.filter((value, n) => n % 4 === 3 && value > 128).length;
    }"""
    found = []
    for name, content in (("quiet.wav", quiet.getvalue()), ("loud.wav", loud)):
        with page.expect_response(lambda answer: "/page-data/peaks" in answer.url):
            upload(page, named(name, content))
        page.wait_for_selector(f"#title:text-is('{name}')")
        page.wait_for_selector("#play:not([disabled])")
        if name == "loud.wav":
            wait_until(page, lambda: page.evaluate(ink) > 4 * found[0])
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # it is drawn
        found.append(page.evaluate(ink))
        page.click("#back")
    assert found[1] > 4 * found[0]


# Corrections


def test_a_word_is_corrected_undone_and_done_again_by_keys(page, script):
    open_text(page, script, transcript("one too three"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.type("two and")
    page.keyboard.press("Enter")
    assert words(page) == ["one", "two", "and", "three"]
    page.keyboard.press("Control+z")
    assert words(page) == ["one", "too", "three"]
    page.keyboard.press("Control+Shift+z")
    assert words(page) == ["one", "two", "and", "three"]


def test_escape_leaves_a_word_as_it_was(page, script):
    open_text(page, script, transcript("one too three"))
    page.dblclick(".word:text-is('too')")
    page.keyboard.type("nonsense")
    page.keyboard.press("Escape")
    assert words(page) == ["one", "too", "three"]
    assert page.is_disabled("#undo")


def test_the_tabulator_goes_from_word_to_word(page, script):
    open_text(page, script, transcript("wun too three"))
    page.keyboard.press("Enter")
    page.keyboard.type("one")
    page.keyboard.press("Tab")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    assert words(page) == ["one", "two", "three"]


def test_the_tabulator_leaves_the_text_at_its_end(page, script):
    open_text(page, script, transcript("one too"))
    page.dblclick(".word:text-is('too')")
    page.keyboard.type("two")
    page.keyboard.press("Tab")
    assert words(page) == ["one", "two"]
    assert page.locator("input.correction").count() == 0


def test_an_emptied_word_is_deleted(page, script):
    open_text(page, script, transcript("one uh three"))
    page.dblclick(".word:text-is('uh')")
    page.keyboard.press("Delete")
    page.keyboard.press("Enter")
    assert words(page) == ["one", "three"]


def test_playback_pauses_while_somebody_types_and_goes_on(page, script):
    open_text(page, script, transcript("one two" + " and" * 30))  # it must not end before the word is corrected
    page.select_option("#rate", "0.5")
    page.click("#play")
    page.wait_for_selector("#play[aria-label=Pause]")
    page.dblclick(".word:text-is('two')")
    page.wait_for_selector("#play[aria-label=Play]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#play[aria-label=Pause]")


def test_a_correction_is_offered_for_all_other_places(page, script):
    open_text(page, script, transcript("Ana met ana, and Ana's dog | ana slept"))
    correct(page, "Ana", "Anna")
    page.click(".toast >> text=Replace everywhere")
    assert words(page) == ["Anna", "met", "Anna,", "and", "Ana's", "dog", "Anna", "slept"]
    page.click(".toast >> text=Undo")
    assert words(page) == ["Anna", "met", "ana,", "and", "Ana's", "dog", "ana", "slept"]


def test_phrases_are_replaced_everywhere_by_the_dialog(page, script):
    open_text(page, script, transcript("new york is not new, York is | New York"))
    page.keyboard.press("e")
    page.fill("#replace-from", "new york")
    assert page.inner_text("#replace-count") == "3 places"
    page.fill("#replace-to", "Newark")
    page.keyboard.press("Enter")
    page.wait_for_selector(".word:text-is('Newark')")  # a dialog closes in a task of its own
    assert words(page) == ["Newark", "is", "not", "Newark", "is", "Newark"]


def test_corrections_are_there_after_a_reload(page, script):
    open_text(page, script, transcript("one too three"))
    correct(page, "too", "two")
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#document:not([hidden])")
    assert words(page) == ["one", "two", "three"]
    page.wait_for_selector("#play:not([disabled])")
    assert page.get_attribute(".word:text-is('two')", "title") == "Recognised: too"


def test_a_correction_just_before_leaving_is_kept(page, script):
    open_text(page, script, transcript("one too three"))
    correct(page, "too", "two")
    page.reload()  # at once, before the delay of saving is over
    page.wait_for_selector("#document:not([hidden])")
    assert words(page) == ["one", "two", "three"]


def test_another_tab_shows_what_was_saved(page, script):
    open_text(page, script, transcript("one too three"))
    wait_saved_or_new = page.context.new_page()
    wait_saved_or_new.goto(page.url)
    wait_saved_or_new.wait_for_selector("#document:not([hidden])")
    correct(page, "too", "two")
    wait_saved_or_new.wait_for_selector(".word:text-is('two')")


def test_a_deleted_recording_can_be_had_back(page, script):
    open_text(page, script, transcript("one two"))
    page.click("#back")
    page.click(".item [aria-label^=Delete]")
    assert page.locator(".item").count() == 0
    page.click(".toast >> text=Undo")
    assert page.locator(".item .name").all_inner_texts() == ["talk.wav"]
    page.reload()
    page.wait_for_selector(".item.done")


def test_a_deleted_recording_stays_away_when_the_page_is_left_at_once(page, script):
    for name in ("stays.wav", "goes.wav"):
        open_text(page, script, transcript("one two"), name)
        page.click("#back")
    page.click(".item [aria-label='Delete: goes.wav']")
    page.reload()
    page.wait_for_selector(".item.done")  # the list comes as a whole
    assert page.locator(".item .name").all_inner_texts() == ["stays.wav"]


# Doubt


def test_a_key_for_the_next_doubt_explains_why_there_is_none(page, script):
    open_text(page, script, transcript("one two"))
    page.keyboard.press("d")
    page.wait_for_selector(".toast:has-text('No word is in doubt.')")
    page.keyboard.press("u")
    page.keyboard.press("d")
    page.wait_for_selector(".toast:has-text('Doubt is off. U switches it on.')")


DOUBTS = transcript("a b c d e f", [0.9, 0.5, 0.95, 0.2, 0.9, 0.69])


def underlined(page: Any) -> list[str]:
    return page.evaluate(
        """() => [...document.querySelectorAll(".word")].filter(
            (word) => ["dotted", "wavy"].includes(getComputedStyle(word).textDecorationStyle)
        ).map((word) => word.textContent)"""
    )


def test_doubtful_words_are_underlined_and_can_be_walked_through(page, script):
    open_text(page, script, DOUBTS)
    assert underlined(page) == ["b", "d", "f"]
    seen = []
    for _ in range(4):
        page.keyboard.press("d")
        seen.append(page.text_content(".word.current"))
    assert seen == ["b", "d", "f", "b"]
    page.keyboard.press("Shift+d")
    assert page.text_content(".word.current") == "f"


def test_a_word_that_is_right_is_no_longer_in_doubt(page, script):
    open_text(page, script, DOUBTS)
    page.keyboard.press("d")
    page.keyboard.press("y")
    assert underlined(page) == ["d", "f"]
    assert page.text_content(".word.current") == "d"


def test_doubt_can_be_switched_off_for_good(page, script):
    open_text(page, script, DOUBTS)
    page.keyboard.press("u")
    assert underlined(page) == []
    page.reload()
    page.wait_for_selector("#document:not([hidden])")
    assert underlined(page) == []


def test_confidences_that_are_not_calibrated_are_not_shown_unless_asked_for(page, script):
    page.select_option("#model", "plain")
    open_text(page, script, DOUBTS)
    assert script.requests == [("talk.wav", "plain")]
    assert underlined(page) == []
    assert "not calibrated" in page.get_attribute("#doubt-label", "title")


# Search


def test_search_finds_phrases_across_words_and_case(page, script):
    open_text(page, script, transcript("The cat saw the other cat | and the cats left"))
    page.keyboard.press("/")
    page.keyboard.type("the CAT")
    assert page.locator(".word.found").all_text_contents() == ["The", "cat", "the", "cats"]
    assert page.inner_text("#found") == "1 of 2"
    page.keyboard.press("Enter")
    assert page.inner_text("#found") == "2 of 2"
    assert position(page) == 4.5
    page.keyboard.press("Escape")
    assert page.locator(".word.found").count() == 0


# Downloads


LONG = (
    "Wherever the <road> may lead & whatever we say, nobody here shall stop us now | and so on until the very end. | "
    'He said "quote" and left'
)


@pytest.mark.parametrize("name", ["srt", "vtt", "textgrid"])
def test_downloads_are_the_files_that_the_command_line_writes(page, script, tmp_path, name):
    open_text(page, script, transcript(LONG, seconds=0.37))
    label = {"srt": "SRT", "vtt": "VTT", "textgrid": "TextGrid"}[name]
    [expected] = read_transcript_json(downloaded(page, "JSON", tmp_path).read_text(encoding="utf-8"), "talk")
    path = downloaded(page, label, tmp_path)
    assert path.suffix == FORMATS[name].suffix
    assert path.read_text(encoding="utf-8") == FORMATS[name].write(expected)


def test_the_downloaded_text_has_the_corrections_and_a_line_for_each_paragraph(page, script, tmp_path):
    open_text(page, script, transcript("one too | three"))
    correct(page, "too", "two")
    assert downloaded(page, "Text", tmp_path).read_text() == "one two\nthree\n"


def test_the_downloaded_json_is_a_transcript_of_the_package(page, script, tmp_path):
    open_text(page, script, transcript("one too", [0.5, 0.25], reliability=0.75))
    correct(page, "too", "two")
    tree = json.loads(downloaded(page, "JSON", tmp_path).read_text())
    assert (tree["format"], tree["source"], tree["text"], tree["reliability"]) == (3, "talk.wav", "one two", 0.75)
    assert tree["words"][0] == {"text": "one", "start_s": 0, "end_s": 0.5, "confidence": 0.5}


def test_corrections_become_a_manifest_and_flac_files(page, script, tmp_path):
    script.answers["my talk.wav"] = transcript("one too | three | four")
    content = sound(4.5, seed=3)
    upload(page, named("my talk.wav", content))
    page.wait_for_selector("#document:not([hidden])")
    correct(page, "too", "two")
    page.click(".part:has-text('four') .tick")
    with zipfile.ZipFile(downloaded(page, "Corrections", tmp_path)) as found:
        found.extractall(tmp_path / "zip")
    utterances = read_manifest(tmp_path / "zip" / "manifest.jsonl", root=tmp_path / "zip")
    assert [u.text for u in utterances] == ["one two", "four"]
    whole = load_audio(io.BytesIO(content))
    start, end = 0, round(1.3 * RATE_HZ)  # to 0.3 s behind the last word
    np.testing.assert_allclose(load_audio(utterances[0].audio), whole[start:end], atol=2 / 32768)


WRITTEN = transcript("HE PAID TWENTY FIVE DOLLARS MISTER SMITH | THANK YOU", seconds=0.3)
WRITTEN["asr"]["written_words"] = [
    {"text": text, "start_s": start_s, "end_s": end_s, "confidence": 0.9}
    for text, start_s, end_s in [("He", 0.0, 0.3), ("paid", 0.3, 0.6), ("$25,", 0.6, 1.5), ("Mr.", 1.5, 1.8)]
    + [("Smith.", 1.8, 2.1), ("Thank", 3.1, 3.4), ("you.", 3.4, 3.7)]
]


def test_written_form_comes_first_and_spoken_form_is_a_key_away(page, script):
    open_text(page, script, WRITTEN)
    assert words(page) == ["He", "paid", "$25,", "Mr.", "Smith.", "Thank", "you."]
    page.keyboard.press("w")
    assert words(page) == "HE PAID TWENTY FIVE DOLLARS MISTER SMITH THANK YOU".split()
    page.keyboard.press("w")
    assert words(page)[:3] == ["He", "paid", "$25,"]


def test_corrections_of_one_form_are_there_when_it_comes_back(page, script):
    open_text(page, script, WRITTEN)
    correct(page, "Smith.", "Smyth.")
    page.keyboard.press("w")
    assert words(page)[6] == "SMITH"
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#document:not([hidden])")
    page.keyboard.press("w")
    assert words(page)[4] == "Smyth."


def test_what_is_trained_on_is_what_was_said_and_not_what_is_written(page, script, tmp_path):
    open_text(page, script, WRITTEN)
    correct(page, "Smith.", "Smyth.")
    with zipfile.ZipFile(downloaded(page, "Corrections", tmp_path)) as found:
        [line] = found.read("manifest.jsonl").splitlines()
    assert json.loads(line)["text"] == "HE PAID TWENTY FIVE DOLLARS MISTER SMYTH"


def test_corrections_of_all_recordings_come_as_one_zip(page, script, tmp_path):
    upload(page, named("a.wav"), named("b.wav"))
    page.wait_for_selector(".item.done >> nth=1")
    for name in ("a.wav", "b.wav"):
        page.click(f".item .open:has-text('{name}')")
        page.keyboard.press("c")
        wait_saved(page)
        page.click("#back")
    with page.expect_download() as waiting:
        page.click("#zip-all")
    with zipfile.ZipFile(waiting.value.path()) as found:
        ids = [json.loads(line)["id"] for line in found.read("manifest.jsonl").splitlines()]
    assert ids == ["a-001", "b-001"]


def test_an_utterance_that_has_no_spoken_form_is_named(page, script, tmp_path):
    open_text(page, script, transcript("one | two"))
    page.keyboard.press("c")
    correct(page, "two", "www.example.org")
    downloaded(page, "Corrections", tmp_path)
    page.wait_for_selector(".toast:has-text('1 utterance is left out')")


# Keys


def test_every_key_is_in_the_help(page, script):
    page.keyboard.press("?")
    shown = page.locator("#keys dd").all_inner_texts()
    main = (Path(__file__).parents[2] / "asr" / "server" / "page" / "main.js").read_text(encoding="utf-8")
    assert shown == re.findall(r'does: "(.*?)"', main)
    assert page.is_visible("#help")


def test_single_letter_keys_can_be_switched_off(page, script):
    open_text(page, script, DOUBTS)
    page.keyboard.press("?")
    page.click("text=Single-letter keys")
    page.click("#help button[value=close]")
    page.keyboard.press("c")
    assert page.get_attribute(".tick", "aria-pressed") == "false"
    page.keyboard.press(" ")
    page.wait_for_selector("#play[aria-label=Pause]")


def test_letters_in_a_field_are_letters(page, script):
    open_text(page, script, DOUBTS)
    page.keyboard.press("/")
    page.keyboard.type("cudy?")
    assert page.input_value("#search") == "cudy?"
    assert page.is_hidden("#help")
