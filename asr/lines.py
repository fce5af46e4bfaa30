"""Lines and fields of other programs' files: ARPA, lexicons, Kaldi tables, token lists, n-gram texts."""

from __future__ import annotations

import re
from pathlib import Path


def split_lines(text: str) -> list[str]:
    """The lines of a file of another program, which end at ``\\n`` or ``\\r\\n``.

    ``str.splitlines`` would cut at vertical tabs, U+2028 and others as well, which are part of words there.
    """
    return [line.removesuffix("\r") for line in text.split("\n")]


def split_fields(line: str, most: int = 0) -> list[str]:
    """The fields of a line of another program's file (ARPA, lexicon, Kaldi table, n-gram text): what stands between
    ASCII spaces and tabs. Other white space, such as a no-break space, is part of words there.

    With ``most`` above 0 the line is cut that often at most, and the last field is the rest as it stands.
    """
    if most:
        return re.split("[ \t]+", line.strip(" \t"), maxsplit=most)
    fields = line.replace("\t", " ").split(" ")
    return [field for field in fields if field] if "" in fields else fields


def file_lines(path: str | Path, encoding: str = "utf-8-sig") -> list[str]:
    """The lines of a text file (``split_lines``), a byte order mark left out.

    Raises ``OSError``, and ``UnicodeDecodeError`` for another encoding.
    """
    return split_lines(Path(path).read_bytes().decode(encoding))
