"""Utterances of a shard, a tar file in WebDataset's layout, by the places of their members.

    00000.tar: fash-cen1.flac, fash-cen1.json, fash-cen2.flac, fash-cen2.json, …

The members of one utterance follow each other and share their name up to its first dot. One is audio, one is ``.json``
(``text``, and if known ``id``, ``duration_s``, ``speaker``) or ``.txt``. ``asr.data.shard_index`` finds the places.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from asr.cloud.addresses import clean_text, is_url
from asr.data.manifest import Utterance
from asr.data.remote_shards import open_remote_shard, shown_shard
from asr.errors import CloudError, ManifestError

MEMBER_PLACES = np.dtype([
    ("audio_at", "<i8"), ("audio_size", "<i8"), ("json_at", "<i8"), ("json_size", "<i4"),
    ("text_at", "<i8"), ("text_size", "<i4"), ("duration_s", "<f8"), ("id_hash", "<u8"), ("id_end", "<i8"),
    ("suffix", "S8"),
])  # fmt: skip
"""One utterance: first byte and size of each member in the tar file (size -1: there is none), its length, a checksum of
its id, and where its id ends among all ids."""
TEXT_KEYS = ("text", "transcript", "sentence")
"""Keys of a JSON member that may hold the text, the first one wins."""


class ShardError(ManifestError):
    """A shard that cannot be used; its message holds no secrets of a URL."""

    def __init__(self, text: str) -> None:
        super().__init__(clean_text(text))


@dataclass
class ShardSums:
    """What a shard comes to."""

    size: int
    """Bytes of the tar file."""
    stamp: int = 0
    """When the tar file was changed last, in ns; 0 in an index that ``asr shard`` wrote, which is copied beside it."""
    utterances: int = 0
    seconds: float = 0.0
    words: int = 0
    characters: int = 0
    inventory: dict[str, int] = field(default_factory=dict)
    """How often each character occurs in the texts."""
    speakers: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Members that are no utterance, and why."""
    failures: dict[str, str] = field(default_factory=dict)
    """Utterances of the manifest that could not be read, and why (``asr shard``)."""
    position: int = 0
    """Utterances of the manifest that this shard and those before it were made of (``asr shard``)."""


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard: ``places`` ``(n,)`` of ``MEMBER_PLACES`` in the order of the tar file.

    ``speakers`` ``(n,)`` int32 are places in ``sums.speakers``, -1 for an utterance that names none; None in an index
    of an earlier version, which does not know them.
    """

    path: str
    places: np.ndarray
    ids: bytes
    sums: ShardSums
    speakers: np.ndarray | None = None

    def id(self, row: int) -> str:
        """The id of an utterance."""
        start = int(self.places["id_end"][row - 1]) if row else 0
        return self.ids[start : int(self.places["id_end"][row])].decode()

    def member(self, row: int) -> ShardMember:
        """Where an utterance lies."""
        place = self.places[row]
        return ShardMember(
            self.path, self.id(row), int(place["audio_at"]), int(place["audio_size"]), int(place["json_at"]),
            int(place["json_size"]), int(place["text_at"]), int(place["text_size"]), float(place["duration_s"]),
            place["suffix"].decode(),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShardMember:
    """Where one utterance lies in a shard."""

    shard: str
    id: str
    audio_at: int
    audio_size: int
    json_at: int
    json_size: int
    text_at: int
    text_size: int
    duration_s: float
    suffix: str

    @property
    def name(self) -> str:
        """What messages call its audio."""
        return f"{shown_shard(self.shard)}: {self.id}{self.suffix}"


class NamedBytes(io.BytesIO):
    """A file in memory with a name for messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def id_hash(name: str) -> int:
    """64 bits of an id."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class ShardReader:
    """Reads utterances of many shards, of which the last few stay open."""

    def __init__(self, most: int = 16) -> None:
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._most = most

    def read(self, member: ShardMember) -> tuple[Utterance, NamedBytes]:
        """An utterance, and its audio as a file in memory. Raises as ``read_utterance``."""
        file = self._files.pop(member.shard, None) or open_shard(member.shard)
        self._files[member.shard] = file
        if len(self._files) > self._most:
            self._files.popitem(last=False)[1].close()
        return read_utterance(file, member), read_sound(file, member)


def read_sound(file: BinaryIO, member: ShardMember) -> NamedBytes:
    """The audio of an utterance as a file in memory. Raises as ``read_utterance``."""
    return NamedBytes(_bytes_at(file, member.audio_at, member.audio_size, member), member.name)


def read_utterance(file: BinaryIO, member: ShardMember) -> Utterance:
    """An utterance of an open shard; its ``audio`` is a name for messages.

    Raises ``ShardError`` where the tar file has changed since its index was made.
    """
    record, words = None, None
    if member.json_size >= 0:
        record = json_object(_bytes_at(file, member.json_at, member.json_size, member))
    if member.text_size >= 0:
        words = _bytes_at(file, member.text_at, member.text_size, member)
    found = member_utterance(member.id, member.name, record, words, member.duration_s)
    if found.id != member.id:
        raise ShardError(f"{member.shard}: changed since its index was made: expected {member.id}, got {found.id}")
    return found


def read_shard_texts(index: ShardIndex) -> Iterator[Utterance]:
    """The utterances of a shard without their audio, in its order. Raises as ``read_utterance``."""
    with open_shard(index.path) as file:
        for row in range(len(index.places)):
            yield read_utterance(file, index.member(row))


def open_shard(path: str) -> BinaryIO:
    """A shard open for reading. Raises ``ShardError``."""
    try:
        return open_remote_shard(path) if is_url(path) else open(path, "rb")
    except CloudError as error:
        raise ShardError(str(error)) from error
    except OSError as error:
        raise ShardError(f"{path}: cannot read the shard: {error.strerror or error}") from error


def _bytes_at(file: BinaryIO, at: int, size: int, member: ShardMember) -> bytes:
    """The content of a member of the tar file, whose header right before it must name this size."""
    try:
        file.seek(at - tarfile.BLOCKSIZE)
        header = file.read(tarfile.BLOCKSIZE)
        content = file.read(size)
    except CloudError as error:
        raise ShardError(str(error)) from error
    except OSError as error:
        raise ShardError(f"{member.shard}: cannot read {member.id}: {error.strerror or error}") from error
    if len(content) < size:
        raise ShardError(f"{member.shard}: cut short since its index was made, in {member.id}; copy it again")
    if _stated_size(header) != size:  # otherwise a replaced shard would give parts of other texts
        raise ShardError(f"{member.shard}: changed since its index was made, at {member.id}; start again")
    return content


def _stated_size(header: bytes) -> int | None:
    """Bytes of a member by its header in a tar file (POSIX 1003.1, ustar); None where there is no header."""
    try:
        return tarfile.nti(header[124:136])  # type: ignore[attr-defined,no-any-return]
    except (tarfile.HeaderError, ValueError):
        return None


def json_object(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"expected a JSON object in UTF-8: {error}") from error
    if not isinstance(record, dict):
        raise ShardError(f"expected a JSON object, got {type(record).__name__}")
    return record


def member_utterance(
    key: str, audio: str, record: dict[str, Any] | None, words: bytes | None, duration_s: float | None
) -> Utterance:
    """The utterance that members describe. Raises ``ManifestError`` for what is missing or wrong."""
    record = record or {}
    text = next((record[name] for name in TEXT_KEYS if name in record), None)
    if text is None and words is not None:
        try:
            text = words.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ShardError(f"its .txt: expected UTF-8, got {error}") from error
    if text is None:
        raise ShardError(f"expected its text in {key}.json (key text) or in {key}.txt, got neither")
    given: Any = record.get("duration_s") if duration_s is None else duration_s
    speaker: Any = record.get("speaker") or ""
    name = record.get("id")
    return Utterance(name if isinstance(name, str) and name else key, audio, text, given, speaker)
