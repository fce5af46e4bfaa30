"""Recurrent speech recognition: log-mel features, deep (bi)directional recurrent networks, CTC, beam search, WER.

``asr.load().transcribe("recording.wav")`` is the shortest way in; see README.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.endpoint import Endpoint
    from asr.errors import AsrError
    from asr.recognizer import Recognizer, load
    from asr.scoring import score
    from asr.stream import Stream, StreamBatch, Update
    from asr.transcript import Transcript, Word

__version__ = "0.1.0"
__all__ = [
    "AsrError",
    "Endpoint",
    "Recognizer",
    "Stream",
    "StreamBatch",
    "Transcript",
    "Update",
    "Word",
    "load",
    "score",
]

# Public names are imported when first used, so that ``import asr`` and ``asr --help`` do not wait for torch.
_HOMES = {
    "AsrError": "asr.errors",
    "Endpoint": "asr.endpoint",
    "Recognizer": "asr.recognizer",
    "Stream": "asr.stream",
    "StreamBatch": "asr.stream",
    "Transcript": "asr.transcript",
    "Update": "asr.stream",
    "Word": "asr.transcript",
    "load": "asr.recognizer",
    "score": "asr.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
