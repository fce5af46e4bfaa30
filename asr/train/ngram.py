"""Estimating word n-grams: Kneser-Ney smoothing and entropy pruning, by the kaldingram package."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from asr import manifest
from asr.config import TextConfig
from asr.decode.ngram import Ngram, read_arpa, write_arpa
from asr.errors import TrainingError
from asr.lines import file_lines, split_fields
from asr.text import normalise

ORDERS = range(1, 6)


def train_ngram(
    text: str | Path, output: str | Path, *, order: int = 3, prune: float = 0.0, more: Sequence[str | Path] = ()
) -> Ngram:
    """Estimate a back-off Kneser-Ney n-gram (Kneser & Ney 1995) and write it as ARPA, compressed for ``.gz``.

    Args:
        text: UTF-8, one sentence a line; words as the model writes them (case included). Empty lines are skipped.
        output: the ARPA file.
        order: 1 to 5.
        prune: n-grams that change the perplexity by less than this share are dropped (Stolcke 1998); 0 drops none.
        more: further texts, whose sentences count as well.

    Returns:
        The n-gram as written.

    Raises:
        TrainingError: no text, reserved words in it (file and line named), an order or threshold out of range.
        DecodeError: ``output`` cannot be written.
    """
    from kaldingram import prune as pruning
    from kaldingram.train import NgramCounts

    if order not in ORDERS:
        raise TrainingError(f"order: expected {ORDERS[0]} to {ORDERS[-1]}, got {order}")
    if not 0 <= prune < 1:
        raise TrainingError(f"prune: expected 0 to 1, got {prune}")
    lines = [sentence for path in (text, *more) for sentence in read_sentences(path)]
    counts = NgramCounts(order)
    # The package shows bars of its own whether or not anybody is looking.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        raw, estimated, pruned = (Path(folder) / name for name in ("text", "estimated.arpa", "pruned.arpa"))
        raw.write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts.add_raw_counts_from_file(str(raw))
        counts.cal_discounting_constants()
        counts.cal_f()
        counts.cal_bow()
        with estimated.open("w", encoding="latin-1") as file:  # as it read the bytes of the text
            counts.print_as_arpa(fout=file)
        if prune:
            parser = pruning.ArpaParser()
            model = parser.loadf(str(estimated), encoding="utf-8")[0]
            pruning.prune(model, prune, 1)
            parser.dumpf(model, str(pruned), encoding="utf-8")
        ngram = read_arpa(pruned if prune else estimated)
    write_arpa(ngram, output)
    return ngram


def read_sentences(path: str | Path) -> list[str]:
    """The sentences of a text file, one a line, single spaces between words, or the texts of a manifest (``.jsonl``).

    Raises ``TrainingError`` naming file and line for reserved words, and for a file without any sentence.
    """
    if str(path).endswith(".jsonl"):
        return [normalise(utterance.text, TextConfig()) for utterance in manifest.read(path)]
    try:
        text = file_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot read the text: {error}") from error
    lines = []
    for number, line in enumerate(text, start=1):
        words = split_fields(line)
        reserved = {"<s>", "</s>"} & set(words)
        if reserved:
            raise TrainingError(f"{path}:{number}: {min(reserved)} is reserved for the ends of sentences; leave it out")
        if words:
            lines.append(" ".join(words))
    if not lines:
        raise TrainingError(f"{path}: expected a sentence on each line, got none")
    return lines
