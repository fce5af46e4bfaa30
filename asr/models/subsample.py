"""Convolutional subsampling in time, with explicit left context."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.weight_shapes import KERNEL, LEFT

SubsamplingState = list[Tensor]


class Subsampling(nn.Module):
    """Two 3 x 3 convolutions over time and frequency, each followed by ReLU, reducing time by 2 or 4.

    In time the convolutions are valid and look only to the left: output frame ``j`` sees input frames up to ``factor *
    j``. Utterances are therefore independent of the padding behind them, ``T`` frames give ``ceil(T / factor)``, and a
    stream fed in blocks gives the same frames as the whole, because the state is the input frames that the next output
    still needs. In frequency both have stride 2 and are padded.
    """

    def __init__(self, feature_dim: int, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.channels = channels
        strides = {2: (2, 1), 4: (2, 2)}[factor]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, channels, KERNEL, stride=(stride, 2), padding=(0, 1))
            for inputs, stride in zip((1, channels), strides, strict=True)
        )
        self.strides = strides
        self.output_dim = channels * (((feature_dim + 1) // 2 + 1) // 2)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def count(self, frames: Tensor) -> Tensor:
        """Output frames for ``frames`` input frames, any integer shape: ``ceil(frames / factor)``."""
        return (frames + self.factor - 1) // self.factor

    def forward(self, features: Tensor, state: SubsamplingState | None = None) -> tuple[Tensor, SubsamplingState]:
        """``(B, T, D)`` -> ``(B, T', output_dim)`` and the state to continue from (see the class)."""
        hidden = features[:, None]
        following: SubsamplingState = []
        for index, (conv, stride) in enumerate(zip(self.convs, self.strides, strict=True)):
            if state is None:
                hidden = functional.pad(hidden, (0, 0, LEFT, 0))
            else:
                hidden = torch.cat([state[index], hidden], dim=2)
            outputs = max(0, (hidden.shape[2] - KERNEL) // stride + 1)
            following.append(hidden[:, :, outputs * stride :])
            if outputs:
                hidden = torch.relu(conv(hidden))
            else:
                hidden = hidden.new_zeros(hidden.shape[0], self.channels, 0, (hidden.shape[3] + 1) // 2)
        batch, channels, frames, bins = hidden.shape
        return hidden.transpose(1, 2).reshape(batch, frames, channels * bins), following
