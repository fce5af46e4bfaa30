"""The rows of the browser in the table of docs/export.md: egs/browser's own code in headless Chromium, on a manifest.

    python tools/browser_table.py data/an4/test.jsonl --model stream --runtime node_modules/onnxruntime-web [--int8]

Each recording goes through the page's network.js and decoding.js in blocks of 0.1 s, and the best path (greedy) is its
text. Prints errors and the recordings whose text is not that of a model in Python, decoded greedily.
"""

import argparse
import base64
import functools
import http.server
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import playwright.sync_api as playwright

import asr
from asr.audio.read import load_audio
from asr.data.manifest import read_manifest

sys.path.insert(0, str(Path(__file__).parents[1] / "egs" / "browser"))
import prepare

PREPARE_PAGE = """
async () => {
  const ort = await import(new URL("ort/ort.wasm.min.mjs", location).href);
  const { Network } = await import(new URL("network.js", location).href);
  const { asText, greedy } = await import(new URL("decoding.js", location).href);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("ort/", location).href;
  const model = await (await fetch("model/model.json")).json();
  const graph = await (await fetch("model/streaming.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  window.transcribe = async (text) => {
    const samples = new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
    const network = new Network(ort, session, model);
    const rows = [];
    for (let at = 0; at < samples.length; at += 1600) {
      rows.push(...(await network.accept(samples.slice(at, at + 1600))));
    }
    rows.push(...(await network.finish()));
    return asText(greedy(rows), model.tokens);
  };
}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest")
    parser.add_argument("--model", default="stream", help="bundled name, directory, or folder of asr export --to onnx")
    parser.add_argument("--like", help="model whose greedy texts are compared with (default: MODEL)")
    parser.add_argument("--int8", action="store_true", help="export with int8 weights")
    parser.add_argument("--runtime", type=Path, required=True, help="folder of the npm package onnxruntime-web")
    args = parser.parse_args()
    utterances = read_manifest(args.manifest)
    waveforms = {u.id: load_audio(u.audio, 16000) for u in utterances}
    with tempfile.TemporaryDirectory() as scratch:
        graph = prepare.streaming_graph(args.model, args.int8, Path(scratch))
        prepare.make_site(Path(scratch) / "site", graph, args.runtime, args.model)
        size = graph.stat().st_size
        texts = browser_texts(Path(scratch) / "site", waveforms)
    plain = asr.load(args.like or args.model, device="cpu", beam=1, lm="", lexicon="")
    differing = [name for name, samples in waveforms.items() if plain.transcribe(samples).text != texts[name]]
    report = asr.score({u.id: u.text for u in utterances}, texts)
    print(f"| {args.model}{' int8' * args.int8} | {report.errors} of {report.words} | {', '.join(differing) or 'none'} "
          f"| {size / 1e6:.1f} MB |")  # fmt: skip


def browser_texts(site, waveforms):
    """The best path of each recording by the page's own code."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as driver:
        path = shutil.which("chromium") or shutil.which("google-chrome") or driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        page.evaluate(PREPARE_PAGE)
        texts = {
            name: page.evaluate("(text) => window.transcribe(text)", base64.b64encode(samples.tobytes()).decode())
            for name, samples in waveforms.items()
        }
        browser.close()
    server.shutdown()
    return texts


if __name__ == "__main__":
    main()
