"""The command export: models as ONNX graphs, manifests in the formats of other toolkits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from asr.cli import printing
from asr.cli.shared_options import OK
from asr.errors import AsrError
from asr.files import check_output


def add_export_command(commands: Any) -> None:
    """Add the command to the parser's subparsers."""
    export = commands.add_parser(
        "export",
        help="write a model for other runtimes, or a manifest in the format of another toolkit",
        description="--to writes a model directory or bundled model as ONNX graphs, which need no torch: see "
        "docs/export.md. --format writes a manifest for another toolkit.",
    )
    export.add_argument(
        "places", nargs="*", metavar="MODEL|MANIFEST OUT", help="a model or manifest, and the output to write"
    )
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--to", choices=("onnx", "sherpa"), help="export a model: graphs for onnxruntime, or a folder for sherpa-onnx"
    )
    kind.add_argument("--verify", metavar="DIR", help="check the files of an exported model, and run it")
    kind.add_argument("--format", choices=("kaldi", "nemo"), help="export a manifest")
    export.add_argument(
        "--int8", action="store_true", help="with --to: int8 weights, a quarter of the size (LSTM only)"
    )
    export.add_argument("--utterance", metavar="FILE", help="with --to sherpa: a test recording for the folder")
    export.add_argument("--force", action="store_true", help="overwrite existing files or an earlier export")
    export.set_defaults(run=_export, extends="places")


def _export(args: argparse.Namespace) -> int:
    if args.utterance is not None and args.to != "sherpa":
        raise AsrError("--utterance: expected --to sherpa as well; add it, or leave --utterance out")
    if args.int8 and not args.to:
        raise AsrError("--int8: expected --to, since only models have weights; leave it out")
    if args.verify is not None:
        if args.places:
            raise AsrError(f"--verify: expected the folder alone, got {' '.join(args.places)} as well")
        from asr.export.verification import verify_export

        printing.show("\n".join(verify_export(args.verify)))
        return OK
    if len(args.places) != 2:
        expected = "a model and the folder to write" if args.to else "a manifest and what to write"
        raise AsrError(f"export: expected {expected}, got {' '.join(args.places) or 'nothing'}")
    return _export_manifest(args) if args.format else _export_model(args)


def _export_model(args: argparse.Namespace) -> int:
    source, output = args.places
    if args.to == "sherpa":
        from asr.export.sherpa_folder import export_sherpa

        options = {"int8": args.int8, "utterance": args.utterance, "force": args.force}
        printing.show("\n".join(export_sherpa(source, output, **options)))
        return OK
    from asr.export.onnx_folder import export_onnx

    printing.show("\n".join(export_onnx(source, output, int8=args.int8, force=args.force)))
    return OK


def _export_manifest(args: argparse.Namespace) -> int:
    from asr.corpora import kaldi_nemo
    from asr.data import manifest

    source, output = args.places[0], Path(args.places[1])
    check_output(output, force=args.force)
    utterances = manifest.read_manifest(source)
    write = {"kaldi": kaldi_nemo.to_kaldi, "nemo": kaldi_nemo.to_nemo}[args.format]
    write(utterances, output)
    print(f"{output}: {len(utterances)} utterances")
    return OK
