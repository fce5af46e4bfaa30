"""Wall Street Journal: people read sentences of the newspaper. Licensed by the LDC.

    python recipes/wsj/prepare.py --source DIR OUT

Raw layout, the discs of WSJ0 and WSJ1 merged:

    wsj0/si_tr_s/011/011c0201.wv1           16 kHz, close microphone; converted: 011c0201.wav beside it
    wsj0/transcrp/dots/si_tr_s/011/011c0200.dot
        The sale of the hotels ,COMMA is part of Holiday's strategy .PERIOD (011c0201)
    wsj1/si_tr_s/…, wsj1/trans/wsj1/si_tr_s/…

Writes ``train`` (SI-284), ``valid`` (dev93: ``wsj1/si_dt_20``) and ``test`` (eval92: ``wsj0/si_et_20``). Noises and
marks of emphasis are taken out of the words; spoken punctuation is written as its word.
"""

import re
import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip

FOLDERS = {
    "train": ("wsj0/si_tr_s", "wsj1/si_tr_s"),
    "valid": ("wsj1/si_dt_20",),
    "test": ("wsj0/si_et_20",),
}
LINE = re.compile(r"^(?P<text>.*?)\s*\((?P<id>\w+)[^()]*\)$")


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The usual sets; utterances marked as bad recordings are left out."""
    texts = {}
    for path in sorted(folder.rglob("*.dot")):
        for line in recipe.read_lines(path, "latin-1"):
            match = LINE.match(line)
            if match and "[bad_recording]" not in line:
                texts[match["id"].lower()] = clean(match["text"])
    sets = {}
    for name, folders in FOLDERS.items():
        stems = {path.with_suffix("") for place in folders for path in (folder / place).glob("*/*1.*")}
        stems |= {path.with_suffix("") for place in folders for path in (folder / place).glob("*/*.w*")}
        sets[name] = [
            Clip(stem.name, stem, texts[stem.name], stem.name[:3]) for stem in sorted(stems) if stem.name in texts
        ]
    return sets


def clean(text: str) -> str:
    """The words of a transcript in the DOT format."""
    text = re.sub(r"\[[^\]]*\]|<\w[^>]*>(?=\s|$)", " ", text.replace("\\", ""))
    words = []
    for word in text.split():
        spoken_mark = re.match(r"^[^\w'\s](?P<name>[A-Z-]{4,})$", word)
        word = spoken_mark["name"] if spoken_mark else re.sub(r"[*<>():!~\"]|^[.,?;-]+|[.,?;-]+$", "", word)
        if re.search(r"\w", word):
            words.append(word.replace("-", " "))
    return " ".join(words).upper()


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
