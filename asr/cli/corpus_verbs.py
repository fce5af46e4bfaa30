"""Arguments of the commands for corpora: recipes, init, export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.config.arguments import file_or_none
from asr.errors import AsrError
from asr.files import check_output

OK, SOME_FAILED = 0, 1
_SHOWN = 10


def add_corpus_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    recipes = commands.add_parser("recipes", help="list the corpora with a recipe, and how to run it")
    recipes.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the recipes are (default: recipes/, or the installed ones)"
    )
    recipes.set_defaults(run=_recipes)

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
        default="",
        metavar="MODEL",
        help="start from this model, such as an4: needs little data",
    )
    init.add_argument("--force", action="store_true", help="replace existing files in --output")
    init.set_defaults(run=_init)

    export = commands.add_parser("export", help="write a manifest in the format of another toolkit")
    export.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest")
    export.add_argument("output", type=Path, metavar="OUT", help="folder (kaldi) or file (nemo) to write")
    export.add_argument("--format", choices=("kaldi", "nemo"), required=True)
    export.add_argument("--force", action="store_true", help="overwrite existing files")
    export.set_defaults(run=_export)


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
    if advice := speech_advice(project, args.init):
        print(advice)
    print(f"next: asr train {project.config}")
    return SOME_FAILED if left_out else OK


def _export(args: argparse.Namespace) -> int:
    from asr.corpora import kaldi_nemo
    from asr.data import manifest

    check_output(args.output, force=args.force)
    utterances = manifest.read_manifest(args.manifest)
    write = {"kaldi": kaldi_nemo.to_kaldi, "nemo": kaldi_nemo.to_nemo}[args.format]
    write(utterances, args.output)
    print(f"{args.output}: {len(utterances)} utterances")
    return OK
