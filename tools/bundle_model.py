"""Put a trained model into the package: weights as int8 or in half precision, and a card that states its purpose.

    python tools/bundle_model.py RUN NAME --evaluation JSON --note "key: text" ... [--storage float16]

RUN is a training's output. NAME is the name for ``asr.load``. JSON is the output of ``asr evaluate --json`` for the
test set. Tuned decoding options (``asr tune``) in RUN and their language model are copied, as are calibrated
confidences (``asr calibrate``) and the threshold of doubt. Notes are copied into the card: purpose, licence of the
data, limits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from asr.decode import confidence
from asr.errors import AsrError
from asr.lm import lm_directory
from asr.models import description, model_directory
from asr.recognize import option_sources, options

ASSETS = Path(__file__).parent.parent / "asr" / "assets" / "models"
FIGURES = ("wer", "cer", "ser", "errors", "words", "substitutions", "deletions", "insertions", "ci95")


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--evaluation", type=Path, required=True, metavar="JSON")
    parser.add_argument("--note", action="append", default=[], metavar="KEY: TEXT")
    parser.add_argument("--storage", choices=("int8", "float16"), default="int8", help="of the weights (default: int8)")
    args = parser.parse_args()
    try:
        model = model_directory.load_model(args.run)
        evaluation = json.loads(args.evaluation.read_text(encoding="utf-8"))
        notes = dict(note.split(": ", 1) for note in args.note)
        card = notes | model.card | {"test": {key: evaluation[key] for key in FIGURES}}
        # Paths of the training machine mean nothing to others.
        data = dataclasses.replace(model.config.data, train="", valid="")
        train = dataclasses.replace(model.config.train, output="exp/model", init="", teacher="")
        augment = dataclasses.replace(model.config.augment, splice="", noise_dir="", reverb_dir="")
        config = dataclasses.replace(model.config, data=data, train=train, augment=augment)
        folder = ASSETS / args.name
        model_directory.save_model_description(folder, config, model.tokenizer, model.stats)
        model_directory.save_weights(folder, model.network, card, storage=args.storage)
        if (args.run / options.DECODING_FILE).is_file():
            saved = options.load_options(args.run)
            options.save_options(folder, saved)
            for name in filter(None, (saved.lm, saved.rescore)):
                source = lm_directory.load_language_model(name)
                if isinstance(source, lm_directory.LanguageDirectory):
                    bundle_lm(
                        source, folder / options.LM_FOLDER / ("lm" if name == saved.lm else "rescore"), args.storage
                    )
        fitted, threshold = bundled_confidences(args.run, folder), confidence.load_threshold(args.run)
        if fitted or threshold is not None:
            confidence.save_calibration(folder, fitted, threshold)
        print(description.describe_model(description.read_description(folder)))
    except (AsrError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
