"""The sections of a language model's configuration, with their defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field

from asr.config.sections import OptimConfig, TextConfig, TrainConfig
from asr.errors import ConfigError

LM_CELLS = ("rnn", "rnn_relu", "gru", "lstm")


@dataclass(frozen=True)
class NetworkConfig:
    """The network: embedding, recurrent layers, output tied to the embedding."""

    cell: str = "lstm"
    layers: int = 1
    hidden: int = 256
    embedding: int = 128
    dropout: float = 0.3
    """Of embeddings and of the outputs of the layers."""

    def __post_init__(self) -> None:
        if self.cell not in LM_CELLS:
            raise ConfigError(f"model.cell: expected one of {LM_CELLS}, got {self.cell!r}")
        for name in ("layers", "hidden", "embedding"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: expected > 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout: expected 0 <= dropout < 1, got {self.dropout}")


@dataclass(frozen=True)
class TextDataConfig:
    """Texts and batching. A text is a file with a sentence a line, or a manifest (``.jsonl``)."""

    train: str = ""
    valid: str = ""
    tokens: str = ""
    """``tokens.txt`` of the acoustic model that the language model is for; empty takes the training text's characters,
    which are the same when both learn from the same transcripts."""
    batch: int = 32
    """Sentences, or streams of text, side by side."""
    bptt: int = 0
    """Tokens that gradients reach back, the state being carried on (truncated backpropagation through time): for
    running text. 0: each sentence by itself, from an empty state, as utterances are decoded."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"data.batch: expected > 0, got {self.batch}")
        if self.bptt < 0:
            raise ConfigError(f"data.bptt: expected >= 0, got {self.bptt}")


@dataclass(frozen=True)
class LanguageConfig:
    """Everything that determines a language model and its training; saved, resolved, in its directory."""

    text: TextConfig = field(default_factory=TextConfig)
    model: NetworkConfig = field(default_factory=NetworkConfig)
    data: TextDataConfig = field(default_factory=TextDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
