"""Commands that count errors: evaluate, score, compare."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import files
from asr.cli import printing
from asr.cli import shared_options as shared
from asr.cli.shared_options import OK
from asr.config.arguments import local_path, number
from asr.errors import AsrError

if TYPE_CHECKING:
    from asr.evaluation.model_scores import Evaluation
    from asr.recognize.recognizer import Recognizer
    from asr.scoring.rules import Rules
    from asr.scoring.score_report import Report


def add_scoring_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_evaluate(commands)
    _add_score(commands)
    _add_compare(commands)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="transcribe a manifest and score it: WER, CER, SER")
    evaluate.add_argument(
        "manifest",
        metavar="MANIFEST",
        help="JSONL manifest, or archive with texts, here or at a URL",
    )
    shared.add_cache(evaluate)
    evaluate.add_argument("--json", type=local_path, metavar="OUT", help="write the whole report, utterances included")
    evaluate.add_argument(
        "--html", type=local_path, metavar="OUT", help="write the report as a page, as asr report does"
    )
    evaluate.add_argument("--root", metavar="DIR", help="refuse audio paths that lead outside this folder")
    evaluate.add_argument("--errors", action="store_true", help="print the alignment of every wrong utterance")
    evaluate.add_argument("--details", action="store_true", help="print CER without spaces, MER and WIL as well")
    evaluate.add_argument("--speakers", action="store_true", help="print a line for each known speaker")
    evaluate.add_argument(
        "--stream",
        type=number(0, 3600, above=True, off=None),
        metavar="BLOCK_S",
        help="stream the audio, in blocks such as 0.1",
    )
    _add_rules(evaluate)
    shared.add_engine(evaluate)
    shared.add_chunks(evaluate)
    shared.add_also(evaluate)
    shared.add_model(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_score(commands: Any) -> None:
    score = commands.add_parser(
        "score",
        help="score a hypothesis file against a reference file",
        description="Reads manifests (JSONL), 'id words' or 'words (id)' lines, the JSON of evaluate, STM and CTM, "
        "subtitles, TextGrids, or folders of transcripts; see docs/scoring.md.",
    )
    score.add_argument("reference", metavar="REF", help="file or folder of transcripts")
    score.add_argument("hypothesis", metavar="HYP", help="the same, or the JSON that evaluate writes")
    score.add_argument("--json", type=Path, metavar="OUT", help="write the whole report, utterances included")
    score.add_argument("--errors", action="store_true", help="print the alignment of every wrong utterance")
    score.add_argument("--details", action="store_true", help="print CER without spaces, MER and WIL as well")
    score.add_argument("--speakers", action="store_true", help="print a line for each known speaker")
    score.add_argument("--plain", action="store_true", help="texts without ids: line by line")
    _add_rules(score, "Default: the rules in REF or HYP, if one is a report (JSON).")
    score.set_defaults(run=_score)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="test whether one result is better than another: paired significance tests",
        description="Prints second minus first, with a paired bootstrap interval, a randomisation test and the "
        "matched pairs "
        "test (MAPSSWE).",
    )
    compare.add_argument("first", metavar="HYP_A", help="JSON of evaluate, or any hypothesis file that score takes")
    compare.add_argument("second", metavar="HYP_B", help="the same")
    compare.add_argument("--reference", metavar="REF", help="reference file (default: those in the JSON of evaluate)")
    compare.add_argument("--json", type=Path, metavar="OUT", help="write rates, differences and tests")
    compare.add_argument("--plain", action="store_true", help="texts without ids: line by line (with --reference)")
    _add_rules(compare, "Default: the rules in HYP_A and HYP_B, if they are reports (JSON).")
    compare.set_defaults(run=_compare)


def _add_rules(parser: argparse.ArgumentParser, description: str = "") -> None:
    group = parser.add_argument_group("what counts as an error", description)
    group.add_argument("--ignore-case", action="store_true", help="score case-folded texts")
    group.add_argument("--ignore-punctuation", action="store_true", help="leave punctuation out on both sides")
    group.add_argument("--optional", action="store_true", help="(word) in references may be missing, as in STM files")
    group.add_argument("--literal", action="store_true", help="{ a / b } in references are words, not alternatives")
    group.add_argument(
        "--costs", choices=("levenshtein", "sclite"), help="costs that the alignment minimises (default: levenshtein)"
    )


def _rules(args: argparse.Namespace) -> Rules | None:
    """What the options say; None where there are none, and a report that is read brings its own."""
    from asr.scoring import alternatives, rules

    if not any((args.ignore_case, args.ignore_punctuation, args.optional, args.literal, args.costs)):
        return None

    costs = alternatives.SCLITE if args.costs == "sclite" else alternatives.LEVENSHTEIN
    return rules.Rules(args.ignore_case, args.ignore_punctuation, not args.literal, args.optional, costs)


def _evaluate(args: argparse.Namespace) -> int:
    files.check_report(args.json)
    if args.html:
        from asr.evaluation.report import check_page

        check_page(args.html)
    shared.check_engine(args)
    if args.stream is None and args.chunk_s is not None:
        raise AsrError(
            "--chunk-s: expected --stream BLOCK_S as well, since chunks exist in streams only; give "
            "it or leave --chunk-s out"
        )
    if args.stream is not None and args.engine == "ray":
        raise AsrError("--stream: expected --engine local, got ray; leave one of the two out")
    shared.announce(args, confidences=False)
    result, recognizer = _evaluation(args)
    if args.json:  # first: a closed pipe ends the command at the first line it prints
        files.write_json(args.json, result.to_dict())
    if args.html:
        _write_page(result, recognizer, args)
    _print_report(result.report, args)
    printing.show(result.summary())
    if args.details:
        printing.show(result.report.details())
    return printing.report_failures([f"{name}: {reason}" for name, reason in result.failures.items()])


def _evaluation(args: argparse.Namespace) -> tuple[Evaluation, Recognizer]:
    """The scored manifest, and the model that transcribed it."""
    from asr.evaluation.model_scores import evaluate_model, evaluate_stream
    from asr.recognize.recognizer import load
    from asr.scoring.rules import DEFAULT_RULES

    given = {"model": args.model, "device": args.device, "also": args.also, **shared.decoding_options(args)}
    options: dict[str, Any] = {"rules": _rules(args) or DEFAULT_RULES, "noise": bool(args.json or args.html)}
    if args.engine == "ray":
        from asr.recognize.ray_engine import RayEngine

        engine = RayEngine(given, address=args.ray_address)
        options["transcribe"] = engine.transcribe_many
        return evaluate_model(args.manifest, engine.recognizer, args.root, **options), engine.recognizer
    recognizer = load(**given)
    if args.stream is None:
        return evaluate_model(args.manifest, recognizer, args.root, **options), recognizer
    options |= {"block_s": args.stream, "chunk_s": args.chunk_s, "right_s": args.right_s}
    return evaluate_stream(args.manifest, recognizer, args.root, **options), recognizer


def _write_page(result: Evaluation, recognizer: Recognizer, args: argparse.Namespace) -> None:
    """The page of ``--html``, with the posteriors of the model that is loaded already."""
    from asr.evaluation.evaluation_file import parse_evaluation
    from asr.evaluation.report import ReportOptions, write_report

    evaluation = parse_evaluation(result.to_dict(), args.manifest)
    printing.print_notes(write_report([evaluation], args.html, options=ReportOptions(engine=recognizer)))


def _score(args: argparse.Namespace) -> int:
    files.check_report(args.json)
    from asr.scoring import pairing, transcript_files, wer

    reference = transcript_files.read(args.reference, "reference", plain=args.plain)
    hypothesis = transcript_files.read(args.hypothesis, plain=args.plain)
    pair = pairing.pair(reference, hypothesis)
    if pair.note:
        print(f"note: {pair.note}", file=sys.stderr)
    report = wer.score_pair(pair, _rules(args) or wer.agreed(reference, hypothesis))
    if args.json:
        files.write_json(args.json, report.to_dict())
    _print_report(report, args)
    printing.show(report.summary())
    if args.details:
        printing.show(report.details())
    return OK


def _compare(args: argparse.Namespace) -> int:
    files.check_report(args.json)
    from asr.scoring import comparison

    result = comparison.compare_files(args.first, args.second, args.reference, _rules(args), plain=args.plain)
    if args.json:
        files.write_json(args.json, result.to_dict())
    printing.show(result.summary())
    return OK


def _print_report(report: Report, args: argparse.Namespace) -> None:
    from asr.scoring.score_report import format_alignment

    for scored in report.utterances if args.errors else ():
        if scored.errors:
            printing.show(f"{scored.id}\n{format_alignment(scored)}\n")
    if args.speakers:
        printing.show(report.speakers() or "no speakers are known")
