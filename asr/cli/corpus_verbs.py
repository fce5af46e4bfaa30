"""Commands for corpora and manifests: recipes, init, check, segment, label."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from asr import files
from asr.cli import printing
from asr.cli import shared_options as shared
from asr.cli.shared_options import OK, SOME_FAILED
from asr.cloud.addresses import is_url
from asr.config.arguments import file_or_none, local_path, number, whole
from asr.errors import AsrError
from asr.files import check_output

_SHOWN = 10


def add_corpus_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_recipes(commands)
    _add_init(commands)
    _add_check(commands)
    _add_segment(commands)
    _add_label(commands)


def _add_recipes(commands: Any) -> None:
    recipes = commands.add_parser("recipes", help="list the corpora with a recipe, and how to run it")
    recipes.add_argument(
        "--folder", type=Path, metavar="DIR", help="folder of the recipes (default: recipes/, or the installed ones)"
    )
    recipes.set_defaults(run=_recipes)


def _add_init(commands: Any) -> None:
    init = commands.add_parser(
        "init",
        help="make manifests and a configuration for a folder of recordings with transcripts",
        description="Understands transcripts or subtitles beside the audio, tables (CSV, TSV, JSON lines), Kaldi data, "
        "and the layouts of LibriSpeech, LJSpeech, Common Voice and NeMo. Reports the files that it used and "
        "left out. Exit status: 0 all files used, 1 some left out, 2 nothing written.",
    )
    init.add_argument(
        "folder", type=Path, metavar="DIR", help="folder of recordings and transcripts; it is not changed"
    )
    init.add_argument("--output", type=Path, metavar="OUT", help="folder to write (default: data/NAME)")
    init.add_argument(
        "--language",
        default="en",
        metavar="CODE",
        help="language in which numbers are written out (default: en; none: no change)",
    )
    init.add_argument(
        "--init",
        type=file_or_none,
        metavar="MODEL",
        help="start training from this model; none: random weights (default: the bundled model, if it can spell "
        "the texts)",
    )
    init.add_argument("--force", action="store_true", help="replace existing files in --output")
    init.set_defaults(run=_init)


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="find faults in a manifest, or in all manifests of a configuration, and their audio before training",
        description="Names every bad line, file and transcript. With CONF it checks all manifests of the "
        "configuration, and shows the shares of its sources (data.sources). Exit status: 0 no errors (there may be "
        "warnings), 1 errors found, 2 the check could not run.",
    )
    check.add_argument(
        "manifest",
        metavar="MANIFEST|CONF",
        help="JSONL manifest, shards, archive with texts (path or URL), or a training's YAML file",
    )
    check.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="with CONF, such as data.sources.own.share=0.2"
    )
    check.add_argument(
        "--config",
        metavar="CONF",
        help="the training's YAML file: alphabet, subsampling, speeds (without it, utterances that do not fit a "
        "default model are warnings only)",
    )
    check.add_argument("--json", type=local_path, metavar="OUT", help="write all findings and figures")
    check.add_argument("--plot", type=local_path, metavar="PNG", help="draw a page of histograms (needs matplotlib)")
    check.add_argument("--root", metavar="DIR", help="report audio paths that lead outside this folder")
    check.add_argument(
        "--workers", type=whole(0, 4096), default=0, metavar="N", help="reading threads (default: one per CPU)"
    )
    shared.add_cache(check)
    check.set_defaults(run=_check, extends="overrides")


def _add_segment(commands: Any) -> None:
    segment = commands.add_parser("segment", help="cut a long recording with its text into utterances to train on")
    segment.add_argument("audio", metavar="AUDIO", help="audio file")
    segment.add_argument("words", metavar="TEXT", help="the words, or a file that holds them")
    segment.add_argument("output", type=Path, metavar="OUT.jsonl", help="manifest to write")
    shared.add_language(segment)
    segment.add_argument("--speaker", default="", help="name of the speaker, for the manifest")
    segment.add_argument("--shortest", type=number(0), default=2.0, metavar="S", help="shortest utterance (default: 2)")
    segment.add_argument(
        "--longest",
        type=number(0, above=True, off=math.inf),
        default=15.0,
        metavar="S",
        help="longest utterance (default: 15)",
    )
    segment.add_argument(
        "--least-confidence",
        type=number(0, 1),
        default=0.2,
        metavar="P",
        help="leave out utterances with a lower mean confidence (default: 0.2)",
    )
    segment.add_argument(
        "--most-mismatch",
        type=number(0, off=math.inf),
        default=2.5,
        metavar="NATS",
        help="refuse a text that is less likely than the model's own transcript by more nats per token "
        "(default: 2.5; none: off)",
    )
    shared.add_force(segment)
    shared.add_model(segment, decoding=False)
    segment.set_defaults(run=_segment)


def _add_label(commands: Any) -> None:
    label = commands.add_parser(
        "label",
        help="label recordings with a model's confident transcripts, to train on (self-training)",
        description="Adapts a model to a speaker or microphone without transcripts: asr label, then asr train "
        "with train.init.",
    )
    label.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE",
        help="audio file, folder, manifest or archive, here or at a URL",
    )
    label.add_argument("--output", type=local_path, required=True, metavar="OUT.jsonl", help="manifest to write")
    label.add_argument("--speaker", default="", help="name of the speaker, for the manifest")
    label.add_argument("--resume", action="store_true", help="continue an interrupted run")
    shared.add_force(label)
    label.add_argument(
        "--least-confidence",
        type=number(0, 1),
        metavar="P",
        help="confidence that every word must reach (default: 0.9; with --agree-with 0)",
    )
    label.add_argument(
        "--agree-with",
        action="append",
        default=[],
        metavar="OTHER",
        help="a second recogniser: a model directory, a bundled model, or transcripts by utterance id (manifest, .trn, "
        "folder of asr transcribe); may be given several times",
    )
    label.add_argument(
        "--most-disagreement",
        type=number(0, 1),
        default=0.1,
        metavar="S",
        help="largest share of characters that may differ with --agree-with (default: 0.1)",
    )
    label.add_argument(
        "--take",
        default="own",
        choices=("own", "other"),
        help="text of the labels: the model's own, or that of the first --agree-with (default: own)",
    )
    shared.add_engine(label)
    shared.add_cache(label)
    shared.add_also(label)
    shared.add_model(label)
    label.set_defaults(run=_label, extends="inputs")


def _recipes(args: argparse.Namespace) -> int:
    from asr.corpora import recipe

    folder = args.folder
    if folder is None:
        # In the working directory, beside the package in a checkout, or in the package as it is installed.
        package = Path(__file__).parents[1]
        places = (Path("recipes"), package.parent / "recipes", package / "recipes")
        folder = next((place for place in places if any(place.glob("*/corpus.yaml"))), places[0])
    rows = [("recipe", "corpus", "hours", "download", "status", "licence")]
    for name, found in recipe.recipes(folder).items():
        size = f"{found.megabytes / 1000:.1f} GB" if found.megabytes >= 1000 else f"{found.megabytes:.0f} MB"
        rows.append(
            (
                name,
                f"{found.title}: {found.language}",
                f"{found.hours:g}",
                size if found.archives else "by hand",
                recipe.STATUSES[found.status],
                found.licence,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name in recipe.recipes(folder):
        print(f"\n# {name}")
        print("\n".join(recipe.commands(folder / name)))
    return OK


def _init(args: argparse.Namespace) -> int:
    out = args.output or Path("data") / args.folder.absolute().name
    from asr.corpora import detection
    from asr.corpora.project import LEFT_OUT, speech_advice, start_project

    if detection.is_project(out) and not args.force:
        raise AsrError(
            f"{out}: holds a project already; replace it with --force, or choose another folder with --output"
        )
    language = "" if args.language == "none" else args.language
    project = start_project(args.folder, out, language=language, init=args.init, force=args.force)
    for line in project.lines:
        print(line)
    left_out = list(project.left_out.items())
    if left_out:
        print(f"{len(left_out)} left out (all of them in {out / LEFT_OUT}):", file=sys.stderr)
        for name, reason in left_out[:_SHOWN]:
            print(f"  {name}: {reason}", file=sys.stderr)
    if advice := speech_advice(project):
        print(advice)
    print(f"next: asr train {project.config}")
    return SOME_FAILED if left_out else OK


def _check(args: argparse.Namespace) -> int:
    for path in (args.json, args.plot):
        files.check_report(path)
    from asr import plotting
    from asr.config import sections
    from asr.data import findings, shard_check

    if args.plot:
        plotting.require()
    if args.manifest.endswith((".yaml", ".yml")):
        return _check_configuration(args)
    if args.overrides:
        raise AsrError(f"expected one manifest, got {' '.join([args.manifest, *args.overrides])}")
    settings = sections.load_config(args.config) if args.config else None
    report = shard_check.check_set(args.manifest, settings, args.root, args.workers)
    printing.show(report.summary())
    if args.json:
        files.write_json(args.json, report.to_dict())
    if args.plot:
        findings.draw_findings(report, args.plot)
    return SOME_FAILED if report.count(findings.ERROR) else OK


def _check_configuration(args: argparse.Namespace) -> int:
    """Every manifest that a configuration names, and what its sources come to."""
    from asr.config import sections
    from asr.data import findings, shard_check, shard_set, shard_shares

    if args.config or args.plot:
        raise AsrError("expected no --config and no --plot beside a configuration; --plot draws one manifest")
    settings = sections.load_config(args.manifest, args.overrides)
    data = settings.data
    paths = [*data.manifests, *([data.valid] if data.valid else [])]
    if not paths:
        raise AsrError(f"{args.manifest}: expected data.train or data.sources, got neither")
    shard_set.refuse_mixture(data)
    reports = [shard_check.check_set(path, settings, args.root, args.workers) for path in paths]
    for report in reports:
        printing.show(report.summary())
    if args.json:
        files.write_json(args.json, {"manifests": [report.to_dict() for report in reports]})
    if data.sources:
        printing.show(shard_shares.describe_sources(settings))
    return SOME_FAILED if any(report.count(findings.ERROR) for report in reports) else OK


def _segment(args: argparse.Namespace) -> int:
    if os.path.exists(args.audio) and not os.path.isfile(args.audio):
        raise AsrError(f"{args.audio}: expected an audio file, which the manifest names; got a folder, pipe or device")
    files.check_report(args.output)
    check_output(args.output, force=args.force)
    from asr.data import manifest
    from asr.recognize.recognizer import load
    from asr.recognize.segmentation import cut_segments

    aligned = load(args.model, device=args.device, language=args.language).align(
        args.audio, shared.given_words(args.words)
    )
    bounds = {"shortest_s": args.shortest, "longest_s": args.longest}
    bounds |= {"least_confidence": args.least_confidence, "most_mismatch": args.most_mismatch}
    name = Path(args.audio)
    cut = cut_segments(aligned, str(name.absolute()), name.stem, speaker=args.speaker, **bounds)
    manifest.write_manifest(args.output, cut.kept)
    print(f"{args.output}: {len(cut.kept)} utterances, {sum(u.duration_s for u in cut.kept):.1f} s")
    out = [(u, "recognised with little confidence") for u in cut.doubtful]
    out += [(u, "a word of the text there cannot be spelt") for u in cut.incomplete]
    out += [(u, f"longer than {args.longest:g} s without a pause") for u in cut.overlong]
    out.sort(key=lambda item: item[0].start_s)
    status = printing.report_left_out(args.audio, aligned.left_out)
    left_out = [f"{args.audio}: {u.start_s:.2f} to {u.end_s:.2f} s {reason}, left out: {u.text}" for u, reason in out]
    return printing.report_failures(left_out) or status


def _label(args: argparse.Namespace) -> int:
    files.check_report(args.output)
    from asr.models.bundled import bundled_models
    from asr.recognize.recognizer import load
    from asr.train.pseudo_labels import label_recordings

    shared.check_engine(args)
    shared.announce(args)
    options: dict[str, Any] = {"least_confidence": args.least_confidence, "speaker": args.speaker}
    options |= {"resume": args.resume, "force": args.force}
    options |= {"most_disagreement": args.most_disagreement, "take": args.take}
    options["agree_with"] = [
        load(other, device=args.device) if other in bundled_models() or files.is_model(Path(other)) else other
        for other in args.agree_with
    ]
    for other in options["agree_with"]:
        if isinstance(other, str) and not is_url(other) and not os.path.exists(other):
            raise AsrError(
                f"--agree-with {other}: expected a model directory, a bundled model ({', '.join(bundled_models())}) or "
                "transcripts, got no such file or folder"
            )
    given = {"model": args.model, "device": args.device, "also": args.also, **shared.decoding_options(args)}
    if args.engine == "ray":
        from asr.recognize.ray_engine import RayEngine

        engine = RayEngine(given, address=args.ray_address)
        recognizer, options["transcribe"] = engine.recognizer, engine.transcribe_many
    else:
        recognizer = load(**given)
    found = label_recordings(args.inputs, recognizer, args.output, **options)
    hours = sum(u.duration_s for u in found.kept) / 3600
    printing.show(
        f"{args.output}: {len(found.kept)} utterances, {hours:.2f} h; {len(found.doubtful)} left out as not sure"
        + (
            f"; {len(found.disputed)} as disputed, {len(found.unjudged)} without a second opinion"
            if args.agree_with
            else ""
        )
    )
    printing.print_warnings(found.doubts)
    return printing.report_failures(found.failures)
