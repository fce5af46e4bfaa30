"""LJ Speech: one woman reads seven books.

    python recipes/ljspeech/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout:

    LJSpeech-1.1/metadata.csv            LJ001-0001|Printing, in the only sense …|the same, numbers written out
    LJSpeech-1.1/wavs/LJ001-0001.wav     22.05 kHz

There is no official split: ``test`` and ``valid`` are 5 % of the utterances each, by a checksum of their names. One
speaker reads all of it, so the figures tell nothing about other speakers.
"""

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import layouts, recipe
from asr.corpora.recipe import Clip


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The three sets, their texts as they are spoken."""
    items = [layouts.as_spoken(item) for item in layouts.ljspeech(folder / "metadata.csv")]
    sets = layouts.by_name(items, {"train": 0.9, "valid": 0.05, "test": 0.05})
    return {name: [dataclasses.replace(i, speaker="LJ") for i in part] for name, part in sets.items()}


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
