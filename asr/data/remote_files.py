"""The recordings of a batch that are at URLs, fetched together: copies on the local disk, open while it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
                if not isinstance(file, CloudError):
                    file.close()
            self._open = {}

    def source(self, audio: str) -> Any:
        """What ``load_audio`` reads for a path or URL. Raises ``AudioError`` for one that cannot be fetched."""
        if not is_url(audio):
            return audio
        found = self._open[audio] if audio in self._open else _opened(audio)
        if isinstance(found, CloudError):
            raise AudioError(str(found)) from found
        return found


def _opened(url: str) -> Any:
    from asr.cloud.input_cache import TRAINING_GB, open_cached  # what it needs is imported when a URL comes

    try:
        return open_cached(url, TRAINING_GB)
    except CloudError as error:
        return error
