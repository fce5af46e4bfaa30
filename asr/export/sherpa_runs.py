"""Runs of sherpa-onnx's graphs as it runs them: in onnxruntime alone, for expected texts, and in sherpa-onnx itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr.errors import ModelError
from asr.export.sherpa_graphs import HOP_S, NEMO_FEATURES, RATE_HZ, kaldi_filterbank
from asr.models.onnx_files import require_onnxruntime
from asr.text.tokenizer import Tokenizer

OLDEST_SHERPA = (2, 0, 1)
_WINDOW, _HOP = round(0.025 * RATE_HZ), round(HOP_S * RATE_HZ)


def expected_texts(
    folder: Path, names: Sequence[str], samples: np.ndarray, tokenizer: Tokenizer, tail_s: float
) -> dict[str, str]:
    """The texts of a recording ``(S,)`` at 16 kHz by the graphs of a folder, as the runtime decodes them greedily."""
    padded = np.concatenate([samples, np.zeros(round(tail_s * RATE_HZ), np.float32)])
    runs: dict[str, Callable[[], list[int]]] = {
        "omnilingual.onnx": lambda: _omnilingual(_session(folder / "omnilingual.onnx"), samples),
        "nemo_ctc.onnx": lambda: _nemo(_session(folder / "nemo_ctc.onnx"), padded),
        "encoder.onnx": lambda: _lstm(_session(folder / "encoder.onnx"), padded),
    }
    return {name: " ".join(tokenizer.decode(run()).split()) for name, run in runs.items() if name in names}


def sherpa_texts(folder: Path, names: Sequence[str], samples: np.ndarray, tail_s: float) -> dict[str, str]:
    """The texts of a recording ``(S,)`` at 16 kHz by sherpa-onnx itself. Raises ``ModelError`` where it is missing or
    too old."""
    sherpa, tokens = _require_sherpa(), str(folder / "tokens.txt")
    padded = np.concatenate([samples, np.zeros(round(tail_s * RATE_HZ), np.float32)])
    found = {}
    if "omnilingual.onnx" in names:
        place = str(folder / "omnilingual.onnx")
        whole = sherpa.OfflineRecognizer.from_omnilingual_asr_ctc(model=place, tokens=tokens)
        stream = whole.create_stream()
        stream.accept_waveform(RATE_HZ, samples)
        whole.decode_stream(stream)
        found["omnilingual.onnx"] = stream.result.text
    if "nemo_ctc.onnx" in names:
        place = str(folder / "nemo_ctc.onnx")
        found["nemo_ctc.onnx"] = _streamed(sherpa.OnlineRecognizer.from_nemo_ctc(tokens=tokens, model=place), padded)
    if "encoder.onnx" in names:
        places = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
        recognizer = sherpa.OnlineRecognizer.from_transducer(tokens=tokens, model_type="lstm", **places)
        found["encoder.onnx"] = _streamed(recognizer, padded)
    return {name: " ".join(text.split()) for name, text in found.items()}


def centred_log_mel(samples: np.ndarray, *, kaldi: bool) -> np.ndarray:
    """The features ``(T, 80)`` of a recording ``(S,)`` that the runtime computes for a NeMo model, or with ``kaldi``
    for a transducer.

    Frames are centred on their hop, the recording being reflected at its ends. Both have a pre-emphasis of 0.97 within
    each window; Kaldi's also lose their mean, and have Povey's window and triangles on the HTK scale.
    """
    from asr.config.sections import FeatureConfig
    from asr.models.framing import framed
    from asr.models.mel import mel_filterbank

    options: dict[str, Any] = dict(NEMO_FEATURES)
    config = FeatureConfig(**options)
    padded = framed(samples.astype(np.float32), config).astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    if kaldi:
        frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    n = np.arange(_WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / (_WINDOW - 1 if kaldi else _WINDOW) * n)
    power = np.abs(np.fft.rfft(frames * (hann**0.85 if kaldi else hann), 512)) ** 2
    bank = kaldi_filterbank(512, RATE_HZ) if kaldi else mel_filterbank(config, 512)
    found: np.ndarray = np.log(np.maximum(power @ bank, np.finfo(np.float32).eps)).astype(np.float32)
    return found


def _omnilingual(session: Any, samples: np.ndarray) -> list[int]:
    normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-5)
    (log_probs,) = session.run(None, {"samples": normal[None].astype(np.float32)})
    return _collapsed(log_probs[0])


def _nemo(session: Any, samples: np.ndarray) -> list[int]:
    meta = session.get_modelmeta().custom_metadata_map
    features = centred_log_mel(samples, kaldi=False)
    states = {end.name: np.zeros([1, *end.shape[1:]], np.int64 if end.name.endswith("len") else np.float32)
              for end in session.get_inputs()[2:]}  # fmt: skip
    rows = []
    for window in _windows(features, int(meta["window_size"]), int(meta["chunk_shift"])):
        feeds = {"x": window.T[None], "length": np.array([len(window)]), **states}
        found = session.run(None, feeds)
        rows.append(found[0][0])
        states = dict(zip(states, found[2:], strict=True))
    return _collapsed(np.concatenate(rows)) if rows else []


def _lstm(session: Any, samples: np.ndarray) -> list[int]:
    meta = session.get_modelmeta().custom_metadata_map
    features = centred_log_mel(samples, kaldi=True)
    shapes = {end.name: end.shape for end in session.get_inputs()[1:]}
    states = {name: np.zeros([shape[0], 1, shape[2]], np.float32) for name, shape in shapes.items()}
    tokens: list[int] = []
    for window in _windows(features, int(meta["T"]), int(meta["decode_chunk_len"])):
        found = session.run(None, {"x": window[None], **states})
        tokens += [int(token) for token in found[0][0].argmax(axis=1) if token]
        states = dict(zip(states, found[1:], strict=True))
    return tokens


def _windows(features: np.ndarray, size: int, shift: int) -> list[np.ndarray]:
    """What the runtime feeds: it waits for one frame more than a window has."""
    return [features[at : at + size] for at in range(0, len(features) - size, shift)]


def _collapsed(log_probs: np.ndarray) -> list[int]:
    from asr.decode import greedy

    return list(greedy(log_probs)[0].tokens)


def _session(path: Path) -> Any:
    runtime = require_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _streamed(recognizer: Any, samples: np.ndarray) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(RATE_HZ, samples)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    text: str = recognizer.get_result(stream)
    return text


def _require_sherpa() -> Any:
    try:
        import sherpa_onnx
    except ImportError as error:
        raise ModelError(f"to run the test recording needs sherpa-onnx: pip install sherpa-onnx ({error})") from error
    version = tuple(int(part) for part in sherpa_onnx.__version__.split("+")[0].split(".")[:3])
    if version < OLDEST_SHERPA:
        oldest = ".".join(map(str, OLDEST_SHERPA))
        raise ModelError(f"sherpa-onnx: expected version {oldest} or newer, whose features are others before, got "
                         f"{sherpa_onnx.__version__}; pip install --upgrade sherpa-onnx")  # fmt: skip
    return sherpa_onnx


def check_texts(name: object, expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """A line for each graph. Raises ``ModelError`` with both texts where they differ."""
    for graph, text in expected.items():
        if found.get(graph) != text:
            raise ModelError(f"{name}: {graph}: expected the text {text!r} of the test recording, got "
                             f"{found.get(graph)!r}")  # fmt: skip
    return [f"{graph}: {text}" for graph, text in expected.items()]
