"""TED-LIUM 3: 2,351 talks with the segments and words of their transcripts.

    python recipes/tedlium3/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout (the ``legacy`` split, which published figures are on):

    TEDLIUM_release-3/legacy/train/stm/911Mothers_2010W.stm
        911Mothers_2010W 1 911Mothers_2010W 14.91 18.25 <o,f0,female> and so <unk> what 's that
    TEDLIUM_release-3/legacy/train/sph/911Mothers_2010W.sph      16 kHz, whole talks

Utterances are segments of the talks' files. Segments to be ignored in scoring are left out, ``<unk>``, noises and the
marks of variants (``the(2)``) are taken out of the words, and what was cut off is joined again (``what 's``:
``what's``).
"""

import re
import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip
from asr.errors import ManifestError

SETS = {"train": "train", "valid": "dev", "test": "test"}
IGNORED = "ignore_time_segment_in_scoring"


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The three official sets."""
    return {
        name: [item for path in sorted((folder / "legacy" / part / "stm").glob("*.stm")) for item in segments(path)]
        for name, part in SETS.items()
    }


def segments(path: Path) -> list[Clip]:
    """The segments of one talk. Raises ``ManifestError`` naming file and line."""
    items = []
    for number, line in enumerate(recipe.read_lines(path), start=1):
        fields = line.split(maxsplit=6)
        try:
            talk, _, speaker, start_s, end_s = fields[0], *fields[1:3], float(fields[3]), float(fields[4])
        except (IndexError, ValueError) as error:
            raise ManifestError(f"{path}:{number}: expected 'talk 1 speaker start end <labels> words'") from error
        text = clean(fields[6] if len(fields) > 6 else "")
        if text and IGNORED not in line and end_s > start_s:
            key = f"{talk}-{round(100 * start_s):07}-{round(100 * end_s):07}"
            items.append(Clip(key, path.parent.parent / "sph" / talk, text, speaker, start_s, end_s))
    return items


def clean(text: str) -> str:
    """The words alone."""
    text = re.sub(r"<[^>]*>|\[[^\]]*\]|\{[^}]*\}|\(\d+\)", " ", text)
    return " ".join(re.sub(r"\s+'(?=(s|re|ll|ve|d|m|t)\b)", "'", text).split())


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
