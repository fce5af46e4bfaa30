"""Speech that a model does not know: a doubt where the directory has a threshold, from every command, once a file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.cli import main
from asr.decode import confidence
from asr.decode.confidence import Calibration
from asr.decode.endpoint import Endpoint
from asr.errors import ModelError
from asr.models import bundled
from asr.recognize.option_sources import confidences
from asr.recognize.options import Decoding
from asr.recognize.stream import Stream

SAMPLE = Path(__file__).parents[2] / "egs" / "sample.wav"
MODELS = ("an4", "stream")


def melody(seconds=4.0, rate_hz=16000):
    """Chords of decaying harmonics, which no speech model knows: 16-bit samples."""
    rng = np.random.default_rng(5)
    chords = []
    t = np.arange(rate_hz // 2) / rate_hz
    for _ in range(int(2 * seconds)):
        notes = 110 * 2 ** (rng.integers(0, 36, 3) / 12)
        chords.append(sum(np.sin(2 * np.pi * f * h * t) / h for f in notes for h in range(1, 6)) * np.exp(-3 * t))
    sound = np.concatenate(chords)
    return (sound / np.abs(sound).max() * 2**14).astype(np.int16)


@pytest.fixture
def music(tmp_path, write_wav):
    return write_wav(tmp_path / "music.wav", melody() / np.float32(2**15))


@pytest.fixture
def silence(tmp_path, write_wav):
    return write_wav(tmp_path / "silence.wav", np.zeros(32000, np.float32))


def without_threshold(tmp_path):
    shutil.copytree(bundled.locate_model("an4"), tmp_path / "model")
    (tmp_path / "model" / confidence.CONFIDENCE_FILE).unlink()
    return str(tmp_path / "model")


@pytest.mark.parametrize("model", MODELS)
def test_a_recording_outside_the_domain_is_a_doubt_in_python(model, music, silence):
    recognizer = asr.load(model, device="cpu")
    assert recognizer.threshold == confidence.load_threshold(bundled.locate_model(model)) == 0.65
    heard = recognizer.transcribe(music)
    assert heard.words
    assert heard.doubt.startswith(f"{music}: the model may not know this kind of speech")
    assert recognizer.transcribe(SAMPLE).doubt == ""
    nothing = recognizer.transcribe(silence)
    assert (nothing.text, nothing.confidence, nothing.doubt) == ("", None, "")


def test_transcribe_warns_once_of_each_file_and_still_writes_it(music, silence, tmp_path, capsys):
    command = ["transcribe", str(music), str(SAMPLE), str(silence), "--format", "json", "--model", "an4"]
    assert main.run_command([*command, "--output-dir", str(tmp_path / "out")]) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert str(music) in line
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["doubts"] == [line.removeprefix("warning: ")]
    assert json.loads((tmp_path / "out" / "silence.json").read_text())["confidence"] is None
    assert json.loads((tmp_path / "out" / "music.json").read_text())["confidence"] < 0.65


def test_no_warning_without_a_threshold_or_with_phrases(music, tmp_path, capsys):
    assert main.run_command(["transcribe", str(music), "--model", without_threshold(tmp_path)]) == 0
    (tmp_path / "phrases").write_text("YES\nNO\n")
    command = ["transcribe", str(music), "--phrases", str(tmp_path / "phrases"), "--model", "an4"]
    assert main.run_command(command) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--no-endpoints", "--endpoint-s=0.2"])
def test_stream_warns_once(option, music, tmp_path, write_wav, capsys):
    long = write_wav(tmp_path / "long.wav", np.tile(melody(), 3) / np.float32(2**15))
    for path, count in ((long, 1), (music, 1), (SAMPLE, 0)):
        assert main.run_command(["stream", str(path), option, "--model", "stream"]) == 0
        assert capsys.readouterr().err.count("may not know this kind of speech") == count, path


def test_a_stream_gives_the_doubt_of_the_whole_recording(music):
    recognizer = asr.load("stream", device="cpu")
    for endpoint in (None, Endpoint(0.2)):
        stream = Stream(recognizer, endpoint=endpoint, source=str(music))
        update = stream.accept(melody())
        last = stream.finish()
        assert all(t.threshold == 0.65 for t in (*update.final, last))
        assert endpoint or last.doubt == recognizer.transcribe(music).doubt != ""


def test_a_long_recording_has_its_doubt(music, monkeypatch):
    monkeypatch.setattr("asr.recognize.long_audio.LONG_S", 3.0)
    assert asr.load("an4", device="cpu").transcribe(music).doubt


def test_label_warns_of_each_file_also_when_resumed(music, tmp_path, capsys):
    label = ["label", "--model", "an4", str(music)]
    command = [*label, str(SAMPLE), "--output", str(tmp_path / "out.jsonl"), "--least-confidence", "0.5"]
    assert main.run_command(command) == 0
    assert capsys.readouterr().err.count("may not know this kind of speech") == 1
    alone = [*label, "--output", str(tmp_path / "none.jsonl")]
    for more in ([], ["--resume"]):
        assert main.run_command([*alone, *more]) == 2
        assert "1 are doubtful as a whole" in capsys.readouterr().err


def test_a_calibration_does_not_change_what_is_a_doubt(music, tmp_path):
    """One that was fitted to speech that the model knows is sure of every word."""
    law = Calibration(0.0, 0.0, 3.0)
    shutil.copytree(bundled.locate_model("an4"), tmp_path / "model")
    confidence.save_calibration(tmp_path / "model", {"beam": law})
    assert confidence.load_threshold(tmp_path / "model") == 0.65
    fitted, plain = asr.load(tmp_path / "model", device="cpu"), asr.load("an4", device="cpu")
    assert fitted.transcribe(music).confidence > 0.9
    assert fitted.transcribe(music).doubt == plain.transcribe(music).doubt != ""
    assert fitted.transcribe(SAMPLE).doubt == ""


@pytest.mark.parametrize("value", ["2", "-0.1", "NaN", '"x"', "true"])
def test_a_damaged_threshold_is_named(tmp_path, value):
    (tmp_path / confidence.CONFIDENCE_FILE).write_text(f'{{"threshold": {value}}}')
    with pytest.raises(ModelError, match=r"confidence\.json.* threshold: expected a (finite )?number"):
        confidences(tmp_path, Decoding())
