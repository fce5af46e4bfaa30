"""The tagger of written text in numpy: it reads words, and gives the case and mark of each.

``asr.lm.tagger`` is the same network in torch, for training. ``asr.recognize.readable`` writes texts with the tags.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from asr.errors import ModelError
from asr.lm.tagger_description import (
    END,
    UNKNOWN,
    TaggerDescription,
    read_tagger_description,
    suffix_bucket,
    tagger_shapes,
)
from asr.models.bundled import READABLE
from asr.models.tensors import load_arrays

Floats = npt.NDArray[np.float32]
TaggerState: TypeAlias = list[tuple[Floats, Floats]]
"""Of each LSTM layer: its output and its cell, ``(H,)`` each."""


def missing_tagger(model: Path) -> str:
    """A message for a model without a tagger: what to do."""
    return (
        f"{model}: expected a folder {READABLE}/ for written text, got none; make one with "
        f"asr train-readable TEXT {model / READABLE}, or copy that of another model of the language"
    )


@dataclass(frozen=True)
class ReadableModel:
    """A loaded tagger; its weights are float32 arrays, and nothing in it changes while it is used."""

    description: TaggerDescription
    ids: dict[str, int]
    words: Floats
    suffixes: Floats
    layers: tuple[tuple[Floats, Floats, Floats], ...]
    """Of each LSTM layer: input weights ``(4 H, I)``, recurrent weights ``(4 H, H)``, bias ``(4 H,)``."""
    output: tuple[Floats, Floats]

    def run(
        self, texts: Sequence[Sequence[str | None]], states: Sequence[TaggerState]
    ) -> tuple[list[Floats], list[TaggerState]]:
        """Read more words of several texts at once.

        Args:
            texts: of one or more texts the next words in small letters; None stands for the text's end.
            states: of each text; see ``start``.

        Returns:
            Of each text: logits ``(words, 9)``, those of cases, then those of marks; and the state behind its words.
        """
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        lengths = np.array([len(texts[row]) for row in order])
        # Step t has the t-th word of each text that is long enough; longer texts come first, so these are the first.
        active = [int((lengths > step).sum()) for step in range(lengths.max())]
        ends = np.cumsum([0, *active])
        x = self._embedded([texts[row][step] for step, count in enumerate(active) for row in order[:count]])
        following = []
        for layer, (inputs, recurrent, bias) in enumerate(self.layers):
            h, c = (np.stack([states[row][layer][part] for row in order]) for part in (0, 1))
            x = _run_layer(x @ inputs.T + bias, recurrent.T, h, c, ends)
            following.append((h, c))
        logits = x @ self.output[0].T + self.output[1]
        found: list[tuple[Floats, TaggerState]] = [(logits[:0], [])] * len(texts)
        for place, row in enumerate(order):
            state = [(h[place], c[place]) for h, c in following]
            found[row] = logits[ends[: len(texts[row])] + place], state
        return [rows for rows, _ in found], [state for _, state in found]

    def _embedded(self, words: Sequence[str | None]) -> Floats:
        """What the first layer gets of each word, ``(words, I)``."""
        ids = [END if word is None else self.ids.get(word, UNKNOWN) for word in words]
        suffixes = [0 if word is None else suffix_bucket(word) for word in words]
        return np.concatenate([self.words[ids], self.suffixes[suffixes]], axis=1)

    @property
    def text_end(self) -> Sequence[None]:
        """What to read behind the last word, so that all words are tagged."""
        return [None] * self.description.lookahead

    def start(self) -> TaggerState:
        """The state before the first word."""
        return [(np.zeros(r.shape[1], np.float32), np.zeros(r.shape[1], np.float32)) for _, r, _ in self.layers]


def _run_layer(gates: Floats, recurrent: Floats, h: Floats, c: Floats, ends: npt.NDArray[np.int64]) -> Floats:
    """One LSTM layer over texts of different lengths.

    Args:
        gates: ``(words, 4 H)``, what the inputs give, all texts' first words first; step ``t`` is ``ends[t]`` to
            ``ends[t + 1] - 1``. Changed.
        recurrent: ``(H, 4 H)``.
        h, c: ``(B, H)``, the states, which become those behind the last word of each text.
        ends: ``(steps + 1,)``.

    Returns the output ``(words, H)``.
    """
    size = h.shape[1]
    output = np.empty((len(gates), size), np.float32)
    for start, stop in itertools.pairwise(ends.tolist()):
        rows = stop - start
        now = gates[start:stop]
        now += h[:rows] @ recurrent
        take, keep, give = (_sigmoid(now[:, at * size : (at + 1) * size]) for at in (0, 1, 3))
        c[:rows] = keep * c[:rows] + take * np.tanh(now[:, 2 * size : 3 * size])
        h[:rows] = output[start:stop] = give * np.tanh(c[:rows])
    return output


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 + 0.5 * np.tanh(0.5 * x)  # no overflow, unlike 1 / (1 + exp(-x))
    return result


def load_readable(folder: Path) -> ReadableModel:
    """Read a tagger's folder. Raises ``ModelError`` naming the file that is missing, damaged or does not fit."""
    description = read_tagger_description(folder)
    weights = folder / "model.safetensors"
    arrays = load_arrays(weights, tagger_shapes(description))
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ModelError(f"{weights}: {name} holds values that are not finite; get the file again")
    layers = []
    for at in range(description.network.layers):
        part = {key: arrays[f"cells.{at}.{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        layers.append((part["weight_ih"], part["weight_hh"], part["bias_ih"] + part["bias_hh"]))
    return ReadableModel(
        description,
        description.ids(),
        arrays["words.weight"],
        arrays["suffixes.weight"],
        tuple(layers),
        (arrays["output.weight"], arrays["output.bias"]),
    )
