"""Draw one utterance's posteriors and the beam search over them, for docs/decoding.md.

python tools/draw_search.py egs/sample.wav docs/decoding.png [--beam 8]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import asr
from asr import plotting
from asr.audio import read
from asr.decode import BeamSearch
from asr.text.tokenizer import Tokenizer

CLOSE_S = 0.05
"""Peaks that are closer have their letters at two heights."""


def runs(best: np.ndarray) -> Iterator[tuple[int, int]]:
    """First frame and the one behind the last of each stretch that one token other than blank wins."""
    edges = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
    for first, end in itertools.pairwise(edges):
        if best[first]:
            yield first, end


def shown(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Tokens as they are, a space as a mark that can be seen."""
    return "".join("␣" if token == tokenizer.space_id else tokenizer.symbol(token) for token in tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("output", type=Path, metavar="PNG")
    parser.add_argument("--beam", type=int, default=8)
    args = parser.parse_args()
    try:
        plotting.require()
        recognizer = asr.load("an4", beam=1)
        log_probs, _ = recognizer.log_probs([read.load_audio(args.file, recognizer.sample_rate_hz)])
    except asr.AsrError as error:
        sys.exit(f"error: {error}")
    tokenizer, frame_s = recognizer.model.tokenizer, recognizer.frame_s
    probs = np.exp(log_probs[0])
    time = (np.arange(len(probs)) + 0.5) * frame_s
    figure, axes = plotting.page(2, 1)
    figure.set_size_inches(10, 7)
    top, bottom = axes[:2]
    top.plot(time, probs[:, 0], color="0.75", linewidth=1, label="blank")
    best = probs.argmax(axis=1)
    for token in sorted({int(t) for t in best} - {0}):
        top.plot(time, probs[:, token], linewidth=1.5)
    last, high = -1.0, False
    for first, end in runs(best):
        at = first + int(probs[first:end, best[first]].argmax())
        high = time[at] - last < CLOSE_S and not high  # a neighbour that is close is written above
        last = time[at]
        place = (time[at], 1.12 if high else 1.03)
        text = shown(recognizer.model.tokenizer, [int(best[at])])
        top.annotate(text, (time[at], 1.0), xytext=place, fontsize=8, ha="center")
    top.set_ylim(-0.03, 1.22)
    top.set(ylabel="posterior", title="posteriors: a peak per letter, blank (grey) between them")
    search = BeamSearch(beam=args.beam)
    scores = np.full((len(probs), args.beam), np.nan)
    for frame in range(len(probs)):
        search.accept(log_probs[0, frame : frame + 1])
        found = search.hypotheses(args.beam)
        scores[frame, : len(found)] = [h.score - found[0].score for h in found]
    for rank, hypothesis in enumerate(search.hypotheses(args.beam)):
        text = shown(tokenizer, hypothesis.tokens)
        bottom.plot(time, scores[:, rank], linewidth=1, color=f"C{rank}", label=f"{rank + 1}. {text}")
    bottom.set(xlabel="seconds", ylabel="log-probability behind the best")
    bottom.set_title(
        f"the {args.beam} prefixes of the beam, far apart where the model is sure; named as they are at the end"
    )
    plotting.legend_below(bottom)
    plotting.save_page(figure, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
