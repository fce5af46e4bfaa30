"""ARPA files of word n-grams, in and out."""

from __future__ import annotations

import gzip
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from tqdm import tqdm

from asr.decode.ngram import LN10, NO_NGRAM_WORDS, Ngram
from asr.decode.ngram_arrays import LARGEST_BACKOFF, NgramArray, RepeatedNgram, build_arrays, sort_levels
from asr.errors import DecodeError
from asr.files import atomic, split_fields

COUNT = re.compile(r"ngram[ \t]+([0-9]{1,9})[ \t]*=[ \t]*([0-9]{1,18})")
LONGEST_LINE = 1 << 20
ARPA_END = "\\end\\"


def read_arpa(path: str | Path) -> Ngram:
    """Read an ARPA file, gzip-compressed or not.

    Raises ``DecodeError`` naming file and line of whatever is malformed: counts that do not hold, a section out of
    order, a number that is none, a positive log-probability, a word twice, no ``\\end\\``.
    """
    try:
        with _open(Path(path), "rt") as file:
            return _parse(path, file)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DecodeError(f"{path}: cannot read the n-gram: {error}") from error


def write_arpa(ngram: Ngram, path: str | Path) -> None:
    """Write an ARPA file, its folder too, compressed for ``.gz``. Raises ``DecodeError`` where it cannot."""
    write_sections(path, ngram.arrays.counts.tolist(), ngram.sections())


def write_sections(
    path: str | Path, counts: Sequence[int], sections: Iterable[Iterable[tuple[str, float, float]]], comment: str = ""
) -> None:
    """Write an ARPA file of ``(words, log-probability, back-off)`` by order, behind a line that readers skip (KenLM
    where it begins with ``#``). Raises ``DecodeError``."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, _open(temporary, "wt", compressed=path.suffix == ".gz") as file:
            file.write(f"{comment}\n\\data\\\n")
            file.writelines(f"ngram {n}={count}\n" for n, count in enumerate(counts, start=1))
            for n, section in enumerate(sections, start=1):
                file.write(f"\n\\{n}-grams:\n")
                for words, log_prob, backoff in section:
                    tail = f"\t{backoff / LN10:.7g}" if n < len(counts) else ""
                    file.write(f"{log_prob / LN10:.7g}\t{words}{tail}\n")
            file.write("\n\\end\\\n")
    except OSError as error:
        raise DecodeError(f"{path}: cannot write the n-gram: {error}") from error


def first_line(path: Path) -> str:
    """The first line of an ARPA file, or what else is there: at most ``LONGEST_LINE`` characters. Raises ``OSError``
    and ``ValueError`` for what is no text."""
    with _open(path, "rt") as file:
        return file.readline(LONGEST_LINE).rstrip("\r\n")


def _open(path: Path, mode: str, compressed: bool | None = None) -> TextIO:
    if compressed is None:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if compressed else open
    return cast(TextIO, opener(path, mode, encoding="utf-8" if "w" in mode else "utf-8-sig", newline="\n"))


class _Lines:
    """The lines of an ARPA file, without the white space around them; ``number`` is that of the last one, from 1."""

    def __init__(self, path: str | Path, file: TextIO) -> None:
        self.path, self.number, self._file = path, 0, file

    def __iter__(self) -> Iterator[str]:
        rest = ""
        while block := self._file.read(LONGEST_LINE):
            *lines, rest = (rest + block).split("\n")
            for line in lines:
                self.number += 1
                yield line.strip(" \t\r")
            if len(rest) >= LONGEST_LINE:  # what was compressed may be of any size
                self.number += 1
                raise self.fault(f"expected a line of less than {LONGEST_LINE:,} characters")
        if rest:
            self.number += 1
            yield rest.strip(" \t\r")

    def fault(self, what: str) -> DecodeError:
        """An error at the last line."""
        return DecodeError(f"{self.path}:{self.number}: {what}")


class _Section:
    """The n-grams of one order as they are read: word ids, values, the lines where they stand."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.words, self.lines = array("i"), array("I")
        self.log_probs, self.backoffs = array("d"), array("d")

    def add(self, line: str, lines: _Lines, ids: dict[str, int]) -> None:
        """Read one n-gram; ``ids`` learns unigrams. Raises ``DecodeError``."""
        order, fields = self.order, split_fields(line)
        backoff = 0.0
        try:
            if len(fields) == order + 2:
                backoff = float(fields[-1])
            elif len(fields) != order + 1:
                raise lines.fault(
                    f"expected a log-probability, {order} words and perhaps a back-off, got {line[:60]!r}"
                )
            log_prob = float(fields[0])
        except ValueError:
            raise lines.fault(f"expected numbers around the words, got {line[:60]!r}") from None
        if not (log_prob <= 0 and backoff < LARGEST_BACKOFF):
            raise lines.fault(f"expected a log-probability of at most 0 and a finite back-off, got {line[:60]!r}")
        if order == 1:
            if ids.setdefault(fields[1], len(ids)) != len(self.lines):
                raise lines.fault(f"{fields[1]!r} is listed twice")
            self.words.append(len(self.lines))
        else:
            try:
                self.words.extend([ids[word] for word in fields[1 : order + 1]])
            except KeyError as error:
                raise lines.fault(f"{error.args[0]!r} is not among the unigrams") from None
        self.lines.append(lines.number)
        self.log_probs.append(log_prob)
        self.backoffs.append(backoff)

    def rows(self) -> NgramArray:
        """Word ids ``(N, order)``."""
        return np.frombuffer(self.words, np.int32).reshape(-1, self.order)

    def values(self) -> tuple[NgramArray, NgramArray]:
        """Natural log-probabilities and back-offs ``(N,)``."""
        # Some toolkits write -inf or -99 for <s>, which is never predicted; finite numbers keep sums from being NaN.
        log_probs, backoffs = (np.frombuffer(values, np.float64) for values in (self.log_probs, self.backoffs))
        return np.maximum(log_probs, -100.0) * LN10, np.maximum(backoffs, -100.0) * LN10


def _parse(path: str | Path, file: TextIO) -> Ngram:
    lines = _Lines(path, file)
    each = iter(lines)
    counts = _header(lines, each)
    sections, ids = _sections(lines, each, counts)
    if not ids:
        raise DecodeError(f"{path}: {NO_NGRAM_WORDS}")
    values = [section.values() for section in sections]
    try:
        levels = sort_levels([section.rows() for section in sections], *map(list, zip(*values, strict=True)))
        return Ngram.of(build_arrays(levels), tuple(ids))
    except RepeatedNgram as error:
        section, words = sections[error.order - 1], tuple(ids)
        lines.number = section.lines[error.place]
        found = " ".join(words[i] for i in section.rows()[error.place])
        raise lines.fault(f"{found!r} is listed twice") from None
    except ValueError as error:
        raise DecodeError(f"{path}: {error}") from error


def _sections(lines: _Lines, each: Iterator[str], counts: list[int]) -> tuple[list[_Section], dict[str, int]]:
    """All n-grams by order, and the ids of the words."""
    sections: list[_Section] = []
    ids: dict[str, int] = {}
    seen = tqdm(total=sum(counts), desc="n-grams", unit="", unit_scale=True, disable=None, leave=False, delay=1)
    with seen:
        for line in each:
            if line[:1] != "\\":
                if not line:
                    continue
                if not sections:
                    raise lines.fault(f"expected \\1-grams:, got {line[:60]!r}")
                sections[-1].add(line, lines, ids)
                continue
            order = len(sections)
            found = len(sections[-1].lines) if sections else 0
            if sections and found != counts[order - 1]:
                raise lines.fault(f"expected {counts[order - 1]} {order}-grams before, got {found}")
            seen.update(found)
            if line == ARPA_END and order == len(counts):
                return sections, ids
            wanted = f"\\{order + 1}-grams:" if order < len(counts) else ARPA_END
            if line != wanted:
                raise lines.fault(f"expected {wanted}, got {line if line == ARPA_END else repr(line[:60])}")
            sections.append(_Section(order + 1))
    raise lines.fault("expected \\end\\, got the end of the file; copy it again, it was cut off")


def _header(lines: _Lines, each: Iterator[str]) -> list[int]:
    """The counts of each order. Whatever precedes ``\\data\\`` is a comment; a blank line ends the counts."""
    if not any(line == "\\data\\" for line in each):
        raise DecodeError(f"{lines.path}: expected \\data\\, got the end of the file; give an ARPA file")
    counts: list[int] = []
    for line in each:
        if not line and counts:
            return counts
        if line:
            match = COUNT.fullmatch(line)
            if not match or int(match[1]) != len(counts) + 1:
                raise lines.fault(f"expected 'ngram {len(counts) + 1}=COUNT', got {line[:60]!r}")
            counts.append(int(match[2]))
    raise lines.fault("expected n-grams after the counts, got the end of the file")
