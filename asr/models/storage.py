"""A model directory with smaller weights: int8 with one scale per row, or half precision."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from asr.errors import ModelError
from asr.files import PART, check_output
from asr.models import model_directory
from asr.models.bundled import model_files
from asr.models.description import OF_RUNS
from asr.models.model_directory import Storage


def quantize_model(
    model: str | Path | None, output: str | Path, *, storage: Storage = "int8", force: bool = False
) -> None:
    """Write a copy of a model directory whose weights are stored as ``storage``; everything else is copied as it is.

    An int8 file has a quarter of the bytes of float32 and half of those of float16. It loads, fine-tunes and averages
    like any other: the weights are float32 in memory. A training's checkpoints and log are left behind.

    Args:
        model: directory or name of a bundled model; ``None`` is the default one.
        output: directory to write, not the model's own.
        storage: ``int8``, ``float16`` or ``float32``.
        force: replace whatever model ``output`` holds.

    Raises:
        OutputError: ``output`` is there already.
        ModelError: the model cannot be loaded, or the copy cannot be written; what was in ``output`` stays.
    """
    source, folder = model_directory.load_model(model), Path(output)
    if folder.resolve().is_relative_to(source.path.resolve()):
        raise ModelError(f"{folder}: expected a directory of its own for the copy, got the model's or one inside it")
    check_output(folder, force=force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as temporary:
            made, old = Path(temporary, "made"), Path(temporary, "old")
            made.mkdir()
            old.mkdir()
            for part in model_files(source.path).values():
                if part.name in ("model.safetensors", *OF_RUNS) or part.name.startswith("."):
                    continue
                if os.path.isdir(part):
                    shutil.copytree(part, made / part.name)
                else:
                    shutil.copyfile(part, made / part.name)
            model_directory.save_weights(made, source.network, source.card, storage=storage)
            model_directory.clear(folder)
            for part in made.iterdir():
                target = folder / part.name
                if os.path.isdir(target):  # a folder replaces no other that has files
                    target.replace(old / part.name)
                part.replace(target)
    except OSError as error:
        # An error of a folder lists each file of it with the reason; the first one is enough.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise ModelError(f"{folder}: cannot write the model: {reason}") from error
