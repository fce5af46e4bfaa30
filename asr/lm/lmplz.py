"""Estimates by KenLM's ``lmplz``, where it is installed: the same values as ``asr.lm.kneser_ney``, sooner.

``lmplz`` gets the text by a pipe and writes an ARPA file without a name, which is read back into tables.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from asr.decode.ngram import LN10
from asr.errors import TrainingError
from asr.lm.kneser_ney import Estimate, Table, with_one_unknown
from asr.lm.ngram_counts import END, SPECIAL, START, UNKNOWN, AnyArray, Text, blocks
from asr.text.prose import FOREIGN

MEMORY = "2G"
"""What lmplz may use for sorting."""
LEAST_WORDS = 5_000_000
"""Texts with fewer words are estimated here without ``lmplz``: it is not sooner."""
_LINES = 1 << 17


def find_lmplz(program: str) -> str | None:
    """The program's path: ``auto`` looks for ``lmplz`` on PATH, ``none`` looks for nothing.

    Raises ``TrainingError`` where ``program`` names a file that is no program.
    """
    if program == "none":
        return None
    found = shutil.which("lmplz" if program == "auto" else program)
    if found is None and program != "auto":
        raise TrainingError(f"{program}: expected KenLM's program lmplz, got no program; build it, or leave it out")
    return found


def estimate_by_lmplz(program: str, text: Text, order: int, folder: Path | None) -> Estimate:
    """Estimate an n-gram of ``order`` as ``lmplz --discount_fallback`` does.

    Raises ``TrainingError`` with what it said last.
    """
    sorting = f"{folder or tempfile.gettempdir()}/"
    command = [program, "-o", str(order), "--discount_fallback", "-S", MEMORY, "-T", sorting]
    # Files without names: nothing is left of them, however this process ends.
    with tempfile.TemporaryFile(dir=folder) as arpa, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=arpa, stderr=log)
        assert process.stdin is not None
        feeder = threading.Thread(target=_feed, args=(process.stdin, text))
        feeder.start()
        try:
            status = process.wait()
        finally:
            process.kill()  # where we are interrupted; it would go on with half of the text
            process.wait()
            feeder.join()
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
        arpa.seek(0)
        if status or arpa.read(7) != b"\\data\\\n":
            last = (said.strip().splitlines() or ["nothing"])[-1]
            raise TrainingError(f"{program}: failed with status {status}: {last}; --lmplz none does without it")
        fallbacks = tuple(int(n) + 1 for n in re.findall(r"Substituting fallback discounts for order (\d+)", said))
        with io.TextIOWrapper(arpa, encoding="utf-8", newline="\n") as file:
            tables = list(_tables(file, text, order))
    return with_one_unknown(Estimate(tuple(text.words), tuple(tables), fallbacks))


def _feed(pipe: IO[bytes], text: Text) -> None:
    """Write the text; stops where lmplz has stopped, whose status then says so."""
    words = np.array([*text.words], object)
    if text.words[-1] == SPECIAL[UNKNOWN] and len(text.words) > len(SPECIAL):
        words[-1] = FOREIGN
    words[START], words[END] = "", "\n"
    with contextlib.suppress(OSError), pipe:
        for part in blocks(len(text.tokens), 1 << 18):
            pipe.write(" ".join(words[text.tokens[part]].tolist()).encode("utf-8") + b" ")


def _tables(file: Iterator[str], text: Text, order: int) -> Iterator[Table]:
    """The tables of an ARPA file of lmplz, sorted by context and word."""
    ids = {word: number for number, word in enumerate(text.words)}
    if len(ids) < len(text.words):  # the second <unk> (Text.limited)
        ids[SPECIAL[UNKNOWN]], ids[FOREIGN] = UNKNOWN, len(text.words) - 1
    counts = []
    for line in file:
        if line.startswith("ngram "):
            counts.append(int(line.split("=")[1]))
        if line == "\\1-grams:\n":
            break
    size = len(text.words)
    keys: list[AnyArray] = []
    for n, count in enumerate(counts, start=1):
        rows, log_prob, backoff = _section(file, n, count, ids, n < order)
        context = _places(rows[:, :-1], keys, size) if n > 1 else np.zeros(count, np.int32)
        key = context.astype(np.int64) * size + rows[:, -1]
        sort = np.argsort(key, kind="stable")
        suffix = _places(rows[:, 1:], keys, size)[sort] if n > 1 else np.zeros(count, np.int32)
        keys.append(key[sort])
        yield Table(context[sort], rows[:, -1][sort], suffix, log_prob[sort], backoff[sort])
        next(file, "")  # the blank line behind a section, then the next title
        next(file, "")


def _section(
    file: Iterator[str], n: int, count: int, ids: dict[str, int], backs_off: bool
) -> tuple[AnyArray, AnyArray, AnyArray]:
    rows, log_prob, backoff = np.empty((count, n), np.int32), np.empty(count), np.zeros(count)
    for part in blocks(count, _LINES):
        fields = [next(file).rstrip("\n").split("\t") for _ in range(part.stop - part.start)]
        log_prob[part] = [float(field[0]) for field in fields]
        rows[part] = [[ids[word] for word in field[1].split(" ")] for field in fields]
        if backs_off:
            backoff[part] = [float(field[2]) for field in fields]
    if n == 1:
        log_prob[rows[:, 0] == START] = 0.0
    return rows, np.minimum(log_prob * LN10, 0.0), backoff * LN10


def _places(rows: AnyArray, keys: list[AnyArray], size: int) -> AnyArray:
    """Where n-grams stand in the table of their order."""
    place = rows[:, 0].astype(np.int32)
    for column in range(1, rows.shape[1]):
        for part in blocks(len(place)):
            place[part] = np.searchsorted(keys[column], place[part].astype(np.int64) * size + rows[part, column])
    return place
