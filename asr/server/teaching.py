"""``asr serve --learn``: learns in the background from corrections, and swaps the model that is served.

One learning at a time, in a process of its own at low priority. It stands still while live streams lag.
Each learning begins with the model as it was at first and takes all corrections that are stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import math
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from asr.config.child_processes import ChildProcess, end_processes
from asr.errors import AsrError, ConfigError, TrainingError
from asr.files import file_sha256, write_json
from asr.models.bundled import model_file
from asr.server.catalogue import Catalogue
from asr.server.learner_child import LearnerSetup
from asr.server.learning_folder import LearningFolder
from asr.server.problems import WorkerLostError
from asr.server.settings import Settings
from asr.server.workers import WorkerPool

POLL_S = 0.5
"""Between looks at the folder, the learner and the lag."""
MOST_LAG_S = 0.3
"""The bar of the lag where the server has none."""
CALM_S = 5.0
"""How long streams must not have lagged before learning goes on."""
MOST_LOST = 3
"""Times that a learner may be lost before its corrections are left alone until more come."""
LEAST_TAUGHT = 5
"""As ``asr.train.learning.LEAST_CORRECTIONS``: with fewer, nothing is tried."""


class LearnerLostError(AsrError):
    """The learner has ended without an answer, such as for want of memory."""


class Teacher:
    """Learns and swaps while the server runs.

    Raises ``ConfigError`` without a token, and what ``LearningFolder`` raises.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue, pool: WorkerPool) -> None:
        if not settings.token:
            raise ConfigError("--learn: expected --token as well, since corrections change the model for everybody")
        self.pool, self.catalogue = pool, catalogue
        self.model = catalogue.find(None).name
        """The name of the model that is taught: the one for files."""
        self.start_place = str(catalogue.models[self.model].path)
        _check_start(self.model, self.start_place)
        weights = file_sha256(model_file(Path(self.start_place), "model.safetensors"))
        self.folder = LearningFolder(settings.learn, self.model, weights=weights, create=True)
        if self.folder.begins_anew:
            _tell(f"{self.model}: other weights than those that were taught: they are served and learn anew")
        self.served = 0
        """The number of the model that is served."""
        self.state = "idle"
        """idle, learning, paused, learnt, refused or failed."""
        self.message = ""
        """What the last learning found, in words."""
        self._most_lag_s = MOST_LAG_S if settings.lag_s == math.inf else settings.lag_s
        self._child: ChildProcess | None = None
        self._answer: asyncio.Task[Any] | None = None
        self._number = 0
        self._calm_since = -math.inf
        self._paused = False
        self._trouble = ""
        """What went wrong outside of a learning, such as a model that cannot be served."""
        self._failed_swap = -1
        self._lost_swaps = 0
        """Workers in a row that ended while they loaded a model."""
        self._lost = 0
        """Learners in a row that ended without an answer."""
        self._task: asyncio.Task[None] | None = None
        self._alone = asyncio.Lock()

    async def begin(self) -> None:
        """Serve the current model, and watch from now on."""
        await self._follow()
        self._task = asyncio.create_task(self._run())

    def end(self) -> None:
        """End the learner; the next server goes on where it was."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._end_learner()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.look()
                self._end_trouble()
            except (AsrError, OSError) as error:
                self._trouble = str(error)
                self._note("failed", self._trouble)
            except Exception as error:  # a fault of ours: the server goes on, and so does this
                if (text := f"{type(error).__name__}: {error}"[:300]) != self.message:
                    traceback.print_exc()
                self.state, self.message = "failed", text

    def _end_trouble(self) -> None:
        """Take a message back whose reason has gone."""
        if self._trouble and self._failed_swap == -1:
            if self.message == self._trouble:
                self.state, self.message = "idle" if self._child is None else "learning", ""
            self._trouble = ""

    async def look(self) -> None:
        """Do what is to be done now: swap, begin to learn, pause, take a result."""
        async with self._alone:
            await self._follow()
            if self._child is None:
                await asyncio.to_thread(self._begin_learning)
            elif self._answer is not None and self._answer.done():
                await self._take(self._answer.result())
            else:
                self._pause_or_go_on()

    async def forget(self) -> int:
        """Delete the stored corrections; how many zips there were. A learning under way ends."""
        async with self._alone:
            self._end_learner()
            count = await asyncio.to_thread(self.folder.forget)
            self.state, self.message = "idle", ""
            return count

    def status(self) -> dict[str, Any]:
        """What is stored, served and under way, as plain values."""
        stored = self.folder.stored()
        return {
            "model": self.model, "folder": str(self.folder.path), "utterances": stored.utterances,
            "bytes": stored.bytes, "least": LEAST_TAUGHT, "state": self.state, "message": self.message,
            "current": self.served, "models": self.folder.numbers(),
        }  # fmt: skip

    async def _follow(self) -> None:
        """Serve the model that the folder names."""
        await self._leave_unusable()
        wanted = self.folder.current()
        if wanted == self.served:
            self._failed_swap = -1
        if wanted in (self.served, self._failed_swap):
            with contextlib.suppress(WorkerLostError):  # the next one begins with the right model
                await swap_everywhere(self.pool, self.model, self._place(self.served))  # who was loading meanwhile
            return
        try:
            await swap_everywhere(self.pool, self.model, self._place(wanted))
        except AsrError as error:
            self._lost_swaps = self._lost_swaps + 1 if isinstance(error, WorkerLostError) else 0
            if not 0 < self._lost_swaps < MOST_LOST:
                self._failed_swap = wanted
            with contextlib.suppress(AsrError):  # a worker that has ended begins with it
                await swap_everywhere(self.pool, self.model, self._place(self.served))
            raise AsrError(f"model {wanted} of {self.folder.path} cannot be served: {error}") from error
        self.served, self._failed_swap, self._lost_swaps = wanted, -1, 0
        self.catalogue.note_place(self.model, self._place(wanted))
        what = f"model {wanted} of {self.folder.path}" if wanted else "the model as it was at first"
        _tell(f"{self.model}: serving {what}")

    async def _leave_unusable(self) -> None:
        """Go back to the start where a worker that began again could not load the model that is served, such as one
        that was deleted: else workers would answer differently."""
        place = self._place(self.served)
        if not self.served or all(worker.unusable.get(self.model) != place for worker in self.pool.workers):
            return
        gone, self.served = self.served, 0
        self._failed_swap = gone
        self.catalogue.note_place(self.model, self.start_place)
        _tell(f"{self.model}: model {gone} of {self.folder.path} cannot be loaded any more: serving the model as it "
              "was at first")  # fmt: skip
        with contextlib.suppress(WorkerLostError):  # its next process begins with that model
            await swap_everywhere(self.pool, self.model, self.start_place)

    def _place(self, number: int) -> str:
        return str(self.folder.place(number)) if number else self.start_place

    def _begin_learning(self) -> None:
        zips = self.folder.zips()
        if {path.name for path in zips} <= self.folder.tried or self.folder.stored().utterances < LEAST_TAUGHT:
            return
        self._number = self.folder.next_number()
        setup = LearnerSetup(self.start_place, [str(path) for path in zips], str(self.folder.place(self._number)))
        child = ChildProcess("asr.server.learner_child", "run_learner")
        child.connection.send(setup)
        self._child, self._zips, self._paused = child, zips, False
        self._note("learning", f"learning from {self.folder.stored().utterances} utterances")

    def _pause_or_go_on(self) -> None:
        """Stop the learner while streams lag; let it go on once they have not for a while."""
        assert self._child is not None
        if self._answer is None:
            self._answer = asyncio.create_task(asyncio.to_thread(_received, self._child))
        now = asyncio.get_running_loop().time()
        if max(worker.load.lag_s for worker in self.pool.workers) > self._most_lag_s:
            self._calm_since = math.inf
            if not self._paused:
                self._signal(signal.SIGSTOP)
                self.state, self._paused = "paused", True
        elif self._calm_since == math.inf:
            self._calm_since = now
        if self._paused and now - self._calm_since >= CALM_S:
            self._signal(signal.SIGCONT)
            self.state, self._paused = "learning", False

    def _signal(self, number: int) -> None:
        assert self._child is not None
        with contextlib.suppress(OSError):
            os.kill(self._child.process.pid, number)

    async def _take(self, answer: dict[str, Any] | AsrError) -> None:
        """What the learner found: serve its model, or say why there is none."""
        self._end_learner()
        # TrainingError: the learner of a server that was killed is still there, for a moment.
        self._lost = self._lost + 1 if isinstance(answer, LearnerLostError | TrainingError) else 0
        if 0 < self._lost < MOST_LOST:
            self._note("failed", f"{answer}; learning continues")
            return
        self.folder.note_tried(path.name for path in self._zips)
        if isinstance(answer, AsrError):
            self._note("failed", str(answer))
            return
        write_json(self.folder.reports / f"{self._number}.json", answer)
        if answer["learnt"]:
            self.folder.set_current(self._number)
            await self._follow()
        used = f"{answer['used']} of {answer['corrections']} corrections can be used"
        report = self.folder.reports / f"{self._number}.json"
        self._note("learnt" if answer["learnt"] else "refused", str(answer["summary"]), f"{used}; see {report}")

    def _end_learner(self) -> None:
        if self._child is not None:
            end_processes([self._child])
        if self._answer is not None:
            self._answer.cancel()
        self._child = self._answer = None

    def _note(self, state: str, message: str, line: str = "") -> None:
        """``line``: for the log, where the message has texts."""
        if (state, message) != (self.state, self.message):
            _tell(f"{self.model}: {state}: {line or message}")
        self.state, self.message = state, message


def _check_start(model: str, place: str) -> None:
    """Refuse a model that cannot be taught before anybody sends corrections for it."""
    if not os.path.isfile(model_file(Path(place), "model.safetensors")):
        raise ConfigError(
            f"--learn: expected the model directory of {model}, got an export, whose weights cannot be changed; give "
            "the directory that it was exported from, or another --file-model"
        )
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("--learn: expected the packages of the extra train: pip install 'recurrent-asr[serve,train]'")


async def swap_everywhere(pool: WorkerPool, model: str, place: str) -> None:
    """Have all workers serve ``model`` from another directory, also those that start later.

    A worker that is being loaded begins with the directory that it was started with: call this again later. Streams go
    on with the model that they have until their client ends an utterance. Raises ``AsrError`` where the directory
    cannot be loaded.
    """
    for worker in pool.workers:
        worker.setup = dataclasses.replace(worker.setup, learnt={**worker.setup.learnt, model: place})
    late = [worker for worker in pool.workers if worker.ready.is_set() and worker.places[model] != place]
    for failure in await asyncio.gather(*(worker.swap(model, place) for worker in late), return_exceptions=True):
        if isinstance(failure, BaseException):
            raise failure


def _received(child: ChildProcess) -> dict[str, Any] | AsrError:
    """The answer of the learner; an error where it ends without one."""
    try:
        answer: dict[str, Any] | AsrError = child.connection.recv()
    except (EOFError, OSError):
        return LearnerLostError(f"the process that learns {child.describe_end()}")
    return answer


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read the messages may have gone
        print(line, file=sys.stderr, flush=True)
