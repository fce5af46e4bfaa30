"""Commands that train neural models and show their progress: train, train-lm, train-readable, plot."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import files
from asr.cli import printing
from asr.cli import shared_options as shared
from asr.cli.shared_options import OK
from asr.config.arguments import number, whole
from asr.errors import AsrError

if TYPE_CHECKING:
    from asr.train.resume import Progress


def add_training_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_train(commands)
    _add_train_lm(commands)
    _add_train_readable(commands)
    _add_plot(commands)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train an acoustic model from a configuration file")
    train.add_argument("config", metavar="CONF", help="YAML file, such as recipes/an4/conf/blstm.yaml")
    train.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as model.layers=4 train.epochs=20"
    )
    _add_keys(train)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    shared.add_cache(train, "20")
    train.add_argument(
        "--finish",
        metavar="SECONDS",
        help="lower the learning rate from the last checkpoint over this many seconds (or 2epochs), and end the run",
    )
    train.set_defaults(run=_train, extends="overrides", awake=True)


def _add_train_lm(commands: Any) -> None:
    train = commands.add_parser("train-lm", help="train a recurrent language model from a configuration file")
    train.add_argument("config", metavar="CONF", help="YAML file, such as recipes/an4/conf/lm.yaml")
    train.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as model.layers=2 train.epochs=20"
    )
    _add_keys(train)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    train.set_defaults(run=_train_lm, extends="overrides", awake=True)


def _add_train_readable(commands: Any) -> None:
    train = commands.add_parser(
        "train-readable",
        help="train the tagger that gives transcripts case and punctuation",
        description="OUT is the folder readable/ of a model directory. The texts are English prose with capitals and "
        "punctuation: text files, compressed or not, or folders of these.",
    )
    add = train.add_argument
    add("texts", nargs="+", metavar="TEXT", help="prose, with empty lines between paragraphs")
    add("output", metavar="OUT", help="folder to write")
    add("--valid", default="", metavar="TEXT", help="held-out prose that chooses the weights to keep")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=whole(1), default=3, metavar="N", help="passes over the texts (default: 3)")
    length.add_argument(
        "--seconds", type=number(0, above=True), metavar="S", help="train for this many seconds instead"
    )
    add("--words", type=whole(1, 1_000_000), default=20_000, metavar="N", help="vocabulary (default: 20000)")
    add(
        "--lookahead",
        type=whole(1, 64),
        default=4,
        metavar="N",
        help="following words that the tag of a word waits for (default: 4)",
    )
    add("--hidden", type=whole(1, 4096), default=224, metavar="N", help="units of a layer (default: 224)")
    add("--layers", type=whole(1, 16), default=2, metavar="N", help="recurrent layers (default: 2)")
    add("--batch", type=whole(1), default=64, metavar="N", help="texts of a step (default: 64)")
    add("--seed", type=whole(0, 2**32 - 1), default=1)
    add("--threads", type=whole(0), default=0, metavar="N", help="CPU threads (default: as torch chooses)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    train.set_defaults(run=_train_readable, awake=True)


def _add_plot(commands: Any) -> None:
    plot = commands.add_parser("plot", help="draw loss, error rates, learning rate and gradient norm of runs")
    plot.add_argument("runs", nargs="+", metavar="RUN", help="run directory (train.output), or its log.jsonl")
    plot.add_argument("--output", type=Path, metavar="PNG", help="default: curves.png in the run's folder, or here")
    plot.set_defaults(run=_plot, extends="runs")


class _Alone(argparse.Action):
    """An option that stands alone: what the command otherwise needs need not be given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)
        for action in parser._actions:
            action.required = False


def _add_keys(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a training's configuration; ``_show_keys`` does what they ask for."""
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


def _show_keys(args: argparse.Namespace, config: type, verb: str) -> int:
    """Print the keys of a verb's configuration (``--keys``), write their schema (``--schema``), or both."""
    from asr.config import keys

    if args.config is not None or args.overrides or args.resume:
        raise AsrError("--keys, --schema: expected no CONF, key=value or --resume beside them: they train nothing")
    if args.schema:
        files.check_report(args.schema)
        files.write_json(args.schema, keys.json_schema(config, f"Configuration of asr {verb}"))
    if args.keys:
        print(keys.describe_keys(config))
    return OK


def _train(args: argparse.Namespace) -> int:
    from asr.config import sections

    if args.keys or args.schema:
        return _show_keys(args, sections.Config, "train")
    from asr.config.ranks import processes
    from asr.train import acoustic_task, distributed
    from asr.train.schedule import Finish

    finish = Finish.parse(args.finish) if args.finish is not None else None
    settings = sections.load_config(args.config, args.overrides)
    progress = acoustic_task.train_acoustic(settings, resume=args.resume, finish=finish)
    best = f"best validation WER {100 * progress.best:.2f} %" if settings.data.valid else "not validated"
    if processes()[0] == 0:  # under torchrun the first process speaks
        print(f"{settings.train.output}: {best}, {_how_far(progress, settings.train.seconds)}")
    if distributed.together():
        # All is written. Seen once in hundreds of runs: a thread of the communication library that outlives the
        # interpreter aborts the process on its way out, and torchrun takes the training for failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(OK)
    return OK


def _how_far(progress: Progress, seconds: float) -> str:
    """What has been done. A run by the clock may end in its first epoch."""
    return f"{progress.clock_s:.0f} s of training done" if seconds else f"epoch {progress.epoch} done"


def _train_readable(args: argparse.Namespace) -> int:
    from asr.config.language import LanguageConfig, NetworkConfig, TextDataConfig
    from asr.config.training_sections import OptimConfig, TrainConfig
    from asr.train.readable_task import train_readable

    length = {"seconds": args.seconds} if args.seconds else {"epochs": args.epochs}
    config = LanguageConfig(
        model=NetworkConfig("lstm", args.layers, args.hidden, 64, 0.1),
        data=TextDataConfig(train=", ".join(args.texts), valid=args.valid, batch=args.batch),
        optim=OptimConfig(learning_rate=3e-3, warmup_ratio=0.05),
        train=TrainConfig(output=args.output, seed=args.seed, threads=args.threads, device=args.device, **length),
    )
    train_readable(args.texts, config, words=args.words, lookahead=args.lookahead, resume=args.resume)
    return OK


def _train_lm(args: argparse.Namespace) -> int:
    from asr.config import loader
    from asr.config.language import LanguageConfig

    if args.keys or args.schema:
        return _show_keys(args, LanguageConfig, "train-lm")
    from asr.train import language_task

    config = loader.read_yaml(LanguageConfig, args.config, args.overrides)
    progress = language_task.train_language(config, resume=args.resume)
    best = f"best perplexity per token {progress.best:.3f}" if config.data.valid else "not validated"
    print(f"{config.train.output}: {best}, {_how_far(progress, config.train.seconds)}")
    return OK


def _plot(args: argparse.Namespace) -> int:
    from asr.train import curves

    folder = Path(args.runs[0]) if len(args.runs) == 1 and os.path.isdir(args.runs[0]) else Path()
    output = args.output or folder / "curves.png"
    files.check_report(output)
    for log in curves.draw_curves(args.runs, output):
        printing.show(curves.describe_runs(log))
    printing.show(str(output))
    return OK
