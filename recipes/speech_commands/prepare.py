"""Speech Commands (Warden 2018): 105,829 recordings of one second, 35 words.

    python recipes/speech_commands/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout:

    testing_list.txt, validation_list.txt       bed/0c40e715_nohash_0.wav
    bed/0c40e715_nohash_0.wav                   16 kHz; the speaker is 0c40e715
    _background_noise_/                         noise recordings: augment.noise_dir takes the folder

Writes the official ``train``, ``valid`` and ``test``, speakers apart.
"""

import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The official sets: two are listed, the rest is for training."""
    listed = {"valid": "validation_list.txt", "test": "testing_list.txt"}
    owner = {line: name for name, file in listed.items() for line in recipe.read_lines(folder / file)}
    sets: dict[str, list[Clip]] = {"train": [], "valid": [], "test": []}
    for path in sorted(folder.glob("[!_]*/*_nohash_*")):
        word = path.parent.name
        key = f"{word}/{path.stem}.wav"
        speaker = path.stem.split("_")[0]
        sets[owner.get(key, "train")].append(Clip(f"{word}-{path.stem}", path, word, speaker))
    return sets


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
