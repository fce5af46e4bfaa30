"""Copies to a device and the precision of float32, as far as a CPU shows them."""

import contextlib

import numpy as np
import pytest
import torch
import where

import asr
from asr.config import loader
from asr.config.sections import FeatureConfig
from asr.config.training_sections import TrainConfig
from asr.errors import ConfigError
from asr.models import torch_backend
from asr.models.device import copy_together, pack, set_precision, strict_fp32, unpack
from asr.models.features import LogMel

SMALL = [
    torch.arange(7),
    torch.randn(3, 3),
    torch.zeros(0, 2, dtype=torch.int64),
    torch.tensor([True, False, True]),
    torch.randn(5, 2).double().t(),
    torch.tensor(3, dtype=torch.int32),
]


def test_packed_tensors_come_out_as_they_went_in():
    packed = pack(SMALL)
    assert packed.dtype == torch.uint8
    for ours, given in zip(unpack(packed, SMALL), SMALL, strict=True):
        assert ours.dtype == given.dtype
        assert torch.equal(ours, given)
        assert ours.numel() == 0 or ours.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()


def test_tensors_that_are_there_are_not_copied():
    assert all(a is b for a, b in zip(copy_together(SMALL, torch.device("cpu")), SMALL, strict=True))


def test_several_tensors_travel_in_one_copy(monkeypatch):
    copies = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *args, **kwargs: copies.append(x.shape) or to(x, *args, **kwargs))
    there = torch.zeros(2, device="meta")
    arrived = copy_together([SMALL[0], there, SMALL[1]], torch.device("meta"))
    assert len(copies) == 1
    assert arrived[1] is there
    assert [(x.device.type, x.dtype, x.shape) for x in arrived] == [
        ("meta", x.dtype, x.shape) for x in (SMALL[0], there, SMALL[1])
    ]


@pytest.fixture
def flags():
    def read():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = read()
    yield read
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_only_tf32_rounds_float32(flags, precision):
    set_precision(precision)
    assert flags() == (precision == "tf32",) * 2
    with strict_fp32(torch.device("cuda")):
        assert flags() == (False, False)
    assert flags() == (precision == "tf32",) * 2


def test_threads_leave_strict_float32_in_any_order(flags):
    set_precision("tf32")
    first, second = strict_fp32(torch.device("cuda")), strict_fp32(torch.device("cuda"))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert flags() == (False, False)
    second.__exit__(None, None, None)
    assert flags() == (True, True)


def test_features_are_strict_under_autocast(flags, device):
    torch.manual_seed(0)
    log_mel = LogMel(FeatureConfig()).to(device)
    samples, lengths = torch.randn(2, 8000, device=device) * 0.1, torch.tensor([8000, 5000], device=device)
    plain, _ = log_mel(samples, lengths)
    set_precision("tf32")
    with torch.autocast(device.type, torch.bfloat16):
        half, _ = log_mel(samples, lengths)
    assert half.dtype == torch.float32
    assert torch.equal(half, plain)


def test_precisions_are_named():
    assert loader.from_dict(TrainConfig, {"precision": "tf32"}).precision == "tf32"
    with pytest.raises(ConfigError, match=r"precision.*fp32.*tf32.*bf16.*fp16"):
        loader.from_dict(TrainConfig, {"precision": "fp8"})


def test_loading_a_recognizer_leaves_the_precision_of_a_training_alone(flags):
    set_precision("tf32")
    asr.load("an4", device=where.DEVICE)
    assert flags() == (True, True)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_recognizer_computes_in_strict_float32(streamed, monkeypatch):
    strict, seen = [], []

    @contextlib.contextmanager
    def recorded(device):
        strict.append(device)
        yield
        strict.pop()

    monkeypatch.setattr(torch_backend, "strict_fp32", recorded)
    recognizer = asr.load("stream", device=where.DEVICE)
    recognizer.backend.network.output.register_forward_pre_hook(lambda *_: seen.append(len(strict)))
    speech = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    if streamed:
        stream = recognizer.stream()
        stream.accept(speech)
    else:
        recognizer.transcribe(speech, sample_rate_hz=16000)
    assert seen
    assert all(seen)
