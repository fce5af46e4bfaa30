"""What lies where in a shard, a tar file of utterances in WebDataset's layout.

    00000.tar: fash-cen1.flac, fash-cen1.json, fash-cen2.flac, fash-cen2.json, …

The members of one utterance follow each other and share their name up to its first dot. One is audio, one is ``.json``
(``text``, and if known ``id``, ``duration_s``, ``speaker``) or ``.txt``. ``asr shard`` writes an index beside each
shard, ``00000.tar.index``: where the members of each utterance begin, its id and length, and the sums of the shard.
Shards of others get their index at the first use, beside them or in the user's cache folder. Batches are planned with
indices alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asr.audio import read
from asr.cloud.addresses import clean_text, identity, is_url, url_name
from asr.data.manifest import Utterance
from asr.data.remote_shards import open_remote_shard, remote_index, remote_stamp, shown_shard
from asr.errors import AudioError, CloudError, ManifestError
from asr.files import AUDIO_SUFFIXES, FILM_SUFFIXES, atomic, user_cache

INDEX_SUFFIX = ".index"
_VERSION = 1
MEMBER_PLACES = np.dtype([
    ("audio_at", "<i8"), ("audio_size", "<i8"), ("json_at", "<i8"), ("json_size", "<i4"),
    ("text_at", "<i8"), ("text_size", "<i4"), ("duration_s", "<f8"), ("id_hash", "<u8"), ("id_end", "<i8"),
    ("suffix", "S8"),
])  # fmt: skip
"""One utterance: first byte and size of each member in the tar file (size -1: there is none), its length, a checksum of
its id, and where its id ends among all ids."""
TEXT_KEYS = ("text", "transcript", "sentence")
"""Keys of a JSON member that may hold the text, the first one wins."""
LARGEST_MEMBER = 2**31 - 1
_BLOCK = 512


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
    """The index of one shard: ``places`` ``(n,)`` of ``MEMBER_PLACES`` in the order of the tar file."""

    path: str
    places: np.ndarray
    ids: bytes
    sums: ShardSums

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
        record = _json_object(_bytes_at(file, member.json_at, member.json_size, member))
    if member.text_size >= 0:
        words = _bytes_at(file, member.text_at, member.text_size, member)
    found = _utterance(member.id, member.name, record, words, member.duration_s)
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
    try:
        file.seek(at)
        content = file.read(size)
    except CloudError as error:
        raise ShardError(str(error)) from error
    except OSError as error:
        raise ShardError(f"{member.shard}: cannot read {member.id}: {error.strerror or error}") from error
    if len(content) < size:
        raise ShardError(f"{member.shard}: cut short since its index was made, in {member.id}; copy it again")
    return content


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"expected a JSON object in UTF-8: {error}") from error
    if not isinstance(record, dict):
        raise ShardError(f"expected a JSON object, got {type(record).__name__}")
    return record


def _utterance(
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


def index_path(shard: str) -> str:
    """Where the index of a shard lies that ``asr shard`` wrote."""
    return shard + INDEX_SUFFIX


def index_places(shard: str) -> list[str]:
    """Where the index of a shard may lie: beside it, or in the user's cache folder."""
    folder = user_cache()
    if folder is None:
        return [index_path(shard)]
    number = hashlib.sha256(os.fsencode(identity(shard) if is_url(shard) else os.path.realpath(shard))).hexdigest()[:16]
    if is_url(shard):
        return [str(folder / "shards" / f"{number}-{url_name(shard)}{INDEX_SUFFIX}")]
    return [index_path(shard), str(folder / "shards" / f"{number}-{os.path.basename(shard)}{INDEX_SUFFIX}")]


def write_index(path: str, index: ShardIndex) -> None:
    """Write an index, whole or not at all. Raises ``OSError``."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    sums = json.dumps({"version": _VERSION, **asdict(index.sums)}).encode()
    with atomic(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez(file, places=index.places, ids=np.frombuffer(index.ids, np.uint8), sums=np.frombuffer(sums, np.uint8))


def load_index(shard: str, path: str | BinaryIO, size: int, stamp: int) -> ShardIndex | None:
    """The index at ``path`` if it is one of this shard; ``size`` and ``stamp`` are those of the tar file.

    None for no index, or one of another file or version. Raises ``ShardError`` where the tar file is shorter than the
    index says: it was cut short.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            tree = json.loads(file["sums"].tobytes())
            places, ids = file["places"], file["ids"].tobytes()
        if tree.pop("version") != _VERSION or places.dtype != MEMBER_PLACES:
            return None
        sums = ShardSums(**tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    if sums.stamp and (sums.stamp, sums.size) != (stamp, size):
        return None
    index = ShardIndex(shard, places, ids, sums)
    if size < sums.size:
        ends = places["audio_at"] + places["audio_size"]
        lost = int((np.maximum(ends, places["json_at"] + places["json_size"]) > size).sum())
        raise ShardError(
            f"{shard}: cut short: expected {sums.size:,} bytes, got {size:,}; {lost} of {sums.utterances} utterances "
            "are lost; copy the shard again, or leave it out of the range"
        )
    return index if size == sums.size else None


def make_index(shard: str) -> ShardIndex:
    """Read a shard from its beginning to its end, and note what lies where.

    A member that is no utterance goes into ``sums.skipped``. Raises ``ShardError`` for a file that is no tar file or
    ends too early, and for an id that comes twice.
    """
    sums, counts, speakers = ShardSums(*_size_and_stamp(shard)), Counter[str](), set[str]()
    rows: list[tuple[Any, ...]] = []
    ids: dict[str, None] = {}
    end = 0
    with open_shard(shard) as file:
        for key, members in _grouped(shard, file):
            try:
                item, place = _indexed(shard, file, key, members)
            except (ManifestError, AudioError) as error:
                sums.skipped.append((key, str(error)))
                continue
            if item.id in ids:
                raise ShardError(f"{shard}: id {item.id!r} comes twice; every utterance needs its own")
            ids[item.id] = None
            end += len(item.id.encode())
            rows.append((*place[:6], item.duration_s, id_hash(item.id), end, place[6]))
            sums.seconds += item.duration_s
            sums.words += len(item.text.split())
            sums.characters += len(" ".join(item.text.split()))
            counts.update(item.text)
            speakers.update([item.speaker] if item.speaker else [])
    sums.utterances = len(rows)
    sums.inventory = dict(sorted(counts.items()))
    sums.speakers = sorted(speakers)
    return ShardIndex(shard, np.array(rows, dtype=MEMBER_PLACES), "".join(ids).encode(), sums)


def _grouped(shard: str, file: BinaryIO) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The members of each utterance by their suffixes."""
    key, members = "", dict[str, tarfile.TarInfo]()
    at = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # they would fill the memory
                if not member.isfile() or os.path.basename(member.name).startswith("."):
                    continue
                folder, name = os.path.split(member.name)
                stem, _, suffix = name.partition(".")
                found = f"{folder}/{stem}" if folder else stem
                if found != key and members:
                    yield key, members
                    members = {}
                key = found
                members["." + suffix.lower()] = member
            at = tar.offset
    except tarfile.TarError as error:
        raise ShardError(
            f"{shard}: cut short, or not an uncompressed tar file: {error}"
            + (f"; the last whole utterance is before {key!r}" if key else "")
            + "; copy the shard again, or leave it out of the range"
        ) from error
    if members:
        yield key, members
    file.seek(at)
    # A tar file ends with blocks of zeros. Python's reader takes any other end for the end, too.
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise ShardError(
            f"{shard}: cut short or damaged behind {key!r}: the end mark of a tar file is missing; copy the shard "
            "again, or leave it out of the range"
        )


def _indexed(
    shard: str, file: BinaryIO, key: str, members: dict[str, tarfile.TarInfo]
) -> tuple[Utterance, tuple[Any, ...]]:
    """An utterance and where it lies. Raises ``ManifestError`` or ``AudioError`` for what is missing or wrong."""
    suffix = next((name for name in members if name in AUDIO_SUFFIXES + FILM_SUFFIXES), None)
    if suffix is None:
        raise ShardError(f"expected an audio member, got {', '.join(key + name for name in members)}")
    audio, tree, words = members[suffix], members.get(".json"), members.get(".txt")
    if max(member.size for member in (audio, tree, words) if member) > LARGEST_MEMBER:
        raise ShardError("expected members below 2 GB")
    content = {}
    for name, member in (("json", tree), ("text", words)):
        if member is not None:
            file.seek(member.offset_data)
            content[name] = file.read(member.size)
    record = _json_object(content["json"]) if "json" in content else None
    duration_s = None
    if not record or "duration_s" not in record:
        file.seek(audio.offset_data)
        duration_s = read.probe_audio(NamedBytes(file.read(audio.size), f"{shard}: {key}{suffix}")).duration_s
    item = _utterance(key, f"{shard}: {key}{suffix}", record, content.get("text"), duration_s)
    place: list[Any] = [audio.offset_data, audio.size]
    for other in (tree, words):
        place += [other.offset_data, other.size] if other else [0, -1]
    return item, (*place, suffix.encode())


def _size_and_stamp(shard: str) -> tuple[int, int]:
    """Size and version of a shard. Raises ``OSError`` or ``CloudError``."""
    if is_url(shard):
        return remote_stamp(shard)
    status = os.stat(shard)
    return status.st_size, status.st_mtime_ns


def find_index(shard: str) -> ShardIndex:
    """The index of a shard, made and kept at the first use; a line on standard error says so.

    Raises ``ShardError`` for a shard that cannot be used.
    """
    try:
        size, stamp = _size_and_stamp(shard)
    except OSError as error:
        raise ShardError(f"{shard}: cannot read the shard: {error.strerror or error}") from error
    except CloudError as error:
        raise ShardError(str(error)) from error
    places = index_places(shard)
    for place in places:
        if (index := load_index(shard, place, size, stamp)) is not None:
            return index
    found = remote_index(index_path(shard)) if is_url(shard) else None
    index = (found and load_index(shard, found, size, stamp)) or make_index(shard)
    if found:  # keep it here for this version
        index.sums.stamp = stamp
    for place in places:
        try:
            write_index(place, index)
        except OSError:
            continue
        if not found:
            print(f"{shown_shard(shard)}: indexed, once; the index is kept as {place}", file=sys.stderr, flush=True)
        return index
    print(f"note: {shard}: its index cannot be kept, and every start reads the shard", file=sys.stderr, flush=True)
    return index
