"""One model out of several: the mean of their weights (Wortsman et al. 2022, arXiv:2203.05482 and arXiv:2109.01903).

Average a model with one that was trained from it, such as a robust model with its starting point. The mean keeps much
of what each model is good at and costs no more than one of them. Models that started from different random weights
cannot be averaged, because their units mean different things.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.errors import ModelError
from asr.files import PART, check_output
from asr.models import description, model_directory


def average_models(
    models: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None, *, force: bool = False
) -> None:
    """Write a model directory with the weighted mean of the models' weights, computed in float32.

    Everything else (configuration, speakers, hours) is that of the last model; its language model and tuned options
    are left behind, as they were tuned for other posteriors.

    Args:
        models: two or more model directories or names of bundled models.
        output: directory to write; must not be one of the models'. An average that nothing was tuned for is replaced.
        weights: shares, one per model, above 0; made to sum to 1. ``None``: equal.
        force: replace whatever model ``output`` holds, with everything that was made for its weights.

    Raises:
        OutputError: ``output`` holds something else than an average, or options and confidences tuned for one.
        ModelError: fewer than two models, shares that do not fit, or models that differ in features, network, tokens
            or normalisation (file and difference named), or that began with different random weights.
    """
    if len(models) < 2:
        raise ModelError(f"expected two or more models to average, got {len(models)}")
    shares = [1.0] * len(models) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(models):
        raise ModelError(f"expected one weight for each of {len(models)} models, got {len(shares)}")
    if not all(math.isfinite(share) and share > 0 for share in shares):
        raise ModelError(f"expected weights above 0, got {', '.join(f'{share:g}' for share in shares)}")
    folder = Path(output)
    loaded = [model_directory.load_model(model) for model in models]
    last = loaded[-1]
    for model in loaded:
        _check_same(model, last)
        if folder.resolve() == model.path.resolve():
            raise ModelError(f"{folder}: expected a directory of its own for the average, got one of the models")
    origin = _common_origin(loaded)
    check_output(folder, force=force, ours=_is_plain_average)
    total = dict.fromkeys(last.network.state_dict(), 0.0)
    for model, share in zip(loaded, shares, strict=True):
        for name, tensor in model.network.state_dict().items():
            total[name] = total[name] + tensor * (share / sum(shares))
    last.network.load_state_dict(total)
    made_of = [
        {"model": str(name), "share": share / sum(shares)} for name, share in zip(models, shares, strict=True)
    ]  # fmt: skip
    card = {key: value for key, value in last.card.items() if key not in ("test", "validation", "origin")}
    card |= {"origin": origin} if origin else {}
    _replace(folder, last, card | {"average_of": made_of})


def _replace(folder: Path, model: model_directory.Model, card: dict[str, Any]) -> None:
    """Write a model in place of what ``folder`` holds: what may fail is done before anything there is removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as temporary:
            model_directory.save_model_description(Path(temporary), model.config, model.tokenizer, model.stats)
            model_directory.save_weights(Path(temporary), model.network, card)
            model_directory.clear(folder)
            model_directory.copy_tagger(model.path, folder)
            for path in Path(temporary).iterdir():
                path.replace(folder / path.name)
    except OSError as error:
        raise ModelError(f"{folder}: cannot write the model: {error}") from error


def _is_plain_average(folder: Path) -> bool:
    """Whether a folder holds what ``average_models`` writes and nothing that was tuned for it since."""
    if not os.path.isdir(folder) or any(os.path.exists(folder / name) for name in model_directory.OF_WEIGHTS):
        return False
    try:
        return "average_of" in description.load_card(folder)
    except ModelError:
        return False


def _common_origin(models: Sequence[model_directory.Model]) -> str:
    """The id of the weights that all models began with, empty where a card names none, which is warned of."""
    origins = {str(model.card.get("origin", "")): model.path for model in models}
    named = sorted(origin for origin in origins if origin)
    if len(named) > 1:
        first, second = (origins[origin] for origin in named[:2])
        raise ModelError(
            f"{first}: cannot be averaged with {second}: they started from different random weights; average a "
            "model only with one that was trained from it (train.init)"
        )
    if "" in origins:
        message = f"{origins['']}: its card does not say which weights it began with"
        print(f"warning: {message}; average a model only with one that was trained from it, or the mean is useless",
              file=sys.stderr)  # fmt: skip
        return ""
    return named[0]


def _check_same(model: model_directory.Model, other: model_directory.Model) -> None:
    """Require that the weights of two models mean the same; dropout may differ, which only training has."""
    refused = f"{model.path}: cannot be averaged with {other.path}"
    for part in ("features", "model"):
        ours, theirs = getattr(model.config, part), getattr(other.config, part)
        for field in dataclasses.fields(ours):
            got, expected = getattr(ours, field.name), getattr(theirs, field.name)
            if got != expected and "dropout" not in field.name:
                raise ModelError(f"{refused}: {part}.{field.name} is {got}, expected {expected}")
    if model.tokenizer.symbols != other.tokenizer.symbols:
        raise ModelError(f"{refused}: tokens.txt differs; average models with the same tokens")
    if (model.stats.mean, model.stats.std) != (other.stats.mean, other.stats.std):
        raise ModelError(
            f"{refused}: stats.json differs; average a model only with one that was trained from it (train.init)"
        )
