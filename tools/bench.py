"""Benchmarks, each a ratio taken in one run.

    python tools/bench.py transcribe FILE... [--model DIR|NAME] [--threads N] [--repeat N]
    python tools/bench.py train CONF [key=value ...] [--threads N] [--repeat N]
    python tools/bench.py stream FILE... [--model DIR|NAME] [--threads N] [--streams N]
    python tools/bench.py serve FILE... [--model NAME] [--streams N] [--overload N] [--vanish N] [--short N]
    python tools/bench.py loader MANIFEST [--workers 0 1 2] [--threads 2] [--formats wav flac opus] [--conf CONF]
    python tools/bench.py loader MANIFEST --steps [--conf CONF]
    python tools/bench.py lm-open [--words N] [--ngrams N] [--repeat N]
    python tools/bench.py decode MANIFEST [--model DIR|NAME] [--arpa FILE] [--lm DIR] [--peers-python PYTHON]

``transcribe`` gives seconds of computing per second of audio, without loading the model: one file after another, and
all in one batch; with ``--pocketsphinx`` (pip install pocketsphinx) its time for the same files.

``stream`` gives the time that one stream needs for each block, and the lags of many streams that are advanced together
while their blocks arrive on a simulated clock.

``serve`` gives the lags of many clients of ``asr serve`` in real time, over loopback, from processes of their own.

``train`` gives audio seconds per second of training, on the epochs of CONF: the real loop (reading, augmentation,
features, steps, log, checkpoints), the same steps on features that are ready (the compute limit), and the same network
with ``pack_padded_sequence``, which on CPU leaves the fused kernels. The three take turns, so that other load on the
machine affects them equally. A large matrix product takes turns with them too: it shows how far the steps are from the
processor's limit.

``loader`` gives audio seconds per CPU second, and per second, of making batches: by format, with and without noise and
rooms, for numbers of loader processes and, with ``--threads``, for threads of one process. With ``--conf`` it adds the
distortions of a training configuration. ``--steps`` prints where the CPU time goes.

``lm-open`` gives seconds and anonymous memory until a search with a large word n-gram is ready.

``decode`` gives seconds and WER of this package's beam search and of other packages' on the posteriors of MANIFEST, at
the same beams and thresholds. The others (extra ``bench``) may be installed in another environment; ``--peers-python``
names its Python.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bench_decode
import bench_lm
import bench_loader
import bench_serve
import bench_stream
import torch
from torch import Tensor, nn

import asr
from asr.audio import read
from asr.config import sections
from asr.config.sections import Config
from asr.data.batches import Batch
from asr.models.acoustic import AcousticModel
from asr.models.cells import RecurrentLayer
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording
from asr.train import acoustic_task, loop, losses, process


def transcribe(args: argparse.Namespace) -> int:
    """Print load time and real-time factors."""
    started = time.perf_counter()
    recognizer = asr.load(args.model, device="cpu")
    load_s = time.perf_counter() - started
    audio_s = sum(recognizer.transcribe(path).duration_s for path in args.files)
    single = measure(lambda: [recognizer.transcribe(path) for path in args.files], args.repeat)
    batch = measure(lambda: run_batch(recognizer, args.files), args.repeat)
    print(f"{len(args.files)} files, {audio_s:.1f} s of audio, {torch.get_num_threads()} threads, load {load_s:.2f} s")
    for name, seconds in (("one by one", single), ("batched", batch)):
        print(f"{name:>11}: {seconds:.3f} s = {seconds / audio_s:.4f} x real time")
    if args.pocketsphinx:
        seconds = pocketsphinx_time(args.files)
        print(f"pocketsphinx: {seconds:.3f} s = {seconds / audio_s:.4f} x real time, {seconds / single:.1f} x as long")
    return 0


def pocketsphinx_time(files: list[str]) -> float:
    """Seconds that pocketsphinx takes for the files with its default English model, loading it apart."""
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")
    samples = [(32767 * read.load_audio(path, 16000).clip(-1, 1)).astype("<i2").tobytes() for path in files]
    started = time.perf_counter()
    for content in samples:
        decoder.start_utt()
        decoder.process_raw(content, full_utt=True)
        decoder.end_utt()
    return time.perf_counter() - started


def run_batch(recognizer: Recognizer, files: list[str]) -> None:
    """Transcribe all files, raising the first error."""
    for _, result in recognizer.transcribe_many(Recording(path, path) for path in files):
        if isinstance(result, asr.AsrError):
            raise result


class PackedLayer(nn.Module):
    """The layer as most toolkits write it: torch's own bidirectional layer over packed sequences."""

    def __init__(self, layer: RecurrentLayer) -> None:
        super().__init__()
        cell = layer.forward_cell
        assert isinstance(cell, nn.RNNBase), "only rnn, rnn_relu, gru and lstm can be packed"
        bidirectional = layer.backward_cell is not None
        make: Callable[..., nn.RNNBase] = type(cell)
        self.cell = make(cell.input_size, cell.hidden_size, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor, lengths: Tensor, state: object = None) -> tuple[Tensor, object]:
        """As ``RecurrentLayer.forward``, from the start of the utterance."""
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, following = self.cell(packed)
        return nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], following


def train(args: argparse.Namespace) -> int:
    """Print audio seconds per second of the real loop, the compute limit and the packed network."""
    config = sections.load_config(args.config, args.overrides)
    with tempfile.TemporaryDirectory() as folder, process.stop_request() as stop:
        process.keep_freed_memory()
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, valid=""),
            # What is compared is one pass of the network for each utterance, and nothing but CTC behind it.
            train=dataclasses.replace(
                config.train, output=folder, epochs=args.repeat + 1, consistency=0.0, teacher="", init="", freeze=0
            ),
        )
        task = acoustic_task.AcousticTask(config)
        run = loop.Run(task, config, Path(folder))
        ready = [batch for batch in task.batches(task.plan(0), 0) if batch is not None]
        step_time(config, task, ready[:5])
        real, limit, packed, system, user, peak = [], [], [], [], [], []
        packed_task = acoustic_task.AcousticTask(config)
        for index, layer in enumerate(packed_task.model.encoder.layers):
            assert isinstance(layer, RecurrentLayer)
            packed_task.model.encoder.layers[index] = PackedLayer(layer)
        few = ready[:: max(1, len(ready) // 6)]
        for epoch in range(args.repeat + 1):
            before = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), run.progress.audio_s
            run.epoch(stop)
            after = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), run.progress.audio_s
            if epoch == 0:
                continue  # caches fill, kernels are chosen
            real.append((after[2] - before[2]) / (after[1] - before[1]))
            system.append(after[0].ru_stime - before[0].ru_stime)
            user.append(after[0].ru_utime - before[0].ru_utime)
            limit.append(step_time(config, task, ready))
            packed.append(step_time(config, packed_task, few) / step_time(config, task, few))
            peak.append(product_speed())
    speed, best = statistics.median(real), statistics.median(limit)
    print(f"{len(ready)} batches an epoch, {torch.get_num_threads()} threads, median of {args.repeat} epochs")
    print(f"  real loop: {speed:.0f} x real time = {speed / best:.2f} of the compute limit")
    print(f"  compute limit, features ready: {best:.0f} x real time")
    print(f"  packed sequences: {1 / statistics.median(packed):.1f} times slower than the compute limit")
    used, most = best * work_per_second(config, task.model) / 1e9, statistics.median(peak) / 1e9
    print(f"  compute limit: {used:.0f} GFLOP/s = {used / most:.2f} of a matrix product's {most:.0f}")
    print(f"  system time of the real loop: {100 * sum(system) / sum(user):.1f} % of user time")
    return 0


def step_time(config: Config, task: acoustic_task.AcousticTask, batches: Sequence[Batch]) -> float:
    """Audio seconds per second of forward, loss, backward and update, the features being ready."""
    inputs = [(task.features(batch, training=True), batch) for batch in batches]
    optimiser = torch.optim.AdamW(task.network.parameters(), lr=config.optim.learning_rate)
    task.network.train()
    started = time.perf_counter()
    for (features, frames), batch in inputs:
        log_probs, lengths = task.network(features, frames)
        loss = losses.ctc_loss(log_probs, lengths, batch).sum() / batch.token_lengths.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.network.parameters(), config.optim.clip_norm)
        optimiser.step()
    seconds = time.perf_counter() - started
    return sum(batch.total_samples for batch in batches) / config.features.sample_rate_hz / seconds


def work_per_second(config: Config, model: AcousticModel) -> float:
    """Floating-point operations of a training step for a second of audio: multiplications and additions of the weights
    with what they meet, once forward and twice backward; all else (gates, norms, loss, update) is left out."""
    frames, bins, products = 1 / config.features.hop_s, config.features.mel_bins, 0.0
    for conv in model.subsampling.convs:
        assert isinstance(conv, nn.Conv2d)
        frames, bins = frames / conv.stride[0], (bins + 1) // 2
        products += frames * bins * conv.weight.numel()
    products += frames * sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)
    return 6 * products


def product_speed(size: int = 1536, seconds: float = 1.0) -> float:
    """Floating-point operations a second of square float32 matrix products."""
    left, right = torch.randn(2, size, size)
    out = left @ right
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        torch.mm(left, right, out=out)
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - started)


def measure(function: Callable[[], object], repeat: int) -> float:
    """Median seconds of ``repeat`` calls."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("transcribe")
    command.add_argument("files", nargs="+")
    command.add_argument("--model")
    command.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    command.add_argument("--repeat", type=int, default=5)
    command.add_argument("--pocketsphinx", action="store_true", help="the same files with pocketsphinx, its own model")
    command.set_defaults(run=transcribe)
    command = commands.add_parser("stream")
    bench_stream.add_arguments(command)
    command.set_defaults(run=bench_stream.run)
    command = commands.add_parser("serve")
    bench_serve.add_arguments(command)
    command.set_defaults(run=bench_serve.run)
    command = commands.add_parser("train")
    command.add_argument("config", metavar="CONF")
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    command.add_argument("--repeat", type=int, default=3, help="timed epochs, after one untimed")
    command.set_defaults(run=train)
    command = commands.add_parser("loader")
    bench_loader.add_arguments(command)
    command.set_defaults(run=bench_loader.run)
    command = commands.add_parser("decode")
    command.add_argument("manifest")
    command.add_argument("--model")
    command.add_argument("--arpa", help="word n-gram; its words are the lexicon")
    command.add_argument("--lm", help="directory of train-lm")
    command.add_argument("--lm-weight", type=float, default=0.3)
    command.add_argument("--word-bonus", type=float, default=1.0)
    command.add_argument("--beams", type=int, nargs="+", default=[16, 64])
    command.add_argument("--token-threshold", type=float, default=-5.0)
    command.add_argument("--blank-threshold", type=float, default=-0.001)
    command.add_argument("--beam-threshold", type=float, default=10.0)
    command.add_argument("--long-s", type=float, default=600.0, help="seconds of one long matrix; 0: none")
    command.add_argument("--peers-python", default="", help="Python of the other packages' environment")
    command.add_argument("--threads", type=int, default=1, help="0: torch's own choice")
    command.add_argument("--repeat", type=int, default=5)
    command.set_defaults(run=bench_decode.decode)
    command = commands.add_parser("lm-open")
    command.add_argument("--words", type=int, default=200_000)
    command.add_argument("--ngrams", type=int, default=5_000_000)
    command.add_argument("--model", default="an4", help="whose tokens spell the words")
    command.add_argument("--threads", type=int, default=0)
    command.add_argument("--repeat", type=int, default=5)
    command.set_defaults(run=bench_lm.lm_open)
    args = parser.parse_args()
    if getattr(args, "threads", None) and args.run is not bench_loader.run:
        torch.set_num_threads(args.threads)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
