"""Trained models that training starts from (``train.init``) or learns from (``train.teacher``)."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch
from torch import Tensor

from asr.cloud.addresses import without_secrets
from asr.config.sections import Config
from asr.decode.confidence import CONFIDENCE_FILE, load_judge, save_calibration
from asr.errors import AsrError, ConfigError
from asr.models import model_directory
from asr.models.acoustic import AcousticModel
from asr.models.bundled import bundle_folder, locate_model, model_file
from asr.models.model_directory import Model
from asr.recognize.options import DECODING_FILE, load_options
from asr.text.tokenizer import BLANK_SYMBOL, Tokenizer

# Keys that may differ from the model that training starts from: those that do not change the shape or the
# meaning of the weights, and the running mean, which a trained network soon gets used to.
FREE = {
    "features.adapt_s",
    "model.dropout",
    "model.locked_dropout",
    "model.recurrent_dropout",
    "model.intermediate_ctc",
}


def load_initial(config: Config) -> Model | None:
    """The model that training starts from, None without one; training keeps its feature statistics.

    Raises ``ModelError`` when it cannot be loaded and ``ConfigError`` when the network or the features of ``config``
    are others than its own in keys outside ``FREE``, naming them.
    """
    if not config.train.init:
        return None
    source = model_directory.load_model(config.train.init)
    differing = [
        difference
        for section in ("features", "model")
        for name, difference in _differences(source.config, config, section).items()
        if name not in FREE
    ]
    if differing:
        raise ConfigError(
            f"train.init: {config.train.init} is another network ({'; '.join(differing)}); set the same values"
        )
    return source


def _differences(there: Config, here: Config, section: str) -> dict[str, str]:
    """The keys of a section that have other values in the configuration of a trained model, with both values."""
    theirs, ours = (dataclasses.asdict(getattr(config, section)) for config in (there, here))
    return {
        f"{section}.{key}": f"{section}.{key}: {theirs[key]!r} there, {value!r} here"
        for key, value in ours.items()
        if value != theirs[key]
    }


def load_teacher(config: Config, tokenizer: Tokenizer) -> Model | None:
    """The model whose posteriors are learnt, None without one.

    Raises ``ModelError`` when it cannot be loaded and ``ConfigError`` when its features, its frames or its tokens are
    others than the learner's.
    """
    if not config.train.teacher:
        return None
    teacher = model_directory.load_model(config.train.teacher)
    name = f"train.teacher: {config.train.teacher}"
    if differing := _differences(teacher.config, config, "features"):
        raise ConfigError(f"{name} has other features ({'; '.join(differing.values())}); set the same values")
    if teacher.config.output_frame_s != config.output_frame_s:
        raise ConfigError(
            f"{name} gives a frame each {teacher.config.output_frame_s:g} s, expected {config.output_frame_s:g} s"
        )
    if teacher.tokenizer.symbols != tokenizer.symbols:
        raise ConfigError(f"{name} has the tokens {teacher.tokenizer.symbols}, expected {tokenizer.symbols}")
    return teacher


def copy_weights(source: Model, network: AcousticModel, tokenizer: Tokenizer) -> list[str]:
    """Give ``network`` the weights of ``source``, the output layer's token by token.

    Returns the tokens that ``source`` does not know: their rows stay as they are.
    """
    weights = source.network.state_dict()
    known = {symbol: index for index, symbol in enumerate(source.tokenizer.symbols)}
    if source.config.text.tokenizer != tokenizer.config.tokenizer:
        known = {BLANK_SYMBOL: 0}  # an A among words is another thing than an A among letters
    pairs = [(index, known[symbol]) for index, symbol in enumerate(tokenizer.symbols) if symbol in known]
    ours, theirs = torch.tensor(pairs).T
    with torch.no_grad():
        for name, parameter in network.state_dict().items():
            if not name.startswith("output."):
                parameter.copy_(weights[name])
                continue
            rows, source_rows = (_by_token(x, network.config.upsampling) for x in (parameter, weights[name]))
            rows[:, ours] = source_rows[:, theirs].to(rows.device)
    return [symbol for symbol in tokenizer.symbols if symbol not in known]


def inherit_parts(source: Model | None, folder: Path, tokenizer: Tokenizer) -> None:
    """Copy what holds for other weights too into the folder of a new training: the tagger of written text, and the
    judge of reliability. A model with other tokens gets neither; fitted confidences of words are left behind.

    Raises ``ModelError`` where they cannot be written.
    """
    if source is None or set(source.tokenizer.symbols) != set(tokenizer.symbols):
        return
    model_directory.copy_tagger(source.path, folder)
    judge = load_judge(model_file(source.path, CONFIDENCE_FILE).parent)
    if judge is not None and not os.path.lexists(folder / CONFIDENCE_FILE):
        save_calibration(folder, {}, judge=judge)


def nothing_gained(init: str, wer: float, hours: float) -> str:
    """What to do about a training that never got better than the model it started from."""
    return (
        f"train.init: no validation was better than {init} itself ({100 * wer:.2f} % WER, greedy), whose weights are "
        f"kept. It was trained on {hours:.2f} h of speech. Use {init} as it is, record more, or lower "
        "optim.learning_rate"
    )


def tuning_hint(config: Config) -> str:
    """How to decode as the model that training started from does, where that has a language model; else nothing."""
    init, output = config.train.init, config.train.output
    try:
        source = locate_model(init)
        lm = load_options(source).lm
    except AsrError:  # a run that was resumed where the model is gone
        return ""
    if not isinstance(lm, str) or not lm or os.path.exists(Path(output) / DECODING_FILE):
        return ""
    place = init if source.parent == bundle_folder() else lm
    held_out = without_secrets(config.data.valid) or "VALID.jsonl"
    return (
        f"{init} decodes with a language model, {output} greedily so far: "
        f"asr tune {held_out} --model {output} --lm {place} --beam 64 finds its weights"
    )


def rate_factors(network: AcousticModel, config: Config) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied by: 0 for those that ``train.freeze`` keeps.

    A parameter ``n`` parts below the output layer gets ``optim.layer_decay ** n``. The parts are the convolutions, each
    recurrent layer, and the output layer.
    """
    top = config.model.layers + 1
    factors = {}
    for name, _ in network.named_parameters():
        first, *rest = name.split(".")
        if first in ("subsampling", "input_norm"):
            depth = 0
        elif first == "encoder":
            depth = next((int(word) + 1 for word in rest if word.isdigit()), top - 1)
        else:
            depth = top
        factors[name] = 0.0 if depth < config.train.freeze else config.optim.layer_decay ** (top - depth)
    return factors


def _by_token(parameter: Tensor, upsampling: int) -> Tensor:
    """View of an output parameter ``(upsampling * V, ...)`` as ``(upsampling, V, ...)``."""
    return parameter.view(upsampling, -1, *parameter.shape[1:])
