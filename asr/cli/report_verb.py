"""The command that shows what is wrong: ``asr report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from asr.cli import printing
from asr.cli import shared_options as shared
from asr.cli.shared_options import OK
from asr.config.arguments import whole
from asr.errors import AsrError


def add_report_command(commands: Any) -> None:
    """Add the command to the parser's subparsers."""
    report = commands.add_parser(
        "report",
        help="an evaluation as one HTML page: what is wrong, where, and how it sounds",
        description="Reads the output of asr evaluate --json. The JSON of asr score, and of older versions, works with "
        "fewer columns. Several evaluations of one model on different corpora become one page.",
    )
    report.add_argument("evaluations", nargs="+", metavar="EVAL.json", help="output of asr evaluate --json")
    report.add_argument("page", type=Path, metavar="OUT.html", help="the page to write")
    report.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="EVAL.json",
        help="an evaluation of the same utterances by another model, shown beside the first with paired tests; give "
        "one for each of several corpora",
    )
    report.add_argument("--title", default="", metavar="TEXT", help="heading of the page (default: the corpora)")
    report.add_argument(
        "--embed",
        type=whole(0, 100_000),
        default=200,
        metavar="N",
        help="utterances with sound and posteriors in the page, the worst first (default: 200)",
    )
    report.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="write sounds and posteriors of all other utterances to this folder, and link them; by default the page "
        "links their recordings",
    )
    report.add_argument(
        "--model",
        metavar="DIR|NAME",
        help="model that computes the posteriors (default: that of the evaluation; none: no posteriors)",
    )
    report.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    shared.add_force(report)
    report.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from asr.evaluation import report
    from asr.evaluation.evaluation_file import read_evaluation

    report.check_page(args.page, force=args.force)
    if args.files:
        report.check_linked_folder(args.files, force=args.force)
    if args.compare and len(args.compare) != len(args.evaluations):
        raise AsrError(f"--compare: expected {len(args.evaluations)}, one for each evaluation, got {len(args.compare)}")
    first = [read_evaluation(path) for path in args.evaluations]
    second = [read_evaluation(path) for path in args.compare]
    options = report.ReportOptions(
        title=args.title, embedded=args.embed, model=args.model, device=args.device, folder=args.files
    )
    printing.print_notes(report.write_report(first, args.page, second, options))
    print(f"{args.page}: {sum(len(evaluation.details) for evaluation in first)} utterances")
    return OK
