"""AISHELL-1: 400 speakers of Mandarin read sentences.

    python recipes/aishell1/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout:

    data_aishell/transcript/aishell_transcript_v0.8.txt     BAC009S0002W0122 而 对 楼市 成交 抑制 作用
    data_aishell/wav/S0002.tar.gz                           train/S0002/BAC009S0002W0122.wav, 16 kHz

The tokens are characters, without the spaces of the transcripts, which separate words: the figure to read is the
character error rate (CER). The archives of the speakers are unpacked where they lie. Utterances without a transcript
are left out.
"""

import sys
from argparse import Namespace
from pathlib import Path

from tqdm import tqdm

from asr.corpora import layouts, recipe, unpack
from asr.corpora.recipe import Clip

SETS = {"train": "train", "valid": "dev", "test": "test"}


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The official sets."""
    for packed in tqdm(sorted((folder / "wav").glob("*.tar.gz")), desc="unpacking speakers", disable=None):
        # The speaker's archive is deleted last: a run that was killed unpacks it again.
        unpack.unpack_into(packed, folder / "wav", max_bytes=1 << 30, max_members=2000)
        packed.unlink()
    texts = recipe.read_table(folder / "transcript" / "aishell_transcript_v0.8.txt")
    return {
        name: [
            layouts.as_spoken(Clip(path.stem, path, texts[path.stem], path.parent.name), "zh")
            for path in sorted((folder / "wav" / part).glob("*/*"))
            if path.stem in texts
        ]
        for name, part in SETS.items()
    }


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
