"""Recurrent speech recognition: log-mel features, deep (bi)directional recurrent networks, CTC, beam search, WER.

``asr.load().transcribe("recording.wav")`` is the shortest way in; see README.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decode.endpoint import Endpoint
    from asr.errors import AsrError
    from asr.recognize.archive import transcribe_archive
    from asr.recognize.recognizer import Recognizer, load
    from asr.recognize.stream import Stream, Update
    from asr.recognize.stream_batch import StreamBatch
    from asr.scoring.wer import score
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
    "transcribe_archive",
]

# Public names are imported when first used, so that ``import asr`` and ``asr --help`` do not wait for torch.
_HOMES = {
    "AsrError": "asr.errors",
    "Endpoint": "asr.decode.endpoint",
    "Recognizer": "asr.recognize.recognizer",
    "Stream": "asr.recognize.stream",
    "StreamBatch": "asr.recognize.stream_batch",
    "Transcript": "asr.transcript",
    "Update": "asr.recognize.stream",
    "Word": "asr.transcript",
    "load": "asr.recognize.recognizer",
    "score": "asr.scoring.wer",
    "transcribe_archive": "asr.recognize.archive",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
