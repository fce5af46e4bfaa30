"""Writes the utterances of a manifest into shards to train on (``asr shard``; see ``asr.data.shard_index``).

A recording that is an utterance is copied as it is. A part of a recording, or one of its channels, becomes FLAC at the
recording's own rate. Utterances are written in a random order, so that neighbours in a shard are a sample of the
corpus. A shard is complete or absent. Which utterances are in it depends on the manifest, the size and the seed only: a
run that was killed goes on with the next shard, and gives the same files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from asr.audio import read
from asr.cloud.addresses import is_url, parent_url, shown_place, url_name, without_secrets
from asr.cloud.inputs import open_input, read_whole
from asr.cloud.retries import service_is_down
from asr.data.manifest import Utterance, read_manifest
from asr.data.shard_index import LARGEST_MEMBER, index_path, load_index, make_index, write_index
from asr.data.shard_members import NamedBytes, ShardSums
from asr.errors import AudioError, CloudError, ManifestError, OutputError
from asr.files import AUDIO_SUFFIXES, FILM_SUFFIXES, atomic, check_output, file_sha256, sweep, write_json

_RECORD = "shards.json"
"""What a folder of shards was made of."""
_SHARD_NAME = re.compile(r"\d{5,}\.tar(\.index)?")
LONGEST_NAME = 200
"""Bytes of a member's name without its suffix; file systems take 255 with it."""
SMALLEST_SHARD = 10_000
_EXACT = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")
_ESCAPED = {ord(char): f"%{ord(char):02X}" for char in './\\%:*?"<>|'}


@dataclass
class WrittenShards:
    """What ``write_shards`` did: the shards, how many utterances they hold, and which were left out, why."""

    paths: list[str] = field(default_factory=list)
    utterances: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def member_name(name: str) -> str:
    """The name of an utterance's members without suffix: its id, with ``%2E`` for a dot, which would end it.

    Raises ``ManifestError`` for an id that is too long.
    """
    escaped = name.translate(_ESCAPED)
    if len(escaped.encode()) > LONGEST_NAME:
        raise ManifestError(
            f"id {name[:40]!r}…: expected at most {LONGEST_NAME} bytes as a name in a tar file, got "
            f"{len(escaped.encode())}; give the utterance a shorter id"
        )
    return escaped


def write_shards(
    manifest: str, folder: str, size: int = 10**9, seed: int | None = 1, *, force: bool = False
) -> WrittenShards:
    """Write ``folder/00000.tar``, ``folder/00001.tar``, … of about ``size`` bytes each, with their indices.

    Args:
        seed: of the order in which utterances are written; None: as in the manifest.
        force: begin anew where the folder holds shards of something else.

    Utterances whose audio cannot be read are left out and returned with their reasons. Raises ``ManifestError`` as
    ``read_manifest`` does and for an id that is too long, ``OutputError`` for a folder that holds something else.
    """
    if size < SMALLEST_SHARD:
        raise OutputError(f"--size: expected {SMALLEST_SHARD:,} bytes or more, got {size:,}")
    utterances = read_manifest(manifest)
    for item in utterances:
        member_name(item.id)
    checksum = hashlib.sha256(read_whole(manifest)).hexdigest() if is_url(manifest) else file_sha256(Path(manifest))
    order = np.arange(len(utterances)) if seed is None else np.random.default_rng(seed).permutation(len(utterances))
    _prepare_folder(folder, {"format": "asr-shards", "version": 1, "checksum": checksum,
                             "size": size, "seed": seed}, force=force)  # fmt: skip
    written, position = _find_written(folder)
    base = parent_url(manifest) if is_url(manifest) else os.path.dirname(os.path.abspath(manifest))
    title = f"writing {folder}"
    with tqdm(total=len(order), initial=position, desc=title, unit="utterance", disable=None, leave=False) as bar:
        while position < len(order):
            path = os.path.join(folder, f"{len(written.paths):05d}.tar")
            rest = (utterances[row] for row in order[position:].tolist())
            sums = _write_shard(path, rest, position, size, base, bar)
            position = sums.position
            if sums.utterances:
                written.paths.append(path)
            written.utterances += sums.utterances
            written.failures.update(sums.failures)
    if not written.utterances:
        name, reason = next(iter(written.failures.items()))
        raise ManifestError(f"{manifest}: no utterance can be read; the first, {name}: {reason}")
    return written


def _prepare_folder(folder: str, record: dict[str, Any], *, force: bool) -> None:
    """Refuse a folder of something else; note what the shards are made of."""
    place = Path(folder, _RECORD)
    try:
        before = json.loads(place.read_text(encoding="utf-8")) if os.path.exists(place) else None
    except (OSError, ValueError):
        before = {}
    if before == record:
        sweep(Path(folder))
        return
    if before is not None and not force:
        raise OutputError(
            f"{folder}: holds shards of another manifest, or of another --size or --seed; choose another folder, or "
            "write them anew with --force"
        )
    if before is None:
        check_output(Path(folder), force=force)
    try:
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            if _SHARD_NAME.fullmatch(name):
                os.unlink(os.path.join(folder, name))
    except OSError as error:
        raise OutputError(f"{folder}: cannot write: {error.strerror or error}") from error
    write_json(place, record)


def _find_written(folder: str) -> tuple[WrittenShards, int]:
    """The shards that are complete, and how many utterances of the order they were made of."""
    written, position = WrittenShards(), 0
    while True:
        path = os.path.join(folder, f"{len(written.paths):05d}.tar")
        if not os.path.isfile(path):
            return written, position
        index = load_index(path, index_path(path), os.path.getsize(path), 0)
        if index is None:  # its index is gone
            return written, position
        written.paths.append(path)
        written.utterances += index.sums.utterances
        written.failures.update(index.sums.failures)
        position = index.sums.position


def _write_shard(
    path: str, utterances: Iterable[Utterance], position: int, size: int, base: str, bar: Any
) -> ShardSums:
    """Write one shard and its index; no file where none of the utterances can be read."""
    failures: dict[str, str] = {}
    count = 0
    try:
        with atomic(Path(path)) as temporary:
            with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
                for item in utterances:
                    position += 1
                    bar.update()
                    try:
                        sound, suffix = _sound(item)
                    except AudioError as error:
                        if service_is_down(error):  # not the recording's fault: the next run writes it
                            raise
                        failures[item.id] = str(error)
                        continue
                    name = member_name(item.id)
                    _add(tar, name + suffix, sound)
                    _add(tar, name + ".json", _description(item, base))
                    count += 1
                    if tar.offset >= size:
                        break
            index = make_index(str(temporary))
            index.sums.stamp, index.sums.position, index.sums.failures = 0, position, failures
            if not count:
                raise _NothingWritten
            # The index first: a shard counts as complete once the tar file is there.
            write_index(index_path(path), index)
    except _NothingWritten:
        return index.sums
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror or error}") from error
    return index.sums


class _NothingWritten(Exception):
    pass


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # Neither times nor owners: equal utterances give equal files.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _sound(item: Utterance) -> tuple[bytes, str]:
    """The audio of an utterance as a file, and the suffix of its kind. Raises ``AudioError``."""
    suffix = os.path.splitext(url_name(item.audio) if is_url(item.audio) else item.audio)[1].lower()
    whole = item.start_s == 0 and item.end_s is None and item.channel is None
    if whole and suffix in AUDIO_SUFFIXES + FILM_SUFFIXES:
        try:
            with open_input(item.audio) if is_url(item.audio) else open(item.audio, "rb") as file:
                content = file.read(LARGEST_MEMBER + 1)
        except CloudError as error:
            raise AudioError(str(error)) from error
        except (OSError, ValueError) as error:
            raise AudioError(f"{item.audio}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if len(content) > LARGEST_MEMBER:
            raise AudioError(f"{without_secrets(item.audio)}: expected a recording below 2 GB")
        read.probe_audio(NamedBytes(content, without_secrets(item.audio)))
        return content, suffix
    info = read.probe_audio(item.audio)
    samples = read.load_audio(
        item.audio, info.sample_rate_hz, start_s=item.start_s, end_s=item.end_s, channel=item.channel
    )
    # The mean of channels, and samples of formats with loss, have more than 16 bits.
    exact = info.format.endswith(_EXACT) and (info.channels == 1 or item.channel is not None)
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, samples, info.sample_rate_hz, "PCM_16" if exact else "PCM_24", format="FLAC")
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise AudioError(
            f"{shown_place(item.audio)}: cannot be written as FLAC at {info.sample_rate_hz} Hz: {error}"
        ) from error
    return buffer.getvalue(), ".flac"


def _description(item: Utterance, base: str) -> bytes:
    """The JSON member: what the manifest says, and where the audio was cut from."""
    place = shown_place(item.audio)
    if is_url(place):
        shown = without_secrets(base)
        audio = place[len(shown) + 1 :] if place.startswith(f"{shown}/") else place
    else:
        inside = not is_url(base) and os.path.commonpath([base, place]) == base
        audio = os.path.relpath(place, base) if inside else os.path.basename(place)
    record: dict[str, Any] = {"id": item.id, "text": item.text, "duration_s": item.duration_s}
    if item.speaker:
        record["speaker"] = item.speaker
    record["audio"] = audio
    if item.start_s or item.end_s is not None:
        record |= {"start_s": item.start_s, "end_s": item.end_s}
    if item.channel is not None:
        record["channel"] = item.channel
    return json.dumps(record, ensure_ascii=False).encode()
