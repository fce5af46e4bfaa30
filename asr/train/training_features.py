"""Batches of training -> normalised features on the model's device, distorted and masked as the batch says."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from asr.config.sections import Config
from asr.data.batches import Batch
from asr.models import spec_augment
from asr.models.description import FeatureStats
from asr.models.device import copy_together
from asr.models.features import LogMel


class TrainingFeatures:
    """Log-mel features ``(B, T, D)`` of a batch and their frames ``(B,)``, on ``device``."""

    def __init__(self, config: Config, stats: FeatureStats, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.log_mel = LogMel(config.features, stats).to(device)

    def __call__(self, batch: Batch, *, training: bool) -> tuple[Tensor, Tensor]:
        """Features as the network gets them: for training with the colours and the first masks of the batch."""
        if training:
            features, frames = self.distort(batch)
            return self.mask(features, batch.masks[0]), frames
        features, frames = self.log_mel(self._send(batch.samples), self._send_lengths(batch))
        return features, frames

    def place(self, batch: Batch) -> Batch:
        """The batch with what training computes with on the device: the small tensors go in one copy.

        ``token_lengths`` stay on the CPU, where CTC wants them, and so do ``lengths``.
        """
        tokens, colours, *masks = copy_together([batch.tokens, batch.colours, *batch.masks], self.device)
        samples = self._send(batch.samples)
        return dataclasses.replace(batch, samples=samples, tokens=tokens, colours=colours, masks=tuple(masks))

    def distort(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features for training before any of them are masked."""
        setting = self.config.augment
        change = None
        if setting.warp or setting.tilt_db:
            colours = self._send(batch.colours)
            change = functools.partial(spec_augment.colour, colours=colours, config=self.config.features)
        features, frames = self.log_mel(self._send(batch.samples), self._send_lengths(batch), change)
        return features, frames

    def mask(self, features: Tensor, masks: Tensor) -> Tensor:
        """``features`` with the masks ``(B, M, 2)`` of one view."""
        return spec_augment.apply_masks(features, self._send(masks), self.config.augment.time_masks)

    def _send(self, tensor: Tensor) -> Tensor:
        """A tensor on the device; the host does not wait for the copy."""
        return copy_together([tensor], self.device)[0]

    def _send_lengths(self, batch: Batch) -> Tensor:
        return self._send(batch.lengths if batch.device_lengths is None else batch.device_lengths)
