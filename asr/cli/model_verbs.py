"""Commands for models as files: info, average, quantize; and warm-up, which compiles the search."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from asr.cli import shared_options as shared
from asr.cli.shared_options import OK
from asr.config.arguments import number
from asr.errors import AsrError


def add_model_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_info(commands)
    _add_average(commands)
    _add_quantize(commands)
    _add_warm_up(commands)


def _add_info(commands: Any) -> None:
    info = commands.add_parser("info", help="show a model's or an export's size, training data and accuracy")
    info.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="directory, bundled name (default: the bundled one), folder of asr export, or graph",
    )
    info.set_defaults(run=_info)


def _add_average(commands: Any) -> None:
    average = commands.add_parser(
        "average",
        help="average the weights of models, one trained from the other",
        description="Writes the mean of the models' weights. Everything else comes from the last model. Tuned "
        "decoding options are not copied.",
    )
    average.add_argument("models", nargs="+", metavar="MODEL", help="directories or bundled names, two or more")
    average.add_argument("--output", required=True, metavar="DIR", help="model directory to write")
    average.add_argument(
        "--weights", type=number(), nargs="+", metavar="W", help="weight of each model (default: equal)"
    )
    shared.add_force(average)
    average.set_defaults(run=_average)


def _add_quantize(commands: Any) -> None:
    quantize = commands.add_parser(
        "quantize",
        help="store a model's weights as int8: a quarter of the size of a training's output",
        description="Copies a model directory with all its files. Only the type of the stored weights changes. "
        "The copy can be loaded, fine-tuned and averaged like any other model.",
    )
    quantize.add_argument("model", metavar="MODEL", help="directory or bundled name")
    quantize.add_argument("--output", required=True, metavar="DIR", help="model directory to write")
    quantize.add_argument(
        "--storage",
        choices=("int8", "float16", "float32"),
        default="int8",
        help="type of the stored weights (default: int8)",
    )
    shared.add_force(quantize)
    quantize.set_defaults(run=_quantize)


def _add_warm_up(commands: Any) -> None:
    warm = commands.add_parser(
        "warm-up",
        help="compile the beam search for this machine now, instead of at the first transcription",
        description="Compiles the searches of the bundled models, once for each installation, and names the folder of "
        "the compiled code. If all are compiled, it does nothing.",
    )
    warm.add_argument(
        "--phrases", action="store_true", help="also compile the search of templates and long lists (--phrases)"
    )
    warm.set_defaults(run=_warm_up)


def _info(args: argparse.Namespace) -> int:
    from asr.export.export_description import describe_export, is_described_here
    from asr.lm.lm_directory import describe_ngrams
    from asr.models import description
    from asr.models.bundled import locate_model
    from asr.recognize import option_sources
    from asr.recognize.options import load_chunks

    place = locate_model(args.model)
    if is_described_here(place):
        print(describe_export(place))
        return OK
    model = description.read_description(args.model)
    print(description.describe_model(model))
    choice = option_sources.merge(model.path)
    lines = [choice.describe(), option_sources.confidences(model.path, choice.options).describe()]
    if model.config.model.bidirectional:
        lines.append(load_chunks(model.path).describe())
    lines += [*describe_ngrams(choice.options.lm), *describe_ngrams(choice.options.rescore)]
    print("decoding:\n" + textwrap.indent("\n".join(lines), "  "))
    return OK


def _quantize(args: argparse.Namespace) -> int:
    from asr.models.description import describe_model, read_description
    from asr.models.storage import quantize_model

    quantize_model(args.model, args.output, storage=args.storage, force=args.force)
    print(describe_model(read_description(args.output)))
    return OK


def _average(args: argparse.Namespace) -> int:
    from asr.models.averaging import average_models
    from asr.models.description import describe_model, read_description

    average_models(args.models, args.output, args.weights, force=args.force)
    print(describe_model(read_description(args.output)))
    return OK


def _warm_up(args: argparse.Namespace) -> int:
    from asr.decode.warming import warm_up

    done = warm_up(phrases=args.phrases)
    if done.folder is None:
        raise AsrError(
            "the compiled search cannot be kept (see the note above); set NUMBA_CACHE_DIR to a writable folder"
        )
    if done.compiled:
        print(f"{done.folder}: the search is compiled and kept here ({done.seconds:.1f} s)")
    return OK
