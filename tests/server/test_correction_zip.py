"""The zip of corrections: utterances cut as corrected, texts as they are spoken, a manifest that training reads."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio.read import load_audio
from asr.data.manifest import read_manifest
from asr.errors import TextError
from asr.server.correction_zip import CorrectedRecording, Correction, CorrectionZip, read_header, training_text
from asr.server.problems import RequestError

RATE_HZ = 16000


def recording(name: str, *segments: tuple[float, float, str], language: str = "en") -> CorrectedRecording:
    return CorrectedRecording(name, language, 1, tuple(Correction(*segment) for segment in segments))


def unpacked(tmp_path: Path, *added: tuple[Path, CorrectedRecording]) -> Path:
    """The folder of a zip of these recordings."""
    target = io.BytesIO()
    with CorrectionZip(target) as made:
        for path, corrected in added:
            made.add(str(path), corrected, 3600)
        made.finish()
    folder = tmp_path / "unpacked"
    zipfile.ZipFile(target).extractall(folder)
    return folder


@pytest.fixture
def noise(tmp_path, write_wav):
    """Two seconds of noise as a file."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE_HZ).astype(np.float32)
    return write_wav(tmp_path / "noise.wav", samples)


def test_each_utterance_is_the_cut_of_the_decoded_recording(tmp_path, noise):
    folder = unpacked(tmp_path, (noise, recording("a talk.wav", (0.25, 0.75, "ONE"), (1.0, 1.5, "TWO"))))
    found = read_manifest(folder / "manifest.jsonl", root=folder)
    assert [(u.id, u.text, u.duration_s) for u in found] == [("a-talk-001", "ONE", 0.5), ("a-talk-002", "TWO", 0.5)]
    for utterance, (start_s, end_s) in zip(found, [(0.25, 0.75), (1.0, 1.5)], strict=True):
        expected = load_audio(noise, start_s=start_s, end_s=end_s)
        np.testing.assert_allclose(load_audio(utterance.audio), expected, atol=2 / 32768)


def test_a_recording_with_two_channels_and_a_high_rate_becomes_mono_at_16_khz(tmp_path):
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (44100, 2))
    soundfile.write(tmp_path / "a.wav", samples, 44100)
    folder = unpacked(tmp_path, (tmp_path / "a.wav", recording("a.wav", (0.2, 0.6, "ONE"))))
    audio = read_manifest(folder / "manifest.jsonl")[0].audio
    assert (soundfile.info(audio).samplerate, soundfile.info(audio).channels) == (RATE_HZ, 1)
    expected = load_audio(tmp_path / "a.wav")[3200:9600]
    np.testing.assert_allclose(load_audio(audio), expected, atol=1e-3)


def test_two_recordings_of_one_name_keep_apart(tmp_path, noise):
    folder = unpacked(
        tmp_path, (noise, recording("x/a.wav", (0, 1, "ONE"))), (noise, recording("a.mp3", (1, 2, "TWO")))
    )
    assert [u.id for u in read_manifest(folder / "manifest.jsonl")] == ["a-001", "a-2-001"]


def test_a_name_never_leads_out_of_the_folder(tmp_path, noise):
    folder = unpacked(tmp_path, (noise, recording("../../..\\etc/pass wd\n.wav", (0, 1, "ONE"))))
    assert [path.name for path in (folder / "audio").iterdir()] == ["pass-wd-001.flac"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ENTER FOUR FIVE", "ENTER FOUR FIVE"),
        ("ST", "ST"),  # a model's own spelling is not read as an abbreviation
        ("Mr. Smith paid, too.", "mister Smith paid too"),
        ("ENTER ROOM, please", "ENTER ROOM PLEASE"),  # most of it is in capitals
        ("  it's   so ", "it's so"),
        ("", ""),
    ],
)
def test_texts_are_written_as_they_are_said(text, said):
    assert training_text(text, "en") == said


def test_digits_are_refused_since_they_may_be_said_in_several_ways():
    with pytest.raises(TextError, match="expected numbers in words"):
        training_text("ENTER 4592", "en")


def test_a_text_without_a_certain_spoken_form_is_refused():
    with pytest.raises(TextError, match="write it out"):
        training_text("See www.example.org", "en")


def test_what_cannot_be_written_out_is_left_out_and_named(tmp_path, noise):
    corrected = recording("a.wav", (0, 1, "see www.example.org"), (1, 2, "two"))
    folder = unpacked(tmp_path, (noise, corrected))
    assert [u.text for u in read_manifest(folder / "manifest.jsonl")] == ["two"]
    assert (folder / "left_out.txt").read_text().startswith("a.wav, 0.00 to 1.00 s: cannot tell how")


def test_a_segment_behind_the_end_of_the_recording_is_left_out(tmp_path, noise):
    folder = unpacked(tmp_path, (noise, recording("a.wav", (0, 1, "one"), (5, 6, "two"))))
    assert [u.text for u in read_manifest(folder / "manifest.jsonl")] == ["one"]
    assert "after the end of the recording" in (folder / "left_out.txt").read_text()


def test_a_damaged_recording_does_not_lose_the_others(tmp_path, noise):
    (tmp_path / "bad.wav").write_bytes(b"no audio at all")
    folder = unpacked(
        tmp_path,
        (tmp_path / "bad.wav", recording("mine.wav", (0, 1, "one"))),
        (noise, recording("good.wav", (0, 1, "two"))),
    )
    assert [u.text for u in read_manifest(folder / "manifest.jsonl")] == ["two"]
    told = (folder / "left_out.txt").read_text()
    assert told.startswith("mine.wav: ")
    assert str(tmp_path) not in told


def test_a_zip_without_utterances_is_an_error(tmp_path, noise):
    with CorrectionZip(io.BytesIO()) as made:
        made.add(str(noise), recording("a.wav", (5, 6, "one")), 3600)
        with pytest.raises(RequestError, match=r"got none: a\.wav, 5\.00 to 6\.00 s"):
            made.finish()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{",
        b'{"name": "a", "bytes": 1, "segments": []}',
        b'{"name": "a", "bytes": 0, "segments": [{"start_s": 0, "end_s": 1, "text": "x"}]}',
        b'{"name": "a", "bytes": 1, "segments": [{"start_s": 0, "end_s": NaN, "text": "x"}]}',
        b'{"name": "a", "bytes": 1, "segments": [{"start_s": 2, "end_s": 1, "text": "x"}]}',
        b'{"name": 3, "bytes": 1, "segments": [{"start_s": 0, "end_s": 1, "text": "x"}]}',
        b'{"name": "a", "bytes": 1, "segments": [{"start_s": 0, "end_s": 1, "text": null}]}',
        b'{"name": "a", "bytes": 1, "segments": [{"start_s": 3, "end_s": 4, "text": ""}, {"start_s": 0, "end_s": 1, '
        b'"text": ""}]}',
    ],
)
def test_a_header_that_is_none_is_refused(line):
    with pytest.raises(RequestError, match="expected"):
        read_header(line)


def test_a_recording_of_an_unknown_language_is_not_read_as_english():
    tree = {"name": "a.wav", "bytes": 1, "segments": [{"start_s": 0, "end_s": 1, "text": "Hallo Dr. Meier"}]}
    found = CorrectedRecording.read(tree)
    assert training_text(found.segments[0].text, found.language) == "Hallo Dr Meier"
