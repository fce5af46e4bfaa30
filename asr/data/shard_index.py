"""The index of a shard: where the members of each utterance begin, its id and length, and the sums of the shard.

``asr shard`` writes an index beside each shard, ``00000.tar.index``. Shards of others get their index at the first use,
beside them or in the user's cache folder. Batches are planned with indices alone. ``asr.data.shard_members`` has the
layout of a shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asr.audio import read
from asr.cloud.addresses import identity, is_url, url_name
from asr.data.manifest import Utterance
from asr.data.remote_shards import remote_index, remote_stamp, shown_shard
from asr.data.shard_members import (
    MEMBER_PLACES,
    NamedBytes,
    ShardError,
    ShardIndex,
    ShardSums,
    id_hash,
    json_object,
    member_utterance,
    open_shard,
)
from asr.errors import AudioError, CloudError, ManifestError
from asr.files import AUDIO_SUFFIXES, FILM_SUFFIXES, atomic, user_cache

INDEX_SUFFIX = ".index"
LARGEST_MEMBER = 2**31 - 1
_VERSION = 1
_BLOCK = 512


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
        arrays: dict[str, Any] = {"places": index.places, "ids": np.frombuffer(index.ids, np.uint8)}
        if index.speakers is not None:
            arrays["speakers"] = index.speakers
        np.savez(file, sums=np.frombuffer(sums, np.uint8), **arrays)


def load_index(shard: str, path: str | BinaryIO, size: int, stamp: int) -> ShardIndex | None:
    """The index at ``path`` if it is one of this shard; ``size`` and ``stamp`` are those of the tar file.

    None for no index, or one of another file or version. Raises ``ShardError`` where the tar file is shorter than the
    index says: it was cut short.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            tree = json.loads(file["sums"].tobytes())
            places, ids = file["places"], file["ids"].tobytes()
            speakers = file["speakers"] if "speakers" in file.files else None
        if tree.pop("version") != _VERSION or places.dtype != MEMBER_PLACES:
            return None
        sums = ShardSums(**tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    if sums.stamp and (sums.stamp, sums.size) != (stamp, size):
        return None
    index = ShardIndex(shard, places, ids, sums, speakers)
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
    sums, counts, spoken_by = ShardSums(*_size_and_stamp(shard)), Counter[str](), list[str]()
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
            spoken_by.append(item.speaker)
    sums.utterances = len(rows)
    sums.inventory = dict(sorted(counts.items()))
    sums.speakers = sorted({*spoken_by} - {""})
    places = {name: place for place, name in enumerate(sums.speakers)}
    speakers = np.array([places.get(name, -1) for name in spoken_by], dtype=np.int32)
    return ShardIndex(shard, np.array(rows, dtype=MEMBER_PLACES), "".join(ids).encode(), sums, speakers)


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
    record = json_object(content["json"]) if "json" in content else None
    duration_s = None
    if not record or "duration_s" not in record:
        file.seek(audio.offset_data)
        duration_s = read.probe_audio(NamedBytes(file.read(audio.size), f"{shard}: {key}{suffix}")).duration_s
    item = member_utterance(key, f"{shard}: {key}{suffix}", record, content.get("text"), duration_s)
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


def find_index(shard: str, *, speakers: bool = False) -> ShardIndex:
    """The index of a shard, made and kept at the first use; a line on standard error says so.

    With ``speakers`` it knows the speaker of each utterance: one of an earlier version is made anew. Raises
    ``ShardError`` for a shard that cannot be used.
    """
    try:
        size, stamp = _size_and_stamp(shard)
    except OSError as error:
        raise ShardError(f"{shard}: cannot read the shard: {error.strerror or error}") from error
    except CloudError as error:
        raise ShardError(str(error)) from error
    places = index_places(shard)
    older: ShardIndex | None = None
    for place in places:
        if (index := load_index(shard, place, size, stamp)) is not None:
            if index.speakers is not None or not speakers:
                return index
            older = index
    found = remote_index(index_path(shard)) if is_url(shard) else None
    index = load_index(shard, found, size, stamp) if found else None
    if index is None or (speakers and index.speakers is None):
        index, found = make_index(shard), None
    if older is not None:  # asr shard goes on where it says
        index.sums.stamp, index.sums.position, index.sums.failures = (
            older.sums.stamp, older.sums.position, older.sums.failures
        )  # fmt: skip
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
