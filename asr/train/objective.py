"""What training an acoustic model makes small: CTC and what the configuration adds to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.config.sections import Config
from asr.data.batches import Batch
from asr.models.acoustic import AcousticModel
from asr.models.device import HALF
from asr.models.model_directory import Model
from asr.train.losses import ctc_loss, distillation_loss, uniform_loss
from asr.train.training_features import TrainingFeatures


@dataclass(frozen=True)
class Objective:
    """The loss of a batch: CTC, intermediate CTC, the teacher's posteriors, label smoothing, consistency of two views.

    ``teacher``: the model whose posteriors are learnt; None without one.
    """

    config: Config
    features: TrainingFeatures
    model: AcousticModel
    teacher: Model | None

    def __call__(self, batch: Batch, network: nn.Module) -> Tensor:
        """The sum over the batch's utterances in nats, a scalar; ``network``: the model, or what wraps it."""
        batch = self.features.place(batch)
        with torch.no_grad():
            whole, frames = self.features.distort(batch)
            features = torch.cat([self.features.mask(whole, masks) for masks in batch.masks] or [whole])
        views = len(features) // len(whole)
        share, smoothing = self.config.model.intermediate_ctc, self.config.optim.label_smoothing
        middle = None
        with self._autocast():
            if share:
                log_probs, middle, lengths = self.model.forward_deep(features, frames.repeat(views))
            else:
                log_probs, lengths = network(features, frames.repeat(views))
        # CTC reads the lengths on the CPU: computed there, they need not be waited for.
        ctc_lengths = self.model.count(self.features.log_mel.count(batch.lengths)).repeat(views)
        loss = ctc_loss(log_probs, ctc_lengths, batch).sum()
        if middle is not None:
            loss = torch.lerp(loss, ctc_loss(middle, ctc_lengths, batch).sum(), share)
        if self.teacher is not None:
            taught = self._taught(self.teacher, whole, frames).repeat(views, 1, 1)
            delay = round(self.config.train.teacher_delay_s / self.config.output_frame_s)
            taught_loss = distillation_loss(log_probs, taught, lengths, delay).sum()
            loss = torch.lerp(loss, taught_loss, self.config.train.teacher_share)
        if smoothing:
            loss = torch.lerp(loss, uniform_loss(log_probs, lengths).sum(), smoothing)
        if views == 2:
            swapped = log_probs.detach().roll(len(frames), dims=0)
            loss = loss + self.config.train.consistency * distillation_loss(log_probs, swapped, lengths, 0).sum()
        return loss / views

    def _taught(self, teacher: Model, features: Tensor, frames: Tensor) -> Tensor:
        """The teacher's log-probabilities ``(B, T, V)``. It sees what the masks hide from the learner."""
        with torch.inference_mode(), self._autocast():
            taught: Tensor = teacher.network(features, frames)[0]
        return taught

    def _autocast(self) -> torch.autocast:
        half = HALF.get(self.config.train.precision)
        return torch.autocast(self.features.device.type, half, enabled=half is not None)
