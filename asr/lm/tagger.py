"""The recurrent network that gives each spoken word its case and the mark behind it, for training.

``asr.recognize.readable`` runs it in numpy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.config.language import NetworkConfig
from asr.lm.tagger_description import END, SUFFIX_BUCKETS, SUFFIX_EMBEDDING
from asr.models.cells import make_cell
from asr.text.written_tags import TAG_CASES, TAG_MARKS


class Tagger(nn.Module):
    """``words (B, T)`` and ``suffixes (B, T)`` int64 to logits ``(B, T, 9)`` of cases, then marks, ``lookahead`` words
    late."""

    def __init__(self, config: NetworkConfig, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words + END + 1, config.embedding)
        self.suffixes = nn.Embedding(SUFFIX_BUCKETS, SUFFIX_EMBEDDING)
        sizes = [config.embedding + SUFFIX_EMBEDDING] + [config.hidden] * config.layers
        self.cells = nn.ModuleList(make_cell("lstm", sizes[i], sizes[i + 1]) for i in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden, len(TAG_CASES) + len(TAG_MARKS))

    def forward(self, words: Tensor, suffixes: Tensor) -> Tensor:
        x = self.dropout(torch.cat([self.words(words), self.suffixes(suffixes)], dim=-1))
        for cell in self.cells:
            x, _ = cell(x, None)
            x = self.dropout(x)
        logits: Tensor = self.output(x)
        return logits
