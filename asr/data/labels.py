"""Token ids of many utterances in one array, which a million labels need to fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class LabelArray(Sequence[list[int]]):
    """Labels as a sequence of lists of token ids, kept as one int32 array.

    ``needed_frames`` ``(n,)`` int64: the fewest frames in which CTC can emit each (see
    ``asr.text.tokenizer.min_frames``).
    """

    def __init__(self, labels: Iterable[Sequence[int] | np.ndarray]) -> None:
        arrays = [np.asarray(label, dtype=np.int32) for label in labels]
        self._tokens = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        self._ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        self.needed_frames = self._count_frames()

    def _count_frames(self) -> np.ndarray:
        sizes: np.ndarray = np.diff(self._ends, prepend=0)
        if not len(self._tokens):
            return sizes
        repeats = np.concatenate([[0], np.cumsum(self._tokens[1:] == self._tokens[:-1])])  # up to each token
        filled = sizes > 0
        last = self._ends[filled] - 1
        sizes[filled] += repeats[last] - repeats[last + 1 - sizes[filled]]
        return sizes

    def keep(self, rows: Sequence[int]) -> LabelArray:
        """The labels of these rows."""
        return LabelArray([self._array(row) for row in rows])

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> list[int]: ...
    @overload
    def __getitem__(self, row: slice) -> list[list[int]]: ...
    def __getitem__(self, row: int | slice) -> list[int] | list[list[int]]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        found: list[int] = self._array(range(len(self))[row]).tolist()
        return found

    def _array(self, row: int) -> np.ndarray:
        return self._tokens[self._ends[row - 1] if row else 0 : self._ends[row]]
