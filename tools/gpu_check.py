"""What a GPU gives: correctness beside the CPU, speeds, where the time of a step goes, waits, loader, transcription.

``python tools/gpu_check.py`` prints a JSON object a line: ``part``, ``seconds`` since the start, and figures. After
``--budget`` seconds (50) no part begins. A part that fails says so in ``error`` and ends no other; the exit status is
then 1. ``--device cpu`` runs the same on small sizes, to try the tool itself. It needs no data: chords replace speech.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import platform
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from asr.config import loader
from asr.config.sections import Config
from asr.data.batches import Batch
from asr.errors import AudioError
from asr.models.device import PRECISIONS, pick_device, set_precision
from asr.models.features import LogMel, measure_stats
from asr.models.model_directory import Model
from asr.recognize.options import Decoding
from asr.recognize.recognizer import Recognizer
from asr.train import acoustic_task, loop

RATE_HZ = 16000
TEXT = "THE QUICK BROWN FOX"


@dataclasses.dataclass
class Sizes:
    """What is measured, by device."""

    layers: int
    hidden: int
    seconds: float
    rows: tuple[int, ...]
    steps: int


LARGE = Sizes(layers=4, hidden=512, seconds=10, rows=(64, 128), steps=5)
SMALL = Sizes(layers=1, hidden=16, seconds=1, rows=(2,), steps=2)


class Check:
    """The parts, in the order of their methods in ``parts``; each gives the figures of its line."""

    def __init__(self, device: torch.device, folder: Path, budget_s: float) -> None:
        self.device, self.folder, self.budget_s = device, folder, budget_s
        self.sizes = LARGE if device.type == "cuda" else SMALL
        self.started = time.monotonic()
        self.failed = False
        self.manifest = self._write_corpus()
        self.parts: tuple[Callable[[], Any], ...] = (
            self.versions, self.features, self.step, self.transcripts, self.speeds, self.where, self.waits, self.loader,
            self.transcription,
        )  # fmt: skip

    def run(self) -> None:
        """Print the line of every part that there is time for."""
        for part in self.parts:
            line: dict[str, Any] = {"part": part.__name__}
            if time.monotonic() - self.started > self.budget_s:
                line["skipped"] = f"over {self.budget_s:g} s"
            else:
                try:
                    line |= part()
                except Exception:
                    line["error"] = traceback.format_exc()[-1500:]
                    self.failed = True
            line["seconds"] = round(time.monotonic() - self.started, 1)
            print(json.dumps(line), flush=True)

    def versions(self) -> dict[str, Any]:
        """Device, torch, Python."""
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def features(self) -> dict[str, Any]:
        """Largest difference of log-mel features from the CPU's, in nats; TF32 must not reach them."""
        samples, lengths = torch.from_numpy(chords(4.0, 0))[None].repeat(2, 1), torch.tensor([64000, 40000])
        log_mel = LogMel(self.config().features)
        expected, frames = log_mel(samples, lengths)
        found = {}
        for precision in ("fp32", "tf32"):
            set_precision(precision)
            ours, count = log_mel.to(self.device)(samples.to(self.device), lengths.to(self.device))
            found[precision] = float((ours.cpu() - expected).abs().max())
            assert torch.equal(count.cpu(), frames)
        return {"largest_difference": found}

    def step(self) -> dict[str, Any]:
        """Loss and gradients of one step by precision beside those of the CPU in fp32, without dropout."""
        reference, loss, gradients = self._gradients("cpu", "fp32", None)
        found = {}
        for precision in PRECISIONS:
            _, ours, theirs = self._gradients(str(self.device), precision, reference)
            found[precision] = {
                "loss": ours / loss - 1,
                "gradient": float((theirs - gradients).norm() / gradients.norm()),
                "cosine": float(torch.nn.functional.cosine_similarity(theirs.double(), gradients.double(), dim=0)),
            }
        return {"cpu_loss": loss, "relative_to_cpu": found}

    def transcripts(self) -> dict[str, Any]:
        """How many greedy transcripts of the bundled model equal the CPU's, on the example recording and on chords."""
        import asr

        set_precision("fp32")
        waves: list[Any] = [str(Path(__file__).parents[1] / "egs" / "sample.wav"), *(chords(3.0, n) for n in range(5))]
        texts = [
            [asr.load("an4", device=name, beam=1).transcribe(wave).text for wave in waves]
            for name in ("cpu", str(self.device))
        ]
        return {"same": sum(a == b for a, b in zip(*texts, strict=True)), "of": len(waves)}

    def speeds(self) -> dict[str, Any]:
        """Seconds of audio that a training step takes a second, by precision and rows of the batch."""
        found = {}
        for rows in self.sizes.rows:
            for precision in PRECISIONS:
                if self.device.type == "cpu" and precision == "fp16":
                    continue  # not every CPU computes in it
                run, batch = self._run(rows, precision)
                step_s = self._time(lambda run=run, batch=batch: run.step(batch, 10**6), self.sizes.steps)
                run.results.flush()
                found[f"{rows} rows, {precision}"] = round(rows * self.sizes.seconds / step_s, 1)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        sizes = self.sizes
        return {"x_real_time": found, "network": f"{sizes.layers} x {sizes.hidden}", "seconds_a_row": sizes.seconds}

    def where(self) -> dict[str, Any]:
        """Milliseconds of the parts of a bf16 step, each alone."""
        run, batch = self._run(self.sizes.rows[0], "bf16")
        task = run.task
        assert isinstance(task, acoustic_task.AcousticTask)
        features, frames = task.features(batch, training=True)
        log_probs, _ = task.network(features, frames)
        fixed = log_probs.detach().requires_grad_()
        lengths = task.model.count(task.features.log_mel.count(batch.lengths.cpu()))
        run.step(batch, 10**6)
        parts: dict[str, Callable[[], Any]] = {
            "copy of the samples": lambda: batch.samples.to(self.device),
            "features, colours, masks": lambda: task.features(batch, training=True),
            "forward and CTC": lambda: task.loss(batch).detach(),
            "CTC and its gradient": lambda: acoustic_task.ctc_loss(fixed, lengths, batch).sum().backward(),
            "optimiser": run.optimiser.step,
            "average": lambda: run.follow(0.01),
            "whole step": lambda: run.step(batch, 10**6),
        }
        return {"ms": {name: round(1e3 * self._time(part, self.sizes.steps), 2) for name, part in parts.items()}}

    def waits(self) -> dict[str, Any]:
        """Where the host waits for the GPU in a step; a CPU is never waited for."""
        run, batch = self._run(self.sizes.rows[0], "bf16")
        for _ in range(2):
            run.step(batch, 10**6)
        if self.device.type != "cuda":
            return {"count": 0}
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run.step(batch, 10**6)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
        return {"count": len(places), "places": collections.Counter(places)}

    def loader(self) -> dict[str, Any]:
        """Seconds of audio that the loader prepares a second, from WAV files, as this configuration has it."""
        task = acoustic_task.AcousticTask(self.config())
        started, audio_s = time.perf_counter(), 0.0
        for epoch in range(2):
            for batch in task.batches(task.plan(epoch), epoch):
                audio_s += task.audio_s(batch) if batch is not None else 0.0
        return {"x_real_time": round(audio_s / (time.perf_counter() - started), 1), "workers": task.config.data.workers}

    def transcription(self) -> dict[str, Any]:
        """Seconds of audio that are transcribed a second, greedily, from arrays and from WAV files, by precision.

        ``files``: of ``arrays``, what the reading leaves. The network has random weights.
        """
        count, times = (300, 10) if self.device.type == "cuda" else (4, 2)
        waves = [chords(self.sizes.seconds, number) for number in range(count)]
        paths = [self.folder / f"long{number}.wav" for number in range(count)]
        for path, wave in zip(paths, waves, strict=True):
            soundfile.write(path, wave, RATE_HZ, subtype="PCM_16")
        task = acoustic_task.AcousticTask(self.config())
        stats = measure_stats(LogMel(task.config.features), waves[:1])
        model = Model(task.config, task.tokenizer, stats, task.model.eval(), {}, self.folder)
        audio_s, found = count * times * self.sizes.seconds, {}
        for precision in ("fp32", "bf16") if self.device.type == "cpu" else ("fp32", "bf16", "fp16"):
            recognizer = Recognizer(model, device=str(self.device), decoding=Decoding(beam=1), precision=precision)
            list(recognizer.transcribe_many(waves))
            speeds = {}
            for name, sources in (("arrays", waves * times), ("files", paths * times)):
                started = time.perf_counter()
                results = [result for _, result in recognizer.transcribe_many(sources, readers=None)]
                speeds[name] = round(audio_s / (time.perf_counter() - started), 1)
                assert not any(isinstance(result, AudioError) for result in results)
            found[precision] = speeds
        return {"x_real_time": found}

    def config(self, **train: Any) -> Config:
        """The configuration of the measurements, with other values of its section ``train``."""
        sizes = self.sizes
        tree = {
            "augment": {"warp": 0.12, "tilt_db": 4.0},
            "model": {"layers": sizes.layers, "hidden": sizes.hidden, "dropout": 0.0},
            "data": {"train": str(self.manifest), "batch_s": 60.0},
            "train": {"output": str(self.folder / "run"), "device": str(self.device), "ema": 0.99} | train,
        }
        config: Config = loader.from_dict(Config, tree)
        return config

    def _gradients(
        self, device: str, precision: str, weights: dict[str, torch.Tensor] | None
    ) -> tuple[dict[str, torch.Tensor], float, torch.Tensor]:
        """Weights, loss per token and flat gradient of one batch."""
        torch.manual_seed(1)
        task = acoustic_task.AcousticTask(self.config(device=device, precision=precision))
        task.model.load_state_dict(weights or task.model.state_dict())
        task.network.train()
        batch = next(iter(task.batches(task.plan(0), 0)))
        assert batch is not None
        loss = task.loss(batch) / batch.total_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        flat = torch.cat([p.grad.flatten().float().cpu() for p in task.network.parameters() if p.grad is not None])
        return {name: value.cpu() for name, value in task.model.state_dict().items()}, loss.item(), flat

    def _run(self, rows: int, precision: str) -> tuple[loop.Run, Batch]:
        """A training with one batch of ``rows`` rows on the device."""
        config = self.config(precision=precision)
        task = acoustic_task.AcousticTask(config)
        run = loop.Run(task, config, self.folder / "run")
        run.network.train()
        rng, samples = np.random.default_rng(0), int(self.sizes.seconds * RATE_HZ)
        counts = torch.full((rows,), int(8 * self.sizes.seconds))
        batch = Batch(
            ids=tuple(map(str, range(rows))),
            samples=torch.from_numpy(0.1 * rng.standard_normal((rows, samples), dtype=np.float32)),
            lengths=torch.full((rows,), samples),
            tokens=torch.from_numpy(rng.integers(1, task.tokenizer.vocab_size, int(counts.sum()))),
            token_lengths=counts,
            masks=(torch.zeros(rows, 4, 2, dtype=torch.int64),),
            colours=torch.tensor([[1.05, 1.0, -1.0]]).repeat(rows, 1),
        )
        placed = task.features.place(batch)
        return run, placed

    def _time(self, work: Callable[[], Any], count: int) -> float:
        """Median seconds of ``count`` calls, after two."""
        seconds = []
        for number in range(count + 2):
            self._synchronise()
            started = time.perf_counter()
            work()
            self._synchronise()
            if number >= 2:
                seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _write_corpus(self) -> Path:
        lines = []
        for number in range(16):
            soundfile.write(self.folder / f"{number}.wav", chords(4.0, number), RATE_HZ, subtype="PCM_16")
            lines.append({"id": str(number), "audio": f"{number}.wav", "text": TEXT, "duration_s": 4.0})
        path = self.folder / "train.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path


def chords(seconds: float, seed: int) -> np.ndarray:
    """Chords that change every 0.2 s, float32 ``(S,)``."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(RATE_HZ // 5) / RATE_HZ
    parts = [
        sum(0.1 * np.sin(2 * np.pi * hz * time_s) for hz in rng.uniform(150, 3500, 3)) for _ in range(int(seconds * 5))
    ]
    return np.concatenate(parts).astype(np.float32)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N, or cpu in small")
    parser.add_argument("--budget", type=float, default=50.0, metavar="S", help="no part begins after so many seconds")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        check = Check(pick_device(args.device), Path(folder), args.budget)
        check.run()
    return int(check.failed)


if __name__ == "__main__":
    sys.exit(main())
