"""``egs/browser``: the page in headless Chromium, with a recording as its microphone."""

import contextlib
import difflib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import SmallModel

import asr
from asr.audio import read
from asr.config.sections import TextConfig
from asr.decode import greedy, score_phrases
from asr.decode.phrase_search import Phrase
from asr.export.acoustic_graphs import streaming_graph
from asr.export.onnx_folder import export_onnx
from asr.text.bpe import BpeTokenizer

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "egs" / "browser"
SAMPLE = ROOT / "egs" / "sample.wav"
TEXT = "ENTER FOUR FIVE NINE TWO"
TIMEOUT_MS = 240_000
"""A limit for a machine on which much else runs; pages are waited for by what they show."""
sys.path.insert(0, str(EXAMPLE))

playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by the package playwright")
prepare = pytest.importorskip("prepare")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The npm package onnxruntime-web."""
    if given := os.environ.get("ONNXRUNTIME_WEB"):
        return Path(given)
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed; it gets onnxruntime-web (or set ONNXRUNTIME_WEB to the package's folder)")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", prepare.PACKAGE]
    try:
        subprocess.run(command, capture_output=True, timeout=600, check=True)
    except subprocess.SubprocessError as error:
        pytest.skip(f"npm could not get {prepare.PACKAGE}: {error}")
    return folder / "node_modules" / "onnxruntime-web"


class Server:
    """Sends a folder's files; ``stop`` takes the network away."""

    def __init__(self, folder):
        quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
        handler = functools.partial(quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.folder = Path(folder)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The bundled streaming model as graphs: float32 computing, and int8."""
    folder = tmp_path_factory.mktemp("exports")
    export_onnx("stream", folder / "stream")
    export_onnx("stream", folder / "int8", int8=True)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory, runtime, exported):
    folder = tmp_path_factory.mktemp("site")
    prepare.make_site(folder, exported / "stream" / "streaming.onnx", runtime, "stream")
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def chromium():
    """Starts a browser whose microphone is the sample, once, and then silence."""
    with playwright.sync_playwright() as driver:
        path = shutil.which("chromium") or shutil.which("google-chrome") or driver.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("no Chromium; playwright install chromium gets one")
        microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        microphone.append(f"--use-file-for-fake-audio-capture={SAMPLE}%noloop")
        browser = driver.chromium.launch(executable_path=path, args=[*microphone, "--no-sandbox"], timeout=300_000)
        yield browser
        browser.close()


READY = "#button:not([disabled])"


@contextlib.contextmanager
def opened(chromium, url, ready=READY):
    """A page in a context of its own, when ``ready`` is there; errors of its scripts fail the test."""
    context = chromium.new_context(permissions=["microphone"])
    context.set_default_timeout(TIMEOUT_MS)
    faults = []
    try:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url, wait_until="commit")
        page.wait_for_selector(ready)
        yield page
    finally:
        context.close()
    assert faults == []


@contextlib.contextmanager
def served(chromium, folder):
    """The page of a site of its own."""
    server = Server(folder)
    try:
        with opened(chromium, server.url) as page:
            yield page
    finally:
        server.stop()


@pytest.fixture(scope="module")
def page(chromium, site):
    """One page for all tests that change nothing on it: to load the model takes most of their time."""
    with opened(chromium, site.url) as page:
        yield page


def listen(page):
    """Press the button, wait until what the recording says is final, press again; returns the utterances."""
    before = page.locator("#final li").count()
    page.click("#button")
    page.wait_for_selector("body[data-listening=true]")
    ended = "(before) => document.querySelectorAll('#final li').length > before"
    with contextlib.suppress(playwright.TimeoutError):  # where too much of the sound was lost
        page.wait_for_function(ended, arg=before, timeout=30_000)
    page.click("#button")
    page.wait_for_selector("body[data-listening=false]")
    return page.locator("#final li").all_inner_texts()[before:]


def resembles(texts):
    """Whether one text came that is nearly the sample's: a busy machine loses some of the microphone's samples."""
    return len(texts) == 1 and difflib.SequenceMatcher(None, texts[0], TEXT).ratio() > 0.85


def test_the_microphone_is_transcribed_on_the_device(chromium, site):
    with opened(chromium, site.url) as page:
        assert any(resembles(listen(page)) for _ in range(5))


RECOGNISE = """
([samples, phrases]) => new Promise((resolve, reject) => {
  const worker = new Worker("worker.js", { type: "module" });
  const finals = [];
  worker.onmessage = ({ data }) => {
    if (data.kind === "ready") {
      worker.postMessage({ kind: "begin", rate: 16000, phrases });
      for (let at = 0; at < samples.length; at += 2048) {
        worker.postMessage({ kind: "samples", samples: Float32Array.from(samples.slice(at, at + 2048)) });
      }
      worker.postMessage({ kind: "end" });
    } else if (data.kind === "update") finals.push(...data.final);
    else if (data.kind === "ended") resolve(finals);
    else if (data.kind === "failed") reject(new Error(data.message));
  };
  worker.postMessage({ kind: "load" });
})
"""


def said_twice():
    """The sample twice, with a pause behind each."""
    return np.tile(np.pad(read.load_audio(str(SAMPLE), 16000), (0, 24000)), 2)


def recognised(page, phrases=()):
    """The utterances of the sample, said twice, through the page's worker."""
    symbols = asr.load("stream", device="cpu").model.tokenizer.symbols
    listed = [{"text": text, "tokens": [symbols.index(c.upper()) for c in text]} for text in phrases]
    return page.evaluate(RECOGNISE, [said_twice().tolist(), listed])


def test_utterances_are_those_of_a_stream_in_python(page):
    live = asr.load("stream", device="cpu", beam=1).stream(endpoint=asr.Endpoint())
    expected = [utterance.text for utterance in live.accept(said_twice()).final]
    assert recognised(page) == expected
    assert len(expected) == 2


def test_phrases_are_listened_for(page):
    phrases = ("enter four five nine two", "erase one", "stop")
    assert recognised(page, phrases) == [phrases[0]] * 2


def test_utterances_that_are_none_of_the_phrases_give_nothing(page):
    assert recognised(page, ("repeat", "stop")) == []


def test_a_phrase_that_the_model_cannot_spell_is_named(chromium, site):
    with opened(chromium, site.url) as page:
        page.fill("#phrases", "stop\n42")
        page.click("#button")
        page.wait_for_function("document.getElementById('status').textContent.includes('cannot spell')")
        assert "42" in page.inner_text("#status")


SPELL = """
async ([texts, symbols, kind]) => {
  const { spell } = await import(new URL("decoding.js", location).href);
  return texts.map((text) => spell(text, symbols, kind));
}
"""


@pytest.fixture(scope="module")
def pieces():
    """A tokenizer of pieces of words, and texts in its alphabet."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("ABCD"), generator.integers(1, 6))) for _ in range(60)]
    texts = [" ".join(generator.choice(words, generator.integers(1, 5))) for _ in range(200)]
    return BpeTokenizer.from_texts(texts, TextConfig(tokenizer="bpe", bpe_size=60)), texts


def test_phrases_are_spelt_in_pieces_of_words_as_sentencepiece_spells_them(page, pieces):
    tokenizer, texts = pieces
    symbols = [symbol.replace("▁", " ") for symbol in tokenizer.symbols]
    spelt = page.evaluate(SPELL, [[*texts, "A E", "  "], symbols, "bpe"])
    assert spelt == [*(tokenizer.encode(text) for text in texts), None, None]
    assert max(len(symbols[token]) for tokens in spelt[:-2] for token in tokens) > 2


def test_phrases_are_spelt_in_words(page):
    symbols = ["<blank>", " STOP", " GO"]
    assert page.evaluate(SPELL, [["go stop", "Go", "wait"], symbols, "word"]) == [[2, 1], [2], None]


def test_the_size_of_the_model_is_on_the_page(page, exported):
    size = os.path.getsize(exported / "stream" / "streaming.onnx")
    assert f"model {size / 1e6:.1f} MB" in page.inner_text("#status")


def test_the_page_starts_where_its_files_cannot_be_kept(chromium, tmp_path, runtime, exported):
    prepare.make_site(tmp_path, exported / "stream" / "streaming.onnx", runtime, "stream")
    (tmp_path / "style.css").unlink()  # the service worker keeps all files or none
    with served(chromium, tmp_path) as page:
        assert "Needs the network at the next start." in page.inner_text("#status")


def of_tokens(graph, kind, path):
    """The graph as if its tokens were of another kind."""
    model = onnx.load(graph)
    for entry in model.metadata_props:
        if entry.key == "asr.config":
            entry.value = entry.value.replace("tokenizer: char", f"tokenizer: {kind}")
            if kind == "phone":
                entry.value = entry.value.replace("lexicon: ''", "lexicon: words.txt")
        if entry.key == "asr.tokens":
            entry.value = entry.value.replace('"B"', '"▁B"')
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("kind", "token"), [("word", " C"), ("bpe", "C"), ("bpe", " B")])
def test_tokens_of_words_and_pieces_join_to_texts(tmp_path, exported, kind, token):
    known = prepare.describe(of_tokens(exported / "stream" / "streaming.onnx", kind, tmp_path / "graph.onnx"), "m")
    assert token in known["tokens"]
    assert known["kind"] == kind


def test_a_model_of_phones_is_refused(tmp_path, exported):
    graph = of_tokens(exported / "stream" / "streaming.onnx", "phone", tmp_path / "graph.onnx")
    with pytest.raises(asr.AsrError, match=r"graph\.onnx: expected a model of characters"):
        prepare.describe(graph, "m")


def test_the_page_works_offline_after_the_first_load(chromium, tmp_path, runtime, exported):
    prepare.make_site(tmp_path, exported / "stream" / "streaming.onnx", runtime, "stream")
    server = Server(tmp_path)
    with opened(chromium, server.url, "body[data-offline=true]") as page:
        server.stop()
        page.close()
        again = page.context.new_page()
        again.goto(server.url, wait_until="commit")
        again.wait_for_selector(READY)
        assert recognised(again)[0] == TEXT


RUN = """
async ([folder, samples, rate]) => {
  const ort = await import(new URL("ort/ort.wasm.min.mjs", location).href);
  const { Network } = await import(new URL("network.js", location).href);
  const { Resampler } = await import(new URL("resampler.js", location).href);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("ort/", location).href;
  const model = await (await fetch(`${folder}/model.json`)).json();
  const graph = await (await fetch(`${folder}/streaming.onnx`)).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const network = new Network(ort, session, model);
  const resampler = new Resampler(rate, model.features.sample_rate_hz);
  const rows = [];
  for (let at = 0; at < samples.length; at += 1500) {
    const block = Float32Array.from(samples.slice(at, at + 1500));
    const heard = rate === model.features.sample_rate_hz ? block : resampler.accept(block);
    rows.push(...(await network.accept(heard)));
  }
  rows.push(...(await network.finish()));
  return rows.map((row) => Array.from(row));
}
"""


def browse(page, site_folder, samples, rate=16000):
    """Log-probabilities of samples by the graph in the browser."""
    return np.array(page.evaluate(RUN, [site_folder, samples.tolist(), rate]), np.float32)


def test_rows_of_the_browser_are_those_of_torch(page):
    samples = read.load_audio(str(SAMPLE), 16000)
    expected, _ = asr.load("stream", device="cpu").log_probs([samples])
    np.testing.assert_allclose(np.exp(browse(page, "model", samples)), np.exp(expected[0]), atol=1e-2)


def test_int8_runs_in_the_browser_with_the_same_text(chromium, tmp_path, runtime, exported):
    prepare.make_site(tmp_path, exported / "int8" / "streaming.onnx", runtime, "stream")
    with served(chromium, tmp_path) as page:
        rows = browse(page, "model", read.load_audio(str(SAMPLE), 16000))
    symbols = asr.load("stream", device="cpu").model.tokenizer.symbols
    assert "".join(symbols[token] for token in greedy(rows)[0].tokens) == TEXT


def test_a_bidirectional_model_answers_in_chunks(chromium, tmp_path, runtime):
    export_onnx("an4", tmp_path / "export")
    prepare.make_site(tmp_path / "site", tmp_path / "export" / "streaming.onnx", runtime, "an4")
    samples, recognizer = read.load_audio(str(SAMPLE), 16000), asr.load("an4", device="cpu", beam=1)
    with served(chromium, tmp_path / "site") as page:
        rows = browse(page, "model", samples)
    live = recognizer.stream()
    live.accept(samples)
    assert recognizer.decoder.text(greedy(rows)[0].tokens) == live.finish().text


@pytest.mark.parametrize("behind", [0, 79, 80, 159])
def test_centred_windows_are_those_of_torch(page, site, behind):
    small = SmallModel(features={"centred": True, "mel_bins": 16, "hop_s": 0.01}, lookahead=1)
    (site.folder / "centred").mkdir(exist_ok=True)
    graph = site.folder / "centred" / "streaming.onnx"
    graph.write_bytes(streaming_graph(small.weights).SerializeToString())
    (graph.parent / "model.json").write_text(json.dumps(prepare.describe(graph, "centred")), encoding="utf-8")
    samples = read.load_audio(str(SAMPLE), 16000)[: 16000 + behind]
    expected, counts = small.torch_log_probs(samples[None], [len(samples)])
    np.testing.assert_allclose(browse(page, "centred", samples), expected[0, : counts[0]], atol=1e-3)


def test_another_rate_is_resampled(page):
    samples = read.load_audio(str(SAMPLE), 44100)
    rows = browse(page, "model", samples, 44100)
    symbols = asr.load("stream", device="cpu").model.tokenizer.symbols
    assert "".join(symbols[token] for token in greedy(rows)[0].tokens) == TEXT


def test_phrases_score_as_in_python(page):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (30, 6))
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ways = [(1,), (2, 2, 3), (5, 1, 5), (1, 2, 3, 4, 5, 1, 2, 3), tuple([4] * 20)]
    expected = score_phrases(rows, [Phrase("", (way,)) for way in ways])[0]
    code = """async ([rows, ways]) => {
      const { phraseScore, greedy } = await import(new URL("decoding.js", location).href);
      return [ways.map((way) => phraseScore(rows, way)).map((x) => (x === -Infinity ? null : x)), greedy(rows)];
    }"""
    scores, best = page.evaluate(code, [rows.tolist(), [list(way) for way in ways]])
    assert [-np.inf if score is None else score for score in scores] == pytest.approx(expected.tolist())
    assert tuple(best) == greedy(rows)[0].tokens


def test_a_changed_site_replaces_what_the_browser_has_kept(tmp_path, runtime, exported):
    names = []
    for text in ("one", "two"):
        prepare.make_site(tmp_path, exported / "stream" / "streaming.onnx", runtime, text)
        worker = (tmp_path / "service-worker.js").read_text()
        names.append(worker.partition('const NAME = "')[2].partition('"')[0])
        files = json.loads(worker.partition("const FILES = ")[2].partition(";\n")[0])
        assert all((tmp_path / name).exists() for name in files)
    assert names[0] != names[1]
