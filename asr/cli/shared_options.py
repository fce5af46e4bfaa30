"""Exit statuses, and the options that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any

from asr.config.arguments import file_or_none, number, numbers, whole
from asr.errors import AsrError

OK, SOME_FAILED, FAILED = 0, 1, 2
"""Exit statuses: everything worked; some inputs failed and the others are done; nothing was done."""


def add_force(command: argparse.ArgumentParser) -> None:
    """Add ``--force``, which lets a command overwrite files that it did not make."""
    command.add_argument("--force", action="store_true", help="overwrite existing files")


def add_cache(command: argparse.ArgumentParser, default: str = "0: no cache") -> None:
    """Add ``--cache-gb``: what may be kept on this disk of recordings at URLs."""
    command.add_argument(
        "--cache-gb",
        type=number(0),
        metavar="GB",
        help="keep copies of recordings at URLs on this disk, at most this size (default: ASR_CACHE_GB, else "
        f"{default})",
    )


def keep_inputs(args: argparse.Namespace) -> None:
    """Set what ``--cache-gb`` says, here and for the processes that this one starts."""
    if args.cache_gb is not None:
        os.environ["ASR_CACHE_GB"] = str(args.cache_gb)


def add_model(parser: argparse.ArgumentParser, *, decoding: bool = True) -> None:
    """Add ``--model``, ``--device`` and, with ``decoding``, the options of ``add_decoding``."""
    parser.add_argument("--model", metavar="DIR|NAME", help="model directory or bundled name (default: bundled)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    if decoding:
        add_decoding(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine`` and ``--ray-address``: where recordings are transcribed."""
    parser.add_argument(
        "--engine", default="local", choices=("local", "ray"), help="this machine, or a Ray cluster (extra: ray)"
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="head of the Ray cluster, or auto (default: RAY_ADDRESS, else Ray is started on this machine)",
    )


def check_engine(args: argparse.Namespace) -> None:
    """Refuse ``--ray-address`` without Ray."""
    if args.ray_address is not None and args.engine != "ray":
        raise AsrError("--ray-address: expected --engine ray as well; give it, or leave the address out")


def add_language(parser: argparse.ArgumentParser) -> None:
    """Add ``--language``, in which numbers and abbreviations of a text are written out."""
    help = "language for writing out numbers and abbreviations (default: that of the model directory, else en; or none)"
    parser.add_argument("--language", metavar="CODE", help=help)


def given_words(text: str) -> str:
    """The words themselves, or those in a file of that name."""
    try:
        return Path(text).read_text(encoding="utf-8-sig") if os.path.isfile(text) else text
    except (OSError, UnicodeDecodeError) as error:
        raise AsrError(f"{text}: cannot read the text: {error}") from error


def add_also(parser: argparse.ArgumentParser) -> None:
    """Add ``--also``: further models that judge a list of phrases."""
    help = "another model to choose among the --phrases (may be given several times)"
    parser.add_argument("--also", action="append", default=[], metavar="DIR|NAME", help=help)


def add_chunks(parser: argparse.ArgumentParser) -> None:
    """Add ``--chunk-s`` and ``--right-s``: how a bidirectional model cuts a stream into chunks."""
    parser.add_argument(
        "--chunk-s",
        type=number(0, 3600, above=True, off=None),
        metavar="S",
        help="chunk length of a bidirectional model (default: 0.64)",
    )
    parser.add_argument(
        "--right-s", type=number(0, 3600), metavar="S", help="right context of each chunk (default: 0.64)"
    )


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Add the options of decoding: how posteriors become text."""
    group = parser.add_argument_group(
        "decoding",
        "Defaults: the options of the model directory, else greedy decoding. The value none switches off a file, hot "
        "words, --language, --lm-adapt, --word-bonus, --blank-penalty, --unknown-penalty or a threshold.",
    )
    group.add_argument("--beam", type=whole(1, 100_000), metavar="K", help="beam width; 1 is greedy")
    group.add_argument(
        "--lm",
        type=file_or_none,
        action="append",
        metavar="LM",
        help="directory of train-lm, word n-gram (ARPA, .safetensors), or the name of a bundled model for its language "
        "model; several are combined",
    )
    group.add_argument(
        "--lm-weight",
        type=number(0),
        action="append",
        metavar="W",
        help="weight of the language model (default: 0.5); for several --lm one for each in order, or one for all",
    )
    group.add_argument(
        "--lm-adapt",
        type=number(0, off=0.0),
        metavar="RATE",
        help="let the language model learn from recognised text at this rate, such as 0.1",
    )
    group.add_argument(
        "--lm-carry",
        action=argparse.BooleanOptionalAction,
        help="keep the context of the language models between utterances of a long recording or stream",
    )
    group.add_argument("--word-bonus", type=number(off=0.0), metavar="B", help="added for each word, natural logarithm")
    group.add_argument(
        "--blank-penalty",
        type=number(low=0, off=0.0),
        metavar="P",
        help="taken from the logarithm of blank in every frame, against deletions, such as 0.5",
    )
    group.add_argument("--lexicon", type=file_or_none, metavar="FILE", help="allowed words, one a line")
    group.add_argument(
        "--unknown-penalty",
        type=number(high=0, off=-math.inf),
        metavar="P",
        help="allow other words at this cost (a negative number)",
    )
    group.add_argument(
        "--hotword", action="append", metavar="WORD:BOOST", help="make a word or phrase likelier, such as GORDON:5"
    )
    group.add_argument(
        "--language",
        metavar="CODE",
        help="language in which numbers in --phrases and --hotword are written out (default: en; or none)",
    )
    group.add_argument(
        "--phrases",
        type=file_or_none,
        metavar="FILE",
        help="closed list of phrases or templates, such as call {name}, one a line; each recording is one of them",
    )
    group.add_argument(
        "--speeds",
        type=numbers,
        metavar="S,S,…",
        help="recognise at several speeds, such as 0.9,1,1.1 (with --phrases)",
    )
    group.add_argument(
        "--rescore", type=file_or_none, metavar="LM", help="language model that rescores the best hypotheses"
    )
    group.add_argument("--rescore-weight", type=number(0), metavar="W", help="weight of --rescore (default: 0.5)")
    group.add_argument(
        "--nbest", type=whole(1, 100_000), metavar="N", help="hypotheses that --rescore scores (default: 16)"
    )
    group.add_argument(
        "--rescore-keep",
        type=number(0),
        metavar="S",
        help="share of the search's language models that counts beside --rescore; 0 replaces them (default: 1)",
    )
    group.add_argument(
        "--token-threshold",
        type=number(high=0, off=-math.inf),
        metavar="L",
        help="tokens below this log-probability open no prefix, such as -7",
    )
    group.add_argument(
        "--beam-threshold",
        type=number(0, off=math.inf),
        metavar="L",
        help="drop prefixes that score less than the best by this much",
    )
    group.add_argument(
        "--verbose",
        action="store_true",
        help="print each option's value and whether it comes from the command line, "
        "the model directory or the defaults",
    )


def announce(args: argparse.Namespace, *, confidences: bool = True) -> None:
    """Print on standard error what ``--verbose`` asks for, and a note where fitted ``confidences`` do not hold."""
    from asr.models.bundled import locate_model
    from asr.recognize import option_sources

    folder = locate_model(args.model)
    choice = option_sources.merge(folder, **decoding_options(args))
    if args.verbose:
        print(choice.describe("command line"), file=sys.stderr)
    if not confidences:
        return
    found = option_sources.confidences(folder, choice.options)
    if args.verbose:
        print(found.describe(), file=sys.stderr)
    if found.remark:
        print(f"note: {found.remark}", file=sys.stderr)


def decoding_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of ``add_decoding``'s options; None for those that were not given."""
    from asr.decode.lexicon import parse_hotwords
    from asr.recognize.options import Decoding

    names = {f.name for f in dataclasses.fields(Decoding)} & vars(args).keys()
    options = {name: getattr(args, name) for name in names}
    for name in ("lm", "lm_weight"):
        if options[name] is not None:
            options[name] = options[name][0] if len(options[name]) == 1 else tuple(options[name])
    if args.hotword:
        options["hotwords"] = {} if args.hotword == ["none"] else parse_hotwords(args.hotword)
    return options
