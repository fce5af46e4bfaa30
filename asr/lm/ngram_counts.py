"""Counts of n-grams in bounded memory: sorted runs on disk, merged range by range.

All large arrays are mapped files without a name (``DiskArrays``): the system writes them out where memory is short, and
nothing of them is left when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from asr.files import split_fields

UNKNOWN, START, END = range(3)
"""Ids of ``<unk>``, ``<s>`` and ``</s>``; words follow in the order in which they first come."""
SPECIAL = ("<unk>", "<s>", "</s>")
ELEMENTS = 1 << 21
"""Elements that are worked on at once: some tens of megabytes for each array of a step."""

AnyArray = npt.NDArray[Any]
Ints = npt.NDArray[np.int32]


class DiskArrays:
    """Makes arrays in files without a name in ``folder``, the system's folder for temporary files where it is None."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def make(self, length: int, dtype: Any) -> AnyArray:
        """Zeros. Raises ``OSError``."""
        if not length:
            return np.zeros(0, dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            _reserve(file, length * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype, "w+", shape=(length,))


def _reserve(file: IO[bytes], size: int) -> None:
    """Take ``size`` bytes of the disk now: where a mapped file finds the disk full, the system kills the process.

    Raises ``OSError`` where there is no room. Systems and file systems that cannot reserve are left alone.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def release(*arrays: AnyArray) -> None:
    """Give the memory of mapped arrays back to the system; their content stays."""
    for one in arrays:
        mapped = getattr(one, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            with contextlib.suppress(OSError, ValueError):
                mapped.madvise(mmap.MADV_DONTNEED)


def blocks(length: int, size: int | None = None) -> Iterator[slice]:
    """Slices that cover ``length`` elements."""
    size = size or ELEMENTS
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def sums(context: AnyArray, values: AnyArray, size: int) -> npt.NDArray[np.float64]:
    """The sum of ``values`` for each of ``size`` contexts; ``context`` never falls."""
    total = np.zeros(size)
    for part in blocks(len(context)):
        here = context[part]
        first, last = int(here[0]), int(here[-1])
        total[first : last + 1] += np.bincount(here - first, values[part], minlength=last - first + 1)
    return total


@dataclass
class Counted:
    """The distinct n-grams of one order, sorted by context and word; ``counts`` are first the text's, then adjusted."""

    context: AnyArray
    word: AnyArray
    suffix: AnyArray
    counts: AnyArray
    begins: npt.NDArray[np.bool_]
    """Whether the n-gram begins with ``<s>``."""
    last: int
    """The n-gram that lmplz comes to last, -1 where there is none of this order."""


@dataclass
class Text:
    """A text as word ids, each sentence between ``<s>`` and ``</s>``."""

    words: list[str]
    tokens: AnyArray

    def limited(self, keep: Iterable[int]) -> Text:
        """The text with the words of these ids only, in their order; all others become one word, ``<unk>``.

        It has an id of its own behind all words, since ``<unk>`` itself is a word that was never seen.
        """
        kept = [*range(len(SPECIAL)), *sorted(set(keep) - set(range(len(SPECIAL))))]
        numbers = np.full(len(self.words), len(kept), np.int32)
        numbers[kept] = np.arange(len(kept))
        for part in blocks(len(self.tokens)):
            self.tokens[part] = numbers[self.tokens[part]]
        return Text([*(self.words[number] for number in kept), SPECIAL[UNKNOWN]], self.tokens)

    def frequencies(self) -> npt.NDArray[np.int64]:
        """How often each word occurs."""
        counts = np.zeros(len(self.words), np.int64)
        for part in blocks(len(self.tokens)):
            counts += np.bincount(self.tokens[part], minlength=len(counts))
        return counts


def number_words(sentences: Iterable[str], disk: DiskArrays) -> Text:
    """Give words ids in the order in which they first come, and write the text as ids to disk."""
    ids = {word: number for number, word in enumerate(SPECIAL)}
    tokens = array("i")
    with tempfile.TemporaryFile(dir=disk.folder) as file:
        length = 0
        for sentence in sentences:
            tokens.append(START)
            tokens.extend([ids.setdefault(word, len(ids)) for word in split_fields(sentence)])
            tokens.append(END)
            if len(tokens) > ELEMENTS:
                tokens.tofile(file)
                length += len(tokens)
                tokens = array("i")
        tokens.tofile(file)
        length += len(tokens)
        file.flush()
        mapped = np.memmap(file, np.int32, "r+", shape=(length,)) if length else np.zeros(0, np.int32)
    return Text(list(ids), mapped)


def count_ngrams(text: Text, order: int, disk: DiskArrays) -> list[Counted]:
    """Count the n-grams of each order within sentences; ``<s>`` stands in them once and is not itself predicted."""
    tokens, vocabulary = text.tokens, len(text.words)
    place = _places(tokens, order, disk)
    last = _last(tokens, place, order)
    counts = text.frequencies()
    counts[START] = 0
    zeros, words = np.zeros(vocabulary, np.int32), np.arange(vocabulary, dtype=np.int32)
    tables = [Counted(zeros, words, zeros, counts, words == START, int(tokens[last]))]
    ends = tokens  # by position: the n-gram that ends there
    for n in range(2, order + 1):
        runs = list(_runs(tokens, ends, place, n, vocabulary, disk))
        keys, suffix, counts, ranks = _merged(runs, disk)
        ends = disk.make(len(tokens), np.int32)
        ends[:] = -1
        for run, rank in zip(runs, ranks, strict=True):
            ends[run.part.start + run.here] = rank[run.inverse]
        context, word = (disk.make(len(keys), np.int32) for _ in range(2))
        for part in blocks(len(keys)):
            context[part], word[part] = np.divmod(keys[part], vocabulary)
        tables.append(Counted(context, word, suffix, counts, tables[-1].begins[context], int(ends[last])))
        release(tokens, place, ends, context, word, suffix, counts)
    return tables


def _places(tokens: AnyArray, order: int, disk: DiskArrays) -> AnyArray:
    """How far each token is from the ``<s>`` before it, at most ``order``."""
    place = disk.make(len(tokens), np.int8)
    start = 0
    for part in blocks(len(tokens)):
        at = np.arange(part.start, part.stop)
        starts = np.maximum.accumulate(np.where(tokens[part] == START, at, start))
        start = int(starts[-1])
        place[part] = np.minimum(at - starts, order)
    return place


def _last(tokens: AnyArray, place: AnyArray, order: int) -> int:
    """Where the last n-gram ends, sorted by the last word's id, then the one before, with ``<s>`` before a sentence."""
    highest = max((int(tokens[part][place[part] > 0].max(initial=-1)) for part in blocks(len(tokens))), default=-1)
    found = np.concatenate(
        [part.start + np.flatnonzero((tokens[part] == highest) & (place[part] > 0)) for part in blocks(len(tokens))]
    )
    for back in range(1, order):
        ids = np.where(place[found] >= back, tokens[found - back], START)
        found = found[ids == ids.max()]
    return int(found[0])


@dataclass
class _Run:
    """The distinct n-grams of a part of the text, sorted by key; ``inverse`` numbers them by position (``here``)."""

    part: slice
    here: AnyArray
    inverse: AnyArray
    keys: AnyArray
    suffix: AnyArray
    counts: AnyArray


def _runs(
    tokens: AnyArray, ends: AnyArray, place: AnyArray, n: int, vocabulary: int, disk: DiskArrays
) -> Iterator[_Run]:
    parts = list(blocks(len(tokens)))
    for part in tqdm(parts, desc=f"{n}-grams", unit="part", disable=None if len(parts) > 1 else True, leave=False):
        here = np.flatnonzero(place[part] >= n - 1) + part.start
        context = ends[here - 1].astype(np.int64)
        keys = context * vocabulary + tokens[here]
        keys, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        values = (here - part.start, inverse, keys, ends[here[first]], counts)
        types = (np.int32, np.int32, np.int64, np.int32, np.int32)
        kept = [disk.make(len(value), dtype) for value, dtype in zip(values, types, strict=True)]
        for target, value in zip(kept, values, strict=True):
            target[:] = value
        release(*kept)
        yield _Run(part, *kept)


def _merged(runs: list[_Run], disk: DiskArrays) -> tuple[AnyArray, AnyArray, AnyArray, list[AnyArray]]:
    """Keys, suffixes and counts of all runs together, and for each run the places of its keys among them."""
    most = sum(len(run.keys) for run in runs)
    keys, suffix, counts = (disk.make(most, dtype) for dtype in (np.int64, np.int32, np.int32))
    ranks = [disk.make(len(run.keys), np.int32) for run in runs]
    done = 0
    for cut in _cuts(runs):
        both = np.concatenate([run.keys[c] for run, c in zip(runs, cut, strict=True)])
        sort = np.argsort(both, kind="stable")
        both = both[sort]
        first = np.flatnonzero(np.diff(both, prepend=-1))
        number = np.empty(len(both), np.int32)
        number[sort] = np.cumsum(np.diff(both, prepend=-1) != 0) - 1 + done
        until = done + len(first)
        keys[done:until] = both[first]
        suffix[done:until] = np.concatenate([run.suffix[c] for run, c in zip(runs, cut, strict=True)])[sort[first]]
        amounts = np.concatenate([run.counts[c] for run, c in zip(runs, cut, strict=True)])[sort]
        counts[done:until] = np.add.reduceat(amounts, first) if len(first) else 0
        at = 0
        for rank, c in zip(ranks, cut, strict=True):
            rank[c] = number[at : at + c.stop - c.start]
            at += c.stop - c.start
        done = until
    return keys[:done], suffix[:done], counts[:done], ranks


def _cuts(runs: list[_Run]) -> Iterator[list[slice]]:
    """Slices of the runs with keys of the same range, about ``ELEMENTS`` in all, ranges in order."""
    step = max(1, ELEMENTS // (8 * max(1, len(runs))))
    samples = np.sort(np.concatenate([run.keys[step - 1 :: step] for run in runs]))
    borders: Iterable[Any] = np.unique(samples[7 * len(runs) :: 8 * len(runs)]) if len(samples) else []
    starts = [0] * len(runs)
    for border in [*borders, None]:
        stops = [len(r.keys) if border is None else int(np.searchsorted(r.keys, border, "right")) for r in runs]
        if stops != starts:
            yield [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
        starts = stops
