"""Commands that fit decoding to speech of held-out speakers: tune, calibrate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from asr.cli import shared_options as shared
from asr.cli.shared_options import OK
from asr.errors import AsrError
from asr.files import check_output, check_report, is_model, write_json


def add_held_out_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_tune(commands)
    _add_calibrate(commands)


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser(
        "tune",
        help="choose language model weight, word bonus and beam on held-out speech",
        description="Tries settings on a manifest of held-out speakers, and saves the best into the "
        "model directory (decoding.yaml and lm/), where transcribe and evaluate find them.",
    )
    tune.add_argument("--json", type=Path, metavar="OUT", help="write every setting with its errors")
    _add_held_out(tune)
    tune.set_defaults(run=_tune)


def _add_calibrate(commands: Any) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="fit confidences to held-out speech",
        description="Fits word confidences on a manifest of held-out speakers, for greedy decoding and "
        "for the beam search, and saves them into the model directory (confidence.json). With --foreign it also fits "
        "the reliability of whole transcripts.",
    )
    calibrate.add_argument(
        "--foreign",
        action="append",
        default=[],
        metavar="FOLDER",
        help="recordings that are not the model's language: other languages, music; may be given several times",
    )
    calibrate.add_argument(
        "--words", default="fit", choices=("fit", "keep"), help="keep: leave the confidences of words as they are"
    )
    calibrate.add_argument("--json", type=Path, metavar="OUT", help="write the figures")
    calibrate.add_argument("--plot", type=Path, metavar="PNG", help="draw reliability diagrams")
    _add_held_out(calibrate)
    calibrate.set_defaults(run=_calibrate)


def _add_held_out(command: argparse.ArgumentParser) -> None:
    """Arguments of commands that fit something to held-out speech and save it with the model."""
    command.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest of held-out speakers")
    command.add_argument("--model", required=True, metavar="DIR", help="model directory")
    command.add_argument("--root", metavar="DIR", help="refuse audio paths that lead outside this folder")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    command.add_argument("--save-to", type=Path, metavar="DIR", help="save into another model directory than --model")
    shared.add_force(command)
    command.add_argument("--dry-run", action="store_true", help="show the figures, save nothing")
    shared.add_decoding(command)


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


def _tune(args: argparse.Namespace) -> int:
    from asr.evaluation import tuning
    from asr.recognize.loading import load_any
    from asr.recognize.option_sources import choose
    from asr.recognize.options import Decoding, load_options, save_options
    from asr.recognize.recognizer import Recognizer

    _refuse_phrases(args)
    check_report(args.json)
    _check_save_to(args)
    shared.announce(args, confidences=False)
    model = load_any(args.model)
    given = shared.decoding_options(args)
    # A search, also where the directory holds phrases.
    given["beam"] = given["beam"] or max(load_options(model.path).beam, tuning.SEARCH_BEAM)
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


def _calibrate(args: argparse.Namespace) -> int:
    from asr import plotting
    from asr.decode import confidence
    from asr.evaluation import calibration, judge_fitting
    from asr.recognize.loading import load_any
    from asr.recognize.option_sources import choose
    from asr.recognize.options import Decoding
    from asr.recognize.recognizer import Recognizer

    if args.plot:
        plotting.require()
    if args.words == "keep" and (args.plot or not args.foreign):
        raise AsrError("--words keep: expected --foreign FOLDER, and no --plot, which shows fits of words; give it")
    _refuse_phrases(args)
    check_report(args.json)
    _check_save_to(args)
    shared.announce(args, confidences=False)
    model = load_any(args.model)
    wide = choose(model.path, **shared.decoding_options(args))
    folder = args.save_to or model.path
    fits = []
    recognizer = Recognizer(model, device=args.device, decoding=wide)
    for options in ([Decoding()] + ([wide] if wide.beam > 1 else [])) if args.words == "fit" else []:
        recognizer = Recognizer(model, device=args.device, decoding=options)
        fits.append(calibration.calibrate_model(args.manifest, recognizer, args.root, folder=folder))
        print(fits[-1].summary())
    if args.plot:
        calibration.draw_reliability(fits, args.plot)
    judge = None
    if args.foreign:
        fit = judge_fitting.fit_judge(args.manifest, recognizer, args.foreign, args.root)
        print(fit.summary())
        judge = fit.judge
    if args.json:
        found = {one.kind: one.to_dict() for one in fits}
        write_json(args.json, found | ({"reliability": fit.to_dict()} if args.foreign else {}))
    old = confidence.load_calibration(folder)
    new = calibration.improved(old, fits)
    if new == old and judge is None:
        print(f"nothing was better than the confidences as they are: {folder / confidence.CONFIDENCE_FILE} not saved")
    elif not args.dry_run:
        confidence.save_calibration(folder, new, judge=judge)
        print(f"saved: {folder / confidence.CONFIDENCE_FILE}")
    return OK
