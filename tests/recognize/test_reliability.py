"""Reliability of whole transcripts: the bundled model's own speech against other sound, every way in."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import asr
from asr import formats
from asr.cli import main
from asr.decode import confidence
from asr.decode.endpoint import Endpoint
from asr.decode.judgement import GAP_FRAMES, Judge
from asr.models import bundled
from asr.recognize.batch import transcribe_files
from asr.recognize.option_sources import text_conditions
from asr.recognize.options import load_options
from asr.recognize.stream import Stream
from asr.recognize.stream_batch import StreamBatch
from asr.transcript import Transcript, Word

SAMPLE = Path(__file__).parents[2] / "egs" / "sample.wav"
JUDGE = Judge({"frame": -5.26, "rivals": -3.48, "spoken": -0.04}, -7.26, 0.08, 0.001)
"""Fitted to ``stream``, which is bundled with the older threshold alone."""


def tones(seconds: float = 6.0, rate_hz: int = 16000) -> np.ndarray:
    """Chords of decaying harmonics, float32 ``(S,)``."""
    rng = np.random.default_rng(5)
    t = np.arange(rate_hz // 2) / rate_hz
    chords = []
    for _ in range(int(2 * seconds)):
        notes = 110 * 2 ** (rng.integers(0, 36, 3) / 12)
        chords.append(sum(np.sin(2 * np.pi * f * h * t) / h for f in notes for h in range(1, 6)) * np.exp(-3 * t))
    sound = np.concatenate(chords)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def noise(slope: float, seconds: float = 6.0) -> np.ndarray:
    """White noise or, with slope 1 or 2, pink or brown, float32 ``(S,)``."""
    size = int(16000 * seconds)
    spectrum = np.fft.rfft(np.random.default_rng(3).standard_normal(size))
    sound = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** (slope / 2), size)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.fixture(scope="module")
def recognizer() -> asr.Recognizer:
    return asr.load("an4", device="cpu")


@pytest.fixture
def music(tmp_path, write_wav):
    return write_wav(tmp_path / "music.wav", tones())


def model_with(tmp_path: Path, name: str = "an4", **change: object) -> Path:
    """A copy of a bundled model whose judge differs."""
    folder = tmp_path / "model"
    shutil.copytree(bundled.locate_model(name), folder)
    judge = confidence.load_judge(folder) or JUDGE
    confidence.save_calibration(folder, {}, judge=dataclasses.replace(judge, **change))
    return folder


@pytest.mark.parametrize("model", ["an4", "stream"])
def test_the_speech_of_the_model_is_reliable(model):
    heard = asr.load(model, device="cpu").transcribe(SAMPLE)
    assert heard.reliable is True
    assert heard.doubt == ""


def test_clear_commands_of_one_word_are_reliable(recognizer):
    samples = asr.audio.read.load_audio(SAMPLE, 16000)
    first = recognizer.transcribe(samples).words[0]
    cut = samples[max(0, int((first.start_s - 0.1) * 16000)) : int((first.end_s + 0.1) * 16000)]
    assert recognizer.transcribe(cut).reliable is True


def test_tones_are_not_reliable(recognizer):
    heard = recognizer.transcribe(tones())
    assert heard.reliable is False
    assert heard.reliability < heard.least_reliability


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_no_reliable_words(recognizer, slope):
    heard = recognizer.transcribe(noise(slope))
    assert not heard.words or heard.reliable is False


def test_silence_has_no_words_and_no_reliability(recognizer):
    heard = recognizer.transcribe(np.zeros(48000, np.float32))
    assert (heard.text, heard.reliable, heard.reliability, heard.doubt) == ("", None, None, "")


def test_the_decoder_changes_nothing(recognizer):
    greedy = asr.load("an4", device="cpu", beam=1).transcribe(SAMPLE)
    assert greedy.reliability == pytest.approx(recognizer.transcribe(SAMPLE).reliability)


def test_json_says_it_and_reads_back(recognizer, music):
    for source, expected in ((SAMPLE, True), (music, False)):
        body = formats.to_json(recognizer.transcribe(str(source)))
        tree = json.loads(body)
        assert (tree["format"], tree["reliable"]) == (3, expected)
        (again,) = formats.read_transcript_json(body, "")
        assert (again.reliable, again.reliability) == (expected, tree["reliability"])


def test_files_of_format_2_still_read():
    old = {"format": 2, "source": "a.wav", "duration_s": 1.0, "text": "A", "confidence": 0.5, "words": []}
    (made,) = formats.read_transcript_json(json.dumps(old), "")
    assert (made.text, made.reliable, made.reliability) == ("A", None, None)


def test_a_model_without_threshold_gives_null(tmp_path, music):
    shutil.copytree(bundled.locate_model("an4"), tmp_path / "model")
    (tmp_path / "model" / confidence.CONFIDENCE_FILE).unlink()
    heard = asr.load(tmp_path / "model", device="cpu").transcribe(music)
    assert heard.words
    assert (heard.reliable, heard.reliability, heard.doubt) == (None, None, "")


def test_a_model_with_the_older_threshold_judges_by_it(tmp_path, music):
    shutil.copytree(bundled.locate_model("an4"), tmp_path / "model")
    (tmp_path / "model" / confidence.CONFIDENCE_FILE).write_text('{"threshold": 0.65}')
    old = asr.load(tmp_path / "model", device="cpu")
    heard = [old.transcribe(source) for source in (SAMPLE, music)]
    assert [(t.reliable, t.reliability, bool(t.doubt)) for t in heard] == [(True, None, False), (False, None, True)]


def test_phrases_have_no_reliability(tmp_path):
    (tmp_path / "phrases").write_text("YES\nNO\n")
    assert asr.load("an4", device="cpu", phrases=str(tmp_path / "phrases")).transcribe(SAMPLE).reliable is None


def test_transcribe_prints_one_line_for_each_unreliable_file(music, tmp_path, capsys):
    other = shutil.copy(music, tmp_path / "other.wav")
    command = ["transcribe", str(music), str(SAMPLE), str(other), "--model", "an4", "--output-dir", str(tmp_path / "o")]
    assert main.run_command(command) == 0
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert [Path(line.split(": ")[1]).name for line in lines] == ["music.wav", "other.wav"]


def test_processes_say_the_same(music, tmp_path):
    outcomes = []
    for jobs in (1, 2):
        options = {"model": "an4", "device": "cpu"}
        outcomes.append(
            transcribe_files(
                options, [str(music), str(SAMPLE)], format="json", output_dir=tmp_path / str(jobs), jobs=jobs
            ).doubts
        )
    assert outcomes[0] == outcomes[1] != []


def model_with_a_judge_of_texts(tmp_path: Path, name: str = "an4") -> Path:
    """A copy of a bundled model with a judge that looks at nothing but how far a text is from the posteriors."""
    options = text_conditions(load_options(bundled.locate_model(name)))
    return model_with(tmp_path, name, decoded=Judge({"gap": -5.0}, 2.0, 0.3, 0.0, options))


def test_a_text_is_judged_by_its_distance_from_the_posteriors(tmp_path):
    recognizer = asr.load(model_with_a_judge_of_texts(tmp_path), device="cpu")
    samples = asr.audio.read.load_audio(SAMPLE, 16000)
    log_probs, frames = recognizer.log_probs([samples])
    best = recognizer.decoder.decode(log_probs, frames)[0]
    rows = log_probs[0, : frames[0]]
    free = np.maximum(rows[:, 0] - recognizer.decoder.options.blank_penalty, rows[:, 1:].max(axis=1)).sum()
    spoken = np.count_nonzero(rows.argmax(axis=1))
    gap = (free - best.score + best.lm_score) / (spoken + GAP_FRAMES)
    heard = recognizer.transcribe(samples)
    assert heard.reliability == pytest.approx(1 / (1 + np.exp(5.0 * gap - 2.0)), rel=1e-4)
    assert heard.least_reliability == 0.3


@pytest.mark.parametrize("change", [{"beam": 1}, {"beam": 8}, {"hotwords": {"GO": 1.0}}, {"lm": ""}])
def test_other_options_are_judged_by_the_posteriors_alone(change, tmp_path):
    changed = asr.load(model_with_a_judge_of_texts(tmp_path), device="cpu", **change).transcribe(SAMPLE)
    plain = asr.load("an4", device="cpu", beam=1).transcribe(SAMPLE)
    assert (changed.reliability, changed.least_reliability) == pytest.approx(
        (plain.reliability, plain.least_reliability)
    )


def test_a_stream_with_hot_words_of_its_own_is_judged_by_the_posteriors_alone(tmp_path):
    recognizer = asr.load(model_with_a_judge_of_texts(tmp_path, "stream"), device="cpu")
    stream = Stream(recognizer, hotwords={"GO": 1.0})
    stream.accept(asr.audio.read.load_audio(SAMPLE, 16000))
    assert stream.finish().least_reliability == JUDGE.threshold


def test_a_long_recording_is_judged_by_all_of_its_texts(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.recognize.long_audio.LONG_S", 3.0)
    recognizer = asr.load(model_with_a_judge_of_texts(tmp_path), device="cpu")
    heard = recognizer.transcribe(np.tile(asr.audio.read.load_audio(SAMPLE, 16000), 3))
    assert (heard.reliable, heard.least_reliability) == (True, 0.3)


@pytest.mark.parametrize("block_s", [0.04, 0.5])
@pytest.mark.parametrize("judge", ["posteriors", "texts"])
def test_a_stream_is_as_reliable_as_the_recording(block_s, judge, tmp_path):
    make = model_with if judge == "posteriors" else model_with_a_judge_of_texts
    recognizer = asr.load(make(tmp_path, "stream"), device="cpu")
    for samples in (asr.audio.read.load_audio(SAMPLE, 16000), tones()):
        stream = Stream(recognizer)
        size = int(block_s * 16000)
        for at in range(0, len(samples), size):
            stream.accept(samples[at : at + size])
        last, whole = stream.finish(), recognizer.transcribe(samples)
        assert last.reliability == pytest.approx(whole.reliability, rel=1e-2, abs=1e-4)
        assert last.reliable == whole.reliable


def test_each_utterance_of_a_stream_is_judged_by_itself(tmp_path):
    recognizer = asr.load(model_with(tmp_path, "stream"), device="cpu")
    pause = np.zeros(24000, np.float32)
    samples = np.concatenate([asr.audio.read.load_audio(SAMPLE, 16000), pause, tones(), pause])
    batch = StreamBatch(recognizer, endpoint=Endpoint(0.6))
    stream = batch.open()
    final = [
        t for at in range(0, len(samples), 1600) for t in batch.accept({stream: samples[at : at + 1600]})[stream].final
    ]
    assert final[0].reliable is True
    assert {t.reliable for t in final[1:]} == {False}


def test_a_long_recording_is_judged_as_a_whole(recognizer, monkeypatch):
    monkeypatch.setattr("asr.recognize.long_audio.LONG_S", 3.0)
    speech = asr.audio.read.load_audio(SAMPLE, 16000)
    assert recognizer.transcribe(np.tile(speech, 3)).reliable is True
    assert recognizer.transcribe(tones(9.0)).reliable is False


def test_words_below_the_second_threshold_are_dropped_with_a_line(tmp_path):
    dropping = asr.load(model_with(tmp_path, threshold=1.0, silence=1.0), device="cpu")
    heard = dropping.transcribe(SAMPLE)
    assert (heard.text, heard.words, heard.reliable) == ("", (), False)
    assert "no words, because the sound is not like speech that the model knows" in heard.doubt


def test_without_the_second_threshold_no_word_is_dropped(tmp_path):
    keeping = asr.load(model_with(tmp_path, threshold=1.0, silence=0.0), device="cpu")
    assert keeping.transcribe(SAMPLE).text == asr.load("an4", device="cpu").transcribe(SAMPLE).text != ""


def test_a_long_recording_whose_words_were_all_dropped_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.recognize.long_audio.LONG_S", 1.0)
    heard = asr.load(model_with(tmp_path, threshold=1.0, silence=1.0), device="cpu").transcribe(SAMPLE)
    assert (heard.text, heard.reliable) == ("", False)
    assert heard.doubt


def test_a_stream_whose_words_were_dropped_says_so(tmp_path):
    dropping = asr.load(model_with(tmp_path, "stream", threshold=1.0, silence=1.0), device="cpu")
    stream = Stream(dropping, endpoint=Endpoint(0.3))
    samples = np.concatenate([asr.audio.read.load_audio(SAMPLE, 16000), np.zeros(16000, np.float32)])
    final = stream.accept(samples).final
    assert [(t.text, t.reliable) for t in final] == [("", False)] * len(final) != []


def test_a_transcript_is_unreliable_only_where_it_says_so():
    words = (Word("A", 0, 1, 0.1), Word("B", 1, 2, 0.1), Word("C", 2, 3, 0.1))
    made = Transcript("A B C", words, 3.0, "a.wav", threshold=0.6, reliability=0.9, reliable=True)
    assert made.doubt == ""


def test_an_endless_judge_is_certain_one_way():
    assert Judge({"frame": -1e6}, 0.0, 0.5).apply(asr.decode.judgement.FrameSums(10, 50.0, 9.0, 5.0)) == 0.0
