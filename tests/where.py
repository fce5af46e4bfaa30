"""The device of tests, as the option ``--device`` says, and tolerances that depend on it."""

DEVICE = "cpu"
"""Set by ``conftest.py`` before any test is collected."""


def on_cpu() -> bool:
    """Whether equal computations give equal bits: a GPU adds in no fixed order, for one in the gradient of CTC."""
    return DEVICE.partition(":")[0] == "cpu"


def tolerance(cpu: float, gpu: float) -> float:
    """A tolerance by device: the kernels of a GPU round differently for each shape of a batch."""
    return cpu if on_cpu() else gpu
