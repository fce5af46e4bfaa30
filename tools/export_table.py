"""The rows of the table in docs/export.md: one model by every route, on a manifest.

    python tools/export_table.py data/an4/test.jsonl --models an4 stream --work /tmp/exported

Exports each model (once), transcribes the manifest by torch, ONNX, int8 ONNX and sherpa-onnx, each on one thread, and
prints errors, the utterances that differ from torch, size, seconds until the first transcript of a fresh process, and
the processor seconds of the network per second of audio. The search, which all but sherpa-onnx share, is not in them.
"""

import argparse
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
from asr.decode import greedy
from asr.export.onnx_folder import acoustic_weights, export_onnx
from asr.export.sherpa_folder import export_sherpa
from asr.export.sherpa_graphs import training_level
from asr.export.sherpa_runs import OLDEST_SHERPA
from asr.models.onnx_files import check_graph
from asr.recognize.stream import Stream

BLOCKS = (1, 7, 3)
"""Output frames of the blocks of a unidirectional stream, repeated."""


def session(path):
    """A graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Graphs:
    """The graphs of a folder of ``asr export --to onnx``: samples to log-probabilities."""

    def __init__(self, folder):
        self.offline, self.streaming = session(folder / "offline.onnx"), session(folder / "streaming.onnx")
        found = check_graph(folder / "streaming.onnx")
        self.features, self.frames = found.tree("asr.features"), found.tree("asr.frames")
        self.latency, self.states = found.tree("asr.latency"), found.tree("asr.states")

    def whole(self, samples):
        """Rows ``(T, V)`` of a recording by the offline graph."""
        feeds = {"samples": samples[None], "lengths": np.array([len(samples)])}
        rows, frames = self.offline.run(None, feeds)
        return rows[0, : frames[0]]

    def blocks(self, samples, sizes=BLOCKS):
        """The same by the streaming graph, block by block; docs/export.md says how."""
        window, hop = self.features["window_samples"], self.features["hop_samples"]
        factor, up = self.frames["subsampling"], self.frames["upsampling"]
        outputs = -(-max(0, 1 + (len(samples) - window) // hop) // factor)
        state = {s["name"]: np.zeros([1, *s["shape"][1:]], np.float32) for s in self.states}
        parts, rows, given, position, call = [], 0, 0, 0, 0
        while rows < outputs * up:
            if self.latency["bidirectional"]:
                count = self.latency["chunk"] + (0 if call else self.latency["right"])
            else:
                count = sizes[call % len(sizes)] + (0 if call else self.latency["first_wait"])
            left = outputs - given
            last = left if left <= count else -1
            count = max(1, left) if last >= 0 else count
            frames = factor * count if call else 1 + factor * (count - 1)
            piece = samples[position : position + (frames - 1) * hop + window]
            piece = np.pad(piece, (0, (frames - 1) * hop + window - len(piece)))
            feeds = {"samples": piece[None], "last": np.array([last]), **state}
            if self.latency["bidirectional"]:
                feeds["latency"] = np.array([self.latency["chunk"], self.latency["right"]])
            found = self.streaming.run(None, feeds)
            state = dict(zip(state, found[1:], strict=True))
            parts.append(found[0][0])
            rows, given = rows + found[0].shape[1], given + min(count, left)
            position, call = position + frames * hop, call + 1
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


class Table:
    """Rows of one model: every route's texts against the references and against torch."""

    def __init__(self, name, utterances, waveforms):
        self.name, self.utterances, self.waveforms = name, utterances, waveforms
        self.recognizer = asr.load(name, device="cpu")
        self.references = {u.id: u.text for u in utterances}
        self.seconds = sum(len(w) for w in waveforms) / 16000
        self.torch_texts = {}

    def rows(self, route, of_waveform, *, like, size="", start=""):
        """Log-probabilities of a route, decoded greedily and as the model decodes."""
        began = time.process_time()
        matrices = [np.asarray(of_waveform(w)) for w in self.waveforms]
        factor = (time.process_time() - began) / self.seconds
        self.add(f"{route}, greedy", like, [self.greedy(m) for m in matrices], size, start, factor)
        self.add(f"{route}, as it decodes", like, [self.decoded(m) for m in matrices], size, start, factor)
        return matrices

    def greedy(self, matrix):
        tokens = greedy(torch.from_numpy(matrix)[None], torch.tensor([len(matrix)]))[0].tokens
        return " ".join(self.recognizer.model.tokenizer.decode(tokens).split())

    def decoded(self, matrix):
        found = self.recognizer.decoder.decode(torch.from_numpy(matrix)[None], torch.tensor([len(matrix)]))
        return self.recognizer.decoder.text(found[0].tokens)

    def add(self, route, like, texts, size, start, factor):
        hypotheses = {u.id: text for u, text in zip(self.utterances, texts, strict=True)}
        kind = route.rpartition(", ")[2]
        self.torch_texts.setdefault((like, kind), hypotheses)
        report = asr.score(self.references, hypotheses)
        model = self.torch_texts[like, kind]
        differing = [name for name in hypotheses if hypotheses[name] != model[name]]
        print(f"| {self.name} | {route} | {report.errors} | {', '.join(differing[:6]) or 'none'}"
              f"{f' and {len(differing) - 6} more' if len(differing) > 6 else ''} | {size} | {start} | {factor:.4f} |",
              flush=True)  # fmt: skip


def megabytes(*paths):
    return f"{sum(os.path.getsize(path) for path in paths) / 1e6:.1f} MB"


def cold_start(program, *arguments):
    """Median seconds of a fresh process, of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return f"{sorted(times)[2]:.2f} s"


SHERPA_OFFLINE = """
import sys, sherpa_onnx, soundfile
model, tokens = (sys.argv[1] + name for name in ("/omnilingual.onnx", "/tokens.txt"))
r = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(model=model, tokens=tokens)
s = r.create_stream(); s.accept_waveform(16000, soundfile.read(sys.argv[2], dtype="float32")[0]); r.decode_stream(s)
print(s.result.text)
"""
TORCH = "import sys, asr; print(asr.load(sys.argv[1], device='cpu').transcribe(sys.argv[2]).text)"


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
        began = time.process_time()
        texts = [" ".join(run(waveform).split()) for waveform in table.waveforms]
        factor = (time.process_time() - began) / table.seconds
        start = cold_start(SHERPA_OFFLINE, folder, sample) if route.endswith("offline") else ""
        like = "level" if route.endswith("offline") else "stream"
        table.add(f"{route}, greedy", like, texts, megabytes(*(folder / name for name in files)), start, factor)


def torch_stream(recognizer):
    """A function from samples to the log-probabilities of a stream by torch, in one block."""
    latency = Stream(recognizer).latency

    def run(waveform):
        with torch.inference_mode():
            features, _ = recognizer.log_mel.following(torch.from_numpy(waveform)[None])
            return recognizer.network.stream(features, latency=latency, last=True)[0][0].numpy()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest")
    parser.add_argument("--models", nargs="+", default=["an4", "stream"])
    parser.add_argument("--work", type=Path, required=True, help="folder for the exports")
    parser.add_argument("--sample", default="egs/sample.wav", help="recording for the cold starts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    utterances = read_manifest(args.manifest)
    waveforms = [load_audio(u.audio, 16000) for u in utterances]
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, sherpa-onnx from {OLDEST_SHERPA}")
    print("| model | route | errors | differing from torch | size | cold start | network, s per s |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        add_model(name, Table(name, utterances, waveforms), args)


def add_model(name, table, args):
    """The rows of one model."""
    folders = {kind: args.work / f"{Path(name).name}-{kind}" for kind in ("onnx", "int8", "sherpa", "sherpa-int8")}
    for kind, folder in folders.items():
        if not os.path.exists(folder):
            export = export_sherpa if kind.startswith("sherpa") else export_onnx
            export(name, folder, int8=kind.endswith("int8"))
    recognizer = table.recognizer
    size = megabytes(recognizer.model.path / "model.safetensors")
    start = cold_start(TORCH, name, args.sample)
    offline = table.rows(
        "torch", lambda w: recognizer.log_probs([w])[0][0].numpy(), like="whole", size=size, start=start
    )
    streamed = table.rows("torch streaming", torch_stream(recognizer), like="stream", size=size)
    for kind in ("onnx", "int8"):
        graphs, folder = Graphs(folders[kind]), folders[kind]
        for suffix, run, like, expected in (
            ("", graphs.whole, "whole", offline), (" streaming", graphs.blocks, "stream", streamed)
        ):  # fmt: skip
            size = megabytes(folder / f"{suffix.strip() or 'offline'}.onnx")
            found = table.rows(kind + suffix, run, like=like, size=size)
            print("largest difference", max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)))
    level = training_level(acoustic_weights(recognizer.model))
    table.rows("torch at one level", lambda w: recognizer.log_probs([at_level(w, level)])[0][0].numpy(), like="level")
    for kind in ("sherpa", "sherpa-int8"):
        print(kind)
        sherpa_rows(table, folders[kind], args.sample)


def at_level(waveform, level):
    """A recording as sherpa-onnx and the graph for it change its level; clipped, as torch's samples must be."""
    normal = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)
    return np.clip(level * normal, -1, 1).astype(np.float32)


if __name__ == "__main__":
    main()
