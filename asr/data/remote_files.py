"""The recordings of a batch that are at URLs, fetched together: copies on the local disk, open while it is made.

Members of an archive at a URL are read out of it each time, without a copy.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asr.audio.archive_index import find_member
from asr.audio.archive_members import open_member
from asr.cloud.addresses import is_url
from asr.errors import AudioError, CloudError

_THREADS = 16
"""Recordings that are fetched at a time."""


class RemoteFiles:
    """Files of the batch that is being made. For one thread."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}

    @contextlib.contextmanager
    def fetch(self, urls: Iterable[str]) -> Iterator[None]:
        """Have these ready in the block; one that fails says so when it is used."""
        wanted = list(dict.fromkeys(urls))
        if not wanted:
            yield
            return
        with ThreadPoolExecutor(min(_THREADS, len(wanted))) as pool:
            self._open = dict(zip(wanted, pool.map(_opened, wanted), strict=True))
        try:
            yield
        finally:
            for file in self._open.values():
                if not isinstance(file, AudioError):
                    file.close()
            self._open = {}

    def source(self, audio: str) -> Any:
        """What ``load_audio`` reads for a path or URL. Raises ``AudioError`` for one that cannot be fetched."""
        if not is_url(audio):
            return audio
        found = self._open[audio] if audio in self._open else _opened(audio)
        if isinstance(found, AudioError):
            raise found
        return found


_member = functools.lru_cache(maxsize=1 << 14)(find_member)
"""The members that were asked for last: looking for one asks the service for the archive's version."""


def _opened(url: str) -> Any:
    """The recording as a file, or the ``AudioError`` that says why there is none."""
    from asr.cloud.input_cache import TRAINING_GB, open_cached  # what it needs is imported when a URL comes

    try:
        member = _member(url)
        return open_cached(url, TRAINING_GB) if member is None else open_member(member)
    except AudioError as error:
        return error
    except CloudError as error:
        failure = AudioError(str(error))
        failure.__cause__ = error  # which says whether the service is down
        return failure
