"""Checks an exported folder: ``asr export --verify DIR``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from asr.audio.read import load_audio
from asr.errors import ModelError
from asr.export.onnx_folder import check_files
from asr.export.sherpa_folder import EXPECTED, UTTERANCE
from asr.export.sherpa_graphs import RATE_HZ
from asr.export.sherpa_runs import check_texts, sherpa_texts
from asr.files import read_object
from asr.models.onnx_files import check_graph, require_onnxruntime


def verify_export(folder: str | Path) -> list[str]:
    """Check the files of an export, and run it.

    A folder of ``--to sherpa`` transcribes its test recording in sherpa-onnx; the texts must be the expected ones. The
    graphs of ``--to onnx`` are checked as foreign files are, and run on noise; their outputs must be probabilities.

    Returns lines for people. Raises ``ModelError`` naming what is wrong.
    """
    folder = Path(folder)
    tree = check_files(folder)
    lines = [f"{folder}: {len(tree['files'])} files have their checksums"]
    if tree.get("to") == "sherpa":
        return lines + _verify_sherpa(folder, tree)
    graphs = [name for name in tree["files"] if name.endswith(".onnx")]
    return lines + [_verify_graph(folder / name) for name in graphs]


def _verify_sherpa(folder: Path, tree: dict[str, Any]) -> list[str]:
    if not os.path.isfile(folder / UTTERANCE):
        return ["there is no test recording; export again with --utterance"]
    expected = read_object(folder / EXPECTED, "the expected texts")
    samples = load_audio(folder / UTTERANCE, RATE_HZ)
    found = sherpa_texts(folder, list(expected), samples, float(tree.get("tail_s", 0)))
    return check_texts(folder, expected, found)


def _verify_graph(path: Path) -> str:
    """Check a graph and run it once. Returns a line."""
    found = check_graph(path)
    runtime = require_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, _inputs(found.kind, found.metadata))
    except Exception as error:  # onnxruntime has no class of errors of its own
        raise ModelError(f"{path}: onnxruntime cannot run it: {error}") from error
    totals = np.exp(outputs[0].astype(np.float64)).sum(axis=-1)
    if not outputs[0].size or not np.allclose(totals, 1, atol=1e-3):
        raise ModelError(f"{path}: expected log-probabilities, whose exponentials sum to 1, got others; export again")
    return (
        f"{path.name}: {found.kind}, {found.metadata.get('asr.weights', '')}, runs in onnxruntime {runtime.__version__}"
    )


def _inputs(kind: str, metadata: dict[str, str]) -> dict[str, np.ndarray]:
    """Inputs for one run of a graph: a second of noise, or one token."""
    if kind == "lm":
        config = json.loads(metadata["asr.state"])
        return {"tokens": np.zeros(1, np.int64), "state": np.zeros([1, *config], np.float32)}
    features = json.loads(metadata["asr.features"])
    noise = np.random.default_rng(0).normal(0, 0.1, (1, features["sample_rate_hz"])).astype(np.float32)
    if kind == "offline":
        return {"samples": noise, "lengths": np.array([noise.shape[1]])}
    factor, latency = json.loads(metadata["asr.frames"])["subsampling"], json.loads(metadata["asr.latency"])
    wait = latency["chunk"] + latency["right"] - 1 if latency["bidirectional"] else latency["first_wait"]
    samples = factor * wait * features["hop_samples"] + features["window_samples"]
    states = {
        state["name"]: np.zeros([1, *state["shape"][1:]], np.float32) for state in json.loads(metadata["asr.states"])
    }
    feeds = {"samples": np.resize(noise, (1, samples)), "last": np.array([-1]), **states}
    if latency["bidirectional"]:
        feeds["latency"] = np.array([latency["chunk"], latency["right"]])
    return feeds
