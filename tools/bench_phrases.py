"""The search for phrases in a graph against the full sum: does it find the same answer, and how long does it take?

    python tools/bench_phrases.py agreement an4 data/an4/full.jsonl     # lists of 1,000
    python tools/bench_phrases.py speed an4 data/an4/test.jsonl         # 100,000 phrases, two seconds of audio

The lists hold texts of the manifest (for ``agreement`` five of six, so that some recordings have no right answer) and
made-up sequences of its words; those for ``speed`` made-up names as well. Times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator

import numpy as np

import asr
from asr.data.manifest import Utterance, read_manifest
from asr.decode import Phrase, score_phrases
from asr.decode.phrase_graph import PhraseGraph
from asr.recognize.recognizer import Recognizer
from asr.text.templates import Template, Templates
from asr.text.tokenizer import Tokenizer

SYLLABLES = "BA KO RI TEN MAR LO SI DEL VAN ER ON TH LEE SON PAT CHI NA GU ST WEN".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("agreement", "speed"))
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--every", type=int, default=1, help="take every N-th recording")
    args = parser.parse_args()
    recognizer = asr.load(args.model, beam=1)
    utterances = read_manifest(args.manifest)
    (agreement if args.what == "agreement" else speed)(recognizer, utterances, args.every)


def agreement(recognizer: Recognizer, utterances: list[Utterance], every: int) -> None:
    tokenizer = recognizer.model.tokenizer
    texts = list(dict.fromkeys(tokenizer.reference(u.text) for u in utterances))
    listed = made_up(texts[: min(len(texts) * 5 // 6, 900)], words_of(texts), 1000)
    graph = graph_of(listed, tokenizer)
    whole = [Phrase(text, tuple(map(tuple, tokenizer.spellings(text)))) for text in listed]
    times: list[tuple[float, float]] = []
    differ = 0
    for matrix in posteriors(recognizer, utterances[::every]):
        start = time.process_time()
        found = [graph.phrase(key) for key in graph.candidates(matrix)]
        best = found[int(score_phrases(matrix, found)[0].argmax())].text if found else ""
        middle = time.process_time()
        differ += best != listed[int(score_phrases(matrix, whole)[0].argmax())]
        times.append((middle - start, time.process_time() - middle))
    search, full = 1000 * np.mean(times, axis=0)
    print(
        f"{len(listed)} phrases, {len(times)} recordings: {differ} answers differ; "
        f"{search:.1f} ms, full sum {full:.1f} ms"
    )


def speed(recognizer: Recognizer, utterances: list[Utterance], every: int) -> None:
    tokenizer = recognizer.model.tokenizer
    rng = random.Random(2)
    names = ["".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4))) for _ in range(30_000)]
    texts = list(dict.fromkeys(tokenizer.reference(u.text) for u in utterances))
    listed = made_up(texts, words_of(texts) * 50 + names, 100_000)
    start = time.process_time()
    graph = graph_of(listed, tokenizer)
    print(f"{len(listed)} phrases: read in {time.process_time() - start:.1f} s, {len(graph._graph.ends)} nodes")
    times = []
    right = 0
    near = [u for u in utterances if 1.9 <= u.duration_s <= 2.1][::every]
    for utterance, matrix in zip(near, posteriors(recognizer, near), strict=True):
        graph.candidates(matrix)  # compiled
        start = time.process_time()
        found = [graph.phrase(key) for key in graph.candidates(matrix)]
        best = found[int(score_phrases(matrix, found)[0].argmax())]
        times.append(1000 * (time.process_time() - start))
        right += best.text == tokenizer.reference(utterance.text)
    print(
        f"{len(near)} recordings of 1.9 to 2.1 s: median {np.median(times):.1f} ms, at most {max(times):.1f} ms; "
        f"{right} right"
    )


def made_up(texts: list[str], words: list[str], count: int) -> list[str]:
    """``texts`` and random sequences of one to five words, ``count`` in all."""
    rng = random.Random(1)
    listed = dict.fromkeys(texts)
    while len(listed) < count:
        listed[" ".join(rng.choice(words) for _ in range(rng.randint(1, 5)))] = None
    return list(listed)


def words_of(texts: list[str]) -> list[str]:
    return sorted({word for text in texts for word in text.split()})


def graph_of(listed: list[str], tokenizer: Tokenizer) -> PhraseGraph:
    return PhraseGraph(Templates([Template((text,), text) for text in listed]), tokenizer)


def posteriors(recognizer: Recognizer, utterances: list[Utterance]) -> Iterator[np.ndarray]:
    for at in range(0, len(utterances), 32):
        by_id = {}
        for ids, log_probs, frames in recognizer.posteriors(utterances[at : at + 32]):
            by_id |= {id: log_probs[row, : int(frames[row])] for row, id in enumerate(ids)}
        yield from (by_id[utterance.id] for utterance in utterances[at : at + 32])


if __name__ == "__main__":
    main()
