"""The command that learns from corrections: asr learn."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from asr import files
from asr.cli import printing
from asr.cli.shared_options import FAILED, OK, SOME_FAILED
from asr.config.arguments import whole
from asr.errors import AsrError


def add_learn_command(commands: Any) -> None:
    """Add the command to the parser's subparsers."""
    learn = commands.add_parser(
        "learn",
        help="fine-tune a model on a few corrected sentences, if that makes it better",
        description="CORRECTIONS are manifests (.jsonl), zips of the page of asr serve, edited transcripts of asr "
        "transcribe --format json, recordings with a .txt of the same name beside them, or folders of these. Texts "
        "that do not fit their audio are left out. The model is written only if cross-validation over the corrections "
        "shows a gain. The same command continues a run that was killed. "
        "Exit status: 0 learnt, 1 learnt and some corrections left out, 2 refused, nothing written.",
    )
    learn.add_argument("model", nargs="?", metavar="MODEL", help="model directory or bundled name; it is not changed")
    learn.add_argument("corrections", nargs="*", metavar="CORRECTIONS")
    learn.add_argument("--output", type=Path, metavar="DIR", help="the new model directory")
    learn.add_argument(
        "--rollback",
        type=Path,
        metavar="DIR",
        help="folder of asr serve --learn: go back to the model before the served one; nothing is learnt",
    )
    learn.add_argument(
        "--rehearse",
        default="",
        metavar="MANIFEST",
        help="other speech, to learn beside the corrections and to test forgetting on",
    )
    learn.add_argument(
        "--language",
        default="",
        metavar="CODE",
        help="language for writing out numbers (default: that of the model directory; none: no change)",
    )
    learn.add_argument(
        "--no-store",
        action="store_true",
        help="store no features of the corrections in DIR; the next asr learn then cannot rehearse them",
    )
    learn.add_argument("--dry-run", action="store_true", help="show the decision, and write nothing")
    learn.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    learn.add_argument("--seed", type=whole(0, 2**32 - 1), default=1)
    learn.add_argument(
        "--threads", type=whole(0), default=0, metavar="N", help="CPU threads (default: as torch chooses)"
    )
    learn.set_defaults(run=_learn, extends="corrections", awake=True)


def _learn(args: argparse.Namespace) -> int:
    if args.rollback is not None:
        return _roll_back(args)
    if args.model is None or not args.corrections or args.output is None:
        raise AsrError("learn: expected MODEL, CORRECTIONS and --output DIR, or --rollback DIR alone; see --help")
    import torch

    from asr.train.learning import LearnOptions, learn

    files.check_report(args.json)
    if args.threads:
        torch.set_num_threads(args.threads)
    options = LearnOptions(args.rehearse, args.language, store=not args.no_store, dry_run=args.dry_run, seed=args.seed)
    report = learn(args.model, args.corrections, args.output, options)
    if args.json:
        files.write_json(args.json, report.to_dict())
    printing.show(report.summary())
    if not report.learnt:
        return FAILED
    return SOME_FAILED if report.misfits or report.left_out else OK


def _roll_back(args: argparse.Namespace) -> int:
    from asr.server.learning_folder import LearningFolder

    others = (args.model, args.output, args.json, *args.corrections, args.rehearse, args.language)
    if any(others) or args.no_store or args.dry_run:
        raise AsrError("learn: expected --rollback DIR alone, got other arguments as well; leave them out")
    folder = LearningFolder(args.rollback)
    before, number = folder.roll_back()
    now = f"model {number}" if number else f"{folder.model} as it was at first"
    printing.show(f"{args.rollback}: {now} is served instead of model {before}; a running server swaps within seconds")
    return OK
