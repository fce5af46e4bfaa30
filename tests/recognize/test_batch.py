"""Many recordings: processes that share them, going on where it stopped, channels, manifests, raw samples."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr.cli import main
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.recognize import batch


@pytest.fixture
def folder(tmp_path, bursts, write_wav):
    """Seven recordings, the fourth of them damaged."""
    folder = tmp_path / "in"
    for i in range(7):
        write_wav(folder / f"{i}.wav", bursts(1.0 + 0.4 * i, seed=i))
    (folder / "3.wav").write_bytes((folder / "3.wav").read_bytes()[:5000])
    return folder


@pytest.fixture
def texts(folder, recognizer):
    return {f"{i}.txt": recognizer.transcribe(folder / f"{i}.wav").text + "\n" for i in range(7) if i != 3}


def run(*args):
    return main.run_command(["transcribe", *map(str, args)])


def written(out):
    return {path.name: path.read_text() for path in out.glob("*.txt")}


def summary(out, name="summary.json"):
    return json.loads((out / name).read_text())


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_and_its_summary(folder, texts, model_dir, tmp_path, jobs):
    out = tmp_path / "out"
    assert run(folder, "--output-dir", out, "--model", model_dir, "--jobs", jobs) == 1
    assert written(out) == texts
    tree = summary(out)
    assert (tree["done"], tree["failed"], tree["skipped"]) == (6, 1, 0)
    assert "3.wav: truncated" in tree["failures"][0]
    assert tree["audio_s"] == pytest.approx(sum(1.0 + 0.4 * i for i in range(7) if i != 3), abs=0.01)
    assert tree["real_time_factor"] == pytest.approx(tree["seconds"] / tree["audio_s"], rel=0.05)


def test_what_is_there_is_left_out(folder, texts, model_dir, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "5.txt").write_text("KEPT\n")
    assert run(folder, "--output-dir", out, "--model", model_dir, "--resume") == 1
    assert written(out) == texts | {"5.txt": "KEPT\n"}
    assert (summary(out)["done"], summary(out)["skipped"]) == (5, 1)
    assert run(folder, "--output-dir", out, "--model", model_dir, "--resume") == 1
    assert (summary(out)["done"], summary(out)["skipped"], summary(out)["failed"]) == (0, 6, 1)


def test_the_same_command_runs_again_and_somebody_elses_files_stay(folder, texts, model_dir, tmp_path, capsys):
    out = tmp_path / "out"
    for _ in range(2):
        assert run(folder, "--output-dir", out, "--model", model_dir) == 1
        assert written(out) == texts
    (out / "5.txt").write_text("CORRECTED\n")
    assert run(folder, "--output-dir", out, "--model", model_dir) == 2
    assert written(out) == texts | {"5.txt": "CORRECTED\n"}
    assert "5.txt: expected no transcript" in capsys.readouterr().err
    assert run(folder, "--output-dir", out, "--model", model_dir, "--force") == 1
    assert written(out) == texts


def test_recordings_that_differ_in_their_suffix_have_names_of_their_own(
    recognizer, model_dir, bursts, write_wav, tmp_path
):
    write_wav(tmp_path / "in" / "film.wav", bursts(1.0, seed=1))
    out = tmp_path / "out"
    assert run(tmp_path / "in", "--output-dir", out, "--model", model_dir) == 0
    write_wav(tmp_path / "in" / "film.flac", bursts(1.5, seed=2))
    assert run(tmp_path / "in", "--output-dir", out, "--model", model_dir, "--resume") == 0
    assert set(written(out)) == {"film.txt", "film.flac.txt"}
    assert (summary(out)["done"], summary(out)["skipped"]) == (1, 1)
    assert run(tmp_path / "in", "--output-dir", tmp_path / "new", "--model", model_dir) == 0
    texts = {f"{n}.txt": recognizer.transcribe(tmp_path / "in" / n).text + "\n" for n in ("film.wav", "film.flac")}
    assert written(tmp_path / "new") == texts


@pytest.mark.parametrize("length", [244, 250])
def test_long_names(model_dir, bursts, write_wav, tmp_path, length):
    write_wav(tmp_path / "in" / f"{'x' * (length - 4)}.wav", bursts(1.0))
    assert run(tmp_path / "in", "--output-dir", tmp_path / "out", "--model", model_dir) == 0
    assert list(written(tmp_path / "out")) == [f"{'x' * (length - 4)}.txt"]


@pytest.fixture
def hanging(folder, model_dir, tmp_path, monkeypatch):
    """A batch of two processes, one of which has a recording in hand that never ends: it, and its workers."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    from asr.audio import read\n"
        "    load = read.load_audio\n"
        "    read.load_audio = lambda name, *a, **o: time.sleep(600) if '5.wav' in str(name) else load(name, *a, **o)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    program = (
        "import sys; from asr.recognize import batch; from asr.cli import main;"
        "batch.CHUNK = 1; sys.exit(main.run_command())"
    )
    arguments = ["transcribe", folder, "--output-dir", tmp_path / "out", "--model", model_dir, "--jobs", "2"]
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "4.txt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) >= 2
    yield process, workers
    process.kill()
    process.wait()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux")
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_batch_that_is_ended_leaves_no_process_behind(hanging, sent, status):
    process, workers = hanging
    process.send_signal(sent)
    assert process.wait() == status
    assert "Traceback" not in process.stderr.read()  # ends when the last process that holds it does
    while any(alive(pid) for pid in workers):
        time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_recording_that_kills_its_process_fails_alone(folder, texts, model_dir, tmp_path, monkeypatch):
    """One process at a time is killed from within, as the kernel does when memory runs out."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    from asr.audio import read\n"
        "    load = read.load_audio\n"
        "    def deadly(source, *args, **options):\n"
        "        if str(source).endswith('5.wav'): os.kill(os.getpid(), 9)\n"
        "        return load(source, *args, **options)\n"
        "    read.load_audio = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    monkeypatch.setattr(batch, "CHUNK", 2)
    out = tmp_path / "out"
    outcome = batch.transcribe_files({"model": model_dir}, [str(folder)], output_dir=out, jobs=2)
    del texts["5.txt"]
    assert written(out) == texts
    assert len(outcome.failures) == 2
    assert any("5.wav: the process that transcribed it died" in failure for failure in outcome.failures)


def test_processes_of_torchrun_share_a_manifest(folder, texts, model_dir, tmp_path, monkeypatch):
    path = tmp_path / "all.jsonl"
    manifest.write_manifest(path, [Utterance(f"id/{i}", str(folder / f"{i}.wav"), "", 1.0 + 0.4 * i) for i in range(7)])
    out = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, status in enumerate((1, 0, 0)):
        monkeypatch.setenv("RANK", str(rank))
        assert run(path, "--output-dir", out, "--model", model_dir) == status
    assert written(out) == {f"id_{name}": text for name, text in texts.items()}
    parts = [summary(out, f"summary.{rank}-of-3.json") for rank in (1, 2, 3)]
    assert [part["done"] for part in parts] == [2, 2, 2]
    assert sum(part["failed"] for part in parts) == 1
    assert run(path, "--model", model_dir) == 2


def test_segments_of_a_manifest(folder, recognizer, model_dir, tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    manifest.write_manifest(path, [Utterance("a", str(folder / "6.wav"), "", 1.5, start_s=0.5, end_s=2.0)])
    assert run(path, "--model", model_dir, "--format", "json") == 0
    tree = json.loads(capsys.readouterr().out)
    samples = soundfile.read(folder / "6.wav", dtype="float32")[0][8000:32000]
    assert (tree["source"], tree["text"]) == ("a", recognizer.transcribe(samples).text)
    path.write_text("{}\n")
    assert run(path, "--model", model_dir) == 1
    assert "some.jsonl" in capsys.readouterr().err


def test_channels_apart_or_together(recognizer, model_dir, tmp_path, bursts, capsys):
    left, right = bursts(2.0, seed=1), bursts(2.0, seed=2)
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "one.wav", left, 16000, subtype="FLOAT")
    out = tmp_path / "out"
    assert run(path, tmp_path / "one.wav", "--channels", "split", "--output-dir", out, "--model", model_dir) == 0
    expected = [recognizer.transcribe(x).text + "\n" for x in (left, right)]
    assert written(out) == {"two.ch1.txt": expected[0], "two.ch2.txt": expected[1], "one.txt": expected[0]}
    assert run(path, "--channels", "split", "--format", "ctm", "--model", model_dir) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {(line[0], line[1]) for line in lines} == {("two", "1"), ("two", "2")}
    assert run(path, "--channels", "mix", "--model", model_dir) == 0
    assert capsys.readouterr().out.strip() == recognizer.transcribe(path).text
    assert run(tmp_path / "gone.wav", "--channels", "split", "--model", model_dir) == 1
    assert "gone.wav: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [16000, 8000])
def test_raw_samples_on_standard_input(recognizer, model_dir, bursts, monkeypatch, capsys, rate):
    samples = (bursts(2.0, seed=3, rate_hz=rate) * 32767).astype("<i2")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(samples.tobytes() + b"\0")))
    assert run("-", "--raw-rate", rate, "--model", model_dir) == 0
    assert capsys.readouterr().out.strip() == recognizer.transcribe(samples, sample_rate_hz=rate).text


class Endless(io.RawIOBase):
    """A pipe that begins with ``head`` and never ends."""

    def __init__(self, head=b""):
        self.head, self.given = head, 0

    def readable(self):
        return True

    def read(self, size=-1):
        assert size >= 0, "asked for everything"
        data = self.head[self.given : self.given + size].ljust(size, b"\0")
        self.given += size
        return data


def feed(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stream))


@pytest.mark.parametrize("extra", [[], ["--raw-rate", 8000]])
def test_a_file_on_standard_input_is_known_by_its_header(recognizer, model_dir, bursts, monkeypatch, capsys, extra):
    out = io.BytesIO()
    soundfile.write(out, bursts(2.0, seed=3), 16000, format="WAV")
    feed(monkeypatch, io.BytesIO(out.getvalue()))
    assert run("-", *extra, "--model", model_dir) == 0
    assert capsys.readouterr().out.strip() == recognizer.transcribe(io.BytesIO(out.getvalue())).text


def test_standard_input_without_a_header_names_the_option(model_dir, monkeypatch, capsys):
    feed(monkeypatch, io.BytesIO(bytes(20000)))
    assert run("-", "--model", model_dir) == 1
    assert "standard input: expected an audio file" in (err := capsys.readouterr().err)
    assert "--raw-rate HZ" in err


def test_endless_standard_input_ends_with_the_longest_duration(model_dir, bursts, monkeypatch, capsys):
    head = io.BytesIO()
    soundfile.write(head, bursts(1.0), 16000, format="WAV")
    for begin, extra in ((b"", ["--raw-rate", 16000]), (head.getvalue(), [])):
        feed(monkeypatch, stream := Endless(begin))
        assert run("-", *extra, "--max-duration", 2, "--model", model_dir) == 1
        assert (
            "standard input: expected at most max_duration_s=2 s of audio, got more than 2 s" in capsys.readouterr().err
        )
        assert stream.given < 5_000_000
    feed(monkeypatch, stream := Endless())
    assert run("-", "--model", model_dir) == 1
    assert stream.given <= 4096


@pytest.fixture
def pipe(tmp_path, bursts):
    """A named pipe through which a recording of 75 s comes once, and that recording."""
    samples = bursts(75.0, seed=5)
    out = io.BytesIO()
    soundfile.write(out, np.stack([samples, samples[::-1]], axis=1), 16000, format="WAV")
    os.mkfifo(path := tmp_path / "pipe")
    threading.Thread(target=path.write_bytes, args=(out.getvalue(),), daemon=True).start()
    return path, out.getvalue()


def test_a_long_recording_from_a_pipe_is_whole(recognizer, model_dir, pipe, capsys):
    assert run(pipe[0], "--model", model_dir) == 0
    assert capsys.readouterr().out.strip() == recognizer.transcribe(io.BytesIO(pipe[1])).text


def test_channels_of_a_recording_from_a_pipe(model_dir, pipe, tmp_path):
    assert run(pipe[0], "--channels", "split", "--output-dir", tmp_path / "out", "--model", model_dir) == 0
    both = written(tmp_path / "out")
    assert set(both) == {"pipe.ch1.txt", "pipe.ch2.txt"}
    assert all(len(text) > 20 for text in both.values())


def test_recordings_from_pipes_reach_the_processes_of_jobs(recognizer, model_dir, pipe, write_wav, bursts, tmp_path):
    other = write_wav(tmp_path / "b.wav", bursts(1.0))
    assert run(pipe[0], other, "--jobs", 2, "--output-dir", tmp_path / "out", "--model", model_dir) == 0
    text = recognizer.transcribe(io.BytesIO(pipe[1])).text
    assert written(tmp_path / "out")["pipe.txt"] == text + "\n"


def test_the_python_call_reads_a_pipe_once(recognizer, pipe):
    assert recognizer.transcribe(pipe[0]).text == recognizer.transcribe(io.BytesIO(pipe[1])).text


def test_aligning_a_long_recording_from_a_pipe(recognizer, pipe):
    aligned = recognizer.align(pipe[0], "ONE TWO")
    assert aligned.duration_s == pytest.approx(75.0, abs=0.01)


def test_pipes_and_closed_folders_in_a_folder_are_named_and_the_rest_is_done(
    folder, texts, model_dir, tmp_path, capsys, monkeypatch
):
    os.mkfifo(folder / "a.wav")
    for name in ("lost+found", "closed"):
        (folder / name).mkdir()
    scandir = os.scandir

    def closed(path):
        if not isinstance(path, int) and Path(path).name in ("lost+found", "closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    out = tmp_path / "out"
    assert run(folder, "--output-dir", out, "--model", model_dir) == 1
    assert written(out) == texts
    errors = capsys.readouterr().err
    assert re.search(r"a\.wav: left out: .* got a pipe", errors)
    assert re.search(r"closed: expected a folder that can be listed", errors)
    assert "lost+found" not in errors


def test_a_longest_duration(folder, texts, model_dir, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, "--output-dir", out, "--model", model_dir, "--max-duration", 2.0) == 1
    assert set(written(out)) == {"0.txt", "1.txt", "2.txt"}
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert sum("expected at most max_duration_s=2 s" in line for line in errors) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "resume: expected an output folder"),
    ],
)
def test_options_that_make_no_sense(folder, model_dir, capsys, arguments, message):
    assert run(folder, "--model", model_dir, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named_before_processes_start(folder, tmp_path):
    with pytest.raises(asr.AsrError, match="nowhere"):
        batch.transcribe_files({"model": tmp_path / "nowhere"}, [str(folder)], output_dir=tmp_path / "out", jobs=2)
    with pytest.raises(ConfigError, match="jobs: expected the arguments"):
        batch.transcribe_files(object.__new__(asr.Recognizer), [str(folder)], jobs=2)


def test_a_summary_is_not_overwritten_by_a_recording_of_that_name(tmp_path, model_dir, bursts, write_wav, capsys):
    path = write_wav(tmp_path / "summary.wav", bursts(1.0))
    assert run(path, "--format", "json", "--output-dir", tmp_path / "out", "--model", model_dir) == 2
    assert "the summary and" in capsys.readouterr().err
    assert Path(path).exists()


def test_two_recordings_of_one_name_are_refused_in_one_ctm(model_dir, tmp_path, bursts, write_wav, capsys):
    files = [write_wav(tmp_path / name / "x.wav", bursts(1, seed=1)) for name in "ab"]
    assert run(*files, "--model", model_dir, "--format", "ctm") == 2
    assert "would both be 'x' in one CTM: give --output-dir" in capsys.readouterr().err
    out = tmp_path / "out"
    assert run(tmp_path / "a", "--model", model_dir, "--format", "ctm", "--output-dir", out) == 0
