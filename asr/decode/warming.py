"""The search compiled ahead of its first use, as a step of an installation."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from asr.decode import kernel, pools
from asr.decode.beam import BeamSearch, beam_search


@dataclass(frozen=True)
class Warmth:
    """What ``warm_up`` has done."""

    folder: str | None
    """Where compiled kernels are kept; None where they cannot be."""
    seconds: float
    compiled: int
    """Kernels that were not there: 0 where all were."""


def warm_up() -> Warmth:
    """Compile the kernels of the beam search that are not in the cache folder yet: with language models and without."""
    start = time.perf_counter()
    log_probs = np.full((3, 2), np.log(0.5))
    beam_search(log_probs, beam=2, words=kernel.NO_WORDS)
    search = BeamSearch(beam=2)
    search.accept(log_probs)
    search.partial()
    search._make_room()
    search.finish()
    kernels = [value for module in (kernel, pools) for value in vars(module).values() if hasattr(value, "stats")]
    compiled = sum(sum(each.stats.cache_misses.values()) for each in kernels)
    return Warmth(vars(kernel)["search"].stats.cache_path, time.perf_counter() - start, compiled)
