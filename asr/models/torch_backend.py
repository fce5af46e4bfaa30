"""Runs a model directory with torch, on a CPU or GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.config.sections import FeatureConfig
from asr.errors import ConfigError
from asr.models.acoustic import AcousticModel, ModelState, join_model_states, split_model_state
from asr.models.cells import RecurrentLayer
from asr.models.description import FeatureStats
from asr.models.device import HALF, is_out_of_memory, pick_device, strict_fp32
from asr.models.features import LogMel
from asr.models.inference import Counts, Fetch, Latency, Posteriors


@dataclass
class TorchStreamState:
    """``model``: of the network. ``level``: what the features know of the recording so far, ``(D + 1,)`` or empty."""

    model: ModelState
    level: Tensor

    @property
    def shape(self) -> Hashable:
        return self.model.shape

    @property
    def pending(self) -> bool:
        return self.model.pending


class TorchBackend:
    """A network as ``asr.models.inference.AcousticBackend``.

    Args:
        network: in evaluation mode; it moves to the device.
        features, stats: what it hears.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of ``begin``: ``fp32``, strictly, or ``bf16`` or ``fp16`` (autocast).

    Raises ``ConfigError`` for another precision, and a device that is not there.
    """

    def __init__(
        self,
        network: AcousticModel,
        features: FeatureConfig,
        stats: FeatureStats,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        if precision not in ("fp32", *HALF):
            raise ConfigError(f"precision: expected fp32, {' or '.join(HALF)}, got {precision!r}")
        self.precision = precision
        self.device = pick_device(device)
        self.network = network.to(self.device)
        self.log_mel = LogMel(features, stats).to(self.device)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def begin(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Fetch:
        """See ``AcousticBackend.begin``."""
        log_probs, frames = self._log_probs(waveforms)
        if not self.on_gpu:
            return lambda: (log_probs.numpy(), frames.numpy())
        # The copies follow at once: behind the network of a later batch they would wait for that one.
        copies = log_probs.to("cpu", non_blocking=True), frames.to("cpu", non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self.device))

        def wait() -> tuple[Posteriors, Counts]:
            arrived.synchronize()
            return copies[0].numpy(), copies[1].numpy()

        return wait

    def _log_probs(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and valid frames, still on the device."""
        try:
            return self._forward(waveforms)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # Outside the handler: the traceback would keep what the attempt has allocated.
        raise MemoryError(reason)

    def _forward(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(w) for w in waveforms])
        padded = torch.zeros(len(waveforms), int(lengths.max()), pin_memory=self.on_gpu)
        for row, waveform in enumerate(waveforms):
            padded[row, : len(waveform)] = torch.from_numpy(waveform)
        # Strictly: by default cuDNN rounds to TF32, and texts could differ from those on a CPU.
        with torch.inference_mode(), strict_fp32(self.device):
            mel, frames = self.log_mel(padded.to(self.device, non_blocking=True), lengths.to(self.device))
            with self._computing():
                log_probs, valid = self.network(mel, frames)
        return log_probs.float(), valid

    def _computing(self) -> contextlib.AbstractContextManager[object]:
        """The context in which the network computes in ``precision``."""
        half = HALF.get(self.precision)
        return torch.autocast(self.device.type, half) if half else strict_fp32(self.device)

    def stream(
        self,
        samples: npt.NDArray[np.float32],
        states: Sequence[TorchStreamState | None],
        *,
        latency: Latency | None = None,
        last: bool = False,
        exact: bool = True,
    ) -> tuple[list[Posteriors], list[TorchStreamState]]:
        """See ``AcousticBackend.stream``."""
        before = [state for state in states if state is not None]
        joined = join_model_states([state.model for state in before]) if before else None
        with torch.inference_mode(), strict_fp32(self.device):
            level = torch.stack([state.level for state in before]) if before else None
            mel, level = self.log_mel.following(torch.from_numpy(samples).to(self.device), level)
            with contextlib.nullcontext() if exact else self._computing():
                log_probs, state = self.network.stream(mel, joined, latency=latency, last=last)
        split = split_model_state(state, len(states))
        following = [TorchStreamState(*parts) for parts in zip(split, level, strict=True)]
        return list(log_probs.float().cpu().numpy()), following

    def before_layers(self, call: Callable[[], None]) -> None:
        """See ``AcousticBackend.before_layers``."""
        for layer in self.network.modules():
            if isinstance(layer, RecurrentLayer):
                for cell in filter(None, (layer.forward_cell, layer.backward_cell)):
                    cell.register_forward_pre_hook(lambda *_: call())

    def free(self) -> None:
        """See ``AcousticBackend.free``."""
        if self.on_gpu:
            torch.cuda.empty_cache()
