"""Compares decoders on the same posteriors; the code of ``bench.py decode``."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import asr
from asr.data import manifest
from asr.decode import Hypothesis, beam_search, greedy
from asr.decode.arpa import read_arpa
from asr.decode.fusion import Fusion
from asr.decode.lexicon import make_words
from asr.decode.ngram import Ngram
from asr.lm.lm_directory import load_recurrent
from asr.recognize.recognizer import Recognizer
from asr.scoring.wer import score

Utterances = list[np.ndarray]


@dataclass(frozen=True)
class Result:
    """Seconds of each round, and the texts."""

    seconds: Sequence[float]
    texts: Sequence[str]


def decode(args: argparse.Namespace) -> int:
    """Print a table: seconds, ratio to ours, WER, for each decoder and beam."""
    recognizer = asr.load(args.model, device="cpu", beam=1)
    utterances = manifest.read_manifest(args.manifest)
    batches = list(recognizer.posteriors(utterances))
    names = [name for ids, _, _ in batches for name in ids]
    matrices = [row[:n] for _, x, frames in batches for row, n in zip(x, frames.tolist(), strict=True)]
    texts = {u.id: u.text for u in utterances}
    references = [texts[name] for name in names]
    frames = sum(map(len, matrices))
    audio_s = frames * recognizer.frame_s
    print(f"{len(matrices)} utterances, {frames} frames, {audio_s:.0f} s of audio; {torch.get_num_threads()} threads")
    print(f"thresholds: token {args.token_threshold}, beam {args.beam_threshold} (natural logarithms)")
    print(f"ours alone: blank {args.blank_threshold}; all utterances in one call, or one by one as the others")
    for beam in args.beams:
        show(f"beam {beam}, no language model", beam, matrices, references, audio_s, args, recognizer, None)
        if args.arpa:
            ngram = read_arpa(args.arpa)
            show(f"beam {beam}, word n-gram and lexicon", beam, matrices, references, audio_s, args, recognizer, ngram)
    if args.long_s:
        repeated = int(args.long_s / audio_s) + 1
        long = [np.concatenate(matrices * repeated)[: int(args.long_s / recognizer.frame_s)]]
        show(f"beam 16, {args.long_s:g} s in one piece", 16, long, None, args.long_s, args, recognizer, None)
    if args.lm:
        recurrent(args, recognizer, matrices, references, audio_s)
    batch, lengths = padded(matrices)
    for how, run in (
        ("all utterances in one call", lambda: greedy(batch, lengths)),
        ("one by one", lambda: [greedy(matrix)[0] for matrix in matrices]),
    ):
        per_10_s = 1e4 * statistics.median(measure(run, args.repeat, recognizer).seconds) / audio_s
        print(f"greedy, {how}: {per_10_s:.3f} ms per 10 s of audio")
    return 0


def show(
    title: str, beam: int, matrices: Utterances, references: Sequence[str] | None, audio_s: float,
    args: argparse.Namespace, recognizer: Recognizer, ngram: Ngram | None,
) -> None:  # fmt: skip
    """One group of the table: ours and the peers take turns by rounds."""
    tokenizer = recognizer.model.tokenizer
    words, spelt = None, []
    if ngram is not None:
        spelt = [w for w in ngram.words if w not in ("<s>", "</s>", "<unk>", "<UNK>")]
        words = make_words(
            tokenizer.spellings, tokenizer.vocab_size, tokenizer.space_id, lexicon=spelt, ngram=ngram,
            weight=args.lm_weight, word_bonus=args.word_bonus,
        )  # fmt: skip
    limits = {"token_threshold": args.token_threshold, "beam_threshold": args.beam_threshold}
    options: dict[str, Any] = {"beam": beam, "words": words, "blank_threshold": args.blank_threshold, **limits}
    batch, lengths = padded(matrices)

    def together(threads: int = 1) -> list[Hypothesis]:
        return [nbest[0] for nbest in beam_search(batch, lengths, threads=threads, **options)]

    def alone() -> list[Hypothesis]:
        return [beam_search(matrix, **options)[0][0] for matrix in matrices]

    results: dict[str, Result | str] = {"this package": measure(together, args.repeat, recognizer)}
    if len(matrices) > 1:
        results["in two threads"] = measure(lambda: together(2), args.repeat, recognizer)
        results["one by one"] = measure(alone, args.repeat, recognizer)
    job = {
        "symbols": tokenizer.symbols, "beam": beam, "repeat": args.repeat, "lengths": [len(m) for m in matrices],
        "arpa": str(Path(args.arpa).absolute()) if ngram is not None else "", "lexicon": spelt,
        "lm_weight": args.lm_weight, "word_bonus": args.word_bonus, **limits,
    }  # fmt: skip
    results |= peers(job, matrices, args.peers_python)
    print(f"\n{title}")
    own = statistics.median(results["this package"].seconds)  # type: ignore[union-attr]
    for name, result in results.items():
        if isinstance(result, str):
            print(f"  {name:18} {result}")
            continue
        seconds = statistics.median(result.seconds)
        rate = f"WER {100 * wer(references, result.texts):.2f} %" if references is not None else ""
        print(f"  {name:18} {seconds:8.4f} s  {seconds / own:7.2f} x ours  {seconds / audio_s:.6f} x real time  {rate}")


def recurrent(
    args: argparse.Namespace, recognizer: Recognizer, matrices: Utterances, references: Sequence[str], audio_s: float
) -> None:
    """RNN LM in the search: all utterances together, against one beam at a time."""
    model = load_recurrent(args.lm).model
    fusion = Fusion(model, args.lm_weight)
    alone = Fusion(OneByOne(model), args.lm_weight)  # type: ignore[arg-type]
    batch, lengths = padded(matrices)
    limits: dict[str, Any] = {
        "beam": 16,
        "token_threshold": args.token_threshold,
        "blank_threshold": args.blank_threshold,
        "beam_threshold": args.beam_threshold,
    }

    def together() -> list[Hypothesis]:
        return [nbest[0] for nbest in beam_search(batch, lengths, lm=fusion, **limits)]

    def single() -> list[Hypothesis]:
        return [beam_search(m, lm=alone, **limits)[0][0] for m in matrices]

    print("\nbeam 16, RNN LM")
    fast, slow = measure(together, args.repeat, recognizer), measure(single, 1, recognizer)
    for name, result in (("all together", fast), ("one beam at a time", slow)):
        seconds = statistics.median(result.seconds)
        print(
            f"  {name:18} {seconds:8.4f} s  {seconds / statistics.median(fast.seconds):7.2f} x ours  "
            f"{seconds / audio_s:.6f} x real time  WER {100 * wer(references, result.texts):.2f} %"
        )


def padded(matrices: Utterances) -> tuple[np.ndarray, np.ndarray]:
    """One batch ``(B, T, V)`` and its lengths, as an acoustic model gives them."""
    tensors = [torch.from_numpy(matrix) for matrix in matrices]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).numpy(), np.array([len(m) for m in matrices])


class OneByOne:
    """A language model that is called for one prefix at a time, as a simple search does it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.vocab_size = model.vocab_size
        self.start, self.select, self.join, self.finish = model.start, model.select, model.join, model.finish

    def advance(self, state: Any, tokens: np.ndarray) -> tuple[np.ndarray, Any]:
        parts = [
            self.model.advance(self.model.select(state, np.array([i])), tokens[i : i + 1]) for i in range(len(tokens))
        ]
        return np.concatenate([rows for rows, _ in parts]), self.model.join([after for _, after in parts])


def peers(job: dict[str, Any], matrices: Utterances, python: str) -> dict[str, Result | str]:
    """What ``peer_decoders.py`` reports."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        np.save(Path(folder) / "posteriors.npy", np.concatenate(matrices))
        command = [python or sys.executable, str(Path(__file__).with_name("peer_decoders.py")), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    results: dict[str, Result | str] = {}
    for line in done.stdout.splitlines():
        found = json.loads(line)
        good = "error" not in found
        results[found["name"]] = Result(found["seconds"], found["texts"]) if good else f"did not run: {found['error']}"
    if not results:
        results["peers"] = f"did not run: {done.stderr.strip().splitlines()[-1:]}"
    return results


def measure(function: Callable[[], list[Hypothesis]], repeat: int, recognizer: Recognizer) -> Result:
    """Time ``repeat`` calls, after one that warms up."""
    function()
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - started)
    return Result(seconds, [recognizer.model.tokenizer.decode(h.tokens) for h in found])


def wer(references: Sequence[str], texts: Sequence[str]) -> float:
    """Word error rate."""
    return score(dict(enumerate_ids(references)), dict(enumerate_ids(texts))).wer


def enumerate_ids(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Texts with their numbers as ids."""
    return [(str(i), " ".join(text.split())) for i, text in enumerate(texts)]
