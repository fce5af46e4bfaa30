"""Multilingual LibriSpeech: audiobooks in seven languages (the English part has its own size: 44,500 hours, not here).

    python recipes/mls/prepare.py --subset polish OUT          # downloads one language
    python recipes/mls/prepare.py --source mls_polish OUT

Raw layout of one language (Opus or FLAC):

    mls_polish/train/transcripts.txt                4800_10003_000000    ja miałem wtedy lat dziesięć
    mls_polish/train/audio/4800/10003/4800_10003_000000.opus

Writes the official ``train``, ``valid`` (dev) and ``test``, speakers apart. The transcripts are normalised already.
"""

import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip

SETS = {"train": "train", "valid": "dev", "test": "test"}


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The official sets."""
    sets = {}
    for name, part in SETS.items():
        items = []
        for key, text in recipe.read_table(folder / part / "transcripts.txt").items():
            speaker, book, _ = key.split("_")
            items.append(Clip(key, folder / part / "audio" / speaker / book / key, text, speaker))
        sets[name] = items
    return sets


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
