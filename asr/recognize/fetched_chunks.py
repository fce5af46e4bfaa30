"""Recordings in chunks for processes; short ones at URLs are fetched before their turn.

A process that fetched its own recordings would wait for the first of each chunk. So the parent fetches, in threads, and
hands over bytes. Long recordings stay URLs: their process reads them in parts. Members of compressed tar files are
read here in their order: short ones are handed over as bytes, long ones as temporary files.
"""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
import threading
from collections.abc import Generator, Sequence

from asr.audio.archive_index import MemberPath
from asr.audio.archive_members import copy_member, is_streamed, open_member
from asr.cloud.addresses import is_url, without_secrets
from asr.errors import AudioError, CloudError
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
        self._remote = any(is_url(item.source) or is_streamed(item.source) for item in items)
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self._fetched: Generator[Recording, None, None] | None = None
        self._kept: dict[int, list[Recording]] = {}
        self._held = 0
        self._lock = threading.Lock()

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
            self._fetched = read_ahead(self._fetch, self._items, _THREADS, _MOST_BYTES / 1e6)
        if index not in self._kept:
            count = min(self._size, len(self._items) - index * self._size)
            self._kept[index] = [next(self._fetched) for _ in range(count)]
            self._held += sum(map(_bytes, self._kept[index]))
        return self._kept[index]

    def drop(self, index: int) -> None:
        """Forget a chunk that is done."""
        chunk = self._kept.pop(index, [])
        self._held -= sum(map(_bytes, chunk))
        for item in chunk:
            if isinstance(item.source, MemberPath) and item.source.member.copy:
                os.unlink(item.source.member.copy)

    def close(self) -> None:
        """End the threads."""
        if self._fetched is not None:
            self._fetched.close()
        if self._copies is not None:
            self._copies.cleanup()

    def _fetch(self, item: Recording) -> tuple[Recording, float]:
        """The recording with its bytes, and their megabytes. If this fails, the recording is returned without bytes,
        and its process reports the reason."""
        try:
            if isinstance(item.source, MemberPath):
                content = self._of_archive(item.source)
            else:
                content = _at_url(item.source) if is_url(item.source) else None
        except (AudioError, CloudError, OSError):
            return item, 0.0
        if content is None:
            return item, 0.0
        found = dataclasses.replace(item, source=content)
        return found, _bytes(found) / 1e6

    def _of_archive(self, path: MemberPath) -> io.BytesIO | MemberPath | None:
        """A member of an archive at a URL or of a compressed one, which is read here, in its order."""
        if not is_url(path) and not is_streamed(path):
            return None
        if path.member.size <= _LARGEST_BYTES:
            with open_member(path) as file:
                return _named_bytes(file.read(), path)
        if not is_streamed(path):
            return None
        with self._lock:
            self._copies = self._copies or tempfile.TemporaryDirectory(prefix="asr")
        return copy_member(path, self._copies.name)


def _at_url(url: str) -> io.BytesIO | None:
    from asr.cloud.inputs import open_input  # what it needs is imported when a URL comes

    with open_input(url) as file:
        return _named_bytes(file.read(), url) if file.size <= _LARGEST_BYTES else None


def _named_bytes(data: bytes, path: str) -> io.BytesIO:
    content = io.BytesIO(data)
    content.name = without_secrets(path)
    return content


def _bytes(item: Recording) -> int:
    if isinstance(item.source, io.BytesIO):
        return len(item.source.getbuffer())
    return item.source.member.size if isinstance(item.source, MemberPath) and item.source.member.copy else 0
