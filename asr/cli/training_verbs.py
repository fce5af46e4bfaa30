"""Commands that train neural models and show their progress: train, train-lm, plot."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from asr import files
from asr.cli import printing
from asr.cli.shared_options import OK
from asr.errors import AsrError


def add_training_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_train(commands)
    _add_train_lm(commands)
    _add_plot(commands)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train an acoustic model from a configuration file")
    train.add_argument("config", metavar="CONF", help="YAML file, such as recipes/an4/conf/blstm.yaml")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.layers=4 train.epochs=20")
    _add_keys(train)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    train.add_argument(
        "--finish",
        metavar="SECONDS",
        help="decay from the last checkpoint over so many seconds (or 2epochs) and end the run",
    )
    train.set_defaults(run=_train, extends="overrides", awake=True)


def _add_train_lm(commands: Any) -> None:
    train = commands.add_parser("train-lm", help="train a recurrent language model from a configuration file")
    train.add_argument("config", metavar="CONF", help="YAML file, such as recipes/an4/conf/lm.yaml")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.layers=2 train.epochs=20")
    _add_keys(train)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    train.set_defaults(run=_train_lm, extends="overrides", awake=True)


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
    from asr.models.device import processes
    from asr.train import acoustic_task, distributed
    from asr.train.schedule import Finish

    finish = Finish.parse(args.finish) if args.finish is not None else None
    settings = sections.load_config(args.config, args.overrides)
    progress = acoustic_task.train_acoustic(settings, resume=args.resume, finish=finish)
    best = f"best validation WER {100 * progress.best:.2f} %" if settings.data.valid else "not validated"
    if processes()[0] == 0:  # under torchrun the first process speaks
        print(f"{settings.train.output}: {best}, epoch {progress.epoch} done")
    if distributed.together():
        # All is written. Seen once in hundreds of runs: a thread of the communication library that outlives the
        # interpreter aborts the process on its way out, and torchrun takes the training for failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(OK)
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
    print(f"{config.train.output}: {best}, epoch {progress.epoch} done")
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
