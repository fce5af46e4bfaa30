"""The search compiled ahead of its first use, as a step of an installation."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.decode import kernel, phrase_kernel, pools
from asr.decode.beam import BeamSearch, beam_search
from asr.decode.built_kernels import find_library
from asr.decode.phrase_graph import GraphSearch


@dataclass(frozen=True)
class Warmth:
    """What ``warm_up`` has done."""

    folder: str | None
    """Where compiled kernels are kept: the package's own folder, if it holds them. None where they cannot be kept."""
    seconds: float
    compiled: int
    """Kernels that were not there: 0 where all were."""


def warm_up(*, phrases: bool = False) -> Warmth:
    """Compile the kernels of the searches that are not in the cache folder yet: with language models and without.

    Args:
        phrases: also the search of graphs of phrases (templates, long lists), which takes as long as all the rest.
    """
    start = time.perf_counter()
    if find_library() is not None:
        return Warmth(str(Path(kernel.__file__).parent), 0.0, 0)
    log_probs = np.full((3, 2), np.log(0.5))
    beam_search(log_probs, beam=2, words=kernel.NO_WORDS)
    search = BeamSearch(beam=2)
    search.accept(log_probs)
    search.partial()
    search._make_room()
    search.finish()
    if phrases:
        _search_phrases()
    kernels = [
        value for module in (kernel, pools, phrase_kernel) for value in vars(module).values() if hasattr(value, "stats")
    ]
    compiled = sum(sum(each.stats.cache_misses.values()) for each in kernels)
    return Warmth(vars(kernel)["search"].stats.cache_path, time.perf_counter() - start, compiled)


def warm_pools() -> None:
    """Compile what a search needs only once its pools are full, behind some minutes of speech."""
    BeamSearch(beam=2)._make_room()


def _search_phrases() -> None:
    """Search a graph of one phrase with one token."""
    column = functools.partial(np.array, dtype=np.int32)
    graph = phrase_kernel.GraphArrays(
        arc_start=column([0, 1, 1]),
        arc_symbol=column([1]),
        arc_target=column([1]),
        arc_call=column([-1]),
        ends=np.array([False, True]),
        rest=column([1, 0]),
        roots=column([0]),
        parent=column([0]),
        back=column([0]),
        calls=column([1]),
        frame_rest=column([0]),
        vocabulary=2,
    )
    GraphSearch(graph, beam=2).run(np.full((3, 2), 0.5))
