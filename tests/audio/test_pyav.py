"""Films and formats that libsndfile does not know, written with PyAV and read back."""

import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio import find, pyav, read
from asr.cli import main
from asr.errors import AudioError

av = pytest.importorskip("av")

FAULTS = Path(__file__).parents[1] / "faults"


def write(path, samples, rate_hz=16000, codec="aac", film=False):
    """A file with one sound track ``(S,)`` or ``(S, 2)`` and perhaps some pictures."""
    samples = np.atleast_2d(samples.T).astype(np.float32)
    with av.open(str(path), "w") as container:
        if film:
            pictures = container.add_stream("mpeg4", rate=5)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        layout = "mono" if len(samples) == 1 else "stereo"
        track = container.add_stream(codec, rate=rate_hz, layout=layout)
        if film:
            for number in range(5):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number, np.uint8), format="rgb24")
                for packet in pictures.encode(picture):
                    container.mux(packet)
            for packet in pictures.encode(None):
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), 0
        for packet in track.encode(frame):
            container.mux(packet)
        for packet in track.encode(None):
            container.mux(packet)
    return path


def chord(seconds, rate_hz=16000, hz=(300, 440)):
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    return (0.2 * sum(np.sin(2 * np.pi * f * time) for f in hz)).astype(np.float32)


def likeness(heard, meant):
    """The largest correlation over the shifts that encoders add."""
    size = len(meant) - 4096
    return max(
        np.corrcoef(heard[s : s + size], meant[:size])[0, 1] for s in range(0, 3000, 1) if s + size <= len(heard)
    )


@pytest.mark.parametrize(
    ("name", "codec", "film"),
    [("a.m4a", "aac", False), ("a.mp4", "aac", True), ("a.mkv", "pcm_s16le", True), ("a.avi", "pcm_s16le", True),
     ("a.webm", "libopus", False)],
)  # fmt: skip
def test_sound_of_films_and_foreign_formats(tmp_path, name, codec, film):
    rate = 48000 if codec == "libopus" else 16000
    meant = chord(1.0, rate)
    path = write(tmp_path / name, meant, rate, codec, film)
    info = read.probe_audio(path)
    assert (info.sample_rate_hz, info.channels) == (rate, 1)
    assert info.duration_s == pytest.approx(1.0, abs=0.15)
    heard = read.load_audio(path, rate)
    assert likeness(heard, meant) > 0.98
    np.testing.assert_array_equal(np.concatenate(list(read.stream_audio(path, rate))), heard)
    with pytest.raises(AudioError, match="expected at most max_duration_s"):
        read.load_audio(path, rate, max_duration_s=0.5)
    if codec.startswith("pcm"):
        np.testing.assert_allclose(heard, meant, atol=1e-4)
        np.testing.assert_array_equal(read.load_audio(path, rate, start_s=0.25, end_s=0.75), heard[4000:12000])


def test_one_channel_of_a_film(tmp_path):
    both = np.stack([chord(0.5, hz=(300,)), chord(0.5, hz=(500,))], axis=1)
    path = write(tmp_path / "a.mkv", both, codec="pcm_s16le")
    np.testing.assert_allclose(read.load_audio(path, channel=1), both[:, 1], atol=1e-4)
    np.testing.assert_allclose(read.load_audio(path), both.mean(axis=1), atol=1e-4)
    with pytest.raises(AudioError, match=r"a\.mkv: channel: expected 0 to 1, got 2"):
        read.load_audio(path, channel=2)


def test_a_film_without_sound_and_a_broken_one_are_named(tmp_path):
    silent = tmp_path / "silent.mp4"
    with av.open(str(silent), "w") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for packet in pictures.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")):
            container.mux(packet)
        for packet in pictures.encode(None):
            container.mux(packet)
    with pytest.raises(AudioError, match=r"silent\.mp4: expected sound, got a film without"):
        read.load_audio(silent)
    whole = write(tmp_path / "whole.m4a", chord(2.0)).read_bytes()
    for name, content in {"cut.m4a": whole[: len(whole) // 2], "head.m4a": whole[:60]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioError, match=name.replace(".", r"\.")):
            read.load_audio(tmp_path / name)


def test_films_in_a_folder_are_found_and_transcribed(tmp_path, model_dir, bursts, capsys):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.mkv", bursts(2.0, seed=1), codec="pcm_s16le")
    assert find.find_audio_files(tmp_path / "in") == [tmp_path / "in" / "a.mkv"]
    assert main.run_command(["transcribe", str(tmp_path / "in"), "--model", str(model_dir)]) == 0
    assert capsys.readouterr().out.strip()


def test_without_pyav_there_is_advice(tmp_path, monkeypatch):
    path = write(tmp_path / "a.m4a", chord(0.5))
    monkeypatch.setattr(pyav, "pyav_is_installed", lambda: False)
    with pytest.raises(AudioError, match=r"a\.m4a: holds MP4.*pip install av"):
        read.load_audio(path)
    assert find.find_audio_files(tmp_path, problems := []) == []
    assert [problem.split(": ")[0] for problem in problems] == [str(path)]
    assert "pip install av" in problems[0]


def test_without_pyav_films_in_a_folder_are_named(tmp_path, model_dir, bursts, monkeypatch, capsys):
    """By transcribe and by label: what was passed over would be missing in silence."""
    monkeypatch.setattr(pyav, "pyav_is_installed", lambda: False)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.m4a", chord(0.5))
    soundfile.write(tmp_path / "in" / "b.wav", bursts(2.0, seed=1), 16000)
    assert main.run_command(["transcribe", str(tmp_path / "in"), "--model", str(model_dir)]) == 1
    assert "a.m4a: left out: films" in capsys.readouterr().err
    manifest = str(tmp_path / "m.jsonl")
    main.run_command(["label", str(tmp_path / "in"), "--model", str(model_dir), "--output", manifest])
    assert "a.m4a: left out: films" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["newstream.ts", "nocodec.mov", "nocodec.mp4"])
def test_any_error_of_pyav_is_an_error_of_that_file(name):
    with pytest.raises(AudioError, match=rf"film_{re.escape(name)}: "):
        read.load_audio(FAULTS / f"film_{name}")


def test_a_stream_that_appears_within_a_film_is_left_out_or_an_error_of_that_file():
    # PyAV 14 to 16 leave it out, 18 raises an IndexError.
    try:
        outcome = f"{len(read.load_audio(FAULTS / 'film_newstream.flv'))} samples"
    except AudioError as error:
        outcome = str(error)
    assert re.search(r"^[1-9][0-9]* samples|film_newstream\.flv: cannot be decoded", outcome)


def test_a_damaged_film_does_not_end_the_batch(tmp_path, model_dir, bursts, write_wav, capsys):
    write_wav(tmp_path / "z.wav", bursts(1.0))
    shutil.copy(FAULTS / "film_newstream.ts", tmp_path / "a.ts")
    assert main.run_command(["transcribe", str(tmp_path), "--model", str(model_dir)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'z.wav'}: ")
    assert "a.ts: " in err


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.wav\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na=rtpmap:0 PCMU/8000\n",
    ],
    ids=["concat", "hls", "sdp"],
)
def test_lists_that_name_other_files_or_sockets_are_not_opened(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "secret.wav", chord(0.5), codec="pcm_s16le")
    (tmp_path / "list.wav").write_text(text)
    with pytest.raises(AudioError, match="Format not recognised"):
        read.load_audio("list.wav")
    with open("list.wav", "rb") as raw, pytest.raises(AudioError, match=r"Invalid (data|argument)"):
        pyav.MediaSound(raw, "list.wav", 1)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_opus_of_any_length_is_read_back_whole(rate_hz):
    if not pyav.pyav_writes_opus():
        pytest.skip("needs PyAV with libopus")
    tone = np.sin(np.arange(2.6 * rate_hz) * 0.1).astype(np.float32)
    for length in (0, 1, 149, 445, 2 * rate_hz - 1, 2 * rate_hz + 105, len(tone)):
        sound, found_hz = soundfile.read(pyav.opus_file(tone[:length], rate_hz, 32e3))
        assert found_hz == rate_hz
        assert len(sound) == max(length, 2 * rate_hz)
        assert np.abs(sound[length + rate_hz // 10 :]).max(initial=0) < 0.01, "silence follows"
