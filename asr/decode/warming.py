"""The search compiled ahead of its first use, as a step of an installation."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.config import cpus
from asr.decode import kernel, phrase_kernel, pools
from asr.decode.beam import BeamSearch, beam_search
from asr.decode.built_kernels import find_library
from asr.decode.phrase_graph import GraphSearch

LOG_PROBS = np.full((3, 2), np.log(0.5))
"""Three frames of two tokens: the least that a search can be called with."""


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
    with _other_process() as compiled_there:
        search = BeamSearch(beam=2)
        search.accept(LOG_PROBS)
        search.partial()
        search._make_room()
        search.finish()
        if phrases:
            _search_phrases()
    _search_with_words()
    compiled = _count_compiled() + sum(compiled_there)
    return Warmth(vars(kernel)["search"].stats.cache_path, time.perf_counter() - start, compiled)


@contextlib.contextmanager
def _other_process() -> Iterator[list[int]]:
    """Another process that compiles the search with language models meanwhile: numba uses one core at a time.

    The list receives the number of kernels that it compiled. The process starts only if the cache folder is empty and
    this process may use two cores: a start of Python takes longer than reading compiled kernels. If it cannot start or
    fails, the caller compiles its kernels afterwards.
    """
    folder = vars(kernel)["search"].stats.cache_path
    counts: list[int] = []
    child = None
    if folder is not None and next(Path(folder).glob("*.nbi"), None) is None and cpus.available() > 1:
        with contextlib.suppress(OSError):  # also where the working directory is gone
            child = _start_python(
                "from asr.decode import warming; warming._search_with_words(); print(warming._count_compiled())"
            )
    if child is None:
        yield counts
        return
    with child:
        try:
            yield counts
        except BaseException:
            child.kill()
            raise
        output, _ = child.communicate()
        last = output.split()[-1:]  # behind the lines of a sitecustomize, say
        counts += [int(word) for word in last if child.returncode == 0 and word.isdigit()]


def _start_python(code: str) -> subprocess.Popen[bytes] | None:
    """Python with the modules of this process; None in a program that has Python in it, which would start again."""
    program = sys.executable or ""
    if getattr(sys, "frozen", False) or "python" not in os.path.basename(program).lower():
        return None
    folders = [folder or os.getcwd() for folder in sys.path if isinstance(folder, str)]  # imports ignore the rest
    return subprocess.Popen(
        [program, "-P", "-c", code],  # -P: no modules of the working directory
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )


def _search_with_words() -> None:
    beam_search(LOG_PROBS, beam=2, words=kernel.NO_WORDS)


def _count_compiled() -> int:
    """Kernels that this process compiled."""
    kernels = [
        value for module in (kernel, pools, phrase_kernel) for value in vars(module).values() if hasattr(value, "stats")
    ]
    return sum(sum(each.stats.cache_misses.values()) for each in kernels)


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
