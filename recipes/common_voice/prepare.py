"""Common Voice: volunteers read sentences, in more than a hundred languages.

    python recipes/common_voice/prepare.py --source DIR|ARCHIVE --language de OUT

Raw layout of one language's archive:

    cv-corpus-17.0-2024-03-15/de/train.tsv      client_id  path                    sentence  up_votes  …
    cv-corpus-17.0-2024-03-15/de/clips/common_voice_de_17298952.mp3

Writes the official ``train``, ``valid`` (dev.tsv) and ``test``, speakers apart. Sentences are written as they are
spoken (``asr.spoken``); one with a number that the language's rules cannot spell is named and left out.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from asr import corpus, layouts
from asr.corpus import Item
from asr.errors import TextError
from asr.spoken import spoken

TABLES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--language", required=True, help="code of the language, such as de or zh-CN: its number words")


def read(folder: Path, args: Namespace) -> dict[str, list[Item]]:
    """The official sets that are there."""
    return {
        name: list(normalised(folder / table, args.language))
        for name, table in TABLES.items()
        if (folder / table).is_file()
    }


def normalised(path: Path, language: str) -> Iterator[Item]:
    for item in layouts.common_voice(path):
        try:
            text = spoken(item.text, language.split("-")[0])
        except TextError as error:
            print(f"warning: {item.id}: left out: {error}", file=sys.stderr)
            continue
        yield replace(item, text=text)


if __name__ == "__main__":
    sys.exit(corpus.main(__file__, read, add_arguments=add_arguments))
