"""A recording in small steps gives what it gives in one call."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from small import make_recognizer, sound

from asr.audio.read import load_audio
from asr.decode.endpoint import Endpoint
from asr.errors import AudioError, ConfigError
from asr.recognize import long_audio
from asr.recognize.gradual import allow_breaks, transcribe_gradually
from asr.recognize.recognizer import load

SAMPLE = Path(__file__).parents[2] / "egs" / "sample.wav"


def whole(recognizer, samples, **options):
    pauses = []
    *settled, last = transcribe_gradually(recognizer, samples, lambda: pauses.append(1), **options)
    assert last.whole
    assert not any(step.whole for step in settled)
    return [step.transcript for step in settled], last.transcript, len(pauses)


def assert_same(found, expected):
    """The same but for the rounding of confidences."""
    assert [dataclasses.replace(w, confidence=0) for w in found.words] == [
        dataclasses.replace(w, confidence=0) for w in expected.words
    ]
    assert [w.confidence for w in found.words] == pytest.approx([w.confidence for w in expected.words])
    assert dataclasses.replace(found, words=()) == dataclasses.replace(expected, words=())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_short_recording_gives_the_same(tmp_path, bidirectional):
    recognizer = make_recognizer(tmp_path, bidirectional=bidirectional)
    allow_breaks(recognizer)
    samples = sound(3)
    settled, found, pauses = whole(recognizer, samples)
    assert_same(found, recognizer.transcribe(samples))
    assert settled == [found]
    assert pauses >= 1 + 2 * (2 if bidirectional else 1)


@pytest.mark.parametrize("name", ["an4", "stream", "english"])
def test_torch_and_onnxruntime_give_the_same_texts_in_steps(name):
    pytest.importorskip("onnxruntime")
    samples = np.tile(load_audio(SAMPLE, 16000), 3)
    found = []
    for runtime in ("torch", "onnxruntime"):
        recognizer = load(name, device="cpu", runtime=runtime)
        allow_breaks(recognizer)
        found.append(whole(recognizer, samples)[1])
    assert found[0].text == found[1].text != ""
    assert [w.start_s for w in found[0].words] == [w.start_s for w in found[1].words]
    assert [w.confidence for w in found[0].words] == pytest.approx([w.confidence for w in found[1].words], abs=1e-3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_long_recording_gives_the_same_utterance_by_utterance(tmp_path, monkeypatch, bidirectional):
    monkeypatch.setattr(long_audio, "LONG_S", 2.0)
    rules = Endpoint(silence_s=0.1, longest_s=2.0)
    monkeypatch.setattr(long_audio, "utterances", functools.partial(long_audio.utterances, rules=rules))
    recognizer = make_recognizer(tmp_path, bidirectional=bidirectional)
    allow_breaks(recognizer)
    samples = np.concatenate([sound(4, seed=n) * (n % 2) for n in range(6)])
    settled, found, pauses = whole(recognizer, samples)
    expected = recognizer.transcribe(samples)
    assert found.text == expected.text
    assert [w.start_s for w in found.words] == pytest.approx([w.start_s for w in expected.words])
    assert found.duration_s == expected.duration_s
    assert " ".join(t.text for t in settled) == found.text
    assert len(settled) > 1
    assert pauses > len(settled)


def test_what_between_raises_ends_the_work(tmp_path):
    recognizer = make_recognizer(tmp_path)
    allow_breaks(recognizer)

    def stop():
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        list(transcribe_gradually(recognizer, sound(1), stop))
    assert recognizer.transcribe(sound(1)).duration_s == 1


def test_other_calls_do_not_pause(tmp_path):
    recognizer = make_recognizer(tmp_path)
    allow_breaks(recognizer)
    pauses = []
    steps = transcribe_gradually(recognizer, sound(1), lambda: pauses.append(1))
    next(steps)
    before = len(pauses)
    recognizer.transcribe(sound(2))
    assert len(pauses) == before


def test_a_recording_that_is_too_short_is_refused(tmp_path):
    with pytest.raises(AudioError, match=r"at least 0.025 s"):
        list(transcribe_gradually(make_recognizer(tmp_path), np.zeros(10, np.float32), lambda: None))


def test_hot_words_without_a_beam_are_refused_and_not_dropped(tmp_path):
    with pytest.raises(ConfigError, match="hot words: expected a model with a beam above 1"):
        list(transcribe_gradually(make_recognizer(tmp_path), sound(1), lambda: None, hotwords={"one": 5.0}))
