"""The worker processes as the event loop sees them: requests, their replies, and what happens when one ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import sys
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

from asr.config import cpus
from asr.config.child_processes import ChildProcess, end_processes
from asr.errors import AsrError
from asr.server.admission import WorkerLoad
from asr.server.catalogue import Catalogue
from asr.server.metrics import Metrics
from asr.server.problems import BusyError, WorkerLostError
from asr.server.settings import Settings
from asr.server.wire import Asked, Broken, FileReport, Probe, Ready, Reply, Request, StepReport, SwapModel, WorkerSetup

START_S = 120.0
"""Longest time that a request waits for models that are being loaded."""
PAUSES_S = (0.0, 1.0, 5.0, 15.0)
"""Before a worker is started again that ended soon after its start: by how often that has happened in a row."""
SOON_S = 30.0
BEAT_S = 5.0
"""Between two probes of a worker."""
HANG_S = 120.0
"""A worker that does not answer a probe for so long is ended, and another one started. Far more than any step takes:
on a machine with twenty times too much to do a probe has taken 50 s."""
LOAD_S = 600.0
"""A worker that has not loaded its models after so long is ended, too."""


FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""glibc has heaps for each thread otherwise, and keeps what streams and files have left in each."""


class WorkerProcess:
    """One worker: ``ask`` and ``listen`` while it lives, and it is started again when it ends."""

    def __init__(self, number: int, setup: WorkerSetup, metrics: Metrics) -> None:
        self.number, self.setup, self.metrics = number, setup, metrics
        self.load = WorkerLoad()
        self.files = 0
        """Jobs under way."""
        self.ready = asyncio.Event()
        self.broken: AsrError | None = None
        """Why the models cannot be loaded."""
        self._has_served = False
        self.life = 0
        """How many processes this worker has had: a stream belongs to one of them."""
        self.places: dict[str, str] = {}
        """The directories that this process serves, or is loading, by name of the model."""
        self.unusable: dict[str, str] = {}
        """The directories that this process was to serve and could not load, by name of the model."""
        self._child: ChildProcess | None = None
        self._tickets = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue[Reply]] = {}
        self._out: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._quick_ends = 0
        self._hung = ""
        """Why this process was ended from here."""
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the process; ``ready`` is set when it answers. Raises ``AsrError`` where none can be started."""
        self._loop = asyncio.get_running_loop()
        self.life += 1
        self._started = time.monotonic()
        try:
            child = ChildProcess(
                "asr.server.worker_child", "run_worker", threads=self.setup.threads, defaults=FEW_ARENAS
            )
        except OSError as error:
            raise AsrError(f"cannot start a worker process: {error}") from error
        self._child, self._out = child, queue.SimpleQueue()
        self.places, self.unusable = {**self.setup.models, **self.setup.learnt}, {}
        for target, work in ((self._write, (child, self._out, self.setup)), (self._read, (child,))):
            threading.Thread(target=target, args=work, daemon=True, name=target.__name__).start()

    @property
    def pid(self) -> int | None:
        """Of the process; None without one."""
        return None if self._child is None else self._child.process.pid

    def stop(self) -> None:
        """End the process."""
        self._stopping = True
        if self._child is not None:
            self._out.put(None)
            end_processes([self._child])
            self._child = None

    async def ask(self, request: Request) -> Any:
        """The one answer to a request. Raises what the worker answers, and ``WorkerLostError`` where it ends."""
        async with contextlib.aclosing(self.listen(request)) as replies:
            async for value in replies:
                return value
        raise AssertionError("a request is answered")

    async def listen(self, request: Request) -> AsyncGenerator[Any, None]:
        """All parts of the answer to a request. Raises as ``ask``."""
        self.check()
        ticket = next(self._tickets)
        replies: asyncio.Queue[Reply] = asyncio.Queue()
        self._waiting[ticket] = replies
        try:
            self._out.put(Asked(ticket, request))
            more = True
            while more:
                reply = await replies.get()
                if reply.error is not None:
                    raise reply.error
                more = reply.more
                yield reply.value
        finally:
            self._waiting.pop(ticket, None)

    async def swap(self, model: str, place: str) -> None:
        """Serve a model from another directory. Raises as ``ask``."""
        life = self.life
        await self.ask(SwapModel(model, place))
        if life == self.life:
            self.places[model] = place

    def tell(self, request: Request) -> None:
        """A request without an answer; nothing where there is no process."""
        if self._child is not None:
            self._out.put(Asked(0, request))

    async def watch(self) -> None:
        """Probe the process for ever, and end one that hangs: then it is started again as after any other end."""
        loading_s = 0.0
        while not self._stopping:
            await asyncio.sleep(BEAT_S)
            child = self._child
            if child is None or not self.ready.is_set():
                loading_s = 0.0 if child is None else loading_s + BEAT_S
                if child is not None and loading_s >= LOAD_S:
                    self._end_hanging(child, f"had not loaded its models after {LOAD_S:g} s and was ended")
                    loading_s = 0.0
                continue
            loading_s = 0.0
            probe = asyncio.ensure_future(self.ask(Probe()))
            waited_s = 0.0
            while waited_s < HANG_S:  # in short steps, so that a pause of this process itself counts little
                step_s = min(1.0, HANG_S / 4)
                if (await asyncio.wait([probe], timeout=step_s))[0]:
                    break
                waited_s += step_s
            else:
                self._end_hanging(child, f"did not answer for {HANG_S:g} s and was ended")
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)

    def _end_hanging(self, child: ChildProcess, reason: str) -> None:
        if child is self._child and not self._stopping:
            self._hung = reason
            child.process.kill()

    def check(self) -> None:
        """Raise ``WorkerLostError`` where there is no process that answers."""
        if self._child is None or not self.ready.is_set():
            raise WorkerLostError("the recogniser is being started again; try again in some seconds")

    def _write(self, child: ChildProcess, out: queue.SimpleQueue[Asked | None], setup: WorkerSetup) -> None:
        with contextlib.suppress(OSError):
            child.connection.send(setup)
            while True:
                first = out.get()
                batch = [first]
                with contextlib.suppress(queue.Empty):
                    while len(batch) < 256:
                        batch.append(out.get_nowait())
                child.connection.send([asked for asked in batch if asked is not None])
                if None in batch:
                    return

    def _read(self, child: ChildProcess) -> None:
        # TypeError: another thread closed the connection while this one was in recv.
        with contextlib.suppress(EOFError, OSError, TypeError):
            while True:
                messages = child.connection.recv()
                self._loop.call_soon_threadsafe(self._deliver, messages)
        with contextlib.suppress(RuntimeError):  # the loop has ended before
            self._loop.call_soon_threadsafe(self._lost, child)

    def _deliver(self, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, Reply):
                if message.ticket in self._waiting:
                    self._waiting[message.ticket].put_nowait(message)
            elif isinstance(message, StepReport):
                self.load.note_step(message)
                if self.ready.is_set():
                    self.metrics.computing_s["live"] += message.seconds
            elif isinstance(message, FileReport):
                self.metrics.computing_s["file"] += message.seconds
                self.metrics.audio_s["file"] += message.audio_s
                self.metrics.longest_piece_s = max(self.metrics.longest_piece_s, message.longest_s)
            elif isinstance(message, Ready):
                self._begin(message)
            elif isinstance(message, Broken):
                self.broken = message.error if isinstance(message.error, AsrError) else AsrError(str(message.error))
                self._hung = f"cannot load its models ({self.broken})"
                if not self._has_served:  # ``WorkerPool.start`` waits for it
                    self.ready.set()

    def _begin(self, message: Ready) -> None:
        self.broken, self._has_served = None, True
        for name, reason in message.unusable.items():
            self.unusable[name] = self.places[name]
            self.places[name] = self.setup.models[name]
            _say(f"worker {self.number}: {reason}; it serves {name} as it was at first")
        self.ready.set()

    def _lost(self, child: ChildProcess) -> None:
        """The process has ended: answer all that wait for it, and start another."""
        if child is not self._child or self._stopping:
            return
        self._child = None
        self.ready.clear()
        self._out.put(None)
        self.metrics.worker_ends += 1
        for replies in self._waiting.values():
            replies.put_nowait(
                Reply(0, error=WorkerLostError("the recogniser has ended in the middle of this request"))
            )
        soon = time.monotonic() - self._started < SOON_S
        self._quick_ends = self._quick_ends + 1 if soon else 0
        task = self._loop.create_task(self._restart(child))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart(self, child: ChildProcess) -> None:
        how = await asyncio.to_thread(child.describe_end)
        how, self._hung = self._hung or how, ""
        child.connection.close()
        if self._stopping:
            return
        pause_s = PAUSES_S[min(self._quick_ends, len(PAUSES_S) - 1)]
        _say(
            f"worker {self.number} {how}; its streams and files were answered with an error; starting it again"
            + (f" in {pause_s:g} s" if pause_s else "")
        )
        await asyncio.sleep(pause_s)
        while not self._stopping:
            try:
                return self.start()
            except AsrError as error:  # such as no memory
                _say(f"worker {self.number}: {error}; trying again in {PAUSES_S[-1]:g} s")
                await asyncio.sleep(PAUSES_S[-1])


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read the messages may have gone
        print(line, file=sys.stderr, flush=True)


class WorkerPool:
    """All workers of a server."""

    def __init__(self, settings: Settings, catalogue: Catalogue, metrics: Metrics) -> None:
        self.settings = settings
        setup = WorkerSetup(
            models={name: str(model.path) for name, model in catalogue.models.items()},
            live_model=catalogue.find(None, live=True).name,
            device=settings.device,
            runtime=settings.runtime,
            threads=cpus.threads(settings.workers),
            case=settings.case,
            file_s=settings.limits.file_s,
        )
        self.workers = [WorkerProcess(number, setup, metrics) for number in range(1, settings.workers + 1)]
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all; returns when they are ready. Raises ``AsrError`` where models cannot be loaded."""
        for worker in self.workers:
            worker.start()
        self._watchers = [asyncio.create_task(worker.watch()) for worker in self.workers]
        for worker in self.workers:
            await worker.ready.wait()
            if worker.broken is not None:
                raise worker.broken

    def stop(self) -> None:
        """End all."""
        for watcher in self._watchers:
            watcher.cancel()
        for worker in self.workers:
            worker.stop()

    async def living(self) -> list[WorkerProcess]:
        """The workers that are ready; waits for the first one. Raises ``BusyError`` where none becomes ready."""
        there = [worker for worker in self.workers if worker.ready.is_set()]
        if not there:
            waits = [asyncio.ensure_future(worker.ready.wait()) for worker in self.workers]
            await asyncio.wait(waits, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            there = [worker for worker in self.workers if worker.ready.is_set()]
        if not there:
            raise BusyError("the models are being loaded; try again later", 30.0)
        return there

    async def for_stream(self, model: str) -> WorkerProcess:
        """The worker with most room for a stream of a model. Raises ``BusyError`` where none has room."""
        there = await self.living()
        reasons = {worker.number: worker.load.refusal(model, self.settings.lag_s) for worker in there}
        free = [worker for worker in there if not reasons[worker.number]]
        if not free:
            raise BusyError(f"no room for another stream now: {next(iter(reasons.values()))}; try again later")
        return min(free, key=lambda worker: (worker.load.use(model), worker.load.streams.total()))

    async def for_file(self) -> WorkerProcess:
        """The worker with fewest files. Raises ``BusyError`` where none is ready."""
        return min(await self.living(), key=lambda worker: (worker.files, worker.load.use()))
