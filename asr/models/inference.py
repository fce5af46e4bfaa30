"""The interface of an acoustic model for recognition: waveforms in, log-probabilities out.

This module has only the protocol, which needs no torch. ``asr.models.torch_backend`` runs a model directory with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from asr.config.sections import Config
from asr.text.tokenizer import Tokenizer

Posteriors: TypeAlias = npt.NDArray[np.float32]
"""Natural log-probabilities ``(T, V)`` of one recording or ``(B, T, V)`` of several, blank in column 0."""
Counts: TypeAlias = npt.NDArray[np.int64]
"""Valid frames ``(B,)``."""
Fetch: TypeAlias = Callable[[], tuple[Posteriors, Counts]]
"""Waits for log-probabilities that are being computed; may be called once, in any thread."""


@dataclass(frozen=True)
class Latency:
    """Chunks in which a bidirectional model streams, in frames after subsampling.

    The forward direction keeps its state; the backward one sees the chunk and the next ``right`` frames.
    """

    chunk: int
    right: int


class StreamState(Protocol):
    """What a model carries from one block of a stream to the next."""

    @property
    def shape(self) -> Hashable:
        """What must agree for streams to be advanced together."""

    @property
    def pending(self) -> bool:
        """Whether frames wait for what comes later."""


class AcousticBackend(Protocol):
    """A network with its features, ready to run."""

    @property
    def device(self) -> Any:
        """Where it computes, as messages name it."""

    @property
    def on_gpu(self) -> bool:
        """Whether the network computes beside the CPU, which can search meanwhile."""

    def begin(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Fetch:
        """Compute the log-probabilities ``(B, T, V)`` of a batch of waveforms ``(S,)``, checked, at the model's rate.

        Raises ``MemoryError``, whose text is the reason, where there is no memory for the batch.
        """

    def stream(
        self,
        samples: npt.NDArray[np.float32],
        states: Sequence[Any],
        *,
        latency: Latency | None = None,
        last: bool = False,
        exact: bool = True,
    ) -> tuple[list[Posteriors], list[Any]]:
        """Log-probabilities of the next frames of streams that are advanced together.

        Args:
            samples: ``(B, S)``, from the first sample of the next frame of features to the last of the last one; ``S``
                may be 0.
            states: of each stream, all with the same ``shape``, or None at the start of all.
            latency: chunks of a bidirectional model.
            last: nothing follows: what still waits is given as well.
            exact: in float32, also where ``begin`` computes in half precision.

        Returns:
            ``(T, V)`` for each stream, and the states to go on from.
        """

    def before_layers(self, call: Callable[[], None]) -> None:
        """Call something between short steps of ``begin``, in the thread that computes: before each recurrent layer and
        direction, or each block. An exported graph of a bidirectional model runs as a whole: there it is never
        called."""

    def free(self) -> None:
        """Give memory back that is held for later batches."""


class LoadedModel(Protocol):
    """A model directory or an exported model, as recognizers take it."""

    @property
    def config(self) -> Config:
        """Its resolved configuration."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokens."""

    @property
    def card(self) -> dict[str, Any]:
        """Its model card."""

    @property
    def path(self) -> Path:
        """Its folder, for files beside the weights and for messages."""

    def backend(self, device: str = "auto", precision: str = "fp32") -> AcousticBackend:
        """The network on a device, ready to run. Raises ``ConfigError`` where device or precision cannot be had."""
