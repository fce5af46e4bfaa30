"""Utterances of manifests and of archives: one place that turns an input with texts into utterances.

An archive (zip, tar, compressed tar) has a text beside each recording, ``a.json`` or ``a.txt`` beside ``a.flac``, as
shards have (``asr.data.shard_members``), or it has one manifest. Nothing is unpacked to the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asr.audio import find, read
from asr.audio.archive_index import STREAMED, ArchiveIndex, MemberPath, member_path, read_index
from asr.audio.archive_members import open_member
from asr.cloud.addresses import is_url, without_secrets
from asr.data.manifest import Utterance, scan_manifest, unique_utterances
from asr.data.shard_members import json_object, member_utterance
from asr.errors import AudioError, ManifestError

_THREADS = 16
"""Texts of a zip file that are read at a time."""
_SHOWN = 5


def read_utterances(
    path: str | Path, root: str | Path | None = None, problems: dict[str, str] | None = None
) -> list[Utterance]:
    """The utterances of a manifest, an archive, a range of archives (``a/{000..099}.tar``) or a folder of archives.

    ``audio`` is an absolute path, a URL, or the path of a member of an archive (``MemberPath``). ``root``: see
    ``asr.data.manifest.read_manifest``, for manifests. Raises ``ManifestError`` as it does, and for an archive that
    cannot be read or a recording without a text. With ``problems`` those of archives are put there, each by its file,
    and the others are used.
    """
    scanned = scan_utterances(path, root)
    if problems is not None and named_archives(str(path)) is not None:
        found = list(scanned)
        problems.update(str(item).partition(": ")[::2] for _, item in found if isinstance(item, ManifestError))
        scanned = ((number, item) for number, item in found if not isinstance(item, ManifestError))
        if problems and not any(isinstance(item, Utterance) for _, item in found):
            name, reason = next(iter(problems.items()))
            raise ManifestError(f"{without_secrets(str(path))}: no utterance can be read; the first, {name}: {reason}")
    return unique_utterances(path, scanned)


def scan_utterances(
    path: str | Path, root: str | Path | None = None
) -> Iterator[tuple[int, Utterance | ManifestError]]:
    """As ``read_utterances``, each with its line or place from 1; what is wrong with one does not hide the others.

    Raises ``ManifestError`` for a manifest that cannot be read at all, and for a folder without archives.
    """
    archives = named_archives(str(path))
    if archives is None:
        yield from scan_manifest(path, root)
        return
    number = 0
    for archive in archives:
        try:
            for item in _of_archive(archive):
                number += 1
                yield number, item
        except (AudioError, ManifestError) as error:
            number += 1
            yield number, error if isinstance(error, ManifestError) else ManifestError(str(error))


def named_archives(path: str) -> list[str] | None:
    """The archives that ``path`` stands for; None for a manifest. Raises ``ManifestError``."""
    try:
        if (found := find.input_archives(path)) is not None:
            return found
        if path.endswith("/") if is_url(path) else os.path.isdir(path):
            if found := find.find_archives(path):
                return found
            raise ManifestError(
                f"{without_secrets(path)}: expected a manifest or archives, got a folder without an archive; name the "
                "manifest"
            )
    except AudioError as error:
        raise ManifestError(str(error)) from error
    return None


def _of_archive(archive: str) -> Iterator[Utterance | ManifestError]:
    """Raises ``AudioError`` and ``ManifestError`` for an archive that cannot be used at all."""
    index = read_index(archive)
    problems: list[str] = []
    sounds = find.find_archived_audio(archive, problems=problems)
    shown = without_secrets(archive)
    texts = index.members.keys() & {
        f"{index.key(path.member.name)}{end}" for path in sounds for end in (".json", ".txt")
    }
    manifests = [name for name in index.members if name.endswith(".jsonl")]
    if not texts and len(manifests) == 1:
        yield from (item for _, item in scan_manifest(member_path(archive, manifests[0])))
        return
    if not texts and manifests:
        names = ", ".join(member_path(shown, name) for name in manifests[:_SHOWN])
        raise ManifestError(f"{shown}: expected one manifest in the archive, got {len(manifests)}: name one of {names}")
    if not sounds:
        raise ManifestError(f"{shown}: no audio file in this archive" + "".join(f"; {each}" for each in problems[:1]))
    yield from map(ManifestError, problems)
    # The content of texts in a zip file comes with a request each, where that is at a URL.
    with ThreadPoolExecutor(_THREADS if is_url(archive) and not index.texts else 1) as pool:
        for path, made in zip(sounds, pool.map(lambda path: _utterance(index, path), sounds), strict=True):
            if isinstance(made, ManifestError) and path.member.name not in str(made):
                made = ManifestError(f"{without_secrets(path)}: {made}")
            yield made


def _utterance(index: ArchiveIndex, path: MemberPath) -> Utterance | ManifestError:
    key = index.key(path.member.name)
    try:
        tree, words = (_text(index, f"{key}{end}") for end in (".json", ".txt"))
        record = None if tree is None else json_object(tree)
        duration_s = None
        if (record is not None or words is not None) and (record is None or "duration_s" not in record):
            duration_s = read.probe_audio(path).duration_s
        return member_utterance(key, path, record, words, duration_s)
    except ManifestError as error:
        return error
    except AudioError as error:
        return ManifestError(str(error))


def _text(index: ArchiveIndex, name: str) -> bytes | None:
    if name in index.texts or name not in index.members:
        return index.texts.get(name)
    if index.members[name].kind == STREAMED:
        return None  # larger than any text: LARGEST_TEXT
    with open_member(index.path(name)) as file:
        return file.read()
