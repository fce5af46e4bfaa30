"""A worker process: the models, loaded once, with the live streams and the files that it computes.

The server's own process keeps the connections, so that it answers at once whatever
is computed, and goes on where a worker ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from asr.config.child_processes import end_with
from asr.config.cpus import sees_gpu
from asr.decode.endpoint import Endpoint
from asr.decode.warming import warm_pools
from asr.errors import AsrError, ConfigError, ModelError
from asr.models.bundled import model_file
from asr.recognize.gradual import allow_breaks
from asr.recognize.loading import torch_is_installed
from asr.recognize.recognizer import Recognizer, load
from asr.recognize.stream import advance_streams
from asr.server.computing_turns import Turns
from asr.server.file_engine import FileEngine
from asr.server.live_engine import LiveEngine, open_stream
from asr.server.problems import WorkerLostError
from asr.server.wire import (
    Asked,
    Broken,
    CancelFile,
    CloseStream,
    OpenStream,
    Ready,
    Reply,
    StepReport,
    SwapModel,
    TranscribeFile,
    WorkerSetup,
)

WARM_S = 2.0
"""Seconds of noise that each model decodes before the worker is ready."""
BLOCK_S, FEW = 0.1, 8
"""Blocks in which it does so, and how many streams at a time."""


def run_worker(descriptor: int, parent: int) -> None:
    """Serve the other end of the connection until it closes or the process ``parent`` ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent ends its workers when their work is done
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    sys.setswitchinterval(0.001)  # a request must not wait for the computing thread
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        Worker(connection, connection.recv()).serve()
    os._exit(0)


class Worker:
    """The engines of one process, and the connection to the server."""

    def __init__(self, connection: Connection, setup: WorkerSetup) -> None:
        self.connection, self.setup = connection, setup
        self._sending = threading.Lock()
        self._openers = ThreadPoolExecutor(2, thread_name_prefix="open")
        self._opening: dict[int, bool] = {}
        """Streams that are being opened, and whether they were closed meanwhile."""
        self._openings = threading.Lock()

    def emit(self, messages: Sequence[Any]) -> None:
        """Send messages to the server, from any thread."""
        with self._sending:
            self.connection.send(list(messages))

    def serve(self) -> None:
        """Load, say that it is ready, and answer requests until the connection closes."""
        turns = Turns()
        unusable: dict[str, str] = {}
        try:
            recognizers = self.recognizers = load_models(self.setup)
        except AsrError as error:
            self.emit([Broken(error)])
            return
        for name, place in self.setup.learnt.items():
            try:
                recognizers.update(learnt_models(self.setup, name, place))
            except AsrError as error:  # such as a folder that was deleted
                unusable[name] = str(error)
        self.live = LiveEngine(recognizers, self.setup.live_model, turns, self.emit)
        self.files = FileEngine(recognizers, self.setup.case, turns, self.emit)
        threading.Thread(target=self._compute, daemon=True, name="live").start()
        costs = {id(made): first_costs(made, name) for name, made in recognizers.items()}
        for name, made in recognizers.items():
            self.emit([report._replace(model=name) for report in costs[id(made)]])
        self.emit([Ready(unusable)])
        while True:
            for asked in self.connection.recv():
                self.dispatch(asked)

    def _compute(self) -> None:
        try:
            self.live.run()
        except OSError:  # the server has gone
            pass
        except BaseException:
            traceback.print_exc()
        finally:  # without this thread the process is of no use; the server notices and starts another
            os._exit(1)

    def dispatch(self, asked: Asked) -> None:
        """Begin what a request asks for."""
        request = asked.request
        if isinstance(request, OpenStream):
            with self._openings:
                self._opening[request.session] = False
            self._openers.submit(self._open, asked.ticket, request)
        elif isinstance(request, TranscribeFile):
            self.files.begin(asked.ticket, request)
        elif isinstance(request, CancelFile):
            self.files.cancel(request.job)
        elif isinstance(request, SwapModel):
            self._openers.submit(self._swap, asked.ticket, request)
        else:
            if isinstance(request, CloseStream):
                with self._openings:
                    if request.session in self._opening:
                        self._opening[request.session] = True
            self.live.submit(asked)

    def _swap(self, ticket: int, request: SwapModel) -> None:
        """Engines look models up by name, so that what is new gets the new one."""
        failure: AsrError | None = None
        try:
            self.recognizers.update(learnt_models(self.setup, request.model, request.place))
        except AsrError as error:
            failure = error
        except Exception as error:  # a fault of ours, or memory
            failure = AsrError(f"{request.place}: cannot be loaded ({type(error).__name__})")
        self.emit([Reply(ticket, error=failure)])

    def _open(self, ticket: int, request: OpenStream) -> None:
        live, failure = None, None
        with self._openings:
            if self._opening[request.session]:  # closed while it waited: nobody needs it
                del self._opening[request.session]
                return
        try:
            recognizer = self.live.recognizers[request.model]
            live = open_stream(recognizer, request.options, request.model, self.setup.case)
        except AsrError as error:
            failure = error
        except Exception as error:  # a fault of ours, or memory
            failure = WorkerLostError(f"the stream cannot begin ({type(error).__name__})")
        with self._openings:
            closed = self._opening.pop(request.session)
            if live is not None and not closed:
                self.live.add(request.session, live)
        self.emit([Reply(ticket, error=failure)])


def load_models(setup: WorkerSetup) -> dict[str, Recognizer]:
    """The recognizers by name, each warm: code is compiled, memory is touched. Raises ``AsrError``."""
    runtime = choose_runtime(setup.runtime, setup.device)
    found: dict[str, Recognizer] = {}
    loaded: dict[Path, Recognizer] = {}
    for name, place in setup.models.items():
        weights = model_file(Path(place), "model.safetensors")
        first = loaded.get(weights)
        if first is not None:
            found[name] = _beside(first, Path(place), setup)
        else:
            found[name] = loaded[weights] = _loaded(name, place, setup, runtime)
        adapt = found[name].decoder.options.lm_adapt
        if adapt:
            raise AsrError(
                f"{name}: expected lm_adapt 0 in decoding.yaml, since a language model that learns would carry words "
                f"from one client to another; got {adapt}"
            )
    return found


def choose_runtime(wish: str, device: str) -> str:
    """What runs the models, for ``Settings.runtime`` and a device: as ``asr.recognize.loading.RUNTIMES``.

    onnxruntime carries twice as many streams as torch on a CPU, in half of the memory.
    """
    if wish != "auto":
        return wish
    wants_gpu = device != "auto" and not device.startswith("cpu")
    return "torch" if torch_is_installed() and (wants_gpu or (device == "auto" and sees_gpu())) else "onnxruntime"


def _loaded(name: str, place: str, setup: WorkerSetup, runtime: str) -> Recognizer:
    """A recognizer that has transcribed something, with pauses inside its network."""
    # A folder of asr export needs no torch, whatever the device is.
    exported = not os.path.isfile(model_file(Path(place), "model.safetensors"))
    runtime = "onnxruntime" if exported else runtime
    try:
        return _warm(load(place, device=setup.device, max_duration_s=setup.file_s, runtime=runtime))
    except ModelError as error:
        if runtime != "onnxruntime" or setup.runtime != "auto" or exported or not torch_is_installed():
            raise
        reason = error
    made = _warm(load(place, device=setup.device, max_duration_s=setup.file_s, runtime="torch"))
    print(f"{name}: torch runs this model, for fewer streams, since onnxruntime cannot: {reason}", file=sys.stderr)
    return made


def _warm(made: Recognizer) -> Recognizer:
    allow_breaks(made)
    most = int((made.max_duration_s or WARM_S) * made.sample_rate_hz)  # of --most-file-s
    made.transcribe(_noise(made, 1)[:most])
    if made.decoder.options.beam > 1:
        warm_pools()
    with contextlib.suppress(ConfigError):  # it needs whole recordings: each client that opens a stream gets the reason
        stream = made.stream()
        stream.accept(_noise(made, 2))
        stream.finish()
    return made


def _beside(first: Recognizer, path: Path, setup: WorkerSetup) -> Recognizer:
    """The recognizer of a model directory with the weights of another one, which both use: ``english-stream``."""
    model: Any = first.model  # a dataclass, of either kind
    made = Recognizer(dataclasses.replace(model, path=path), device=setup.device, max_duration_s=setup.file_s)
    if made.decoder.options == first.decoder.options:
        made.decoder = first.decoder
    return _warm(made)


def learnt_models(setup: WorkerSetup, name: str, place: str) -> dict[str, Recognizer]:
    """The recognizers of a model that is served from ``place``, and of those with the same weights as its own
    directory: ``english-stream`` hears what ``english`` has learnt. Raises ``AsrError``."""
    made = load_models(dataclasses.replace(setup, models={name: place}))[name]
    weights = model_file(Path(setup.models[name]), "model.safetensors")
    found = {name: made}
    for other, folder in setup.models.items():
        if folder == setup.models[name]:
            found[other] = made
        elif model_file(Path(folder), "model.safetensors") == weights:
            found[other] = _beside(made, Path(folder), setup)
    return found


def first_costs(recognizer: Recognizer, model: str) -> list[StepReport]:
    """What steps of one stream and of several cost, by which streams are admitted before any has been served."""
    reports = []
    for count in (1, FEW):
        try:
            streams = [recognizer.stream(endpoint=Endpoint()) for _ in range(count)]
        except ConfigError:  # it needs whole recordings: each client that opens a stream gets the reason
            return []
        size = round(BLOCK_S * recognizer.sample_rate_hz)
        sounds = [_noise(recognizer, seed) for seed in range(count)]
        for at in range(0, len(sounds[0]), size):
            started = time.perf_counter()
            for stream, sound in zip(streams, sounds, strict=True):
                stream.push(sound[at : at + size])
            advance_streams(streams)
            reports.append(StepReport(model, count, count * BLOCK_S, time.perf_counter() - started))
    return reports[1:]  # the first touches memory


def _noise(recognizer: Recognizer, seed: int) -> np.ndarray:
    """Noise whose level and colour wander, as speech does."""
    rng = np.random.default_rng(seed)
    rate = recognizer.sample_rate_hz
    size = round(WARM_S * rate)
    levels = np.repeat(rng.uniform(0, 0.5, size * 10 // rate + 1) ** 2, rate // 10)[:size]
    steps = np.repeat(rng.uniform(0.05, 1.0, size * 20 // rate + 1), rate // 20)[:size]
    sound: np.ndarray = (levels * (np.sin(np.cumsum(steps)) + 0.3 * rng.normal(0, 1, size))).astype(np.float32)
    return sound
