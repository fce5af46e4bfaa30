"""How long a large word n-gram takes to open, and how much memory; the code of ``bench.py lm-open``."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from asr.decode.ngram_arrays import SortedLevel
from asr.decode.ngram_file import write_ngram_arrays
from asr.lm.lm_conversion import convert_ngram

OPEN = """
import json, re, sys, time
from pathlib import Path
from asr.decode import kernel  # numba takes its time and memory apart
from asr.lm.lm_directory import load_language_model
from asr.models.description import read_description
from asr.recognize.vocabulary import Vocabularies, WordModels

def anonymous():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: *([0-9]+)", text, re.M)[1]) / 1024

tokenizer = read_description(sys.argv[2]).tokenizer
load_language_model(sys.argv[3])  # a small one: modules
before, started, cpu = anonymous(), time.perf_counter(), time.process_time()
ngram = load_language_model(sys.argv[1])
opened = time.perf_counter() - started
words = Vocabularies(tokenizer, WordModels(ngram=ngram), "en")
ready, busy, after = time.perf_counter() - started, time.process_time() - cpu, anonymous()
started = time.perf_counter()
words.make({"ZYXWVUTS": 5.0, "QWERTZ ASDFG": 3.0})
print(json.dumps({"opened": opened, "ready": ready, "cpu": busy, "mb": after - before,
                  "hot": time.perf_counter() - started}))
"""


def lm_open(args: argparse.Namespace) -> int:
    """Print seconds and anonymous memory for a generated n-gram as doubles and as codes."""
    with tempfile.TemporaryDirectory() as folder:
        small, exact = Path(folder) / "small.safetensors", Path(folder) / "exact.safetensors"
        _generate(small, 10, 100)
        _generate(exact, args.words, args.ngrams)
        print(f"{args.ngrams:,} n-grams, {args.words:,} words; medians of {args.repeat} processes")
        for bits in (64, 8):
            path = Path(folder) / f"{bits}.safetensors"
            convert_ngram(exact, path, bits=bits, model=args.model)
            found = [_open(path, args.model, small) for _ in range(args.repeat)]
            figures = {name: statistics.median(one[name] for one in found) for name in found[0]}
            print(
                f"{bits:2} bits, {path.stat().st_size / 1e6:6.1f} MB: n-gram open in {figures['opened']:.3f} s, search "
                f"ready in {figures['ready']:.3f} s ({figures['cpu']:.3f} s of CPU), {figures['mb']:.0f} MB of "
                f"anonymous memory; three new hot words in {1000 * figures['hot']:.1f} ms"
            )
    return 0


def _open(path: Path, model: str, small: Path) -> dict[str, float]:
    command = [sys.executable, "-c", OPEN, str(path), model, str(small)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _generate(path: Path, words: int, ngrams: int) -> None:
    """A trigram of random words and numbers: a third of the n-grams are bigrams."""
    rng = np.random.default_rng(1)
    names: dict[str, None] = dict.fromkeys(["<unk>", "<s>", "</s>"])
    while len(names) < words:
        lengths = np.minimum(1 + rng.poisson(7, words), 20)
        letters = rng.choice(list("ETAOINSHRDLUCMFWYPVBGKQJXZ"), lengths.sum(), p=_zipf(26))
        names |= dict.fromkeys(map("".join, np.split(letters, np.cumsum(lengths)[:-1])))
    chosen = list(names)[:words]
    levels = [SortedLevel(np.zeros(words, int), np.arange(words), -rng.gamma(9, 1, words), -rng.random(words))]
    for count in (ngrams // 3, ngrams - ngrams // 3 - words):
        contexts = np.minimum(rng.pareto(1, 2 * count) * 30, len(levels[-1].word) - 1).astype(np.int64)
        contexts[::2] = rng.integers(0, len(levels[-1].word), count)
        keys = np.unique(contexts * words + rng.integers(0, words, 2 * count))
        keys = np.sort(rng.permutation(keys)[:count])
        values = -rng.gamma(2, 2, len(keys)), -rng.random(len(keys))
        levels.append(SortedLevel(keys // words, keys % words, *values))
    write_ngram_arrays(path, chosen, levels)


def _zipf(count: int) -> np.ndarray:
    weights = 1 / np.arange(3, count + 3)
    return np.asarray(weights / weights.sum())
