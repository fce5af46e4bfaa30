"""Show why cells have gates: how much of the gradient reaches an input far in the past.

    python egs/gradient_flow.py [gradient_flow.png]

Each cell learns the adding problem (Hochreiter & Schmidhuber 1997): two of LENGTH random numbers are marked, and the
answer is their sum. The picture shows the norm of the gradient of the answer with respect to the input ``lag`` steps
earlier, over its norm at lag 0, before and after training; a straight fall on this logarithmic scale is the vanishing
gradient (Bengio et al. 1994). Takes about a minute on two cores; needs matplotlib (extra ``plot``).
"""

import sys

import torch
from torch import nn
from tqdm import tqdm

from asr import plotting
from asr.models.cells import RecurrentLayer

CELLS = {
    "rnn": "vanilla RNN (tanh)",
    "rnn_relu": "vanilla RNN (ReLU)",
    "gru": "GRU",
    "lstm": "LSTM",
    "min_gru": "minGRU",
}
LENGTH, HIDDEN, BATCH, STEPS = 60, 64, 64, 1500


class Adder(nn.Module):
    """One recurrent layer and a linear read-out of its last output."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.layer = RecurrentLayer(cell, 2, HIDDEN, bidirectional=False)
        self.readout = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, T, 2)`` -> ``(B,)``."""
        outputs, _ = self.layer(x, torch.full((len(x),), x.shape[1]))
        return self.readout(outputs[:, -1]).squeeze(-1)


def problem(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``(B, T, 2)``, a number and a mark at each step, and the sums ``(B,)`` of the two marked numbers."""
    numbers = torch.rand(BATCH, LENGTH, generator=generator)
    marks = torch.zeros(BATCH, LENGTH)
    for half in (0, LENGTH // 2):
        marks.scatter_(1, half + torch.randint(LENGTH // 2, (BATCH, 1), generator=generator), 1.0)
    return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(1)


def gradient_by_lag(model: Adder) -> torch.Tensor:
    """Norm ``(T,)`` of the gradient of the answer at each lag, mean over a batch, over that at lag 0."""
    inputs, _ = problem(torch.Generator().manual_seed(1))
    inputs.requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs).sum(), inputs)
    norms = gradient.norm(dim=-1).mean(0).flip(0)
    return norms / norms[0]


def train(model: Adder, name: str) -> float:
    """Mean squared error of the last 100 steps; always answering 1, the mean, makes 0.167."""
    generator = torch.Generator().manual_seed(2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    errors = []
    for _ in tqdm(range(STEPS), desc=name, disable=None):
        inputs, sums = problem(generator)
        loss = nn.functional.mse_loss(model(inputs), sums)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        errors.append(loss.item())
    return sum(errors[-100:]) / 100


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "gradient_flow.png"
    figure, (before, after) = plotting.page(1, 2)
    for cell, name in CELLS.items():
        torch.manual_seed(0)
        model = Adder(cell)
        before.plot(gradient_by_lag(model), label=name)
        error = train(model, name)
        after.plot(gradient_by_lag(model), label=f"{name}, error {error:.3f}")
        print(f"{name}: mean squared error {error:.4f} after {STEPS} steps")
    for axis, title in ((before, "at initialisation"), (after, f"after {STEPS} steps of the adding problem")):
        axis.set_title(title, fontsize=10)
        axis.set_yscale("log")
        axis.set_ylim(1e-8, 1e2)
        axis.set_xlabel("lag (steps)")
        axis.set_ylabel("gradient norm over that at lag 0")
        axis.grid(alpha=0.3)
        plotting.legend_below(axis)
    plotting.save_page(figure, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
