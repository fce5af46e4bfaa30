"""Recordings are read ahead, in threads or processes, in order; what goes wrong concerns one recording."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio.read import load_audio
from asr.config.sections import FeatureConfig
from asr.errors import AudioError, ConfigError, TooLongError
from asr.recognize import readers
from asr.recognize.readers import ReaderProcesses, ReadingPlan, choose_readers, read_ahead, read_recordings
from asr.recognize.recognizer import load
from asr.recognize.recording import Recording, RecordingReader

READER = RecordingReader(FeatureConfig())
linux = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux")


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int) -> None:
    assert list(read_ahead(lambda n: (n * n, 1.0), range(20), threads, 3.0)) == [n * n for n in range(20)]


def test_no_more_is_held_than_allowed() -> None:
    begun: list[int] = []
    taken = read_ahead(lambda n: (begun.append(n), 1.0), range(100), 1, 5.0)
    next(taken)
    assert wait_for(lambda: len(begun) >= 5)
    threading.Event().wait(0.2)  # time enough to read all of them
    assert len(begun) <= 7
    taken.close()


def test_an_error_comes_in_its_turn() -> None:
    def fail(n: int) -> tuple[int, float]:
        if n == 2:
            raise ValueError("two")
        return n, 0.0

    taken = read_ahead(fail, range(5), 2, 9.0)
    assert [next(taken), next(taken)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(taken)


def test_threads_end_when_nobody_wants_more() -> None:
    taken = read_ahead(lambda n: (n, 1.0), range(1000), 3, 10.0)
    next(taken)
    taken.close()
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def sources(tmp_path: Path, bursts: Callable[..., np.ndarray], write_wav: Callable[..., Path]) -> list[object]:
    """Files of several kinds, bad ones, a long one, parts, an array and an open file."""
    for index in range(8):
        write_wav(tmp_path / f"{index}.wav", bursts(0.5 + index / 3, seed=index))
    soundfile.write(tmp_path / "stereo.flac", np.stack([bursts(2, seed=8), bursts(2, seed=9)], 1), 22050)
    (tmp_path / "3.wav").write_bytes(b"no sound")
    write_wav(tmp_path / "5.wav", bursts(65, seed=5))
    write_wav(tmp_path / "short.wav", np.zeros(100))
    return [
        *(str(tmp_path / f"{index}.wav") for index in range(8)),
        tmp_path / "0.wav",
        Recording(tmp_path / "7.wav", "part", 0.5, 1.5),
        Recording(tmp_path / "stereo.flac", "right", channel=1),
        tmp_path / "short.wav",
        tmp_path / "missing.wav",
        bursts(1, seed=10),
        open(tmp_path / "1.wav", "rb"),
    ]


def plan(processes: int | None = 0, *, gpu: bool = False) -> ReadingPlan:
    return ReadingPlan(longest_s=60.0, most_s=3.0, gpu=gpu, processes=processes)


@pytest.mark.parametrize("how", [plan(), plan(gpu=True), plan(2)])
def test_recordings_and_errors_are_those_of_reading_one_after_the_other(
    sources: list[object], how: ReadingPlan
) -> None:
    expected = list(read_recordings(READER, iter(sources), None, plan()))  # an iterator is not read ahead
    found = list(read_recordings(READER, sources, None, how))
    assert len(found) == len(sources)
    for (recording, got), (same, wanted) in zip(found, expected, strict=True):
        assert (recording.name, recording.start_s, recording.channel) == (same.name, same.start_s, same.channel)
        assert type(got) is type(wanted)
        if isinstance(wanted, AudioError):
            assert str(got) == str(wanted)
        else:
            np.testing.assert_array_equal(got, wanted)
    assert [i for i, (_, got) in enumerate(found) if isinstance(got, AudioError)] == [3, 5, 11, 12]
    assert isinstance(found[5][1], TooLongError)


def test_transcripts_are_the_same_with_reader_processes(model_dir: Path, sources: list[object]) -> None:
    recognizer = load(model_dir, device="cpu")
    expected = [str(getattr(result, "text", result)) for _, result in recognizer.transcribe_many(iter(sources))]
    found = [str(getattr(result, "text", result)) for _, result in recognizer.transcribe_many(sources, readers=2)]
    assert found == expected
    assert sum(map(bool, found)) > 8


def test_reader_processes_import_neither_torch_nor_numba() -> None:
    heavy = "import sys, asr.recognize.reader_child; print({'torch', 'numba'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes reader processes kill themselves at ``always.wav``, at ``once.wav`` the first time, and hang at
    ``hang.wav``."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, pathlib, sys, time\n"
        "if 'asr.recognize.reader_child' in sys.orig_argv:\n"
        "    from asr.audio import read\n"
        "    load = read.load_audio\n"
        "    def deadly(source, *args, **options):\n"
        "        mark = pathlib.Path(str(source) + '.mark')\n"
        "        if str(source).endswith('hang.wav'):\n"
        "            time.sleep(600)\n"
        "        if str(source).endswith('always.wav') or (str(source).endswith('once.wav') and not mark.exists()):\n"
        "            mark.touch()\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return load(source, *args, **options)\n"
        "    read.load_audio = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    return site


def test_a_recording_that_kills_its_readers_fails_alone(
    children: Path, tmp_path: Path, bursts: Callable[..., np.ndarray], write_wav: Callable[..., Path]
) -> None:
    names = ["a.wav", "always.wav", "b.wav", "c.wav", "d.wav"]
    paths = [write_wav(tmp_path / name, bursts(1, seed=i)) for i, name in enumerate(names)]
    found = [result for _, result in read_recordings(READER, paths, None, plan(2))]
    message = str(found.pop(1))
    assert message.startswith(f"{paths[1]}: the process that read it was killed by SIGKILL")
    assert "--readers" in message
    for path, samples in zip([paths[0], *paths[2:]], found, strict=True):
        np.testing.assert_array_equal(samples, load_audio(path))


def test_a_recording_whose_reader_dies_is_read_again(
    children: Path, tmp_path: Path, bursts: Callable[..., np.ndarray], write_wav: Callable[..., Path]
) -> None:
    paths = [write_wav(tmp_path / name, bursts(1, seed=i)) for i, name in enumerate(["a.wav", "once.wav", "b.wav"])]
    found = [result for _, result in read_recordings(READER, paths, None, plan(1))]
    assert (tmp_path / "once.wav.mark").exists()
    for path, samples in zip(paths, found, strict=True):
        np.testing.assert_array_equal(samples, load_audio(path))


def test_an_error_of_a_reader_that_is_no_bad_file_is_raised_with_its_traceback(
    tmp_path: Path, write_wav: Callable[..., Path]
) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros(16000))
    with ReaderProcesses(1, READER, 60.0) as processes:
        with pytest.raises(TypeError) as raised:
            processes.read(Recording(path, start_s="0"))  # type: ignore[arg-type]
        assert "in the reader process" in raised.value.__notes__[0]
        assert len(processes.children) == 1  # it goes on


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false"])
def test_where_no_process_starts_threads_read(
    sources: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    expected = [str(result) for _, result in read_recordings(READER, iter(sources), None, plan())]
    monkeypatch.setattr(sys, "executable", program)
    assert [str(result) for _, result in read_recordings(READER, sources, None, plan(2))] == expected
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "no reader process can be started" in warnings[0]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            found += map(int, (task / "children").read_text().split())
    return found


def wait_for(condition: Callable[[], bool]) -> bool:
    return any(condition() or time.sleep(0.1) for _ in range(1200))


@linux
def test_closing_ends_the_processes_whatever_they_read(
    children: Path, tmp_path: Path, bursts: Callable[..., np.ndarray], write_wav: Callable[..., Path]
) -> None:
    before = set(children_of(os.getpid()))
    paths = [write_wav(tmp_path / name, bursts(1)) for name in ("a.wav", "hang.wav", "b.wav")]
    found = read_recordings(READER, paths, None, plan(2))
    next(found)
    assert wait_for(lambda: len(set(children_of(os.getpid())) - before) == 2)
    found.close()
    assert set(children_of(os.getpid())) <= before


@pytest.fixture
def hanging(
    children: Path, tmp_path: Path, bursts: Callable[..., np.ndarray], write_wav: Callable[..., Path], model_dir: Path
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """``asr transcribe`` of a folder, and its two reader processes, one of which hangs."""
    for name in ("a.wav", "b.wav", "hang.wav"):
        write_wav(tmp_path / "in" / name, bursts(1))
    arguments = ["transcribe", tmp_path / "in", "--model", model_dir, "--readers", "2", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asr.cli", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_for(lambda: process.poll() is not None or len(children_of(process.pid)) == 2)
    yield process, children_of(process.pid)
    process.kill()
    process.wait()


@linux
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_command_that_is_ended_leaves_no_reader_behind(
    hanging: tuple[subprocess.Popen[str], list[int]], sent: signal.Signals, status: int
) -> None:
    process, pids = hanging
    assert len(pids) == 2
    process.send_signal(sent)
    assert process.wait(300) == status
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()  # ends when the last process that holds it does
    assert wait_for(lambda: not any(map(alive, pids)))


@linux
def test_standard_input_under_a_name_is_read_by_the_command_itself(
    tmp_path: Path, bursts: Callable[..., np.ndarray], write_wav: Callable[..., Path]
) -> None:
    path = write_wav(tmp_path / "a.wav", bursts(1))
    code = (
        "from test_readers import READER, plan, read_recordings\n"
        f"for _, found in read_recordings(READER, ['/dev/stdin', {str(path)!r}], None, plan(1)): print(len(found))"
    )
    folders = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    with path.open("rb") as stdin:
        found = subprocess.run(
            [sys.executable, "-c", code],
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": folders},
        )
    assert (found.stdout, found.stderr) == ("16000\n16000\n", "")


def test_readers_are_processes_for_a_gpu_and_files_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers.cpus, "available", lambda: 12)
    assert choose_readers(None, 1000, gpu=True) == 11
    assert choose_readers(None, 40, gpu=True) == 5
    assert choose_readers(None, 9, gpu=True) == 0
    assert choose_readers(None, 1000, gpu=False) == 0
    assert choose_readers(3, 1000, gpu=False) == 3
    monkeypatch.setattr(readers.cpus, "available", lambda: 64)
    assert choose_readers(None, 1000, gpu=True) == 16


def test_where_there_are_no_reader_processes_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers.os, "name", "nt")
    assert choose_readers(None, 1000, gpu=True) == 0
    with pytest.raises(ConfigError, match="readers: expected 0 on this system"):
        choose_readers(2, 1000, gpu=True)
