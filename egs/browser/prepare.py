"""Make a folder that recognises speech in the browser: a page, onnxruntime-web, and a model's streaming graph.

    python egs/browser/prepare.py site                     # the bundled streaming model
    python -m http.server --directory site 8000            # then open http://localhost:8000

The page needs nothing but files: any web server can send it. Browsers give the microphone to pages of https:// and of
localhost only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from asr.config import loader
from asr.config.sections import Config
from asr.errors import AsrError
from asr.models.onnx_files import check_graph

PAGE = Path(__file__).parent / "page"
PACKAGE = "onnxruntime-web@^1.30"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to make")
    parser.add_argument(
        "--model", default="stream", help="bundled name, model directory, or folder of asr export --to onnx"
    )
    parser.add_argument("--int8", action="store_true", help="export with quantised LSTM and matrix products")
    parser.add_argument(
        "--runtime", type=Path, metavar="DIR", help="folder of the npm package onnxruntime-web (default: npm gets it)"
    )
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            graph = streaming_graph(args.model, args.int8, Path(scratch))
            make_site(args.output, graph, args.runtime or npm_package(Path(scratch)), args.model)
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"made {args.output}; python -m http.server --directory {args.output} 8000 serves it on this machine")
    return 0


def streaming_graph(model: str, int8: bool, scratch: Path) -> Path:
    """The streaming graph of an exported folder, or of a model, which is exported."""
    graph = Path(model) / "streaming.onnx"
    if graph.is_file():
        return graph
    options = ["--int8"] if int8 else []
    command = [sys.executable, "-m", "asr.cli", "export", model, str(scratch / "export"), "--to", "onnx", *options]
    if subprocess.run(command).returncode:
        raise AsrError(f"{model}: could not be exported; see the message above")
    return scratch / "export" / "streaming.onnx"


def npm_package(scratch: Path) -> Path:
    """The folder of onnxruntime-web, which npm downloads."""
    npm = shutil.which("npm")
    if npm is None:
        raise AsrError(f"expected npm, which gets {PACKAGE}; install Node.js, or give --runtime DIR")
    command = [npm, "install", "--prefix", str(scratch), "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise AsrError(f"npm could not install {PACKAGE}; see the message above, or give --runtime DIR")
    return scratch / "node_modules" / "onnxruntime-web"


def make_site(output: Path, graph: Path, runtime: Path, name: str) -> None:
    """Write all files of the site to ``output``."""
    for file in RUNTIME:
        if not (runtime / "dist" / file).is_file():
            raise AsrError(f"{runtime}: expected the npm package onnxruntime-web with dist/{file}")
    shutil.copytree(PAGE, output, dirs_exist_ok=True)
    for folder in ("ort", "model"):
        (output / folder).mkdir(exist_ok=True)
    for file in RUNTIME:
        shutil.copyfile(runtime / "dist" / file, output / "ort" / file)
    shutil.copyfile(graph, output / "model" / "streaming.onnx")
    runtime_bytes = sum((output / "ort" / file).stat().st_size for file in RUNTIME)
    description = describe(graph, name) | {"runtime_bytes": runtime_bytes}
    (output / "model" / "model.json").write_text(json.dumps(description), encoding="utf-8")
    fill_service_worker(output)


def describe(graph: Path, name: str) -> dict[str, object]:
    """What the page must know of a streaming graph: its metadata, which onnxruntime-web does not show."""
    known = check_graph(graph, "streaming")
    kind = loader.from_dict(Config, loader.parse_yaml(known.metadata.get("asr.config", ""))).text.tokenizer
    if kind == "phone":
        raise AsrError(f"{graph}: expected a model of characters, pieces of words or words, got one of phones, which "
                       "this page cannot turn into words")  # fmt: skip
    # The page joins tokens to texts: pieces have a mark where a word begins, words have none.
    tokens = [f" {token}" if kind == "word" else token.replace("▁", " ") for token in known.tree("asr.tokens")]
    return {
        "name": os.path.basename(os.path.normpath(name)),
        "bytes": graph.stat().st_size,
        "tokens": tokens,
        "kind": kind,
        **{key: known.tree(f"asr.{key}") for key in ("features", "frames", "states", "latency")},
    }


def fill_service_worker(output: Path) -> None:
    """Name all files in the service worker, and a checksum of them, so that a changed site replaces an older one."""
    worker = output / "service-worker.js"
    files = sorted(path for path in output.rglob("*") if path.is_file() and path != worker)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(output).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    names = ["./", *(path.relative_to(output).as_posix() for path in files)]
    text = worker.read_text(encoding="utf-8")
    text = text.replace("asr-VERSION", f"asr-{digest.hexdigest()[:16]}").replace('["FILES"]', json.dumps(names))
    worker.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
