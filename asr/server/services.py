"""What protocol modules get: the services, the catalogue and the settings."""

from __future__ import annotations

import asyncio
import time

from asr.errors import AsrError
from asr.server.catalogue import Catalogue
from asr.server.file_jobs import FileService
from asr.server.live_streams import LiveService
from asr.server.metrics import Metrics
from asr.server.settings import Settings
from asr.server.teaching import Teacher
from asr.server.wire import Probe
from asr.server.workers import WorkerPool, WorkerProcess

PROBE_S = 5.0
"""Longest time that a worker may take for a probe."""
PROBES_KEPT_S = 1.0
"""How long the result of a probe is kept, so that asking often costs nothing."""


class Services:
    """Everything that protocols share.

    ``live`` opens streams, ``files`` transcribes files. ``ready`` is set when all models are loaded and compiled code
    is warm; requests before that wait. ``closing`` is set at shutdown.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalogue = Catalogue(settings)
        self.metrics = Metrics()
        self.pool = WorkerPool(settings, self.catalogue, self.metrics)
        self.live = LiveService(settings, self.catalogue, self.pool, self.metrics)
        self.files = FileService(settings, self.catalogue, self.pool, self.metrics)
        self.teacher = Teacher(settings, self.catalogue, self.pool) if settings.learn else None
        """Learns from corrections, with ``--learn``."""
        self.ready = asyncio.Event()
        self.closing = asyncio.Event()
        self._probe: asyncio.Task[dict[str, str]] | None = None
        self._probed = float("-inf")

    async def start(self) -> None:
        """Load and warm the models; returns when they are ready. Raises ``AsrError`` where one cannot be loaded."""
        try:
            await self.pool.start()
            if self.teacher is not None:
                await self.teacher.begin()
        except BaseException:
            self.pool.stop()
            raise
        self.ready.set()

    async def stop(self) -> None:
        """Refuse what is new, wait for what is under way as long as the settings allow, end the workers."""
        self.closing.set()
        self.live.closing = self.files.closing = True
        until = time.monotonic() + self.settings.grace_s
        while (self.live.open_sessions or self.files.jobs) and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def end(self) -> None:
        """End the workers, whatever they compute, and the learner."""
        if self.teacher is not None:
            self.teacher.end()
        self.pool.stop()

    async def health(self) -> dict[str, str]:
        """For each worker ``ok``, or what is wrong; each decodes a moment of sound, with a deadline.

        The result is kept for a second.
        """
        if self._probe is None or (self._probe.done() and time.monotonic() - self._probed > PROBES_KEPT_S):
            self._probe = asyncio.create_task(self._health())
        return await asyncio.shield(self._probe)

    async def _health(self) -> dict[str, str]:
        workers = self.pool.workers
        states = await asyncio.gather(*map(self._probed_state, workers))
        self._probed = time.monotonic()
        return {str(worker.number): state for worker, state in zip(workers, states, strict=True)}

    async def _probed_state(self, worker: WorkerProcess) -> str:
        try:
            await asyncio.wait_for(worker.ask(Probe()), PROBE_S)
        except TimeoutError:
            return f"no answer within {PROBE_S:g} s"
        except AsrError as error:
            return str(error)
        return "ok"

    def gauges(self) -> dict[str, float]:
        """Figures of the moment for ``/metrics``."""
        workers = self.pool.workers
        return {
            "streams": self.live.open_sessions,
            "files": self.files.jobs,
            "workers": len(workers),
            "workers_ready": sum(worker.ready.is_set() for worker in workers),
            "lag_p95_seconds": max(worker.load.lag_s for worker in workers),
            "live_use": sum(worker.load.use() for worker in workers) / len(workers),
        }
