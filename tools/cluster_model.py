"""A discrete-event model of transcription on a cluster, and the arithmetic of training on one.

Transcription: readers of each machine take blocks of recordings, ask a bucket for them, receive them over a pipe that
all machines share, and decode them on a processor. Actors of the machine run network and search. On a machine there
are no more blocks than its readers take and ``WAITING`` for each actor. One driver takes all results. A machine may be
slow. It may fail, and then its blocks are done again. ``ray``: blocks go to any machine that has room. ``torchrun``:
each machine has its share from the start, and does it alone.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WAITING = 2
"""Blocks that wait on a machine for each of its actors."""
ENGINES = ("ray", "torchrun")


@dataclass(frozen=True)
class Costs:
    """Seconds of work for each second of audio: measured values, of which the model draws. Bytes for each second.

    ``decode``: a processor; ``network`` and ``search``: an actor, one after the other.
    """

    decode: Sequence[float]
    network: Sequence[float]
    search: Sequence[float]
    bytes_per_s: float = 32_000.0

    def speed(self) -> float:
        """Seconds of audio that an actor recognises in a second, on average."""
        return 1 / (_mean(self.network) + _mean(self.search))


@dataclass(frozen=True)
class Machines:
    """``count`` equal machines. ``slow_share`` of them take ``slow_factor`` times as long.

    ``actors``: processes with a model. ``readers``: tasks that read at a time. ``decoders``: processors for them.
    ``start_s``: until the first block, also after a
    failure. ``failures_per_h``: of one machine.
    """

    count: int
    actors: int
    readers: int
    decoders: int
    start_s: float = 60.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    failures_per_h: float = 0.0


@dataclass(frozen=True)
class Bucket:
    """Where recordings are. Infinite limits do not bind."""

    latency_s: float = 0.05
    requests_per_s: float = float("inf")
    bytes_per_s: float = float("inf")


@dataclass(frozen=True)
class Work:
    """Audio to transcribe: ``blocks`` of ``block_s`` seconds with recordings of ``recording_s`` each.

    ``driver_s``: seconds of the driver for each result.
    """

    blocks: int
    block_s: float = 360.0
    recording_s: float = 10.0
    driver_s: float = 0.0

    @property
    def recordings(self) -> float:
        """Of a block."""
        return self.block_s / self.recording_s


@dataclass
class Simulated:
    """How long it took, and the share of that time that each resource was busy. ``lost``: blocks done again."""

    seconds: float
    audio_s: float
    busy: dict[str, float] = field(default_factory=dict)
    lost: int = 0

    @property
    def speed(self) -> float:
        """Seconds of audio for each second."""
        return self.audio_s / self.seconds

    def bottlenecks(self) -> list[tuple[str, float]]:
        """Resources and their busy shares, the busiest first. The first binds; the second is the next to bind, when
        there is 1 / share as much of the others."""
        return sorted(self.busy.items(), key=lambda item: -item[1])


class Line:
    """A resource that serves one after the other: the bucket's requests, its pipe, the driver."""

    def __init__(self) -> None:
        self.free_at = self.busy_s = 0.0

    def serve(self, now: float, service_s: float) -> float:
        """When a request that comes now is done."""
        self.free_at = max(now, self.free_at) + service_s
        self.busy_s += service_s
        return self.free_at


class Lines:
    """Several equal servers with one queue: the processors that decode."""

    def __init__(self, count: int) -> None:
        self._free_at = [0.0] * count
        self.busy_s = 0.0

    def serve(self, now: float, service_s: float) -> float:
        """When a request that comes now is done."""
        done = max(now, heapq.heappop(self._free_at)) + service_s
        heapq.heappush(self._free_at, done)
        self.busy_s += service_s
        return done


class _Machine:
    """What a machine has at work and waiting."""

    def __init__(self, factor: float, shape: Machines) -> None:
        self.factor = factor
        self.readers, self.actors, self.decoders = shape.readers, shape.actors, Lines(shape.decoders)
        self.reading: set[int] = set()
        self.ready: deque[int] = deque()
        self.recognising: set[int] = set()
        self.own: deque[int] = deque()
        """Its share, under torchrun."""
        self.life = 0
        """Counts failures: events of an earlier life do not count."""
        self.up = False


class TranscriptionModel:
    """See the module. ``run`` gives the result; equal seeds give equal results."""

    def __init__(
        self, work: Work, costs: Costs, machines: Machines, bucket: Bucket, engine: str = "ray", seed: int = 0
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
        self.work, self.costs, self.shape, self.bucket, self.engine = work, costs, machines, bucket, engine
        self.rng = random.Random(seed)
        self.requests, self.pipe, self.driver = Line(), Line(), Line()
        self.reader_s = self.actor_s = 0.0
        self.lost, self.left, self.ended = 0, work.blocks, 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.now = 0.0
        slow = round(machines.slow_share * machines.count)
        self.machines = [
            _Machine(machines.slow_factor if index < slow else 1.0, machines) for index in range(machines.count)
        ]
        self.shared: deque[int] = deque(range(work.blocks) if engine == "ray" else ())
        if engine == "torchrun":
            for block in range(work.blocks):
                self.machines[block % machines.count].own.append(block)

    def run(self) -> Simulated:
        """Simulate until every block is done."""
        for machine in self.machines:
            self._start(machine)
        while self.left:
            self.now, _, event = heapq.heappop(self.events)
            event()
        shape, seconds = self.shape, self.ended
        whole = seconds * shape.count
        busy = {
            "actors": self.actor_s / (whole * shape.actors),
            "readers": self.reader_s / (whole * shape.readers),
            "decoders": sum(machine.decoders.busy_s for machine in self.machines) / (whole * shape.decoders),
            "bucket requests": self.requests.busy_s / seconds,
            "bucket bytes": self.pipe.busy_s / seconds,
            "driver": self.driver.busy_s / seconds,
        }
        return Simulated(seconds, self.work.blocks * self.work.block_s, busy, self.lost)

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), event))

    def _start(self, machine: _Machine) -> None:
        def begin() -> None:
            machine.up = True
            if self.shape.failures_per_h:
                self._at(self.now + self.rng.expovariate(self.shape.failures_per_h / 3600), lambda: self._fail(machine))
            self._feed(machine)

        self._at(self.now + self.shape.start_s, begin)

    def _fail(self, machine: _Machine) -> None:
        """Everything on the machine is lost, and done again."""
        lost = [*machine.reading, *machine.ready, *machine.recognising]
        self.lost += len(lost)
        machine.life += 1
        machine.up = False
        machine.reading, machine.ready, machine.recognising = set(), deque(), set()
        (self.shared if self.engine == "ray" else machine.own).extendleft(lost)
        self._start(machine)
        if self.engine == "ray":
            for other in self.machines:
                self._feed(other)

    def _feed(self, machine: _Machine) -> None:
        """Let readers that are free begin, while there is room for what they read."""
        queue = self.shared if self.engine == "ray" else machine.own
        room = machine.readers + WAITING * machine.actors
        while machine.up and queue and len(machine.reading) < machine.readers:
            if len(machine.reading) + len(machine.ready) >= room:
                return
            self._read(machine, queue.popleft())

    def _read(self, machine: _Machine, block: int) -> None:
        machine.reading.add(block)
        work, life, begun = self.work, machine.life, self.now
        asked = self.requests.serve(self.now, work.recordings / self.bucket.requests_per_s)
        sent_s = work.block_s * self.costs.bytes_per_s / self.bucket.bytes_per_s
        # A reader asks for one recording after the other.
        there = self.pipe.serve(asked, sent_s) + work.recordings * self.bucket.latency_s

        def decode() -> None:
            if machine.life == life:
                seconds = work.block_s * self.rng.choice(self.costs.decode) * machine.factor
                self._at(machine.decoders.serve(self.now, seconds), arrive)

        def arrive() -> None:
            if machine.life != life:
                return
            self.reader_s += self.now - begun
            machine.reading.discard(block)
            machine.ready.append(block)
            self._recognise(machine)
            self._feed(machine)

        self._at(there, decode)

    def _recognise(self, machine: _Machine) -> None:
        while machine.ready and len(machine.recognising) < machine.actors:
            block = machine.ready.popleft()
            machine.recognising.add(block)
            factor = self.rng.choice(self.costs.network) + self.rng.choice(self.costs.search)
            self._finish_later(machine, block, self.work.block_s * factor * machine.factor)

    def _finish_later(self, machine: _Machine, block: int, seconds: float) -> None:
        life = machine.life

        def finish() -> None:
            if machine.life != life:
                return
            self.actor_s += seconds
            machine.recognising.discard(block)
            self.left -= 1
            self.ended = max(self.ended, self.driver.serve(self.now, self.work.recordings * self.work.driver_s))
            self._recognise(machine)
            self._feed(machine)

        self._at(self.now + seconds, finish)


@dataclass(frozen=True)
class Training:
    """Data-parallel training: every process computes a batch, then all add up their gradients.

    Args:
        processes: GPUs or processors.
        speed: seconds of audio that one trains on in a second.
        batch_s: seconds of audio of one process in a step.
        parameters: of the network; a step sends 4 bytes for each.
        link_bytes_per_s: between two processes.
        jitter: a step of one process takes up to this share longer, equally distributed. All wait for the slowest.
        failures_per_h: of one process. All stop, start again and repeat what was done since the last checkpoint.
        checkpoint_s, restart_s: seconds between checkpoints; seconds until all compute again.
        overlap: share of the sending that happens while gradients are computed.
    """

    processes: int
    speed: float
    batch_s: float = 640.0
    parameters: float = 25e6
    link_bytes_per_s: float = 10e9
    jitter: float = 0.0
    failures_per_h: float = 0.0
    checkpoint_s: float = 600.0
    restart_s: float = 120.0
    overlap: float = 0.0

    def step_s(self) -> float:
        """Seconds of a step: the expected slowest of ``processes``, and a ring of messages (2 (N - 1) / N times the
        gradients)."""
        slowest = 1 + self.jitter * self.processes / (self.processes + 1)
        sent = 2 * (self.processes - 1) / self.processes * 4 * self.parameters / self.link_bytes_per_s
        return self.batch_s / self.speed * slowest + sent * (1 - self.overlap)

    def kept(self) -> float:
        """Share of the time that is not lost to failures: each costs half the time between checkpoints, and a
        restart. At least 0."""
        per_s = self.failures_per_h * self.processes / 3600
        return max(0.0, 1 - per_s * (self.checkpoint_s / 2 + self.restart_s))

    def total_speed(self) -> float:
        """Seconds of audio that all train on in a second."""
        return self.processes * self.batch_s / self.step_s() * self.kept()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
