"""Cut the digits out of another corpus's sentences, at the times that a trained model aligns them to.

    python recipes/fsdd/cut_digits.py data/speechocean762/full.jsonl data/speechocean762/digits.jsonl

Six speakers are few: other corpora's people say digits too, in sentences. OUT holds each run of digits of MANIFEST: the
same files with ``start_s`` and ``end_s``, cut half-way to the words beside it, at most ``EDGE_S`` away. A run whose
words have a mean confidence (geometric) below ``--least-confidence``, or less than ``WORD_S`` each, is left out and
counted. Exit status: 0 done, 1 some utterances could not be aligned (they are named), 2 nothing was done.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

import asr
from asr.config.arguments import number
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError
from asr.transcript import Transcript

EDGE_S = 0.15
"""Most that is kept of the pause beside a run."""
WORD_S = 0.2
"""A word that is shorter was not aligned but squeezed in."""
DIGITS = frozenset((Path(__file__).parent / "digits.txt").read_text(encoding="utf-8").split())


def runs(utterance: Utterance, aligned: Transcript, least_confidence: float) -> Iterator[Utterance | None]:
    """The runs of digits in an aligned utterance, ``None`` for each with too little confidence."""
    words = aligned.words
    for are_digits, group in itertools.groupby(range(len(words)), key=lambda index: words[index].text in DIGITS):
        if not are_digits:
            continue
        places = list(group)
        first, last = places[0], places[-1]
        start_s, end_s = words[first].start_s - EDGE_S, words[last].end_s + EDGE_S
        start_s = max(start_s, (words[first - 1].end_s + words[first].start_s) / 2 if first else 0.0)
        behind = last + 1 < len(words)
        end_s = min(end_s, (words[last].end_s + words[last + 1].start_s) / 2 if behind else aligned.duration_s)
        mean = math.exp(sum(math.log(max(words[at].confidence, 1e-9)) for at in places) / len(places))
        if mean < least_confidence or end_s - start_s < WORD_S * len(places):
            yield None
            continue
        yield dataclasses.replace(
            utterance,
            id=f"{utterance.id}-{first}",
            text=" ".join(words[at].text for at in places),
            duration_s=round(end_s - start_s, 4),
            start_s=round(start_s, 4),
            end_s=round(end_s, 4),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--model", default="an4", metavar="DIR|NAME", help="the model that aligns (default: an4)")
    parser.add_argument(
        "--least-confidence", type=number(0, 1), default=0.05, metavar="P", help="of a run (default: 0.05)"
    )
    args = parser.parse_args()
    failures = 0
    cut: list[Utterance | None] = []
    try:
        utterances = [u for u in manifest.read_manifest(args.manifest) if DIGITS & set(u.text.split())]
        recognizer = asr.load(args.model)
        for utterance in tqdm(utterances, desc="aligning", disable=None, leave=False):
            if utterance.start_s or utterance.end_s is not None:
                raise AsrError(f"{args.manifest}: {utterance.id}: expected whole recordings, got a segment of one")
            try:
                # The bundled model spells without apostrophes.
                aligned = recognizer.align(utterance.audio, utterance.text.replace("'", ""))
            except AsrError as error:
                tqdm.write(f"warning: {utterance.id}: not cut: {error}", file=sys.stderr)
                failures += 1
            else:
                cut += runs(utterance, aligned, args.least_confidence)
        kept = [utterance for utterance in cut if utterance is not None]
        manifest.write_manifest(args.output, kept)
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {manifest.statistics(kept)}; {len(cut) - len(kept)} runs left out: confidence too low")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
