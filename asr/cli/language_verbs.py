"""Arguments of the commands for language models: training, perplexity, generation, tuning, calibration."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

from asr.config.arguments import file_or_none, number, numbers, whole
from asr.errors import AsrError
from asr.files import check_output, check_report, is_model, write_json

OK = 0


def add_language_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    train = commands.add_parser("train-lm", help="train a recurrent language model from a configuration file")
    train.add_argument("config", metavar="CONF", help="YAML file, such as recipes/an4/conf/lm.yaml")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.layers=2 train.epochs=20")
    add_keys(train)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    train.set_defaults(run=_train_lm, extends="overrides", awake=True)

    ngram = commands.add_parser("train-ngram", help="estimate a modified Kneser-Ney word n-gram and write it as ARPA")
    ngram.add_argument("text", metavar="TEXT", help="text, one sentence a line, or a manifest (.jsonl)")
    ngram.add_argument("output", metavar="ARPA", help="file to write; compressed if it ends in .gz")
    ngram.add_argument("--order", type=whole(1, 5), default=3, metavar="N", help="1 to 5 (default: 3)")
    ngram.add_argument(
        "--prune",
        type=number(0, off=0.0),
        default=0.0,
        metavar="SHARE",
        help="drop n-grams that change the perplexity by less than this share",
    )
    ngram.add_argument("--more", action="append", default=[], metavar="TEXT", help="a further text; may be repeated")
    add_force(ngram)
    ngram.set_defaults(run=_train_ngram)

    perplexity = commands.add_parser("perplexity", help="perplexity of a language model on a text")
    perplexity.add_argument("lm", metavar="LM", help="directory of train-lm, or an ARPA file")
    perplexity.add_argument("text", metavar="TEXT", help="text, one sentence a line, or a manifest (.jsonl)")
    perplexity.add_argument(
        "--adapt",
        type=number(0, off=0.0),
        default=0.0,
        metavar="RATE",
        help="let the model learn from each sentence at this rate, such as 0.1",
    )
    perplexity.set_defaults(run=_perplexity)

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

    tune = commands.add_parser(
        "tune",
        help="choose language model weight, word bonus and beam on held-out speech",
        description="Tries settings on a manifest of held-out speakers, and saves the best into the "
        "model directory (decoding.yaml and lm/), where transcribe and evaluate find them.",
    )
    tune.add_argument("--json", type=Path, metavar="OUT", help="write every setting with its errors")
    _add_held_out(tune)
    tune.set_defaults(run=_tune)

    calibrate = commands.add_parser(
        "calibrate",
        help="fit confidences to held-out speech",
        description="Fits word confidences on a manifest of held-out speakers, for greedy decoding and "
        "for the beam search, and saves them into the model directory (confidence.json).",
    )
    calibrate.add_argument("--plot", type=Path, metavar="PNG", help="draw reliability diagrams")
    _add_held_out(calibrate)
    calibrate.set_defaults(run=_calibrate)


def add_force(command: argparse.ArgumentParser) -> None:
    """The one option that lets a command write over what it did not make."""
    command.add_argument("--force", action="store_true", help="overwrite existing files")


def _add_held_out(command: argparse.ArgumentParser) -> None:
    """Arguments of commands that fit something to held-out speech and save it with the model."""
    command.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest of held-out speakers")
    command.add_argument("--model", required=True, metavar="DIR", help="model directory")
    command.add_argument("--root", metavar="DIR", help="refuse audio paths that lead outside this folder")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    command.add_argument("--save-to", type=Path, metavar="DIR", help="save into another model directory than --model")
    add_force(command)
    command.add_argument("--dry-run", action="store_true", help="show the figures, save nothing")
    add_decoding(command)


def _check_save_to(args: argparse.Namespace) -> None:
    """Refuse a folder that holds something else than a model, before the work."""
    if args.save_to is not None and not args.dry_run:
        check_output(args.save_to, force=args.force, ours=is_model)


def _refuse_phrases(args: argparse.Namespace) -> None:
    for name in ("phrases", "speeds"):
        if getattr(args, name):
            raise AsrError(
                f"--{name}: expected a search with weights to fit, got a list of phrases; leave the phrases out"
            )


def _calibrate(args: argparse.Namespace) -> int:
    from asr import plotting
    from asr.decode import confidence
    from asr.evaluation import calibration
    from asr.models.model_directory import load_model
    from asr.recognize.option_sources import choose
    from asr.recognize.options import Decoding
    from asr.recognize.recognizer import Recognizer

    if args.plot:
        plotting.require()
    _refuse_phrases(args)
    _check_save_to(args)
    announce(args, confidences=False)
    model = load_model(args.model)
    wide = choose(model.path, **decoding_options(args))
    folder = args.save_to or model.path
    fits = []
    for options in [Decoding()] + ([wide] if wide.beam > 1 else []):
        recognizer = Recognizer(model, device=args.device, decoding=options)
        fits.append(calibration.calibrate_model(args.manifest, recognizer, args.root, folder=folder))
        print(fits[-1].summary())
    if args.plot:
        calibration.draw_reliability(fits, args.plot)
    old = confidence.load_calibration(folder)
    new = calibration.improved(old, fits)
    if new == old:
        print(f"nothing was better than the confidences as they are: {folder / confidence.CONFIDENCE_FILE} not saved")
    elif not args.dry_run:
        confidence.save_calibration(folder, new)
        print(f"saved: {folder / confidence.CONFIDENCE_FILE}")
    return OK


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Options that say how posteriors become text."""
    group = parser.add_argument_group(
        "decoding",
        "by default as the model directory says, else greedily; files, hot words, --language, --lm-adapt, "
        "--word-bonus, --unknown-penalty and thresholds take none, which switches off",
    )
    group.add_argument("--beam", type=whole(1, 100_000), metavar="K", help="beam width; 1 is greedy")
    group.add_argument(
        "--lm",
        type=file_or_none,
        action="append",
        metavar="LM",
        help="directory of train-lm, or an ARPA file (.arpa, .gz); may be given several times to combine models",
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
        help="closed list of phrases, one a line; each recording is one of them",
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
    """Say on standard error what ``--verbose`` asks for, and where fitted ``confidences`` do not hold."""
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
    """What ``add_decoding``'s arguments give, None where they were not given."""
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


class _Alone(argparse.Action):
    """An option that stands alone: what the command otherwise needs need not be given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)
        for action in parser._actions:
            action.required = False


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a training's configuration; ``show_keys`` does what they ask for."""
    parser.add_argument(
        "--keys",
        action=_Alone,
        nargs=0,
        const=True,
        default=False,
        help="print every key of CONF with its type, range, default and comment, and do nothing else",
    )
    parser.add_argument(
        "--schema",
        action=_Alone,
        type=Path,
        metavar="FILE",
        help="write a JSON schema of CONF, by which editors complete and check it, and do nothing else",
    )


def show_keys(args: argparse.Namespace, config: type, verb: str) -> int:
    """Print the keys of a verb's configuration (``--keys``), write their schema (``--schema``), or both."""
    from asr.config import keys

    if args.config is not None or args.overrides or args.resume:
        raise AsrError("--keys, --schema: expected no CONF, key=value or --resume beside them: they train nothing")
    if args.schema:
        check_report(args.schema)
        write_json(args.schema, keys.json_schema(config, f"Configuration of asr {verb}"))
    if args.keys:
        print(keys.describe_keys(config))
    return OK


def _train_lm(args: argparse.Namespace) -> int:
    from asr.config import loader
    from asr.config.language import LanguageConfig

    if args.keys or args.schema:
        return show_keys(args, LanguageConfig, "train-lm")
    from asr.train import language_task

    config = loader.read_yaml(LanguageConfig, args.config, args.overrides)
    progress = language_task.train_language(config, resume=args.resume)
    best = f"best perplexity per token {progress.best:.3f}" if config.data.valid else "not validated"
    print(f"{config.train.output}: {best}, epoch {progress.epoch} done")
    return OK


def _train_ngram(args: argparse.Namespace) -> int:
    from asr.lm.kneser_ney import is_ours
    from asr.lm.ngram_training import estimate_ngram

    check_output(Path(args.output), force=args.force, ours=is_ours)
    estimate = estimate_ngram(args.text, order=args.order, prune=args.prune, more=args.more)
    estimate.write(args.output)
    if estimate.remark:
        print(f"note: {estimate.remark}", file=sys.stderr)
    print(f"{args.output}: {', '.join(f'{count} {n}-grams' for n, count in enumerate(estimate.counts, start=1))}")
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


def _tune(args: argparse.Namespace) -> int:
    from asr.evaluation import tuning
    from asr.models.model_directory import load_model
    from asr.recognize.option_sources import choose
    from asr.recognize.options import Decoding, load_options, save_options
    from asr.recognize.recognizer import Recognizer

    _refuse_phrases(args)
    check_report(args.json)
    _check_save_to(args)
    announce(args, confidences=False)
    model = load_model(args.model)
    given = decoding_options(args)
    given["beam"] = given["beam"] or tuning.SEARCH_BEAM  # a search, also where the directory holds phrases
    options = choose(model.path, **given)
    folder = args.save_to or model.path
    present = load_options(folder)
    recognizer = Recognizer(model, device=args.device, decoding=Decoding())
    trials = tuning.tune_decoding(
        args.manifest, recognizer, options, present=None if present.phrases else present, root=args.root
    )
    for trial in trials:
        print(trial)
    best = tuning.best_of(trials)
    if args.json:
        write_json(args.json, {"best": best.to_dict(), "trials": [trial.to_dict() for trial in trials]})
    print(f"best: {best}")
    if best.options == present:
        print(f"nothing was better than what {folder} says: not saved")
    elif not args.dry_run:
        save_options(folder, best.options)
        print(f"saved: {folder / 'decoding.yaml'}")
    return OK
