"""ARPA files as they are opened: large ones are converted once, and the converted file is kept.

It is kept beside the ARPA file as ``NAME.safetensors``, or else in the user's cache folder (``asr/ngrams``). It holds
size, times and SHA-256 of the ARPA file that it was made of: where size and times differ, the checksum decides whether
it is still of use. Trees of large lexicons are kept in the cache folder too (``asr/trees``), under a checksum of all
that they are made of.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from asr.decode.arpa import read_arpa
from asr.decode.ngram import Ngram
from asr.decode.ngram_arrays import NgramArray
from asr.decode.ngram_file import (
    FORMAT,
    SUFFIX,
    is_ngram_file,
    load_origin,
    map_arrays,
    open_ngram,
    save_arrays,
    write_ngram,
)
from asr.errors import DecodeError
from asr.files import file_sha256, user_cache

LARGE = 4_000_000
"""Bytes of an ARPA file above which the converted file is kept; smaller ones are read in less than half a second."""
MANY_WORDS = 10_000
"""Words from which on a lexicon's tree is kept; those of fewer are arranged in a tenth of a second."""
TREE_FORMAT, TREE_VERSION = "asr-lexicon-tree", "1"
TreeArrays: TypeAlias = Mapping[str, NgramArray]
COMPRESSION = 4
"""About how many times smaller a compressed ARPA file is."""


def load_ngram(path: str | Path) -> Ngram:
    """An n-gram from a safetensors file, which is mapped, or from an ARPA file, which is read or found converted.

    Raises ``DecodeError`` naming the file and what is wrong with it.
    """
    path = Path(path)
    if is_ngram_file(path):
        return open_ngram(path)
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        large = os.path.isfile(path) and path.stat().st_size * (COMPRESSION if compressed else 1) >= LARGE
    except OSError as error:
        raise DecodeError(f"{path}: cannot read the n-gram: {error.strerror or error}") from error
    return _converted(path) if large else read_arpa(path)


def cache_places(path: Path) -> list[Path]:
    """Where the file converted from an ARPA file may lie: beside it, in the user's cache folder."""
    number = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    name, folder = path.name + SUFFIX, user_cache()
    beside = path.with_name(name)
    return [beside] if folder is None else [beside, folder / "ngrams" / f"{number}-{name}"]


def _converted(path: Path) -> Ngram:
    stamp, checksum = _stamp(path), functools.cache(lambda: file_sha256(path))
    free = []
    for place in cache_places(path):
        if not os.path.lexists(place):
            free.append(place)
            continue
        try:
            made_of = load_origin(place)
            arpa = made_of.get("arpa")
            if not isinstance(arpa, dict):
                continue  # somebody else's
            free.append(place)
            if arpa.get("stamp") == stamp or arpa.get("sha256") == checksum():
                ngram = open_ngram(place)
                ngram.kept = place, made_of
                return ngram
        except DecodeError:
            if _is_old(place):
                free.append(place)
    print(f"{path}: converting the n-gram, once", file=sys.stderr, flush=True)
    ngram = read_arpa(path)
    made_of = {"arpa": {"name": path.name, "stamp": stamp, "sha256": checksum()}}
    for place in free:
        if _stamp(path) != stamp:  # it is being written
            return ngram
        try:
            write_ngram(place, ngram, made_of=made_of)
            ngram = open_ngram(place)
        except DecodeError:
            continue
        ngram.kept = place, made_of
        print(f"{path}: converted, kept as {place}", file=sys.stderr, flush=True)
        return ngram
    print(
        f"note: {path}: the converted n-gram cannot be kept, and every start converts it anew; asr lm-convert {path} "
        f"OUT{SUFFIX} writes it where you like",
        file=sys.stderr,
        flush=True,
    )
    return ngram


def keep_tree(ngram: Ngram, fingerprint: str, tree: Mapping[str, NgramArray]) -> None:
    """Add a lexicon tree to the converted file of an n-gram, where there is one that can be written."""
    if ngram.kept is None:
        return
    place, made_of = ngram.kept
    try:
        if load_origin(place) != made_of:
            return  # made anew since, of another ARPA file
        trees: dict[str, Any] = {**open_ngram(place).trees, fingerprint: tree}
        write_ngram(place, Ngram.of(ngram.arrays, ngram.words, trees), made_of=made_of)
    except DecodeError:
        return  # the search goes on with the tree as it is


def cached_tree(
    fingerprint: str, ngram: Ngram | None, lexicon: Sequence[str], make: Callable[[], TreeArrays | None]
) -> TreeArrays | None:
    """The tree of a large lexicon, or else of an n-gram's words, kept in the user's cache folder from its first use on.

    Args:
        fingerprint: of the tokenizer (``asr.text.tokenizer_files.spelling_fingerprint``).
        ngram: the n-gram whose numbers of words the tree holds.
        lexicon: the words; none takes those of the n-gram.
        make: arranges the words; called where nothing is kept.

    Returns:
        What ``make`` gives.
    """
    words = () if ngram is None else ngram.words
    folder = user_cache()
    if folder is None or max(len(lexicon), len(words)) < MANY_WORDS:
        return make()
    digest = hashlib.sha256(fingerprint.encode())
    for part in (words, lexicon):
        digest.update(f"\n{len(part)}\n".encode() + "\n".join(part).encode())
    place = folder / "trees" / f"{digest.hexdigest()[:32]}{SUFFIX}"
    try:
        return map_arrays(place, TREE_FORMAT, TREE_VERSION, "a lexicon's tree")[0]
    except DecodeError:
        pass  # none yet, or a damaged one, which is replaced
    tree = make()
    with contextlib.suppress(DecodeError):  # the search goes on with the tree as it is
        save_arrays(place, tree or {}, TREE_FORMAT, TREE_VERSION)
    return tree


def _is_old(place: Path) -> bool:
    """Whether a file that cannot be opened was a converted one, now damaged or of another version."""
    try:
        with place.open("rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(4096)
    except OSError:
        return False


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
