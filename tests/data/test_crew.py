"""Those who make batches: threads and processes make the same, end with the training, and name what goes wrong."""

import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from corpus import make_config, make_utterances

from asr.data import crew as crews
from asr.data import feeding, sample_cache
from asr.data.batch_plan import Example
from asr.data.batches import Dataset, batch_tensors
from asr.data.crew import LENT_SLOTS, BatchStream, ProcessCrew, ThreadCrew, choose_workers
from asr.data.feeding import Feeder
from asr.data.manifest import write_manifest
from asr.errors import ConfigError, TrainingError
from asr.text.tokenizer import CharTokenizer

DISTORTED = {
    "trim_prob": 0.5,
    "silence_s": 0.2,
    "reverb_prob": 0.5,
    "noise_prob": 0.5,
    "telephone_prob": 0.5,
    "codec_prob": 0.3,
    "clip_prob": 0.3,
    "opus_prob": 0.3,
    "babble_prob": 0.5,
    "packet_loss_prob": 0.5,
    "gain_db": 6.0,
    "warp": 0.1,
    "splice_prob": 0.5,
}


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    return make_utterances(tmp_path_factory.mktemp("corpus"), 20, "u")


def make_dataset(utterances, config, *, warnings=None):
    tokenizer = CharTokenizer(["<blank>", " ", "A", "B", "C"], config.text)
    warn = pytest.fail if warnings is None else warnings.append
    cache = sample_cache.SampleCache(8000, config.data.cache_s, shared=True)
    return Dataset(utterances, tokenizer, config, training=True, warn=warn, cache=cache)


def make_feeder(utterances, config, workers, *, warnings=None, following=lambda epoch: None):
    data = make_dataset(utterances, config, warnings=warnings)
    return Feeder(config, data, data, workers, torch.device("cpu"), following=following)


@pytest.fixture
def feeder(utterances, tmp_path):
    """Makes feeders that are closed in the end."""
    made = []

    def make(workers, *, some=utterances, warnings=None, following=lambda epoch: None, **sections):
        made.append(
            make_feeder(some, make_config(tmp_path, **sections), workers, warnings=warnings, following=following)
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def same(one, other):
    return (
        one.ids == other.ids
        and all(
            torch.equal(getattr(one, name), getattr(other, name))
            for name in ("samples", "lengths", "tokens", "token_lengths", "colours")
        )
        and all(map(torch.equal, one.masks, other.masks))
    )


def pids(feeder):
    return [worker.process.pid for worker in feeder.crew.workers]


def process_state(pid):
    """The letter of a process, Z for one that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def alive(pid):
    return process_state(pid) != "Z"


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_any_number_of_workers_makes_the_same_batches_bit_for_bit(feeder, utterances, tmp_path):
    pieces = [utterances[i] for i in (0, 1, 4, 5)]
    write_manifest(tmp_path / "pieces.jsonl", pieces)
    sections = {"augment": DISTORTED | {"splice": str(tmp_path / "pieces.jsonl")}, "train": {"consistency": 0.2}}
    found = []
    for workers in (0, 1, 2, 3):
        each = feeder(workers, **sections)
        found.append([batch for epoch in (0, 1) for batch in each.batches(each.train.plan(epoch), epoch)])
    assert len(found[0]) > 8
    assert len(found[0][0].masks) == 2
    for others in found[1:]:
        assert all(same(a, b) for a, b in zip(found[0], others, strict=True))


def test_a_worker_maps_neither_torch_nor_numba(feeder, utterances, tmp_path):
    write_manifest(tmp_path / "pieces.jsonl", utterances[:6])
    each = feeder(1, augment=DISTORTED | {"splice": str(tmp_path / "pieces.jsonl"), "reverb_prob": 1.0})
    list(each.batches(each.train.plan(0), 0))
    with open(f"/proc/{pids(each)[0]}/maps") as file:
        libraries = file.read()
    assert "numpy" in libraries
    assert not [name for name in ("torch", "numba", "llvmlite") if name in libraries]


def test_nothing_that_a_worker_imports_imports_torch_or_numba():
    code = (
        "import sys; import asr.data.crew_child, scipy.fft; "
        "print([name for name in ('torch', 'numba') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_workers_fill_one_cache_for_all(feeder, utterances):
    each = feeder(2)
    plan = each.train.plan(0)
    list(each.batches(plan, 0))
    assert each.train.cached_s == pytest.approx(sum(u.duration_s for u in utterances))
    for worker in each.crew.workers:
        assert alive(worker.process.pid)
    for row, utterance in enumerate(utterances):
        cached = each.train.cache.get(int(each.train.places[row]))
        assert len(cached) == round(utterance.duration_s * 8000)


def test_cached_audio_is_not_read_again(feeder, utterances, tmp_path):
    copies = []
    for number, utterance in enumerate(utterances):
        path = tmp_path / f"{number}.wav"
        shutil.copy(utterance.audio, path)
        copies.append(dataclasses.replace(utterance, audio=str(path)))
    each = feeder(2, some=copies)
    before = list(each.batches(each.train.plan(0), 0))
    for number in range(len(utterances)):
        (tmp_path / f"{number}.wav").unlink()
    after = list(each.batches(each.train.plan(0), 0))
    assert all(same(a, b) for a, b in zip(before, after, strict=True))


def test_a_cache_without_memory_says_what_to_set_and_goes_on(feeder, monkeypatch):
    warnings = []
    each = feeder(0, warnings=warnings)

    def full(memory, start, count):
        if start > 40_000:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample_cache.SharedMemory, "take", full)
    batches = list(each.batches(each.train.plan(0), 0))
    assert sum(len(batch.ids) for batch in batches) == 20
    assert len(warnings) == 1
    assert "data.cache_s" in warnings[0]
    assert f"set data.cache_s={int(each.train.cached_s)}" in warnings[0]


def test_a_cache_that_memory_cannot_hold_is_refused_with_what_fits(feeder, monkeypatch):
    monkeypatch.setattr(sample_cache, "free_memory", lambda: 400_000)
    with pytest.raises(ConfigError, match=r"data\.cache_s: 7200 s .*set data\.cache_s=6 or less"):
        feeder(1)


@pytest.mark.parametrize(
    ("folder", "names", "prefix"),
    [
        ("sys/fs/cgroup", ("memory.max", "memory.current"), ""),
        ("sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"),
    ],
)
def test_cached_files_count_as_free_memory_of_a_control_group(tmp_path, folder, names, prefix):
    group = tmp_path / folder
    group.mkdir(parents=True)
    for name, value in zip(names, (1000, 990), strict=True):
        (group / name).write_text(f"{value}\n")
    assert sample_cache.free_memory(tmp_path) == 10
    (group / "memory.stat").write_text(f"anon 100\n{prefix}inactive_file 600\n{prefix}active_file 200\n")
    assert sample_cache.free_memory(tmp_path) == 810


def test_batches_that_shared_memory_cannot_hold_name_the_keys(feeder, monkeypatch):
    monkeypatch.setattr(crews, "free_memory", lambda: 1000)
    with pytest.raises(ConfigError, match=r"shared memory.*lower data\.batch_s, data\.prefetch or data\.workers"):
        feeder(1)


def test_memory_is_shared_where_memfd_create_is_refused(feeder, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(sample_cache.os, "memfd_create", refuse)
    each = feeder(1)
    assert sum(len(batch.ids) for batch in each.batches(each.train.plan(0), 0)) == 20
    assert each.train.cached_s > 0


def test_an_utterance_longer_than_its_manifest_says_still_arrives_whole(feeder, utterances):
    liars = [dataclasses.replace(u, text="", duration_s=u.duration_s / 10) for u in utterances]
    liars += [dataclasses.replace(u, id=f"{u.id}-{n}") for n in range(9) for u in liars]
    sections = {"augment": {"speeds": [1.0]}, "data": {"batch_s": 100.0}}
    one, two = (feeder(workers, some=liars, **sections) for workers in (0, 1))
    sizes = [4 * batch.samples.numel() for batch in one.batches(one.train.plan(0), 0)]
    assert max(sizes) > two.crew._memory.size
    pairs = zip(one.batches(one.train.plan(0), 0), two.batches(two.train.plan(0), 0), strict=True)
    assert all(same(a, b) for a, b in pairs)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_in_a_worker_names_the_utterance(feeder, utterances, tmp_path, workers):
    odd = dataclasses.replace(utterances[3], speaker="someone", text="A")
    each = feeder(workers, some=[utterances[0], odd])
    each.train.utterances[1] = dataclasses.replace(odd, audio=utterances[3].audio, channel=0)
    object.__setattr__(each.train.utterances[1], "start_s", "never")
    with pytest.raises(TrainingError, match=r"u3: cannot be made ready for training: TypeError"):
        list(each.batches(each.train.plan(0), 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_named_and_the_rest_is_made(feeder, utterances, workers, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF, but not really")
    warnings = []
    bad = dataclasses.replace(utterances[2], audio=str(tmp_path / "bad.wav"))
    each = feeder(workers, some=[*utterances[:2], bad, *utterances[3:]], warnings=warnings)
    ids = [id for batch in each.batches(each.train.plan(0), 0) for id in batch.ids]
    assert sorted(ids) == sorted(u.id for u in utterances if u.id != "u2")
    assert len(warnings) == 1
    assert warnings[0].startswith("u2: ")


def test_a_killed_worker_is_a_clear_error(feeder):
    each = feeder(1, data={"batch_s": 1.0})
    batches = each.batches(each.train.plan(0), 0)
    next(batches)
    os.kill(pids(each)[0], signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"loader process \d+ was killed by SIGKILL.*lower data\.workers"):
        list(batches)
    assert wait_for(lambda: not alive(each.crew.workers[0].process.pid))


def test_a_killed_worker_names_the_batch_that_it_made(feeder, utterances, tmp_path):
    pipe = tmp_path / "endless.wav"
    os.mkfifo(pipe)
    stuck = [dataclasses.replace(utterances[0], id="stuck", audio=str(pipe)), *utterances[1:]]
    each = feeder(2, some=stuck, data={"batch_s": 1.0})
    crew = each.crew
    number = crew.submit(each.train.order([Example(0, 1.0)], 0))
    assert wait_for(lambda: crew._memory.makers[crew._slots[number]])
    os.kill(int(crew._memory.makers[crew._slots[number]]), signal.SIGKILL)
    with pytest.raises(TrainingError, match="was killed by SIGKILL while it made the batch of stuck"):
        crew.collect(number)


def test_no_batch_waits_for_one_that_takes_long_while_a_worker_is_idle(feeder, utterances, tmp_path):
    pipe = tmp_path / "endless.wav"
    os.mkfifo(pipe)
    stuck = [dataclasses.replace(utterances[0], id="stuck", audio=str(pipe)), *utterances[1:]]
    each = feeder(2, some=stuck)
    numbers = [each.crew.submit(each.train.order([Example(row, 1.0)], 0)) for row in range(6)]
    found = [each.crew.collect(number).layout.ids for number in numbers[1:]]
    assert found == [(u.id,) for u in stuck[1:6]]


def test_each_worker_has_further_orders_unless_memory_is_short(feeder, monkeypatch):
    assert feeder(2, data={"prefetch": 1})._depth == 6
    monkeypatch.setattr(feeding, "free_memory", lambda: 2**22)
    assert feeder(2, data={"prefetch": 1})._depth == 3


def test_trainings_on_one_machine_share_the_memory_for_further_orders(feeder, monkeypatch):
    each = feeder(0, data={"prefetch": 1})
    slot_bytes = each._slot_bytes(each.train)
    free = int((5.5 + each._side_depth + LENT_SLOTS) * slot_bytes / feeding.WINDOW_SHARE)
    monkeypatch.setattr(feeding, "free_memory", lambda: free)
    assert each._window(2, slot_bytes) == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert each._window(2, slot_bytes) == 3


def test_more_orders_than_the_pipe_and_the_answers_hold_do_not_block(feeder, utterances):
    fcntl = pytest.importorskip("fcntl")
    each = feeder(0)
    count, size = each._slots = 900, 2**16
    crew = ProcessCrew(1, count, size, each._setup)
    orders = [each.train.order([Example(at % len(utterances), 1.0)], 0) for at in range(count)]
    numbers = []
    with contextlib.closing(crew):
        fcntl.fcntl(crew._queue, fcntl.F_SETPIPE_SZ, 4096)  # as for a user who has many pipes
        thread = threading.Thread(target=lambda: numbers.extend(map(crew.submit, orders)), daemon=True)
        thread.start()
        assert wait_for(lambda: not thread.is_alive())
        found = [crew.collect(number).layout.ids for number in numbers]
    assert found == [(utterances[at % len(utterances)].id,) for at in range(count)]


def test_a_cancelled_order_that_no_worker_has_begun_is_not_made(feeder, utterances):
    each = feeder(1)
    crew, cache = each.crew, each.train.cache
    first, cancelled, last = (each.train.order([Example(row, 1.0)], 0) for row in range(3))
    crew.collect(crew.submit(first))
    (pid,) = pids(each)
    os.kill(pid, signal.SIGSTOP)
    assert wait_for(lambda: process_state(pid) == "T")
    crew.cancel(crew.submit(cancelled))
    number = crew.submit(last)
    os.kill(pid, signal.SIGCONT)
    assert crew.collect(number).layout.ids == (utterances[2].id,)
    assert not crew._abandoned
    assert [cache.get(int(each.train.places[row])) is None for row in range(3)] == [False, True, False]


def test_an_order_too_large_for_its_slot_is_a_clear_error_and_takes_no_slot(feeder, utterances):
    long = dataclasses.replace(utterances[0], id="long", audio="x" * 2**22)
    each = feeder(1, some=[long, *utterances[1:]])
    free = len(each.crew._free)
    with pytest.raises(TrainingError, match=r"data\.workers: .*batch of long need 41\d{5} bytes"):
        each.crew.submit(each.train.order([Example(0, 1.0)], 0))
    assert len(each.crew._free) == free
    number = each.crew.submit(each.train.order([Example(1, 1.0)], 0))
    assert each.crew.collect(number).layout.ids == ("u1",)


def test_an_order_after_the_end_is_written_to_no_other_file(feeder, tmp_path):
    each = feeder(1)
    order = each.train.order([Example(0, 1.0)], 0)
    each.crew.submit(order)
    each.close()
    with contextlib.ExitStack() as stack:
        for number in range(32):  # one of them gets the descriptor that the pipe had
            stack.enter_context(open(tmp_path / f"{number}.txt", "wb"))
        with pytest.raises(ValueError, match="closed file"):
            each.crew.submit(order)
    assert not any(path.stat().st_size for path in tmp_path.glob("*.txt"))


def test_a_crew_that_cannot_start_all_its_processes_ends_the_others(feeder, monkeypatch):
    started = []

    class Refused(crews._Worker):
        def __init__(self, setup):
            if started:
                raise OSError(11, "Resource temporarily unavailable")
            super().__init__(setup)
            started.append(self.process.pid)

    monkeypatch.setattr(crews, "_Worker", Refused)
    with pytest.raises(OSError, match="temporarily"):
        feeder(2)
    assert not any(map(alive, started))


def test_a_stop_sent_to_all_processes_of_a_job_is_for_the_training(feeder):
    each = feeder(2, data={"batch_s": 1.0})
    batches = each.batches(each.train.plan(0), 0)
    found = [next(batches)]
    for pid in pids(each):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    found += batches
    assert sum(len(batch.ids) for batch in found) == 20


def test_closing_in_mid_epoch_leaves_no_process_and_the_next_epoch_is_right(feeder):
    reference = feeder(0, data={"batch_s": 1.0})
    each = feeder(2, data={"batch_s": 1.0})
    batches = each.batches(each.train.plan(0), 0)
    next(batches)
    batches.close()
    expected = reference.batches(reference.train.plan(1), 1)
    assert all(same(a, b) for a, b in zip(expected, each.batches(each.train.plan(1), 1), strict=True))
    each.close()
    assert not any(map(alive, pids(each)))


ENDLESS = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
from test_crew import make_feeder
from corpus import make_config, make_utterances
from pathlib import Path
folder = Path(sys.argv[2])
feeder = make_feeder(make_utterances(folder, 20, "u"), make_config(folder), 2)
for batch in feeder.batches(feeder.train.plan(0), 0):
    print(*(worker.process.pid for worker in feeder.crew.workers), flush=True)
    time.sleep(600)
"""


def test_a_batch_in_use_keeps_its_slot_and_a_dropped_one_gives_it_back(feeder):
    each = feeder(2, data={"batch_s": 1.0, "prefetch": 2})
    reference = feeder(0, data={"batch_s": 1.0})
    plan = each.train.plan(0)
    kept = list(itertools.islice(each.batches(plan, 0), 2))
    assert len(each.crew._lent) == 2
    for epoch in (1, 2):  # their slots would be written many times
        list(each.batches(each.train.plan(epoch), epoch))
    expected = list(reference.batches(plan, 0))
    assert all(map(same, kept, expected))
    kept.clear()
    assert not each.crew._lent


def test_more_batches_than_slots_may_be_kept(feeder):
    each = feeder(2, data={"batch_s": 1.0, "prefetch": 2})
    reference = feeder(0, data={"batch_s": 1.0})
    kept = [batch for epoch in range(3) for batch in each.batches(each.train.plan(epoch), epoch)]
    expected = [batch for epoch in range(3) for batch in reference.batches(reference.train.plan(epoch), epoch)]
    assert all(map(same, kept, expected))


def test_a_batch_outlives_the_workers(feeder):
    each = feeder(1, data={"batch_s": 1.0})
    plan = each.train.plan(0)
    batch = next(each.batches(plan, 0))
    each.close()
    assert same(batch, feeder(0, data={"batch_s": 1.0}).train.batch(plan[0], 0))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(tmp_path, number):
    folders = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([folders, os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, "-c", ENDLESS, os.path.dirname(__file__), str(tmp_path)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(map(alive, children))
        parent.send_signal(number)
        parent.wait(300)
        assert wait_for(lambda: not any(map(alive, children)))


def test_the_next_epoch_is_begun_while_this_one_runs(feeder):
    plans = {}

    def following(epoch):
        return plans.setdefault(epoch, each.train.plan(epoch)) if epoch < 2 else None

    each = feeder(1, following=following, data={"batch_s": 1.0, "prefetch": 4})
    reference = feeder(0, data={"batch_s": 1.0})
    list(each.batches(each.train.plan(0), 0))
    assert list(plans) == [1]
    assert each._next.epoch == 1
    assert len(each._next.stream._pending) == 4
    found = each.batches(plans[1], 1)
    assert all(same(a, b) for a, b in zip(reference.batches(plans[1], 1), found, strict=True))
    assert each._next is None


def test_an_epoch_that_was_begun_in_vain_is_dropped(feeder):
    each = feeder(1, following=each_plan(lambda: each), data={"batch_s": 1.0})
    reference = feeder(0, data={"batch_s": 1.0})
    list(each.batches(each.train.plan(0), 0))
    plan = each.train.plan(1)[3:]  # as after a resumed run, or with other sources
    assert all(same(a, b) for a, b in zip(reference.batches(plan, 1), each.batches(plan, 1), strict=True))


def each_plan(get):
    return lambda epoch: get().train.plan(epoch)


def test_validation_may_come_in_mid_epoch(feeder):
    each = feeder(2, data={"batch_s": 1.0, "prefetch": 3})
    reference = feeder(0, data={"batch_s": 1.0})
    plan = each.train.plan(0)
    batches, expected = each.batches(plan, 0), reference.batches(plan, 0)
    assert same(next(expected), next(batches))
    assert sum(len(batch.ids) for batch in each.held_out(each.train, plan)) == 20
    assert all(same(a, b) for a, b in zip(expected, batches, strict=True))


@pytest.fixture
def read_ahead(feeder, monkeypatch):
    """Makes feeders that read ahead in a thread, as for a GPU, and leave the batches on the CPU."""

    def stay(self, made):
        with contextlib.closing(made):
            for each in made:
                yield each, functools.partial(batch_tensors, each)

    def make(workers, **options):
        each = feeder(workers, **options)
        each.device = torch.device("cuda")
        return each

    monkeypatch.setattr(Feeder, "_uploaded", stay)
    return make


def upload_threads():
    return [thread for thread in threading.enumerate() if thread.name == "loader-upload"]


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_in_a_thread_changes_nothing(feeder, read_ahead, workers):
    sections = {"data": {"batch_s": 1.0, "prefetch": 3}}
    each = read_ahead(workers, following=each_plan(lambda: each), **sections)
    reference = feeder(0, **sections)
    for epoch in range(3):
        plan = reference.train.plan(epoch)
        batches, expected = each.batches(plan, epoch), reference.batches(plan, epoch)
        assert same(next(expected), next(batches))
        assert sum(len(batch.ids) for batch in each.held_out(each.train, plan)) == 20
        assert all(same(a, b) for a, b in zip(expected, batches, strict=True))
    assert not upload_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_left_ends_the_thread_that_reads_ahead(feeder, read_ahead, workers):
    sections = {"data": {"batch_s": 1.0, "prefetch": 3}}
    each = read_ahead(workers, following=each_plan(lambda: each), **sections)
    reference = feeder(0, **sections)
    for taken in (0, 1, 4):
        batches = each.batches(each.train.plan(0), 0)
        for _ in range(taken):
            next(batches)
        batches.close()
        assert not upload_threads()
    pairs = zip(reference.batches(reference.train.plan(1), 1), each.batches(each.train.plan(1), 1), strict=True)
    assert all(same(a, b) for a, b in pairs)


def test_an_error_of_the_thread_that_reads_ahead_is_raised_in_its_turn(read_ahead):
    each = read_ahead(1, data={"batch_s": 1.0})
    batches = each.batches(each.train.plan(0), 0)
    next(batches)
    os.kill(pids(each)[0], signal.SIGKILL)
    with pytest.raises(TrainingError, match="was killed by SIGKILL"):
        list(batches)
    assert not upload_threads()


def test_recordings_come_in_order_and_as_they_are(feeder, utterances):
    rows = [7, 3, 12, 0, 19]
    for workers in (0, 2):
        each = feeder(workers)
        found = list(each.recordings(each.train, rows))
        assert [id for batch in found for id in batch.ids] == [utterances[row].id for row in rows]
        samples = torch.cat([s[:n] for batch in found for s, n in zip(batch.samples, batch.lengths, strict=True)])
        expected = np.concatenate([each.train.samples(row) for row in rows])
        assert np.array_equal(samples.numpy(), expected)


class Slow:
    """A crew that counts what it is asked for."""

    def __init__(self):
        self.placed, self.cancelled = [], []

    def submit(self, order):
        self.placed.append(order)
        return len(self.placed)

    def collect(self, number):
        return self.placed[number - 1]

    def cancel(self, number):
        self.cancelled.append(number)


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_a_stream_keeps_the_order_and_its_depth(depth):
    crew = Slow()
    stream = BatchStream(crew, iter(range(20)))
    found = []
    while waiting := stream.fill(depth):
        assert waiting <= depth
        assert len(crew.placed) <= len(found) + depth
        found.append(stream.take())
    assert found == list(range(20))
    assert stream.take() is None


def test_a_closed_stream_cancels_what_was_not_collected():
    crew = Slow()
    stream = BatchStream(crew, iter(range(20)))
    stream.fill(5)
    stream.take()
    stream.close()
    assert crew.cancelled == [2, 3, 4, 5]
    assert stream.fill(5) == 0


def test_auto_goes_by_device_size_and_processors(monkeypatch):
    monkeypatch.setattr(crews.cpus, "available", lambda: 16)
    assert choose_workers("auto", 1.0, gpu=True) == 15
    assert choose_workers("auto", 1.0, gpu=False) == 0
    assert choose_workers("auto", 100.0, gpu=False) == 1
    assert choose_workers(3, 1.0, gpu=False) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_workers("auto", 1.0, gpu=True) == 3
    monkeypatch.setattr(crews.cpus, "available", lambda: 2)
    assert choose_workers("auto", 100.0, gpu=False) == 0
    assert choose_workers("auto", 100.0, gpu=True) == 1


def test_where_there_are_no_processes_workers_are_refused(monkeypatch):
    monkeypatch.setattr(crews.os, "name", "nt")
    assert choose_workers("auto", 100.0, gpu=True) == 0
    with pytest.raises(ConfigError, match=r"data\.workers: expected 0 or auto on this system, got 2"):
        choose_workers(2, 1.0, gpu=False)


def test_crews_are_of_one_kind_to_the_stream():
    assert {name for name in vars(ProcessCrew) if not name.startswith("_")} == {
        name for name in vars(ThreadCrew) if not name.startswith("_")
    }
