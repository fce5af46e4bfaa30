"""The page in Chromium for everybody: axe-core's rules in light and dark, narrow phones, the keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from page_browser import PHONE, SAMPLE, axe_findings, axe_script, opened, upload, wait_true, wait_until, words
from scripted_server import Script, ScriptedServer, transcript

LONG = transcript(
    "Good morning and welcome to the weekly meeting. | Before we begin, thank you for the work on the release | "
    "and for Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnungsentwurf as well",
    [0.9, 0.5, 0.3] * 7 + [0.9] * 3,
)


@pytest.fixture(autouse=True)
def script(server: ScriptedServer) -> Script:
    server.script = Script(answers={"sample.wav": LONG | {"asr": LONG["asr"] | {"reliable": False}}})
    server.script.replies = [
        {"text": "good morning", "result": [{"word": "good", "start": 0, "end": 1, "conf": 0.9}]},
        {"partial": "before we begin", "stable": 6},
    ]
    server.script.answers["bad.wav"] = {"status": 400, "error": {"message": "bad.wav: expected audio, got none"}}
    return server.script


def home(page: Any) -> None:
    pass


def with_list(page: Any) -> None:
    sound = SAMPLE.read_bytes()
    upload(page, *({"name": name, "mimeType": "audio/wav", "buffer": sound} for name in ("sample.wav", "bad.wav")))
    page.wait_for_selector(".item.done")
    page.wait_for_selector(".item.failed")


def wait_still(page: Any) -> None:
    """Wait for the end of all movements but the endless ones."""
    moving = "animation.playState === 'running' && animation.effect.getTiming().iterations !== Infinity"
    wait_true(page, f"!document.getAnimations().some((animation) => {moving})")


def live(page: Any) -> None:
    page.click("#record")
    page.wait_for_selector("#live-open:not(:empty)")
    wait_still(page)  # a new line of text fades in


def document(page: Any) -> None:
    upload(page, SAMPLE)
    page.wait_for_selector("#play:not([disabled])")
    page.click(".word:text-is('morning')")
    page.fill("#search", "the")


def editing(page: Any) -> None:
    document(page)
    page.dblclick(".word:text-is('weekly')")


def menu(page: Any) -> None:
    document(page)
    page.click("#download summary")


def after_correction(page: Any) -> None:
    document(page)
    page.dblclick(".word:text-is('the') >> nth=0")
    page.keyboard.type("a")
    page.keyboard.press("Enter")
    page.wait_for_selector(".toast")


def replacing(page: Any) -> None:
    document(page)
    page.click("#replace-button")


def helping(page: Any) -> None:
    page.click("#help-button")


VIEWS: list[Callable[[Any], None]] = [
    home, with_list, live, document, editing, menu, after_correction, replacing, helping,
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_in_light_and_dark(browser, address, view):
    script = axe_script()
    with opened(browser, address, faults=True, bypass_csp=True) as page:
        view(page)
        page.add_script_tag(path=script)
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            wait_still(page)  # colours of switches fade
            assert axe_findings(page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_narrow_phone(browser, address, view):
    with opened(browser, address, faults=True, viewport=PHONE, has_touch=True) as page:
        view(page)
        wide = page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((element) => {
                const box = element.getBoundingClientRect();
                return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5)
                    && !element.closest(".unseen, .skip, .symbols, svg");
            }).map((element) => element.outerHTML.slice(0, 100))"""
        )
        assert wide == []
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_chosen_against_the_system(browser, address, theme):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, address, color_scheme=theme) as page:
        system = page.evaluate(ground)
    other = "dark" if theme == "light" else "light"
    with opened(browser, address, color_scheme=other) as page:
        for _ in range(1 if theme == "light" else 2):
            page.keyboard.press("t")
        assert page.evaluate(ground) == system
        page.reload()
        assert page.evaluate(ground) == system


def test_from_file_to_correction_without_a_mouse(browser, address):
    with opened(browser, address) as page:
        choosers: list[Any] = []
        page.on("filechooser", lambda chooser: choosers.append(chooser))

        def asked() -> bool:
            page.keyboard.press("o")  # again, since Chromium gives no sign of when it passes choosers on
            return bool(choosers)

        wait_until(page, asked)
        choosers[0].set_files(SAMPLE)
        page.wait_for_selector("#play:not([disabled])")
        page.keyboard.press("d")
        page.keyboard.press("Enter")
        page.keyboard.type("evening")
        page.keyboard.press("Enter")
        assert words(page)[:3] == ["Good", "evening", "and"]
        page.keyboard.press("Escape")
        page.wait_for_selector("#home:not([hidden])")


def test_every_control_is_reached_by_the_tabulator_and_shows_it(browser, address):
    with opened(browser, address) as page:
        document(page)
        page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none" or page.evaluate("document.activeElement === document.body"), reached
        assert {"back", "waveform", "play", "rate", "edit", "replace-button", "doubt", "search"} <= reached
        assert any("word" in name for name in reached)
