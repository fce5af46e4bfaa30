"""The examples do what they say (those about the bundled model are in test_bundled.py)."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

EGS = Path(__file__).parent.parent / "egs"


def load(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gradient_flow_draws_every_cell(tmp_path, monkeypatch, capsys):
    example = load("gradient_flow")
    monkeypatch.setattr(example, "STEPS", 3)
    monkeypatch.setattr(sys, "argv", ["gradient_flow.py", str(tmp_path / "flow.png")])
    example.main()
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert all(f"{name}: mean squared error" in out for name in example.CELLS.values())


def test_the_gradient_of_a_relu_network_vanishes_and_that_of_an_lstm_does_not():
    example = load("gradient_flow")
    flows = {}
    for cell in ("rnn_relu", "lstm"):
        torch.manual_seed(0)
        flows[cell] = example.gradient_by_lag(example.Adder(cell))
        assert flows[cell][0] == pytest.approx(1)
    assert flows["rnn_relu"][-1] < 1e-6 < 1e-3 < flows["lstm"][-1]
