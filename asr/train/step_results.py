"""Figures of training steps, read from the device some steps after they were computed.

Reading a number that a GPU computes makes the host wait for it, and the GPU then waits for the host's next step. So the
loop puts the figures of each step here and reads them several steps later, when they have long been computed. The
number of steps is fixed: all processes of a training read the same step at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

LAG_STEPS = 8
"""Steps after which the figures of a step on a GPU are read."""


@dataclass
class IssuedStep:
    """What the log says of a step whose figures the device may still be computing."""

    step: int
    epoch: int
    seconds: float
    rate: float = 0.0
    ids: tuple[str, ...] = ()
    norms: dict[str, Tensor] = field(default_factory=dict)
    """Gradient norms of the network's parts, where the log wants them."""


@dataclass(frozen=True)
class _Waiting:
    """Figures on their way to the host, and what to do with them."""

    figures: Tensor | None
    copied: torch.cuda.Event | None
    handle: Callable[[list[float]], None]


class StepResults:
    """Queue of the figures of steps, in the order of the steps.

    ``lag`` is the number of steps between a step and the reading of its figures; 0 reads them at once.
    """

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self._waiting: deque[_Waiting] = deque()

    @classmethod
    def of(cls, device: torch.device) -> StepResults:
        """The queue for steps on ``device``: figures on a CPU are there at once."""
        return cls(LAG_STEPS if device.type == "cuda" else 0)

    def put(self, figures: Tensor | None, handle: Callable[[list[float]], None]) -> None:
        """Have ``handle`` called with the values of ``figures`` ``(N,)``, ``lag`` calls of this method later.

        ``None`` stands for a step without figures, which is handled in its turn with an empty list. Errors that a
        ``handle`` raises come out of here.
        """
        copied = None
        if figures is not None and figures.is_cuda:
            # The copy needs pinned memory: into any other the host waits for it.
            host = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
            figures = host.copy_(figures, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._waiting.append(_Waiting(figures, copied, handle))
        while len(self._waiting) > self.lag:
            self._read()

    def flush(self) -> None:
        """Handle the figures of all steps so far."""
        while self._waiting:
            self._read()

    def _read(self) -> None:
        step = self._waiting.popleft()
        if step.copied is not None:
            step.copied.synchronize()
        step.handle([] if step.figures is None else step.figures.tolist())
