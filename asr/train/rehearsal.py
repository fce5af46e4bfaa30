"""Sentences that travel with a model directory as features and tokens, against which forgetting is measured.

``rehearsal.safetensors`` holds the features of all sentences behind each other ``(N, D)`` float16, their frames
``(U,)``, their tokens behind each other, and how many tokens each has. The texts can be read from it, and a voice be
made out: ``asr train … data.rehearsal_s=0`` and ``asr learn --no-store`` write none. Exports and copies by
``asr quantize`` and ``asr average`` have none.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asr.errors import ModelError
from asr.models.tensors import load_tensors, save_tensors

REHEARSAL_FILE = "rehearsal.safetensors"
MOST_SENTENCES = 200


@dataclass(frozen=True)
class StoredSentence:
    """Features ``(T, D)`` float32, normalised, and the token ids of the text."""

    features: Tensor
    tokens: tuple[int, ...]


def save_rehearsal(folder: Path, sentences: Sequence[StoredSentence]) -> None:
    """Write the last ``MOST_SENTENCES`` of the sentences into a model directory. Raises ``ModelError``."""
    kept = sentences[-MOST_SENTENCES:]
    tensors = {
        "features": torch.cat([one.features for one in kept]).half(),
        "frames": torch.tensor([len(one.features) for one in kept]),
        "tokens": torch.tensor([token for one in kept for token in one.tokens], dtype=torch.long),
        "counts": torch.tensor([len(one.tokens) for one in kept]),
    }
    save_tensors(folder / REHEARSAL_FILE, tensors)


def save_sample(folder: Path, sentences: Iterable[StoredSentence]) -> int:
    """Write at most ``MOST_SENTENCES`` training sentences into a model directory; without any there is no file, also
    where an earlier start of the training left one. Returns how many were written. Raises ``ModelError``."""
    remove_rehearsal(folder)
    kept = [one for one in itertools.islice(sentences, MOST_SENTENCES) if one.tokens and len(one.features)]
    if kept:
        save_rehearsal(folder, kept)
    return len(kept)


def remove_rehearsal(folder: Path) -> None:
    """Remove the sentences of a model directory, if it has any. Raises ``ModelError``."""
    try:
        (folder / REHEARSAL_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{folder / REHEARSAL_FILE}: cannot remove: {error.strerror or error}") from error


def load_rehearsal(folder: Path, bins: int, vocabulary: int) -> list[StoredSentence]:
    """The sentences of a model directory, none without the file.

    ``bins``, ``vocabulary``: of the model. Raises ``ModelError`` for a file that does not fit it.
    """
    path = folder / REHEARSAL_FILE
    if not os.path.isfile(path):
        return []
    tensors, _ = load_tensors(path)
    try:
        features, frames, tokens, counts = (tensors[name] for name in ("features", "frames", "tokens", "counts"))
        fits = (
            features.ndim == 2
            and features.shape[1] == bins
            and bool(features.isfinite().all())
            and len(frames) == len(counts) > 0
            and min(int(frames.min()), int(counts.min())) > 0
            and (int(frames.sum()), int(counts.sum())) == (len(features), len(tokens))
            and 0 < int(tokens.min()) <= int(tokens.max()) < vocabulary
        )
    except (KeyError, RuntimeError, TypeError, IndexError) as error:
        raise ModelError(f"{path}: not the rehearsal of this model: {error!r}") from error
    if not fits:
        raise ModelError(f"{path}: not the rehearsal of this model: sizes that do not fit; remove the file")
    rows = torch.split(features.float(), frames.tolist())
    texts = torch.split(tokens.long(), counts.tolist())
    return [StoredSentence(row, tuple(text.tolist())) for row, text in zip(rows, texts, strict=True)]
