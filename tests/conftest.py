"""What several test files share: synthetic sounds, a small model with random weights, corpora where there are any."""

from __future__ import annotations

import os
import signal
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import where
from hypothesis import HealthCheck, settings

# hypothesis times each example by default; on a busy machine a test would fail for being slow. Each run has the same
# examples, so that no change is refused for an older defect; --hypothesis-profile=search looks for new ones.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("untimed", **UNTIMED, derandomize=True)
settings.register_profile("search", **UNTIMED)
settings.load_profile("untimed")

# A shell that starts the tests in the background has them ignore SIGINT, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

RATE_HZ = 16000


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device``: where tests that take the fixture ``device`` compute."""
    parser.addoption("--device", default="cpu", help="device of the tests of models and training: cpu (default), cuda")


def pytest_configure(config: pytest.Config) -> None:
    """Tell helpers that are no fixtures, too, and compare strict float32 on a GPU."""
    where.DEVICE = config.getoption("--device")
    if not where.on_cpu():
        from asr.models.device import set_precision

        set_precision("fp32")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch. Trainings set the number of threads of the process: give it back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Any:
    """The ``torch.device`` of ``--device``. Raises ``ConfigError`` where it is not there."""
    from asr.models.device import pick_device

    return pick_device(request.config.getoption("--device"))


def make_bursts(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Chords of 60 to 250 ms with pauses between them, float32 ``(S,)``: changing enough for a model to spell."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * rate_hz))
    at = 0
    while at < len(samples):
        length = int(rng.uniform(0.06, 0.25) * rate_hz)
        time = np.arange(min(length, len(samples) - at)) / rate_hz
        for hz in rng.uniform(150, 3500, size=3):
            samples[at : at + length] += 0.15 * np.sin(2 * np.pi * hz * time)
        at += length + int(rng.choice([0, 0.03, 0.2]) * rate_hz)
    return samples.astype(np.float32)


@pytest.fixture(scope="session")
def bursts() -> Callable[..., np.ndarray]:
    """``make_bursts`` itself."""
    return make_bursts


@pytest.fixture(scope="session")
def write_wav() -> Callable[..., Path]:
    """``write_wav(path, samples, rate_hz=16000)`` writes 16-bit audio, and the folders on the way."""

    def write(path: Path, samples: Any, rate_hz: int = RATE_HZ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate_hz, subtype="PCM_16")
        return path

    return write


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with tiny random weights that spells nonsense for ``make_bursts`` and nothing for silence."""
    import torch

    from asr.config.sections import Config, ModelConfig
    from asr.models import model_directory
    from asr.models.acoustic import AcousticModel
    from asr.models.features import LogMel, measure_stats
    from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer

    config = Config(model=ModelConfig(channels=4, layers=1, hidden=24))
    tokenizer = CharTokenizer([BLANK_SYMBOL, " ", "'", *string.ascii_uppercase], config.text)
    stats = measure_stats(LogMel(config.features), [make_bursts(10, seed=99)])
    torch.manual_seed(1)
    network = AcousticModel(config.model, config.features.mel_bins, tokenizer.vocab_size).eval()
    log_mel = LogMel(config.features, stats)
    with torch.inference_mode():
        silence, _ = network(*log_mel(torch.zeros(1, RATE_HZ), torch.tensor([RATE_HZ])))
        # In silence blank then wins each frame, the more so as everything is made to differ more.
        network.output.bias[0] -= silence[0, :, 0].min()
        network.output.bias[1:] -= silence[0, :, 1:].max(dim=0).values
        network.output.bias[1] += 0.8  # spaces as well
        network.output.weight.mul_(12)
        network.output.bias.mul_(12)
        network.output.bias[0] += 3
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model_directory.save_model_description(folder, config, tokenizer, stats)
    model_directory.save_weights(folder, network, {"name": "tiny", "data": "none: random weights"})
    return folder


@pytest.fixture(scope="session")
def compiled_search() -> None:
    """The beam search, compiled: with an empty cache its first use says so on standard error."""
    from asr.decode.warming import warm_up

    warm_up(phrases=True)


@pytest.fixture(scope="session")
def recognizer(model_dir: Path) -> Any:
    """The tiny model, loaded; greedy, on the device of the tests."""
    import asr

    return asr.load(model_dir, device=where.DEVICE)


@pytest.fixture(scope="session")
def asr_data() -> Callable[[str], Path]:
    """``asr_data(name)`` is a file or folder of ASR_DATA; where it is missing the test is skipped and says why."""

    def find(name: str) -> Path:
        folder = os.environ.get("ASR_DATA")
        if not folder:
            pytest.skip(f"ASR_DATA is not set: it names the folder with {name}")
        path = Path(folder).resolve() / name
        if not path.exists():
            pytest.skip(f"ASR_DATA={folder} does not hold {name}")
        return path

    return find


@pytest.fixture
def quick_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait a hundredth of their time."""
    from asr.cloud import retries

    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.002)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.02)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A web server without files.

    Its port may be that of an earlier test's server: what was remembered of that one's files is forgotten.
    """
    from object_server import Objects, serving

    from asr.audio import archive_index, archive_members
    from asr.cloud import filesystems
    from asr.data import remote_files

    monkeypatch.setattr(archive_index, "_indices", archive_index._Indices())
    archive_index._is_object.cache_clear()
    archive_members._check_stored.cache_clear()
    remote_files._member.cache_clear()
    with serving(Objects()) as objects:
        yield objects
    filesystems.forget_connections()
