"""The sections of a language model's configuration, with their defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from asr.config.ranges import Count, OneOf, Positive, ShareBelowOne, check_ranges
from asr.config.sections import TextConfig
from asr.config.training_sections import OptimConfig, TrainConfig, check_patience

LM_CELLS = ("rnn", "rnn_relu", "gru", "lstm")


@dataclass(frozen=True)
class NetworkConfig:
    """The network: embedding, recurrent layers, output tied to the embedding."""

    cell: Annotated[str, OneOf(LM_CELLS)] = "lstm"
    """Kind of recurrent layer."""
    layers: Positive = 1
    """Recurrent layers."""
    hidden: Positive = 256
    """Units of one layer."""
    embedding: Positive = 128
    """Size of a token's embedding."""
    dropout: ShareBelowOne = 0.3
    """Dropout of embeddings and of the outputs of the layers."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")


@dataclass(frozen=True)
class TextDataConfig:
    """Texts and batching. A text is a file with a sentence a line, or a manifest (``.jsonl``)."""

    train: str = ""
    """Text to train on."""
    valid: str = ""
    """Held-out text that chooses the weights to keep; empty keeps the last."""
    tokens: str = ""
    """``tokens.txt`` of the acoustic model that the language model is for; empty takes the training text's characters,
    which are the same when both learn from the same transcripts."""
    batch: Positive = 32
    """Sentences, or streams of text, side by side."""
    bptt: Count = 0
    """Tokens that gradients reach back, the state being carried on (truncated backpropagation through time): for
    running text. 0: each sentence by itself, from an empty state, as utterances are decoded."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")

    @property
    def manifests(self) -> tuple[str, ...]:
        """The texts to train on."""
        return (self.train,) if self.train else ()


@dataclass(frozen=True)
class LanguageConfig:
    """The whole configuration of a language model and its training; saved in its directory with all defaults."""

    text: TextConfig = field(default_factory=TextConfig)
    model: NetworkConfig = field(default_factory=NetworkConfig)
    data: TextDataConfig = field(default_factory=TextDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_patience(self.train, self.data.valid)
