"""yesno: sixty recordings of one man who says eight times yes (KEN) or no (LO) in Hebrew.

    python recipes/yesno/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout, 1 for yes and 0 for no:

    waves_yesno/0_0_0_0_1_1_1_1.wav        8 kHz

There is no official split: ``train`` and ``test`` are the two halves of the recordings in the order of their names. It
shows that a pipeline works, and no more.
"""

import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip

WORDS = {"0": "NO", "1": "YES"}


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The two halves."""
    items = [
        Clip(path.stem, path, " ".join(WORDS[digit] for digit in path.stem.split("_")), "only")
        for path in sorted(folder.glob("[01]_*"))
    ]
    half = len(items) // 2
    return {"train": items[:half], "test": items[half:]}


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
