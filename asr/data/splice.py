"""New training utterances from pieces of recordings of one speaker.

A small corpus has few sentences, and a recurrent network learns their word order by heart. Pieces in random order keep
the sound of each word and remove the order (on-the-fly aligned data augmentation, Lam et al. 2021, here with one
speaker per utterance). Pieces are cut by ``recipes/an4/segment.py`` or ``asr segment``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from asr.data.manifest import Utterance

FADE_S = 0.005


class Splicer:
    """Chooses pieces for an utterance and joins their sound.

    Pieces go to utterances of their own speaker, so that pieces of held-out speakers do no harm; those without a
    speaker go to utterances without one.
    """

    def __init__(self, pieces: Sequence[Utterance]) -> None:
        self._pieces: dict[str, list[Utterance]] = defaultdict(list)
        for piece in sorted(pieces, key=lambda piece: piece.duration_s):
            self._pieces[piece.speaker].append(piece)
        self._durations = {who: np.array([p.duration_s for p in some]) for who, some in self._pieces.items()}

    def choose(self, utterance: Utterance, rng: np.random.Generator) -> list[Utterance]:
        """Pieces at random, until no more fits into the utterance's duration; none where not even one does."""
        who = utterance.speaker
        chosen: list[Utterance] = []
        left_s = utterance.duration_s
        while who in self._pieces:
            fitting = int(np.searchsorted(self._durations[who], left_s, side="right"))
            if not fitting:
                break
            chosen.append(self._pieces[who][rng.integers(fitting)])
            left_s -= chosen[-1].duration_s
        return chosen


def join_pieces(sounds: Sequence[np.ndarray], sample_rate_hz: int) -> np.ndarray:
    """``(S,)`` float32 of all ``sounds`` one after the other, each faded in and out, so that no cut clicks."""
    faded = []
    for sound in sounds:
        length = min(round(FADE_S * sample_rate_hz), len(sound) // 2)
        ramp = np.linspace(0, 1, length, dtype=np.float32)
        copy = sound.astype(np.float32)
        copy[:length] *= ramp
        copy[len(copy) - length :] *= ramp[::-1]
        faded.append(copy)
    return np.concatenate(faded)


def joined_text(pieces: Sequence[Utterance]) -> str:
    """What the pieces say."""
    return " ".join(piece.text for piece in pieces if piece.text)
