"""Word n-grams from one file format into another: what ``asr lm-convert`` does."""

from __future__ import annotations

from pathlib import Path

from asr.decode.arpa import read_arpa, write_arpa
from asr.decode.kenlm_binary import is_kenlm
from asr.decode.ngram import Ngram
from asr.decode.ngram_arrays import coded_arrays
from asr.decode.ngram_file import is_ngram_file, open_ngram, write_ngram
from asr.errors import DecodeError
from asr.lm.ngram_training import packed_words
from asr.models.description import read_description

ARPA_SUFFIXES = (".arpa", ".gz", ".lm")
"""What the names of ARPA files end in; any other name is that of a safetensors file."""


def convert_ngram(source: str | Path, output: str | Path, *, bits: int = 64, model: str | None = None) -> Ngram:
    """Write an n-gram as a safetensors file, or as ARPA where ``output`` ends in ``.arpa``, ``.gz`` or ``.lm``.

    Args:
        source: an ARPA file or a safetensors file.
        output: the file; an older one is replaced.
        bits: of each probability and back-off; 64 keep them exactly, 8 are codes.
        model: a model directory or a bundled model; the tree of the words for its tokens is stored too.

    Returns:
        The n-gram as written.

    Raises:
        DecodeError: a file that cannot be read or written, a KenLM binary, other bits.
        ModelError: no such model.
    """
    source, output = Path(source), Path(output)
    if bits not in (8, 64):
        raise DecodeError(f"bits: expected 8 or 64, got {bits}")
    if is_kenlm(source):
        raise DecodeError(f"{source}: a KenLM binary does not list its n-grams; convert the ARPA file it was made of")
    # Not load_ngram, which would keep a converted file of its own beside a large ARPA file.
    ngram = open_ngram(source) if is_ngram_file(source) else read_arpa(source)
    if output.suffix in ARPA_SUFFIXES:
        if bits == 8 or model:
            raise DecodeError(f"{output}: bits and model: an ARPA file has neither; choose X.safetensors")
        write_arpa(ngram, output)
        return ngram
    trees = dict(ngram.trees)
    if model is not None:
        try:
            trees |= packed_words(ngram, read_description(model).tokenizer)
        except DecodeError as error:
            raise DecodeError(f"{model}: {error}; leave --model out") from error
    written = Ngram.of(coded_arrays(ngram.arrays) if bits == 8 else ngram.arrays, ngram.words, trees)
    write_ngram(output, written, made_of={"file": source.name, "bits": bits})
    return written
