"""Runs other packages' CTC decoders on saved posteriors, for ``bench.py decode``, in their own environment.

    python tools/peer_decoders.py FOLDER

reads ``job.json`` and ``posteriors.npy`` from FOLDER and prints a line of JSON per decoder: its name, the seconds of
each round, the texts of the last one; or its name and why it cannot run. Needs no more of the package than numpy.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Decode = Callable[[Any], str]


def fast_ctc_decode(job: dict[str, Any], beam: int) -> Decode:
    """Rust; probabilities, no language model."""
    from fast_ctc_decode import beam_search

    alphabet = ["", *job["symbols"][1:]]
    cut = math.exp(job["token_threshold"])
    return lambda log_probs: str(beam_search(np.exp(log_probs), alphabet, beam_size=beam, beam_cut_threshold=cut)[0])


def pyctcdecode(job: dict[str, Any], beam: int) -> Decode:
    """Python."""
    from pyctcdecode import build_ctcdecoder

    return _kensho(build_ctcdecoder, job, beam)


def ctc_beam_decoder(job: dict[str, Any], beam: int) -> Decode:
    """C++, the interface of pyctcdecode."""
    from ctc_beam_decoder import build_ctcdecoder

    return _kensho(build_ctcdecoder, job, beam)


def _kensho(build: Callable[..., Any], job: dict[str, Any], beam: int) -> Decode:
    options: dict[str, Any] = {}
    if job["arpa"]:
        options = {"kenlm_model_path": job["arpa"], "alpha": job["lm_weight"], "beta": job["word_bonus"]}
        options["unigrams"] = job["lexicon"]
    decoder = build(["", *job["symbols"][1:]], **options)
    limits = {"beam_width": beam, "beam_prune_logp": -job["beam_threshold"], "token_min_logp": job["token_threshold"]}
    return lambda log_probs: str(decoder.decode(log_probs, **limits))


def flashlight(job: dict[str, Any], beam: int) -> Decode:
    """C++, what torchaudio wraps."""
    from flashlight.lib.text import decoder as fl

    symbols = job["symbols"]
    space, tokens = symbols.index(" "), len(symbols)
    common = {"beam_size": beam, "beam_size_token": tokens, "beam_threshold": job["beam_threshold"], "sil_score": 0.0}
    common |= {"log_add": True, "criterion_type": fl.CriterionType.CTC}
    if job["arpa"]:
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        words = Dictionary()
        for word in [*job["lexicon"], "<unk>"]:
            words.add_entry(word)
        lm = KenLM(job["arpa"], words)
        trie = fl.Trie(tokens, space)
        start = lm.start(False)
        for word in job["lexicon"]:
            index = words.get_index(word)
            _, score = lm.score(start, index)
            trie.insert([*(symbols.index(c) for c in word), space], index, score)
        trie.smear(fl.SmearingMode.MAX)
        # KenLM's logarithms are to base 10, and so is its weight.
        options = fl.LexiconDecoderOptions(
            lm_weight=job["lm_weight"] * math.log(10), word_score=job["word_bonus"], unk_score=-math.inf, **common
        )
        decoder = fl.LexiconDecoder(options, trie, lm, space, 0, words.get_index("<unk>"), [], False)
    else:
        decoder = fl.LexiconFreeDecoder(
            fl.LexiconFreeDecoderOptions(lm_weight=0.0, **common), fl.ZeroLM(), space, 0, []
        )

    def decode(log_probs: Any) -> str:
        emissions = np.ascontiguousarray(log_probs, dtype=np.float32)
        found = decoder.decode(emissions.ctypes.data, *emissions.shape)[0].tokens
        kept = [t for t, before in zip(found[1:], found[:-1], strict=True) if t != before]
        return "".join(symbols[t] for t in kept if t > 0).strip()

    return decode


DECODERS: tuple[Callable[[dict[str, Any], int], Decode], ...] = (
    fast_ctc_decode,
    flashlight,
    ctc_beam_decoder,
    pyctcdecode,
)


def matrices(folder: Path, job: dict[str, Any]) -> Iterator[Any]:
    """The posteriors of each utterance."""
    whole = np.load(folder / "posteriors.npy")
    at = 0
    for length in job["lengths"]:
        yield np.ascontiguousarray(whole[at : at + length])
        at += length


def main() -> int:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    utterances = list(matrices(folder, job))
    for build in DECODERS:
        if job["arpa"] and build is fast_ctc_decode:
            continue
        result: dict[str, Any] = {"name": build.__name__}
        try:
            decode = build(job, job["beam"])
            decode(utterances[0])
            seconds = []
            for _ in range(job["repeat"]):
                started = time.perf_counter()
                texts = [decode(log_probs) for log_probs in utterances]
                seconds.append(time.perf_counter() - started)
            result |= {"seconds": seconds, "texts": texts}
        except Exception as error:  # whatever keeps a peer from running is what the table says of it
            result["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
