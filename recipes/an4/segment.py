"""Cut training utterances into runs of one to three words, at the times that a trained model aligns them to.

    python recipes/an4/segment.py data/an4/full.jsonl data/an4/segments.jsonl --model exp/an4/blstm

AN4 says digits and letters in long runs only; a model trained on it does not know a word that stands alone. OUT holds
all utterances of MANIFEST and, behind them, the segments: the same files with ``start_s`` and ``end_s``, cut half-way
between two words. Deterministic under ``--seed``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import asr
from asr.config.arguments import whole
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError
from asr.transcript import Transcript

MAX_WORDS = 3
MIN_S = 0.25
"""Shorter segments are left out: the aligned words overlap, or a cut went through one."""


def segments(utterance: Utterance, aligned: Transcript, rng: np.random.Generator) -> Iterator[Utterance]:
    """Runs of 1 to ``MAX_WORDS`` words that together make up the utterance; none where that is the whole of it."""
    words = aligned.words
    first = 0
    while first < len(words):
        last = min(len(words), first + int(rng.integers(1, MAX_WORDS + 1)))
        start_s = (words[first - 1].end_s + words[first].start_s) / 2 if first else 0.0
        end_s = (words[last - 1].end_s + words[last].start_s) / 2 if last < len(words) else aligned.duration_s
        if (first, last) != (0, len(words)) and end_s - start_s >= MIN_S:
            yield dataclasses.replace(
                utterance,
                id=f"{utterance.id}-{first}-{last}",
                text=" ".join(word.text for word in words[first:last]),
                duration_s=round(end_s - start_s, 4),
                start_s=round(start_s, 4),
                end_s=round(end_s, 4),
            )
        first = last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--model", default="an4", metavar="DIR|NAME", help="the model that aligns (default: an4)")
    parser.add_argument("--seed", type=whole(0), default=1)
    args = parser.parse_args()
    try:
        utterances = manifest.read_manifest(args.manifest)
        recognizer = asr.load(args.model)
        rng = np.random.default_rng(args.seed)
        cut: list[Utterance] = []
        failures = 0
        for utterance in tqdm(utterances, desc="aligning", disable=None, leave=False):
            if utterance.start_s or utterance.end_s is not None:
                raise AsrError(f"{args.manifest}: {utterance.id}: expected whole recordings, got a segment of one")
            try:
                cut += segments(utterance, recognizer.align(utterance.audio, utterance.text), rng)
            except AsrError as error:
                tqdm.write(f"warning: {utterance.id}: not cut: {error}", file=sys.stderr)
                failures += 1
        manifest.write_manifest(args.output, utterances + cut)
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    hours = sum(item.duration_s for item in cut) / 3600
    print(f"{args.output}: {len(utterances)} utterances and {len(cut)} segments of them ({hours:.2f} h)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
