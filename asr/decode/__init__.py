"""Decoders: log-probability matrices in, hypotheses out.

The beam search is imported at first use, so that greedy decoding does not import numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asr.decode.alignment import align, losses, mismatch
from asr.decode.greedy_search import GreedySearch, greedy
from asr.decode.hypothesis import Hypothesis
from asr.decode.phrase_search import Phrase, PhraseSearch, score_phrases

if TYPE_CHECKING:
    from asr.decode.beam import BeamSearch, accept_all, beam_search

__all__ = [
    "BeamSearch",
    "GreedySearch",
    "Hypothesis",
    "Phrase",
    "PhraseSearch",
    "accept_all",
    "align",
    "beam_search",
    "greedy",
    "losses",
    "mismatch",
    "score_phrases",
]


def __getattr__(name: str) -> Any:
    if name not in ("BeamSearch", "accept_all", "beam_search"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asr.decode import beam

    return getattr(beam, name)
