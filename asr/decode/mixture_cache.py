"""Mixtures of large n-grams, kept in the user's cache folder (``asr/mixtures``) from their first use on.

A mixture's name is a checksum of the n-grams' content and their weights, so that it never holds for others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asr.decode.mixtures import mixed_ngrams
from asr.decode.ngram import Ngram
from asr.decode.ngram_file import SUFFIX, load_origin, open_ngram, write_ngram
from asr.errors import DecodeError
from asr.files import user_cache

MANY_NGRAMS = 200_000
"""N-grams of all models from which on a mixture is kept; fewer are mixed in half a second."""
MOST_KEPT = 8
"""Mixtures in the folder; the one that was not used for longest goes first."""


def kept_mixture(ngrams: Sequence[Ngram], weights: Sequence[float]) -> Ngram:
    """As ``mixed_ngrams``; a large mixture is mapped from the cache folder where it was made before.

    Results are the same to the last bit. A line on standard error says when a mixture is made and kept.
    """
    folder = user_cache()
    if folder is None or sum(int(ngram.arrays.counts.sum()) for ngram in ngrams) < MANY_NGRAMS:
        return mixed_ngrams(ngrams, weights)
    made_of = {"mixture": _checksum(ngrams, weights)}
    place = folder / "mixtures" / f"{made_of['mixture'][:32]}{SUFFIX}"
    with contextlib.suppress(DecodeError):  # none yet, or a damaged one, which is replaced
        if load_origin(place) == made_of:
            found = _opened(place, made_of)
            with contextlib.suppress(OSError):
                os.utime(place)  # so that those in use are not the first to go
            return found
    print("mixing the n-grams, once", file=sys.stderr, flush=True)
    mixture = mixed_ngrams(ngrams, weights)
    try:
        write_ngram(place, mixture, made_of=made_of)
        _drop_oldest(place)
        return _opened(place, made_of)
    except DecodeError as error:
        print(f"note: the mixture cannot be kept, and every start makes it anew: {error}", file=sys.stderr, flush=True)
        return mixture


def _opened(place: Path, made_of: dict[str, str]) -> Ngram:
    ngram = open_ngram(place)
    ngram.kept = place, made_of
    return ngram


def _checksum(ngrams: Sequence[Ngram], weights: Sequence[float]) -> str:
    """SHA-256 of words, arrays and weights, and of what the n-grams' order tells."""
    digest = hashlib.sha256(b"asr-mixture-1")
    for ngram, weight in zip(ngrams, weights, strict=True):
        text = "\n".join(ngram.words).encode()
        digest.update(f"\n{float(weight)!r} {len(text)}\n".encode() + text)
        for name, values in ngram.arrays._asdict().items():
            digest.update(f"\n{name} {values.dtype.str} {values.size}\n".encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _drop_oldest(newest: Path) -> None:
    """Remove mixtures beyond ``MOST_KEPT``, never the one that was just made. A file that is in use stays readable."""
    with contextlib.suppress(OSError):
        others = [path for path in newest.parent.glob(f"*{SUFFIX}") if path != newest]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in others[MOST_KEPT - 1 :]:
            old.unlink(missing_ok=True)
