"""Recognises recordings of any length in constant memory: in pieces, whose posteriors are joined again.

A unidirectional model carries its state from block to block; the result is that of the whole recording. A bidirectional
model gets overlapping pieces. The sound is cut where it is quietest, and each piece has some context beyond its cuts.
Posteriors switch from one piece to the next where both pieces have silence, so no word is lost or doubled. The joined
posteriors are cut at pauses, and the utterances are decoded in batches.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.audio.samples import Samples
from asr.decode.endpoint import Endpoint, Endpointer
from asr.decode.posteriors import BLANK
from asr.models.acoustic import AcousticModel, ModelState
from asr.models.features import LogMel

LONG_S = 60.0
"""Recordings beyond it are taken in pieces."""
SHORTEST_S, LONGEST_S = 3.0, 8.0
"""Of a piece, between its cuts: about what utterances of training corpora last (docs/decisions.md)."""
CONTEXT_S = 0.5
"""What a piece hears beyond each of its cuts."""
QUIET_S = 0.3
"""Stretch over which loudness is averaged to find the quietest place, and blanks to find where to go over."""
TOGETHER = 12
"""Pieces of one forward pass in ``asr.recognize.engine.BATCH_S`` of a CPU."""
RULES = Endpoint(silence_s=0.8, longest_s=30.0)

LogProbs = Callable[[list[Samples]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Piece:
    """Sound with context: ``samples[0]`` is at step ``first`` of the recording.

    One output frame of the recurrent layers covers one step.
    """

    samples: Samples
    first: int


def pieces(blocks: Iterable[Samples], rate_hz: int, step: int) -> Iterator[Piece]:
    """Pieces of a recording, cut on a grid of ``step`` samples; each overlaps the next by twice the context.

    ``blocks`` are consecutive samples in any cut; what is held at a time is a piece and a block.
    """
    per_s = rate_hz / step
    context, quiet = math.ceil(CONTEXT_S * per_s), math.ceil(QUIET_S * per_s)
    shortest, longest = round(SHORTEST_S * per_s), round(LONGEST_S * per_s)
    buffer = np.zeros(0, np.float32)
    first = cut = 0
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= (cut - first + longest + context) * step:
            choice = buffer[(cut - first + shortest) * step : (cut - first + longest) * step]
            cut += shortest + _quietest(choice, step, quiet)
            yield Piece(buffer[: (cut + context - first) * step], first)
            following = max(0, cut - context)
            buffer = buffer[(following - first) * step :]
            first = following
    yield Piece(buffer, first)


def _quietest(samples: Samples, step: int, width: int) -> int:
    """The step in the middle of the ``width`` steps with the least energy."""
    energy = np.square(samples.reshape(-1, step)).mean(axis=1, dtype=np.float64)
    sums = np.convolve(energy, np.ones(width), mode="valid")
    return int(sums.argmin()) + width // 2


def joined(results: Iterable[tuple[Piece, Tensor]], per_step: int, width: int) -> Iterator[Tensor]:
    """The posteriors ``(T, V)`` of the whole, in parts, from those of overlapping pieces.

    ``per_step``: rows per step. From piece to piece it goes over where both have the most blank within ``width`` rows,
    in the middle half of their overlap, where both have some context.
    """
    at, held = 0, None
    for piece, rows in results:
        first = piece.first * per_step
        if held is not None:
            over = first + _crossing(held[first - at :], rows, width)
            yield held[: over - at]
            rows = rows[over - first :]
            first = over
        at, held = first, rows
    if held is not None:
        yield held


def _crossing(before: Tensor, after: Tensor, width: int) -> int:
    overlap = min(len(before), len(after))
    blank = (before[:overlap, BLANK] + after[:overlap, BLANK]).exp().double()
    kernel = torch.ones(1, 1, min(width, overlap), dtype=torch.float64)
    smooth = torch.nn.functional.conv1d(blank[None, None], kernel)[0, 0]
    shift = kernel.shape[2] // 2
    low, high = max(0, overlap // 4 - shift), max(1, 3 * overlap // 4 - shift)
    return low + int(smooth[low:high].argmax()) + shift


def posteriors(
    blocks: Iterable[Samples],
    network: AcousticModel,
    log_mel: LogMel,
    log_probs: LogProbs,
    *,
    computing: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    together: int = TOGETHER,
) -> Iterator[Tensor]:
    """Natural log-probabilities ``(T, V)`` of a recording on the CPU, in consecutive parts.

    ``log_probs`` gives those of a batch of waveforms, as ``Recognizer.log_probs``; ``together``: pieces of a batch. A
    unidirectional model, which needs no pieces, computes in the context of ``computing``.
    """
    features = log_mel.config
    if not network.config.bidirectional:
        yield from _carried(blocks, network, log_mel, computing)
        return
    step = features.hop_samples * network.config.subsampling
    frame_s = step / features.sample_rate_hz / network.config.upsampling

    def heard() -> Iterator[tuple[Piece, Tensor]]:
        group: list[Piece] = []
        cut = pieces(blocks, features.sample_rate_hz, step)
        for piece in cut:
            group.append(piece)
            if len(group) == together:
                yield from zip(group, _rows(group, log_probs), strict=True)
                group = []
        if group:
            yield from zip(group, _rows(group, log_probs), strict=True)

    yield from joined(heard(), network.config.upsampling, max(1, round(QUIET_S / frame_s)))


def _rows(group: list[Piece], log_probs: LogProbs) -> list[Tensor]:
    matrix, frames = log_probs([piece.samples for piece in group])
    return [matrix[row, : int(count)] for row, count in enumerate(frames)]


def _carried(
    blocks: Iterable[Samples],
    network: AcousticModel,
    log_mel: LogMel,
    computing: Callable[[], contextlib.AbstractContextManager[object]],
) -> Iterator[Tensor]:
    size = round(LONGEST_S * log_mel.config.sample_rate_hz)
    device = log_mel.window.device
    rest: tuple[Tensor, Tensor | None] | None = None
    state: ModelState | None = None

    def run(samples: Samples, last: bool) -> Tensor:
        nonlocal rest, state
        with torch.inference_mode():
            mel, rest = log_mel.stream(torch.from_numpy(samples)[None].to(device), rest)
            with computing():
                rows, state = network.stream(mel, state, last=last)
        return rows[0].float().cpu()

    for block in blocks:
        for at in range(0, len(block), size):
            yield run(block[at : at + size], last=False)
    yield run(np.zeros(0, np.float32), last=True)


def utterances(parts: Iterable[Tensor], frame_s: float, rules: Endpoint = RULES) -> Iterator[tuple[int, Tensor]]:
    """Utterances in consecutive posteriors: the row that each begins at, and its rows ``(T, V)``.

    All rows are in one of them, pauses included, save stretches that are nothing but blank.
    """
    endpointer = Endpointer(rules, frame_s)
    start, held = 0, list[Tensor]()
    for part in parts:
        for rows, ends in endpointer.cut(part):
            held.append(rows)
            if ends:
                whole = torch.cat(held)
                if _speaks(whole):
                    yield start, whole
                start, held = start + len(whole), []
    if held:
        whole = torch.cat(held)
        if _speaks(whole):
            yield start, whole


def _speaks(rows: Tensor) -> bool:
    """Whether there may be a word in it: a frame that is not certain to be blank."""
    return bool(len(rows)) and bool(rows[:, BLANK].min() < math.log(0.99))
