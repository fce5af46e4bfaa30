"""Archives for tests, made in memory."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping

COMPRESSED = {"tar": "", "tar.gz": "gz", "tar.bz2": "bz2", "tar.xz": "xz"}
KINDS = ("zip", "stored.zip", *COMPRESSED)


def make_archive(kind: str, files: Mapping[str, bytes]) -> bytes:
    """An archive of a kind of ``KINDS``: ``zip`` is deflated."""
    buffer = io.BytesIO()
    if kind.endswith("zip"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=f"w:{COMPRESSED[kind]}") as tar:
        for name, data in files.items():
            add_member(tar, name, data)
    return buffer.getvalue()


def add_member(tar: tarfile.TarFile, name: str, data: bytes = b"", **properties: object) -> None:
    """Put a file into a tar file; ``properties`` of its header, such as ``type``."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in properties.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))
