"""Draw one utterance's posteriors and the beam search over them, for docs/decoding.md.

python tools/draw_search.py egs/sample.wav docs/decoding.png [--beam 8]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import asr
from asr import audio, plot
from asr.decode import BeamSearch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("output", type=Path, metavar="PNG")
    parser.add_argument("--beam", type=int, default=8)
    args = parser.parse_args()
    try:
        plot.require()
        recognizer = asr.load(beam=1)
        log_probs, _ = recognizer.log_probs([audio.load(args.file, recognizer.sample_rate_hz)])
    except asr.AsrError as error:
        sys.exit(f"error: {error}")
    tokenizer, frame_s = recognizer.model.tokenizer, recognizer.frame_s
    probs = log_probs[0].exp().numpy()
    time = (np.arange(len(probs)) + 0.5) * frame_s
    figure, axes = plot.page(2, 1)
    figure.set_size_inches(10, 7)
    top, bottom = axes[:2]
    top.plot(time, probs[:, 0], color="0.75", linewidth=1, label="blank")
    for token in sorted({int(t) for t in probs.argmax(axis=1)} - {0}):
        top.plot(time, probs[:, token], linewidth=1.5)
        peak = int(probs[:, token].argmax())
        for at in np.flatnonzero((probs[:, token] > 0.3) & (probs.argmax(axis=1) == token)):
            around = probs[max(0, at - 1) : at + 2, token]
            if at == peak or around.max() == probs[at, token]:
                name = "␣" if token == tokenizer.space_id else tokenizer.symbol(token)
                place = {"xytext": (0, 3), "textcoords": "offset points", "fontsize": 8, "ha": "center"}
                top.annotate(name, (time[at], probs[at, token]), **place)
    top.set_ylim(-0.03, 1.12)
    top.set(ylabel="posterior", title="posteriors: a peak per letter, blank (grey) between them")
    search = BeamSearch(beam=args.beam)
    scores = np.full((len(probs), args.beam), np.nan)
    for frame in range(len(probs)):
        search.accept(log_probs[0, frame : frame + 1])
        found = search.hypotheses(args.beam)
        scores[frame, : len(found)] = [h.score - found[0].score for h in found]
    for rank in range(args.beam):
        bottom.plot(time, scores[:, rank], linewidth=1, color=f"C{rank}")
    names = [tokenizer.decode(h.tokens) for h in search.hypotheses(args.beam)]
    for rank, name in enumerate(names):
        bottom.plot([], [], color=f"C{rank}", label=name)
    bottom.legend(fontsize=7, loc="lower left", title="prefixes at the end, likeliest first", title_fontsize=7)
    bottom.set(xlabel="seconds", ylabel="log-probability behind the best", ylim=(-21, 0.5))
    bottom.set_title(f"the {args.beam} prefixes of the beam: far apart where the model is sure")
    plot.save(figure, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
