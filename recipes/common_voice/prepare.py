"""Common Voice: volunteers read sentences, in more than a hundred languages.

    python recipes/common_voice/prepare.py --source DIR|ARCHIVE --language de OUT

Raw layout of one language's archive:

    cv-corpus-17.0-2024-03-15/de/train.tsv      client_id  path                    sentence  up_votes  …
    cv-corpus-17.0-2024-03-15/de/clips/common_voice_de_17298952.mp3

Writes the official ``train``, ``valid`` (dev.tsv) and ``test``, speakers apart. Sentences are written as they are
spoken (``asr.text.written_out``); one with a number that the language's rules cannot spell is named and left out.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from asr.corpora import layouts, recipe
from asr.corpora.recipe import Clip

TABLES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--language", required=True, help="code of the language, such as de or zh-CN: its number words")


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The official sets that are there."""
    return {
        name: [layouts.as_spoken(item, args.language) for item in layouts.common_voice(folder / table)]
        for name, table in TABLES.items()
        if (folder / table).is_file()
    }


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read, add_arguments=add_arguments))
