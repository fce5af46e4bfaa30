"""mini LibriSpeech: 5 hours of LibriSpeech to train on and 2 to test, for trying things out.

    python recipes/mini_librispeech/prepare.py [--source DIR] OUT

Raw layout (LibriSpeech's):

    LibriSpeech/train-clean-5/1088/129236/1088-129236.trans.txt     1088-129236-0000 THEN HE HAD RECOURSE …
    LibriSpeech/dev-clean-2/…

Writes ``train`` (1,519 utterances) and ``valid`` (1,089, other speakers), which published figures are on.
"""

import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import layouts, recipe
from asr.corpora.recipe import Clip

FOLDERS = {"train": "train-clean-5", "valid": "dev-clean-2"}


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The two subsets."""
    return {name: layouts.librispeech(folder / subset) for name, subset in FOLDERS.items()}


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
