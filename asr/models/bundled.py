"""Finds the models that come with the package by name."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from asr.errors import ModelError

DEFAULT_FILE = "default.txt"
"""Beside the bundled models: the name of the one that ``asr.load()`` takes. ``tools/bundle_model.py`` writes it."""


READABLE = "readable"
"""In a model directory: the folder of the tagger for its transcripts."""
SAME_AS_FILE = "same_as.txt"
"""In a model directory: the name of the bundled model whose files stand in for those that the directory lacks."""


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
    files = ("model.safetensors", SAME_AS_FILE)
    return sorted(p.name for p in folder.iterdir() if any(os.path.isfile(p / name) for name in files))


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


def model_file(folder: Path, name: str) -> Path:
    """Where a file of a model directory lies: in the directory, or in the bundled model that ``SAME_AS_FILE`` names.

    Only the package's own models can be named: a foreign directory cannot make anybody read files elsewhere. Raises
    ``ModelError`` for any other name.
    """
    own, reference = folder / name, folder / SAME_AS_FILE
    if os.path.exists(own) or not os.path.isfile(reference):
        return own
    try:
        base = reference.read_bytes()[:200].decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{reference}: cannot read the name of a bundled model: {error}") from error
    whole = [known for known in bundled_models() if os.path.isfile(bundle_folder() / known / "model.safetensors")]
    if base not in whole:
        raise ModelError(f"{reference}: expected the name of a bundled model with weights ({', '.join(whole)}), "
                         f"got {base!r}; copy the files of the model there, or remove {SAME_AS_FILE}")  # fmt: skip
    return bundle_folder() / base / name


def model_files(folder: Path) -> dict[str, Path]:
    """All files and folders of a model directory by name, with those that stand in for missing ones."""
    base = model_file(folder, "model.safetensors").parent
    found = {path.name: path for place in (base, folder) for path in place.iterdir()}
    found.pop(SAME_AS_FILE, None)
    return found


def readable_folder(model: Path) -> Path | None:
    """The folder of a model directory's tagger: its own, or for a bundled model the package's; None without one.

    All bundled models are English and share one.
    """
    own, shared = model_file(model, READABLE), bundle_folder().parent / READABLE
    if os.path.isdir(own):
        return own
    return shared if own.parent.parent == bundle_folder() and os.path.isdir(shared) else None
