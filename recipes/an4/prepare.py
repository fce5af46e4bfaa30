"""CMU AN4 (Census): archive to manifests.

    python recipes/an4/prepare.py [--source ARCHIVE|DIR] OUT

Raw layout (an4_sphere.tar.gz):

    an4/etc/an4_train.fileids          an4_clstk/fash/an251-fash-b
    an4/etc/an4_train.transcription    <s> YES </s> (an251-fash-b)
    an4/etc/an4_test.fileids           an4test_clstk/fcaw/an406-fcaw-b
    an4/etc/an4_test.transcription     RUBOUT G M E F THREE NINE (an406-fcaw-b)
    an4/wav/an4_clstk/fash/an251-fash-b.sph        NIST SPHERE, 16 kHz, 16 bit, mono

Writes OUT/{full,train,valid,test}.jsonl. The official training set (948 utterances, 74 speakers) is full; for tuning
it is split by speaker into train and valid. The official test set (130 utterances, 10 other speakers, 773 words) is
for reporting only. An archive is unpacked into OUT/raw.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip
from asr.errors import ManifestError

SETS = ("train", "test")
LINE = re.compile(r"^(?:<s>\s*)?(?P<text>.*?)\s*(?:</s>\s*)?\((?P<id>[^()\s]+)\)$")


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The official sets, in the official order."""
    return {name: list(read_set(folder, name)) for name in SETS}


def read_set(folder: Path, name: str) -> Iterator[Clip]:
    """The utterances of ``train`` or ``test``. Raises ``ManifestError`` naming file and line."""
    transcripts = {}
    path = folder / "etc" / f"an4_{name}.transcription"
    for number, line in enumerate(recipe.read_lines(path, "ascii"), start=1):
        match = LINE.match(line)
        if not match:
            raise ManifestError(f"{path}:{number}: expected 'WORDS (id)', got {line!r}")
        transcripts[match["id"]] = match["text"]
    for relative in recipe.read_lines(folder / "etc" / f"an4_{name}.fileids", "ascii"):
        key = Path(relative).name
        if key not in transcripts:
            raise ManifestError(f"{path}: no transcript of {relative}")
        yield Clip(key, folder / "wav" / f"{relative}.sph", transcripts[key], Path(relative).parent.name)


def contents(folder: Path) -> Iterator[str]:
    """The files that make the corpus."""
    for name in SETS:
        yield from (f"etc/an4_{name}.fileids", f"etc/an4_{name}.transcription")
        yield from (f"wav/{line}.sph" for line in recipe.read_lines(folder / "etc" / f"an4_{name}.fileids", "ascii"))


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read, contents=contents))
