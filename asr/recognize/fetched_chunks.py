"""Recordings in chunks for processes; short ones at URLs are fetched before their turn.

A process that fetched its own recordings would wait for the first of each chunk. So the parent fetches, in threads, and
hands over bytes. Long recordings stay URLs: their process reads them in parts.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Generator, Sequence

from asr.cloud.addresses import is_url, without_secrets
from asr.errors import CloudError
from asr.recognize.readers import read_ahead
from asr.recognize.recording import Recording

_LARGEST_BYTES = 4 << 20
"""Larger objects are read by the process that transcribes them."""
_MOST_BYTES = 256 << 20
"""Bytes of chunks that were handed over and are not done."""
_THREADS = 32


class FetchedChunks:
    """Recordings in chunks of ``size``, to be taken in order; ``get`` gives a chunk again until it is dropped."""

    def __init__(self, items: Sequence[Recording], size: int) -> None:
        self._size = size
        self._count = -(-len(items) // size)
        self._items = items
        self._remote = any(is_url(item.source) for item in items)
        self._fetched: Generator[Recording, None, None] | None = None
        self._kept: dict[int, list[Recording]] = {}
        self._held = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether no further chunk should be taken before one is dropped."""
        return self._remote and self._held >= _MOST_BYTES

    def get(self, index: int) -> list[Recording]:
        """The recordings of a chunk, fetched. Chunks are first asked for in order."""
        if not self._remote:
            return list(self._items[index * self._size : (index + 1) * self._size])
        if self._fetched is None:
            self._fetched = read_ahead(_fetch, self._items, _THREADS, _MOST_BYTES / 1e6)
        if index not in self._kept:
            count = min(self._size, len(self._items) - index * self._size)
            self._kept[index] = [next(self._fetched) for _ in range(count)]
            self._held += sum(map(_bytes, self._kept[index]))
        return self._kept[index]

    def drop(self, index: int) -> None:
        """Forget a chunk that is done."""
        self._held -= sum(map(_bytes, self._kept.pop(index, ())))

    def close(self) -> None:
        """End the threads."""
        if self._fetched is not None:
            self._fetched.close()


def _fetch(item: Recording) -> tuple[Recording, float]:
    """The recording with its bytes, and how many megabytes; as it is where that fails: its process says why."""
    if not is_url(item.source):
        return item, 0.0
    from asr.cloud.inputs import open_input

    try:
        with open_input(item.source) as file:
            if file.size > _LARGEST_BYTES:
                return item, 0.0
            content = io.BytesIO(file.read())
    except CloudError:
        return item, 0.0
    content.name = without_secrets(item.source)
    return dataclasses.replace(item, source=content), len(content.getbuffer()) / 1e6


def _bytes(item: Recording) -> int:
    return len(item.source.getbuffer()) if isinstance(item.source, io.BytesIO) else 0
