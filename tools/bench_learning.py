"""Measures ``asr learn`` on speakers of a prepared corpus: ten sentences corrected, ten scored.

    python tools/bench_learning.py data/speechocean762/test.jsonl --speakers 20           # checks, learning
    python tools/bench_learning.py data/speechocean762/test.jsonl --speakers 20 --checks  # checks of texts alone

Texts are checked as they are, shuffled within the speaker, and with two of them exchanged. Learning is that of one
setting (``--rate``, ``--epochs``), without the cross-validation that would refuse it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np
import torch

from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import DecodeError
from asr.models.model_directory import Model, load_model
from asr.recognize.decoder import Decoder
from asr.recognize.options import load_options
from asr.scoring.wer import score
from asr.train import learning
from asr.train.adaptation import Adaptation, Lesson, Strength, make_lessons
from asr.train.text_check import text_fit

SENTENCES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--model", default="english")
    parser.add_argument("--speakers", type=int, default=20)
    parser.add_argument("--checks", action="store_true")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    model = load_model(args.model)
    search = Decoder(load_options(model.path), model.tokenizer)
    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in manifest.read_manifest(args.manifest):
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    names = sorted(by_speaker)
    errors, wrong = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for name in names[:: max(1, len(names) // args.speakers)][: args.speakers]:
        chosen = list(by_speaker[name])
        random.Random(1).shuffle(chosen)
        learnt, scored = (_lessons(model, part) for part in (chosen[:SENTENCES], chosen[SENTENCES : 2 * SENTENCES]))
        wrong += _checks(learnt, model.tokenizer.space_id)
        print(
            f"{name}: taken for wrong so far: {wrong[0]} right, {wrong[1]} shuffled, {wrong[2]} exchanged", flush=True
        )
        if not args.checks:
            errors += _learning(learnt, scored, search, Adaptation(model.network, Strength(args.rate)), args.epochs)
            print(f"{name}: errors so far: {errors[0]} before, {errors[1]} after, in {errors[2]} words", flush=True)


def _lessons(model: Model, utterances: Sequence[Utterance]) -> list[Lesson]:
    found = learning._featured(model, utterances, "", {})
    features, tokens = [one.features for one in found], [one.tokens for one in found]
    return make_lessons(model.network, features, [one.utterance.id for one in found], tokens)


def _checks(lessons: Sequence[Lesson], space: int | None) -> tuple[int, int, int]:
    """How many right, shuffled and exchanged texts are taken for wrong."""

    def wrong(lesson: Lesson, tokens: Sequence[int]) -> bool:
        try:
            return text_fit(lesson.start.numpy(), tokens, space).wrong
        except DecodeError:
            return True

    shifted = [*lessons[3:], *lessons[:3]]
    exchanged = (lessons[2], lessons[7]), (lessons[7], lessons[2])
    pairs = (zip(lessons, lessons, strict=True), zip(lessons, shifted, strict=True), exchanged)
    right, shuffled, swapped = (sum(wrong(a, b.tokens) for a, b in part) for part in pairs)
    return right, shuffled, swapped


def _learning(
    learnt: Sequence[Lesson], scored: Sequence[Lesson], search: Decoder, adaptation: Adaptation, epochs: int
) -> tuple[int, int, int]:
    """Errors on the scored sentences before and after, and their words."""
    for _ in range(epochs):
        adaptation.epoch(learnt)
    references = {x.id: search.tokenizer.decode(x.tokens) for x in scored}
    before, after = (
        score(references, dict(zip(references, learning._decode(search, rows), strict=True)))
        for rows in ([x.start for x in scored], adaptation.log_probs(scored))
    )
    return before.errors, after.errors, before.words


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
