"""The headers of a tar file, which are checked before Python's reader believes them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Self

from asr.cloud.addresses import without_secrets
from asr.errors import AsrError, AudioError

MOST_MEMBERS = 10_000_000
LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_TAIL = 1 << 20
"""Bytes behind the end mark that are looked at: tar fills its last record with zeros."""
MAX_HEADER = 1 << 18
"""Bytes that the name, or the other properties, of a member of a tar archive may take; so may those of all together."""


def walk_headers(archive: str, file: BinaryIO) -> Iterator[tuple[int, tarfile.TarInfo, tarfile.TarFile]]:
    """The headers of a tar file with their numbers, from its beginning; each after the bytes before it were passed.

    Raises ``AudioError`` for headers of impossible size and bytes behind the end, and the errors of ``DAMAGED``, also
    for a tar file that is cut short: the last header that came before may be of a member that is not whole.
    """
    shown = without_secrets(archive)

    def error(text: str) -> AudioError:
        return AudioError(f"{shown}: {text}")

    with tarfile.open(fileobj=file, mode="r:", tarinfo=checked_headers(error, MOST_MEMBERS)) as tar:
        number, last = 0, ""
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # they would fill the memory
            last = member.name
            yield number, member, tar
            number += 1
        at = tar.offset
        # A tar file ends with blocks of zeros. Python's reader takes any other end for the end, too.
        file.seek(at)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            behind = f" behind {last!r}" if last else ""
            raise AudioError(f"{shown}: cut short or damaged{behind}: the end mark of a tar file is missing; copy it "
                             "again")  # fmt: skip
        if file.read(_TAIL).strip(b"\0"):
            raise AudioError(
                f"{shown}: expected one tar file, got more bytes behind its end, which are not read (another file?); "
                "give each tar file a name of its own"
            )


def checked_headers(error: Any, max_members: int) -> type[tarfile.TarInfo]:
    """A ``TarInfo`` that refuses headers whose stated size is huge, since tarfile would read them whole.

    Sparse files are refused as well: their table is read whole, and no corpus has any. ``error``: makes the exception
    of a text.
    """

    class Header(tarfile.TarInfo):
        shared = 0
        extended = 0

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            header = super().frombuf(buf, encoding, errors)
            if header.type == tarfile.GNUTYPE_SPARSE:
                raise _raised(error, f"member {header.name!r} is a sparse file; expected plain files")
            if header.type == tarfile.XGLTYPE:
                cls.shared += abs(header.size) + tarfile.BLOCKSIZE
            cls.extended += header.type in (*LONG_NAMES, tarfile.XGLTYPE)
            if max(cls.shared, header.size if header.type in LONG_NAMES else 0) > MAX_HEADER:
                raise _raised(error, f"a header of {header.size} bytes, expected at most {MAX_HEADER}")
            # A member has one for its name, one for what it links to and one for all else.
            if cls.extended > 3 * max_members + 3:
                raise _raised(error, f"more headers than {max_members} members have")
            return header

        def _refuse_sparse(self, *_: object) -> None:
            raise _raised(error, f"member {self.name!r} is a sparse file; expected plain files")

        _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse

    return Header


def _raised(error: Any, text: str) -> AsrError:
    made: AsrError = error(text)
    return made
