"""``Hypothesis``, the result of every decoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One token sequence with its times, confidences and score.

    ``tokens``, ``frames``, ``ends`` and ``confidences`` have one item per token. Token ``i`` is emitted in the frames
    ``frames[i]`` to ``ends[i] - 1`` of the best path (repeats included, blanks not), so that
    ``frames[i] < ends[i] <= frames[i + 1]``.

    ``confidences[i]`` is the largest posterior of the token in those frames, 0 to 1. The largest, not the mean: a
    CTC token often begins and fades within a frame that it shares with blank, and that says nothing against the token.

    ``score`` is a natural logarithm: of the best path's probability from :func:`asr.decode.greedy`, of the probability
    of the token sequence, summed over its paths, from the beam search. The two must not be compared with each other.
    With a ``blank_penalty`` each path counts its penalties, so that it is no probability any more.
    With language models it is that plus ``lm_score``, the weighted sum of what they and the bonuses give.
    """

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    score: float = 0.0
    lm_score: float = 0.0
    phrase: str = ""
    """Which of a closed list of phrases it is; its tokens may be those of others as well."""

    def shifted(self, frames: int) -> Hypothesis:
        """The same, so many frames later."""
        return dataclasses.replace(
            self,
            frames=tuple(frame + frames for frame in self.frames),
            ends=tuple(end + frames for end in self.ends),
        )
