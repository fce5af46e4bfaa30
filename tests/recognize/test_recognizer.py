"""Audio to transcripts: every kind of source, batches, bad files among good ones, words and times from tokens."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr.audio.samples import resample
from asr.config.sections import FeatureConfig, TextConfig
from asr.data.manifest import Utterance
from asr.decode import Hypothesis
from asr.errors import AudioError, ConfigError, ModelError
from asr.models import bundled
from asr.models.device import pick_device
from asr.models.inference import Fetch
from asr.recognize import recognizer as recognizer_module
from asr.recognize.engine import make_transcript
from asr.recognize.options import Decoding, DecodingOptions
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording, source_name
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer
from asr.transcript import Transcript

Bursts = Callable[..., np.ndarray]
Write = Callable[..., Path]

TOKENIZER = CharTokenizer([BLANK_SYMBOL, " ", "A", "B", "É"], TextConfig())
UNSPACED = CharTokenizer([BLANK_SYMBOL, "A", "B"], TextConfig())


def hypothesis(text: str, tokenizer: CharTokenizer = TOKENIZER, **changes: Any) -> Hypothesis:
    """A hypothesis that spells ``text`` with spaces as they stand, token ``i`` in frames ``2 i`` and ``2 i + 1``."""
    n = len(text)
    fields = {
        "tokens": tuple(tokenizer.symbols.index(c) for c in text),
        "frames": tuple(range(0, 2 * n, 2)),
        "ends": tuple(range(2, 2 * n + 2, 2)),
        "confidences": (0.5,) * n,
    }
    return Hypothesis(**{**fields, **changes})


def assert_same(got: Transcript, expected: Transcript) -> None:
    """Equal but for the rounding that differs from batch to batch."""
    assert got.text == expected.text
    assert got.duration_s == expected.duration_s
    assert [(w.text, w.start_s, w.end_s) for w in got.words] == [(w.text, w.start_s, w.end_s) for w in expected.words]
    np.testing.assert_allclose(
        [w.confidence for w in got.words], [w.confidence for w in expected.words], atol=1e-4, rtol=0
    )


# ------------------------------------------------------------------------------------------------ words from tokens


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("", []),
        (" ", []),
        ("   ", []),
        ("AB", [("AB", 0, 4)]),
        ("A B", [("A", 0, 2), ("B", 4, 6)]),
        (" A  B ", [("A", 2, 4), ("B", 8, 10)]),
        ("AÉ B", [("AÉ", 0, 4), ("B", 6, 8)]),
    ],
)
def test_words_are_what_spaces_divide(tokens: str, words: list[tuple[str, int, int]]) -> None:
    made = make_transcript(hypothesis(tokens), TOKENIZER, 0.04, 10.0, source="a.wav")
    assert [(w.text, w.start_s, w.end_s) for w in made.words] == [
        (text, first * 0.04, last * 0.04) for text, first, last in words
    ]
    assert (made.text, made.duration_s, made.source) == (" ".join(text for text, _, _ in words), 10.0, "a.wav")


def test_an_alphabet_without_space_gives_one_word() -> None:
    made = make_transcript(hypothesis("ABBA", UNSPACED), UNSPACED, 0.04, 10.0)
    assert [(w.text, w.start_s, w.end_s) for w in made.words] == [("ABBA", 0.0, 0.32)]


def test_a_word_is_as_sure_as_its_least_sure_token() -> None:
    made = make_transcript(hypothesis("AB A", confidences=(0.9, 0.2, 0.01, 0.7)), TOKENIZER, 0.04, 10.0)
    assert [w.confidence for w in made.words] == [0.2, 0.7]
    assert made.confidence == pytest.approx(0.45)


def test_times_end_with_the_recording() -> None:
    # The last output frame stands for 40 ms, of which the recording may hold 25.
    made = make_transcript(hypothesis("A B"), TOKENIZER, 0.04, 0.215)
    assert [(w.start_s, w.end_s) for w in made.words] == [(0.0, 0.08), (0.16, 0.215)]


@given(st.lists(st.tuples(st.sampled_from(" ABÉ"), st.integers(0, 3), st.integers(1, 4), st.floats(0, 1)), max_size=30))
def test_words_in_general(steps: list[tuple[str, int, int, float]]) -> None:
    frames, ends, at = [], [], 0
    for _, gap, length, _ in steps:
        frames.append(at + gap)
        at += gap + length
        ends.append(at)
    text = "".join(step[0] for step in steps)
    confidences = tuple(step[3] for step in steps)
    hyp = hypothesis(text, frames=tuple(frames), ends=tuple(ends), confidences=confidences)
    made = make_transcript(hyp, TOKENIZER, 0.04, at * 0.04)
    assert made.text == " ".join(text.split())
    assert [w.text for w in made.words] == text.split()
    bounds = [0.0] + [time for w in made.words for time in (w.start_s, w.end_s)] + [made.duration_s]
    assert bounds == sorted(bounds)
    assert all(w.start_s < w.end_s and w.confidence in confidences for w in made.words)


# ------------------------------------------------------------------------------------------------ sources


def test_the_model_spells_something(recognizer: Recognizer, bursts: Bursts) -> None:
    """Or the comparisons below would compare nothing."""
    made = recognizer.transcribe(bursts(8))
    assert len(made.words) > 3
    assert made.duration_s == 8
    assert made.source == ""
    assert all(0 <= w.start_s < w.end_s <= 8 and 0 < w.confidence <= 1 for w in made.words)


def test_every_kind_of_source_gives_the_same(
    recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "a.wav", bursts(4))
    integers, _ = soundfile.read(path, dtype="int16")
    floats = integers.astype(np.float32) / 32768
    flac = tmp_path / "a.flac"
    soundfile.write(flac, integers, 16000)
    expected = recognizer.transcribe(floats)
    assert expected.words
    sources = [path, str(path), flac, io.BytesIO(path.read_bytes()), integers, floats.astype(np.float64)]
    sources += [torch.from_numpy(floats), np.stack([floats, floats], axis=1), integers.astype(np.int32) << 16]
    for source in sources:
        assert_same(recognizer.transcribe(source), expected)
    with path.open("rb") as file:
        got = recognizer.transcribe(file)
    assert_same(got, expected)
    assert got.source == recognizer.transcribe(path).source == recognizer.transcribe(str(path)).source == str(path)


def test_other_rates_and_stereo_are_converted(
    recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path
) -> None:
    wide = bursts(4, rate_hz=44100)
    stereo = np.stack([wide, np.zeros_like(wide)], axis=1)
    path = write_wav(tmp_path / "a.wav", stereo, 44100)
    read, _ = soundfile.read(path, dtype="float32")
    expected = recognizer.transcribe(resample(read.mean(axis=1), 44100, 16000))
    assert expected.words
    assert_same(recognizer.transcribe(path), expected)
    assert_same(recognizer.transcribe(read, sample_rate_hz=44100), expected)
    # An array says nothing about its rate: without one it is taken to be the model's.
    assert recognizer.transcribe(read).duration_s == pytest.approx(4 * 44100 / 16000, abs=1e-3)


def test_a_model_of_another_rate(recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path) -> None:
    """Times and limits follow the model's rate, the audio is converted to it."""
    features = FeatureConfig(sample_rate_hz=8000, high_hz=4000)
    model = replace(recognizer.model, config=replace(recognizer.model.config, features=features))
    narrow = Recognizer(model, device="cpu")
    path = write_wav(tmp_path / "a.wav", bursts(4))
    read, _ = soundfile.read(path, dtype="float32")
    made = narrow.transcribe(path)
    assert made.words
    assert made.duration_s == 4
    assert made.words[-1].end_s <= 4
    assert_same(made, narrow.transcribe(resample(read, 16000, 8000)))
    assert narrow.log_probs([np.zeros(8000, np.float32)])[1].tolist() == [25]
    with pytest.raises(AudioError, match=r"at least 0\.025 s .*got 0\.0249 s"):
        narrow.transcribe(np.zeros(199, np.float32))


def test_a_rate_that_contradicts_the_file_is_an_error(
    recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "a.wav", bursts(1))
    with pytest.raises(AudioError, match=r"a\.wav.*16000 Hz.*8000"):
        recognizer.transcribe(path, sample_rate_hz=8000)


@pytest.mark.parametrize("samples", [400, 401, 16000, 16001])
def test_silence_is_an_empty_text(recognizer: Recognizer, samples: int) -> None:
    made = recognizer.transcribe(np.zeros(samples, np.float32))
    assert (made.text, made.words) == ("", ())


@pytest.mark.parametrize("samples", [1, 399])
def test_shorter_than_one_window_names_file_and_lengths(
    recognizer: Recognizer, write_wav: Write, tmp_path: Path, samples: int
) -> None:
    path = write_wav(tmp_path / "tiny.wav", np.zeros(samples))
    with pytest.raises(AudioError, match=rf"tiny\.wav: expected at least 0\.025 s .*got {samples / 16000:.4f} s"):
        recognizer.transcribe(path)
    # A manifest calls it by an id as well, but what has to be looked at is the file.
    ((_, result),) = recognizer.transcribe_many([Recording(path, "utterance-7")])
    assert isinstance(result, AudioError)
    assert str(path) in str(result)


def test_arrays_that_are_no_sound(recognizer: Recognizer) -> None:
    bad = np.zeros(16000, np.float32)
    bad[123] = np.nan
    for source, reason in [
        (bad, "sample 123 .*not a finite number"),
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros(399, np.float32), "at least 0.025 s"),
        (np.full(16000, 2.0e4), r"\[-1, 1\]"),
        ([0.0, 0.1], "expected a path, a binary file or an array, got float"),
        (None, "NoneType"),
    ]:
        with pytest.raises(AudioError, match=reason):
            recognizer.transcribe(source)


@pytest.mark.parametrize(
    ("source", "name"), [("a/b.wav", "a/b.wav"), (Path("a.wav"), "a.wav"), (np.zeros(1), ""), (io.BytesIO(), "")]
)
def test_sources_are_described_by_their_path(source: Any, name: str) -> None:
    assert source_name(source) == name


def test_a_segment_is_cut_out(recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", bursts(6))
    read, _ = soundfile.read(path, dtype="float32")
    ((_, result),) = recognizer.transcribe_many([Recording(path, start_s=1.5, end_s=4.25)])
    assert isinstance(result, Transcript)
    assert result.words
    assert_same(result, recognizer.transcribe(read[24000:68000]))


# ------------------------------------------------------------------------------------------------ many

LENGTHS = (0.025, 0.031, 0.2, 1.0, 1.007, 3.1, 2.0, 2.0, 5.3, 0.5, 4.99, 0.034)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_batch_gives_what_each_gives_alone(model_dir: Path, bursts: Bursts, beam: int) -> None:
    recognizer = asr.load(model_dir, device="cpu", beam=beam)
    arrays = [bursts(seconds, seed=i) for i, seconds in enumerate(LENGTHS)]
    items = [Recording(array, f"a{i}") for i, array in enumerate(arrays)]
    results = list(recognizer.transcribe_many(items))
    assert [item for item, _ in results] == items
    for array, (item, result) in zip(arrays, results, strict=True):
        assert isinstance(result, Transcript)
        assert result.source == item.name
        assert_same(result, recognizer.transcribe(array))
    assert sum(bool(result.text) for _, result in results if isinstance(result, Transcript)) > 6


@pytest.mark.parametrize(("items", "window_s", "batch_s"), [(5, 600.0, 90.0), (64, 3.0, 90.0), (64, 600.0, 2.5)])
def test_how_work_is_cut_up_changes_nothing(
    recognizer: Recognizer,
    bursts: Bursts,
    monkeypatch: pytest.MonkeyPatch,
    items: int,
    window_s: float,
    batch_s: float,
) -> None:
    work = [Recording(bursts(seconds, seed=i), f"a{i}") for i, seconds in enumerate(LENGTHS)]
    expected = list(recognizer.transcribe_many(work))
    monkeypatch.setattr(recognizer_module, "WINDOW_ITEMS", items)
    monkeypatch.setattr(recognizer_module, "WINDOW_S", window_s)
    monkeypatch.setattr(recognizer, "batch_s", batch_s)
    results = list(recognizer.transcribe_many(work))
    assert [item for item, _ in results] == work
    for (_, got), (_, wanted) in zip(results, expected, strict=True):
        assert isinstance(got, Transcript)
        assert isinstance(wanted, Transcript)
        assert_same(got, wanted)


def test_batches_hold_a_bounded_amount_of_audio(
    recognizer: Recognizer, bursts: Bursts, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    log_probs = recognizer.begin_log_probs

    def spy(waveforms: list[np.ndarray]) -> Fetch:
        shapes.append((len(waveforms), max(map(len, waveforms)) / 16000))
        return log_probs(waveforms)

    monkeypatch.setattr(recognizer, "batch_s", 6.0)
    monkeypatch.setattr(recognizer, "begin_log_probs", spy)
    list(recognizer.transcribe_many([Recording(bursts(seconds)) for seconds in (*LENGTHS, 7.0)]))
    assert all(rows * longest <= 6 or rows == 1 for rows, longest in shapes)
    assert max(rows for rows, _ in shapes) > 2


def test_bad_files_are_errors_in_their_place(
    recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognizer_module, "WINDOW_ITEMS", 4)  # several windows, one of bad files only
    good = [write_wav(tmp_path / f"good{i}.wav", bursts(1 + i / 3, seed=i)) for i in range(4)]
    whole = good[0].read_bytes()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.wav").write_bytes(b"no audio at all" * 99)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    write_wav(tmp_path / "short.wav", np.zeros(100))
    bad = [tmp_path / f"{name}.wav" for name in ("empty", "cut", "noise", "nan", "folder", "short", "missing")]
    order = [bad[0], good[0], *bad[1:5], good[1], good[2], *bad[5:], good[3]]
    results = list(recognizer.transcribe_many(Recording(path) for path in order))
    assert [item.source for item, _ in results] == order
    for path, (_, result) in zip(order, results, strict=True):
        if path in good:
            assert isinstance(result, Transcript)
            assert_same(result, recognizer.transcribe(path))
        else:
            assert isinstance(result, AudioError)
            assert str(path) in str(result)


def test_a_list_gives_a_list(recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path) -> None:
    samples = bursts(1.0)
    path = write_wav(tmp_path / "a.wav", samples)
    utterance = Utterance("one", str(path), "", 1.0)
    stored = io.BytesIO(path.read_bytes())
    sources = [str(path), path, samples, stored, utterance, Recording(path, "two")]
    found = recognizer.transcribe(sources)
    assert isinstance(found, list)
    for transcript in found:
        assert_same(transcript, recognizer.transcribe(path))
    assert [t.source for t in found] == [str(path), str(path), "", "", "one", "two"]
    assert_same(recognizer.transcribe(utterance), found[0])
    assert [t.text for t in recognizer.transcribe((path, samples))] == [found[0].text] * 2
    assert recognizer.transcribe([]) == []
    half = resample(samples, 16000, 8000)
    assert_same(recognizer.transcribe([half], sample_rate_hz=8000)[0], recognizer.transcribe(half, sample_rate_hz=8000))


def test_the_first_bad_one_of_a_list_is_an_error(recognizer: Recognizer, bursts: Bursts, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav"):
        recognizer.transcribe([bursts(0.5), tmp_path / "gone.wav", tmp_path / "lost.wav"])


def test_many_may_be_paths_arrays_and_utterances(
    recognizer: Recognizer, bursts: Bursts, write_wav: Write, tmp_path: Path
) -> None:
    samples = bursts(1.0)
    path = write_wav(tmp_path / "a.wav", samples)
    sources = [path, samples, Utterance("one", str(path), "", 1.0), tmp_path / "gone.wav"]
    found = list(recognizer.transcribe_many(sources))
    assert [item.name for item, _ in found] == [str(path), "", "one", str(tmp_path / "gone.wav")]
    for _, result in found[:3]:
        assert isinstance(result, Transcript)
        assert_same(result, recognizer.transcribe(samples))
    assert isinstance(found[3][1], AudioError)


def test_types_at_the_doors_of_a_recognizer(recognizer: Recognizer, bursts: Bursts) -> None:
    for rate in (16000.5, "16000", True):
        with pytest.raises(AudioError, match="Hz, got"):
            recognizer.transcribe(bursts(0.5), sample_rate_hz=rate)  # type: ignore[arg-type]
    for limit in (True, "60", 0):
        with pytest.raises(ConfigError, match="max_duration_s: expected"):
            asr.load(max_duration_s=limit)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"expected several recordings, got 'a\.wav'"):
        list(recognizer.transcribe_many("a.wav"))
    with pytest.raises(AudioError, match="not a finite number"):
        recognizer.log_probs([np.full(8000, np.nan, np.float32)])


def test_options_are_typed_as_they_are_declared() -> None:
    assert set(DecodingOptions.__annotations__) == {field.name for field in fields(Decoding)}


@pytest.mark.parametrize(
    ("option", "hint"),
    [("beem", "did you mean beam?"), ("hot_words", "did you mean hotwords?"), ("modle", "did you mean model?")],
)
def test_a_misspelt_option_is_named_with_the_nearest(option: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"unknown option {option}; {hint}")):
        asr.load(**{option: "x"})  # type: ignore[arg-type]


def test_nothing_to_do(recognizer: Recognizer) -> None:
    assert list(recognizer.transcribe_many([])) == []


def test_recordings_are_read_as_they_are_needed(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand hours must not be in memory before the first text comes out."""
    monkeypatch.setattr(recognizer_module, "WINDOW_ITEMS", 2)
    taken = []

    def items() -> Any:
        for i in range(100):
            taken.append(i)
            yield Recording(np.zeros(16000, np.float32))

    next(recognizer.transcribe_many(items()))
    assert len(taken) == 2


# ------------------------------------------------------------------------------------------------ loading


def test_log_probs_are_normalised(recognizer: Recognizer, bursts: Bursts) -> None:
    log_probs, frames = recognizer.log_probs([bursts(1.0), bursts(0.5)])
    assert log_probs.shape == (2, 25, 29)  # 98 windows of 25 ms each 10 ms, four to a frame
    assert frames.tolist() == [25, 12]
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=2), np.ones((2, 25)), atol=1e-5)
    assert recognizer.frame_s == pytest.approx(0.04)


@pytest.mark.parametrize("beam", [0, -1])
def test_a_beam_below_one_is_refused(model_dir: Path, beam: int) -> None:
    with pytest.raises(ConfigError, match=f"beam.*{beam}"):
        asr.load(model_dir, beam=beam)


def test_a_folder_does_not_stand_in_for_the_default_model(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled, "bundled_models", list)
    Path(bundled.default_model()).symlink_to(model_dir)
    assert bundled.locate_model(bundled.default_model()).is_dir()
    with pytest.raises(ModelError, match="neither a model directory nor a bundled model"):
        bundled.locate_model(None)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        asr.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.yaml is missing"):
        asr.load(tmp_path)


@pytest.mark.parametrize("name", ["", "gpu", "meta", "cuda:x", "cpu:x", "cuda:4096", "cuda:200"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device: "):
        pick_device(name)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"cuda asked for.*use auto or cpu"):
            pick_device("cuda")
