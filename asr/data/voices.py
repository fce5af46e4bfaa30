"""Voices for synthetic speech: Kokoro's, and mixtures of them that belong to nobody.

A voice is a table of style vectors ``(N, 256)``, one for each number of symbols that is spoken. Columns 0 to 127 are
the timbre and the rest the prosody, and they are mixed apart. A mixture is convex (Dirichlet 0.7 over three voices),
optionally pushed away from the mean voice. Recordings of people are never imitated.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr.errors import ModelError

Style: TypeAlias = NDArray[np.float32]
STYLE_WIDTH = 256
TIMBRE = 128
"""Columns of the timbre; those behind them are the prosody."""
DIRICHLET = 0.7
MIXED = 3
PLAIN_SHARE, ENGLISH_SHARE, BRITISH_SHARE, FAR_SHARE = 0.1, 0.4, 0.4, 0.3
"""Of the utterances: voices as they are; mixtures of English voices alone; British pronunciation of mixtures; mixtures
pushed away from the mean."""


@dataclass(frozen=True)
class Voice:
    """One voice of one utterance: its name for a manifest, its style table and its pronunciation."""

    name: str
    table: Style
    british: bool

    def style(self, symbols: int) -> Style:
        """``(1, 256)`` for an utterance of so many symbols."""
        row = min(symbols, len(self.table) - 1)
        return self.table[row : row + 1]


@dataclass(frozen=True)
class Voices:
    """Named style tables ``(V, N, 256)``."""

    names: tuple[str, ...]
    tables: Style

    def named(self, name: str) -> Voice:
        """One voice without mixing. Raises ``ModelError`` that lists the names."""
        if name not in self.names:
            raise ModelError(f"{name}: no such voice; there are {', '.join(self.names)}")
        return Voice(name, self.tables[self.names.index(name)], name.startswith("b"))

    def drawn(self, rng: np.random.Generator, number: int, spread: float = 1.25) -> Voice:
        """A random voice: for one utterance in ten a single English voice, for the others a mixture.

        ``number`` names a mixture. ``spread``, from 1, is the largest factor on its distance from the mean voice.
        """
        english = [i for i, name in enumerate(self.names) if name[:1] in ("a", "b")] or list(range(len(self.names)))
        if rng.random() < PLAIN_SHARE:
            return self.named(self.names[int(rng.choice(english))])
        pool = english if rng.random() < ENGLISH_SHARE else list(range(len(self.names)))
        far = rng.random() < FAR_SHARE
        factor = float(rng.uniform(1.0, spread)) if far else 1.0
        table = np.empty_like(self.tables[0])
        for columns in (slice(0, TIMBRE), slice(TIMBRE, STYLE_WIDTH)):
            picked = rng.choice(pool, min(MIXED, len(pool)), replace=False)
            weights = rng.dirichlet(np.full(len(picked), DIRICHLET))
            mixed = np.tensordot(weights, self.tables[picked][:, :, columns], 1)
            mean = self.tables[pool][:, :, columns].mean(0)
            table[:, columns] = mean + factor * (mixed - mean)
        return Voice(f"{'far' if far else 'mix'}{number}", table, bool(rng.random() < BRITISH_SHARE))


def load_voices(place: str | Path) -> Voices:
    """Voices of a folder of ``NAME.bin`` files (npm package kokoro-js), or of one file (``voices-v1.0.bin``, npz).

    Raises ``ModelError`` naming the file that is missing or no table of voices.
    """
    path = Path(place)
    try:
        if os.path.isdir(path):
            found = {file.stem: np.fromfile(file, np.float32) for file in sorted(path.glob("*.bin"))}
        else:
            with np.load(path, allow_pickle=False) as archive:
                found = {name: np.asarray(archive[name], np.float32) for name in sorted(archive.files)}
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file or folder; {HOW_TO_GET_VOICES}") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not a file of voices: {error}; {HOW_TO_GET_VOICES}") from error
    if not found:
        raise ModelError(f"{path}: expected NAME.bin files, found none; {HOW_TO_GET_VOICES}")
    return Voices(tuple(found), _stacked(path, found))


def _stacked(path: Path, found: dict[str, NDArray[np.float32]]) -> Style:
    tables: list[Style] = []
    for name, values in found.items():
        if not values.size or values.size % STYLE_WIDTH or not np.isfinite(values).all():
            raise ModelError(
                f"{path}: voice {name}: expected finite numbers in rows of {STYLE_WIDTH}, got {values.shape}"
            )
        tables.append(values.reshape(-1, STYLE_WIDTH))
    rows = min(map(len, tables))
    return np.stack([table[:rows] for table in tables])


HOW_TO_GET_VOICES = (
    "get them with `npm pack kokoro-js@1.2.1` and unpack it (--voices package/voices), or take voices-v1.0.bin of "
    "kokoro-onnx"
)


def check_span(bounds: Sequence[float], least: float, most: float, what: str) -> tuple[float, float]:
    """Two numbers from smaller to larger within limits. Raises ``ModelError`` naming ``what``."""
    low, high = bounds
    if not least <= low <= high <= most:
        raise ModelError(f"{what}: expected numbers from {least:g} to {most:g}, smaller first, got {low:g} {high:g}")
    return low, high
