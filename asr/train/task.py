"""What the training loop asks of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class AnyBatch(Protocol):
    """One batch of a training step."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names for messages."""

    @property
    def total_tokens(self) -> int:
        """Tokens that the loss is summed over."""


class Task(Protocol):
    """A task to train: its network, batches, loss, validation, and how its model directory is written."""

    network: nn.Module
    rate_factors: dict[str, float]
    """Factors on the learning rate by the name of the parameter. Without an entry the factor is 1; 0 freezes it."""
    criterion: str
    """Name of the validation figure for messages."""
    origin: str
    """Id of the weights that training began with, for the model card."""
    trained: bool
    """Whether the weights are those of a trained model: they are then validated before the first step, and kept if
    training does not improve them."""
    changes: Sequence[float]
    """Shares of the schedule at which the plan changes, such as where a source of data ends."""

    @property
    def data_key(self) -> str:
        """A checksum of the training data; a resumed run compares it."""

    def plan(self, epoch: int, span: Sequence[float]) -> Sequence[Any]:
        """What each batch of an epoch will hold, in order; cheap, and the same whenever it is asked for.

        ``span`` says where in the schedule, 0 to 1, the epoch begins and ends; the same twice where only the begin is
        known.
        """

    def batches(self, plan: Sequence[Any], epoch: int) -> Iterator[Any]:
        """This process's share of the batches that part of an epoch's plan describes, one for each.

        ``None`` stands for a share that is empty or could not be read.
        """

    def loss(self, batch: Any) -> Tensor:
        """Scalar loss of ``self.network``, summed over the tokens of a batch, with gradients."""

    def audio_s(self, batch: Any) -> float:
        """Seconds of audio in a batch, for the speed of training; 0 for text."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures on held-out data, ``criterion`` among them. Empty without data: the last weights are kept.

        All processes call it, and all get the figures of the whole.
        """

    def rank(self, figures: dict[str, float]) -> Sequence[float]:
        """The rank of validation figures. The weights with the smallest rank are kept, among equal ranks the latest."""

    def save_weights(self, network: nn.Module, figures: dict[str, float], progress: dict[str, float]) -> None:
        """Write the weights with what is known about them to the run directory."""
