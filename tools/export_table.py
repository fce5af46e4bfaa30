"""The rows of the table in docs/export.md: one model by every route, on a manifest.

    python tools/export_table.py data/an4/test.jsonl --models an4 stream --work /tmp/exported

Exports each model (once), transcribes the manifest by torch, ONNX, int8 ONNX and sherpa-onnx, each on one thread, and
prints errors, the utterances that differ from torch, size, processor seconds of a fresh process that transcribes one
short recording, and processor seconds per second of audio. Streams come in blocks of 0.1 s. A line for each model
compares its streams by torch, ONNX and int8 in turns, utterance by utterance: a busy machine slows all alike then.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime
import torch

import asr
from asr.audio.read import load_audio
from asr.data.manifest import read_manifest
from asr.export.onnx_folder import export_onnx
from asr.export.sherpa_folder import export_sherpa
from asr.export.sherpa_graphs import training_level
from asr.export.sherpa_runs import OLDEST_SHERPA
from asr.export.stored_weights import acoustic_weights
from asr.models.bundled import locate_model, model_file
from asr.models.description import read_description

BLOCK = 1600
"""Samples of a stream that come at a time."""


class Table:
    """Rows of one model: every route's texts against the references and against torch."""

    def __init__(self, name, utterances, waveforms):
        self.name, self.utterances, self.waveforms = Path(name).name, utterances, waveforms
        self.references = {u.id: u.text for u in utterances}
        self.seconds = sum(len(w) for w in waveforms) / 16000
        self.torch_texts = {}

    def add(self, route, like, run, size="", start=""):
        """Transcribe all; ``like`` names the row of torch that the texts are compared with."""
        began = time.process_time()
        texts = {u.id: run(w) for u, w in zip(self.utterances, self.waveforms, strict=True)}
        factor = (time.process_time() - began) / self.seconds
        model = self.torch_texts.setdefault(like, texts)
        differing = [name for name in texts if texts[name] != model[name]]
        shown = ", ".join(differing[:6]) + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
        errors = asr.score(self.references, texts).errors
        print(f"| {self.name} | {route} | {errors} | {shown or 'none'} | {size} | {start} | {factor:.4f} |", flush=True)

    def engine(self, route, model, size, start, kinds):
        """A recognizer's rows: recordings and streams, greedily and as the model decodes."""
        plain = asr.load(model, device="cpu", beam=1, lm="", lexicon="")
        for kind in kinds:
            used = plain if kind == "greedy" else asr.load(model, device="cpu")
            self.add(f"{route}, {kind}", f"whole {kind}", lambda w, r=used: r.transcribe(w).text, size[0], start)
            run = functools.partial(streamed_text, used)
            self.add(f"{route} streaming, {kind}", f"stream {kind}", run, size[1])
        return plain


def streamed_text(recognizer, waveform):
    """The text of a stream in blocks of ``BLOCK`` samples."""
    stream = recognizer.stream()
    for at in range(0, len(waveform), BLOCK):
        stream.accept(waveform[at : at + BLOCK])
    return stream.finish().text


def megabytes(*paths):
    return f"{sum(os.path.getsize(path) for path in paths) / 1e6:.1f} MB"


def cold_start(program, *arguments):
    """Median processor seconds of a fresh process, of three: what other programs do meanwhile hardly changes them."""
    found = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True)
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return f"{sorted(found)[1]:.2f} s"


SHERPA_OFFLINE = """
import sys, sherpa_onnx, soundfile
model, tokens = (sys.argv[1] + name for name in ("/omnilingual.onnx", "/tokens.txt"))
r = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(model=model, tokens=tokens)
s = r.create_stream(); s.accept_waveform(16000, soundfile.read(sys.argv[2], dtype="float32")[0]); r.decode_stream(s)
print(s.result.text)
"""
START = "import sys, asr; print(asr.load(sys.argv[1], device='cpu').transcribe(sys.argv[2]).text)"


def sherpa_rows(table, folder, sample):
    """Whole recordings, streams and the transducer, in sherpa-onnx."""
    import sherpa_onnx

    tokens = str(folder / "tokens.txt")
    tail = np.zeros(round(json.loads((folder / "export.json").read_text())["tail_s"] * 16000), np.float32)
    whole = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(folder / "omnilingual.onnx"), tokens=tokens
    )

    def run_whole(waveform):
        stream = whole.create_stream()
        stream.accept_waveform(16000, waveform)
        whole.decode_stream(stream)
        return stream.result.text

    def streamed(recognizer):
        def run(waveform):
            stream = recognizer.create_stream()
            stream.accept_waveform(16000, waveform)
            stream.accept_waveform(16000, tail)
            stream.input_finished()
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
            return recognizer.get_result(stream)

        return run

    runs = [("sherpa-onnx offline", run_whole, ["omnilingual.onnx"])]
    if os.path.exists(folder / "nemo_ctc.onnx"):
        nemo = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
            tokens=tokens, model=str(folder / "nemo_ctc.onnx"), num_threads=1
        )
        runs.append(("sherpa-onnx streaming", streamed(nemo), ["nemo_ctc.onnx"]))
    if os.path.exists(folder / "encoder.onnx"):
        names = ["encoder", "decoder", "joiner"]
        places = {name: str(folder / f"{name}.onnx") for name in names}
        lstm = sherpa_onnx.OnlineRecognizer.from_transducer(tokens=tokens, model_type="lstm", num_threads=1, **places)
        runs.append(("sherpa-onnx transducer", streamed(lstm), [f"{name}.onnx" for name in names]))
    for route, run, files in runs:
        start = cold_start(SHERPA_OFFLINE, folder, sample) if route.endswith("offline") else ""
        like = "level" if route.endswith("offline") else "stream greedy"
        size = megabytes(*(folder / name for name in files))
        table.add(f"{route}, greedy", like, lambda w, run=run: " ".join(run(w).split()), size, start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest")
    parser.add_argument("--models", nargs="+", default=["an4", "stream"])
    parser.add_argument("--work", type=Path, required=True, help="folder for the exports")
    parser.add_argument("--sample", default="egs/sample.wav", help="recording for the cold starts")
    parser.add_argument("--kinds", nargs="+", default=["greedy", "as it decodes"], help="how to decode")
    args = parser.parse_args()
    torch.set_num_threads(1)
    utterances = read_manifest(args.manifest)
    waveforms = [load_audio(u.audio, 16000) for u in utterances]
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, sherpa-onnx from {OLDEST_SHERPA}")
    print("| model | route | errors | differing from torch | size | fresh process | s per s |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        add_model(name, Table(name, utterances, waveforms), args)


def in_turns(engines, waveforms, rounds=3):
    """Processor seconds per second of audio of streams by each engine: medians over rounds of a tenth of the recordings
    each, decoded by one engine after the other."""
    print("streams in turns, s per s:", end=" ")
    found = {route: [] for route in engines}
    for first in range(rounds):
        part = waveforms[first::10]
        spent = dict.fromkeys(engines, 0.0)
        for waveform in part:
            for route, engine in engines.items():
                began = time.process_time()
                streamed_text(engine, waveform)
                spent[route] += time.process_time() - began
        seconds = sum(len(w) for w in part) / 16000
        for route, total in spent.items():
            found[route].append(total / seconds)
    print(", ".join(f"{route} {sorted(times)[rounds // 2]:.4f}" for route, times in found.items()), flush=True)


def add_model(name, table, args):
    """The rows of one model."""
    folders = {kind: args.work / f"{Path(name).name}-{kind}" for kind in ("onnx", "int8", "sherpa", "sherpa-int8")}
    for kind, folder in folders.items():
        if not os.path.exists(folder):
            export = export_sherpa if kind.startswith("sherpa") else export_onnx
            export(name, folder, int8=kind.endswith("int8"))
    weights = model_file(locate_model(name), "model.safetensors")
    plain = table.engine("torch", name, [megabytes(weights)] * 2, cold_start(START, name, args.sample), args.kinds)
    engines = {"torch": plain}
    for kind in ("onnx", "int8"):
        folder = folders[kind]
        sizes = [megabytes(folder / graph) for graph in ("offline.onnx", "streaming.onnx")]
        found = table.engine(kind, folder, sizes, cold_start(START, folder, args.sample), args.kinds)
        engines[kind] = found
        pairs = ((found.log_probs([w])[0], plain.log_probs([w])[0]) for w in table.waveforms)
        print("largest difference", max(float(np.abs(a - b).max()) for a, b in pairs))
    in_turns(engines, table.waveforms)
    level = training_level(acoustic_weights(read_description(name)))
    table.add("torch at one level, greedy", "level", lambda w: plain.transcribe(at_level(w, level)).text)
    for kind in ("sherpa", "sherpa-int8"):
        print(kind)
        sherpa_rows(table, folders[kind], args.sample)


def at_level(waveform, level):
    """A recording as sherpa-onnx and the graph for it change its level; clipped, as torch's samples must be."""
    normal = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)
    return np.clip(level * normal, -1, 1).astype(np.float32)


if __name__ == "__main__":
    main()
