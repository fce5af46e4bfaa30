"""Streams of sentences from files and folders of text, for n-grams: never more than a block in memory."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from asr.config.sections import TextConfig
from asr.data import manifest
from asr.decode.ngram import UNKNOWN_NAMES
from asr.errors import TrainingError
from asr.files import split_fields
from asr.models.description import read_description
from asr.text.normalisation import normalise
from asr.text.prose import FOREIGN, LONGEST, ProseSpeller, paragraphs, split_sentences

ENDS = ("<s>", "</s>")
RESERVED = frozenset((*ENDS, *UNKNOWN_NAMES))
SUFFIXES = (".txt", ".txt.gz", ".md", ".jsonl")
"""Files of a folder that are read."""


@dataclass(frozen=True)
class TextReading:
    """How texts become sentences.

    Attributes:
        model: a model directory whose alphabet and text configuration the words get; None takes words as they are.
        prose: the texts are running prose: empty lines stand between paragraphs, which are split into sentences.
        language: what numbers and abbreviations are written out in, where there is a ``model``; None leaves them.
    """

    model: str | Path | None = None
    prose: bool = False
    language: str | None = "en"

    def speller(self) -> ProseSpeller | None:
        """What writes sentences as the model does; None without a model. Raises ``ModelError``, ``TrainingError``."""
        if self.model is None:
            return None
        tokenizer = read_description(self.model).tokenizer
        if tokenizer.config.tokenizer not in ("char", "bpe"):
            kind = tokenizer.config.tokenizer
            raise TrainingError(
                f"{self.model}: expected a model whose tokens are characters or pieces, got {kind} tokens"
            )
        alphabet = frozenset("".join(tokenizer.symbols[1:])) - {" ", "▁"}
        return ProseSpeller(alphabet, tokenizer.config, self.language)


def stream_sentences(paths: Sequence[str | Path], reading: TextReading, speller: ProseSpeller | None) -> Iterator[str]:
    """The sentences of texts, ``.gz`` texts, manifests and folders of these, single spaces between words.

    ``FOREIGN`` stands for words that the alphabet cannot spell. Raises ``TrainingError`` naming the file, and the line
    where it can, for reserved words, files that cannot be read, and files without any sentence.
    """
    for path in paths:
        some = False
        for sentence in _of_path(Path(path), reading, speller):
            some = True
            yield sentence
        if not some:
            raise TrainingError(f"{path}: expected a sentence on each line, got none")


def _of_path(path: Path, reading: TextReading, speller: ProseSpeller | None) -> Iterator[str]:
    if os.path.isdir(path):
        found = sorted(p for p in path.rglob("*") if os.path.isfile(p) and p.name.endswith(SUFFIXES))
        if not found:
            raise TrainingError(f"{path}: expected texts ({', '.join(SUFFIXES)}) in the folder, got none")
        for inside in found:
            yield from _of_path(inside, reading, speller)
        return
    for where, text in _texts(path, reading.prose):
        for sentence in split_sentences(text) if reading.prose else (text,):
            spelt = sentence if speller is None else speller.spell(sentence)
            words = split_fields(spelt or "")
            if "<" in text:
                _refuse_reserved(where, words)
            if words:
                yield " ".join(words)


def _refuse_reserved(where: str, words: Iterable[str]) -> None:
    found = sorted(RESERVED & {*words})
    if found:
        place = "ends of sentences" if found[0] in ENDS else "unknown words"
        raise TrainingError(f"{where}: {found[0]} is reserved for {place}; leave it out")


def _texts(path: Path, prose: bool) -> Iterator[tuple[str, str]]:
    """Lines, or paragraphs of prose, or the texts of a manifest, with where they stand."""
    if path.name.endswith(".jsonl"):
        for utterance in manifest.read_manifest(path):
            yield f"{path}: {utterance.id}", normalise(utterance.text, TextConfig())
        return
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        opener = gzip.open if compressed else open
        with cast(TextIO, opener(path, "rt", encoding="utf-8-sig", newline="\n")) as text:
            lines = _lines(text)
            if prose:
                yield from ((str(path), paragraph) for paragraph in paragraphs(line for _, line in lines))
            else:
                yield from ((f"{path}:{number}", line) for number, line in lines)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TrainingError(f"{path}: cannot read the text: {error}") from error


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and lines without their ends. A line longer than ``LONGEST`` comes in parts, cut between words:
    some corpora are one line of millions of words."""
    number, rest = 1, ""
    while block := file.readline(LONGEST - len(rest)):
        line = rest + block
        ended, rest = line.endswith("\n"), ""
        if not ended and len(line) == LONGEST:
            cut = line.rfind(" ") + 1 or len(line)
            line, rest = line[:cut], line[cut:]
        yield number, line.rstrip("\n").removesuffix("\r")
        number += ended
    if rest:
        yield number, rest


def read_word_file(path: str | Path) -> frozenset[str]:
    """The words of a vocabulary: the first field of each line. Raises ``TrainingError`` where there is none."""
    try:
        fields = [split_fields(line) for line in Path(path).read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot read the vocabulary: {error}") from error
    words = frozenset(line[0].removesuffix("\r") for line in fields if line) - RESERVED - {FOREIGN, ""}
    if not words:
        raise TrainingError(f"{path}: expected a word on each line, got none")
    return words
