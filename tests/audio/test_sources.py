"""Live sources and how their text is shown: files at their own pace, raw samples, microphones that are not there."""

import io
import json
import re
import struct
import sys
import time
import types

import numpy as np
import pytest
import soundfile

from asr.audio import sources
from asr.cli import live_display, main
from asr.decode.endpoint import Endpoint
from asr.errors import AudioError, ConfigError
from asr.recognize.stream import Stream, Update
from asr.terminal import Terminated
from asr.transcript import Transcript, Word


@pytest.fixture
def sample(tmp_path, bursts, write_wav):
    return write_wav(tmp_path / "sample.wav", bursts(2.5, seed=3))


class Pipe(io.BytesIO):
    """A pipe that gives at most so many bytes at a time."""

    def __init__(self, data, at_once):
        super().__init__(data)
        self.at_once = at_once

    def read1(self, size=-1):
        return super().read1(min(size, self.at_once))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def transcript(text):
    return Transcript(text, tuple(Word(w, i, i + 0.5, 0.9) for i, w in enumerate(text.split())), 3.0, "x")


@pytest.mark.parametrize("block_s", [0.001, 0.1, 10.0])
def test_a_file_comes_whole_in_blocks(sample, bursts, block_s):
    rate_hz, blocks = sources.file_blocks(str(sample), block_s)
    blocks = list(blocks)
    assert rate_hz == 16000
    assert {len(block) for block in blocks[:-1]} <= {round(block_s * 16000)}
    np.testing.assert_allclose(np.concatenate(blocks), bursts(2.5, seed=3), atol=1e-4)


@pytest.mark.parametrize("of", ["file", "wav_pipe", "raw_pipe"])
def test_real_time_waits_until_each_block_has_been_said(sample, monkeypatch, of):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    if of == "file":
        rate_hz, blocks = sources.file_blocks(str(sample), 0.5)
    else:
        data = sample.read_bytes()[44 if of == "raw_pipe" else 0 :]
        rate_hz, blocks = sources.pipe_blocks(io.BytesIO(data), 16000 if of == "raw_pipe" else None, 0.5)
    heard = 0
    for block in sources.paced(rate_hz, blocks):
        heard += len(block)
        assert now[0] == pytest.approx(100 + heard / 16000)
        now[0] += 0.01  # the time that recognising takes is not waited for again
    assert heard == 40000


def test_a_file_that_breaks_off_is_named_where_the_damage_is_met(tmp_path, sample):
    whole = sample.read_bytes()
    broken = tmp_path / "broken.wav"
    broken.write_bytes(whole[:20])
    with pytest.raises(AudioError, match=r"broken\.wav"):
        sources.file_blocks(str(broken), 0.1)
    with pytest.raises(AudioError, match=r"none\.wav"):
        sources.file_blocks(str(tmp_path / "none.wav"), 0.1)


@pytest.mark.parametrize("at_once", [1, 3, 10000])
def test_raw_samples_come_whole_however_the_pipe_cuts_them(at_once):
    samples = np.arange(-300, 300, dtype="<i2")
    blocks = list(sources.pcm_blocks(Pipe(samples.tobytes() + b"\x01", at_once), 16000, 0.01))
    np.testing.assert_array_equal(np.concatenate(blocks), samples)
    assert all(block.dtype == np.int16 and 0 < len(block) <= 160 for block in blocks)


@pytest.mark.parametrize("at_once", [1, 7, 10000])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, None])
def test_a_wav_file_from_a_pipe_is_heard_as_it_comes(at_once, size):
    samples = np.arange(6000, dtype="<i2").reshape(-1, 2)
    out = io.BytesIO()
    soundfile.write(out, samples, 8000, format="WAV", subtype="PCM_16")
    data = bytearray(out.getvalue())
    if size is None:
        data += b"LIST\4\0\0\0INFO"  # a chunk behind the samples is none of them
    else:
        data[40:44] = struct.pack("<I", size)
    rate_hz, blocks = sources.pipe_blocks(Pipe(bytes(data), at_once), None, 0.05)
    assert rate_hz == 8000
    np.testing.assert_array_equal(np.concatenate(list(blocks)), samples)


def test_a_wav_file_that_breaks_off_in_the_pipe_is_named():
    out = io.BytesIO()
    soundfile.write(out, np.zeros(8000), 8000, format="WAV", subtype="PCM_16")
    _, blocks = sources.pipe_blocks(io.BytesIO(out.getvalue()[:9000]), None, 0.05)
    with pytest.raises(AudioError, match="standard input: truncated or damaged: the header promises 16000 bytes, 8956"):
        list(blocks)


@pytest.mark.parametrize("form", ["FLAC", "OGG", "AIFF"])
def test_other_files_from_a_pipe_are_known_by_their_first_bytes(form, bursts):
    out = io.BytesIO()
    soundfile.write(out, bursts(1.0), 16000, format=form)
    out.seek(0)
    rate_hz, blocks = sources.pipe_blocks(Pipe(out.getvalue(), 100), 8000, 0.1)
    assert (rate_hz, sum(map(len, blocks))) == (16000, 16000)


def test_samples_without_a_rate_are_refused_and_the_option_is_named():
    for content, got in ((b"\1\2" * 5000, "first bytes"), (b"", "0 bytes")):
        with pytest.raises(AudioError, match=f"{got}.*need --rate HZ"):
            sources.pipe_blocks(io.BytesIO(content), None, 0.1)


def fake_sounddevice(devices, blocks):
    """A sounddevice whose microphone says ``blocks`` and then fails as an unplugged one does."""

    class PortAudioError(Exception):
        pass

    class InputStream:
        def __init__(self, rate_hz, size, device, *, channels, dtype, callback):
            if device not in (None, 0, "desk"):
                raise ValueError(f"No input device matching {device!r}")
            assert (rate_hz, channels, dtype) == (16000, 1, "float32")
            for block in blocks:
                callback(block[:, None], len(block), None, None)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    return types.SimpleNamespace(PortAudioError=PortAudioError, InputStream=InputStream, query_devices=lambda: devices)


def test_a_microphone_gives_its_blocks_and_its_errors(monkeypatch):
    said = [np.full(1600, value, np.float32) for value in (0.1, 0.2)]
    devices = [
        {"name": "speaker", "max_input_channels": 0, "default_samplerate": 48000.0},
        {"name": "desk", "max_input_channels": 2, "default_samplerate": 44100.0},
    ]
    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice(devices, said))
    blocks = sources.microphone_blocks("0", 16000, 0.1)
    np.testing.assert_array_equal(np.concatenate([next(blocks), next(blocks)]), np.concatenate(said))
    with pytest.raises(ConfigError, match=r"microphone attic: No input device.*--devices"):
        next(sources.microphone_blocks("attic", 16000, 0.1))
    assert sources.devices() == "  1  desk (2 channels, 44100 Hz)"
    devices.pop()
    assert sources.devices() == "no microphone found"


def test_without_sounddevice_there_is_advice(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigError, match=r"pip install sounddevice"):
        next(sources.microphone_blocks(None, 16000, 0.1))
    assert main.run_command(["stream", "--devices"]) == 2
    assert "pip install sounddevice" in capsys.readouterr().err


def test_text_grows_on_a_terminal_and_comes_whole_elsewhere():
    updates = [Update((), "ON", 0, 0.5), Update((), "ONE", 3, 0.6), Update((), "ONE", 3, 0.7)]
    updates.append(Update((transcript("ONE TWO"),), "T", 0, 2.0))
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        display = live_display.Display(out)
        for update in updates:
            display.update(update)
        display.final(transcript(""))
    assert terminal.getvalue() == "\r\x1b[KON\r\x1b[KONE\r\x1b[KONE TWO\n\r\x1b[KT"
    assert pipe.getvalue() == "ONE TWO\n"


def test_json_lines_tell_partial_and_final_texts():
    out = io.StringIO()
    display = live_display.Display(out, as_json=True)
    display.update(Update((), "ON", 1, 0.5))
    display.update(Update((), "ON", 1, 0.6))
    display.update(Update((transcript("ONE TWO"),), "", 0, 2.0))
    partial, final = map(json.loads, out.getvalue().splitlines())
    expected = {"type": "partial", "time_s": 0.5, "text": "ON", "stable": 1, "written": None, "written_stable": 0}
    assert partial == expected
    assert (final["type"], final["text"], len(final["words"])) == ("final", "ONE TWO", 2)


@pytest.mark.parametrize("error", [Terminated, AudioError])
def test_a_stream_that_ends_badly_shows_what_was_said_and_says_so(recognizer, bursts, error):
    def broken():
        yield bursts(1.5, seed=1)
        raise error

    out = io.StringIO()
    with pytest.raises(error):
        live_display.run_live(Stream(recognizer, chunk_s=0.64), broken(), live_display.Display(out))
    assert out.getvalue().strip()


def test_text_that_grows_on_a_terminal_cannot_command_it():
    terminal = Terminal()
    live_display.Display(terminal).final(transcript("A\x1b[2JB"))
    assert terminal.getvalue() == "\r\x1b[KA\\x1b[2JB\n"


def test_a_run_shows_every_utterance_and_what_was_said_before_an_interruption(recognizer, bursts):
    pause = np.zeros(32000, np.float32)
    whole = np.concatenate([bursts(1.5, seed=1), pause, bursts(1.0, seed=2)])
    blocks = [whole[at : at + 1600] for at in range(0, len(whole), 1600)]

    def interrupted():
        yield from blocks
        raise KeyboardInterrupt

    shown = []
    for source in (iter(blocks), interrupted()):
        out = io.StringIO()
        live_display.run_live(
            Stream(recognizer, endpoint=Endpoint(0.5), chunk_s=0.64), source, live_display.Display(out)
        )
        shown.append(out.getvalue())
    assert shown[0] == shown[1]
    assert shown[0].count("\n") >= 2
    live_whole = Stream(recognizer, chunk_s=0.64)
    for block in blocks:
        live_whole.accept(block)
    # An endpoint ends a word as well: letters are compared, not words.
    assert "".join(shown[0].split()) == live_whole.finish().text.replace(" ", "")


def test_the_command_streams_files_and_pipes_alike(model_dir, sample, monkeypatch, capsys):
    options = ["--model", str(model_dir), "--chunk-s", "30", "--no-endpoints"]
    assert main.run_command(["transcribe", str(sample), "--model", str(model_dir)]) == 0
    whole = capsys.readouterr().out.strip()
    assert main.run_command(["stream", str(sample), *options]) == 0
    assert capsys.readouterr().out.strip() == whole
    pcm = sample.read_bytes()[44:]
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(pcm)))
    assert main.run_command(["stream", "-", "--json", "--rate", "16000", *options]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["type"] == "final"
    assert lines[-1]["text"] == whole


def test_the_command_decides_early_on_words_where_it_is_asked_to(model_dir, sample, capsys):
    stable = []
    for more in ([], ["--settle-s", "0.2"]):
        options = ["--model", str(model_dir), "--chunk-s", "0.3", "--beam", "8", "--no-endpoints", *more]
        assert main.run_command(["stream", str(sample), "--json", *options]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        stable.append([line["stable"] for line in lines if line["type"] == "partial"])
    assert sum(stable[1]) > sum(stable[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stream"], "expected FILE, - .* or mic"),
        (["stream", "nowhere.wav"], r"nowhere\.wav"),
    ],
)
def test_what_cannot_be_streamed_is_said(model_dir, sample, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"")))
    arguments = [argument.format(sample=sample) for argument in arguments]
    assert main.run_command([*arguments, "--model", str(model_dir)]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("option", ["--rate", "--raw-rate"])  # the second as of asr transcribe
def test_the_rate_of_raw_samples_has_both_names(option):
    assert main.parse_arguments(["stream", "-", option, "8000"]).rate == 8000
