"""VoxForge: volunteers read ten or so sentences at a time.

    python recipes/voxforge/prepare.py --source DIR OUT

Raw layout, a folder for each submission:

    Aaron-20080318-kdl/etc/PROMPTS          Aaron-20080318-kdl/mfc/b0019 HE WAS A MEMBER OF THE MESS
    Aaron-20080318-kdl/wav/b0019.wav        or flac/b0019.flac; 16 kHz

The speaker is the name in front of the first hyphen; each submission of ``anonymous`` counts as another speaker.
There is no official split: ``valid`` and ``test`` are 5 % of the speakers each, by a checksum of their names.
"""

import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import layouts, recipe
from asr.corpora.recipe import Clip


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The three sets."""
    items = []
    for path in sorted(folder.glob("*/etc/PROMPTS")):
        submission = path.parent.parent
        name = submission.name.split("-")[0]
        speaker = submission.name if name.lower() == "anonymous" else name
        sound = submission / ("wav" if (submission / "wav").is_dir() else "flac")
        for key, text in recipe.read_table(path).items():
            stem = key.rsplit("/", 1)[-1]
            items.append(layouts.as_spoken(Clip(f"{submission.name}-{stem}", sound / stem, text, speaker)))
    return layouts.by_name(items, {"train": 0.9, "valid": 0.05, "test": 0.05})


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
