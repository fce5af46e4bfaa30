"""Training an acoustic model with CTC (Graves et al. 2006)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from asr.cloud.addresses import without_secrets
from asr.config.sections import Config, with_batch_s
from asr.data import manifest, manifest_table, source_shares
from asr.data.batch_plan import BatchPlan
from asr.data.batches import Batch, Dataset
from asr.data.crew import choose_workers
from asr.data.feeding import Feeder, Plan
from asr.data.manifest import Utterance
from asr.data.manifest_table import ManifestTable
from asr.data.sample_cache import SampleCache
from asr.data.shard_set import ShardSet, is_shards
from asr.data.shard_shares import ShardMix, shares_of_shards
from asr.data.sharded_batches import ShardedDataset
from asr.decode.greedy_search import greedy
from asr.errors import ConfigError, ModelError, TrainingError
from asr.models import model_directory
from asr.models.acoustic import AcousticModel
from asr.models.description import FeatureStats, load_card
from asr.models.device import pick_device, set_precision
from asr.models.features import LogMel, measure_padded_stats
from asr.models.tensors import load_metadata
from asr.scoring.rules import LITERAL_RULES
from asr.scoring.wer import NOTHING_YET, rank, score
from asr.text import tokenizer_files
from asr.train import distributed, finetune, loop, model_card, rehearsal, shard_training, training_warnings
from asr.train.distributed import World
from asr.train.losses import ctc_loss
from asr.train.objective import Objective
from asr.train.process import make_network
from asr.train.rehearsal import StoredSentence
from asr.train.resume import CHECKPOINT, Progress
from asr.train.schedule import Finish
from asr.train.training_features import TrainingFeatures

# Audio that the feature statistics are measured on at most: more changes them by less than a training step does.
STATS_S = 10 * 3600.0
CHECKED_S = 7200.0
"""Seconds of each set that are checked before the first step: more would only delay it."""
SHARD_STATS_S = 1800.0
"""The same of shards: a training from thousands of hours should begin soon."""


def warn(message: str) -> None:
    """Print a warning above the progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def train_acoustic(config: Config, *, resume: bool = False, finish: Finish | None = None) -> Progress:
    """Train as ``config`` says; the model directory is ``config.train.output``.

    With ``resume``, continue from its checkpoint if there is one. With ``finish``, let the learning rate of that run
    decay and end it. Under ``torchrun``, this process trains together with the others (``asr.train.distributed``).
    Raises ``ConfigError``, ``ManifestError``, ``TextError`` or ``TrainingError``, each naming what is wrong.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)
    folder = Path(config.train.output)
    device = pick_device(config.train.device)
    config = settle_batch_s(config, device)
    with (
        distributed.join_world(device) as world,
        loop.hold(folder, config, world, resume=resume or finish is not None),
        contextlib.closing(AcousticTask(config, world)) as task,
    ):
        if world.first and task.resuming:
            model_directory.save_config(folder, config)
            if not config.data.rehearsal_s:
                rehearsal.remove_rehearsal(folder)
        elif world.first:
            model_directory.save_model_description(folder, config, task.tokenizer, task.stats)
            finetune.inherit_parts(task.source, folder, task.tokenizer)
            kept = rehearsal.save_sample(folder, task.recordings(config.data.rehearsal_s))
            if kept:
                tqdm.write(
                    f"note: {rehearsal.REHEARSAL_FILE} keeps features and texts of {kept} training sentences "
                    "for asr learn; data.rehearsal_s=0 keeps none",
                    file=sys.stderr,
                )
        progress = loop.fit(task, config, folder, world, finish=finish)
        hours = task.train_data.statistics.hours
        if task.valid_data.utterances and progress.best >= NOTHING_YET:
            task.warn(training_warnings.nothing_learnt(progress.best, hours))
        elif task.valid_data.utterances and config.train.init and not progress.kept:
            task.warn(finetune.nothing_gained(config.train.init, progress.best, hours))
        if config.train.init and world.first and (hint := finetune.tuning_hint(config)):
            tqdm.write(f"note: {hint}", file=sys.stderr)
        return progress


def settle_batch_s(config: Config, device: torch.device) -> Config:
    """``config`` with a number for ``data.batch_s: auto``: that of the run that goes on, else the device's."""
    path = Path(config.train.output) / CHECKPOINT
    if config.data.batch_s == "auto" and os.path.exists(path):
        with contextlib.suppress(ModelError, KeyError, TypeError):  # a damaged checkpoint is named later
            before = load_metadata(path)["config"]["data"]["batch_s"]
            return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_s=float(before)))
    return with_batch_s(config, gpu=device.type == "cuda")


class AcousticTask:
    """An acoustic model with its training and validation data (see ``asr.train.task.Task``)."""

    criterion = "wer"
    trained = False
    changes: Sequence[float] = ()

    def __init__(self, config: Config, world: World | None = None) -> None:
        self.world = world or World(device=pick_device(config.train.device))
        self.device = self.world.device
        set_precision(config.train.precision)
        self.config = config = settle_batch_s(config, self.device)
        self.folder = Path(config.train.output)
        self.resuming = os.path.exists(self.folder / CHECKPOINT)
        self._span: Sequence[float] = (0.0, 0.0)
        if not config.data.manifests:
            raise ConfigError("data.train: expected the path of a manifest (or data.sources), got nothing")
        train_set, source_of = self._read_train_set()
        valid_set = manifest.read_manifest(config.data.valid) if config.data.valid else []
        if not valid_set:
            self.warn("data.valid is empty: no speakers are held out, and the last weights will be kept")
        self._warn_all(training_warnings.shared_speakers(train_set, valid_set))
        if isinstance(train_set, ShardSet):
            hours = train_set.seconds / 3600
        elif isinstance(train_set, ManifestTable):
            hours = train_set.statistics.hours
        else:
            hours = sum(utterance.duration_s for utterance in train_set) / 3600
        workers = choose_workers(config.data.workers, hours, gpu=self.device.type == "cuda")
        cache = SampleCache(config.features.sample_rate_hz, config.data.cache_s, shared=workers > 0)
        self.train_data: Dataset | ShardedDataset
        if isinstance(train_set, ShardSet):
            place = {"rank": self.world.rank, "size": self.world.size}
            self.train_data = ShardedDataset(train_set, self.tokenizer, config, warn=warn, cache=cache, **place)
        else:
            self.train_data = Dataset(train_set, self.tokenizer, config, training=True, warn=warn, cache=cache)
        self.valid_data = Dataset(valid_set, self.tokenizer, config, training=False, warn=warn, cache=cache)
        self.feeder = Feeder(
            config, self.train_data, self.valid_data, workers, self.device, self.world.share, self._plan_following
        )
        try:
            self.source = None if self.resuming else finetune.load_initial(config)
            self.trained = self.source is not None and bool(valid_set)
            self.teacher = finetune.load_teacher(config, self.tokenizer)
            self.origin = model_card.new_origin() if self.source is None else str(self.source.card.get("origin", ""))
            card = load_card(self.folder) if self.resuming else self.source.card if self.source else {}
            self.languages = card.get("languages")
            """Those of the model that a fine-tuning begins with; a resumed run finds them in its own card."""
            self.stats = self._prepare()
            self.mixture = self._mix(source_of) if config.data.sources else None
            self._report()
            self.features = TrainingFeatures(config, self.stats, self.device)
            self.model = self._make_model()
        except BaseException:
            self.close()
            raise
        self.rate_factors = finetune.rate_factors(self.model, config)
        self.network: nn.Module = self.model
        self.objective = Objective(config, self.features, self.model, self.teacher)

    def _read_train_set(self) -> tuple[Sequence[Utterance] | ShardSet, dict[str, str]]:
        """The training utterances or shards; with ``data.sources`` the source of each by its id; makes the tokenizer.

        Sources with share 0 belong to the alphabet only: a run may be repeated with other shares and the same tokens.
        """
        config, sources = self.config, self.config.data.sources
        if any(map(is_shards, config.data.manifests)):
            shards = shard_training.read_shards(config, self.world)
            self.tokenizer = shard_training.shard_tokenizer(shards, config, self.folder if self.resuming else None)
            unused = any(not source.share for source in sources.values())
            return shares_of_shards(config) if unused else shards, {}
        found: Sequence[Utterance]
        if sources:
            found, names = source_shares.read_sources(sources)
        elif len(config.data.manifests) == 1 and manifest_table.is_large(config.data.train):
            found, names = self._read_table(), []
        else:
            found, names = manifest.read_manifests(config.data.manifests), []
        if self.resuming:
            # The ids of the run so far, even if the manifest has changed.
            self.tokenizer = tokenizer_files.load_tokenizer(self.folder / "tokens.txt", config.text)
        else:
            self.tokenizer = (
                found.tokenizer(config.text)
                if isinstance(found, ManifestTable)
                else tokenizer_files.tokenizer_from_texts([u.text for u in found], config.text)
            )
        if not sources:
            return found, {}
        source_of = {u.id: name for u, name in zip(found, names, strict=True) if sources[name].share}
        return [u for u in found if u.id in source_of], source_of

    def _read_table(self) -> ManifestTable:
        """A large manifest; the first process makes its index, where there is none."""
        return shard_training.one_after_another(self.world, lambda: ManifestTable(self.config.data.train))

    def _make_model(self) -> AcousticModel:
        """The network on its device, with the weights of ``train.init`` where these are given."""
        config = self.config
        sizes = config.features.mel_bins, self.tokenizer.vocab_size
        model = make_network(lambda: AcousticModel(config.model, *sizes))
        if self.source is not None:
            new = finetune.copy_weights(self.source, model, self.tokenizer)
            if new:
                self.warn(
                    f"train.init: {config.train.init} has no tokens {', '.join(map(repr, new))}: their "
                    "weights start at random"
                )
        if self.teacher is not None:
            self.teacher.network.to(self.device).requires_grad_(False)
        model = model.to(self.device)
        if config.train.compile:
            for part in (model.subsampling, model.encoder):
                part.compile(dynamic=True)
        return model

    @property
    def train_paths(self) -> str:
        """The manifests of the training data, for messages."""
        return ", ".join(map(without_secrets, self.config.data.manifests))

    def _mix(self, source_of: dict[str, str]) -> source_shares.SourceMix | ShardMix:
        """The sources of the training utterances that are used; says what an epoch takes of each."""
        mixed: source_shares.SourceMix | ShardMix
        if isinstance(self.train_data, ShardedDataset):
            assert self.train_data.mix is not None
            mixed = self.train_data.mix
        else:
            used = self.train_data.utterances
            names = [source_of[utterance.id] for utterance in used]
            mixed = source_shares.SourceMix(self.config.data.sources, used, names, self.config.train.seed)
        if self.world.first:
            tqdm.write(mixed.describe(), file=sys.stderr)
        self.changes = mixed.changes
        return mixed

    def _report(self) -> None:
        """Warn of what the manifests show, and of what is left out."""
        if isinstance(self.train_data, ShardedDataset):
            self._warn_all(shard_training.unused_parts(self.train_data))
        else:
            self._warn_all(training_warnings.visible_faults(self.train_data, self.train_paths, self.config))
            self._warn_all(training_warnings.left_out(self.train_data, self.train_paths))
        self._warn_all(training_warnings.left_out(self.valid_data, without_secrets(self.config.data.valid)))

    @functools.cached_property
    def data_key(self) -> str:
        """Checksum of the training utterances that are used: ids, labels, durations."""
        data = self.train_data
        if isinstance(data, ShardedDataset):
            return data.fingerprint()
        if isinstance(data.utterances, ManifestTable):
            return data.utterances.fingerprint(self.tokenizer)
        return model_card.training_checksum(
            [[u.id, label, u.duration_s] for u, label in zip(data.utterances, data.labels, strict=True)]
        )

    def warn(self, message: str) -> None:
        """Print a warning that every process would print."""
        if self.world.first:
            warn(message)

    def _warn_all(self, messages: Iterable[str]) -> None:
        for message in messages:
            self.warn(message)

    def _prepare(self) -> FeatureStats:
        """Check the first audio, leave out what cannot be read, and measure (or, resuming, load) the statistics."""
        for data, path in ((self.train_data, self.train_paths), (self.valid_data, self.config.data.valid)):
            if isinstance(data, ShardedDataset):
                continue
            failures = {}
            rows = self._rows_to_check(data)
            quiet = None if self.world.first else True
            found = self.feeder.check(data, rows)
            for row, reason in tqdm(found, f"reading {len(rows)} utterances", len(rows), disable=quiet, leave=False):
                if reason:
                    failures[data.utterances[row].id] = reason
            # What one process cannot read is left out by all: they must agree on the batches.
            for others in self.world.gather(failures):
                failures |= others
            data.exclude(failures)
            if not data.utterances and path:
                name, reason = next(iter(data.left_out.items()))
                raise TrainingError(f"{path}: no usable utterance is left; the first, {name}: {reason}")
        if self.resuming:
            return FeatureStats.load(self.folder / "stats.json")
        if self.source is not None:
            if self.teacher is not None and self.source.stats != self.teacher.stats:
                self.warn("train.teacher: its features are normalised differently from those of train.init")
            return self.source.stats
        if self.teacher is not None:
            return self.teacher.stats
        plain = LogMel(self.config.features).to(self.device)
        stats = None
        if self.world.first:
            try:
                stats = measure_padded_stats(plain, self._waveforms(batched=self.device.type == "cuda"))
            except ValueError as error:
                raise TrainingError(f"{self.train_paths}: {error}") from error
        measured = self.world.gather(stats)[0]
        assert measured is not None
        return measured

    def _rows_to_check(self, data: Dataset) -> list[int]:
        """The first ``CHECKED_S`` of the utterances that have a place in the cache: they are checked before the first
        step. Others are read, cached and reported with their batches."""
        rows = np.flatnonzero(data.places >= 0)
        seconds = data.durations_s[rows]
        found: list[int] = rows[np.cumsum(seconds) - seconds < CHECKED_S].tolist()
        return found

    def _waveforms(self, *, batched: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Recordings drawn from the training data, ``STATS_S`` of them at most: samples ``(B, S)`` and lengths.

        One by one unless they are ``batched``: the sums are then the same whatever stood in a batch.
        """
        data = self.train_data
        rows = data.sample(self.config.train.seed, SHARD_STATS_S if data.presplit else STATS_S)
        read = 0
        with tqdm(total=len(rows), desc="feature statistics", disable=None, leave=False) as bar:
            for batch in self.feeder.recordings(data, rows):
                bar.update(len(batch.ids))
                read += len(batch.ids)
                if batched:
                    yield batch.samples, batch.lengths
                    continue
                for samples, length in zip(batch.samples, batch.lengths, strict=True):
                    yield samples[None, : int(length)], length[None]
        if not read:
            raise TrainingError(
                f"{self.train_paths}: none of the {len(rows)} recordings drawn for the feature statistics can be used; "
                "the warnings above say why"
            )

    def recordings(self, limit_s: float) -> Iterator[StoredSentence]:
        """Training utterances drawn at random, as they were recorded, of ``limit_s`` seconds."""
        rows = self.train_data.sample(self.config.train.seed, limit_s) if limit_s else []
        for batch in self.feeder.recordings(self.train_data, rows):
            with torch.inference_mode():
                features, frames = self.features(batch, training=False)
            texts = torch.split(batch.tokens.cpu(), batch.token_lengths.tolist())
            for row, length, text in zip(features.cpu(), frames.tolist(), texts, strict=True):
                yield StoredSentence(row[:length], tuple(text.tolist()))

    def plan(self, epoch: int, span: Sequence[float] = ()) -> Plan:
        self._span = span or (0.0, 0.0)
        return self._planned(epoch, self._span)

    def _planned(self, epoch: int, span: Sequence[float]) -> Plan:
        if isinstance(self.train_data, ShardedDataset):
            return self.train_data.plan(epoch, span)
        if not isinstance(self.mixture, source_shares.SourceMix):
            return self.train_data.plan(epoch)
        parts = [self.train_data.plan(epoch, chosen) for chosen in self.mixture.epoch(epoch, span)]
        return functools.reduce(BatchPlan.__add__, parts)

    def batches(self, plan: Plan, epoch: int) -> Iterator[Batch | None]:
        return self.feeder.batches(plan, epoch)

    def _plan_following(self, epoch: int) -> Plan | None:
        """The plan that the next epoch will most likely have; the feeder drops what was begun of another."""
        epochs = self.config.train.epochs  # 0: the clock ends the training
        begin, end = self._span
        return self._planned(epoch, (end, 2 * end - begin)) if epoch < epochs or not epochs else None

    def close(self) -> None:
        """End the processes that load data."""
        self.feeder.close()

    def loss(self, batch: Batch) -> Tensor:
        """See ``asr.train.objective.Objective``."""
        return self.objective(batch, self.network)

    def audio_s(self, batch: Batch) -> float:
        return batch.total_samples / self.config.features.sample_rate_hz

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Loss, WER and CER of greedy decoding on the validation set; nothing where there is none."""
        if not self.valid_data.utterances:
            return {}
        hypotheses: dict[str, str] = {}
        loss_sum, token_sum = 0.0, 0
        for batch in self.feeder.held_out(self.valid_data, self.valid_data.plan(0)):
            if batch is None:
                continue
            with torch.inference_mode():
                features, frames = self.features(batch, training=False)
                log_probs, lengths = network(features, frames)
                loss_sum += float(ctc_loss(log_probs, lengths, batch).sum())
            token_sum += batch.total_tokens
            for name, hypothesis in zip(batch.ids, greedy(log_probs, lengths), strict=True):
                hypotheses[name] = self.tokenizer.decode(hypothesis.tokens)
        for others in self.world.gather(hypotheses):
            hypotheses |= others
        loss_sum, tokens = self.world.sum(loss_sum, token_sum)
        texts = {u.id: u.text for u in self.valid_data.utterances}
        references = {name: self.tokenizer.reference(texts[name]) for name in hypotheses}
        report = score(references, hypotheses, LITERAL_RULES)
        return {"loss": loss_sum / max(tokens, 1), "wer": report.wer, "cer": report.cer}

    def rank(self, figures: dict[str, float]) -> tuple[float, float]:
        """The WER, and the CER as long as next to no word is right (see ``asr.scoring.wer.rank``)."""
        return rank(figures["wer"], figures["cer"])

    def save_weights(self, network: nn.Module, figures: dict[str, float], progress: dict[str, float]) -> None:
        model_directory.save_weights(self.folder, network, self.card(figures, progress))

    def card(self, figures: dict[str, float], progress: dict[str, float]) -> dict[str, Any]:
        """What this model is and where it comes from, for ``card.json``."""
        data = self.train_data
        statistics = data.statistics
        languages = {"languages": self.languages} if self.languages else {}
        return (
            model_card.card_head(self.origin, self.network)
            | languages
            | {
                "training_data": {
                    "manifest": self.train_paths,
                    "utterances": statistics.utterances,
                    "hours": round(statistics.hours, 3),
                    "speakers": statistics.speakers,
                    "left_out": data.unusable if isinstance(data, ShardedDataset) else len(data.left_out),
                },
                "training": {**progress, "seed": self.config.train.seed, "torch": torch.__version__},
                "validation": figures,
            }
        )
