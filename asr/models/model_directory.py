"""Model directories and checkpoints: atomic, inspectable, and never a pickle.

A model directory is a training's output and a deployment's input:

    config.yaml         the resolved configuration
    tokens.txt          one token a line, the line number is its id
    stats.json          mean and standard deviation of the features
    model.safetensors   the weights (float32, float16, or int8 with scales)
    card.json           training data, results, purpose

``same_as.txt`` may name a bundled model, whose files stand in for missing ones (``asr.models.bundled.model_file``).
During training, ``checkpoint.safetensors`` in the same folder holds the state for resuming.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asr.config import loader
from asr.config.sections import Config
from asr.errors import ModelError
from asr.files import PART, atomic
from asr.models.acoustic import AcousticModel
from asr.models.bundled import READABLE, SAME_AS_FILE, model_file, readable_folder
from asr.models.description import FeatureStats, read_description
from asr.models.tensors import compare_shapes, load_shapes, load_tensors, quantize, save_tensors, split_scales
from asr.models.torch_backend import TorchBackend
from asr.text import tokenizer_files
from asr.text.tokenizer import Tokenizer

Network = TypeVar("Network", bound=nn.Module)
Storage: TypeAlias = Literal["float32", "float16", "int8"]
"""The numbers that weights are stored as; computing is in float32 always."""
OF_WEIGHTS = (
    "decoding.yaml", "lm", "confidence.json", "rehearsal.safetensors",
    "checkpoint.safetensors", "checkpoint.previous.safetensors", "log.jsonl", "tensorboard",
)  # fmt: skip
"""What a model directory may hold that belongs to the very weights beside it: tuned options, sentences
that they learnt, and the run so far."""


def build(make: Callable[[], Network], path: Path, layers: int) -> Network:
    """The network that ``make`` makes, if the weights at ``path`` are those of such a one.

    Names and shapes are compared with the file's header before any memory is taken: a configuration may ask for more
    than there is. ``layers`` is how many the configuration asks for, each of which has weights. The weights have no
    values yet: ``load_weights`` sets all of them.

    Raises ``ModelError`` that lists what is missing, unexpected or of another shape.
    """
    shapes = load_shapes(path)
    if layers > len(shapes):
        raise ModelError(f"{path}: weights of another architecture: {len(shapes)} tensors, expected {layers} layers")
    try:
        with _NoDraws(), torch.device("meta"):
            outline = make()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path.with_name('config.yaml')}: no network can have these sizes: {error}") from error
    compare_shapes(path, {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}, shapes)
    # Not made a second time: drawing the orthogonal weights of a large network takes half a second, for nothing. Nor
    # ``to_empty``, which imports torch's compiler.
    for module in outline.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad))
    return outline


class _NoDraws(TorchFunctionMode):
    """Leaves tensors as they are instead of drawing values for them.

    On "meta" torch draws by a decomposition in Python, and imports its compiler for it: a second at every load.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.normal_:
            return args[0]
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy ``tensors`` into ``module``; int8 weights (see ``quantize``) are multiplied by their scales there.

    Raises ``ModelError`` that lists what is missing, unexpected or of another shape, and for scales that cannot be.
    """
    weights, scales = split_scales(tensors, source)
    own, found = ({name: tuple(x.shape) for name, x in part.items()} for part in (module.state_dict(), weights))
    compare_shapes(source, own, found)
    module.load_state_dict(weights)
    state = module.state_dict()  # shares memory with the module: no second copy of the weights as floats
    for name, scale in scales.items():
        state[name].mul_(scale.view(-1, *[1] * (state[name].ndim - 1)).to(state[name].device))


@dataclass(frozen=True)
class Model:
    """A loaded model directory. ``network`` is in evaluation mode, float32."""

    config: Config
    tokenizer: Tokenizer
    stats: FeatureStats
    network: AcousticModel
    card: dict[str, Any]
    path: Path

    def backend(self, device: str = "auto", precision: str = "fp32") -> TorchBackend:
        """See ``asr.models.inference.LoadedModel``; the network itself moves to the device."""
        return TorchBackend(self.network, self.config.features, self.stats, device, precision)


def save_model_description(folder: Path, config: Config, tokenizer: Tokenizer, stats: FeatureStats) -> None:
    """Write the parts of a model directory that are known before training. Raises ``ModelError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "config.yaml") as path:
            path.write_text(loader.dumps(config), encoding="utf-8")
        tokenizer_files.save_tokenizer(folder, tokenizer)
        with atomic(folder / "stats.json") as path:
            stats.save(path)
    except OSError as error:
        raise ModelError(f"{folder}: cannot write the model directory: {error}") from error


def copy_tagger(model: Path, folder: Path) -> None:
    """Copy the tagger of a model directory's written text, where it has one, into another folder without one.

    It belongs to the language of the transcripts, not to the weights. Raises ``ModelError``.
    """
    tagger, target = readable_folder(model), folder / READABLE
    if tagger is None or os.path.lexists(target):
        return
    try:
        with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as aside:
            shutil.copytree(tagger, Path(aside, READABLE))
            Path(aside, READABLE).replace(target)
    except OSError as error:
        raise ModelError(f"{target}: cannot copy the tagger of {model}: {error}") from error


def save_config(folder: Path, config: Any) -> None:
    """Write ``config.yaml`` unless it says the same already. Raises ``ModelError``."""
    path, text = folder / "config.yaml", loader.dumps(config)
    try:
        if os.path.isfile(path) and path.read_bytes() == text.encode("utf-8"):
            return
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path}: cannot write: {error}") from error


def clear(folder: Path) -> None:
    """Make room for another model: remove one's weights, tokens and all that belongs to them, and nothing else.

    Raises ``ModelError`` for a file that cannot be removed.
    """
    try:
        for name in ("model.safetensors", "card.json", "tokens.model", "lexicon.txt", SAME_AS_FILE, *OF_WEIGHTS):
            path = folder / name
            if os.path.isdir(path) and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{folder}: cannot replace the model there: {error}") from error


def save_weights(folder: Path, network: nn.Module, card: Mapping[str, Any], *, storage: Storage = "float32") -> None:
    """Write ``model.safetensors`` and ``card.json``. Raises ``ModelError``.

    ``storage``: float32; float16, half of it; int8 with scales (``quantize``), a quarter.
    """
    path, state = folder / "model.safetensors", network.state_dict()
    dtype = torch.float32 if storage == "float32" else torch.float16
    tensors = quantize(state) if storage == "int8" else {name: value.to(dtype) for name, value in state.items()}
    for name, tensor in [*state.items(), *tensors.items()]:
        if not tensor.isfinite().all():
            raise ModelError(f"{path}: not written: {name} holds values that are not finite as {tensor.dtype}")
    save_tensors(path, tensors)
    try:
        with atomic(folder / "card.json") as path:
            path.write_text(json.dumps(_finite(card), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{folder / 'card.json'}: cannot write: {error}") from error


def _finite(value: Any) -> Any:
    """Values for JSON, which has no NaN and no infinity: null in their place."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_model(model: str | Path | None = None) -> Model:
    """Load a model directory or a bundled model by name; ``None`` is the default bundled one.

    Raises ``ModelError`` naming the file that is missing, damaged, or does not fit the others, ``ConfigError`` for a
    bad config.yaml.
    """
    found = read_description(model)
    config, tokenizer, folder = found.config, found.tokenizer, found.path
    weights, bins = model_file(folder, "model.safetensors"), config.features.mel_bins
    network = build(lambda: AcousticModel(config.model, bins, tokenizer.vocab_size), weights, config.model.layers)
    tensors, _ = load_tensors(weights)
    load_weights(network, tensors, weights)
    return Model(config, tokenizer, found.stats, network.eval(), found.card, folder)
