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
from typing import Any

import numpy as np

from asr.audio.samples import Samples
from asr.config.sections import Config, whole_windows
from asr.decode.endpoint import Endpoint, Endpointer
from asr.decode.posteriors import BLANK
from asr.models.framing import FramedSamples
from asr.models.inference import AcousticBackend, Counts, Posteriors
from asr.models.pace import Pace

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

LogProbs = Callable[[list[Samples]], tuple[Posteriors, Counts]]


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


def joined(results: Iterable[tuple[Piece, Posteriors]], per_step: int, width: int) -> Iterator[Posteriors]:
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


def _crossing(before: Posteriors, after: Posteriors, width: int) -> int:
    overlap = min(len(before), len(after))
    blank = np.exp(before[:overlap, BLANK] + after[:overlap, BLANK]).astype(np.float64)
    width = min(width, overlap)
    smooth = np.convolve(blank, np.ones(width), mode="valid")
    shift = width // 2
    low, high = max(0, overlap // 4 - shift), max(1, 3 * overlap // 4 - shift)
    return low + int(smooth[low:high].argmax()) + shift


def posteriors(
    blocks: Iterable[Samples],
    backend: AcousticBackend,
    config: Config,
    log_probs: LogProbs,
    *,
    together: int = TOGETHER,
    pace: Pace | None = None,
) -> Iterator[Posteriors]:
    """Natural log-probabilities ``(T, V)`` of a recording, in consecutive parts.

    ``log_probs`` gives those of a batch of waveforms, as ``Recognizer.log_probs``; ``together``: pieces of a batch. A
    unidirectional model, which needs no pieces, carries its state from block to block; with ``pace``, in blocks that
    are as long as that says.
    """
    if not config.model.bidirectional:
        yield from _carried(blocks, backend, config, pace)
        return
    step = config.features.hop_samples * config.model.subsampling

    def heard() -> Iterator[tuple[Piece, Posteriors]]:
        group: list[Piece] = []
        cut = pieces(blocks, config.features.sample_rate_hz, step)
        for piece in cut:
            group.append(piece)
            if len(group) == together:
                yield from zip(group, _rows(group, log_probs), strict=True)
                group = []
        if group:
            yield from zip(group, _rows(group, log_probs), strict=True)

    yield from joined(heard(), config.model.upsampling, max(1, round(QUIET_S / config.output_frame_s)))


def _rows(group: list[Piece], log_probs: LogProbs) -> list[Posteriors]:
    matrix, frames = log_probs([piece.samples for piece in group])
    return [matrix[row, : int(count)] for row, count in enumerate(frames)]


def _carried(
    blocks: Iterable[Samples], backend: AcousticBackend, config: Config, pace: Pace | None
) -> Iterator[Posteriors]:
    features = config.features
    framing = FramedSamples(features)
    rest = np.zeros(0, np.float32)
    state: Any = None

    def run(samples: Samples, last: bool) -> Posteriors:
        nonlocal rest, state
        rest = np.concatenate([rest, samples])
        frames = whole_windows(len(rest), features)
        taken = rest[: (frames - 1) * features.hop_samples + features.window_samples] if frames else rest[:0]
        rest = rest[frames * features.hop_samples :]
        (rows,), (state,) = backend.stream(taken[None], [state], last=last, exact=False)
        return rows

    for block in blocks:
        at = 0
        while at < len(block):
            part = block[at : at + round((pace.block_s if pace else LONGEST_S) * features.sample_rate_hz)]
            with pace.measuring(len(part) / features.sample_rate_hz) if pace else contextlib.nullcontext():
                rows = run(framing.accept(part), last=False)
            yield rows
            at += len(part)
    yield run(framing.finish(), last=True)


def utterances(
    parts: Iterable[Posteriors], frame_s: float, rules: Endpoint = RULES
) -> Iterator[tuple[int, Posteriors]]:
    """Utterances in consecutive posteriors: the row that each begins at, and its rows ``(T, V)``.

    All rows are in one of them, pauses included, save stretches that are nothing but blank.
    """
    endpointer = Endpointer(rules, frame_s)
    start, held = 0, list[Posteriors]()
    for part in parts:
        for rows, ends in endpointer.cut(part):
            held.append(rows)
            if ends:
                whole = np.concatenate(held)
                if _speaks(whole):
                    yield start, whole
                start, held = start + len(whole), []
    if held:
        whole = np.concatenate(held)
        if _speaks(whole):
            yield start, whole


def _speaks(rows: Posteriors) -> bool:
    """Whether there may be a word in it: a frame that is not certain to be blank."""
    return bool(len(rows)) and bool(rows[:, BLANK].min() < math.log(0.99))
