"""VCTK: 110 people read about 400 newspaper sentences each, 48 kHz.

    python recipes/vctk/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout, of version 0.80 and of 0.92:

    VCTK-Corpus/txt/p239/p239_001.txt            Please call Stella.
    VCTK-Corpus/wav48/p239/p239_001.wav
    wav48_silence_trimmed/p239/p239_001_mic1.flac

There is no official split. ``train``, ``valid`` and ``test`` have other speakers (80, 10 and 10 %, by a checksum of
their names). For adaptation to one speaker there are ``speaker/ID/train`` and ``speaker/ID/test``: two thirds and one
third of the sentences, by a checksum too.
"""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from asr.corpora import layouts, recipe
from asr.corpora.recipe import Clip


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """Sets by speaker, and those of each speaker by sentence."""
    old = (folder / "wav48").is_dir()
    items = []
    for path in sorted((folder / "txt").glob("*/*.txt")):
        name = Path(path.parent.name, path.stem)
        sound = folder / "wav48" / name if old else folder / "wav48_silence_trimmed" / f"{name}_mic1"
        text = " ".join(recipe.read_lines(path))
        items.append(layouts.as_spoken(Clip(path.stem, sound, text, path.parent.name)))
    sets = layouts.by_name(items, {"train": 0.8, "valid": 0.1, "test": 0.1})
    for speaker in sorted({item.speaker for item in items}):
        own = [replace(item, speaker="") for item in items if item.speaker == speaker]
        for name, part in layouts.by_name(own, {"train": 2, "test": 1}).items():
            sets[f"speaker/{speaker}/{name}"] = [replace(item, speaker=speaker) for item in part]
    return sets


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
