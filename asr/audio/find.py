"""Finds audio files in folders; the one list of audio suffixes."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from asr.audio import pyav
from asr.audio.archive_index import ARCHIVE_SUFFIXES, OTHER_ARCHIVES, MemberPath, is_archive, leads_out, read_index
from asr.cloud.addresses import is_url, url_name, without_secrets
from asr.errors import AudioError, CloudError
from asr.files import AUDIO_SUFFIXES, FILM_SUFFIXES

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}", re.ASCII)

if TYPE_CHECKING:
    from asr.cloud.inputs import RemoteFile


def find_audio_files(
    folder: str | os.PathLike[str], problems: list[str] | None = None, archives: list[str] | None = None
) -> list[Path]:
    """Audio files below ``folder``, sorted; hidden files and folders, and ``lost+found``, are left out.

    They are told by their endings, in any case: ``AUDIO_SUFFIXES`` and, with PyAV, ``media.SUFFIXES``. What has such an
    ending and is no regular file (a pipe would be waited for) is left out.

    ``problems`` gets a message for each of these, for each film that needs PyAV, and for each folder below ``folder``
    that cannot be listed. ``archives`` gets the paths of archives. Raises ``AudioError`` if ``folder`` or, without
    ``problems``, a folder below it cannot be listed.
    """
    told: list[str] = []

    def fail(error: OSError) -> None:
        message = f"{error.filename}: expected a folder that can be listed: {error.strerror}"
        if problems is None or os.fspath(error.filename) == os.fspath(folder):
            raise AudioError(message) from error
        told.append(message)

    films = () if pyav.pyav_is_installed() else FILM_SUFFIXES
    found = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "lost+found"]
        for name in files:
            path = Path(parent, name)
            if name.startswith("."):  # "._a.wav" is macOS metadata, not audio
                continue
            if name.lower().endswith(films):
                told.append(f"{path}: left out: films and other formats than libsndfile's need PyAV: pip install av")
            elif archives is not None and is_archive(name):
                archives.append(str(path))
            elif not name.lower().endswith(AUDIO_SUFFIXES + FILM_SUFFIXES):
                continue
            elif _is_special(path):
                told.append(f"{path}: left out: expected an audio file, got a pipe, socket or device")
            else:
                found.append(path)
    if problems is not None:
        problems += sorted(told)
    return sorted(found)


def find_remote_audio(url: str, problems: list[str], archives: list[str]) -> list[RemoteFile]:
    """Audio files below the folder ``url``, sorted by their paths; see ``find_audio_files``.

    ``problems`` gets a message for each film that needs PyAV, and for each name that would lead out of a folder.
    ``archives`` gets the URLs of archives. Raises ``AudioError`` if the folder cannot be listed.
    """
    from asr.cloud.inputs import list_inputs

    films = () if pyav.pyav_is_installed() else FILM_SUFFIXES
    found = []
    try:
        for file in list_inputs(url):
            name = file.path.lower()
            shown = without_secrets(file.url)
            if name.endswith(films):
                problems.append(f"{shown}: left out: films and other formats need PyAV: pip install av")
            elif name.endswith(AUDIO_SUFFIXES + FILM_SUFFIXES + ARCHIVE_SUFFIXES):
                if leads_out(file.path):
                    problems.append(f"{shown}: left out: expected a path below the folder; rename the object")
                elif name.endswith(ARCHIVE_SUFFIXES):
                    archives.append(file.url)
                else:
                    found.append(file)
    except CloudError as error:
        raise AudioError(str(error)) from error
    return sorted(found, key=lambda file: file.path)


def find_archived_audio(
    archive: str, below: str = "", problems: list[str] | None = None, archives: list[str] | None = None
) -> list[MemberPath]:
    """Recordings in an archive, in its order, or those in its folder ``below``; see ``find_audio_files``.

    ``problems`` gets what is wrong with the archive and its members, ``archives`` the paths of archives in it. Raises
    ``AudioError`` where it cannot be read.
    """
    index = read_index(archive)
    films = () if pyav.pyav_is_installed() else FILM_SUFFIXES
    told, found = list(index.problems), []
    for name in index.members:
        inside = name.startswith(f"{below}/") if below else True
        if not inside or any(part.startswith(".") for part in name.split("/")):
            continue
        if name.lower().endswith(films):
            shown = without_secrets(index.path(name))
            told.append(f"{shown}: left out: films and other formats need PyAV: pip install av")
        elif archives is not None and name.lower().endswith(ARCHIVE_SUFFIXES):
            archives.append(index.path(name))
        elif name.lower().endswith(AUDIO_SUFFIXES + FILM_SUFFIXES):
            found.append(index.path(name))
    if problems is not None:
        problems += told
    return found


def input_archives(name: str) -> list[str] | None:
    """The archives that ``name`` stands for: one, or those of a range (``a/{000..099}.tar``); None for other inputs.

    Raises ``AudioError`` for a range that is none, and for archives that are not read.
    """
    last = (url_name(name) if is_url(name) else name).lower()
    if last.endswith(OTHER_ARCHIVES) and not last.endswith(ARCHIVE_SUFFIXES) and not os.path.isdir(name):
        raise AudioError(
            f"{without_secrets(name)}: expected a recording, a folder, a manifest or an archive "
            f"({', '.join(ARCHIVE_SUFFIXES)}), got another kind of archive; unpack it and name the folder"
        )
    return expand_ranges(name) if is_archive(name) else None


def expand_ranges(pattern: str) -> list[str]:
    """What ``a/{000..099}.tar`` stands for; a name without a range stands for itself. Raises ``AudioError``."""
    found = _RANGE.search(pattern)
    if found is None or (not is_url(pattern) and os.path.exists(pattern)):
        return [pattern]
    first, last = found[1], found[2]
    if not 0 <= int(last) - int(first) < 10_000_000:
        raise AudioError(
            f"{without_secrets(pattern)}: expected a range from the smaller number to the larger, of at most ten "
            f"million, got {found[0]}"
        )
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    names = (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    return [each for name in names for each in expand_ranges(pattern[: found.start()] + name + pattern[found.end() :])]


def find_archives(folder: str) -> list[str]:
    """Archives below a folder of this machine or at a URL, sorted. Raises ``AudioError``."""
    if not is_url(folder):
        return sorted(
            os.path.join(parent, name)
            for parent, _, names in os.walk(folder)
            if not any(part.startswith(".") for part in os.path.relpath(parent, folder).split(os.sep) if part != ".")
            for name in names
            if is_archive(name) and not name.startswith(".")
        )
    from asr.cloud.inputs import list_inputs

    try:
        return sorted(file.url for file in list_inputs(folder) if is_archive(file.path) and not leads_out(file.path))
    except CloudError as error:
        raise AudioError(str(error)) from error


def _is_special(path: Path) -> bool:
    """Whether this is neither file nor folder; what is not there is none, and ``load_audio`` names it."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
