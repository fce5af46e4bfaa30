"""Put a trained model into the package: weights as int8 or in half precision, and a card that states its purpose.

    python tools/bundle_model.py RUN NAME --evaluation JSON --note "key: text" ... [--storage float16]

RUN is a training's output. NAME is the name for ``asr.load``. JSON is the output of ``asr evaluate --json`` for the
test set. Tuned decoding options (``asr tune``) in RUN and their language models are copied, as are calibrated
confidences (``asr calibrate``) and the threshold of doubt. Recurrent language models are stored like the weights;
n-grams are copied as they are, so convert an ARPA file first (``asr lm-convert``). The card holds the notes (purpose,
licence of the data), ``--held-out`` results by corpus and ``--not-for``. ``--default`` makes NAME the model of
``asr.load()``. The whole command for the general model:

    python tools/bundle_model.py exp/english/blstm english --evaluation test.json --default \\
        --held-out readers=ls251.json --held-out actors=queen.json --note "purpose: English of any speaker" \\
        --note "licence: weights Apache-2.0; for the data see NOTICE" \\
        --not-for "other languages, music, several people at once"
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from asr import files
from asr.decode import confidence
from asr.errors import AsrError
from asr.lm import lm_directory
from asr.models import bundled, description, model_directory
from asr.recognize import option_sources, options

ASSETS = Path(__file__).parent.parent / "asr" / "assets" / "models"
BUDGET_BYTES = 80_000_000
"""Of all bundled models with their language models, which a test checks too."""
FIGURES = ("wer", "cer", "ser", "errors", "words", "substitutions", "deletions", "insertions", "ci95")
HELD_OUT = ("wer", "errors", "words", "ci95")
"""Of each further corpus."""


def bundle_lm(source: lm_directory.LanguageDirectory, folder: Path, storage: model_directory.Storage) -> None:
    """A language model's directory, without the paths of the training machine."""
    data = dataclasses.replace(source.config.data, train="", valid="", tokens="")
    train = dataclasses.replace(source.config.train, output="exp/lm")
    lm_directory.save_lm_description(
        folder, dataclasses.replace(source.config, data=data, train=train), source.tokenizer
    )
    model_directory.save_weights(folder, source.network, source.card, storage=storage)


def bundled_confidences(run: Path, folder: Path) -> dict[str, confidence.Calibration]:
    """A run's fitted confidences; those that hold for its options hold for the bundled ones, whose files differ."""
    old, new = (option_sources.conditions(options.load_options(place)) for place in (run, folder))
    found = confidence.load_calibration(run)
    return {
        kind: dataclasses.replace(fit, fitted_for=new) if fit.fitted_for == old else fit for kind, fit in found.items()
    }


def figures(path: Path, names: tuple[str, ...] = FIGURES) -> dict[str, Any]:
    """The figures of a card from the JSON of ``asr evaluate``. Raises ``KeyError`` and ``ValueError``."""
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    return {key: evaluation[key] for key in names}


def bundle_language_models(run: Path, folder: Path, storage: model_directory.Storage) -> None:
    """Tuned options and their language models; recurrent ones without paths of this machine."""
    if not (run / options.DECODING_FILE).is_file():
        return
    saved = options.load_options(run)
    options.save_options(folder, saved)
    copied = options.load_options(folder)
    for name in ("lm", "rescore"):
        old, new = ((place,) if isinstance(place, str) else place for place in (getattr(saved, name),
                                                                               getattr(copied, name)))  # fmt: skip
        for source, place in zip(old, new, strict=True):
            if source and isinstance(source, str) and isinstance(place, str) and Path(source).is_dir():
                bundle_lm(lm_directory.load_recurrent(source), Path(place), storage)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--evaluation", type=Path, required=True, metavar="JSON")
    parser.add_argument("--note", action="append", default=[], metavar="KEY: TEXT")
    parser.add_argument(
        "--held-out", action="append", default=[], metavar="CORPUS=JSON", help="evaluation for the card"
    )
    parser.add_argument("--not-for", default="", metavar="TEXT", help="what the model must not be used for")
    parser.add_argument("--default", action="store_true", help="make it the model of asr.load()")
    parser.add_argument("--storage", choices=("int8", "float16"), default="int8", help="of the weights (default: int8)")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    try:
        model = model_directory.load_model(args.run)
        wrong = [note for note in args.note if ": " not in note]
        if wrong:
            raise ValueError(f"--note: expected 'key: text', got {wrong[0]!r}")
        notes = dict(note.split(": ", 1) for note in args.note)
        notes |= {"not_for": args.not_for} if args.not_for else {}
        card = notes | model.card | notes  # at the head of the card, and newer than what it says
        card |= {"test": figures(args.evaluation)}
        if args.held_out:
            parts = dict(part.split("=", 1) for part in args.held_out)
            card["held_out"] = {name: figures(Path(path), HELD_OUT) for name, path in parts.items()}
        # Paths of the training machine mean nothing to others.
        data = dataclasses.replace(model.config.data, train="", more=(), sources={}, valid="")
        train = dataclasses.replace(model.config.train, output="exp/model", init="", teacher="")
        augment = dataclasses.replace(model.config.augment, splice="", noise_dir="", reverb_dir="", babble_dir="")
        config = dataclasses.replace(model.config, data=data, train=train, augment=augment)
        folder = ASSETS / args.name
        model_directory.save_model_description(folder, config, model.tokenizer, model.stats)
        model_directory.save_weights(folder, model.network, card, storage=args.storage)
        bundle_language_models(args.run, folder, args.storage)
        fitted, threshold = bundled_confidences(args.run, folder), confidence.load_threshold(args.run)
        if fitted or threshold is not None:
            confidence.save_calibration(folder, fitted, threshold)
        if args.default:
            files.write_text(ASSETS / bundled.DEFAULT_FILE, f"{args.name}\n")
        size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
        if size > BUDGET_BYTES:
            print(f"warning: the bundled models take {size / 1e6:.1f} MB, expected at most {BUDGET_BYTES / 1e6:g}",
                  file=sys.stderr)  # fmt: skip
        print(description.describe_model(description.read_description(folder)))
    except (AsrError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
