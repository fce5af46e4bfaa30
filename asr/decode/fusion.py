"""Shallow fusion of token language models into the beam search (Gulcehre et al. 2015; Graves & Jaitly 2014).

A :class:`LanguageModel` sees all new prefixes of all utterances in one call and never a prefix twice while any search
still holds its row. The search treats its state as opaque: it only selects and joins rows.

The kernel is imported at first use, so that the protocol alone does not import numba.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from asr.decode.posteriors import finite_number
from asr.errors import DecodeError
from asr.text.tokenizer import token_ids

if TYPE_CHECKING:
    from asr.decode import kernel

Pending = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows to fill, rows of the prefixes they continue (-1: the start), the tokens they continue them by."""


@runtime_checkable
class LanguageModel(Protocol):
    """A model of token sequences that is advanced in batches. ``n`` is a number of prefixes; logarithms are natural.

    Token 0, which no text contains, begins each sequence: ``advance(start(n), zeros)`` gives the first predictions.
    """

    @property
    def vocab_size(self) -> int:
        """``V``, token 0 included."""

    def start(self, n: int) -> Any:
        """State of ``n`` sequences before their first token."""

    def advance(self, state: Any, tokens: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], Any]:
        """Append ``tokens (n,)``: log-probabilities ``(n, V)`` of what follows, and the new state."""

    def select(self, state: Any, indices: npt.NDArray[np.int64]) -> Any:
        """State of the sequences at ``indices``, which may repeat."""

    def join(self, states: Sequence[Any]) -> Any:
        """State of the sequences of all ``states``, in order."""

    def finish(self, state: Any) -> npt.NDArray[Any]:
        """Log-probability ``(n,)`` that each sequence ends here."""


class Rows:
    """Language model scores of the prefixes of one search: a row of ``V`` values for each (see the kernel).

    ``state`` is the language model's state; ``places`` is the position of each row's prefix in it. ``columns`` is
    ``V``, or 0 until the first frames show it (``resize``).
    """

    def __init__(self, count: int, width: int, columns: int = 0) -> None:
        from asr.decode import kernel

        self.values = np.empty((count, columns))
        self.limits = np.empty(count)
        self.owners = np.full(count, kernel.NONE, np.int64)
        self.pending = np.empty(width, np.int64)
        self.places = np.zeros(count, np.int64)
        self.state: Any = None
        self.states = 0
        self.before: Any = None
        """State that the empty prefix continues; None: that of the language model's start."""

    def resize(self, columns: int, words: kernel.Words) -> None:
        """Make room for ``columns`` tokens. Raises ``DecodeError`` when ``words`` were made for another number."""

        from asr.decode import kernel

        made_for = int(words.ids[kernel.COLUMNS])
        if made_for not in (0, columns):
            raise DecodeError(
                f"expected a matrix of {made_for} columns, as the lexicon and hot words have, got {columns} "
                f"columns; make them for the tokens of this model"
            )
        if self.values.shape[1] != columns:
            self.values = np.empty((len(self.owners), columns))


@dataclass(frozen=True)
class Fusion:
    """A language model in the search with its ``weight``, at least 0; a model with weight 0 is not called.

    Raises ``DecodeError`` for a weight that is negative or not finite.
    """

    model: LanguageModel
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= finite_number("language model weight", self.weight) < math.inf:
            raise DecodeError(f"expected a language model weight of at least 0, got {self.weight}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Fusion:
        """Branches of a search share the model."""
        return self

    def fill(self, work: Sequence[tuple[Rows, Pending]]) -> None:
        """Advance the model for the pending prefixes of several searches in one call and add to their rows."""

        from asr.decode import kernel

        work = [item for item in work if item[1][0].size]
        if not work:
            return
        model = self.model
        parents = [self._parents(rows, before) for rows, (_, before, _) in work]
        tokens = np.concatenate([token for _, (_, _, token) in work])
        log_probs, state = model.advance(model.join(parents), tokens)
        ends = model.finish(state)
        columns = work[0][0].values.shape[1]
        if log_probs.shape != (tokens.size, columns):
            raise DecodeError(
                f"the language model knows {log_probs.shape[-1]} tokens, the matrix has {columns} columns; "
                "it must be trained with the acoustic model's tokens"
            )
        first = 0
        for rows, (targets, _, _) in work:
            own = np.arange(first, first + targets.size)
            first += targets.size
            rows.values[targets, kernel.BLANK_ID] += self.weight * ends[own]
            rows.values[targets, kernel.BLANK_ID + 1 :] += self.weight * log_probs[own, kernel.BLANK_ID + 1 :]
            best = rows.values[targets, kernel.BLANK_ID + 1 :].max(axis=1)
            rows.limits[targets] = np.exp(np.clip(best, kernel.SMALLEST, -kernel.SMALLEST))
            self._keep(rows, targets, model.select(state, own))

    def _parents(self, rows: Rows, before: npt.NDArray[np.int64]) -> Any:
        """States of the prefixes that are continued."""
        if before[0] < 0:  # the empty prefix, which is pending alone
            return self.model.start(1) if rows.before is None else rows.before
        return self.model.select(rows.state, rows.places[before])

    def _keep(self, rows: Rows, targets: npt.NDArray[np.int64], state: Any) -> None:
        """Add the new states; those whose rows are no longer in use are dropped now and then."""
        if rows.states > 2 * rows.owners.size:
            from asr.decode import kernel

            live = np.flatnonzero(rows.owners != kernel.NONE)
            live = live[~np.isin(live, targets)]
            rows.state = self.model.select(rows.state, rows.places[live])
            rows.places[live] = np.arange(live.size)
            rows.states = live.size
        rows.state = state if not rows.states else self.model.join([rows.state, state])
        rows.places[targets] = rows.states + np.arange(targets.size)
        rows.states += targets.size


def score_sequences(model: LanguageModel, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """Log-probability of each whole sequence, ends included; all are advanced together, equal beginnings once.

    Raises ``DecodeError`` for what are no token ids of the model.
    """

    from asr.decode import kernel

    sequences = [token_ids(ids, model.vocab_size, least=kernel.BLANK_ID + 1, error=DecodeError) for ids in sequences]
    totals = np.zeros(len(sequences))
    if not sequences:
        return totals
    lengths = np.array([len(sequence) for sequence in sequences])
    padded = np.zeros((len(sequences), lengths.max() + 1), np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, 1 : len(sequence) + 1] = sequence
    # Hypotheses of one utterance begin alike: each distinct beginning is one row of the state.
    active, rows = np.arange(len(sequences)), np.zeros(len(sequences), np.int64)
    state, tokens = model.start(1), np.zeros(1, np.int64)
    for at in range(padded.shape[1]):
        log_probs, state = model.advance(state, tokens)
        done = lengths[active] == at
        totals[active[done]] += np.asarray(model.finish(state))[rows[done]]
        active, rows = active[~done], rows[~done]
        if not active.size:
            break
        following = padded[active, at + 1]
        totals[active] += np.asarray(log_probs)[rows, following]
        distinct, rows = np.unique(rows * model.vocab_size + following, return_inverse=True)
        state, tokens = model.select(state, distinct // model.vocab_size), distinct % model.vocab_size
    return totals
