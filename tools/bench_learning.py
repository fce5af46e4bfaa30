"""Measures ``asr learn`` on speakers of a prepared corpus: some sentences corrected, others scored.

    python tools/bench_learning.py data/speechocean762/test.jsonl ten.jsonl --speakers 20
    python tools/bench_learning.py data/speechocean762/test.jsonl shuffled.jsonl --speakers 20 --shuffle
    python tools/bench_learning.py data/librispeech/held_out.jsonl fifty.jsonl --sentences 50 --scored 88 --draws 3 \\
        --forgetting data/an4/test.jsonl
    python tools/bench_learning.py data/speechocean762/test.jsonl checks.jsonl --speakers 20 --checks

Each run is the whole of ``asr learn`` with cross-validation, and a line of the output file; runs that are there already
are not repeated. Where the model is refused, the start is scored. ``--checks`` tries the check of texts alone: as they
are, shuffled within the speaker, and with two of them exchanged.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import DecodeError
from asr.models.model_directory import Model, load_model
from asr.recognize.decoder import Decoder
from asr.recognize.options import load_options
from asr.train import learning
from asr.train.adaptation import Lesson, make_lessons
from asr.train.learning import LearnOptions, learn
from asr.train.search_weights import score_rows
from asr.train.text_check import text_fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("output", type=Path, help="JSON lines, one for each run")
    parser.add_argument("--model", default="english")
    parser.add_argument("--speakers", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first of these speakers that is run")
    parser.add_argument("--sentences", type=int, default=10, help="that are corrected")
    parser.add_argument("--scored", type=int, default=10, help="others that are scored")
    parser.add_argument("--draws", type=int, default=1, help="of sentences of each speaker, and seeds")
    parser.add_argument("--shuffle", action="store_true", help="corrections have the texts of others of them")
    parser.add_argument("--forgetting", default="", metavar="MANIFEST", help="other speech, scored before and after")
    parser.add_argument("--checks", action="store_true", help="try the check of texts alone")
    args = parser.parse_args()
    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in manifest.read_manifest(args.manifest):
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    names = sorted(by_speaker)
    chosen = names[:: max(1, len(names) // args.speakers)][: args.speakers][args.first :]
    for name in chosen:
        for draw in range(1, args.draws + 1):
            if (name, draw) not in _done(args.output):  # asked anew each time: another process may work on it, too
                utterances = list(by_speaker[name])
                random.Random(draw).shuffle(utterances)
                row = {"speaker": name, "draw": draw, **_run(utterances, args, draw)}
                with open(args.output, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    _summarise(args.output)


def _done(path: Path) -> set[tuple[str, int]]:
    if not path.exists():
        return set()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["speaker"], row["draw"]) for row in rows}


def _run(utterances: Sequence[Utterance], args: argparse.Namespace, seed: int) -> dict[str, object]:
    corrected, scored = utterances[: args.sentences], utterances[args.sentences :][: args.scored]
    if args.checks:
        return _checks(load_model(args.model), corrected)
    if args.shuffle:
        texts = [one.text for one in corrected]
        corrected = [replace(one, text=text) for one, text in zip(corrected, texts[3:] + texts[:3], strict=True)]
    folder = args.output.with_suffix(".work") / f"{corrected[0].speaker}-{seed}"  # a killed run goes on in it
    shutil.rmtree(folder / "learnt", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    path, output = folder / "corrected.jsonl", folder / "learnt"
    absolute = [replace(one, audio=os.path.abspath(one.audio)) for one in corrected]
    manifest.write_manifest(path, absolute)
    started = time.process_time()
    report = learn(args.model, [path], output, LearnOptions(seed=seed))
    cpu_s = time.process_time() - started
    kept = ("used", "learnt", "refusal", "rate", "epochs", "gain", "p_value", "p_errors", "errors_before",
            "errors_after", "words", "lm_weight", "rehearsal", "rehearsal_before", "rehearsal_after")  # fmt: skip
    row: dict[str, object] = {key: getattr(report, key) for key in kept} | {"cpu_s": round(cpu_s, 1)}
    after = str(output) if report.learnt else args.model
    row["scored"] = _both(args.model, after, scored)
    if args.forgetting:
        row["forgetting"] = _forgetting(args.model, after, args.forgetting)
    shutil.rmtree(folder)
    return row


def _forgetting(start: str, after: str, path: str) -> dict[str, int]:
    """Errors on other speech; those of the start are counted once."""
    utterances = manifest.read_manifest(path)
    before, words = _start_errors(start, path)
    found = before if after == start else _errors(after, utterances)[0]
    return {"before": before, "words": words, "after": found}


@functools.cache
def _start_errors(model: str, path: str) -> tuple[int, int]:
    return _errors(model, manifest.read_manifest(path))


def _both(start: str, after: str, utterances: Sequence[Utterance]) -> dict[str, int]:
    """Word errors of two model directories, each decoded as it says."""
    before, words = _errors(start, utterances)
    found = before if after == start else _errors(after, utterances)[0]
    return {"before": before, "words": words, "after": found}


def _errors(place: str, utterances: Sequence[Utterance]) -> tuple[int, int]:
    """Errors of a model directory, and the words of the references."""
    model = load_model(place)
    search = Decoder(load_options(model.path), model.tokenizer)
    lessons = _lessons(model, utterances)
    references = {one.id: search.tokenizer.decode(one.tokens) for one in lessons}
    report = score_rows(search, [one.start for one in lessons], references)
    return report.errors, report.words


def _lessons(model: Model, utterances: Sequence[Utterance]) -> list[Lesson]:
    found = learning._featured(model, utterances, "", {})
    features, tokens = [one.features for one in found], [one.tokens for one in found]
    return make_lessons(model.network, features, [one.utterance.id for one in found], tokens)


def _checks(model: Model, corrected: Sequence[Utterance]) -> dict[str, object]:
    """How many right, shuffled and exchanged texts are taken for wrong."""
    lessons = _lessons(model, corrected)

    def wrong(lesson: Lesson, tokens: Sequence[int]) -> bool:
        try:
            return text_fit(lesson.start.numpy(), tokens, model.tokenizer.space_id).wrong
        except DecodeError:
            return True

    shifted = [*lessons[3:], *lessons[:3]]
    exchanged = (lessons[2], lessons[7]), (lessons[7], lessons[2])
    pairs = {"right": zip(lessons, lessons, strict=True), "shuffled": zip(lessons, shifted, strict=True)}
    named = {name: sum(wrong(a, b.tokens) for a, b in part) for name, part in pairs.items()}
    return {**named, "exchanged": sum(wrong(a, b.tokens) for a, b in exchanged), "texts": len(lessons)}


def _summarise(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if "right" in rows[0]:
        print({key: sum(row[key] for row in rows) for key in ("right", "shuffled", "exchanged", "texts")})
        return
    print(f"{sum(row['learnt'] for row in rows)} of {len(rows)} learnt")
    for key in ("scored", "forgetting"):
        pairs = [row[key] for row in rows if key in row]
        if pairs:
            before, after, words = (sum(pair[name] for pair in pairs) for name in ("before", "after", "words"))
            fewer = [1 - pair["after"] / max(1, pair["before"]) for pair in pairs]
            print(f"{key}: {before} errors before, {after} after, in {words} words; {1 - after / max(1, before):.1%} "
                  f"fewer, {np.mean(fewer):.1%} in the mean over runs")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
