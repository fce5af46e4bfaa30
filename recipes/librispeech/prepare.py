"""LibriSpeech: 982 hours of English books, read for LibriVox.

    python recipes/librispeech/prepare.py [--source DIR] [--subset train-clean-100 …] [--lm text|3-gram|4-gram] OUT

Raw layout:

    LibriSpeech/train-clean-100/19/198/19-198.trans.txt     19-198-0000 NORTHANGER ABBEY
    LibriSpeech/train-clean-100/19/198/19-198-0000.flac     16 kHz

Writes a manifest for each official subset that is there, and ``train``: all training subsets together. Where there is
no official development set (a few chapters to try the recipe on), ``--held-out SPEAKER`` keeps that speaker from
``train`` as ``held_out``. ``--lm`` fetches the official text for language models, or an ARPA file made of it, to
``OUT/lm/``.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from asr.corpora import download, layouts, recipe
from asr.corpora.recipe import Clip

LM = "https://www.openslr.org/resources/11/"
LM_FILES = {
    "text": ("librispeech-lm-norm.txt.gz", 1500),
    "3-gram": ("3-gram.pruned.1e-7.arpa.gz", 40),
    "4-gram": ("4-gram.arpa.gz", 1400),
}
SUBSETS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--lm", choices=LM_FILES, action="append", default=[], help="fetch this language model as well")
    parser.add_argument(
        "--held-out", metavar="SPEAKER", action="append", default=[], help="training speaker to keep apart"
    )


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The subsets that are there, and their training parts together."""
    for name in args.lm:
        file, megabytes = LM_FILES[name]
        if not (args.out / "lm" / file).exists():
            download.fetch(LM + file, args.out / "lm" / file, max_bytes=int(1.1e6 * megabytes))
    sets = {name: layouts.librispeech(folder / name) for name in SUBSETS if (folder / name).is_dir()}
    everything = [item for name, items in sets.items() if name.startswith("train") for item in items]
    sets["train"] = [item for item in everything if item.speaker not in args.held_out]
    if args.held_out:
        sets["held_out"] = [item for item in everything if item.speaker in args.held_out]
    return sets


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read, add_arguments=add_arguments))
