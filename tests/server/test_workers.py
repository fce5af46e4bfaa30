"""Worker processes: a crash is answered and repaired; models that cannot be loaded are named; health is real."""

import asyncio
import dataclasses
import math
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from asr.config.child_processes import ChildProcess
from asr.errors import AsrError, AudioError, ModelError
from asr.server import worker_child
from asr.server.messages import FileOptions, StreamOptions
from asr.server.problems import RequestError, WorkerLostError
from asr.server.services import Services
from asr.server.settings import Settings
from asr.server.teaching import swap_everywhere
from asr.server.wire import WorkerSetup
from asr.server.worker_child import Worker


async def fed_for_ever(session, data):
    while True:
        await session.feed(data)


def test_a_workers_crash_is_answered_and_the_next_request_is_served(loop, services, sample, capfd):
    async def run():
        session = await services.live.open(StreamOptions(model="greedy"))
        await session.feed(sample[:1600].tobytes())
        os.kill(services.pool.workers[0].pid, signal.SIGSEGV)
        with pytest.raises(WorkerLostError):
            await fed_for_ever(session, sample[:1600].tobytes())
        await session.close()
        async with await services.live.open(StreamOptions(model="greedy")) as again:
            await again.feed(sample.tobytes())
            return await again.finish()

    ends = services.metrics.worker_ends
    assert loop(run()).transcript.text == "ENTER FOUR FIVE NINE TWO"
    assert services.metrics.worker_ends == ends + 1
    assert "worker 1 was killed by SIGSEGV" in capfd.readouterr().err


def test_a_worker_that_hangs_is_replaced_and_its_streams_get_an_error(loop, services, sample, monkeypatch, capfd):
    monkeypatch.setattr("asr.server.workers.BEAT_S", 0.1)
    monkeypatch.setattr("asr.server.workers.PAUSES_S", (0.0,))

    async def run():
        worker = services.pool.workers[0]
        await worker.ready.wait()
        session = await services.live.open(StreamOptions(model="greedy"))
        file = asyncio.create_task(services.files.transcribe("egs/sample.wav", FileOptions(model="greedy")))
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr("asr.server.workers.HANG_S", 3.0)
        with pytest.raises(WorkerLostError):
            await fed_for_ever(session, sample[:1600].tobytes())
        monkeypatch.setattr("asr.server.workers.HANG_S", 600.0)  # the next process may be slow on a busy machine
        await session.close()
        await asyncio.gather(file, return_exceptions=True)
        async with await services.live.open(StreamOptions(model="greedy")) as again:
            await again.feed(sample.tobytes())
            return pid, worker.pid, await again.finish()

    before, after, final = loop(run())
    assert before != after
    assert final.transcript.text == "ENTER FOUR FIVE NINE TWO"
    assert "worker 1 did not answer for 3 s and was ended; its streams" in capfd.readouterr().err


def test_a_worker_that_hangs_while_it_loads_is_replaced(loop, services, sample, monkeypatch, capfd):
    monkeypatch.setattr("asr.server.workers.BEAT_S", 0.1)
    monkeypatch.setattr("asr.server.workers.LOAD_S", 1.0)
    monkeypatch.setattr("asr.server.workers.PAUSES_S", (0.0,))
    worker = services.pool.workers[0]
    start, hanging = ChildProcess.__init__, []

    def stopped(self, *arguments, **options):
        start(self, *arguments, **options)
        if not hanging:
            os.kill(self.process.pid, signal.SIGSTOP)
            hanging.append(self.process.pid)

    async def run():
        await worker.ready.wait()
        monkeypatch.setattr(ChildProcess, "__init__", stopped)
        os.kill(worker.pid, signal.SIGKILL)
        while not hanging or worker.pid in (None, *hanging):
            await asyncio.sleep(0.01)
        monkeypatch.setattr("asr.server.workers.LOAD_S", 600.0)
        async with await services.live.open(StreamOptions(model="greedy")) as session:
            await session.feed(sample.tobytes())
            return await session.finish()

    assert loop(run()).transcript.text == "ENTER FOUR FIVE NINE TWO"
    assert "worker 1 had not loaded its models after 1 s and was ended" in capfd.readouterr().err


def test_a_worker_whose_learnt_model_was_deleted_serves_the_start_and_says_so(
    loop, greedy_model, sample, tmp_path, capfd
):
    import shutil

    learnt = tmp_path / "learnt"
    shutil.copytree(greedy_model, learnt)

    async def run():
        services = Services(Settings(models={"greedy": str(greedy_model)}, lag_s=math.inf))
        await services.start()
        try:
            await swap_everywhere(services.pool, "greedy", str(learnt))
            shutil.rmtree(learnt)
            worker = services.pool.workers[0]
            os.kill(worker.pid, signal.SIGKILL)
            while worker.life == 1:
                await asyncio.sleep(0.01)
            async with await services.live.open(StreamOptions()) as session:
                await session.feed(sample.tobytes())
                final = await session.finish()
            return final.transcript.text, worker.life, worker.unusable
        finally:
            services.end()

    assert loop(run()) == ("ENTER FOUR FIVE NINE TWO", 2, {"greedy": str(learnt)})
    assert re.search(r"worker 1: .*learnt.*; it serves greedy as it was at first", capfd.readouterr().err)


def test_a_worker_whose_model_was_deleted_says_why_it_cannot_begin(loop, greedy_model, tmp_path, monkeypatch, capfd):
    import shutil

    monkeypatch.setattr("asr.server.workers.PAUSES_S", (0.0,))
    mine = tmp_path / "mine"
    shutil.copytree(greedy_model, mine)

    async def run():
        services = Services(Settings(models={"mine": str(mine)}))
        await services.start()
        try:
            worker = services.pool.workers[0]
            shutil.rmtree(mine)
            os.kill(worker.pid, signal.SIGKILL)
            while worker.life < 3:
                await asyncio.sleep(0.01)
            return worker.ready.is_set()
        finally:
            services.end()

    assert not loop(run())
    assert re.search(r"worker 1 cannot load its models \(.*mine.*\); .* starting it again", capfd.readouterr().err)


def test_a_stream_of_a_worker_that_has_ended_stays_lost(loop, services, sample):
    async def run():
        session = await services.live.open(StreamOptions(model="greedy"))
        os.kill(services.pool.workers[0].pid, signal.SIGKILL)
        while services.pool.workers[0].life == session._life:
            await asyncio.sleep(0.01)
        await services.pool.workers[0].ready.wait()
        try:
            await session.feed(sample[:1600].tobytes())
        finally:
            await session.close()

    with pytest.raises(WorkerLostError):
        loop(run())


def test_health_says_what_a_worker_that_does_not_answer_is(loop, services, monkeypatch):
    monkeypatch.setattr("asr.server.services.PROBES_KEPT_S", 0.0)
    assert loop(services.health()) == {"1": "ok"}
    pid = services.pool.workers[0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as hasty:
            hasty.setattr("asr.server.services.PROBE_S", 0.3)
            assert loop(services.health()) == {"1": "no answer within 0.3 s"}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert loop(services.health()) == {"1": "ok"}


def test_onnxruntime_runs_models_and_a_worker_does_not_load_torch(services):
    if not os.path.isdir("/proc/self"):
        pytest.skip("which libraries a process has is read from /proc")
    maps = Path(f"/proc/{services.pool.workers[0].pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps


def test_torch_runs_models_on_a_gpu_and_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(worker_child, "torch_is_installed", lambda: True)
    for gpu, device, expected in (
        (False, "auto", "onnxruntime"),
        (True, "auto", "torch"),
        (True, "cpu", "onnxruntime"),
        (False, "cuda:1", "torch"),
    ):
        monkeypatch.setattr(worker_child, "sees_gpu", lambda gpu=gpu: gpu)
        assert worker_child.choose_runtime("auto", device) == expected
        assert worker_child.choose_runtime("torch", device) == "torch"
    monkeypatch.setattr(worker_child, "torch_is_installed", lambda: False)
    assert worker_child.choose_runtime("auto", "auto") == "onnxruntime"


def test_torch_runs_what_onnxruntime_cannot_and_the_log_says_so(greedy_model, monkeypatch, capfd):
    def failing(*_):
        raise ModelError("no such graph")

    monkeypatch.setattr("asr.recognize.loading.streaming_graph", failing)
    setup = WorkerSetup({"mine": str(greedy_model)}, "mine", "cpu", "auto", 1, "model", 60.0)
    made = worker_child.load_models(setup)["mine"]
    assert made.transcribe("egs/sample.wav").text == "ENTER FOUR FIVE NINE TWO"
    assert (
        "mine: torch runs this model, for fewer streams, since onnxruntime cannot: no such graph"
        in capfd.readouterr().err
    )
    with pytest.raises(ModelError, match="no such graph"):
        worker_child.load_models(dataclasses.replace(setup, runtime="onnxruntime"))


def test_a_model_is_warmed_where_files_must_be_shorter_than_what_warms_it(greedy_model):
    setup = WorkerSetup({"mine": str(greedy_model)}, "mine", "cpu", "auto", 1, "model", 0.5)
    with pytest.raises(AudioError, match="at most max_duration_s"):
        worker_child.load_models(setup)["mine"].transcribe("egs/sample.wav")


def test_a_damaged_model_ends_the_start_with_its_message(loop, greedy_model, tmp_path):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(greedy_model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    async def start():
        await Services(Settings(models={"broken": str(folder)})).start()

    with pytest.raises(AsrError, match=r"model\.safetensors"):
        loop(start())


def test_two_workers_share_streams_and_files(loop, greedy_model, sample):
    async def run():
        services = Services(Settings(models={"greedy": str(greedy_model)}, workers=2, lag_s=math.inf))
        await services.start()
        try:
            for worker in services.pool.workers:  # on a busy machine one may be measured as many times slower
                worker.load.costs.clear()
            sessions = [await services.live.open(StreamOptions()) for _ in range(4)]
            counts = [worker.load.streams.total() for worker in services.pool.workers]
            await asyncio.gather(*(session.feed(sample.tobytes()) for session in sessions))
            texts = {(await session.finish()).transcript.text for session in sessions}
            file = await services.files.transcribe("egs/sample.wav", FileOptions())
            return counts, texts | {file.text}, services.gauges()["streams"], await services.health()
        finally:
            services.end()

    counts, texts, streams, health = loop(run())
    assert sum(counts) == 4
    assert min(counts) >= 1
    assert texts == {"ENTER FOUR FIVE NINE TWO"}
    assert streams == 0
    assert health == {"1": "ok", "2": "ok"}


def test_a_worker_whose_stream_thread_fails_ends_instead_of_waiting_for_ever(monkeypatch, capfd):
    statuses = []
    monkeypatch.setattr("asr.server.worker_child.os._exit", statuses.append)

    class Failing:
        def run(self):
            raise KeyError("a fault")

    worker = Worker(None, None)
    worker.live = Failing()
    worker._compute()
    assert statuses == [1]
    assert "KeyError: 'a fault'" in capfd.readouterr().err


def test_a_stream_that_the_recogniser_fails_at_is_lost_and_others_go_on(loop, services, sample):
    async def run():
        async with (
            await services.live.open(StreamOptions(model="greedy", encoding="f32le")) as broken,
            await services.live.open(StreamOptions(model="greedy")) as good,
        ):
            with pytest.raises(AsrError):
                await broken.feed(np.full(1600, np.nan, "<f4").tobytes())
            await good.feed(sample.tobytes())
            return await good.finish()

    assert loop(run()).transcript.text == "ENTER FOUR FIVE NINE TWO"


def test_a_process_that_cannot_be_started_is_tried_again(loop, services, monkeypatch, sample, capfd):
    tries = []
    start = ChildProcess.__init__

    def failing(self, *arguments, **options):
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no memory")
        start(self, *arguments, **options)

    async def run():
        os.kill(services.pool.workers[0].pid, signal.SIGKILL)
        while len(tries) < 2:
            await asyncio.sleep(0.01)
        return await services.files.transcribe("egs/sample.wav", FileOptions(model="greedy"))

    monkeypatch.setattr(ChildProcess, "__init__", failing)
    monkeypatch.setattr("asr.server.workers.PAUSES_S", (0.0, 0.0))
    assert loop(run()).text == "ENTER FOUR FIVE NINE TWO"
    assert "worker 1: cannot start a worker process: no memory" in capfd.readouterr().err


def test_a_model_that_needs_whole_recordings_serves_files_and_says_so_to_streams(loop, greedy_model, tmp_path):
    import shutil

    folder = tmp_path / "speeds"
    shutil.copytree(greedy_model, folder)
    (folder / "list.txt").write_text("ENTER FOUR FIVE NINE TWO\nERASE\n")
    (folder / "decoding.yaml").write_text("phrases: list.txt\nspeeds: [0.9, 1.0]\n")

    async def run():
        services = Services(Settings(models={"speeds": str(folder)}))
        await services.start()
        try:
            with pytest.raises(RequestError, match="which need whole recordings"):
                await services.live.open(StreamOptions())
            return await services.health(), await services.files.transcribe("egs/sample.wav", FileOptions())
        finally:
            services.end()

    health, transcript = loop(run())
    assert health == {"1": "ok"}
    assert transcript.text == "ENTER FOUR FIVE NINE TWO"
