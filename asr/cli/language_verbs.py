"""Commands for language models on texts: train-ngram, lm-convert, perplexity, generate."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from asr.cli import shared_options as shared
from asr.cli.shared_options import OK
from asr.config.arguments import number, whole
from asr.files import check_output


def add_language_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_train_ngram(commands)
    _add_lm_convert(commands)
    _add_perplexity(commands)
    _add_generate(commands)


def _add_train_ngram(commands: Any) -> None:
    ngram = commands.add_parser("train-ngram", help="estimate a modified Kneser-Ney word n-gram")
    add = ngram.add_argument
    add("text", metavar="TEXT", help="text, one sentence a line (or .gz), a manifest (.jsonl), or a folder of these")
    add(
        "output",
        metavar="LM",
        help="file to write: .safetensors (mapped, opens at once), else ARPA (compressed for .gz)",
    )
    add("--order", type=whole(1, 5), default=3, metavar="N", help="1 to 5 (default: 3)")
    add(
        "--prune",
        type=number(0, off=0.0),
        default=0.0,
        metavar="SHARE",
        help="drop n-grams that change the perplexity by less than this share",
    )
    add("--ngrams", type=whole(0), default=0, metavar="N", help="prune to at most N n-grams of order 2 and above")
    add("--size", type=number(0, off=0.0), default=0.0, metavar="MB", help="prune to this size, as with --quantize")
    add("--words", type=whole(0), default=0, metavar="N", help="keep the N most frequent words; others count as <unk>")
    add("--vocabulary", metavar="FILE", help="keep only the words of this list, one a line")
    add("--more", action="append", default=[], metavar="TEXT", help="a further text; may be repeated")
    add("--model", metavar="MODEL", help="write numbers out, and spell words as this model does")
    add("--prose", action="store_true", help="the texts are running prose: split paragraphs into sentences")
    add("--language", default="en", metavar="CODE", help="language in which --model writes numbers out (default: en)")
    add("--quantize", action="store_true", help="store probabilities in .safetensors as codes of 8 bits")
    add(
        "--lmplz", default="auto", metavar="PROGRAM", help="KenLM's lmplz; auto: for long texts if on PATH; none: never"
    )
    add("--temporary", type=Path, metavar="DIR", help="folder for counts (default: beside the output)")
    shared.add_force(ngram)
    ngram.set_defaults(run=_train_ngram)


def _add_lm_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "lm-convert",
        help="write a word n-gram as arrays that open at once, or as ARPA",
        description="Writes a word n-gram as a safetensors file, which every option that takes an n-gram opens in "
        "milliseconds; or as an ARPA file where OUT ends in .arpa or .gz.",
    )
    convert.add_argument("lm", metavar="LM", help="word n-gram: ARPA, compressed or not, or .safetensors")
    convert.add_argument("output", metavar="OUT", help="file to write, such as words.safetensors")
    convert.add_argument(
        "--bits",
        type=whole(8, 64),
        choices=(8, 64),
        default=64,
        help="bits of each probability: 64 keeps them exactly, 8 makes the file less than half as large (default: 64)",
    )
    convert.add_argument(
        "--model",
        metavar="DIR",
        help="also store the words in the spelling of this model, so that a search starts faster",
    )
    shared.add_force(convert)
    convert.set_defaults(run=_lm_convert)


def _add_perplexity(commands: Any) -> None:
    perplexity = commands.add_parser("perplexity", help="perplexity of a language model on a text")
    perplexity.add_argument("lm", metavar="LM", help="directory of train-lm, or a word n-gram (ARPA, .safetensors)")
    perplexity.add_argument("text", metavar="TEXT", help="text, one sentence a line, or a manifest (.jsonl)")
    perplexity.add_argument(
        "--adapt",
        type=number(0, off=0.0),
        default=0.0,
        metavar="RATE",
        help="let the model learn from each sentence at this rate, such as 0.1",
    )
    perplexity.set_defaults(run=_perplexity)


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser("generate", help="draw texts from a recurrent language model")
    generate.add_argument("lm", metavar="LM", help="directory of train-lm")
    generate.add_argument("--prompt", default="", help="the text's beginning")
    generate.add_argument(
        "--temperature", type=number(0), default=1.0, metavar="T", help="0: always the likeliest symbol"
    )
    generate.add_argument(
        "--length", type=whole(0), default=200, metavar="N", help="maximum number of symbols (default: 200)"
    )
    generate.add_argument("--count", type=whole(0), default=1, metavar="N", help="texts to write (default: 1)")
    generate.add_argument("--seed", type=whole(0), default=1)
    generate.set_defaults(run=_generate)


def _train_ngram(args: argparse.Namespace) -> int:
    from asr.lm.kneser_ney import is_ours
    from asr.lm.lm_texts import TextReading
    from asr.lm.ngram_training import Limits, check_name, estimate_ngram, write_estimate

    output = Path(args.output)
    check_name(output, quantized=args.quantize)
    check_output(output, force=args.force, ours=is_ours)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        estimate = estimate_ngram(
            args.text,
            order=args.order,
            prune=args.prune,
            more=args.more,
            reading=TextReading(args.model, args.prose, args.language),
            limits=Limits(args.words, args.vocabulary, args.ngrams, args.size),
            lmplz=args.lmplz,
            folder=args.temporary or next((p for p in output.absolute().parents if os.access(p, os.W_OK)), None),
        )
    write_estimate(estimate, output, quantized=args.quantize, model=args.model)
    for remark in [*(str(one.message) for one in remarks), estimate.remark]:
        if remark:
            print(f"note: {remark}", file=sys.stderr)
    print(f"{args.output}: {', '.join(f'{count} {n}-grams' for n, count in enumerate(estimate.counts, start=1))}")
    return OK


def _lm_convert(args: argparse.Namespace) -> int:
    from asr.decode.ngram_file import is_own_ngram
    from asr.lm import lm_conversion

    output = Path(args.output)
    check_output(output, force=args.force, ours=is_own_ngram)
    ngram = lm_conversion.convert_ngram(args.lm, output, bits=args.bits, model=args.model)
    counts = ", ".join(f"{count} {n}-grams" for n, count in enumerate(ngram.arrays.counts.tolist(), start=1))
    print(f"{output}: {counts}, {output.stat().st_size / 1e6:.1f} MB")
    return OK


def _perplexity(args: argparse.Namespace) -> int:
    from asr.lm import lm_directory, perplexities
    from asr.lm.ngram_training import read_sentences

    texts = read_sentences(args.text)
    figures = perplexities.perplexity(lm_directory.load_language_model(args.lm), texts, adapt=args.adapt)
    print(f"perplexity per token {figures.token:.3f}, per word {figures.word:.3f}, per character {figures.char:.3f}")
    if figures.unknown:
        print(f"{figures.unknown} words are unknown to the model and not counted")
    if figures.as_unk:
        print(f"{figures.as_unk} words are unknown to the model and scored as <unk>")
    return OK


def _generate(args: argparse.Namespace) -> int:
    from asr.lm import generation, lm_directory

    directory = lm_directory.load_recurrent(args.lm)
    for index in range(args.count):
        options = {"temperature": args.temperature, "length": args.length, "seed": args.seed + index}
        symbols = generation.generate(directory, args.prompt, **options)
        sys.stdout.write(args.prompt)
        for symbol in symbols:
            sys.stdout.write(symbol)
            sys.stdout.flush()
        sys.stdout.write("\n")
    return OK
