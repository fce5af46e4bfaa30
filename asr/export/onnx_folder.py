"""A model directory as a folder of ONNX graphs: ``asr export MODEL OUT --to onnx`` (docs/export.md)."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asr
from asr.config.sections import Config
from asr.errors import ModelError, OutputError
from asr.export.acoustic_graphs import offline_graph, streaming_graph
from asr.export.acoustic_parts import AcousticWeights
from asr.export.graph_builder import require_onnx
from asr.export.int8_graphs import DYNAMIC, check_int8, quantized
from asr.export.lm_graph import language_graph
from asr.export.onnx_writer import ModelBytes
from asr.export.stored_weights import WEIGHTS_FILE, acoustic_weights, language_weights
from asr.files import PART, check_output, file_sha256, read_limited, read_object, write_json
from asr.lm import lm_directory
from asr.models.bundled import READABLE, model_file, model_files, readable_folder
from asr.models.description import OF_RUNS, Description, read_description
from asr.models.inference import Latency
from asr.models.onnx_files import FORMAT
from asr.recognize.loading import LANGUAGE, OFFLINE, STREAMING
from asr.recognize.options import DECODING_FILE, PLACES, Chunks, load_chunks, load_options

if TYPE_CHECKING:
    from onnx import ModelProto

EXPORT_FILE = "export.json"
"""What a folder that we exported has, and nobody else's: what is in it, with checksums."""
CLAIM_FILE = "export-of"
"""What the temporary folder of an export has, and nobody else's: where the export is to go."""
MOST_OF_CLAIM = 4096
"""Bytes of that file: a name of a machine and one of a folder."""


def export_onnx(model: str | Path | None, output: str | Path, *, int8: bool = False, force: bool = False) -> list[str]:
    """Write a model as a folder of ONNX graphs with all that belongs to it; whole, or not at all.

    Args:
        model: directory or name of a bundled model; ``None`` is the default one.
        output: folder to write.
        int8: quantise the acoustic graphs; they are a quarter of the size and only close to the model.
        force: replace an earlier export.

    Returns the names of the files with their sizes, for people.

    Raises:
        OutputError: ``output`` is there already, and no earlier export or not to be replaced.
        ModelError: the model cannot be loaded or exported so, ``onnx`` is missing for ``int8``, or the folder cannot be
            written.
    """
    source, folder = read_description(model), Path(output)
    if int8:
        require_onnx()
        check_int8(source.config.model, source.path)
    weights = acoustic_weights(source)
    with whole_folder(folder, force=force, source=source.path) as made:
        _copy_parts(source, made)
        for name, graph in _acoustic_graphs(weights, load_chunks(source.path), int8=int8):
            save_graph(graph, made / name)
        _export_language_models(source, made)
        storage = DYNAMIC if int8 else weights.storage
        write_description(made, source, {"format": FORMAT, "to": "onnx", "weights": storage})
    return [f"{name}: {os.path.getsize(folder / name) / 1e6:.1f} MB" for name in (OFFLINE, STREAMING)]


DEFAULT_CHUNKS = Chunks()


def default_latency(config: Config, chunks: Chunks = DEFAULT_CHUNKS) -> Latency | None:
    """The chunks in which a bidirectional model streams; None for a unidirectional one."""
    if not config.model.bidirectional:
        return None
    frame_s = config.features.hop_s * config.model.subsampling
    return Latency(math.ceil(chunks.chunk_s / frame_s), math.ceil(chunks.right_s / frame_s))


def save_graph(graph: ModelBytes | ModelProto, path: Path) -> None:
    """Write a graph as one file."""
    path.write_bytes(graph.SerializeToString())


@contextlib.contextmanager
def whole_folder(folder: Path, *, force: bool, source: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` when the block ends without an error.

    With ``force`` an earlier export is replaced; never anything else. What exports to ``folder`` that were killed have
    left beside it goes when the block has ended. Raises ``OutputError`` and ``ModelError``.
    """
    if folder.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"{folder}: expected a folder apart from the model's own, {source}")
    if force and os.path.lexists(folder) and not is_export(folder) and not _is_empty(folder):
        raise OutputError(f"{folder}: expected a new output or an earlier export, which --force replaces, got "
                          "something else; choose another name")  # fmt: skip
    if not force and is_export(folder):
        raise OutputError(f"{folder}: there is an earlier export; replace it with --force, or choose another name")
    check_output(folder, ours=(lambda path: force and is_export(path)))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PART, dir=folder.parent) as temporary, _claimed(temporary, folder):
            made, old = Path(temporary, "made"), Path(temporary, "old")
            made.mkdir()
            yield made
            if os.path.isdir(folder):
                folder.rename(old)
            try:
                made.rename(folder)
            except OSError:
                if os.path.isdir(old):
                    old.rename(folder)
                raise
        _remove_abandoned(folder)
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise ModelError(f"{folder}: cannot write the export: {reason}") from error


def _claim(folder: Path) -> bytes:
    """What the temporary folder of an export to ``folder`` says: a lock holds among the processes of one machine."""
    return os.fsencode(f"{platform.node()} {folder.name}")


@contextlib.contextmanager
def _claimed(temporary: str, folder: Path) -> Iterator[None]:
    """Mark the temporary folder of an export to ``folder`` as in use; the system ends a lock with its process."""
    with _locked(temporary) as locked:
        if locked:  # without a lock nobody could know that the export has ended
            Path(temporary, CLAIM_FILE).write_bytes(_claim(folder))
        yield


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of exports to ``folder`` that have ended without removing them."""
    for left in folder.parent.glob(f"{PART}*"):
        claim = left / CLAIM_FILE
        with contextlib.suppress(OSError):
            if not os.path.isfile(claim) or read_limited(claim, MOST_OF_CLAIM) != _claim(folder):
                continue
            with _locked(left) as locked:
                if locked:
                    shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: str | Path) -> Iterator[bool]:
    """Whether the kernel's lock of ``folder`` is ours within the block. Raises ``OSError`` for no folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has it, or the file system has no locks
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _is_empty(folder: Path) -> bool:
    return os.path.isdir(folder) and not os.listdir(folder)


def is_export(folder: Path) -> bool:
    """Whether a folder is one that we exported."""
    return os.path.isfile(folder / EXPORT_FILE)


def write_description(folder: Path, source: Description, more: Mapping[str, Any]) -> None:
    """Write ``export.json``: what was exported from what, and the checksum of every file."""
    paths = sorted(path for path in folder.rglob("*") if os.path.isfile(path))
    sums = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    tree = {"package": f"asr {asr.__version__}", "model": source.card.get("name") or source.path.name}
    write_json(folder / EXPORT_FILE, {**more, **tree, "files": sums})


def check_files(folder: Path) -> dict[str, Any]:
    """Compare the files of an export with their checksums; returns its description.

    Raises ``ModelError`` naming a file that is missing or that has changed, and a folder that is no export.
    """
    if not is_export(folder):
        raise ModelError(f"{folder}: expected a folder of asr export, which has {EXPORT_FILE}")
    tree = read_object(folder / EXPORT_FILE, "the description of an export")
    files = tree.get("files")
    if tree.get("format") != FORMAT or not isinstance(files, dict) or not files:
        raise ModelError(f"{folder / EXPORT_FILE}: expected format {FORMAT} and checksums of files; export again")
    for name, expected in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{folder / EXPORT_FILE}: expected files inside the folder, got {name[:100]!r}")
        if not os.path.isfile(path):
            raise ModelError(f"{path}: missing; get the folder again")
        if file_sha256(path) != expected:
            raise ModelError(f"{path}: expected SHA-256 {expected}, got another: the file is damaged or was changed; "
                             "get it again")  # fmt: skip
    return tree


def _acoustic_graphs(
    weights: AcousticWeights, chunks: Chunks, *, int8: bool
) -> Iterator[tuple[str, ModelBytes | ModelProto]]:
    makers = (
        (OFFLINE, functools.partial(offline_graph, weights)),
        (STREAMING, functools.partial(streaming_graph, weights, default_latency(weights.config, chunks))),
    )
    for name, make in makers:
        yield name, quantized(make(plain=True)) if int8 else make()


def _copy_parts(source: Description, made: Path) -> None:
    """Everything of the model but its weights and what belongs to its training."""
    for part in model_files(source.path).values():
        if part.name in (WEIGHTS_FILE, *OF_RUNS) or part.name.startswith("."):
            continue
        if os.path.isdir(part):
            shutil.copytree(part, made / part.name)
        else:
            shutil.copyfile(part, made / part.name)
    tagger = readable_folder(source.path)
    if tagger is not None and not os.path.exists(made / READABLE):
        shutil.copytree(tagger, made / READABLE)


def _export_language_models(source: Description, made: Path) -> None:
    """Put graphs in place of the weights of the recurrent language models that ``decoding.yaml`` names."""
    options = load_options(source.path)
    folder = model_file(source.path, DECODING_FILE).parent
    places = [getattr(options, name) for name in PLACES]
    named = [place for found in places for place in (found if isinstance(found, tuple) else (found,))]
    for place in sorted({Path(place) for place in named if isinstance(place, str) and place}):
        if not os.path.exists(place):
            raise ModelError(f"{place}: missing, and {source.path / DECODING_FILE} names it; put it there, or change "
                             "decoding.yaml")  # fmt: skip
        if not os.path.isdir(place):
            continue
        language = lm_directory.read_language(place)
        target = made / place.relative_to(folder)
        stored = place / WEIGHTS_FILE
        graph = language_graph(language, *language_weights(language), file_sha256(stored))
        save_graph(graph, target / LANGUAGE)
        (target / WEIGHTS_FILE).unlink()
