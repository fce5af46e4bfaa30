"""Word n-grams: ARPA files in and out, and back-off probabilities over flat arrays.

An n-gram is a tree of contexts: node 0 is the empty one, a node's children extend it by a word on the right. The
search's kernel reads the same arrays (``asr.decode.kernel.ngram``).
The kernel is imported when first used: to know the class must not cost numba.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np
import numpy.typing as npt

from asr.errors import DecodeError
from asr.files import atomic, split_fields

if TYPE_CHECKING:
    from asr.decode import kernel

LN10 = math.log(10)
LARGEST_BACKOFF = 1e6
"""A back-off is the logarithm of a share: a larger one is none, and sums of them stay finite."""
UNKNOWN_NAMES = ("<unk>", "<UNK>")
COUNT = re.compile(r"ngram[ \t]+([0-9]{1,9})[ \t]*=[ \t]*([0-9]{1,18})")
LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Ngram:
    """A back-off n-gram. Logarithms are natural; ARPA files hold them to base 10.

    ``entries`` maps each n-gram, a tuple of words, to ``(log-probability, back-off)``; 0 where there is no back-off.
    """

    order: int
    entries: Mapping[tuple[str, ...], tuple[float, float]]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All unigrams in file order; a word's id is its place."""
        return tuple(key[0] for key in self.entries if len(key) == 1)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @property
    def unknown(self) -> int:
        """Id of ``<unk>``, -1 without one: unknown words then have the probability 1e-100."""
        return next((self._ids[name] for name in UNKNOWN_NAMES if name in self._ids), -1)

    def entry_of(self, word: str) -> int:
        """A word's id in a search: where the n-gram has neither it nor ``<unk>``, that of its least likely word: an
        impossible word could not be recognised whatever speaks for it. Raises ``DecodeError`` without any word."""
        found = self.id_of(word)
        return self._rarest if found < 0 else found

    @cached_property
    def _rarest(self) -> int:
        # Estimates give -99 to what is never predicted.
        possible = [w for w in self.words if w not in ("<s>", "</s>") and self.entries[w,][0] > -99 * LN10]
        if not possible:
            raise DecodeError("expected an n-gram with words, got one without")
        return self._ids[min(possible, key=lambda word: self.entries[word,][0])]

    @property
    def end(self) -> int:
        """Id of ``</s>``, -1 without one."""
        return self._ids.get("</s>", -1)

    @property
    def start(self) -> int:
        """The context at the start of a sentence, that of ``<s>`` where there is one."""
        return self._contexts.get(("<s>",), 0)

    def context_after(self, words: Sequence[str]) -> int:
        """The context of what goes on behind ``words``, as a search counts contexts."""

        from asr.decode import kernel

        place = 0
        for word in words:
            place = kernel.ngram(self._lookup, place, self.entry_of(word))[1]
        return int(place)

    def knows(self, word: str) -> bool:
        """Whether the n-gram lists a word."""
        return word in self._ids

    def id_of(self, word: str) -> int:
        """A word's id, or that of ``<unk>``."""
        return self._ids.get(word, self.unknown)

    @cached_property
    def _contexts(self) -> dict[tuple[str, ...], int]:
        """Node of each n-gram, shorter ones first, gaps (an n-gram whose beginning was pruned) filled."""
        found = {key[:length] for key in self.entries for length in range(1, len(key) + 1)}
        found |= self.entries.keys()
        numbered: dict[tuple[str, ...], int] = {(): 0}
        for key in sorted(found, key=lambda key: (len(key), [self._ids[word] for word in key])):
            numbered[key] = len(numbered)
        return numbered

    def _back_off(self, key: tuple[str, ...]) -> float:
        """Log-probability of the last word of an n-gram that is not listed, from shorter ones."""

        from asr.decode import kernel

        if key in self.entries:
            return self.entries[key][0]
        if len(key) == 1:
            return kernel.NEVER
        return self.entries.get(key[:-1], (0.0, 0.0))[1] + self._back_off(key[1:])

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The n-gram's part of ``kernel.Words``."""

        from asr.decode import kernel

        contexts = self._contexts
        parent, last, suffix = (np.full(len(contexts), kernel.NONE, np.int32) for _ in range(3))
        log_prob, backoff = np.zeros(len(contexts)), np.zeros(len(contexts))
        for key, node in contexts.items():
            if not key:
                continue
            parent[node], last[node] = contexts[key[:-1]], self._ids[key[-1]]
            rest = key[1:]
            while rest not in contexts:
                rest = rest[1:]
            suffix[node] = contexts[rest]
            log_prob[node] = self._back_off(key)
            backoff[node] = self.entries.get(key, (0.0, 0.0))[1]
        slots = np.full(1 << (2 * len(contexts)).bit_length(), kernel.NONE, np.int32)
        nodes = np.zeros(len(contexts), kernel.NODE)
        nodes["parent"], nodes["token"] = parent, last
        for node in range(1, len(contexts)):
            slots[kernel.slot(nodes, slots, int(parent[node]), int(last[node]))] = node
        return {
            "parent": parent, "last": last, "log_prob": log_prob, "backoff": backoff, "suffix": suffix, "slots": slots,
        }  # fmt: skip

    @cached_property
    def _lookup(self) -> kernel.Words:
        from asr.decode import kernel

        return kernel.NO_WORDS._replace(**self.arrays)

    def log_prob(self, context: Sequence[str], word: int | str) -> float:
        """Natural log-probability of a word after the words of ``context``, of which the last ``order - 1`` count."""

        from asr.decode import kernel

        place = 0
        for before in context[max(0, len(context) - self.order + 1) :]:
            place = kernel.ngram(self._lookup, place, self.id_of(before))[1]
        return float(kernel.ngram(self._lookup, place, self.id_of(word) if isinstance(word, str) else word)[0])

    def score(self, sentence: str | Sequence[str], *, start: bool = True, end: bool = True) -> float:
        """Natural log-probability of a sentence, by default with its start and end (as ``kenlm.Model.score``).

        ``sentence``: its words, or one string with spaces between them.
        """

        from asr.decode import kernel

        total, place = 0.0, self.start if start else 0
        ids = [self.id_of(word) for word in as_words(sentence)] + [self.end] * (end and self.end >= 0)
        for word in ids:
            log_prob, place = kernel.ngram(self._lookup, place, word)
            total += log_prob
        return total

    def next_words(
        self, sentence: str | Sequence[str] = (), count: int = 10, *, start: bool = True
    ) -> list[tuple[str, float]]:
        """The likeliest words after the words of ``sentence`` (as in ``score``) with their probabilities, best first.

        ``</s>`` is the end of the sentence and ``<unk>`` any word that the n-gram does not know: over all words of the
        vocabulary the probabilities sum to 1. ``start``: whether ``sentence`` begins one. Raises ``DecodeError`` for a
        ``count`` below 1.
        """

        from asr.decode import kernel

        if count < 1:
            raise DecodeError(f"count: expected 1 or more, got {count}")
        place = self.start if start else 0
        for number in map(self.id_of, as_words(sentence)):
            place = kernel.ngram(self._lookup, place, number)[1] if number >= 0 else 0
        chain = [place]
        while chain[-1]:
            chain.append(int(self.arrays["suffix"][chain[-1]]))
        log_probs = np.full(len(self.words), kernel.NEVER)
        for node in reversed(chain):  # the shortest context first; longer ones know better
            # Contexts are numbered so that the children of each lie side by side.
            first, behind = np.searchsorted(self.arrays["parent"][1:], [node, node + 1]) + 1
            log_probs += self.arrays["backoff"][node]
            log_probs[self.arrays["last"][first:behind]] = self.arrays["log_prob"][first:behind]
        best = (number for number in np.argsort(-log_probs, kind="stable").tolist() if self.words[number] != "<s>")
        return [(self.words[number], math.exp(log_probs[number])) for number in itertools.islice(best, count)]

    def word_scores(self, sentence: str | Sequence[str]) -> list[float | None]:
        """Natural log-probability of each word of a sentence, and of its end where the n-gram has ``</s>``.

        A word that the n-gram does not know is scored as ``<unk>``. Without ``<unk>`` it has None, and what follows
        it does not see it or what was before it.
        """

        from asr.decode import kernel

        found: list[float | None] = []
        place = self.start
        for word in [*map(self.id_of, as_words(sentence)), *[self.end] * (self.end >= 0)]:
            if word < 0:
                found.append(None)
                place = 0
                continue
            log_prob, place = kernel.ngram(self._lookup, place, word)
            found.append(float(log_prob))
        return found

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Per word, ends of sentences counted as words; words without a probability (``word_scores``) are left out."""
        known = [score for words in sentences for score in self.word_scores(words) if score is not None]
        return math.exp(-sum(known) / max(1, len(known)))


def as_words(sentence: str | Sequence[str]) -> Sequence[str]:
    """The words of a sentence, which may be one string with spaces between them."""
    return split_fields(sentence) if isinstance(sentence, str) else sentence


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
    by_order: list[list[tuple[str, ...]]] = [[] for _ in range(ngram.order)]
    for key in ngram.entries:
        by_order[len(key) - 1].append(key)
    write_sections(
        path, list(map(len, by_order)), (((" ".join(key), *ngram.entries[key]) for key in keys) for keys in by_order)
    )


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


def _lines(path: str | Path, file: TextIO) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, without the white space around them."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:  # what was compressed may be of any size
            raise DecodeError(f"{path}:{number}: expected a line of less than {LONGEST_LINE:,} characters")
        yield number, line.strip(" \t\r\n")


def _parse(path: str | Path, file: TextIO) -> Ngram:
    lines = _lines(path, file)
    counts = _header(path, lines)
    entries: dict[tuple[str, ...], tuple[float, float]] = {}
    order, seen, number = 0, 0, 0
    for number, line in lines:
        if not line:
            continue
        if line.startswith("\\"):
            if order and seen != counts[order - 1]:
                raise DecodeError(f"{path}:{number}: expected {counts[order - 1]} {order}-grams before, got {seen}")
            if line == "\\end\\":
                if order != len(counts):
                    raise DecodeError(f"{path}:{number}: expected \\{order + 1}-grams:, got {line}")
                return Ngram(len(counts), entries)
            order, seen = order + 1, 0
            if line != f"\\{order}-grams:" or order > len(counts):
                wanted = f"\\{order}-grams:" if order <= len(counts) else "\\end\\"
                raise DecodeError(f"{path}:{number}: expected {wanted}, got {line[:60]!r}")
            continue
        key, values = _entry(f"{path}:{number}", line, order)
        if key in entries:
            raise DecodeError(f"{path}:{number}: {' '.join(key)!r} is listed twice")
        missing = [word for word in key if order > 1 and (word,) not in entries]
        if missing:
            raise DecodeError(f"{path}:{number}: {missing[0]!r} is not among the unigrams")
        entries[key] = values
        seen += 1
    raise DecodeError(f"{path}:{number}: expected \\end\\, got the end of the file; copy it again, it was cut off")


def _header(path: str | Path, lines: Iterator[tuple[int, str]]) -> list[int]:
    """The counts of each order. Whatever precedes ``\\data\\`` is a comment; a blank line ends the counts."""
    if not any(line == "\\data\\" for _, line in lines):
        raise DecodeError(f"{path}: expected \\data\\, got the end of the file; give an ARPA file")
    counts: list[int] = []
    number = 0
    for number, line in lines:
        if not line and counts:
            return counts
        if line:
            match = COUNT.fullmatch(line)
            if not match or int(match[1]) != len(counts) + 1:
                raise DecodeError(f"{path}:{number}: expected 'ngram {len(counts) + 1}=COUNT', got {line[:60]!r}")
            counts.append(int(match[2]))
    raise DecodeError(f"{path}:{number}: expected n-grams after the counts, got the end of the file")


def _entry(where: str, line: str, order: int) -> tuple[tuple[str, ...], tuple[float, float]]:
    if not order:
        raise DecodeError(f"{where}: expected \\1-grams:, got {line[:60]!r}")
    fields = split_fields(line)
    if len(fields) not in (order + 1, order + 2):
        raise DecodeError(
            f"{where}: expected a log-probability, {order} words and perhaps a back-off, got {line[:60]!r}"
        )
    try:
        log_prob, backoff = float(fields[0]), float(fields[order + 1]) if len(fields) == order + 2 else 0.0
    except ValueError:
        raise DecodeError(f"{where}: expected numbers around the words, got {line[:60]!r}") from None
    if math.isnan(log_prob) or log_prob > 0 or not backoff < LARGEST_BACKOFF:
        raise DecodeError(f"{where}: expected a log-probability of at most 0 and a finite back-off, got {line[:60]!r}")
    # Some toolkits write -inf or -99 for <s>, which is never predicted; finite numbers keep sums from being NaN.
    return tuple(fields[1 : order + 1]), (max(log_prob, -100.0) * LN10, max(backoff, -100.0) * LN10)
