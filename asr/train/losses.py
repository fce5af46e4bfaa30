"""The losses of acoustic training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from asr.data.batches import Batch


def ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """CTC loss ``(B,)`` of each utterance, float32 natural logs; infinite where the label cannot fit.

    ``log_probs`` may hold the batch several times, one view behind the other. ``lengths`` ``(B,)`` belong on the CPU,
    as ``batch.token_lengths``: the kernels read both there, and would wait for them.
    """
    views = len(log_probs) // len(batch.ids)
    return functional.ctc_loss(
        log_probs.transpose(0, 1),
        batch.tokens.to(log_probs.device).repeat(views),
        lengths.cpu(),
        batch.token_lengths.cpu().repeat(views),
        reduction="none",
    )


def uniform_loss(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Cross-entropy ``(B,)`` of each utterance's frames with the uniform distribution, summed over its frames.

    Mixed into the loss it keeps the posteriors from becoming certain (label smoothing, Szegedy et al. 2016).
    """
    frames = torch.arange(log_probs.shape[1], device=log_probs.device)
    valid = frames < lengths.to(log_probs.device)[:, None]
    return -(log_probs.mean(dim=-1) * valid).sum(dim=1)


def distillation_loss(log_probs: Tensor, taught: Tensor, lengths: Tensor, delay: int) -> Tensor:
    """Cross-entropy ``(B,)`` of the posteriors ``(B, T, V)`` with those of a teacher, ``delay`` frames earlier.

    Summed over the utterance's frames that the teacher has an opinion of (Hinton et al. 2015; delayed for a
    unidirectional learner as in Kurata & Audhkhasi 2018).
    """
    frames = log_probs.shape[1]
    delay = min(delay, frames)
    late = torch.arange(delay, frames, device=log_probs.device)
    valid = late < lengths.to(log_probs.device)[:, None]
    entropy = -(taught[:, : frames - delay].exp() * log_probs[:, delay:]).sum(dim=-1)
    return (entropy * valid).sum(dim=1)
