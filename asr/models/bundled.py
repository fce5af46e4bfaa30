"""Finds the models that come with the package by name."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from asr.errors import ModelError

DEFAULT_MODEL = "an4"


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = Path(str(resources.files("asr") / "assets" / "models"))
    if not os.path.isdir(folder):
        return []
    return sorted(p.name for p in folder.iterdir() if os.path.isfile(p / "model.safetensors"))


def locate_model(model: str | Path | None) -> Path:
    """The folder of a model: a directory, the name of a bundled model, or ``None`` for the default one.

    Raises ``ModelError`` that lists the bundled names.
    """
    names = bundled_models()
    name = DEFAULT_MODEL if model is None else str(model)
    if name in names:
        return Path(str(resources.files("asr") / "assets" / "models" / name))
    # The default is the package's own: a folder of that name in the working directory must not stand in for it.
    if model is not None and os.path.isdir(model):
        return Path(model)
    raise ModelError(f"{name}: neither a model directory nor a bundled model ({', '.join(names) or 'none'})")
