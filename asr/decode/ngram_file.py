"""N-grams as arrays in one safetensors file, which is mapped into memory and not read.

The tensors are those of ``asr.decode.ngram_arrays.NgramArrays`` (empty ones are left out) and ``words``, the UTF-8
bytes of all words by id with a line feed between them. Lexicon trees of the words, made for the tokens of some acoustic
model, are tensors ``tree.FINGERPRINT.NAME`` (``asr.decode.lexicon_tree``). Metadata: ``format`` is ``asr-ngram`` and
``version`` ``1``; ``made_of`` says what the file was made of.

Pages are mapped copy-on-write: numba compiles a kernel once more for arrays that cannot be written. Nobody writes to
them, so that all processes share one copy.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr.decode.ngram import Ngram
from asr.decode.ngram_arrays import Level, NgramArray, NgramArrays, build_arrays, check_arrays, coded_arrays
from asr.errors import DecodeError
from asr.files import atomic

FORMAT = "asr-ngram"
VERSION = "1"
SUFFIX = ".safetensors"
"""What the names of such files end in; files are known by their content."""
TREE = "tree."
_KINDS = {
    "counts": np.int64, "branch": np.uint32, "word_low": np.uint16, "word_high": np.uint8, "log_prob": np.float64,
    "backoff": np.float64, "log_prob_code": np.uint8, "backoff_code": np.uint8, "log_prob_level": np.float64,
    "backoff_level": np.float64, "suffix": np.uint32, "words": np.uint8,
}  # fmt: skip
_NAMES = {np.int64: "I64", np.int32: "I32", np.uint32: "U32", np.uint16: "U16", np.uint8: "U8", np.float64: "F64"}
_LARGEST_HEADER = 1 << 20
"""Bytes of the JSON in front of the tensors, which has a few hundred."""


def write_ngram_arrays(
    path: str | Path,
    words: Sequence[str],
    levels: Sequence[Level],
    *,
    quantized: bool = False,
    made_of: Mapping[str, Any] | None = None,
    trees: Callable[[Ngram], Mapping[str, Mapping[str, NgramArray]]] | None = None,
) -> Ngram:
    """Write an n-gram of sorted levels, one for each order, and its words by id; return it.

    Args:
        path: the file; an older one is replaced whole.
        words: by id.
        levels: sorted by context and word (``asr.decode.ngram_arrays.Level``), the first with all words.
        quantized: store probabilities and back-offs as codes of 8 bits. Otherwise they are stored as they are.
        made_of: what is said of the origin in the file's metadata.
        trees: gives lexicon trees of the words by the fingerprints of tokenizers, which are stored too.

    Raises:
        DecodeError: levels that do not fit together, a word with a line feed, a file that cannot be written.
    """
    try:
        arrays = build_arrays(levels)
    except ValueError as error:
        raise DecodeError(f"{path}: {error}") from error
    ngram = Ngram.of(coded_arrays(arrays) if quantized else arrays, words)
    if trees is not None:
        ngram = Ngram.of(ngram.arrays, words, trees(ngram))
    write_ngram(path, ngram, made_of=made_of)
    return ngram


def write_ngram(path: str | Path, ngram: Ngram, *, made_of: Mapping[str, Any] | None = None) -> None:
    """Write an n-gram with the trees it has. Raises ``DecodeError`` naming the file."""
    path = Path(path)
    text = "\n".join(ngram.words)
    if text.count("\n") != len(ngram.words) - 1:
        raise DecodeError(f"{path}: expected words without a line feed")
    tensors = {name: values for name, values in ngram.arrays._asdict().items() if values.size}
    tensors["words"] = np.frombuffer(text.encode(), np.uint8)
    for fingerprint, tree in ngram.trees.items():
        tensors |= {f"{TREE}{fingerprint}.{name}": values for name, values in tree.items() if values.size}
    save_arrays(path, tensors, FORMAT, VERSION, made_of)


def save_arrays(
    path: Path, tensors: Mapping[str, NgramArray], kind: str, version: str, made_of: Mapping[str, Any] | None = None
) -> None:
    """Write arrays as a safetensors file, whole or not at all; makes its folder. Raises ``DecodeError``."""
    import safetensors.numpy

    metadata = {"format": kind, "version": version, "made_of": json.dumps(made_of or {}, sort_keys=True)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            whole = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
            safetensors.numpy.save_file(whole, temporary, metadata=metadata)
            temporary.chmod(mode)  # safetensors goes through a private file, which nobody else could read
    except (OSError, safetensors.SafetensorError) as error:
        raise DecodeError(f"{path}: cannot write the n-gram: {error}") from error


def is_ngram_file(path: str | Path) -> bool:
    """Whether a file begins as safetensors files do, of this or of any other kind."""
    try:
        with open(path, "rb") as file:
            head = file.read(10)
    except OSError:
        return False
    return len(head) == 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40


def is_own_ngram(path: str | Path) -> bool:
    """Whether a file is an n-gram that ``write_ngram`` wrote, whole, so that commands may replace it."""
    try:
        load_origin(path)
    except DecodeError:
        return False
    return True


def open_ngram(path: str | Path) -> Ngram:
    """Map a file that ``write_ngram_arrays`` wrote; all that the search relies on is checked.

    Raises ``DecodeError`` naming the file when it is cut short, of another version, no n-gram, or when its arrays do
    not fit together.
    """
    tensors, _ = map_arrays(path, FORMAT, VERSION, "an n-gram (asr train-ngram or asr lm-convert)")
    try:
        given = {name: values for name, values in tensors.items() if not name.startswith(TREE)}
        for name, values in given.items():
            kind = _KINDS.get(name)
            if kind is None or values.dtype != kind or values.ndim != 1:
                raise ValueError(f"unexpected tensor {name} {values.dtype} {list(values.shape)}")
        for name in ("counts", "branch", "word_low", "words"):
            if name not in given:
                raise ValueError(f"tensor {name} is missing")
        text = given.pop("words")
        empty = {name: np.empty(0, kind) for name, kind in _KINDS.items() if name != "words"}
        arrays = NgramArrays(**{**empty, **given})
        check_arrays(arrays)
        _check_words(text, arrays.vocabulary)
        text.tobytes().decode()
    except ValueError as error:
        raise DecodeError(f"{path}: damaged, or made by another program: {error}; make it anew") from error
    trees: dict[str, dict[str, NgramArray]] = {}
    for name, values in tensors.items():
        if name.startswith(TREE) and name.count(".") == 2:
            _, fingerprint, part = name.split(".")
            trees.setdefault(fingerprint, {})[part] = values
    return Ngram.of(arrays, text, {name: tree for name, tree in trees.items() if _is_tree(tree)})


def _check_words(text: NgramArray, count: int) -> None:
    """Require ``count`` words with a line feed between them. Raises ``ValueError``."""
    ends = np.flatnonzero(text == ord("\n"))
    if len(ends) != count - 1:
        raise ValueError(f"expected {count:,} words")
    if (np.diff(ends, prepend=-1, append=len(text)) < 2).any() or (text == ord(" ")).any():
        raise ValueError("expected words without spaces, got an empty one or a space")


def load_origin(path: str | Path) -> dict[str, Any]:
    """What the metadata say the n-gram was made of, from the header alone. Raises ``DecodeError`` as ``open_ngram``."""
    with _opened(path) as file:
        return _origin(_header(path, file, FORMAT, VERSION, "an n-gram")[0])


def map_arrays(path: str | Path, kind: str, version: str, wanted: str) -> tuple[dict[str, NgramArray], dict[str, Any]]:
    """The tensors of a file of ours, mapped copy-on-write, and what it was made of.

    Raises ``DecodeError`` naming the file, and what was ``wanted`` where it is of another kind.
    """
    with _opened(path) as file:
        tree, begin, size = _header(path, file, kind, version, wanted)
        # A file that is later replaced stays as it was for this mapping.
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    data = np.frombuffer(mapped, np.uint8)
    dtypes = {name: np.dtype(number) for number, name in _NAMES.items()}
    found: dict[str, NgramArray] = {}
    try:
        for name, entry in tree.items():
            if name == "__metadata__":
                continue
            dtype, (first, stop) = dtypes[entry["dtype"]], entry["data_offsets"]
            values = data[begin + first : begin + stop].view(dtype).reshape(entry["shape"])
            # Arrays that are not aligned would be one more kind to numba.
            found[name] = values if values.flags.aligned else values.copy()
    except (KeyError, ValueError, TypeError) as error:
        raise DecodeError(f"{path}: not {wanted}: {error}") from error
    return found, _origin(tree)


def _opened(path: str | Path) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DecodeError(f"{path}: cannot read the n-gram: {error.strerror or error}") from error


def _header(path: str | Path, file: Any, kind: str, version: str, wanted: str) -> tuple[dict[str, Any], int, int]:
    """A file's header, where its tensors begin, and its size; compared with the file's length."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(_LARGEST_HEADER, size - 8):
        raise DecodeError(f"{path}: not a readable safetensors file, or cut short; copy it again")
    try:
        tree = json.loads(file.read(length))
        about = tree.get("__metadata__", {})
        found = about.get("format"), about.get("version")
        places = [entry["data_offsets"] for name, entry in tree.items() if name != "__metadata__"]
        if not all(type(at) is int and at >= 0 for begin, end in places for at in (begin, end)):
            raise ValueError("offsets are no numbers of bytes")
        expected = 8 + length + max((end for _, end in places), default=0)
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise DecodeError(f"{path}: not a readable safetensors file: {error}") from error
    if found[0] != kind:
        what = f"got {found[0]!r}" if found[0] else "got other tensors, such as the weights of a network"
        raise DecodeError(f"{path}: expected {wanted}, {what}")
    if found[1] != version:
        raise DecodeError(
            f"{path}: expected version {version} of the format {kind}, got {found[1]!r}; make the file anew from its "
            "text or ARPA file (asr train-ngram, asr lm-convert), or install the version of asr that wrote it"
        )
    if expected != size:
        raise DecodeError(f"{path}: expected {expected:,} bytes, got {size:,}: cut short or damaged; copy it again")
    return tree, 8 + length, size


def _origin(tree: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(tree["__metadata__"].get("made_of", "{}"))
    except (ValueError, RecursionError, TypeError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_tree(tree: Mapping[str, NgramArray]) -> bool:
    names = {"token", "children", "end", "entry"}
    return set(tree) == names and all(tree[name].ndim == 1 and tree[name].dtype.kind in "iu" for name in names)
