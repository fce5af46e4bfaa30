"""Batches go through network and search, one beside the other where that helps, without a change of what comes out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import where

from asr.errors import AudioError
from asr.models.inference import Fetch
from asr.models.torch_backend import TorchBackend
from asr.recognize import recognizer as recognizer_module
from asr.recognize.pipeline import cut_batches
from asr.recognize.recognizer import Recognizer, load

Bursts = Callable[..., np.ndarray]


def test_batches_are_of_similar_length_and_as_large_as_allowed() -> None:
    waveforms = {key: np.zeros(length) for key, length in enumerate([5, 2, 9, 3, 30, 2])}
    assert list(cut_batches(waveforms, lambda: 10)) == [[1, 5, 3], [0], [2], [4]]


def test_a_limit_that_falls_holds_from_the_next_batch_on() -> None:
    limits = iter([4, 2, 2])
    assert list(cut_batches({key: np.zeros(1) for key in range(8)}, lambda: next(limits))) == [
        [0, 1, 2, 3],
        [4, 5],
        [6, 7],
    ]


@pytest.fixture
def paths(tmp_path: Path, bursts: Bursts, write_wav: Callable[..., Path]) -> list[str]:
    """Nine files: the fourth holds no sound, the eighth is longer than what is read as a whole."""
    for index in range(9):
        write_wav(tmp_path / f"{index}.wav", bursts(0.5 + index / 3, seed=index))
    (tmp_path / "3.wav").write_bytes(b"no sound")
    write_wav(tmp_path / "7.wav", bursts(65, seed=7))
    return [str(tmp_path / f"{index}.wav") for index in range(9)]


def outcomes(recognizer: Recognizer, sources: object) -> list[str]:
    """Names with texts or errors."""
    found = recognizer.transcribe_many(sources)  # type: ignore[arg-type]
    return [f"{item.name}: {getattr(result, 'text', result)}" for item, result in found]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("items", [2, 64])
@pytest.mark.parametrize("batch_s", [2.0, 90.0])
def test_overlap_changes_neither_texts_nor_order_nor_errors(
    model_dir: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch, overlap: bool, items: int, batch_s: float
) -> None:
    expected = outcomes(load(model_dir, device=where.DEVICE, beam=4), iter(paths))
    monkeypatch.setattr(recognizer_module, "WINDOW_ITEMS", items)
    recognizer = load(model_dir, device=where.DEVICE, beam=4, batch_s=batch_s)
    recognizer.overlap = overlap
    assert outcomes(recognizer, paths) == expected
    assert [line.partition(":")[0] for line in expected] == paths


def test_the_network_is_at_most_two_batches_ahead(
    model_dir: Path, bursts: Bursts, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load(model_dir, device=where.DEVICE, batch_s=1.0)
    recognizer.overlap = True
    run, decode = recognizer.begin_log_probs, recognizer._decode
    computed, decoded, ahead = [0], [0], []
    slow = threading.Event()

    def counted(waveforms: list[np.ndarray]) -> Fetch:
        ahead.append(computed[0] - decoded[0])
        computed[0] += 1
        return run(waveforms)

    def slowly(*arguments: object) -> object:
        slow.wait(0.05)
        made = decode(*arguments)  # type: ignore[arg-type]
        decoded[0] += 1
        return made

    monkeypatch.setattr(recognizer, "begin_log_probs", counted)
    monkeypatch.setattr(recognizer, "_decode", slowly)
    assert len(list(recognizer.transcribe_many([bursts(1.0, seed=i) for i in range(12)]))) == 12
    assert max(ahead) == 1  # and the one that begins


def test_an_error_of_the_search_beside_the_network_is_raised(
    model_dir: Path, bursts: Bursts, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load(model_dir, device=where.DEVICE)
    recognizer.overlap = True

    def fail(*arguments: object) -> object:
        raise ZeroDivisionError("in the search")

    monkeypatch.setattr(recognizer, "_decode", fail)
    with pytest.raises(ZeroDivisionError, match="in the search"):
        list(recognizer.transcribe_many([bursts(1), bursts(2)]))


def no_memory_once(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the first pass of the network find no memory; returns the rows of each pass."""
    forward, rows = recognizer.backend.network.forward, []

    def once(features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows.append(len(features))
        if len(rows) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB\nand more")
        return forward(features, frames)

    monkeypatch.setattr(recognizer.backend.network, "forward", once)
    return rows


@pytest.mark.parametrize("overlap", [False, True])
def test_a_batch_without_memory_is_split_and_those_to_come_are_smaller(
    model_dir: Path,
    bursts: Bursts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overlap: bool,
) -> None:
    sounds = [bursts(2, seed=index) for index in range(16)]
    recognizer = load(model_dir, device=where.DEVICE, batch_s=16)
    recognizer.overlap = overlap
    expected = outcomes(recognizer, sounds)
    rows = no_memory_once(recognizer, monkeypatch)
    assert outcomes(recognizer, sounds) == expected
    assert rows == [8, 4, 4, 4, 4]
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        "warning: out of memory with 8 recordings of up to 2.0 s; from here on batches have 8.0 s (--batch-s 8.0) "
        "(CUDA out of memory. Tried to allocate 3.00 GiB)"
    ]


def short_of_memory(most_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches of more than ``most_s`` padded seconds find no memory."""
    run = TorchBackend._forward

    def limited(self: TorchBackend, waveforms: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        if len(waveforms) * max(map(len, waveforms)) / 16000 > most_s:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return run(self, waveforms)

    monkeypatch.setattr(TorchBackend, "_forward", limited)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_recording_too_long_for_the_memory_fails_alone(
    model_dir: Path, bursts: Bursts, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    recognizer = load(model_dir, device=where.DEVICE)
    recognizer.overlap = overlap
    sounds = [bursts(2, seed=1), bursts(12, seed=2), bursts(3, seed=3)]
    expected = outcomes(recognizer, sounds)
    short_of_memory(10.0, monkeypatch)
    found = outcomes(recognizer, sounds)
    assert found[::2] == expected[::2]
    assert f"out of memory with one recording of 12.0 s on {recognizer.device}" in found[1]


def test_a_long_recording_goes_through_with_little_memory(
    model_dir: Path, bursts: Bursts, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load(model_dir, device=where.DEVICE)
    sound = bursts(70, seed=4)
    expected = recognizer.transcribe(sound).text
    assert expected
    short_of_memory(20.0, monkeypatch)
    assert recognizer.transcribe(sound).text == expected
    short_of_memory(2.0, monkeypatch)
    with pytest.raises(AudioError, match="out of memory with one recording of"):
        recognizer.transcribe(sound)
