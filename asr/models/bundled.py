"""Finds the models that come with the package by name."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from asr.errors import ModelError

DEFAULT_FILE = "default.txt"
"""Beside the bundled models: the name of the one that ``asr.load()`` takes. ``tools/bundle_model.py`` writes it."""


def bundle_folder() -> Path:
    """The folder of the bundled models."""
    return Path(str(resources.files("asr") / "assets" / "models"))


def default_model() -> str:
    """The name of the bundled model that is used where none is named. Raises ``ModelError`` where nothing says it."""
    path = bundle_folder() / DEFAULT_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the name of the default model: {error}; install the package again, or "
                         "name a model") from error  # fmt: skip


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = bundle_folder()
    if not os.path.isdir(folder):
        return []
    return sorted(p.name for p in folder.iterdir() if os.path.isfile(p / "model.safetensors"))


def locate_model(model: str | Path | None) -> Path:
    """The folder of a model: a directory, the name of a bundled model, or ``None`` for the default one.

    A graph in a folder of ``asr export --to onnx`` (``export.json`` is beside it) stands for the folder, another graph
    (``.onnx``) for itself.

    Raises ``ModelError`` that lists the bundled names.
    """
    names = bundled_models()
    name = default_model() if model is None else str(model)
    if name in names:
        return bundle_folder() / name
    # The default is the package's own: a folder of that name in the working directory must not stand in for it.
    if model is not None and os.path.isdir(model):
        return Path(model)
    if name.endswith(".onnx") and os.path.isfile(name):
        path = Path(name)
        return path.parent if os.path.isfile(path.parent / "export.json") else path
    raise ModelError(f"{name}: neither a model directory nor a bundled model ({', '.join(names) or 'none'})")


def bundled_readable(model: Path) -> Path | None:
    """The folder of the tagger that all bundled models share, which are English; None for other models."""
    folder = bundle_folder().parent / "readable"
    return folder if model.parent == bundle_folder() and os.path.isdir(folder) else None
