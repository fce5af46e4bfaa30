"""What results depend on: models and options by name, weights and files by content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from asr.config import loader
from asr.files import file_sha256
from asr.recognize.options import PLACES
from asr.recognize.recognizer import Recognizer


def describe_run(recognizer: Recognizer) -> dict[str, Any]:
    """``models``, ``decoding`` and ``content`` as JSON gives them back: equal where transcripts are comparable."""
    options = recognizer.decoder.options
    models = [str(r.model.path.absolute()) for r in (recognizer, *recognizer.also)]
    files = [*models, *(value for name in PLACES if (value := getattr(options, name)))]
    tree = {
        "models": models,
        "decoding": loader.to_dict(options),
        "content": [_digests(Path(file)) for file in files],
    }
    same: dict[str, Any] = json.loads(json.dumps(tree))  # tuples as JSON gives them back
    return same


def _digests(path: Path) -> list[str]:
    """Checksums of a file, or of what a model directory is made of; its logs are not."""
    if os.path.isfile(path):
        return [file_sha256(path)]
    return [file_sha256(file) for kind in ("*.safetensors", "*.onnx", "*.txt") for file in sorted(path.glob(kind))]
