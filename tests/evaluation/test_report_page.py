"""The page in a browser: nothing in it runs or leaves it, filters find what they say, 10,000 utterances stay usable."""

import itertools
import json
import random
import shutil

import numpy as np
import pytest
from page_browser import wait_true

from asr.evaluation.evaluation_file import parse_evaluation, read_evaluation
from asr.evaluation.report import ReportOptions, write_report
from asr.evaluation.report_page import SCRIPTS, _asset

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[dev]')")
    place = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with api.sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path=place, timeout=300_000)
        except api.Error as error:
            pytest.skip(f"no Chromium on this machine: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """``visit(path, **context)`` opens a page file. Its ``faults``: errors, dialogs, requests of other things."""
    contexts = []

    def visit(path, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(300_000)
        contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (page.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda message: message.type == "error" and page.faults.append(f"console: {message.text}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("data:", "blob:", path.as_uri()))
                or page.faults.append(f"request: {request.url}")
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield visit
    for context in contexts:
        context.close()


def made(count, seed=1, model="first"):
    """An evaluation of ``count`` utterances by a recogniser that makes mistakes."""
    said, mistakes = random.Random(1), random.Random(seed)
    entries = []
    for i in range(count):
        words = [said.choice(("GO", "STOP", "LEFT", "RIGHT", "THE", "A", "ÜBER")) for _ in range(said.randint(1, 12))]
        spoken = [word if mistakes.random() < 0.8 else mistakes.choice(("GO", "NO", "AN")) for word in words]
        spoken = [word for word in spoken if mistakes.random() < 0.95]
        entries.append(
            {"id": f"u{i:05d}", "reference": " ".join(words), "hypothesis": " ".join(spoken),
             "speaker": said.choice(("ann", "Bob B.", 'c"d\\e')), "duration_s": round(0.5 * len(words), 2),
             "snr_db": round(said.uniform(0, 40), 1), "confidence": round(said.random(), 3),
             "hypothesis_words": [{"text": w, "start_s": 0.4 * k, "end_s": 0.4 * k + 0.3, "confidence": 0.5}
                                  for k, w in enumerate(spoken)]}
        )  # fmt: skip
    del entries[3]["duration_s"]
    return parse_evaluation(
        {"format": 2, "model": model, "manifest": "set.jsonl", "utterances": entries, "words_outside_lexicon": ["A"]},
        f"{model}.json",
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A page of 400 utterances with what it was made of."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    evaluation = made(400)
    write_report([evaluation], path)
    return path, evaluation


@pytest.fixture(scope="module")
def shared_page(browser, sample):
    """The page of ``sample``, at its utterances, for tests that leave it as it was."""
    context = browser.new_context()
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.goto(sample[0].as_uri())
    page.keyboard.press("2")
    yield page
    context.close()


@pytest.fixture(scope="module")
def pair_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("pair") / "pair.html"
    write_report([made(300)], path, [made(300, seed=2, model="second")])
    return path


def listed(page):
    """Ids of the utterances in the list, through their details; the number that the page says."""
    return int(page.inner_text("#filter-state").split(" of ")[0].replace(",", ""))


HOSTILE = [
    "<script>window.bad=1</script>", "</script><script>window.bad=1</script>", "<img src=x onerror=window.bad=1>",
    "\"><svg onload=window.bad=1>", "javascript:window.bad=1", "${window.bad=1}", "'-window.bad++-'", "{{7*7}}",
    "<!--<script>", "\u2028window.bad=1//", "\u202etxet", "&lt;b&gt;",
]  # fmt: skip


def test_no_script_runs_from_texts_ids_speakers_or_paths(visit, tmp_path):
    entries = [
        {"id": text, "reference": text, "hypothesis": f"{text} x", "speaker": text, "audio": text, "corpus": text,
         "hypothesis_words": [{"text": text, "start_s": 0, "end_s": 1, "confidence": 1}], "start_s": 0.5}
        for text in HOSTILE
    ]  # fmt: skip
    tree = {
        "format": 2, "utterances": entries, "model": HOSTILE[0], "manifest": HOSTILE[1],
        "failures": {HOSTILE[2]: HOSTILE[0]}, "decoding": {HOSTILE[2]: HOSTILE[1]}, "words_outside_lexicon": HOSTILE,
    }  # fmt: skip
    evaluation = parse_evaluation(tree, HOSTILE[0])
    write_report(
        [evaluation], tmp_path / "p.html", [evaluation], ReportOptions(title=HOSTILE[1], embedded=0, model="none")
    )
    page = visit(tmp_path / "p.html")
    assert page.inner_text("#title") == HOSTILE[1]
    shown = set()
    for key in "1342":
        page.keyboard.press(key)
    for _ in HOSTILE:
        page.wait_for_timeout(20)
        shown.add(page.text_content("#detail h2"))
        page.keyboard.press("j")
    assert shown == set(HOSTILE)
    assert page.evaluate("window.bad") is None
    assert page.evaluate("document.querySelectorAll('script:not([type]), img, svg').length") == 1  # our own script
    assert [fault for fault in page.faults if not fault.startswith(("request: file:", "console: Failed to load"))] == []


def test_the_policy_stops_a_script_that_got_into_the_page(visit, sample, tmp_path):
    """The second lock: a page that was edited does not run what was put in."""
    text = (
        sample[0].read_text().replace("<main>", "<main><script>window.bad=1</script><img src=x onerror=window.bad=1>")
    )
    (tmp_path / "edited.html").write_text(text)
    page = visit(tmp_path / "edited.html")
    assert page.evaluate("window.bad") is None
    assert any("Content Security Policy" in fault for fault in page.faults)


def test_a_page_asks_for_nothing_and_reports_no_error(visit, sample):
    page = visit(sample[0])
    for key in "1234":
        page.keyboard.press(key)
    assert page.faults == []


def rate(u):
    return 100 * u.errors / max(1, u.words)


def insertions(u):
    return sum(not r for r, _ in u.alignment)


FILTERS = {
    "wer>20 and duration<5": lambda u, d: rate(u) > 20 and d.duration_s is not None and d.duration_s < 5,
    "WER <= 20 OR snr >= 30.5": lambda u, d: rate(u) <= 20 or d.snr_db >= 30.5,
    "not wer>20": lambda u, d: not rate(u) > 20,
    "!(wer>20 && errors=1) snr<20": lambda u, d: not (rate(u) > 20 and u.errors == 1) and d.snr_db < 20,
    "errors=1 or errors=2 and words>8": lambda u, d: u.errors == 1 or (u.errors == 2 and u.words > 8),
    "(errors=1 or errors=2) and words>8": lambda u, d: u.errors in (1, 2) and u.words > 8,
    "del!=0": lambda u, d: any(not h for _, h in u.alignment),
    "ins>=1": lambda u, d: insertions(u) >= 1,
    "sub>2": lambda u, d: sum(bool(r and h and r != h) for r, h in u.alignment) > 2,
    "snr>-5": lambda u, d: True,
    "duration<0 or not duration>=0": lambda u, d: d.duration_s is None,
    'speaker = "bob b."': lambda u, d: u.speaker == "Bob B.",
    r'speaker = "c\"d\\e"': lambda u, d: u.speaker == 'c"d\\e',
    "speaker != ann": lambda u, d: u.speaker != "ann",
    "ref ~ 'left right'": lambda u, d: "LEFT RIGHT" in u.reference,
    "hyp !~ go": lambda u, d: "GO" not in u.hypothesis,
    "word = über": lambda u, d: "ÜBER" in u.reference.split(),
    "missed=the wrong=no": lambda u, d: (
        any(r == "THE" != h for r, h in u.alignment) and any(h == "NO" for _, h in u.alignment)
    ),
    'pair = "STOP>NO"': lambda u, d: ("STOP", "NO") in u.alignment,
    'pair="STOP>"': lambda u, d: ("STOP", "") in u.alignment,
    "outside>1": lambda u, d: u.reference.split().count("A") > 1,
    "u0001": lambda u, d: "u0001" in u.id,
    '"stop left"': lambda u, d: "STOP LEFT" in u.reference or "STOP LEFT" in u.hypothesis,
    "confidence<.5": lambda u, d: d.confidence < 0.5,
    "cer>50": lambda u, d: 100 * u.char_errors / u.characters > 50,
    "": lambda u, d: True,
}


def test_filters_find_what_they_say(visit, sample):
    path, evaluation = sample
    page = visit(path)
    page.keyboard.press("2")
    for text, passes in FILTERS.items():
        page.fill("#filter", text)
        page.press("#filter", "Enter")
        expected = [u for u in evaluation.report.utterances if passes(u, evaluation.details[u.id])]
        state = page.inner_text("#filter-state")
        assert listed(page) == len(expected), f"{text}: {state}"
        if expected:
            errors, words = sum(u.errors for u in expected), sum(u.words for u in expected)
            assert f"WER {100 * errors / words:.2f} %" in state, text
    assert page.faults == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wer>", "At character 5: expected a value after >"),
        ("wer > high", "At character 7: wer: expected a number, got high"),
        ("wre > 20", "At character 1: no such field: wre. Known: wer"),
        ("wer", "expected a comparison after wer, such as wer > 20"),
        ("(wer>20", "At character 8: expected )"),
        ("wer>20)", "At character 7: expected and, or, or the end, got )"),
        ("wer>20 and", "At character 11: expected a condition"),
        ("and", "At character 1: expected a condition, got and"),
        ("speaker > ann", "speaker is a text: expected = != ~"),
        ("wer ~ 2", "wer is a number: expected < <= > >= = or !="),
        ("constructor = 1", "no such field: constructor"),
        ("__proto__ > 1", "no such field: __proto__"),
        ('id = "open', "cannot read"),
        ("(" * 3000 + "wer>1", "too many parentheses"),
        ("! " * 3000 + "wer>1", "too many parentheses"),
        ("window.bad=1", "no such field: window.bad"),
        ("alert(1)", None),
    ],
)
def test_a_faulty_filter_is_explained_and_changes_nothing(shared_page, text, message):
    page = shared_page
    page.fill("#filter", text)
    page.press("#filter", "Enter")
    state = page.inner_text("#filter-state")
    if message is None:  # two texts to look for
        assert state.startswith("0 of 400")
        assert page.evaluate("window.bad") is None
        return
    assert message in state
    assert page.get_attribute("#filter", "aria-invalid") == "true"
    page.fill("#filter", "")
    page.press("#filter", "Enter")
    assert listed(page) == 400


def test_the_filter_is_never_run_as_code():
    sources = "".join(map(_asset, SCRIPTS))
    assert not [word for word in ("eval(", "Function(", "innerHTML", "outerHTML", "insertAdjacent", "document.write",
                                  "setTimeout(\"", "setTimeout('") if word in sources]  # fmt: skip


def test_a_group_opens_its_utterances(visit, sample):
    path, _ = sample
    page = visit(path)
    for table in json.loads(page.text_content("#data"))["groups"]:
        for row in table["rows"]:
            page.keyboard.press("1")
            page.locator(".panel", has=page.get_by_role("heading", name=table["title"])).get_by_role(
                "button", name=row["name"], exact=True
            ).click()
            assert listed(page) == row["utterances"], row["name"]


def test_ten_thousand_utterances_draw_only_those_in_sight(visit, tmp_path):
    evaluation = made(10_000)
    write_report([evaluation], tmp_path / "p.html")
    page = visit(tmp_path / "p.html")
    page.keyboard.press("2")
    assert listed(page) == 10_000
    assert page.evaluate("document.querySelectorAll('#utterance-list .row').length") < 60
    page.focus("#utterance-list .scroll")
    page.keyboard.press("End")
    page.wait_for_selector("#utterance-list [aria-posinset='10000'][aria-selected='true']")
    assert page.evaluate("document.querySelectorAll('#utterance-list .row').length") < 60
    page.fill("#filter", "u09999")
    page.press("#filter", "Enter")
    assert listed(page) == 1
    assert page.text_content("#detail h2") == "u09999"


def test_sorting_by_a_column(visit, sample):
    path, evaluation = sample
    page = visit(path)
    page.keyboard.press("2")
    page.click("#utterance-list .sort:text-is('s')")
    page.keyboard.press("k")
    page.focus("#utterance-list .scroll")
    page.keyboard.press("Home")
    longest = max(d.duration_s for d in evaluation.details.values() if d.duration_s)
    assert f"{longest:.2f} s" in page.inner_text("#detail .figures")
    page.keyboard.press("End")  # what is not known comes last, in both directions
    assert page.text_content("#detail h2") == "u00003"


def test_the_alignment_marks_each_error(visit, sample):
    path, evaluation = sample
    page = visit(path)
    page.keyboard.press("2")
    page.fill("#filter", "del>0 and ins=0 and sub>0")
    page.press("#filter", "Enter")
    name = page.text_content("#detail h2")
    (scored,) = (u for u in evaluation.report.utterances if u.id == name)
    cells = page.evaluate(
        "[...document.querySelectorAll('#detail .word-item')].map((x) => ['said', 'heard', 'mark'].map("
        "(part) => x.querySelector('.' + part).textContent))"
    )
    expected = [
        [r or "∗", h or "∗", "" if r == h else "D" if not h else "I" if not r else "S"] for r, h in scored.alignment
    ]
    assert cells == expected


def test_two_evaluations_stand_side_by_side(visit, pair_page):
    page = visit(pair_page)
    data = json.loads(page.text_content("#data"))
    text = page.inner_text("#overview")
    for p_value in (data["comparison"]["p"], data["comparison"]["pairs"]["p_value"]):
        assert (f"p = {p_value:.4f}" if p_value >= 0.0001 else "p < 0.0001") in text
    page.click("text=Where B is worse")
    assert listed(page) == data["comparison"]["worse"]
    assert len(page.query_selector_all("#detail .aligned")) == 2
    page.fill("#filter", "wer2<wer")
    page.press("#filter", "Enter")
    assert "expected a number" in page.inner_text("#filter-state")


def test_keys_move_and_open(visit, sample):
    page = visit(sample[0])
    page.keyboard.press("j")
    first = page.text_content("#detail h2")
    page.keyboard.press("j")
    second = page.text_content("#detail h2")
    page.keyboard.press("k")
    assert (page.text_content("#detail h2"), first != second) == (first, True)
    page.keyboard.press("/")
    page.keyboard.type("2jk")  # into the filter: no key of the page
    assert page.input_value("#filter") == "2jk"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    page.focus("#words .scroll")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.is_visible("#utterances")
    assert page.input_value("#filter").startswith("word = ")


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_mode_follows_the_system_and_the_button(visit, sample):
    light, dark = (background(visit(sample[0], color_scheme=scheme)) for scheme in ("light", "dark"))
    assert light != dark
    page = visit(sample[0], color_scheme="light")
    page.click("#theme")  # auto -> light
    assert background(page) == light
    page.click("#theme")
    assert background(page) == dark


def test_nothing_is_wider_than_a_narrow_screen(visit, sample):
    page = visit(sample[0], viewport={"width": 360, "height": 700})
    for key in "1234":
        page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, key


def test_no_two_labels_of_an_axis_touch_on_a_narrow_screen(visit, sample):
    page = visit(sample[0], viewport={"width": 360, "height": 700})
    axes = page.evaluate(
        "[...document.querySelectorAll('.axis')].map((axis) => [...axis.children].map((label) => "
        "label.getBoundingClientRect()).filter((box) => box.width).map((box) => [box.left, box.right]))"
    )
    assert axes
    assert all(first[1] < second[0] for boxes in axes for first, second in itertools.pairwise(boxes))


def test_sound_plays_and_posteriors_are_drawn(visit, tmp_path, bursts, write_wav, model_dir):
    write_wav(tmp_path / "a.wav", bursts(2.0))
    entry = {
        "id": "a", "reference": "A", "hypothesis": "B", "audio": str(tmp_path / "a.wav"), "duration_s": 2.0,
        "hypothesis_words": [{"text": "B", "start_s": 0.5, "end_s": 1.0, "confidence": 0.5}],
    }  # fmt: skip
    tree = {"format": 2, "model": str(model_dir), "utterances": [entry]}
    (tmp_path / "e.json").write_text(json.dumps(tree))
    write_report([read_evaluation(tmp_path / "e.json")], tmp_path / "p.html")
    page = visit(tmp_path / "p.html")
    page.keyboard.press("2")
    wait_true(page, "document.querySelector('audio').duration > 0")
    assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(2.0, abs=0.05)
    wait_true(page, "document.querySelector('canvas').width > 300")
    drawn = page.evaluate(
        "(() => { const c = document.querySelector('canvas');"
        " return [...c.getContext('2d').getImageData(0, 20, c.width, c.height - 20).data]; })()"
    )
    assert len({tuple(drawn[i : i + 4]) for i in range(0, len(drawn), 4)}) > 20
    page.click("#detail button.word")
    wait_true(page, "document.querySelector('audio').currentTime >= 0.5")
    assert page.faults == []
    assert np.isfinite(page.evaluate("document.querySelector('audio').currentTime"))
