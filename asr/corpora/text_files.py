"""Reads text files and tables in several encodings; names the encodings that it cannot read."""

from __future__ import annotations

import codecs
import csv
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr.errors import ManifestError
from asr.files import split_fields, split_lines

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and what they are those of."""


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A text file, its line ends as they are; a byte order mark says how it is encoded and is left out.

    Raises ``ManifestError`` for what cannot be read, is no file (a pipe would be waited for), is RTF, or is encoded
    otherwise.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ManifestError(f"{path}: expected a text file, got a folder, a pipe or a device")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot read: {error}") from error
    if data.startswith(b"{\\rtf"):
        raise ManifestError(f"{path}: expected plain text, got RTF; save it as plain text in UTF-8")
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", encoding))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{path}:{line}: expected {encoding.upper()}, got the byte {data[error.start + len(mark)]:#04x}; convert "
            "the file to UTF-8 (iconv -f latin1 -t utf-8, if it is Latin-1)"
        ) from error


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a text file that are not blank, without white space around them. Raises ``ManifestError``."""
    lines = (line.strip(" \t") for line in split_lines(read_text(path, encoding)))
    return [line for line in lines if line]


def read_table(path: Path, encoding: str = "utf-8") -> dict[str, str]:
    """Lines of ``key rest``, as Kaldi's files have them. Raises ``ManifestError``, also for a key that comes twice."""
    table: dict[str, str] = {}
    for line in read_lines(path, encoding):
        key, *rest = split_fields(line, 1)
        if key in table:
            raise ManifestError(f"{path}: {key!r} is there twice")
        table[key] = rest[0] if rest else ""
    return table


def table(path: Path, left_out: dict[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Rows of a CSV or TSV file with a header line, by column. Raises ``ManifestError``.

    ``left_out`` gets what is wrong with broken rows, by file and line; None: they are errors.
    """
    text = read_text(path)
    # Common Voice does not quote in its TSV, and has sentences with a single quotation mark.
    quoting: Any = csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL
    delimiter = max("\t;|,", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        columns = len(set(reader.fieldnames or ()))  # two may have one name
    except csv.Error as error:
        raise ManifestError(f"{path}: cannot read the table: {error}") from error
    hint = f'; write a text with {delimiter!r} or " in quotation marks, and double each " inside it'
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # such as a quotation mark that is never closed, at the end of the file
            place, reason = f"{path}:{begin}", f"cannot read the row: {error}"
        else:
            extra = row.pop(None, ())
            there = sum(value is not None for value in row.values()) + len(extra)
            if there == columns:
                yield {str(key).strip(): value.strip() for key, value in row.items()}
                continue
            place, reason = (
                f"{path}:{reader.line_num}",
                f"expected {columns} columns, as the first line has, got {there}",
            )
        reason += hint if quoting == csv.QUOTE_MINIMAL else ""
        if left_out is None:
            raise ManifestError(f"{place}: {reason}")
        left_out[place] = reason
