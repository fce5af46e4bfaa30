"""A folder that the unmodified sherpa-onnx loads: ``asr export MODEL OUT --to sherpa`` (docs/export.md)."""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import asr
from asr.audio.read import load_audio
from asr.config.sections import Config
from asr.errors import ModelError
from asr.export.acoustic_parts import AcousticWeights
from asr.export.graph_builder import require_onnx
from asr.export.int8_graphs import DYNAMIC, check_int8, quantized
from asr.export.onnx_folder import default_latency, save_graph, whole_folder, write_description
from asr.export.onnx_writer import ModelBytes
from asr.export.sherpa_graphs import (
    HOP_S,
    OMNILINGUAL_S,
    RATE_HZ,
    check_omnilingual,
    lstm_graphs,
    lstm_obstacles,
    nemo_graph,
    nemo_obstacles,
    omnilingual_graph,
    window_frames,
)
from asr.export.sherpa_runs import expected_texts
from asr.export.sherpa_text import readme_text
from asr.export.stored_weights import acoustic_weights
from asr.files import write_json, write_text
from asr.models.description import read_description
from asr.models.inference import Latency
from asr.models.onnx_files import FORMAT
from asr.recognize.options import Chunks, load_chunks
from asr.text.tokenizer import SPACE_SYMBOL, Tokenizer

if TYPE_CHECKING:
    from onnx import ModelProto

CHUNK_LABELS = 8
"""Labels of 40 ms that a unidirectional model takes at a time."""
UTTERANCE, EXPECTED = "utterance.wav", "expected.json"


def export_sherpa(
    model: str | Path | None,
    output: str | Path,
    *,
    int8: bool = False,
    utterance: str | Path | None = None,
    force: bool = False,
) -> list[str]:
    """Write a model as a folder for sherpa-onnx; whole, or not at all.

    Whole recordings run with every model of 16 kHz. Streams need features as the runtime computes them.

    Args:
        model: directory or name of a bundled model; ``None`` is the default one.
        output: folder to write.
        int8: quantise the graphs (LSTM only).
        utterance: a recording to put into the folder as a test; by default the sample of the source tree, where it is.
        force: replace an earlier export.

    Returns lines for people: the files, and what this model cannot do there.

    Raises:
        OutputError: ``output`` is there already, and no earlier export or not to be replaced.
        ModelError: the model cannot be loaded or exported so, or the folder cannot be written.
        AudioError: ``utterance`` cannot be read.
    """
    if int8:
        require_onnx()
    source, folder = read_description(model), Path(output)
    check_omnilingual(source.config, source.path)
    names = sherpa_tokens(source.tokenizer, source.path)
    if int8:
        check_int8(source.config.model, source.path)
    weights, latency = acoustic_weights(source), stream_latency(source.config, load_chunks(source.path))
    samples = _test_samples(utterance)
    with whole_folder(folder, force=force, source=source.path) as made:
        for name, graph in _graphs(weights, latency, int8=int8):
            save_graph(graph, made / f"{name}.onnx")
        write_text(made / "tokens.txt", "".join(f"{name} {i}\n" for i, name in enumerate(names)))
        _copy_papers(source.path, made)
        facts = _facts(weights, latency)
        if samples is not None:
            _write_test(made, samples, source.tokenizer, facts["tail_s"])
        files = sorted(os.listdir(made))
        write_text(made / "README.md", readme_text(files, source.card, facts))
        write_description(made, source, {"format": FORMAT, "to": "sherpa", "tail_s": facts["tail_s"],
                                         "weights": DYNAMIC if int8 else weights.storage})  # fmt: skip
    lines = [f"{name}: {os.path.getsize(folder / name) / 1e6:.1f} MB" for name in files if name.endswith(".onnx")]
    if samples is None:
        lines.append("no test recording: give one with --utterance")
    return lines + [f"no {what}: {'; '.join(reasons)}" for what, reasons in facts["missing"].items()]


def sherpa_tokens(tokenizer: Tokenizer, name: object) -> list[str]:
    """The tokens as the runtime wants them: ``<blk>`` first, ``▁`` for a space.

    Raises ``ModelError`` for phones, which it cannot read as words.
    """
    kind = tokenizer.config.tokenizer
    if kind == "phone":
        raise ModelError(f"{name}: sherpa-onnx knows no way from phones to words; expected text.tokenizer char, bpe or "
                         "word, got phone; export it with --to onnx")  # fmt: skip
    symbols = [SPACE_SYMBOL if symbol == " " else symbol for symbol in tokenizer.symbols[1:]]
    return ["<blk>", *(f"▁{symbol}" if kind == "word" else symbol.replace(SPACE_SYMBOL, "▁") for symbol in symbols)]


def stream_latency(config: Config, chunks: Chunks) -> Latency:
    """The chunks in which a model streams there: those of a bidirectional one are in its directory."""
    return default_latency(config, chunks) or Latency(CHUNK_LABELS, 0)


def _graphs(weights: AcousticWeights, latency: Latency, *, int8: bool) -> Iterator[tuple[str, ModelBytes | ModelProto]]:
    makers: list[Callable[..., dict[str, ModelBytes]]] = [lambda **options: {
        "omnilingual": omnilingual_graph(weights, **options)}]  # fmt: skip
    if not nemo_obstacles(weights.config):
        makers.append(lambda **options: {"nemo_ctc": nemo_graph(weights, latency, **options)})
    if not lstm_obstacles(weights.config):
        makers.append(functools.partial(lstm_graphs, weights, latency))
    for make in makers:
        for name, graph in make(plain=int8).items():
            yield name, quantized(graph) if int8 and name not in ("decoder", "joiner") else graph


def _facts(weights: AcousticWeights, latency: Latency) -> dict[str, Any]:
    """What the README says of times, and what the model cannot do."""
    config = weights.config
    window, shift = window_frames(config, latency)
    ours_ms = 1000 * config.output_frame_s
    stretch = "" if math.isclose(config.output_frame_s, OMNILINGUAL_S) else (
        f": a label of {ours_ms:g} ms is written as often as 20 ms begin in it")  # fmt: skip
    obstacles = {"streams": nemo_obstacles(config), "streams with hot words": lstm_obstacles(config)}
    return {
        "tail_s": math.ceil(10 * (window + 1) * HOP_S) / 10,
        "chunk_s": round(shift * HOP_S, 3),
        "delay_s": round(window * HOP_S, 3),
        "stretch": stretch,
        "missing": {what: reasons for what, reasons in obstacles.items() if reasons},
    }


def _copy_papers(source: Path, made: Path) -> None:
    """The card, and our licence, under which the exporter's own part of the graphs is."""
    if os.path.isfile(source / "card.json"):
        shutil.copyfile(source / "card.json", made / "card.json")
    for place in (Path(asr.__file__).parents[1] / "LICENSE", *_installed("LICENSE")):
        if os.path.isfile(place):
            shutil.copyfile(place, made / "LICENSE")
            return


def _installed(name: str) -> list[Path]:
    """A file beside the metadata of the installed package."""
    try:
        found = metadata.files("recurrent-asr") or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in found if file.name == name]


def _test_samples(utterance: str | Path | None) -> np.ndarray | None:
    """A recording at 16 kHz, None where there is none. Raises ``AudioError``."""
    if utterance is None:
        utterance = Path(asr.__file__).parents[1] / "egs" / "sample.wav"
        if not os.path.isfile(utterance):
            return None
    samples: np.ndarray = load_audio(utterance, RATE_HZ)
    return samples


def _write_test(made: Path, samples: np.ndarray, tokenizer: Tokenizer, tail_s: float) -> None:
    import soundfile

    soundfile.write(made / UTTERANCE, samples, RATE_HZ, "PCM_16")
    heard = load_audio(made / UTTERANCE, RATE_HZ)
    texts = expected_texts(made, os.listdir(made), heard, tokenizer, tail_s)
    write_json(made / EXPECTED, texts)
