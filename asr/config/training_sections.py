"""The sections that say how a model is trained: distortions, data, optimiser, the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

from asr.cloud.addresses import is_url, without_secrets
from asr.config.ranges import AutoOr, Count, OneOf, Positive, Range, Share, ShareBelowOne, check_ranges, expect

CPU_BATCH_S, GPU_BATCH_S = 45.0, 800.0
"""Default seconds of a batch; a model of 24 M parameters learnt with 800 on a GPU at the default learning rate."""


class _Unset(int):
    """A default. Identity tells it from the same number in a file."""


DEFAULT_EPOCHS = _Unset(60)
_DecayTime = Annotated[float, Range(0.01, 5)]
_RoomRatio = Annotated[float, Range(-40, 40)]
_NoiseRatio = Annotated[float, Range(-40, 100)]
_Voices = Annotated[int, Range(1, 50)]


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
    """Share of utterances that ``splice`` replaces."""
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
    babble_prob: Share = 0.0
    """Babble: several other people speak in the background, if the batch has other speakers."""
    babble_voices: tuple[_Voices, _Voices] = (2, 6)
    """Smallest and largest number of these people."""
    babble_snr_db: tuple[_NoiseRatio, _NoiseRatio] = (5.0, 30.0)
    """Energy of the speech over that of the babble."""
    babble_dir: str = ""
    """Folder of recordings of speech to use instead of other speakers' utterances of the same batch."""
    telephone_prob: Share = 0.0
    """Band 300 to 3400 Hz, or a round trip through 8 kHz sampling, by equal chance."""
    codec_prob: Share = 0.0
    """Round trip through 8-bit mu-law (G.711)."""
    opus_prob: Share = 0.0
    """Round trip through Opus at 8 to 32 kbit/s, as calls and voice messages are sent."""
    gsm_prob: Share = 0.0
    """Round trip through the codec of GSM telephones (06.10 full rate), which samples at 8 kHz."""
    packet_loss_prob: Share = 0.0
    """Loss of packets of 20 ms. Silence replaces them, or the packet before, which fades out."""
    packet_loss_rate: tuple[Share, Share] = (0.01, 0.1)
    """Share of lost packets."""
    clip_prob: Share = 0.0
    """Clipping of the loudest 0.1 to 5 % of the samples."""
    gain_db: Annotated[float, Range(0, 60)] = 0.0
    """Largest change of level, up or down."""
    warp: Annotated[float, Range(0, 0.4)] = 0.0
    """Largest deviation from 1 of the factor on the frequency axis (vocal tract length, Jaitly & Hinton 2013)."""
    tilt_db: Annotated[float, Range(0, 40)] = 0.0
    """Largest tilt and largest bow of the spectrum over the mel bins, as of another microphone."""
    time_masks: Count = 2
    """Number of time masks."""
    time_mask_frames: Count = 20
    """Largest width of one time mask (SpecAugment, Park et al. 2019)."""
    time_mask_ratio: Share = 0.2
    """Largest share of an utterance that one time mask may cover."""
    freq_masks: Count = 2
    """Number of frequency masks."""
    freq_mask_bins: Count = 20
    """Largest width of one frequency mask, in mel bins."""

    def __post_init__(self) -> None:
        check_ranges(self, "augment")
        expect(bool(self.speeds), "augment.speeds: expected at least one factor ([1.0] switches it off)")
        pairs = ("reverb_rt60_s", "reverb_ratio_db", "noise_snr_db", "babble_voices", "babble_snr_db")
        for name in (*pairs, "packet_loss_rate"):
            low, high = getattr(self, name)
            expect(low <= high, f"augment.{name}: expected [low, high] with low <= high, got [{low}, {high}]")


@dataclass(frozen=True)
class SourceConfig:
    """One of several sources of training data (see ``asr.data.source_shares``)."""

    path: str = ""
    """Manifest or shards of the source; either all sources are shards or none is."""
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
    """Manifest to train on, or shards (``asr shard``): ``shards/{00000..00999}.tar``, ``shards/*.tar`` or a folder."""
    more: tuple[str, ...] = ()
    """Further manifests, or shards, to train on, such as other corpora."""
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
    """Batches prepared ahead; three for each worker process if that is more and there is enough memory."""
    workers: Annotated[int | str, AutoOr(Range(0))] = "auto"
    """Processes that prepare batches, 0 for one thread of the training process. Batches do not depend on the number.
    ``auto``: on a GPU a process for each CPU but one, at most 16; on a CPU a thread, or one process for more
    than 10 hours of speech and 4 CPUs."""
    cache_s: Annotated[float, Range(0)] = 7200.0
    """Seconds of decoded audio kept in memory, one cache for all workers; the rest is read again each epoch."""
    rehearsal_s: Annotated[float, Range(0, math.inf, below=True)] = 300.0
    """Seconds of training speech, drawn at random, that the model directory keeps as features and texts: ``asr learn``
    uses them to detect forgetting. 0 keeps none. They reveal voices and texts."""
    shuffle_s: Annotated[float, Range(0, above=True)] = 36_000.0
    """Seconds of speech in the shuffle buffer of shards, for each process of the training. The system's page cache
    holds about twice as much. Manifests are shuffled as a whole."""
    shortest_first: bool = False
    """Take the first epoch's batches by length: the short ones teach the alignment (Amodei et al. 2016). Of shards,
    those of each ``shuffle_s``."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        for name, source in self.sources.items():
            check_ranges(source, f"data.sources.{name}")
            where = f"data.sources.{name}.path"
            expect(bool(source.path), f"{where}: expected the path of a manifest or of shards, got nothing")
        expect(
            not self.sources or not (self.train or self.more),
            "data.sources: expected either data.sources or data.train (with data.more), got both; remove one "
            "(data.train= and data.more=[] empty them on the command line)",
        )
        expect(
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
    """Steps of the warm-up, instead of ``warmup_ratio``. Use it if you may make a run longer."""
    decay_ratio: Share = 0.2
    """Share of the training that ``wsd`` decays in; 0 never decays (``asr train --finish`` does it later)."""
    final_ratio: Share = 0.01
    """Learning rate at the last step over the peak."""
    weight_decay: Annotated[float, Range(0, math.inf, below=True)] = 0.01
    """Weight decay of AdamW."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    """Decay per step of AdamW's averages of the gradient and of its square."""
    clip_norm: Annotated[float, Range(0, above=True)] = 1.0
    """Largest global gradient norm."""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Learning rate of each layer divided by that of the layer above it. Below 1, the lower layers of a trained model
    change least (Howard & Ruder 2018). 1: the same rate for all layers."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of the loss that draws the posteriors of each frame to the uniform distribution (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")
        warmup = 0.0 if self.warmup_steps else self.warmup_ratio
        expect(
            self.schedule != "wsd" or warmup + self.decay_ratio <= 1,
            "optim.decay_ratio: expected at most 1 together with optim.warmup_ratio, got "
            f"{self.decay_ratio:g} and {warmup:g}",
        )


@dataclass(frozen=True)
class TrainConfig:
    """The run: its length, device, output and checkpoints."""

    output: str = "exp/model"
    """Run directory, which becomes the model directory."""
    init: str = ""
    """Model directory, or bundled model, to take the first weights from; empty draws them at random."""
    freeze: Count = 0
    """Number of parts, from the input on, that keep the weights of ``init``: 1 the convolutions, 2 the first recurrent
    layer too, …"""
    teacher: str = ""
    """Model directory, or bundled model. The model learns its posteriors and the labels (Hinton et al. 2015)."""
    teacher_share: Share = 0.5
    """Share of the loss for the posteriors of the teacher."""
    teacher_delay_s: Annotated[float, Range(0, 10)] = 0.15
    """Delay of the model's posteriors against the teacher's. A unidirectional model needs it, since it sees no later
    frames."""
    consistency: Annotated[float, Range(0, 10)] = 0.0
    """Weight of the disagreement between the posteriors of two differently masked views of each utterance (CR-CTC, Yao
    et al. 2024); 0 trains on one view, at half the cost of a step."""
    epochs: Count = DEFAULT_EPOCHS
    """Passes over the training data; 0 with ``seconds``."""
    seconds: Annotated[float, Range(0, math.inf, below=True)] = 0.0
    """Train for this many seconds instead of ``epochs``: warm-up and decay follow the clock; 0 trains by epochs."""
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
    """Compile the network with ``torch.compile``: slow to start, needs a C++ compiler, may be faster on a GPU."""
    ema: ShareBelowOne = 0.0
    """Decay per step of the weight average that is validated and saved; 0 switches it off (Polyak & Juditsky 1992)."""
    average_epochs: Count = 0
    """Validate and save the mean of the weights at the ends of this many last epochs (Izmailov et al. 2018)."""
    tensorboard: bool = False
    """Log to TensorBoard's event files as well (extra ``track``)."""
    validate_every_epochs: Positive = 1
    """Epochs between validations, without ``validate_every_s`` and ``seconds``."""
    validate_every_s: Annotated[float, Range(0, math.inf, below=True)] = 0.0
    """Seconds between validations, instead of epochs; 0 with ``seconds``: a twentieth of them, or more if a
    validation takes long."""
    patience: Count = 0
    """End the training after this many validations in a row without an improvement; 0 trains to the end."""
    checkpoint_every_s: Annotated[float, Range(0, above=True)] = 300.0
    """Seconds between checkpoints. There is one at the end of the run and at a request to stop as well."""
    max_bad_steps: Positive = 10
    """Steps in a row with a non-finite loss or gradient, or without readable audio, before training stops."""

    def __post_init__(self) -> None:
        check_ranges(self, "train")
        expect(
            not is_url(self.output),
            f"train.output: expected a folder of this machine, got the URL {without_secrets(self.output)}",
        )
        if self.seconds:
            expect(
                self.epochs is DEFAULT_EPOCHS or self.epochs == 0,
                f"train.seconds: expected either train.seconds or train.epochs, got {self.seconds:g} and "
                f"{self.epochs}; remove one (train.epochs=0 trains by the clock, train.seconds=0 by epochs)",
            )
            expect(self.average_epochs == 0, "train.average_epochs: expected 0 with train.seconds; use train.ema")
            object.__setattr__(self, "epochs", 0)
        else:
            expect(self.epochs > 0, f"train.epochs: expected > 0, or train.seconds instead, got {self.epochs}")
            object.__setattr__(self, "epochs", int(self.epochs))
        expect(
            self.freeze == 0 or bool(self.init),
            f"train.freeze: expected 0, or parts to keep of a trained model (train.init), got {self.freeze}",
        )
        expect(
            self.average_epochs <= self.epochs or self.epochs == 0,
            f"train.average_epochs: expected 0 to train.epochs ({self.epochs}), got {self.average_epochs}",
        )
        expect(
            not (self.ema and self.average_epochs),
            "train.average_epochs: expected 0 beside train.ema: one average of the weights is kept",
        )
        expect(
            not (self.patience and self.average_epochs),
            "train.average_epochs: expected 0 beside train.patience: a run that ends early has no last epochs; use "
            "train.ema",
        )


def check_patience(train: TrainConfig, valid: str) -> None:
    """Raise ``ConfigError`` for an early end of a training that measures nothing."""
    expect(
        not train.patience or bool(valid),
        f"train.patience: expected 0 without held-out data (data.valid), got {train.patience}; name a manifest of "
        "speakers who are not trained on",
    )
